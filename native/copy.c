/* Copies: same or other dtype, any strides, broadcasting; and what is a copy at heart: cast, fill, cat, arange.
 *
 * A copy is planned over the result's dimensions, sorted by the result's strides (so that writing runs forward) and merged where both
 * sides allow. It then runs in blocks of two dimensions: the innermost one and its neighbour, or, where the operand runs along another
 * dimension (a transposed copy), that one. The blocks are the threads' work. Inside a block, rows go element by element, by memcpy,
 * past the caches (large results), through a conversion, or through a small transposed buffer. */
#include "kernels.h"
#include "tl.h"

enum {
    CONVERT = 512,              /* elements converted at a time where that takes several steps */
    TILE = 64,                  /* sides of a transposed block */
    BLOCK = 32768,              /* elements of a block otherwise, at most */
    UNLOCK = 16384,             /* elements from which the GIL is released */
    SHORT = 8,                  /* rows below this many elements are copied column by column */
    STREAM_ROW = 4096           /* bytes: shorter rows are never written past the caches */
};
#define STREAM ((int64_t)8 << 20)   /* bytes of a result that is not worth caching */

/* ---- conversions of contiguous elements ---- */

static bool is_half(int dt) { return dt == TL_F16 || dt == TL_BF16; }
static bool is_complex(int dt) { return dt == TL_C64 || dt == TL_C128; }
/* The real type a conversion passes through. */
static int hub_of(int dt) { return is_half(dt) || dt == TL_C64 ? TL_F32 : dt == TL_C128 ? TL_F64 : dt; }

/* out[i * out_step] = x[i * x_step], elements of `size` bytes; inlined with a constant size. */
static inline void copy_elements(char *out, int64_t out_step, const char *x, int64_t x_step, int64_t n, size_t size)
{
    for (int64_t i = 0; i < n; i++) memcpy(out + i * out_step, x + i * x_step, size);
}

static void copy_strided(char *out, int64_t out_step, const char *x, int64_t x_step, int64_t n, size_t size)
{
    switch (size) {
    case 1: copy_elements(out, out_step, x, x_step, n, 1); break;
    case 2: copy_elements(out, out_step, x, x_step, n, 2); break;
    case 4: copy_elements(out, out_step, x, x_step, n, 4); break;
    case 8: copy_elements(out, out_step, x, x_step, n, 8); break;
    default: copy_elements(out, out_step, x, x_step, n, 16);
    }
}

static void complex_to_bool(uint8_t *out, int dt, const void *x, int64_t n)
{
    uint8_t parts[2 * CONVERT];
    tl_copy_k->cast[hub_of(dt)][TL_BOOL](parts, x, 2 * n);
    for (int64_t i = 0; i < n; i++) out[i] = parts[2 * i] | parts[2 * i + 1];
}

static void to_hub(void *out, int dt, const void *x, int64_t n)
{
    if (is_half(dt)) tl_copy_k->cast[dt][TL_F32](out, x, n);
    else copy_strided(out, tl_itemsize[dt] / 2, x, tl_itemsize[dt], n, tl_itemsize[dt] / 2);
}

static void from_hub(void *out, int dt, const void *x, int64_t n)
{
    if (is_half(dt)) {
        tl_copy_k->cast[TL_F32][dt](out, x, n);
        return;
    }
    memset(out, 0, (size_t)n * tl_itemsize[dt]);
    copy_strided(out, tl_itemsize[dt], x, tl_itemsize[dt] / 2, n, tl_itemsize[dt] / 2);
}

