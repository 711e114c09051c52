/* Resampling: sums along one dimension by a table of weights, and padding. Not recorded: Python's rules are. */
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

/* ---- padding with elements of the tensor itself ---- */

/* Along one dimension: n elements from `at` on in the padded tensor are those from `from` on in the other. */
typedef struct { int64_t at, from, n; } pad_run;
typedef struct {
    tl_tensor *wide, *narrow;
    const pad_run *runs[TL_MAX_DIMS];
    int64_t count[TL_MAX_DIMS], longest[TL_MAX_DIMS];
} pad_job;
enum { PAD_COPY, PAD_FIRST, PAD_ADD }; /* to the padded tensor; from it; from it, added */

/* The elements that one run of each dimension covers. */
static bool move_runs(const pad_job *j, const int64_t *chosen, int how)
{
    int64_t dims[TL_MAX_DIMS], at = j->wide->offset, from = j->narrow->offset;
    for (int d = 0; d < j->wide->ndim; d++) {
        const pad_run *run = &j->runs[d][chosen[d]];
        dims[d] = run->n, at += run->at * j->wide->strides[d], from += run->from * j->narrow->strides[d];
    }
    tl_tensor *a = tl_new_view(j->wide, j->wide->ndim, dims, j->wide->strides, at), *b = tl_new_view(j->narrow, j->wide->ndim, dims, j->narrow->strides, from);
    bool ok = a && b && (how == PAD_COPY ? arr_copy_into(a, b) : how == PAD_FIRST ? arr_copy_into(b, a) : arr_binary_into(TL_OP_add, b, b, a));
    tl_free(a);
    tl_free(b);
    return ok;
}
static bool move_all_runs(const pad_job *j, bool back)
{
    int64_t chosen[TL_MAX_DIMS] = {0}, most = 1;
    bool covers = back; /* the longest runs hold every element of the narrow tensor: they come first */
    int ndim = j->wide->ndim;
    for (int d = 0; d < ndim; d++) {
        most *= j->count[d];
        covers = covers && j->count[d] && j->runs[d][j->longest[d]].n == j->narrow->dims[d];
    }
    if (back && !(covers ? move_runs(j, j->longest, PAD_FIRST) : arr_fill(j->narrow, 0))) return false;
    for (int64_t k = 0; k < most; k++) {
        bool done = covers && memcmp(chosen, j->longest, (size_t)ndim * sizeof *chosen) == 0;
        if (!done && !move_runs(j, chosen, back ? PAD_ADD : PAD_COPY)) return false;
        for (int d = ndim - 1; d >= 0 && ++chosen[d] == j->count[d]; d--) chosen[d] = 0;
    }
    return true;
}

/* x padded to `dims`, or (back) the sums over what padding made of each element. runs: for each dimension their number, then at, from, n of each. */
tl_tensor *tl_border_pad(tl_tensor *x, const int64_t *dims, const int64_t *runs, bool back)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    tl_tensor *out = tl_new(x->dtype, x->ndim, dims);
    if (!out || !out->numel) return out;
    pad_job j = {.wide = back ? x : out, .narrow = back ? out : x};
    for (int d = 0; d < x->ndim; d++) {
        j.count[d] = *runs++, j.runs[d] = (const pad_run *)runs, runs += 3 * j.count[d];
        for (int64_t k = 1; k < j.count[d]; k++)
            if (j.runs[d][k].n > j.runs[d][j.longest[d]].n) j.longest[d] = k;
    }
    if (move_all_runs(&j, back)) return out;
    tl_free(out);
    return NULL;
}
