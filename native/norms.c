/* Normalisation, recorded: entry points and gradients, over the kernels of norm.c and rows.c. */
#include "api.h"
#include "kernels.h"
#include "record.h"

static bool any_elsewhere(int n, tl_tensor *const *t)
{
    for (int i = 0; i < n; i++)
        if (tl_elsewhere(t[i])) return true;
    return false;
}

/* ---- over the last dimensions ---- */

/* How many elements the last `dims` dimensions have; 0: not served. */
static int64_t columns_of(const tl_tensor *x, int dims)
{
    int64_t cols = dims >= 1 && dims <= x->ndim;
    for (int i = x->ndim - 1; cols && i >= x->ndim - dims; i--) cols *= x->dims[i];
    return cols;
}

/* w and b of those dimensions, or NULL. ints[0]: dims, real[0]: eps, extra: mean, rstd */
tl_tensor *tl_layer_norm(tl_tensor *x, int dims, tl_tensor *w, tl_tensor *b, double eps, int line)
{
    tl_tensor *in[3] = {x, w, b}, *mean = NULL, *rstd = NULL;
    int64_t cols = columns_of(x, dims);
    if (!cols || any_elsewhere(3, in)) return tl_fail(TL_DECLINE);
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_layer_norm, 3, in, arr_layer_norm(x, x->numel / cols, cols, w, b, eps, &mean, &rstd), line, &node);
    if (node) node->ints[0] = dims, node->real[0] = eps;
    tl_keep_extra(node, 0, mean);
    tl_keep_extra(node, 1, rstd);
    tl_free(mean);
    tl_free(rstd);
    return out;
}

bool tl_grad_layer_norm(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_tensor **want[3];
    for (int i = 0; i < 3; i++) want[i] = n->edges[i].to ? &gin[i] : NULL;
    const tl_tensor *x = tl_saved_input(n, 0), *mean = tl_saved_extra(n, 0), *rstd = tl_saved_extra(n, 1);
    if (!x) return tl_fail(TL_DECLINE); /* only the bias is asked for: its rule is g */
    return arr_layer_norm_grad(g, x, mean, rstd, tl_saved_input(n, 1), want[0], want[1], want[2]);
}

/* ints[0]: dims, real[0]: eps, extra: rstd */
tl_tensor *tl_rms_norm(tl_tensor *x, int dims, tl_tensor *w, double eps, int line)
{
    tl_tensor *in[2] = {x, w}, *rstd = NULL;
    int64_t cols = columns_of(x, dims);
    if (!cols || any_elsewhere(2, in)) return tl_fail(TL_DECLINE);
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_rms_norm, 2, in, arr_layer_norm(x, x->numel / cols, cols, w, NULL, eps, NULL, &rstd), line, &node);
    if (node) node->ints[0] = dims, node->real[0] = eps;
    tl_keep_extra(node, 0, rstd);
    tl_free(rstd);
    return out;
}

bool tl_grad_rms_norm(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_tensor **want[2];
    for (int i = 0; i < 2; i++) want[i] = n->edges[i].to ? &gin[i] : NULL;
    return arr_layer_norm_grad(g, tl_saved_input(n, 0), NULL, tl_saved_extra(n, 0), tl_saved_input(n, 1), want[0], want[1], NULL);
}

/* ---- over channels ---- */

/* ints[0]: groups, real[0]: eps, extra: stats */
static tl_tensor *record_channel_norm(tl_tensor *x, tl_tensor *w, tl_tensor *b, int64_t groups, double eps, int line, tl_tensor **stats)
{
    tl_tensor *in[3] = {x, w, b};
    if (any_elsewhere(3, in)) return tl_fail(TL_DECLINE);
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_channel_norm, 3, in, arr_channel_norm(x, w, b, groups, eps, stats), line, &node);
    if (node) node->ints[0] = groups, node->real[0] = eps;
    tl_keep_extra(node, 0, *stats);
    return out;
}

