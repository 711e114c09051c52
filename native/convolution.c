/* The recording entry points of convolution and of its two gradients, which are operations like any other, and the C gradients of the three:
 * each one's are the other two. */
#include "api.h"
#include "kernels.h"
#include "record.h"

/* False where the number of dimensions is none of a convolution's. */
static bool read_geometry(tl_conv_geometry *g, int nd, const int64_t *given)
{
    *g = (tl_conv_geometry){.groups = 0};
    if (nd < 1 || nd > 3) return false;
    for (int d = 0; d < nd; d++, given += 4) g->stride[d] = given[0], g->front[d] = given[1], g->back[d] = given[2], g->dil[d] = given[3];
    g->groups = *given;
    return true;
}

static tl_tensor *recorded(int op, int n_in, tl_tensor *const *in, tl_tensor *out, const tl_conv_geometry *g, int line)
{
    tl_node *node;
    out = tl_recorded_with(op, n_in, in, out, line, &node);
    if (node) tl_conv_keep(node, g);
    return out;
}

tl_tensor *tl_convolution(tl_tensor *x, tl_tensor *w, tl_tensor *b, const int64_t *geometry, int line)
{
    tl_conv_geometry given;
    if (tl_elsewhere(x) || tl_elsewhere(w) || tl_elsewhere(b) || tl_lowers(x) || !read_geometry(&given, x->ndim - 2, geometry)) return tl_fail(TL_DECLINE);
    return recorded(TL_OP_convolution, b ? 3 : 2, (tl_tensor *[]){x, w, b}, arr_conv(x, w, b, &given), &given, line);
}

tl_tensor *tl_conv_grad_input(tl_tensor *g, tl_tensor *w, const int64_t *size, const int64_t *geometry, int line)
{
    tl_conv_geometry given;
    if (tl_elsewhere(g) || tl_elsewhere(w) || !read_geometry(&given, g->ndim - 2, geometry)) return tl_fail(TL_DECLINE);
    return recorded(TL_OP_conv_grad_input, 2, (tl_tensor *[]){g, w}, arr_conv_grad_input(g, w, size, &given), &given, line);
}

tl_tensor *tl_conv_grad_weight(tl_tensor *g, tl_tensor *x, const int64_t *size, const int64_t *geometry, int line)
{
    tl_conv_geometry given;
    if (tl_elsewhere(g) || tl_elsewhere(x) || !read_geometry(&given, g->ndim - 2, geometry)) return tl_fail(TL_DECLINE);
    return recorded(TL_OP_conv_grad_weight, 2, (tl_tensor *[]){g, x}, arr_conv_grad_weight(g, x, size, &given), &given, line);
}

bool tl_grad_convolution(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_conv_geometry given;
    tl_conv_kept(n, &given);
    const tl_edge *e = n->edges;
    if (e[0].to && !(gin[0] = arr_conv_grad_input(g, tl_saved_input(n, 1), e[0].meta->dims + 2, &given))) return tl_undo(n, gin);
    if (e[1].to && !(gin[1] = arr_conv_grad_weight(g, tl_saved_input(n, 0), e[1].meta->dims + 2, &given))) return tl_undo(n, gin);
    if (n->n_in > 2 && e[2].to && !(gin[2] = arr_conv_grad_bias(g))) return tl_undo(n, gin);
    return true;
}

/* Of (g, w) -> gx; v: the gradient of gx. */
bool tl_grad_conv_grad_input(const tl_node *n, const tl_tensor *v, tl_tensor **gin)
{
    tl_conv_geometry given;
    tl_conv_kept(n, &given);
    const tl_edge *e = n->edges;
    if (e[0].to && !(gin[0] = arr_conv(v, tl_saved_input(n, 1), NULL, &given))) return tl_undo(n, gin);
    if (e[1].to && !(gin[1] = arr_conv_grad_weight(tl_saved_input(n, 0), v, e[1].meta->dims + 2, &given))) return tl_undo(n, gin);
    return true;
}

/* Of (g, x) -> gw; v: the gradient of gw. */
bool tl_grad_conv_grad_weight(const tl_node *n, const tl_tensor *v, tl_tensor **gin)
{
    tl_conv_geometry given;
    tl_conv_kept(n, &given);
    const tl_edge *e = n->edges;
    if (e[0].to && !(gin[0] = arr_conv(tl_saved_input(n, 1), v, NULL, &given))) return tl_undo(n, gin);
    if (e[1].to && !(gin[1] = arr_conv_grad_input(tl_saved_input(n, 0), v, e[1].meta->dims + 2, &given))) return tl_undo(n, gin);
    return true;
}
