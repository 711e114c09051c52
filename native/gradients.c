/* The C gradients, by operation: the first-order fast lane beside each entry's Python rule, which tests hold equal to it. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include "record.h"

static bool grad_ew1(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (gin[0] = arr_unary_grad(n->op, tl_saved_input(n, 0), tl_saved_output(n, 0), g));
}

static bool grad_ew2(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *a = tl_saved_input(n, 0), *b = tl_saved_input(n, 1), *out = tl_saved_output(n, 0);
    for (int i = 0; i < 2; i++)
        if (n->edges[i].to && !(gin[i] = arr_binary_grad(n->op, i, a, b, out, g))) return tl_undo(n, gin);
    return true;
}

static bool grad_ew3(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *a = tl_saved_input(n, 0), *b = tl_saved_input(n, 1), *c = tl_saved_input(n, 2), *out = tl_saved_output(n, 0);
    for (int i = 0; i < 3; i++)
        if (n->edges[i].to && !(gin[i] = arr_ternary_grad(n->op, i, a, b, c, out, g))) return tl_undo(n, gin);
    return true;
}

/* g of a reduction (ints: mask, keepdim) spread over the input's shape, without a copy */
static tl_tensor *spread(const tl_node *n, const tl_tensor *g)
{
    const tl_meta *m = n->edges[0].meta;
    int64_t strides[TL_MAX_DIMS];
    uint32_t mask = (uint32_t)n->ints[0];
    for (int i = 0, k = 0; i < m->ndim; i++) {
        bool reduced = mask >> i & 1;
        strides[i] = reduced ? 0 : g->strides[k];
        k += !reduced || n->ints[1];
    }
    return tl_new_view(g, m->ndim, m->dims, strides, g->offset);
}

static bool grad_sum(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (gin[0] = spread(n, g));
}

static bool grad_mean(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_meta *m = n->edges[0].meta;
    int64_t count = 1;
    for (int i = 0; i < m->ndim; i++)
        if ((uint32_t)n->ints[0] >> i & 1) count *= m->dims[i];
    tl_tensor *scaled = count ? arr_binary_scalar(TL_OP_div, g, (double)count, false) : NULL;
    gin[0] = scaled ? spread(n, scaled) : NULL;
    tl_free(scaled);
    return gin[0];
}

static bool grad_cast(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (gin[0] = arr_cast(g, n->edges[0].meta ? n->edges[0].meta->dtype : g->dtype));
}

static bool grad_clone(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    (void)n;
    return (gin[0] = tl_new_view(g, g->ndim, g->dims, g->strides, g->offset));
}

static bool grad_fill(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    (void)n, (void)g, (void)gin; /* overwritten: nothing flows back */
    return true;
}

static bool grad_linear(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *x = tl_saved_input(n, 0), *w = tl_saved_input(n, 1);
    if (n->edges[0].to && !(gin[0] = arr_linear_grad_input(g, w))) return tl_undo(n, gin);
    if (!tl_weight_gradient(&n->edges[1], g, x, &gin[1])) return tl_undo(n, gin);
    return n->n_in < 3 || tl_weight_gradient(&n->edges[2], g, NULL, &gin[2]) || tl_undo(n, gin);
}

/* ga = g bT, gb = aT g; batch dimensions that were broadcast are summed by the engine. Vectors take Python's rule. */
static bool grad_matmul(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *a = tl_saved_input(n, 0), *b = tl_saved_input(n, 1);
    if (n->ints[0]) return tl_fail(TL_DECLINE);
    for (int i = 0; i < 2; i++) {
        if (!n->edges[i].to) continue;
        tl_tensor *t = arr_turned(i ? a : b);
        gin[i] = !t ? NULL : i ? arr_matmul(t, g) : arr_matmul(g, t);
        tl_free(t);
        if (!gin[i]) return tl_undo(n, gin);
    }
    return true;
}

static bool grad_softmax(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (gin[0] = arr_softmax_grad(tl_saved_output(n, 0), g, (int)n->ints[0]));
}

static bool grad_log_softmax(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (gin[0] = arr_log_softmax_grad(tl_saved_output(n, 0), g, (int)n->ints[0]));
}

static bool grad_attention(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_attention how = {n->real[0], n->real[1], (uint64_t)n->ints[2], (uint64_t)n->ints[3], n->ints[0], n->ints[1]};
    tl_tensor **want[3];
    for (int i = 0; i < 3; i++) want[i] = n->edges[i].to ? &gin[i] : NULL;
    return arr_attention_grad(g, tl_saved_input(n, 0), tl_saved_input(n, 1), tl_saved_input(n, 2), tl_saved_input(n, 3), tl_saved_output(n, 0),
                              tl_saved_extra(n, 0), &how, want[0], want[1], want[2]);
}

static bool grad_embedding(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    if (n->ints[1]) return tl_fail(TL_DECLINE); /* sparse, or scaled: Python's rule */
    return tl_rows_gradient(&n->edges[0], g, tl_saved_input(n, 1), n->ints[0], &gin[0]);
}

static bool grad_dropout(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (gin[0] = arr_dropout(g, n->real[0], (uint64_t)n->ints[0], (uint64_t)n->ints[1]));
}