/* w and b: (C), or NULL; groups 0: over the batch */
tl_tensor *tl_channel_norm(tl_tensor *x, tl_tensor *w, tl_tensor *b, int64_t groups, double eps, int line)
{
    tl_tensor *stats = NULL, *out = record_channel_norm(x, w, b, groups, eps, line, &stats);
    tl_free(stats);
    return out;
}

bool tl_grad_channel_norm(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_tensor **want[3];
    for (int i = 0; i < 3; i++) want[i] = n->edges[i].to ? &gin[i] : NULL;
    const tl_tensor *x = tl_saved_input(n, 0);
    if (!x) return tl_fail(TL_DECLINE); /* only the bias is asked for */
    return arr_channel_norm_grad(g, x, tl_saved_input(n, 1), tl_saved_extra(n, 0), n->ints[0], n->real[0], want[0], want[1], want[2]);
}

/* A running statistic that can be brought up to date in place: like x, one number a channel. */
static bool is_running(const tl_tensor *x, const tl_tensor *t)
{
    return x->ndim >= 2 && t->dtype == x->dtype && t->ndim == 1 && t->dims[0] == x->dims[1] && tl_contiguous(t) && !tl_elsewhere(t) &&
           !t->storage->readonly && !(t->flags & (TL_REQUIRES_GRAD | TL_IS_VIEW));
}
/* running += momentum * (seen * scale - running), as PyTorch rounds it */
static void move_running(tl_tensor *running, const double *seen, double scale, double momentum, int line)
{
    for (int64_t i = 0; i < running->numel; i++) {
        if (running->dtype == TL_F64) {
            double *r = (double *)tl_data(running) + i;
            *r = (1 - momentum) * *r + momentum * seen[i] * scale;
        } else {
            float *r = (float *)tl_data(running) + i;
            *r = (float)((1 - momentum) * (double)*r + momentum * seen[i] * scale);
        }
    }
    tl_written(running, line);
}

/* tl_channel_norm over the batch; the running statistics then move towards what was seen (variance unbiased). */
tl_tensor *tl_batch_norm(tl_tensor *x, tl_tensor *running_mean, tl_tensor *running_var, tl_tensor *w, tl_tensor *b, double momentum, double eps, int line)
{
    if (!is_running(x, running_mean) || !is_running(x, running_var)) return tl_fail(TL_DECLINE);
    tl_tensor *stats = NULL, *out = record_channel_norm(x, w, b, 0, eps, line, &stats);
    if (out) {
        const double *seen = (const double *)tl_data(stats), count = (double)(x->numel / x->dims[1]);
        move_running(running_mean, seen, 1, momentum, line);
        move_running(running_var, seen + x->dims[1], count / (count - 1), momentum, line);
    }
    tl_free(stats);
    return out;
}

/* mean and var: (C), as constants. real[0]: eps, extra: stats */
tl_tensor *tl_fixed_norm(tl_tensor *x, tl_tensor *mean, tl_tensor *var, tl_tensor *w, tl_tensor *b, double eps, int line)
{
    tl_tensor *in[5] = {x, mean, var, w, b}, *stats = NULL;
    if (any_elsewhere(5, in)) return tl_fail(TL_DECLINE);
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_fixed_norm, 5, in, arr_fixed_norm(x, mean, var, w, b, eps, &stats), line, &node);
    if (node) node->real[0] = eps;
    tl_keep_extra(node, 0, stats);
    tl_free(stats);
    return out;
}

bool tl_grad_fixed_norm(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    tl_tensor **want[3];
    for (int i = 0; i < 3; i++) want[i] = n->edges[i ? i + 2 : 0].to ? &gin[i ? i + 2 : 0] : NULL;
    const tl_tensor *x = tl_saved_input(n, 0);
    if (!x) return tl_fail(TL_DECLINE); /* only the bias is asked for */
    return arr_channel_norm_grad(g, x, tl_saved_input(n, 3), tl_saved_extra(n, 0), -1, n->real[0], want[0], want[1], want[2]);
}
