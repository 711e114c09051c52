/* Convolutions: operands and geometry are checked here, the path is chosen, and run. The contract between paths is in kernels.h.
 *
 * The path follows from the sizes of one image, the weights and the dtype, never from the number of images: so image i of a batch has the same
 * bits as alone, whichever path serves it. */
#include "kernels.h"

/* The first that fits. */
static const tl_conv_path *const paths[] = {
    &tl_conv_direct,
    &tl_conv_winograd,
    &tl_conv_slide,
    &tl_conv_product,
};

static const tl_conv_path *path_for(int type, const tl_conv *p)
{
    int i = 0;
    while (!paths[i]->fits(type, p)) i++;
    return paths[i];
}

enum { MOST = 1 << TL_CONV_BITS }; /* strides, paddings and dilations are below: they are kept in a few bits of a node */

/* From dims (..., in) and (..., ker), the last nd of each, and the sizes in front. False: declined (no memory of anything was asked for). */
static bool describe(tl_conv *p, int nd, int64_t n, int64_t c, int64_t k, const int64_t *in, const int64_t *ker, const tl_conv_geometry *given)
{
    *p = (tl_conv){.n = n, .c = c, .k = k, .groups = given->groups};
    if (nd < 1 || nd > 3 || n < 0 || c < 1 || k < 1 || p->groups < 1 || c % p->groups || k % p->groups) return false;
    for (int d = 0; d < 3; d++) p->in[d] = p->out[d] = p->ker[d] = p->stride[d] = p->dil[d] = 1;
    for (int i = 0, d = 3 - nd; i < nd; i++, d++) {
        int64_t s = given->stride[i], front = given->front[i], back = given->back[i], dil = given->dil[i];
        if (s < 1 || dil < 1 || front < 0 || back < 0 || s >= MOST || dil >= MOST || front >= MOST || back >= MOST) return false;
        if (in[i] < 1 || ker[i] < 1 || ker[i] > INT64_MAX / MOST || in[i] > INT64_MAX / MOST) return false;
        int64_t room = in[i] + front + back - dil * (ker[i] - 1) - 1;
        if (room < 0) return false;
        p->in[d] = in[i], p->ker[d] = ker[i], p->stride[d] = s, p->pad[d] = front, p->dil[d] = dil, p->out[d] = room / s + 1;
    }
    return true;
}

static bool has_dims(const tl_tensor *t, int64_t d0, int64_t d1, const int64_t *rest, int nd)
{
    return t->ndim == nd + 2 && t->dims[0] == d0 && t->dims[1] == d1 && !memcmp(t->dims + 2, rest, (size_t)nd * sizeof *rest);
}

static bool alike(const tl_tensor *a, const tl_tensor *b) { return tl_is_float(a->dtype) && a->dtype == b->dtype && a->ndim == b->ndim; }

/* t itself or a contiguous copy, the caller's; NULL: no memory */
static tl_tensor *contiguous(const tl_tensor *t)
{
    if (!tl_contiguous(t)) return arr_cast(t, t->dtype);
    tl_own((tl_tensor *)t);
    return (tl_tensor *)t;
}

static tl_tensor *new_result(int dtype, int nd, int64_t d0, int64_t d1, const int64_t *rest)
{
    int64_t dims[5] = {d0, d1};
    memcpy(dims + 2, rest, (size_t)nd * sizeof *rest);
    return tl_new(dtype, nd + 2, dims);
}

/* Fills `out` by what the path makes of a and b; consumes it where that fails. */
typedef enum { FORWARD, GRAD_INPUT, GRAD_WEIGHT } what;
static tl_tensor *computed(what w, const tl_conv *p, tl_tensor *out, const tl_tensor *a, const tl_tensor *b, const tl_tensor *bias)
{
    if (!out || out->numel == 0) return out;
    int type = out->dtype == TL_F64;
    const tl_conv_path *path = path_for(type, p);
    tl_tensor *ca = contiguous(a), *cb = ca ? contiguous(b) : NULL, *cbias = cb && bias ? contiguous(bias) : NULL;
    bool ok = cb && (cbias || !bias);
    if (ok)
        switch (w) {
        case FORWARD: ok = path->forward(type, p, tl_data(ca), tl_data(cb), cbias ? tl_data(cbias) : NULL, tl_data(out)); break;
        case GRAD_INPUT: ok = path->grad_input(type, p, tl_data(ca), tl_data(cb), tl_data(out)); break;
        case GRAD_WEIGHT: ok = path->grad_weight(type, p, tl_data(ca), tl_data(cb), tl_data(out)); break;
        }
    tl_free(ca);
    tl_free(cb);
    tl_free(cbias);
    if (ok) return out;
    tl_free(out);
    return NULL;
}

