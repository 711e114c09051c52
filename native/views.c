/* Views: geometry in C, one node each, and what happens when one is written to.
 *
 * A view holds its `base`, the tensor that was no view. Writing through a view rewrites the base's history:
 *
 *     base ──node──> view_write ──edge 0──> the base's former node      gradient with the written region zeroed
 *                               └─edge 1──> the node of what was written  gradient of that region
 *
 * and raises base->rebased; every other view notices on its next use that its own node is out of date and derives a new one from the
 * base's (tl_view_refresh). So a view never has to be found from its base, and no cycle of owners arises. */
#include "kernels.h"
#include "ops.h"
#include "tl.h"

/* ---- making views ---- */
static tl_tensor *finish(tl_tensor *x, tl_tensor *v, int op, int64_t i0, int64_t i1, int64_t i2, int64_t i3, int line)
{
    if (!v) return NULL;
    tl_tensor *base = x->base ? x->base : x;
    tl_node *node;
    bool tracked = tl_tracks(x); /* first: brings x up to date with its base */
    if (tracked && !tl_record(op, 1, &x, v, line, &node)) {
        tl_free(v);
        return NULL;
    }
    if (tracked && node) node->ints[0] = i0, node->ints[1] = i1, node->ints[2] = i2, node->ints[3] = i3;
    tl_own(base);
    v->base = base;
    v->rebased = base->rebased;
    v->flags |= TL_IS_VIEW;
    return v;
}

static bool wrap(int64_t *dim, int64_t n)
{
    if (*dim < 0) *dim += n;
    return *dim >= 0 && *dim < n;
}

tl_tensor *tl_detach(tl_tensor *x) { return tl_new_view(x, x->ndim, x->dims, x->strides, x->offset); }

tl_tensor *tl_reinterpret(tl_tensor *x, int dtype)
{
    if (x->storage->kind == TL_FOREIGN || tl_itemsize[dtype] != tl_itemsize[x->dtype]) return tl_fail(TL_DECLINE);
    return tl_new_on(x->storage, dtype, x->ndim, x->dims, x->strides, x->offset);
}

/* Strides under which x's elements read in row-major order have the new dims; false where only a copy can do that. */
static bool reshape_strides(const tl_tensor *x, int ndim, const int64_t *dims, int64_t *strides)
{
    int xi = 0;
    int64_t old_dims[TL_MAX_DIMS], old_strides[TL_MAX_DIMS];
    int n_old = 0;
    for (int i = 0; i < x->ndim; i++)
        if (x->dims[i] != 1) old_dims[n_old] = x->dims[i], old_strides[n_old++] = x->strides[i];
    for (int i = 0; i < ndim;) {
        if (dims[i] == 1) {
            strides[i++] = 1;
            continue;
        }
        if (xi >= n_old) return false;
        int first = i, old_first = xi;
        int64_t have = old_dims[xi++], want = dims[i++];
        while (have != want) {
            if (have < want) {
                if (xi >= n_old || old_strides[xi - 1] != old_strides[xi] * old_dims[xi]) return false;
                have *= old_dims[xi++];
            } else {
                while (i < ndim && dims[i] == 1) strides[i++] = 1;
                if (i >= ndim) return false;
                want *= dims[i++];
            }
        }
        while (xi - 1 > old_first && old_dims[xi - 1] == 1) xi--;
        int64_t stride = old_strides[xi - 1];
        for (int k = i - 1; k >= first; k--) {
            strides[k] = stride;
            stride *= dims[k];
        }
    }
    return true;
}

