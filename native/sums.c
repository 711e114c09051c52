/* Sums of many arrays in an order that the caller fixes, each element in one pass over memory: how gradients of several ranks, or of several
 * parts of a batch, come together with the same bits everywhere. */
#include "api.h"
#include "kernels.h"
#include "tl.h"

enum {
    SPACE = 65536,              /* bytes of a thread's block of all arrays */
    LEAST = 64, MOST = 1024,    /* elements of a block: with its sources and targets it stays in the closest cache */
    GRAIN = 65536, UNLOCK = 8192
};

typedef struct {
    int n_parts, n_outs, n_pairs, dtype, sums; /* sums: the dtype that is added in */
    tl_tensor *const *parts, *const *outs;
    const int32_t *pairs;
    double scale;
    int64_t block;              /* elements */
} joint;

/* Half precision is added in float32, in the block, and rounded once; other parts are read where they lie when they are first needed. */
static const char *first_of(const joint *a, int part, int64_t at, int64_t n, char *block)
{
    const char *data = tl_data(a->parts[part]) + at * tl_itemsize[a->dtype];
    if (a->sums == a->dtype) return data;
    tl_copy_k->cast[a->dtype][a->sums](block, data, n);
    return block;
}

static void store(const joint *a, char *to, const char *from, int64_t n)
{
    if (a->sums != a->dtype)
        tl_copy_k->cast[a->sums][a->dtype](to, from, n);
    else if (to != from)
        memcpy(to, from, (size_t)n * tl_itemsize[a->dtype]);
}

static void join_range(void *arg, int64_t begin, int64_t end)
{
    const joint *a = arg;
    char space[SPACE] __attribute__((aligned(TL_ALIGN)));
    const char *sum[SPACE / LEAST]; /* of each part: where it stands now */
    int64_t stride = a->block * tl_itemsize[a->sums];
    for (int64_t at = begin, n; at < end; at += n) {
        n = end - at < a->block ? end - at : a->block;
        for (int i = 0; i < a->n_parts; i++) sum[i] = first_of(a, i, at, n, space + i * stride);
        for (int k = 0; k < a->n_pairs; k++) {
            int to = a->pairs[2 * k], from = a->pairs[2 * k + 1];
            arr_add_runs(a->sums, space + to * stride, sum[to], sum[from], n);
            sum[to] = space + to * stride;
        }
        if (a->scale != 1) {
            if (sum[0] != space) memcpy(space, sum[0], (size_t)(n * tl_itemsize[a->sums]));
            tl_optim_k->scale[a->sums == TL_F64](space, a->scale, n);
            sum[0] = space;
        }
        for (int i = 0; i < a->n_outs; i++) store(a, tl_data(a->outs[i]) + at * tl_itemsize[a->dtype], sum[0], n);
    }
}

static bool is_half(int dtype) { return dtype == TL_F16 || dtype == TL_BF16; }

static bool serves(const joint *a)
{
    int64_t numel = a->outs[0]->numel;
    for (int i = 0; i < a->n_parts + a->n_outs; i++) {
        const tl_tensor *t = i < a->n_parts ? a->parts[i] : a->outs[i - a->n_parts];
        bool ok = t && t->storage->kind != TL_FOREIGN && tl_contiguous(t) && t->dtype == a->dtype && t->numel == numel;
        if (!ok || (i >= a->n_parts && t->storage->readonly)) return false;
    }
    for (int i = 0; i < 2 * a->n_pairs; i++)
        if (a->pairs[i] < 0 || a->pairs[i] >= a->n_parts) return false;
    return (a->scale == 1 || tl_is_float(a->sums)) && arr_has_kernel(TL_OP_add, a->sums);
}

bool tl_sum_pairs(int n_parts, tl_tensor *const *parts, int n_pairs, const int32_t *pairs, int n_outs, tl_tensor *const *outs, double scale, int line)
{
    joint a = {.n_parts = n_parts, .n_outs = n_outs, .n_pairs = n_pairs, .parts = parts, .outs = outs, .pairs = pairs, .scale = scale};
    if (n_parts < 1 || n_outs < 1 || !parts[0] || !outs[0]) return tl_fail(TL_DECLINE);
    a.dtype = parts[0]->dtype;
    a.sums = is_half(a.dtype) ? TL_F32 : a.dtype;
    a.block = SPACE / n_parts / tl_itemsize[a.sums] / LEAST * LEAST;
    if (a.block > MOST) a.block = MOST;
    if (!a.block || !serves(&a)) return tl_fail(TL_DECLINE);
    tl_gil gil = tl_unlock(outs[0]->numel >= UNLOCK);
    tl_parallel_for(join_range, &a, outs[0]->numel, GRAIN);
    tl_relock(gil);
    for (int i = 0; i < n_outs; i++) tl_written(outs[i], line);
    return true;
}
