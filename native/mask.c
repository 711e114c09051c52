/* Operations that read a mask: fill, select, nonzero. */
#include "kernels.h"

enum { CHUNK = 1 << 16 };                    /* elements of a thread's piece of work */

static tl_tensor *expanded(const tl_tensor *t, int ndim, const int64_t *dims)
{
    int64_t strides[TL_MAX_DIMS];
    for (int d = 0; d < ndim; d++) {
        int own = d - (ndim - t->ndim);
        bool repeats = own < 0 || (t->dims[own] == 1 && dims[d] != 1);
        if (!repeats && t->dims[own] != dims[d]) return tl_fail(TL_DECLINE);
        strides[d] = repeats ? 0 : t->strides[own];
    }
    return tl_new_view(t, ndim, dims, strides, t->offset);
}

/* t in the given shape and dtype, contiguous; *made is to be freed. */
static const tl_tensor *laid_out(const tl_tensor *t, int dtype, int ndim, const int64_t *dims, tl_tensor **made)
{
    *made = NULL;
    if (t->dtype == dtype && tl_contiguous(t) && t->ndim == ndim && !memcmp(t->dims, dims, (size_t)ndim * sizeof *dims)) return t;
    tl_tensor *view = t->ndim <= ndim ? expanded(t, ndim, dims) : tl_fail(TL_DECLINE);
    if (view) *made = arr_cast(view, dtype);
    tl_free(view);
    return *made;
}

/* ---- masked_fill ---- */
typedef struct {
    char *out;
    const uint8_t *mask;
    const char *value;
    int size;
} filling;

static inline __attribute__((always_inline)) void fill_where(const size_t size, const filling *f, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        if (f->mask[i]) memcpy(f->out + i * (int64_t)size, f->value, size);
}

static void run_filling(void *arg, int64_t begin, int64_t end)
{
    const filling *f = arg;
    switch (f->size) {
    case 1: fill_where(1, f, begin, end); break;
    case 2: fill_where(2, f, begin, end); break;
    case 4: fill_where(4, f, begin, end); break;
    case 8: fill_where(8, f, begin, end); break;
    default: fill_where(16, f, begin, end);
    }
}

tl_tensor *arr_masked_fill(const tl_tensor *x, const tl_tensor *mask, double value)
{
    if (mask->dtype != TL_BOOL) return tl_fail(TL_DECLINE);
    tl_tensor *made, *out = NULL, *item = NULL;
    const tl_tensor *m = laid_out(mask, TL_BOOL, x->ndim, x->dims, &made);
    if (m && (item = tl_new(x->dtype, 0, NULL)) && arr_fill(item, value) && (out = arr_cast(x, x->dtype))) {
        filling f = {tl_data(out), (const uint8_t *)tl_data(m), tl_data(item), tl_itemsize[x->dtype]};
        tl_gil gil = tl_unlock(x->numel > CHUNK);
        tl_parallel_for(run_filling, &f, x->numel, CHUNK);
        tl_relock(gil);
    }
    tl_free(made);
    tl_free(item);
    return out;
}

/* ---- what a mask keeps: counted in chunks, so that each knows where it writes ---- */
typedef struct {
    const uint8_t *mask;
    const char *x;                           /* masked_select: the elements */
    char *out;
    int size, ndim;
    const int64_t *dims;                     /* nonzero: the shape */
    int64_t n, *first;                       /* by chunk: how many it keeps, then where they begin in out */
} keeping;

static void count_kept(void *arg, int64_t begin, int64_t end)
{
    const keeping *k = arg;
    for (int64_t i = begin; i < end;) {
        int64_t stop = i / CHUNK * CHUNK + CHUNK < end ? i / CHUNK * CHUNK + CHUNK : end, chunk = i / CHUNK, count = 0;
        for (; i < stop; i++) count += k->mask[i] != 0;
        k->first[chunk] = count;
    }
}

static inline __attribute__((always_inline)) char *keep(const size_t size, const keeping *k, char *out, int64_t i, int64_t stop)
{
    for (; i < stop; i++)
        if (k->mask[i]) {
            memcpy(out, k->x + i * (int64_t)size, size);
            out += size;
        }
    return out;
}