tl_tensor *tl_reshape(tl_tensor *x, int ndim, const int64_t *wanted, bool may_copy, int line)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS], known = 1;
    int unknown = -1;
    if (ndim < 0 || ndim > TL_MAX_DIMS) return tl_fail(TL_DECLINE);
    for (int i = 0; i < ndim; i++) {
        dims[i] = wanted[i];
        if (dims[i] == -1 && unknown < 0)
            unknown = i;
        else if (dims[i] < 0 || __builtin_mul_overflow(known, dims[i], &known))
            return tl_fail(TL_DECLINE);
    }
    if (unknown >= 0) {
        if (known == 0 || x->numel % known) return tl_fail(TL_DECLINE);
        dims[unknown] = x->numel / known;
        known *= dims[unknown];
    }
    if (known != x->numel) return tl_fail(TL_DECLINE);
    if (tl_contiguous(x)) return finish(x, tl_new_view(x, ndim, dims, NULL, x->offset), TL_OP_reshape, 0, 0, 0, 0, line);
    if (x->numel && reshape_strides(x, ndim, dims, strides))
        return finish(x, tl_new_view(x, ndim, dims, strides, x->offset), TL_OP_reshape, 0, 0, 0, 0, line);
    if (!may_copy || x->storage->kind == TL_FOREIGN) return tl_fail(TL_DECLINE);
    tl_tensor *copy = tl_new(x->dtype, ndim, dims);
    if (!copy) return NULL;
    tl_tensor *same = tl_new_view(copy, x->ndim, x->dims, NULL, 0);
    bool ok = same && arr_copy_into(same, x) && tl_record(TL_OP_reshape, 1, &x, copy, line, NULL);
    tl_free(same);
    if (!ok) {
        tl_free(copy);
        return NULL;
    }
    return copy;
}

static tl_tensor *permuted(const tl_tensor *x, const int64_t *perm)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++) dims[i] = x->dims[perm[i]], strides[i] = x->strides[perm[i]];
    return tl_new_view(x, x->ndim, dims, strides, x->offset);
}

/* ints: the permutation, four bits a dimension; ndim */
tl_tensor *tl_permute(tl_tensor *x, int n, const int64_t *wanted, int line)
{
    int64_t perm[TL_MAX_DIMS];
    uint64_t packed = 0;
    unsigned seen = 0;
    if (n != x->ndim) return tl_fail(TL_DECLINE);
    for (int i = 0; i < n; i++) {
        perm[i] = wanted[i];
        if (!wrap(&perm[i], n) || (seen & (1u << perm[i]))) return tl_fail(TL_DECLINE);
        seen |= 1u << perm[i];
        packed |= (uint64_t)perm[i] << (4 * i);
    }
    return finish(x, permuted(x, perm), TL_OP_permute, (int64_t)packed, n, 0, 0, line);
}

tl_tensor *tl_transpose(tl_tensor *x, int64_t d0, int64_t d1, int line)
{
    int64_t perm[TL_MAX_DIMS];
    if (!wrap(&d0, x->ndim) || !wrap(&d1, x->ndim)) return tl_fail(TL_DECLINE);
    for (int i = 0; i < x->ndim; i++) perm[i] = i;
    perm[d0] = d1, perm[d1] = d0;
    return tl_permute(x, x->ndim, perm, line);
}

tl_tensor *tl_expand(tl_tensor *x, int ndim, const int64_t *wanted, int line)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    int lead = ndim - x->ndim;
    if (lead < 0 || ndim > TL_MAX_DIMS) return tl_fail(TL_DECLINE);
    for (int i = 0; i < ndim; i++) {
        int64_t have = i < lead ? 1 : x->dims[i - lead];
        dims[i] = wanted[i] == -1 && i >= lead ? have : wanted[i];
        strides[i] = i < lead || (have == 1 && dims[i] != 1) ? 0 : x->strides[i - lead];
        if (dims[i] < 0 || (have != dims[i] && have != 1)) return tl_fail(TL_DECLINE);
    }
    return finish(x, tl_new_view(x, ndim, dims, strides, x->offset), TL_OP_expand, 0, 0, 0, 0, line);
}

static tl_tensor *selected(const tl_tensor *x, int64_t dim, int64_t index)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    for (int i = 0, k = 0; i < x->ndim; i++)
        if (i != dim) dims[k] = x->dims[i], strides[k++] = x->strides[i];
    return tl_new_view(x, x->ndim - 1, dims, strides, x->offset + index * x->strides[dim]);
}

/* ints: dim, index */
tl_tensor *tl_select(tl_tensor *x, int64_t dim, int64_t index, int line)
{
    if (!wrap(&dim, x->ndim) || !wrap(&index, x->dims[dim])) return tl_fail(TL_DECLINE);
    return finish(x, selected(x, dim, index), TL_OP_select, dim, index, 0, 0, line);
}

/* x[i, j] */
tl_tensor *tl_select_two(tl_tensor *x, int64_t i, int64_t j, int line)
{
    tl_tensor *row = tl_select(x, 0, i, line), *v = row ? tl_select(row, 0, j, line) : NULL;
    tl_free(row);
    return v;
}

