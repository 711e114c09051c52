/* Random numbers, by counter: element i of a draw is a function of (key, counter, i) alone, so it does not depend on threads or devices.
 *
 * Philox 4x32-10 turns the key's two 32-bit halves and a block number into four 32-bit words; its 128-bit counter is the block number
 * (low word, high word, 0, 0). Word w of a draw is lane w % 4 of block counter + w / 4, so a draw of m words uses (m + 3) / 4 blocks.
 *
 *   words, uniform float32, normal float32, bernoulli, dropout    element i reads word i
 *   uniform float64, normal float64, randint                      element i reads words 2i (low half) and 2i + 1 (high half)
 *
 * What becomes of a word: random.inc.c, and word for word in NumPy's terms, tensorlib/ops/philox.py. */
#include "kernels.h"
#include "tl.h"
#include <math.h>

enum { WORDS = 512, GRAIN = 8192 };         /* words made at a time; elements of a thread's chunk, a multiple of WORDS */

typedef struct {
    int kind, dtype;
    uint64_t key, counter;
    double a, b, top;
    char *out;
    const char *x;                          /* dropout: its operand */
} draw;

static void randint(int64_t *out, const uint32_t *w, int64_t n, int64_t low, uint64_t span)
{
    for (int64_t i = 0; i < n; i++) {
        uint64_t word = (uint64_t)w[2 * i + 1] << 32 | w[2 * i];
        uint64_t step = span ? (uint64_t)((unsigned __int128)word * span >> 64) : word; /* span 0: all of int64 */
        out[i] = (int64_t)((uint64_t)low + step);
    }
}

static void bernoulli(uint8_t *out, const uint32_t *w, int64_t n, float p)
{
    for (int64_t i = 0; i < n; i++) out[i] = (float)(w[i] >> 8) * 0x1p-24f < p;
}

/* n elements from their words; both `out` and `w` have room for WORDS words' worth. */
static void make_elements(const draw *d, char *out, const char *x, const uint32_t *w, int64_t n)
{
    bool wide = d->dtype == TL_F64;
    switch (d->kind) {
    case TL_RANDOM_WORDS: memcpy(out, w, (size_t)n * 4); break;
    case TL_RANDOM_UNIFORM: tl_random_k->uniform[wide](out, w, n, d->a, d->b - d->a, d->top); break;
    case TL_RANDOM_NORMAL: tl_random_k->normal[wide](out, w, n + n % 2, d->a, d->b); break;
    case TL_RANDOM_BERNOULLI: bernoulli((uint8_t *)out, w, n, (float)d->a); break;
    default: tl_random_k->dropout[wide](out, x, w, n, (float)d->a, d->b);
    }
}

static void run_draw(void *arg, int64_t begin, int64_t end)
{
    const draw *d = arg;
    _Alignas(TL_ALIGN) uint32_t w[WORDS];
    _Alignas(TL_ALIGN) char last[WORDS * 4];
    int size = tl_itemsize[d->dtype], per = d->kind != TL_RANDOM_DROPOUT && d->dtype == TL_F64 ? 2 : 1;
    for (int64_t i = begin; i < end; i += WORDS / per) {
        int64_t n = end - i < WORDS / per ? end - i : WORDS / per;
        char *out = d->out + i * size;
        bool odd = d->kind == TL_RANDOM_NORMAL && n % 2;    /* made in pairs: one more than there is room for */
        tl_random_k->words(w, d->key, d->counter + (uint64_t)(i * per / 4), (n * per + 3) / 4);
        make_elements(d, odd ? last : out, d->x ? d->x + i * size : NULL, w, n);
        if (odd) memcpy(out, last, (size_t)(n * size));
    }
}

typedef struct { int64_t *out; uint64_t key, counter; int64_t low; uint64_t span; } randint_draw;
static void run_randint(void *arg, int64_t begin, int64_t end)
{
    const randint_draw *d = arg;
    uint32_t w[WORDS];
    for (int64_t i = begin; i < end; i += WORDS / 2) {
        int64_t n = end - i < WORDS / 2 ? end - i : WORDS / 2;
        tl_random_k->words(w, d->key, d->counter + (uint64_t)(i / 2), (n + 1) / 2);
        randint(d->out + i, w, n, d->low, d->span);
    }
}

static void run_threaded(tl_range_fn body, void *arg, int64_t n)
{
    tl_gil gil = tl_unlock(n >= GRAIN);
    tl_parallel_for(body, arg, n, GRAIN);
    tl_relock(gil);
}

/* The largest value below `high` of the dtype, where there is one at or above `low`: rounding must not reach `high`. */
static double below(int dtype, double low, double high)
{
    double top = dtype == TL_F32 ? (double)nextafterf((float)high, -INFINITY) : nextafter(high, -INFINITY);
    return top < low ? high : top;
}

tl_tensor *arr_random(int kind, uint64_t key, uint64_t counter, int dtype, int ndim, const int64_t *dims, double a, double b)
{
    int made = kind == TL_RANDOM_WORDS ? TL_I32 : kind == TL_RANDOM_BERNOULLI ? TL_BOOL : dtype;
    if (kind < 0 || kind >= TL_RANDOM_DROPOUT) return tl_fail(TL_DECLINE);
    if (made != dtype || ((kind == TL_RANDOM_UNIFORM || kind == TL_RANDOM_NORMAL) && !tl_is_float(dtype))) return tl_fail(TL_DECLINE);
    tl_tensor *out = tl_new(dtype, ndim, dims);
    if (!out) return NULL;
    draw d = {.kind = kind, .dtype = dtype, .key = key, .counter = counter, .a = a, .b = b, .out = tl_data(out)};
    if (kind == TL_RANDOM_UNIFORM) d.top = below(dtype, a, b);
    run_threaded(run_draw, &d, out->numel);
    return out;
}

tl_tensor *arr_randint(uint64_t key, uint64_t counter, int ndim, const int64_t *dims, int64_t low, int64_t high)
{
    tl_tensor *out = tl_new(TL_I64, ndim, dims);
    if (!out) return NULL;
    randint_draw d = {.out = (int64_t *)tl_data(out), .key = key, .counter = counter, .low = low, .span = (uint64_t)high - (uint64_t)low};
    run_threaded(run_randint, &d, out->numel);
    return out;
}

static tl_tensor *dropout_contiguous(const tl_tensor *x, double p, uint64_t key, uint64_t counter)
{
    tl_tensor *out = tl_new(x->dtype, x->ndim, x->dims);
    if (!out) return NULL;
    draw d = {.kind = TL_RANDOM_DROPOUT, .dtype = x->dtype, .key = key, .counter = counter, .a = p, .b = p < 1 ? 1 / (1 - p) : 0, .out = tl_data(out), .x = tl_data(x)};
    run_threaded(run_draw, &d, out->numel);
    return out;
}

tl_tensor *arr_dropout(const tl_tensor *x, double p, uint64_t key, uint64_t counter)
{
    if (!tl_is_float(x->dtype)) return tl_fail(TL_DECLINE);
    if (tl_contiguous(x)) return dropout_contiguous(x, p, key, counter);
    tl_tensor *dense = arr_cast(x, x->dtype);
    if (!dense) return NULL;
    tl_tensor *out = dropout_contiguous(dense, p, key, counter);
    tl_free(dense);
    return out;
}
