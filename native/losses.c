/* Drivers of the losses, and their recording entry points: cross_entropy and nll_loss over classes, and the losses that pair an input with a
 * target element by element. What the kernels take and give is said in kernels.h. A position's loss depends on that position alone; sums
 * over positions join in an order that their number fixes. */
#include "api.h"
#include "kernels.h"
#include "operands.h"
#include "record.h"

/* ---- classes: scores (outer, n, inner) ---- */

typedef struct { int64_t outer, n, inner; bool soft; } classes;

/* Integer targets of the scores' shape without its dimension of classes, or (soft) probabilities of the scores' shape. */
static bool classes_fit(classes *c, int ndim, const int64_t *dims, const tl_tensor *target)
{
    int axis = ndim > 1;
    if (!ndim) return false;
    *c = (classes){axis ? dims[0] : 1, dims[axis], 1, target->dtype >= TL_F16};
    for (int i = axis + 1; i < ndim; i++) c->inner *= dims[i];
    if (target->ndim != ndim - !c->soft || (!c->soft && (target->dtype < TL_U8 || target->dtype > TL_I64))) return false;
    for (int i = 0, k = 0; i < ndim; i++)
        if ((c->soft || i != axis) && target->dims[k++] != dims[i]) return false;
    return true;
}

/* The operands that kernels read, owned by the caller: contiguous, integer targets as int64. False: no memory, nothing owned. */
static bool open_classes(const tl_tensor *const given[], const tl_tensor **in, int n)
{
    memcpy(in, given, (size_t)n * sizeof *in);
    tl_tensor *wide = in[1]->dtype < TL_I64 ? arr_cast(in[1], TL_I64) : NULL;
    if (in[1]->dtype < TL_I64 && !wide) return false;
    if (wide) in[1] = wide;
    bool ok = tl_make_contiguous(in, n);
    tl_free(wide);
    return ok;
}

/* The first target that is neither ignored nor a class, or -1. */
static int64_t bad_target(const int64_t *target, int64_t n, int64_t n_classes, int64_t ignore)
{
    uint64_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= ((uint64_t)target[i] >= (uint64_t)n_classes) & (target[i] != ignore);
    for (int64_t i = 0; bad && i < n; i++)
        if ((uint64_t)target[i] >= (uint64_t)n_classes && target[i] != ignore) return i;
    return -1;
}
static bool targets_fit(const tl_tensor *target, const classes *c, int64_t ignore)
{
    int64_t bad = c->soft ? -1 : bad_target(tl_data_or_null(target), target->numel, c->n, ignore);
    if (bad >= 0) tl_fail_with(TL_RANGE, ((int64_t *)tl_data_or_null(target))[bad], bad, c->n);
    return bad < 0;
}