static tl_tensor *sliced(const tl_tensor *x, int64_t dim, int64_t start, int64_t length, int64_t step)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    memcpy(dims, x->dims, sizeof *dims * x->ndim);
    memcpy(strides, x->strides, sizeof *strides * x->ndim);
    dims[dim] = length;
    strides[dim] *= length > 1 ? step : 1; /* a step past the end of one element may not overflow */
    return tl_new_view(x, x->ndim, dims, strides, x->offset + (length ? start * x->strides[dim] : 0));
}

static int64_t clamp_bound(int64_t i, int64_t n)
{
    if (i < 0) i = i < -n ? 0 : i + n;
    return i > n ? n : i;
}

/* ints: dim, start, length, step. Bounds as in a Python slice (INT64_MAX: to the end); step >= 1. */
tl_tensor *tl_slice(tl_tensor *x, int64_t dim, int64_t start, int64_t stop, int64_t step, int line)
{
    if (!wrap(&dim, x->ndim) || step < 1) return tl_fail(TL_DECLINE);
    int64_t n = x->dims[dim];
    start = clamp_bound(start, n), stop = clamp_bound(stop, n);
    int64_t length = stop > start ? (stop - start - 1) / step + 1 : 0;
    return finish(x, sliced(x, dim, start, length, step), TL_OP_slice, dim, start, length, step, line);
}

/* Pieces of `size` along dim, or (size 0) at most `chunks` of equal size, the last one smaller where it must be: how many; outs has room for so many.
 * 0: status says why. */
int tl_split(tl_tensor *x, int64_t dim, int64_t size, int64_t chunks, int line, uintptr_t *outs, int room)
{
    if (!wrap(&dim, x->ndim) || size < 0 || (!size && chunks < 1) || !x->dims[dim]) return tl_fail(TL_DECLINE), 0;
    int64_t n = x->dims[dim], made = 0;
    if (!size) size = (n - 1) / chunks + 1;
    if ((n - 1) / size >= room) return tl_fail(TL_DECLINE), 0;
    for (int64_t start = 0; start < n; start += size) {
        tl_tensor *piece = tl_slice(x, dim, start, n - start < size ? n : start + size, 1, line);
        if (!piece) {
            while (made) tl_free((tl_tensor *)outs[--made]);
            return 0;
        }
        outs[made++] = (uintptr_t)piece;
    }
    return (int)made;
}

static tl_tensor *diagonalised(const tl_tensor *x, int64_t offset, int64_t d1, int64_t d2)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    int64_t down = offset < 0 ? -offset : 0, right = offset > 0 ? offset : 0;
    int64_t rows = x->dims[d1] - down, columns = x->dims[d2] - right;
    int64_t length = rows < columns ? rows : columns;
    int k = 0;
    if (length < 0) length = 0;
    for (int i = 0; i < x->ndim; i++)
        if (i != d1 && i != d2) dims[k] = x->dims[i], strides[k++] = x->strides[i];
    dims[k] = length, strides[k] = x->strides[d1] + x->strides[d2];
    int64_t start = length ? down * x->strides[d1] + right * x->strides[d2] : 0;
    return tl_new_view(x, x->ndim - 1, dims, strides, x->offset + start);
}

/* ints: offset, dim1, dim2 */
tl_tensor *tl_diagonal(tl_tensor *x, int64_t offset, int64_t d1, int64_t d2, int line)
{
    if (!wrap(&d1, x->ndim) || !wrap(&d2, x->ndim) || d1 == d2) return tl_fail(TL_DECLINE);
    if (offset < -(INT64_C(1) << 60) || offset > INT64_C(1) << 60) return tl_fail(TL_DECLINE);
    return finish(x, diagonalised(x, offset, d1, d2), TL_OP_diagonal, offset, d1, d2, 0, line);
}