/* n <= CONVERT. x's dtype -> its hub -> out's hub -> out's dtype, as many of these steps as it takes; complex to real drops the imaginary part. */
static void convert_in_steps(int out_dt, void *out, int x_dt, const void *x, int64_t n)
{
    _Alignas(TL_ALIGN) double widened[CONVERT], changed[CONVERT];
    int from = hub_of(x_dt), to = hub_of(out_dt);
    if (from != x_dt) {
        void *q = from == out_dt ? out : widened;
        to_hub(q, x_dt, x, n);
        x = q;
    }
    if (from != to) {
        void *q = to == out_dt ? out : changed;
        bool twice = from == TL_F64 && is_half(out_dt);
        (twice ? tl_copy_k->f64_to_f32_odd : tl_copy_k->cast[from][to])(q, x, n);
        x = q;
    }
    if (to != out_dt) from_hub(out, out_dt, x, n);
}

static void convert(int out_dt, void *out, int x_dt, const void *x, int64_t n)
{
    if (x_dt == TL_BOOL) x_dt = TL_U8;
    if (is_complex(x_dt) && is_complex(out_dt)) x_dt = hub_of(x_dt), out_dt = hub_of(out_dt), n *= 2;
    if (tl_copy_k->cast[x_dt][out_dt]) {
        tl_copy_k->cast[x_dt][out_dt](out, x, n);
        return;
    }
    for (int64_t i = 0; i < n; i += CONVERT) {
        int64_t m = n - i < CONVERT ? n - i : CONVERT;
        char *o = (char *)out + i * tl_itemsize[out_dt];
        const char *p = (const char *)x + i * tl_itemsize[x_dt];
        if (is_complex(x_dt) && out_dt == TL_BOOL) complex_to_bool((uint8_t *)o, x_dt, p, m);
        else convert_in_steps(out_dt, o, x_dt, p, m);
    }
}

/* ---- the plan ---- */

typedef struct {
    char *out;
    const char *x;
    int out_dt, x_dt, ndim;
    int64_t dims[TL_MAX_DIMS], os[TL_MAX_DIMS], xs[TL_MAX_DIMS];    /* strides in bytes; the innermost dimension is the last */
    int across;                             /* the block's other dimension; -1: none */
    int64_t height, width;                  /* of a block: along `across`, along the last dimension */
    int64_t n_across, n_along;              /* blocks per dimension */
    bool transposed, streaming;
} copy_plan;

static int64_t size_of(int64_t stride) { return stride < 0 ? -stride : stride; }

/* Insertion sort of a dimension that was just appended, then merging with its outer neighbour where it continues it. */
static void add_dim(copy_plan *p, int64_t dim, int64_t os, int64_t xs)
{
    if (dim == 1) return;
    int i = p->ndim++;
    for (; i > 0 && (size_of(p->os[i - 1]) < size_of(os) || (p->os[i - 1] == os && size_of(p->xs[i - 1]) < size_of(xs))); i--)
        p->dims[i] = p->dims[i - 1], p->os[i] = p->os[i - 1], p->xs[i] = p->xs[i - 1];
    p->dims[i] = dim, p->os[i] = os, p->xs[i] = xs;
}

static void merge_dims(copy_plan *p)
{
    int last = 0;
    for (int i = 1; i < p->ndim; i++) {
        int64_t n = p->dims[i];
        if (p->os[last] == p->os[i] * n && p->xs[last] == p->xs[i] * n) n *= p->dims[last];
        else last++;
        p->dims[last] = n, p->os[last] = p->os[i], p->xs[last] = p->xs[i];
    }
    p->ndim = last + 1;
}

/* The dimension along which x runs with the smallest step, if that is not the last one and both are long enough for tiles. */
static int transposed_dim(const copy_plan *p)
{
    int last = p->ndim - 1, best = last;
    for (int i = 0; i < last; i++)
        if (p->xs[i] && size_of(p->xs[i]) < size_of(p->xs[best])) best = i;
    return best != last && p->dims[best] >= 4 && p->dims[last] >= 4 ? best : -1;
}

static int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