static void run_select(void *arg, int64_t begin, int64_t end)
{
    const keeping *k = arg;
    char *out = k->out + k->first[begin / CHUNK] * k->size;
    switch (k->size) { /* chunks follow each other in out */
    case 1: keep(1, k, out, begin, end); break;
    case 2: keep(2, k, out, begin, end); break;
    case 4: keep(4, k, out, begin, end); break;
    case 8: keep(8, k, out, begin, end); break;
    default: keep(16, k, out, begin, end);
    }
}

static void run_places(void *arg, int64_t begin, int64_t end)
{
    const keeping *k = arg;
    int64_t *out = (int64_t *)k->out + k->first[begin / CHUNK] * k->ndim;
    for (int64_t i = begin; i < end; i++) {
        if (!k->mask[i]) continue;
        int64_t rest = i;
        for (int d = k->ndim - 1; d > 0; rest /= k->dims[d], d--) out[d] = rest % k->dims[d];
        if (k->ndim) out[0] = rest;
        out += k->ndim;
    }
}

/* Counts, makes the result (kept) or (kept, columns) and fills it. */
static tl_tensor *kept(keeping *k, int dtype, int64_t columns, tl_range_fn fill)
{
    int64_t chunks = k->n / CHUNK + 1, total = 0, few[8];
    size_t granted = 0;
    k->first = few;
    if (chunks > 8 && !(k->first = tl_alloc((size_t)chunks * sizeof *few, &granted))) return NULL;
    memset(k->first, 0, (size_t)chunks * sizeof *few);
    tl_gil gil = tl_unlock(k->n > CHUNK);
    tl_parallel_for(count_kept, k, k->n, CHUNK);
    tl_relock(gil);
    for (int64_t c = 0; c < chunks; c++) {
        int64_t count = k->first[c];
        k->first[c] = total;
        total += count;
    }
    tl_tensor *out = tl_new(dtype, columns < 0 ? 1 : 2, (int64_t[]){total, columns});
    if (out && total) {
        k->out = tl_data(out);
        gil = tl_unlock(k->n > CHUNK);
        tl_parallel_for(fill, k, k->n, CHUNK);
        tl_relock(gil);
    }
    if (granted) tl_release(k->first, granted);
    return out;
}

tl_tensor *arr_masked_select(const tl_tensor *x, const tl_tensor *mask)
{
    if (mask->dtype != TL_BOOL) return tl_fail(TL_DECLINE);
    int ndim = x->ndim > mask->ndim ? x->ndim : mask->ndim;
    int64_t dims[TL_MAX_DIMS];
    for (int d = 0; d < ndim; d++) {
        int dx = d - (ndim - x->ndim), dm = d - (ndim - mask->ndim);
        int64_t nx = dx >= 0 ? x->dims[dx] : 1, nm = dm >= 0 ? mask->dims[dm] : 1;
        dims[d] = nx == 1 ? nm : nx;
    }
    tl_tensor *made_mask, *made_x = NULL, *out = NULL;
    const tl_tensor *m = laid_out(mask, TL_BOOL, ndim, dims, &made_mask), *xs = m ? laid_out(x, x->dtype, ndim, dims, &made_x) : NULL;
    if (xs) {
        keeping k = {.mask = (const uint8_t *)tl_data(m), .x = tl_data(xs), .size = tl_itemsize[x->dtype], .n = xs->numel};
        out = kept(&k, x->dtype, -1, run_select);
    }
    tl_free(made_mask);
    tl_free(made_x);
    return out;
}

tl_tensor *arr_nonzero(const tl_tensor *x)
{
    tl_tensor *made;
    const tl_tensor *m = laid_out(x, TL_BOOL, x->ndim, x->dims, &made);
    if (!m) return NULL;
    keeping k = {.mask = (const uint8_t *)tl_data(m), .ndim = x->ndim, .dims = x->dims, .n = x->numel};
    tl_tensor *out = kept(&k, TL_I64, x->ndim, run_places);
    tl_free(made);
    return out;
}