/* dims with `dim` (of the result) inserted as 1; recorded as a reshape, which it is */
tl_tensor *tl_unsqueeze(tl_tensor *x, int64_t dim, int line)
{
    int64_t dims[TL_MAX_DIMS + 1], strides[TL_MAX_DIMS + 1];
    int n = x->ndim + 1;
    if (n > TL_MAX_DIMS || !wrap(&dim, n)) return tl_fail(TL_DECLINE);
    for (int i = 0, k = 0; i < n; i++) {
        if (i == dim)
            dims[i] = 1, strides[i] = k < x->ndim ? x->dims[k] * x->strides[k] : 1;
        else
            dims[i] = x->dims[k], strides[i] = x->strides[k], k++;
    }
    return finish(x, tl_new_view(x, n, dims, strides, x->offset), TL_OP_reshape, 0, 0, 0, 0, line);
}

/* Drops the dimensions of size 1 among those in the mask. */
tl_tensor *tl_squeeze(tl_tensor *x, uint32_t mask, int line)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    int n = 0;
    for (int i = 0; i < x->ndim; i++)
        if (x->dims[i] != 1 || !(mask & (1u << i))) dims[n] = x->dims[i], strides[n++] = x->strides[i];
    return finish(x, tl_new_view(x, n, dims, strides, x->offset), TL_OP_reshape, 0, 0, 0, 0, line);
}

/* A free view of x's storage; offset counts from its beginning. Declined where an element would lie outside it, and where x needs a
 * gradient without being contiguous (positions would have no meaning in its gradient). */
tl_tensor *tl_as_strided(tl_tensor *x, int ndim, const int64_t *dims, const int64_t *strides, int64_t offset, int line)
{
    int64_t last = offset, numel, nbytes;
    int size = tl_itemsize[x->dtype];
    if (ndim < 0 || ndim > TL_MAX_DIMS || offset < 0 || !tl_numel_checked(ndim, dims, size, &numel, &nbytes)) return tl_fail(TL_DECLINE);
    for (int i = 0; i < ndim; i++) {
        int64_t span;
        if (strides[i] < 0 || (dims[i] && __builtin_mul_overflow(dims[i] - 1, strides[i], &span))) return tl_fail(TL_DECLINE);
        if (dims[i] && __builtin_add_overflow(last, span, &last)) return tl_fail(TL_DECLINE);
    }
    if (numel && last >= (int64_t)(x->storage->nbytes / (size_t)size)) return tl_fail(TL_DECLINE);
    if (tl_tracks(x) && tl_grad_enabled && (!tl_contiguous(x) || offset < x->offset || (numel && last >= x->offset + x->numel)))
        return tl_fail(TL_DECLINE);
    tl_tensor *v = finish(x, tl_new_view(x, ndim, dims, strides, offset), TL_OP_as_strided, x->offset, 0, 0, 0, line);
    if (v && v->node) tl_saved_set(v->node, v->node->n_saved++, v, TL_SAVED_GEOMETRY, 0);
    return v;
}

/* ---- gradients of views: g has the view's shape ---- */
static tl_tensor *zeros_of(const tl_meta *m)
{
    tl_tensor *z = tl_new(m->dtype, m->ndim, m->dims);
    if (z && !arr_fill(z, 0)) {
        tl_free(z);
        return NULL;
    }
    return z;
}

bool tl_grad_reshape(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_meta *m = n->edges[0].meta;
    if (tl_contiguous(g)) {
        gin[0] = tl_new_view(g, m->ndim, m->dims, NULL, g->offset);
    } else {
        tl_tensor *c = arr_cast(g, g->dtype);
        gin[0] = c ? tl_new_view(c, m->ndim, m->dims, NULL, c->offset) : NULL;
        tl_free(c);
    }
    return gin[0];
}

bool tl_grad_permute(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    int64_t inverse[TL_MAX_DIMS];
    uint64_t packed = (uint64_t)n->ints[0];
    for (int i = 0; i < g->ndim; i++) inverse[(packed >> (4 * i)) & 15] = i;
    return (gin[0] = permuted(g, inverse));
}

bool tl_grad_expand(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    (void)n; /* the engine sums g to the input's shape */
    return (gin[0] = tl_new_view(g, g->ndim, g->dims, g->strides, g->offset));
}

/* The part of `whole`, of the input's shape, that a selection, a slice or a diagonal shows. */
static tl_tensor *part_of(const tl_node *n, const tl_tensor *whole)
{
    const int64_t *i = n->ints;
    return n->op == TL_OP_select ? selected(whole, i[0], i[1]) : n->op == TL_OP_slice ? sliced(whole, i[0], i[1], i[2], i[3]) : diagonalised(whole, i[0], i[1], i[2]);
}