/* In eight sums that join at the end. */
static double sum_of(const tl_tensor *t)
{
    double sum[8] = {0};
    if (t->dtype == TL_F64) for (int64_t i = 0; i < t->numel; i++) sum[i % 8] += ((const double *)tl_data_or_null(t))[i];
    else for (int64_t i = 0; i < t->numel; i++) sum[i % 8] += (double)((const float *)tl_data_or_null(t))[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}
/* What a mean divides by: the weights of the targets that count; of probabilities, the number of positions. */
static double divisor_of(const tl_tensor *target, const tl_tensor *weight, const classes *c, int64_t ignore)
{
    const int64_t *y = tl_data_or_null(target);
    int64_t n = c->outer * c->inner, counted = 0;
    double sum = 0;
    if (c->soft) return (double)n;
    for (int64_t i = 0; i < n; i++) {
        counted += y[i] != ignore;
        if (weight && y[i] != ignore) sum += tl_get_double(weight, y[i]);
    }
    return weight ? sum : (double)counted;
}

/* in: scores, target, weight; none of its pointers is read before the kernel runs */
static tl_cross_entropy_task task_of(const tl_tensor *const in[3], const classes *c, int64_t ignore, double smoothing)
{
    tl_cross_entropy_task p = {.x = tl_data_or_null(in[0]), .weight = tl_data_or_null(in[2]), .n = c->n, .inner = c->inner, .ignore = ignore,
                               .smoothing = smoothing, .scale = 1, .weight_sum = in[2] ? sum_of(in[2]) : (double)c->n};
    if (c->soft) p.soft = tl_data_or_null(in[1]);
    else p.target = tl_data_or_null(in[1]);
    return p;
}
static void run_cross_entropy(tl_cross_entropy_task *p, int dtype, const classes *c, bool gradient)
{
    const tl_rows_kernels *k = tl_rows_k;
    int64_t n = c->n ? c->n : 1, width = c->inner < TL_ROWS_TILE ? c->inner : TL_ROWS_TILE;
    if (c->inner > 1) {
        tl_run_tasks(gradient ? k->cross_entropy_across_grad : k->cross_entropy_across, dtype, p, c->outer * tl_blocks_of(c->inner, TL_ROWS_TILE), n * width);
    } else if (c->inner == 1) {
        if (c->soft) tl_run_tasks(gradient ? k->cross_entropy_soft_grad : k->cross_entropy_soft, dtype, p, c->outer, n);
        else tl_run_tasks(gradient ? k->cross_entropy_grad : k->cross_entropy, dtype, p, c->outer, n);
    }
}

/* `losses`, or what they add up to; consumes them */
static tl_tensor *reduced(tl_tensor *losses, int reduction, double divisor)
{
    if (reduction == TL_REDUCE_NONE) return losses;
    tl_tensor *out = tl_scalar_of(losses->dtype, reduction == TL_REDUCE_MEAN ? sum_of(losses) / divisor : sum_of(losses));
    tl_free(losses);
    return out;
}
/* Fresh, for one loss a position: the target's shape, without classes where those are probabilities. */
static tl_tensor *new_losses(const tl_tensor *scores, const tl_tensor *target, const classes *c)
{
    int64_t dims[TL_MAX_DIMS];
    int ndim = 0, axis = scores->ndim > 1;
    for (int i = 0; i < target->ndim; i++)
        if (!c->soft || i != axis) dims[ndim++] = target->dims[i];
    return tl_new(scores->dtype, ndim, dims);
}

tl_tensor *arr_cross_entropy(const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index, int reduction,
                             double smoothing, tl_tensor **saved)
{
    const tl_tensor *in[3];
    classes c;
    if (!classes_fit(&c, logits->ndim, logits->dims, target) || !tl_alike_of(logits, weight, c.n) || (c.soft && target->dtype != logits->dtype))
        return tl_fail(TL_DECLINE);
    if (!open_classes((const tl_tensor *const[]){logits, target, weight}, in, 3)) return NULL;
    int64_t kept = 3 * c.outer * c.inner + 1;
    tl_tensor *losses = NULL, *keep = NULL, *out = NULL;
    if (targets_fit(in[1], &c, ignore_index) && (losses = new_losses(logits, target, &c)) && (keep = tl_new(logits->dtype, 1, &kept))) {
        tl_cross_entropy_task p = task_of(in, &c, ignore_index, smoothing);
        p.loss = tl_data(losses);
        p.saved = tl_data(keep);
        run_cross_entropy(&p, logits->dtype, &c, false);
        double divisor = reduction == TL_REDUCE_MEAN ? divisor_of(in[1], in[2], &c, ignore_index) : 1;
        tl_put_double(keep, kept - 1, divisor);
        out = reduced(losses, reduction, divisor);
        losses = NULL;
    }
    tl_drop_all(in, 3);
    tl_free(losses);
    if (out) *saved = keep;
    else tl_free(keep);
    return out;
}

tl_tensor *arr_cross_entropy_grad(const tl_tensor *g, const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight,
                                  const tl_tensor *saved, int64_t ignore_index, int reduction, double smoothing)
{
    const tl_tensor *in[5];
    classes c;
    bool each = reduction == TL_REDUCE_NONE;
    if (!classes_fit(&c, logits->ndim, logits->dims, target) || !tl_alike_of(logits, weight, c.n) || !tl_alike_of(logits, g, each ? c.outer * c.inner : 1) ||
        !tl_alike_of(logits, saved, 3 * c.outer * c.inner + 1))
        return tl_fail(TL_DECLINE);
    if (!open_classes((const tl_tensor *const[]){logits, target, weight, g, saved}, in, 5)) return NULL;
    tl_tensor *out = targets_fit(in[1], &c, ignore_index) ? tl_new(logits->dtype, logits->ndim, logits->dims) : NULL; /* forward saw to it */
    if (out) {
        tl_cross_entropy_task p = task_of(in, &c, ignore_index, smoothing);
        p.g = tl_data_or_null(in[3]);
        p.g_step = each;
        p.saved = tl_data_or_null(in[4]);
        p.out = tl_data(out);
        p.scale = reduction == TL_REDUCE_MEAN ? 1 / tl_get_double(in[4], saved->numel - 1) : 1;
        run_cross_entropy(&p, logits->dtype, &c, true);
    }
    tl_drop_all(in, 5);
    return out;
}

tl_tensor *arr_nll(const tl_tensor *logp, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index, int reduction, double *divisor)
{
    const tl_tensor *in[3];
    classes c;
    if (!classes_fit(&c, logp->ndim, logp->dims, target) || c.soft || !tl_alike_of(logp, weight, c.n)) return tl_fail(TL_DECLINE);
    if (!open_classes((const tl_tensor *const[]){logp, target, weight}, in, 3)) return NULL;
    tl_tensor *losses = targets_fit(in[1], &c, ignore_index) ? new_losses(logp, target, &c) : NULL;
    if (losses) {
        tl_cross_entropy_task p = task_of(in, &c, ignore_index, 0);
        p.loss = tl_data(losses);
        *divisor = reduction == TL_REDUCE_MEAN ? divisor_of(in[1], in[2], &c, ignore_index) : 1;
        tl_run_tasks(tl_rows_k->nll, logp->dtype, &p, c.outer, c.inner ? c.inner : 1);
        losses = reduced(losses, reduction, *divisor);
    }
    tl_drop_all(in, 3);
    return losses;
}

tl_tensor *arr_nll_grad(const tl_tensor *g, const tl_meta *logp, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index,
                        int reduction, double divisor)
{
    const tl_tensor *in[3];
    classes c;
    bool each = reduction == TL_REDUCE_NONE;
    if (!classes_fit(&c, logp->ndim, logp->dims, target) || c.soft || !tl_alike_of(g, weight, c.n) || g->numel != (each ? target->numel : 1))
        return tl_fail(TL_DECLINE);
    if (!open_classes((const tl_tensor *const[]){g, target, weight}, in, 3)) return NULL;
    tl_tensor *out = targets_fit(in[1], &c, ignore_index) ? tl_new(g->dtype, logp->ndim, logp->dims) : NULL;
    if (out) {
        tl_cross_entropy_task p = task_of(in, &c, ignore_index, 0);
        p.g = tl_data_or_null(in[0]);
        p.g_step = each;
        p.out = tl_data(out);
        p.scale = 1 / divisor;
        tl_run_tasks(tl_rows_k->nll_grad, g->dtype, &p, c.outer, c.n * c.inner > 0 ? c.n * c.inner : 1);
    }
    tl_drop_all(in, 3);
    return out;
}

/* ---- pairs ---- */

/* The operands that kernels read, owned by the caller: contiguous and of in[0]'s shape, which weights are spread to. False: does not fit, or
 * no memory; nothing owned. */
static bool open_pair(const tl_tensor *const given[4], const tl_tensor *in[4])
{
    const tl_tensor *x = given[0];
    if (!tl_is_float(x->dtype) || !tl_same_shape(x, given[1])) return tl_fail(TL_DECLINE);
    memcpy(in, given, 4 * sizeof *in);
    for (int i = 1; i < 4; i++) {
        const tl_tensor *t = in[i];
        if (t && (t->dtype != x->dtype || t->ndim > x->ndim)) return tl_fail(TL_DECLINE);
        for (int d = 1; t && d <= t->ndim; d++)
            if (t->dims[t->ndim - d] != x->dims[x->ndim - d] && t->dims[t->ndim - d] != 1) return tl_fail(TL_DECLINE);
    }
    tl_tensor *wide[4] = {NULL};
    bool ok = true;
    for (int i = 2; i < 4; i++) {
        if (!in[i] || tl_same_shape(in[i], x)) continue;
        int64_t strides[TL_MAX_DIMS];
        for (int d = 0; d < x->ndim; d++) {
            int k = d - (x->ndim - in[i]->ndim);
            strides[d] = k < 0 || in[i]->dims[k] == 1 ? 0 : in[i]->strides[k];
        }
        in[i] = wide[i] = tl_new_view(in[i], x->ndim, x->dims, strides, in[i]->offset);
        ok = ok && wide[i];
    }
    ok = ok && tl_make_contiguous(in, 4);
    for (int i = 2; i < 4; i++) tl_free(wide[i]);
    return ok;
}

static tl_tensor *sum_of_pairs(tl_pair *p, int dtype, bool mean)
{
    int64_t blocks = tl_blocks_of(p->n, TL_PAIR_BLOCK);
    double few[64], sum = 0;
    size_t granted = 0;
    p->sums = blocks <= 64 ? few : tl_alloc((size_t)blocks * sizeof *p->sums, &granted);
    if (!p->sums) return NULL;
    tl_run_tasks(tl_rows_k->pair_sum, dtype, p, blocks, p->n < TL_PAIR_BLOCK ? p->n : TL_PAIR_BLOCK);
    for (int64_t b = 0; b < blocks; b++) sum += p->sums[b];
    if (p->sums != few) tl_release(p->sums, granted);
    return tl_scalar_of(dtype, mean ? sum / (double)p->n : sum);
}

tl_tensor *arr_pair(int kind, const tl_tensor *const given[4], double bound, double factor, int reduction)
{
    const tl_tensor *in[4];
    if (!open_pair(given, in)) return NULL;
    tl_pair p = {.x = tl_data_or_null(in[0]), .y = tl_data_or_null(in[1]), .weight = tl_data_or_null(in[2]), .pos_weight = tl_data_or_null(in[3]), .n = in[0]->numel,
                 .bound = bound, .scale = factor, .kind = kind};
    tl_tensor *out;
    if (reduction != TL_REDUCE_NONE) {
        out = sum_of_pairs(&p, in[0]->dtype, reduction == TL_REDUCE_MEAN);
    } else if ((out = tl_new(in[0]->dtype, in[0]->ndim, in[0]->dims))) {
        p.out = tl_data(out);
        tl_run_tasks(tl_rows_k->pair_each, out->dtype, &p, tl_blocks_of(p.n, TL_PAIR_BLOCK), p.n < TL_PAIR_BLOCK ? p.n : TL_PAIR_BLOCK);
    }
    tl_drop_all(in, 4);
    if (!p.outside) return out;
    tl_free(out);
    return tl_fail(TL_DECLINE);
}

tl_tensor *arr_pair_grad(int kind, const tl_tensor *g, const tl_tensor *const given[4], double bound, double factor, int reduction, bool negate)
{
    const tl_tensor *in[4], *seed[] = {g};
    bool each = reduction == TL_REDUCE_NONE;
    if (!tl_alike_of(given[0], g, each ? given[0]->numel : 1)) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(seed, 1)) return NULL;
    tl_tensor *out = NULL;
    if (open_pair(given, in)) {
        if ((out = tl_new(in[0]->dtype, in[0]->ndim, in[0]->dims))) {
            tl_pair p = {.out = tl_data(out), .x = tl_data_or_null(in[0]), .y = tl_data_or_null(in[1]), .weight = tl_data_or_null(in[2]), .pos_weight = tl_data_or_null(in[3]),
                         .g = tl_data_or_null(seed[0]), .n = out->numel, .g_step = each, .bound = bound, .kind = kind};
            p.scale = (negate ? -factor : factor) / (reduction == TL_REDUCE_MEAN ? (double)out->numel : 1);
            tl_run_tasks(tl_rows_k->pair_grad, out->dtype, &p, tl_blocks_of(p.n, TL_PAIR_BLOCK), p.n < TL_PAIR_BLOCK ? p.n : TL_PAIR_BLOCK);
        }
        tl_drop_all(in, 4);
    }
    tl_drop_all(seed, 1);
    return out;
}

