/* Reading and writing by position, recorded: what dispatch.c is for the other operations, over the kernels of index.c and mask.c. */
#include "api.h"
#include "kernels.h"
#include "record.h"

/* out, with op's node on it where recording is due. ints[0]: dim */
static tl_tensor *recorded(int op, int n_in, tl_tensor *const *in, tl_tensor *out, int64_t dim, int line)
{
    tl_node *node;
    out = tl_recorded_with(op, n_in, in, out, line, &node);
    if (node) node->ints[0] = dim;
    return out;
}

static bool has_dim(const tl_tensor *x, int64_t dim) { return dim >= 0 && dim < x->ndim; }

tl_tensor *tl_gather(tl_tensor *x, int64_t dim, tl_tensor *index, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(index) || !has_dim(x, dim)) return tl_fail(TL_DECLINE);
    tl_tensor *in[2] = {x, index};
    return recorded(TL_OP_gather, 2, in, arr_gather(x, (int)dim, index), dim, line);
}

/* index: any shape, which takes dim's place in the result; counts from the end where negative. */
tl_tensor *tl_index_select(tl_tensor *x, int64_t dim, tl_tensor *index, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(index) || !has_dim(x, dim)) return tl_fail(TL_DECLINE);
    tl_tensor *in[2] = {x, index};
    return recorded(TL_OP_index_select, 2, in, arr_index(x, (int)dim, 1, (const tl_tensor *const[]){index}), dim, line);
}

tl_tensor *tl_scatter_add(tl_tensor *x, int64_t dim, tl_tensor *index, tl_tensor *src, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(index) || tl_elsewhere(src) || !has_dim(x, dim)) return tl_fail(TL_DECLINE);
    tl_tensor *in[3] = {x, index, src};
    return recorded(TL_OP_scatter_add, 3, in, arr_scatter_add(x, (int)dim, index, src), dim, line);
}

/* x[..., index, ...] = or += values, in place, with index as in tl_index_select. Declines where it would have to be recorded. */
bool tl_index_put(tl_tensor *x, int64_t dim, tl_tensor *index, tl_tensor *values, bool accumulate, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(index) || tl_elsewhere(values) || !has_dim(x, dim)) return tl_fail(TL_DECLINE);
    if (tl_grad_enabled && (tl_tracks(x) || tl_tracks(values) || (x->base && tl_tracks(x->base)))) return tl_fail(TL_DECLINE);
    if (!tl_writable(x) || !arr_index_put(x, (int)dim, 1, (const tl_tensor *const[]){index}, values, accumulate)) return false;
    tl_written(x, line);
    return true;
}

tl_tensor *tl_nonzero(tl_tensor *x) { return tl_elsewhere(x) ? tl_fail(TL_DECLINE) : arr_nonzero(x); }

/* ---- gradients ---- */
static tl_tensor *zeros_for(const tl_node *n, const tl_tensor *g)
{
    const tl_meta *x = n->edges[0].meta;
    tl_tensor *out = x ? tl_new(g->dtype, x->ndim, x->dims) : tl_fail(TL_DECLINE);
    if (out && !arr_fill(out, 0)) {
        tl_free(out);
        return NULL;
    }
    return out;
}

bool tl_grad_gather(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_tensor *zeros = zeros_for(n, g);
    gin[0] = zeros ? arr_scatter_add(zeros, (int)n->ints[0], tl_saved_input(n, 1), g) : NULL;
    tl_free(zeros);
    return gin[0];
}

bool tl_grad_index_select(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *index = tl_saved_input(n, 1);
    tl_tensor *out = zeros_for(n, g);
    if (out && !arr_index_put(out, (int)n->ints[0], 1, &index, g, true)) {
        tl_free(out);
        out = NULL;
    }
    return (gin[0] = out);
}

bool tl_grad_scatter_add(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    if (n->edges[2].to && !(gin[2] = arr_gather(g, (int)n->ints[0], tl_saved_input(n, 1)))) return false;
    if (n->edges[0].to) {
        tl_own((tl_tensor *)g);
        gin[0] = (tl_tensor *)g;
    }
    return true;
}