/* Zeros into whole, but for [start, stop) of dim. */
static bool fill_around(tl_tensor *whole, int64_t dim, int64_t start, int64_t stop)
{
    tl_tensor *before = sliced(whole, dim, 0, start, 1), *after = sliced(whole, dim, stop, whole->dims[dim] - stop, 1);
    bool ok = before && after && (!before->numel || arr_fill(before, 0)) && (!after->numel || arr_fill(after, 0));
    tl_free(before);
    tl_free(after);
    return ok;
}

/* Zeros of the input's shape with g where the part lies. */
bool tl_grad_part(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    enum { ROOM = 4096 }; /* elements from where two more fills cost less than writing the part twice */
    const tl_meta *m = n->edges[0].meta;
    const int64_t *i = n->ints;
    bool rows = g->numel >= ROOM && (n->op == TL_OP_select || (n->op == TL_OP_slice && i[3] == 1));
    tl_tensor *whole = rows ? tl_new(m->dtype, m->ndim, m->dims) : zeros_of(m), *part = whole ? part_of(n, whole) : NULL;
    bool ok = part && (!rows || fill_around(whole, i[0], i[1], i[1] + (n->op == TL_OP_select ? 1 : i[2]))) && arr_copy_into(part, g);
    tl_free(part);
    if (ok) gin[0] = whole;
    else tl_free(whole);
    return ok;
}

bool tl_shows_part(const tl_node *n) { return n->op == TL_OP_slice || n->op == TL_OP_select || n->op == TL_OP_diagonal; }

bool tl_add_part(const tl_node *n, tl_tensor *whole, const tl_tensor *g)
{
    tl_tensor *part = part_of(n, whole);
    bool ok = part && arr_binary_into(TL_OP_add, part, part, g);
    tl_free(part);
    return ok;
}

/* The view may visit an element more than once: add one element at a time. ints[0]: the input's offset. */
bool tl_grad_as_strided(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *view = tl_saved_geometry(n);
    if (!tl_is_float(g->dtype) || n->ints[1]) return tl_fail(TL_DECLINE);
    tl_tensor *z = zeros_of(n->edges[0].meta), *c = z ? arr_cast(g, g->dtype) : NULL;
    if (!c) {
        tl_free(z);
        return false;
    }
    int64_t index[TL_MAX_DIMS] = {0}, at = view->offset - n->ints[0];
    for (int64_t i = 0; i < c->numel; i++) {
        if (c->dtype == TL_F32)
            ((float *)tl_data(z))[at] += ((const float *)tl_data(c))[i];
        else
            ((double *)tl_data(z))[at] += ((const double *)tl_data(c))[i];
        for (int d = view->ndim - 1; d >= 0; d--) {
            at += view->strides[d];
            if (++index[d] < view->dims[d]) break;
            at -= index[d] * view->strides[d];
            index[d] = 0;
        }
    }
    tl_free(c);
    gin[0] = z;
    return true;
}

/* The part of contiguous `whole` (of the base's shape; ints[0] = the base's offset) that the written view covered. */
static tl_tensor *written_part(const tl_node *n, const tl_tensor *whole)
{
    const tl_tensor *view = tl_saved_geometry(n);
    return tl_new_view(whole, view->ndim, view->dims, view->strides, whole->offset + view->offset - n->ints[0]);
}

bool tl_grad_view_write(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_tensor *rest = arr_cast(g, g->dtype), *part = rest ? written_part(n, rest) : NULL;
    bool ok = part;
    if (ok && n->edges[1].to) ok = (gin[1] = arr_cast(part, part->dtype));
    if (ok && n->edges[0].to) {
        ok = arr_fill(part, 0);
        tl_own(rest);
        gin[0] = rest;
    }
    tl_free(part);
    tl_free(rest);
    if (!ok)
        for (int i = 0; i < 2; i++) {
            tl_free(gin[i]);
            gin[i] = NULL;
        }
    return ok;
}

/* ---- writing ---- */
static bool overlaps_itself(const tl_tensor *x)
{
    if (x->numel == 0) return false;
    for (int i = 0; i < x->ndim; i++)
        if (x->strides[i] == 0 && x->dims[i] > 1) return true;
    return false;
}

bool tl_overwritable(const tl_tensor *x) { return !x->storage->readonly && !overlaps_itself(x); }