/* ---- recorded ---- */

/* Of integer targets, or (cross_entropy_soft) probabilities. ints: ignore, reduction; real[0]: smoothing; extra: the kernel's own */
tl_tensor *tl_cross_entropy(tl_tensor *x, tl_tensor *target, tl_tensor *w, int64_t ignore, int reduction, double smoothing, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(target) || tl_elsewhere(w)) return tl_fail(TL_DECLINE);
    tl_tensor *in[3] = {x, target, w}, *extra = NULL;
    tl_node *node;
    tl_tensor *loss = arr_cross_entropy(x, target, w, ignore, reduction, smoothing, &extra);
    tl_tensor *out = tl_recorded_with(target->dtype >= TL_F16 ? TL_OP_cross_entropy_soft : TL_OP_cross_entropy, 3, in, loss, line, &node);
    if (node) {
        node->ints[0] = ignore, node->ints[1] = reduction, node->real[0] = smoothing;
        tl_keep_extra(node, 0, extra);
    }
    tl_free(extra);
    return out;
}

/* ints: ignore, reduction; real[0]: divisor */
tl_tensor *tl_nll(tl_tensor *x, tl_tensor *target, tl_tensor *w, int64_t ignore, int reduction, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(target) || tl_elsewhere(w)) return tl_fail(TL_DECLINE);
    tl_tensor *in[3] = {x, target, w};
    double divisor = 1;
    tl_node *node;
    tl_tensor *loss = arr_nll(x, target, w, ignore, reduction, &divisor);
    tl_tensor *out = tl_recorded_with(TL_OP_nll_loss, 3, in, loss, line, &node);
    if (node) node->ints[0] = ignore, node->ints[1] = reduction, node->real[0] = divisor;
    return out;
}

