/* Resampling: sums along one dimension by a table of weights, and padding by a constant. Not recorded: Python's rules are. */
#include "api.h"
#include "kernels.h"
#include "record.h"

enum { TASK = 16384, LARGE = 32768 }; /* elements that one thread takes at least; from where the GIL is released */

/* out[.., i, ..] = sum over t from starts[i] to starts[i + 1] of weight[t] * x[.., index[t], ..], for i < m, along `dim`. weight is of x's dtype;
 * indices are in range. */
tl_tensor *tl_resample(tl_tensor *x, int dim, int64_t m, const int64_t *starts, const int64_t *index, const void *weight)
{
    int64_t dims[TL_MAX_DIMS], inner = 1;
    if (tl_elsewhere(x) || !tl_is_float(x->dtype) || dim < 0 || dim >= x->ndim) return tl_fail(TL_DECLINE);
    memcpy(dims, x->dims, sizeof *dims * x->ndim);
    dims[dim] = m;
    for (int d = dim + 1; d < x->ndim; d++) inner *= dims[d];
    tl_tensor *from = tl_contiguous(x) ? x : arr_cast(x, x->dtype), *out = from ? tl_new(x->dtype, x->ndim, dims) : NULL;
    if (out && out->numel) {
        tl_resample_task p = {tl_data(out), tl_data(from), weight, starts, index, x->dims[dim], m, inner};
        int64_t tasks = inner == 1 ? out->numel / m : out->numel / inner, each = inner == 1 ? m : inner;
        tl_range_fn body = (inner == 1 ? tl_resample_k->rows : tl_resample_k->across)[x->dtype == TL_F64];
        bool large = out->numel >= LARGE;
        tl_gil gil = tl_unlock(large);
        if (large) tl_parallel_for(body, &p, tasks, each >= TASK ? 1 : TASK / each);
        else body(&p, 0, tasks);
        tl_relock(gil);
    }
    if (from != x) tl_free(from);
    return out;
}

/* pads: before and after, for each dimension; negative ones take away, not more than there is. */
tl_tensor *tl_constant_pad(tl_tensor *x, const int64_t *pads, double value)
{
    int64_t dims[TL_MAX_DIMS], kept[TL_MAX_DIMS], from = x->offset, to = 0;
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    for (int d = 0; d < x->ndim; d++) {
        int64_t before = pads[2 * d], after = pads[2 * d + 1], less = (before < 0 ? before : 0) + (after < 0 ? after : 0);
        if (__builtin_add_overflow(x->dims[d], before, &dims[d]) || __builtin_add_overflow(dims[d], after, &dims[d]))
            return tl_fail(TL_NOMEM);
        kept[d] = x->dims[d] + less;
        if (kept[d] < 0 || dims[d] < 0) return tl_fail(TL_DECLINE);
        if (before < 0) from -= before * x->strides[d];
    }
    tl_tensor *out = tl_new(x->dtype, x->ndim, dims);
    if (!out || !out->numel) return out;
    for (int d = 0; d < x->ndim; d++)
        if (pads[2 * d] > 0) to += pads[2 * d] * out->strides[d];
    tl_tensor *source = tl_new_view(x, x->ndim, kept, x->strides, from), *inside = tl_new_view(out, x->ndim, kept, out->strides, to);
    bool ok = source && inside && arr_fill(out, value) && (!source->numel || arr_copy_into(inside, source));
    tl_free(source);
    tl_free(inside);
    if (ok) return out;
    tl_free(out);
    return NULL;
}