static void choose_blocks(copy_plan *p, int64_t numel)
{
    int last = p->ndim - 1, k = transposed_dim(p);
    int64_t n = p->dims[last];
    p->transposed = k >= 0;
    p->across = p->transposed ? k : last - 1;
    p->width = p->transposed ? TILE : n < BLOCK ? n : BLOCK;
    p->height = p->transposed ? TILE : p->width < BLOCK ? BLOCK / p->width : 1;
    p->n_along = blocks(n, p->width);
    p->n_across = p->across < 0 ? 1 : blocks(p->dims[p->across], p->height);
    int64_t size = tl_itemsize[p->out_dt];
    p->streaming = p->out_dt == p->x_dt && !p->transposed && numel * size >= STREAM && n * size >= STREAM_ROW && p->os[last] == size && p->xs[last] == size;
}

/* ---- rows: n elements from x to out ---- */

/* Copies nbytes past the caches. */
static void stream(char *out, const char *x, int64_t nbytes)
{
    int64_t head = (int64_t)(-(uintptr_t)out % TL_ALIGN);
    if (head > nbytes) head = nbytes;
    int64_t body = (nbytes - head) & -(int64_t)TL_ALIGN;
    memcpy(out, x, (size_t)head);
    if (body) tl_copy_k->stream(out + head, x + head, body);
    memcpy(out + head + body, x + head + body, (size_t)(nbytes - head - body));
}

/* out[0..n) = *x, for elements that divide 16 bytes. */
static void fill_row(char *out, const char *x, int64_t n, size_t size)
{
    if (size == 1) {
        memset(out, *x, (size_t)n);
        return;
    }
    uint64_t pattern[2];
    int64_t nbytes = n * (int64_t)size, i = 0;
    for (size_t j = 0; j < 16; j += size) memcpy((char *)pattern + j, x, size < 16 - j ? size : 16 - j);
    for (; i + 16 <= nbytes; i += 16) memcpy(out + i, pattern, 16);
    memcpy(out + i, pattern, (size_t)(nbytes - i));
}

static void copy_row(const copy_plan *p, char *out, const char *x, int64_t n)
{
    size_t size = tl_itemsize[p->out_dt];
    int64_t os = p->os[p->ndim - 1], xs = p->xs[p->ndim - 1];
    if (os == (int64_t)size && xs == 0) fill_row(out, x, n, size);
    else if (os != (int64_t)size || xs != (int64_t)size) copy_strided(out, os, x, xs, n, size);
    else if (p->streaming) stream(out, x, n * (int64_t)size);
    else memcpy(out, x, (size_t)n * size);
}

/* With x's elements xs apart (in a tile they lie side by side, whatever the plan says). */
static void convert_row(const copy_plan *p, char *out, const char *x, int64_t xs, int64_t n)
{
    _Alignas(TL_ALIGN) char in[16 * CONVERT], result[16 * CONVERT];
    int64_t out_size = tl_itemsize[p->out_dt], x_size = tl_itemsize[p->x_dt], os = p->os[p->ndim - 1];
    if (os == out_size && xs == x_size) {
        convert(p->out_dt, out, p->x_dt, x, n);
        return;
    }
    for (int64_t i = 0; i < n; i += CONVERT) {
        int64_t m = n - i < CONVERT ? n - i : CONVERT;
        const char *from = x + i * xs;
        char *to = os == out_size ? out + i * os : result;
        if (xs != x_size) {
            copy_strided(in, x_size, from, xs, m, (size_t)x_size);
            from = in;
        }
        convert(p->out_dt, to, p->x_dt, from, m);
        if (to == result) copy_strided(out + i * os, os, result, out_size, m, (size_t)out_size);
    }
}

/* ---- blocks ---- */