/* The kernel behind an operation with its parameter: kl_div takes whether the target is a logarithm, huber_loss delta, smooth_l1_loss beta. */
static int pair_kind(int op, double param)
{
    switch (op) {
    case TL_OP_mse_loss: return TL_PAIR_SQUARED;
    case TL_OP_l1_loss: return TL_PAIR_ABSOLUTE;
    case TL_OP_huber_loss:
    case TL_OP_smooth_l1_loss: return TL_PAIR_HUBER;
    case TL_OP_kl_div: return param != 0 ? TL_PAIR_KL_LOG : TL_PAIR_KL;
    case TL_OP_binary_cross_entropy: return TL_PAIR_BCE;
    default: return TL_PAIR_BCE_LOGITS;
    }
}
static double pair_factor(int op, double param) { return op == TL_OP_smooth_l1_loss ? 1 / param : 1; }

/* ints: reduction; real[0]: param */
tl_tensor *tl_pair_loss(int op, tl_tensor *x, tl_tensor *target, tl_tensor *w, tl_tensor *pos_weight, double param, int reduction, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(target) || tl_elsewhere(w) || tl_elsewhere(pos_weight)) return tl_fail(TL_DECLINE);
    tl_tensor *in[4] = {x, target, w, pos_weight};
    tl_node *node;
    tl_tensor *loss = arr_pair(pair_kind(op, param), (const tl_tensor *const *)in, param, pair_factor(op, param), reduction);
    tl_tensor *out = tl_recorded_with(op, op == TL_OP_binary_cross_entropy_with_logits ? 4 : 3, in, loss, line, &node);
    if (node) node->ints[0] = reduction, node->real[0] = param;
    return out;
}