tl_tensor *tl_writable(tl_tensor *x)
{
    const tl_tensor *root = x->base ? x->base : x;
    if (x->storage->readonly || overlaps_itself(x)) return tl_fail_with(TL_DECLINE, x->storage->readonly ? 1 : 2, 0, 0);
    if ((x->flags & TL_INFERENCE_TENSOR) && !tl_inference) return tl_fail_with(TL_INFERENCE, 1, 0, 0);
    if (!tl_grad_enabled) return x;
    if (tl_tracks(x) && !x->node) return tl_fail_with(TL_LEAF, 0, 0, 0);
    if ((root->flags & TL_REQUIRES_GRAD) && !root->node) return tl_fail_with(TL_LEAF, 1, 0, 0);
    return x;
}

void tl_written(tl_tensor *x, int line)
{
    x->storage->version++;
    x->storage->write_line = line;
    if (tl_capture_open) tl_capture_touched(x->storage, true, line);
}

static tl_node *view_node(int op, tl_tensor *x, const tl_tensor *base, int n_in, int line)
{
    tl_node *n = tl_node_new(op, n_in, 1, line);
    if (!n) return NULL;
    n->ints[0] = base->offset;
    tl_saved_set(n, 0, x, TL_SAVED_GEOMETRY, 0);
    return n;
}

/* Whether v's elements have places in its base's gradient: the base is contiguous, and v (as_strided reaches all of a storage) lies in it. */
static bool lies_in(const tl_tensor *v, const tl_tensor *base)
{
    int64_t first = v->offset - base->offset, last = first;
    for (int i = 0; i < v->ndim; i++) last += (v->dims[i] - 1) * v->strides[i];
    return tl_contiguous(base) && (!v->numel || (first >= 0 && last < base->numel));
}

/* Where the base's gradient has no place for the view's, ints[1] says so, and backward through this node is an error. */
void tl_view_refresh(tl_tensor *v)
{
    tl_tensor *base = v->base;
    v->rebased = base->rebased;
    if (!(base->flags & TL_REQUIRES_GRAD)) return;
    tl_node *n = view_node(TL_OP_as_strided, v, base, 1, base->node ? base->node->line : 0);
    if (!n) return; /* out of memory for a few hundred bytes: the next allocation reports it */
    n->ints[1] = !lies_in(v, base);
    n->edges[0] = tl_edge_to(base);
    if (tl_edge_shape(&n->edges[0], base)) tl_attach(v, 0, n);
    tl_node_free(n);
}

bool tl_rewrites_history(tl_tensor *x, tl_tensor *r)
{
    return tl_grad_enabled && (tl_tracks(r) || tl_tracks(x) || (x->base && tl_tracks(x->base)));
}

bool tl_history_fits(tl_tensor *x, tl_tensor *r)
{
    if (x->base && tl_rewrites_history(x, r) && !lies_in(x, x->base)) return tl_fail_with(TL_DECLINE, 3, 0, 0);
    return true;
}

bool tl_rewrite_history(tl_tensor *x, tl_tensor *r, int line)
{
    tl_tensor *base = x->base;
    if (!tl_rewrites_history(x, r)) return true;
    if (!base) {
        x->rebased++; /* views of x, if there are any, derive their nodes anew */
        if (r && r->node) {
            tl_attach(x, r->out_nr, r->node);
            return true;
        }
        tl_node *n = tl_node_new(tl_tracks(r) ? TL_OP_clone : TL_OP_fill, tl_tracks(r), 0, line);
        if (!n) return false;
        if (tl_tracks(r)) n->edges[0] = tl_edge_to(r);
        tl_attach(x, 0, n);
        tl_node_free(n);
        return true;
    }
    if (!tl_history_fits(x, r)) return false;
    tl_node *n = view_node(TL_OP_view_write, x, base, 2, line);
    if (!n) return false;
    n->edges[0] = tl_edge_to(base);
    n->edges[1] = tl_edge_to(r);
    if (!tl_edge_shape(&n->edges[0], base) || !tl_edge_shape(&n->edges[1], x)) {
        tl_node_free(n);
        return false;
    }
    tl_attach(base, 0, n);
    tl_node_free(n);
    base->rebased++;
    tl_view_refresh(x);
    return true;
}