tl_tensor *arr_conv(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias, const tl_conv_geometry *given)
{
    int nd = x->ndim - 2;
    tl_conv p;
    if (!alike(x, w) || nd < 1 || !describe(&p, nd, x->dims[0], x->dims[1], w->dims[0], x->dims + 2, w->dims + 2, given)) return tl_fail(TL_DECLINE);
    if (w->dims[1] != p.c / p.groups) return tl_fail(TL_DECLINE);
    if (bias && (bias->dtype != x->dtype || bias->ndim != 1 || bias->dims[0] != p.k)) return tl_fail(TL_DECLINE);
    return computed(FORWARD, &p, new_result(x->dtype, nd, p.n, p.k, p.out + 3 - nd), x, w, bias);
}

tl_tensor *arr_conv_grad_input(const tl_tensor *g, const tl_tensor *w, const int64_t *size, const tl_conv_geometry *given)
{
    int nd = g->ndim - 2;
    tl_conv p;
    if (!alike(g, w) || nd < 1 || given->groups < 1 || w->dims[1] > INT64_MAX / given->groups) return tl_fail(TL_DECLINE);
    if (!describe(&p, nd, g->dims[0], w->dims[1] * given->groups, w->dims[0], size, w->dims + 2, given)) return tl_fail(TL_DECLINE);
    if (!has_dims(g, p.n, p.k, p.out + 3 - nd, nd)) return tl_fail(TL_DECLINE);
    return computed(GRAD_INPUT, &p, new_result(g->dtype, nd, p.n, p.c, size), g, w, NULL);
}

tl_tensor *arr_conv_grad_weight(const tl_tensor *g, const tl_tensor *x, const int64_t *size, const tl_conv_geometry *given)
{
    int nd = g->ndim - 2;
    tl_conv p;
    if (!alike(g, x) || nd < 1 || !describe(&p, nd, x->dims[0], x->dims[1], g->dims[1], x->dims + 2, size, given)) return tl_fail(TL_DECLINE);
    if (!has_dims(g, p.n, p.k, p.out + 3 - nd, nd)) return tl_fail(TL_DECLINE);
    tl_tensor *out = new_result(g->dtype, nd, p.k, p.c / p.groups, size);
    if (out && p.n == 0) {
        arr_fill(out, 0);
        return out;
    }
    return computed(GRAD_WEIGHT, &p, out, g, x, NULL);
}

tl_tensor *arr_conv_grad_bias(const tl_tensor *g)
{
    if (!tl_is_float(g->dtype) || g->ndim < 2) return tl_fail(TL_DECLINE);
    return arr_reduce(TL_OP_sum, g, ((UINT32_C(1) << g->ndim) - 1) & ~UINT32_C(2), false);
}

/* ---- geometry in the integers of a node ---- */
static int64_t folded(const int64_t *v) { return v[0] | v[1] << TL_CONV_BITS | v[2] << 2 * TL_CONV_BITS; }
static void unfold(int64_t word, int64_t *v)
{
    for (int d = 0; d < 3; d++) v[d] = word >> d * TL_CONV_BITS & (MOST - 1);
}

void tl_conv_keep(tl_node *n, const tl_conv_geometry *g)
{
    n->ints[0] = folded(g->stride), n->ints[1] = folded(g->front), n->ints[2] = folded(g->back), n->ints[3] = folded(g->dil), n->ints[4] = g->groups;
}

void tl_conv_kept(const tl_node *n, tl_conv_geometry *g)
{
    unfold(n->ints[0], g->stride), unfold(n->ints[1], g->front), unfold(n->ints[2], g->back), unfold(n->ints[3], g->dil), g->groups = n->ints[4];
}