/* At most TILE x TILE: x is read along `across`, where it is dense, into a buffer whose rows run along out. */
static void copy_tile(const copy_plan *p, char *out, const char *x, int64_t height, int64_t width)
{
    enum { PITCH = TILE + 1, AHEAD = 6 };   /* an odd pitch: a column of the buffer must not fall into one set of the cache */
    _Alignas(TL_ALIGN) char buffer[16 * TILE * PITCH];
    int64_t size = tl_itemsize[p->x_dt], os = p->os[p->ndim - 1], xs = p->xs[p->ndim - 1];
    for (int64_t i = 0; i < width; i++) {
        if (i + AHEAD < width && p->xs[p->across] == size)      /* the loop itself is too slow to keep enough loads in flight */
            for (int64_t line = 0; line < height * size; line += 64) __builtin_prefetch(x + (i + AHEAD) * xs + line);
        copy_strided(buffer + i * size, PITCH * size, x + i * xs, p->xs[p->across], height, (size_t)size);
    }
    for (int64_t j = 0; j < height; j++) {
        char *o = out + j * p->os[p->across];
        const char *row = buffer + j * PITCH * size;
        if (p->out_dt != p->x_dt) convert_row(p, o, row, size, width);
        else if (os == size) memcpy(o, row, (size_t)(width * size));
        else copy_strided(o, os, row, size, width, (size_t)size);
    }
}

static void copy_block(const copy_plan *p, char *out, const char *x, int64_t height, int64_t width)
{
    if (p->transposed) {
        copy_tile(p, out, x, height, width);
        return;
    }
    if (width < SHORT && width < height && p->out_dt == p->x_dt) {
        int last = p->ndim - 1;
        for (int64_t i = 0; i < width; i++, out += p->os[last], x += p->xs[last])
            copy_strided(out, p->os[p->across], x, p->xs[p->across], height, tl_itemsize[p->out_dt]);
        return;
    }
    for (int64_t j = 0; j < height; j++) {
        if (p->out_dt == p->x_dt) copy_row(p, out, x, width);
        else convert_row(p, out, x, p->xs[p->ndim - 1], width);
        if (p->across >= 0) out += p->os[p->across], x += p->xs[p->across];
    }
}

/* Blocks [begin, end), numbered with the last dimension fastest, then `across`, then the others from the inside out. */
static void copy_blocks(void *arg, int64_t begin, int64_t end)
{
    const copy_plan *p = arg;
    int last = p->ndim - 1;
    for (int64_t b = begin; b < end; b++) {
        int64_t i = b % p->n_along * p->width, rest = b / p->n_along, j = rest % p->n_across * p->height;
        rest /= p->n_across;
        char *out = p->out + i * p->os[last];
        const char *x = p->x + i * p->xs[last];
        int64_t height = 1, width = p->dims[last] - i < p->width ? p->dims[last] - i : p->width;
        if (p->across >= 0) {
            height = p->dims[p->across] - j < p->height ? p->dims[p->across] - j : p->height;
            out += j * p->os[p->across], x += j * p->xs[p->across];
        }
        for (int d = last - 1; d >= 0 && rest; d--) {
            if (d == p->across) continue;
            out += rest % p->dims[d] * p->os[d], x += rest % p->dims[d] * p->xs[d];
            rest /= p->dims[d];
        }
        copy_block(p, out, x, height, width);
    }
}

/* x_strides and out_strides in elements, over `dims`. No overlap. */
static void run_copy(int out_dt, char *out, const int64_t *out_strides, int x_dt, const char *x, const int64_t *x_strides, int ndim, const int64_t *dims)
{
    copy_plan p = {.out = out, .x = x, .out_dt = out_dt, .x_dt = x_dt};
    int64_t numel = 1;
    for (int d = 0; d < ndim; d++) {
        add_dim(&p, dims[d], out_strides[d] * tl_itemsize[out_dt], x_strides[d] * tl_itemsize[x_dt]);
        numel *= dims[d];
    }
    if (numel == 0) return;
    if (p.ndim == 0) p.ndim = 1, p.dims[0] = 1, p.os[0] = tl_itemsize[out_dt], p.xs[0] = tl_itemsize[x_dt];
    merge_dims(&p);
    choose_blocks(&p, numel);
    int64_t n_blocks = p.n_along * p.n_across, block = p.height * p.width;
    for (int d = 0; d < p.ndim - 1; d++)
        if (d != p.across) n_blocks *= p.dims[d];
    tl_gil gil = tl_unlock(numel >= UNLOCK);
    tl_parallel_for(copy_blocks, &p, n_blocks, block < BLOCK ? BLOCK / block : 1);
    tl_relock(gil);
}