bool tl_grad_pair(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    int kind = pair_kind(n->op, n->real[0]);
    const tl_tensor *in[4] = {NULL};
    for (int i = 0; i < n->n_in; i++) in[i] = tl_saved_input(n, i);
    bool by_target = n->edges[1].to;
    for (int i = 2; i < n->n_in; i++)
        if (n->edges[i].to) return tl_fail(TL_DECLINE);
    if (!in[0] || !in[1] || (by_target && kind > TL_PAIR_HUBER)) return tl_fail(TL_DECLINE);
    for (int i = 0; i < 2; i++) {
        if (!n->edges[i].to) continue;
        gin[i] = arr_pair_grad(kind, g, in, n->real[0], pair_factor(n->op, n->real[0]), (int)n->ints[0], i == 1);
        if (gin[i]) continue;
        tl_free(gin[0]);
        gin[0] = NULL;
        return false;
    }
    return true;
}

bool tl_grad_nll(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    if (n->edges[2].to) return tl_fail(TL_DECLINE);
    return (gin[0] = arr_nll_grad(g, n->edges[0].meta, tl_saved_input(n, 1), tl_saved_input(n, 2), n->ints[0], (int)n->ints[1], n->real[0]));
}

bool tl_grad_cross_entropy(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    if (!n->edges[0].to || n->edges[1].to || n->edges[2].to) return tl_fail(TL_DECLINE);
    return (gin[0] = arr_cross_entropy_grad(g, tl_saved_input(n, 0), tl_saved_input(n, 1), tl_saved_input(n, 2), tl_saved_extra(n, 0), n->ints[0],
                                            (int)n->ints[1], n->real[0]));
}
