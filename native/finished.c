/* Products that are finished in one pass (tl_mm_finish in kernels.h): recording entry points and C gradients. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include "record.h"

/* What the gradient of act reads: its result, else its input. */
static bool reads_result(int act) { return act == TL_OP_relu || act == TL_OP_tanh || act == TL_OP_sigmoid; }
static bool is_activation(int op) { return reads_result(op) || op == TL_OP_gelu || op == TL_OP_gelu_tanh || op == TL_OP_silu; }

/* ints[0]: the activation; extra: what its gradient reads */
tl_tensor *tl_linear_act(int act, tl_tensor *x, tl_tensor *w, tl_tensor *b, int line)
{
    if (!is_activation(act) || tl_elsewhere(x) || tl_elsewhere(w) || tl_elsewhere(b) || tl_lowers(x)) return tl_fail(TL_DECLINE);
    bool records = tl_grad_enabled && (tl_tracks(x) || tl_tracks(w) || tl_tracks(b));
    tl_tensor *in[3] = {x, w, b}, *sums = NULL;
    tl_node *node;
    tl_tensor *out = arr_linear_act(x, w, b, act, records && !reads_result(act), &sums);
    out = tl_recorded_with(TL_OP_linear_act, b ? 3 : 2, in, out, line, &node);
    if (node) {
        node->ints[0] = act;
        tl_keep_extra(node, 0, sums ? sums : out);
    }
    tl_free(sums);
    return out;
}

bool tl_grad_linear_act(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *x = tl_saved_input(n, 0), *w = tl_saved_input(n, 1), *kept = tl_saved_extra(n, 0);
    tl_tensor *inner = arr_unary_grad((int)n->ints[0], kept, kept, g);
    bool ok = inner;
    if (ok && n->edges[0].to) ok = (gin[0] = arr_linear_grad_input(inner, w));
    ok = ok && tl_weight_gradient(&n->edges[1], inner, x, &gin[1]) && (n->n_in < 3 || tl_weight_gradient(&n->edges[2], inner, NULL, &gin[2]));
    tl_free(inner);
    return ok || tl_undo(n, gin);
}

/* over_batch: of the sum of a batch's products. real: beta, alpha; ints[0]: over_batch */
tl_tensor *tl_scaled_product(tl_tensor *x, tl_tensor *a, tl_tensor *b, double beta, double alpha, bool over_batch, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(a) || tl_elsewhere(b) || tl_lowers(a)) return tl_fail(TL_DECLINE);
    tl_tensor *in[3] = {x, a, b};
    tl_node *node;
    tl_tensor *out = over_batch ? arr_scaled_sum(x, a, b, beta, alpha) : arr_scaled_product(x, a, b, beta, alpha);
    out = tl_recorded_with(TL_OP_scaled_product, 3, in, out, line, &node);
    if (node) node->real[0] = beta, node->real[1] = alpha, node->ints[0] = over_batch;
    return out;
}

static tl_tensor *scaled(const tl_tensor *g, double factor)
{
    return factor == 1 ? tl_new_view(g, g->ndim, g->dims, g->strides, g->offset) : arr_binary_scalar(TL_OP_mul, g, factor, false);
}

/* Of a sum over a batch, g stands beside each of its products. Vectors take Python's rule. */
bool tl_grad_scaled_product(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *a = tl_saved_input(n, 1), *b = tl_saved_input(n, 2);
    if (g->ndim < 2) return tl_fail(TL_DECLINE);
    double alpha = n->real[1];
    bool ok = !n->edges[0].to || (gin[0] = scaled(g, n->real[0]));
    for (int i = 1; ok && i < 3; i++) {
        if (!n->edges[i].to) continue;
        tl_tensor *turned = arr_turned(i == 1 ? b : a);
        if (turned) gin[i] = i == 1 ? arr_scaled_product(NULL, g, turned, 0, alpha) : arr_scaled_product(NULL, turned, g, 0, alpha);
        ok = gin[i];
        tl_free(turned);
    }
    return ok || tl_undo(n, gin);
}