/* ---- the interface ---- */

/* The bytes t reaches, as [low, high). t has elements. */
static void byte_range(const tl_tensor *t, uintptr_t *low, uintptr_t *high)
{
    int64_t size = tl_itemsize[t->dtype];
    *low = (uintptr_t)tl_data(t);
    *high = *low + (uintptr_t)size;
    for (int d = 0; d < t->ndim; d++) {
        int64_t reach = (t->dims[d] - 1) * t->strides[d] * size;
        if (reach < 0) *low -= (uintptr_t)-reach;
        else *high += (uintptr_t)reach;
    }
}

static bool overlap(const tl_tensor *a, const tl_tensor *b)
{
    uintptr_t a0, a1, b0, b1;
    byte_range(a, &a0, &a1);
    byte_range(b, &b0, &b1);
    return a0 < b1 && b0 < a1;
}

/* x's strides as seen from out's dimensions. False where x does not broadcast to out. */
static bool broadcast_strides(const tl_tensor *out, const tl_tensor *x, int64_t *strides)
{
    int extra = out->ndim - x->ndim;
    if (extra < 0) return false;
    for (int d = 0; d < out->ndim; d++) {
        int64_t dim = d < extra ? 1 : x->dims[d - extra];
        if (dim != 1 && dim != out->dims[d]) return false;
        strides[d] = dim == 1 ? 0 : x->strides[d - extra];
    }
    return true;
}

static bool copy_through(tl_tensor *out, const tl_tensor *x, int dtype)
{
    tl_tensor *between = arr_cast(x, dtype);
    bool copied = between && arr_copy_into(out, between);
    tl_free(between);
    return copied;
}

bool arr_copy_into(tl_tensor *out, const tl_tensor *x)
{
    int64_t strides[TL_MAX_DIMS];
    bool alike = tl_contiguous(out) && tl_contiguous(x) && tl_same_shape(out, x);
    if (alike && out->dtype == x->dtype && out->numel <= CONVERT) {
        memmove(tl_data(out), tl_data(x), (size_t)out->numel * tl_itemsize[out->dtype]);
        return true;
    }
    if (!broadcast_strides(out, x, strides)) {
        tl_fail(TL_DECLINE);
        return false;
    }
    if (out->numel == 0) return true;
    if (overlap(out, x)) {
        bool same = tl_data(out) == tl_data(x) && out->dtype == x->dtype && memcmp(strides, out->strides, out->ndim * sizeof *strides) == 0;
        return same || copy_through(out, x, x->dtype);
    }
    if (alike && out->numel <= CONVERT) {
        convert(out->dtype, tl_data(out), x->dtype, tl_data(x), out->numel);
        return true;
    }
    if (out->dtype != x->dtype && x->numel <= out->numel / 2) return copy_through(out, x, out->dtype);
    run_copy(out->dtype, tl_data(out), out->strides, x->dtype, tl_data(x), strides, out->ndim, out->dims);
    return true;
}

tl_tensor *arr_cast(const tl_tensor *x, int dtype)
{
    tl_tensor *out = tl_new(dtype, x->ndim, x->dims);
    if (!out || arr_copy_into(out, x)) return out;
    tl_free(out);
    return NULL;
}

static bool fill_from(tl_tensor *out, int dtype, const void *value)
{
    static const int64_t none[TL_MAX_DIMS];
    _Alignas(16) char converted[16];
    if (out->dtype == dtype) memcpy(converted, value, tl_itemsize[dtype]);
    else convert(out->dtype, converted, dtype, value, 1);
    if (tl_contiguous(out) && out->numel <= CONVERT) fill_row(tl_data(out), converted, out->numel, tl_itemsize[out->dtype]);
    else run_copy(out->dtype, tl_data(out), out->strides, out->dtype, converted, none, out->ndim, out->dims);
    return true;
}