/* Every input gets its slice of g, as a view. */
static bool grad_cat(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    int64_t dims[TL_MAX_DIMS], dim = n->ints[0], start = 0;
    memcpy(dims, g->dims, sizeof *dims * g->ndim);
    for (int i = 0; i < n->n_in; i++) {
        if (!n->edges[i].meta) return tl_undo(n, gin);
        dims[dim] = n->edges[i].meta->dims[dim];
        if (n->edges[i].to && !(gin[i] = tl_new_view(g, g->ndim, dims, g->strides, g->offset + start * g->strides[dim]))) return tl_undo(n, gin);
        start += dims[dim];
    }
    return true;
}

bool tl_grad_conv_grad_input(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_conv_grad_weight(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_convolution(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_adaptive_avg_pool(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_adaptive_max_pool(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_avg_pool(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_bag(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_max_pool(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_cumsum(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_sort(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_scaled_product(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_channel_norm(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_fixed_norm(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_linear_act(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_layer_norm(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_rms_norm(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_crf(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_ctc(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_cross_entropy(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_nll(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_pair(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_grid_sample(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_gather(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_index_select(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_scatter_add(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_reshape(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_permute(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_expand(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_part(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_as_strided(const tl_node *, const tl_tensor *, tl_tensor **);
bool tl_grad_view_write(const tl_node *, const tl_tensor *, tl_tensor **);

bool tl_grads_recurrent(const tl_node *, tl_tensor *const *, tl_tensor **);
bool tl_grads_tree_lstm(const tl_node *, tl_tensor *const *, tl_tensor **);

const tl_grad_fn tl_gradients[TL_N_OPS] = {
#define EW1(name, ...) [TL_OP_##name] = grad_ew1,
#define EW2(name, ...) [TL_OP_##name] = grad_ew2,
#define EW3(name, ...) [TL_OP_##name] = grad_ew3,
#include "elementwise.def"
    [TL_OP_adaptive_avg_pool] = tl_grad_adaptive_avg_pool,
    [TL_OP_adaptive_max_pool] = tl_grad_adaptive_max_pool,
    [TL_OP_as_strided] = tl_grad_as_strided,
    [TL_OP_avg_pool] = tl_grad_avg_pool,
    [TL_OP_bag] = tl_grad_bag,
    [TL_OP_binary_cross_entropy] = tl_grad_pair,
    [TL_OP_binary_cross_entropy_with_logits] = tl_grad_pair,
    [TL_OP_cast] = grad_cast,
    [TL_OP_cat] = grad_cat,
    [TL_OP_channel_norm] = tl_grad_channel_norm,
    [TL_OP_clone] = grad_clone,
    [TL_OP_conv_grad_input] = tl_grad_conv_grad_input,
    [TL_OP_conv_grad_weight] = tl_grad_conv_grad_weight,
    [TL_OP_convolution] = tl_grad_convolution,
    [TL_OP_crf_total] = tl_grad_crf,
    [TL_OP_ctc_loss] = tl_grad_ctc,
    [TL_OP_cumsum] = tl_grad_cumsum,
    [TL_OP_cross_entropy] = tl_grad_cross_entropy,
    [TL_OP_cross_entropy_soft] = tl_grad_cross_entropy,
    [TL_OP_diagonal] = tl_grad_part,
    [TL_OP_dropout] = grad_dropout,
    [TL_OP_embedding] = grad_embedding,
    [TL_OP_expand] = tl_grad_expand,
    [TL_OP_fill] = grad_fill,
    [TL_OP_fixed_norm] = tl_grad_fixed_norm,
    [TL_OP_gather] = tl_grad_gather,
    [TL_OP_grid_sample] = tl_grad_grid_sample,
    [TL_OP_huber_loss] = tl_grad_pair,
    [TL_OP_index_select] = tl_grad_index_select,
    [TL_OP_layer_norm] = tl_grad_layer_norm,
    [TL_OP_kl_div] = tl_grad_pair,
    [TL_OP_l1_loss] = tl_grad_pair,
    [TL_OP_linear] = grad_linear,
    [TL_OP_linear_act] = tl_grad_linear_act,
    [TL_OP_log_softmax] = grad_log_softmax,
    [TL_OP_matmul] = grad_matmul,
    [TL_OP_max_pool] = tl_grad_max_pool,
    [TL_OP_mean] = grad_mean,
    [TL_OP_mse_loss] = tl_grad_pair,
    [TL_OP_nll_loss] = tl_grad_nll,
    [TL_OP_permute] = tl_grad_permute,
    [TL_OP_reshape] = tl_grad_reshape,
    [TL_OP_rms_norm] = tl_grad_rms_norm,
    [TL_OP_scaled_dot_product_attention] = grad_attention,
    [TL_OP_scaled_product] = tl_grad_scaled_product,
    [TL_OP_scatter_add] = tl_grad_scatter_add,
    [TL_OP_select] = tl_grad_part,
    [TL_OP_slice] = tl_grad_part,
    [TL_OP_smooth_l1_loss] = tl_grad_pair,
    [TL_OP_softmax] = grad_softmax,
    [TL_OP_sort] = tl_grad_sort,
    [TL_OP_sum] = grad_sum,
    [TL_OP_topk] = tl_grad_sort,
    [TL_OP_view_write] = tl_grad_view_write,
};

const tl_grads_fn tl_gradients_of_many[TL_N_OPS] = {
    [TL_OP_lstm] = tl_grads_recurrent,
    [TL_OP_recurrent] = tl_grads_recurrent,
    [TL_OP_tree_lstm] = tl_grads_tree_lstm,
};