bool arr_fill(tl_tensor *out, double value) { return fill_from(out, TL_F64, &value); }
bool arr_fill_i64(tl_tensor *out, int64_t value) { return fill_from(out, TL_I64, &value); }

tl_tensor *arr_cat(const tl_tensor *const *xs, int n, int dim)
{
    int64_t dims[TL_MAX_DIMS], total = 0;
    const tl_tensor *first = xs[0];
    if (dim < 0 || dim >= first->ndim) return tl_fail(TL_DECLINE);
    for (int i = 0; i < n; i++) {
        if (xs[i]->ndim != first->ndim || xs[i]->dtype != first->dtype) return tl_fail(TL_DECLINE);
        for (int d = 0; d < first->ndim; d++)
            if (d != dim && xs[i]->dims[d] != first->dims[d]) return tl_fail(TL_DECLINE);
        if (__builtin_add_overflow(total, xs[i]->dims[dim], &total)) return tl_fail(TL_NOMEM);
    }
    memcpy(dims, first->dims, first->ndim * sizeof *dims);
    dims[dim] = total;
    tl_tensor *out = tl_new(first->dtype, first->ndim, dims);
    if (!out) return NULL;
    char *at = tl_data(out);
    for (int i = 0; i < n; i++) {
        run_copy(out->dtype, at, out->strides, out->dtype, tl_data(xs[i]), xs[i]->strides, out->ndim, xs[i]->dims);
        at += xs[i]->dims[dim] * out->strides[dim] * tl_itemsize[out->dtype];
    }
    return out;
}

/* ---- ranges: made in blocks of doubles or int64, then converted ---- */

typedef struct {
    char *out;
    int dtype;
    bool integer;
    int64_t n, first, step;                 /* integer: first + i * step, wrapping */
    int64_t turn;                           /* else: from `turn` on  end - (n - 1 - i) * by,  before it  start + i * by */
    double start, end, by;
} range;

static void make_range(void *arg, int64_t begin, int64_t end)
{
    const range *r = arg;
    union { double f[CONVERT]; int64_t i[CONVERT]; } block;
    for (int64_t at = begin; at < end; at += CONVERT) {
        int64_t m = end - at < CONVERT ? end - at : CONVERT;
        for (int64_t j = 0; j < m; j++) {
            int64_t i = at + j;
            if (r->integer) block.i[j] = (int64_t)((uint64_t)r->first + (uint64_t)i * (uint64_t)r->step);
            else block.f[j] = i < r->turn ? r->start + (double)i * r->by : r->end - (double)(r->n - 1 - i) * r->by;
        }
        convert(r->dtype, r->out + at * tl_itemsize[r->dtype], r->integer ? TL_I64 : TL_F64, &block, m);
    }
}

static tl_tensor *fresh_range(range r, int dtype)
{
    tl_tensor *out = tl_new(dtype, 1, &r.n);
    if (!out) return NULL;
    r.out = tl_data(out);
    r.dtype = dtype;
    tl_gil gil = tl_unlock(r.n >= UNLOCK);
    tl_parallel_for(make_range, &r, r.n, UNLOCK);
    tl_relock(gil);
    return out;
}

tl_tensor *arr_arange(int dtype, int64_t n, double start, double step)
{
    return fresh_range((range){.n = n, .turn = n, .start = start, .by = step}, dtype);
}

tl_tensor *arr_arange_i64(int dtype, int64_t n, int64_t start, int64_t step)
{
    return fresh_range((range){.integer = true, .n = n, .first = start, .step = step}, dtype);
}

tl_tensor *arr_linspace(int dtype, int64_t n, double start, double end)
{
    double by = n > 1 ? (end - start) / (double)(n - 1) : 0;
    return fresh_range((range){.n = n, .turn = n == 1 ? 1 : n / 2, .start = start, .end = end, .by = by}, dtype);
}
