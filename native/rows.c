/* Drivers of the kernels that work row by row: the softmax family, layer_norm, cross_entropy, mse_loss. What each takes and gives is said in
 * kernels.h. A row's result depends on that row alone; sums over rows join in an order that the number of rows fixes. */
#include "kernels.h"
#include "operands.h"

enum { TASK = 16384, LARGE = 32768 }; /* elements of one task; from where the GIL is released */

/* ---- operands ---- */

static void put_double(tl_tensor *t, int64_t i, double value)
{
    if (t->dtype == TL_F64) ((double *)tl_data_or_null(t))[i] = value;
    else ((float *)tl_data_or_null(t))[i] = (float)value;
}
static double get_double(const tl_tensor *t, int64_t i) { return t->dtype == TL_F64 ? ((double *)tl_data_or_null(t))[i] : (double)((float *)tl_data_or_null(t))[i]; }
static tl_tensor *scalar_of(int dtype, double value)
{
    tl_tensor *t = tl_new(dtype, 0, NULL);
    if (t) put_double(t, 0, value);
    return t;
}

static void run(const tl_range_fn by_type[2], int dtype, void *arg, int64_t tasks, int64_t task_size)
{
    tl_range_fn body = by_type[dtype == TL_F64];
    if (tasks * task_size < LARGE) {
        body(arg, 0, tasks);
        return;
    }
    tl_gil gil = tl_unlock(true);
    tl_parallel_for(body, arg, tasks, task_size >= TASK ? 1 : TASK / task_size);
    tl_relock(gil);
}
static int64_t blocks_of(int64_t n, int64_t block) { return n / block + (n % block != 0); }

/* ---- softmax and log_softmax ---- */

/* Forward with g NULL; gradient with x the result. */
static tl_tensor *softmax_run(const tl_tensor *x, const tl_tensor *g, int dim, bool log)
{
    const tl_rows_kernels *k = tl_rows_k;
    const tl_tensor *in[] = {x, g};
    if (!tl_alike(x, g) || (g && !tl_same_shape(x, g))) return tl_fail(TL_DECLINE);
    tl_tensor *out = tl_new(x->dtype, x->ndim, x->dims);
    if (!out || !out->numel) return out;
    if (!tl_make_contiguous(in, 2)) return tl_free(out), NULL;
    tl_softmax p = {tl_data(out), tl_data_or_null(in[0]), tl_data_or_null(in[1]), out->ndim ? out->dims[dim] : 1, out->ndim ? out->strides[dim] : 1, log};
    int64_t outer = out->numel / (p.n * p.inner), width = p.inner < TL_ROWS_TILE ? p.inner : TL_ROWS_TILE;
    if (p.inner == 1) run(g ? k->softmax_grad : k->softmax, out->dtype, &p, outer, p.n);
    else run(g ? k->softmax_across_grad : k->softmax_across, out->dtype, &p, outer * blocks_of(p.inner, TL_ROWS_TILE), p.n * width);
    tl_drop_all(in, 2);
    return out;
}
tl_tensor *arr_softmax(const tl_tensor *x, int dim) { return softmax_run(x, NULL, dim, false); }
tl_tensor *arr_log_softmax(const tl_tensor *x, int dim) { return softmax_run(x, NULL, dim, true); }
tl_tensor *arr_softmax_grad(const tl_tensor *out, const tl_tensor *g, int dim) { return softmax_run(out, g, dim, false); }
tl_tensor *arr_log_softmax_grad(const tl_tensor *out, const tl_tensor *g, int dim) { return softmax_run(out, g, dim, true); }

/* ---- layer_norm ---- */

tl_tensor *arr_layer_norm(const tl_tensor *x, int64_t rows, int64_t cols, const tl_tensor *weight, const tl_tensor *bias, double eps,
                          tl_tensor **mean, tl_tensor **rstd)
{
    const tl_tensor *in[] = {x, weight, bias};
    if (!tl_alike_of(x, weight, cols) || !tl_alike_of(x, bias, cols) || x->numel != rows * cols) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 3)) return NULL;
    tl_tensor *out = tl_new(x->dtype, x->ndim, x->dims), *m = mean ? tl_new(x->dtype, 1, &rows) : NULL, *r = tl_new(x->dtype, 1, &rows);
    if (!out || (mean && !m) || !r) {
        tl_free(out);
        tl_free(m);
        tl_free(r);
        out = NULL;
    } else {
        tl_layer_norm_task p = {tl_data(out), tl_data_or_null(m), tl_data(r), tl_data_or_null(in[0]), tl_data_or_null(in[1]), tl_data_or_null(in[2]), cols, eps};
        run(tl_rows_k->layer_norm, x->dtype, &p, rows, cols ? cols : 1);
        if (mean) *mean = m;
        *rstd = r;
    }
    tl_drop_all(in, 3);
    return out;
}

/* Joins parts (blocks, 2, cols) into gweight and gbias. */
static void join_parts(int dtype, void *parts, int64_t blocks, int64_t cols, tl_tensor *gweight, tl_tensor *gbias)
{
    const tl_reduce_type *k = dtype == TL_F32 ? &tl_reduce_k->f32 : &tl_reduce_k->f64;
    int64_t nbytes = cols * tl_itemsize[dtype];
    if (blocks) k->tree(TL_RED_SUM, &(tl_reduce_tree){parts, blocks, 2 * cols});
    else memset(parts, 0, (size_t)(2 * nbytes));
    if (gweight) memcpy(tl_data(gweight), parts, (size_t)nbytes);
    if (gbias) memcpy(tl_data(gbias), (char *)parts + nbytes, (size_t)nbytes);
}

bool arr_layer_norm_grad(const tl_tensor *g, const tl_tensor *x, const tl_tensor *mean, const tl_tensor *rstd, const tl_tensor *weight,
                         tl_tensor **gx, tl_tensor **gweight, tl_tensor **gbias)
{
    const tl_tensor *in[] = {g, x, mean, rstd, weight};
    int64_t rows = rstd->numel, blocks = blocks_of(rows, TL_ROWS_BLOCK);
    int64_t cols = weight ? weight->numel : rows ? x->numel / rows : x->dims[x->ndim - 1];
    bool parts = gweight || gbias;
    if (!tl_alike_of(x, g, x->numel) || !tl_alike_of(x, mean, rows) || !tl_alike_of(x, rstd, rows) || !tl_alike_of(x, weight, cols)) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 5)) return false;
    int wdim = weight ? weight->ndim : 1;
    const int64_t *wdims = weight ? weight->dims : &cols, pdims[] = {blocks ? blocks : 1, 2, cols};
    tl_tensor *made[4] = {
        gx ? tl_new(x->dtype, x->ndim, x->dims) : NULL,
        gweight ? tl_new(x->dtype, wdim, wdims) : NULL,
        gbias ? tl_new(x->dtype, wdim, wdims) : NULL,
        parts ? tl_new(x->dtype, 3, pdims) : NULL,
    };
    bool ok = (!gx || made[0]) && (!gweight || made[1]) && (!gbias || made[2]) && (!parts || made[3]);
    if (ok) {
        tl_layer_norm_grad p = {tl_data_or_null(made[0]), tl_data_or_null(made[3]), tl_data_or_null(in[0]), tl_data_or_null(in[1]), tl_data_or_null(in[2]), tl_data_or_null(in[3]),
                                tl_data_or_null(in[4]), rows, cols};
        run(tl_rows_k->layer_norm_grad, x->dtype, &p, blocks, TL_ROWS_BLOCK * (cols ? cols : 1));
        if (parts) join_parts(x->dtype, p.parts, blocks, cols, made[1], made[2]);
        if (gx) *gx = made[0];
        if (gweight) *gweight = made[1];
        if (gbias) *gbias = made[2];
    }
    for (int i = ok ? 3 : 0; i < 4; i++) tl_free(made[i]);
    tl_drop_all(in, 5);
    return ok;
}

/* ---- cross_entropy ---- */

/* The first target that is neither ignored nor a class, or -1. */
static int64_t bad_target(const int64_t *target, int64_t rows, int64_t classes, int64_t ignore)
{
    for (int64_t r = 0; r < rows; r++)
        if ((target[r] < 0 || target[r] >= classes) && target[r] != ignore) return r;
    return -1;
}
/* What the losses of all rows add up to, and what "mean" divides by: the weights of the targets that count. */
static double sum_of(const tl_tensor *losses)
{
    double sum = 0;
    for (int64_t r = 0; r < losses->numel; r++) sum += get_double(losses, r);
    return sum;
}
static double weight_of_targets(const tl_tensor *weight, const int64_t *target, int64_t rows, int64_t ignore)
{
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        if (target[r] != ignore) sum += weight ? get_double(weight, target[r]) : 1;
    return sum;
}
static bool cross_entropy_fits(const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight)
{
    return logits->ndim == 2 && target->ndim == 1 && target->dtype == TL_I64 && logits->dims[0] == target->dims[0] &&
           tl_alike_of(logits, weight, logits->dims[1]);
}
static tl_cross_entropy_task cross_entropy_of(const tl_tensor *const in[3], int64_t ignore, double smoothing)
{
    tl_cross_entropy_task p = {.x = tl_data_or_null(in[0]), .target = tl_data_or_null(in[1]), .weight = tl_data_or_null(in[2]), .n = in[0]->dims[1], .ignore = ignore,
                          .smoothing = smoothing, .scale = 1, .weight_sum = (double)in[0]->dims[1]};
    if (in[2]) p.weight_sum = sum_of(in[2]);
    return p;
}

tl_tensor *arr_cross_entropy(const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index, int reduction,
                             double smoothing, tl_tensor **saved)
{
    const tl_tensor *in[] = {logits, target, weight};
    if (!cross_entropy_fits(logits, target, weight)) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 3)) return NULL;
    int64_t rows = logits->dims[0], classes = logits->dims[1], kept = 2 * rows + 1, bad = bad_target(tl_data_or_null(in[1]), rows, classes, ignore_index);
    if (bad >= 0) {
        tl_fail_with(TL_RANGE, ((int64_t *)tl_data_or_null(in[1]))[bad], bad, classes);
        return tl_drop_all(in, 3), NULL;
    }
    tl_tensor *loss = tl_new(logits->dtype, 1, &rows), *keep = tl_new(logits->dtype, 1, &kept), *out = NULL;
    if (loss && keep) {
        tl_cross_entropy_task p = cross_entropy_of(in, ignore_index, smoothing);
        p.loss = tl_data(loss);
        p.saved = tl_data(keep);
        run(tl_rows_k->cross_entropy, logits->dtype, &p, rows, classes ? classes : 1);
        double counted = reduction == TL_REDUCE_MEAN ? weight_of_targets(in[2], p.target, rows, ignore_index) : 1;
        put_double(keep, 2 * rows, counted);
        if (reduction == TL_REDUCE_NONE) {
            out = loss;
            loss = NULL;
        } else {
            out = scalar_of(logits->dtype, sum_of(loss) / counted);
        }
    }
    tl_drop_all(in, 3);
    tl_free(loss);
    if (out) *saved = keep;
    else tl_free(keep);
    return out;
}

tl_tensor *arr_cross_entropy_grad(const tl_tensor *g, const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight,
                                  const tl_tensor *saved, int64_t ignore_index, int reduction, double smoothing)
{
    const tl_tensor *in[] = {logits, target, weight, g, saved};
    int64_t rows = target->numel;
    bool each = reduction == TL_REDUCE_NONE;
    if (!cross_entropy_fits(logits, target, weight) || !tl_alike_of(logits, g, each ? rows : 1) || !tl_alike_of(logits, saved, 2 * rows + 1))
        return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 5)) return NULL;
    bool fine = bad_target(tl_data_or_null(in[1]), rows, logits->dims[1], ignore_index) < 0; /* forward saw to it */
    tl_tensor *out = fine ? tl_new(logits->dtype, 2, logits->dims) : tl_fail(TL_DECLINE);
    if (out) {
        tl_cross_entropy_task p = cross_entropy_of(in, ignore_index, smoothing);
        p.g = tl_data_or_null(in[3]);
        p.g_step = each;
        p.saved = tl_data_or_null(in[4]);
        p.out = tl_data(out);
        p.scale = reduction == TL_REDUCE_MEAN ? 1 / get_double(in[4], 2 * rows) : 1;
        run(tl_rows_k->cross_entropy_grad, logits->dtype, &p, rows, p.n ? p.n : 1);
    }
    tl_drop_all(in, 5);
    return out;
}

/* ---- mse_loss ---- */

static tl_tensor *sum_of_squares(tl_sqdiff *p, int dtype, bool mean)
{
    int64_t blocks = blocks_of(p->n, TL_SQDIFF_BLOCK);
    double few[64], sum = 0;
    size_t granted = 0;
    p->sums = blocks <= 64 ? few : tl_alloc((size_t)blocks * sizeof *p->sums, &granted);
    if (!p->sums) return tl_fail(TL_NOMEM);
    run(tl_rows_k->sqdiff_sum, dtype, p, blocks, p->n < TL_SQDIFF_BLOCK ? p->n : TL_SQDIFF_BLOCK);
    for (int64_t b = 0; b < blocks; b++) sum += p->sums[b];
    if (p->sums != few) tl_release(p->sums, granted);
    return scalar_of(dtype, mean ? sum / (double)p->n : sum);
}

tl_tensor *arr_mse(const tl_tensor *input, const tl_tensor *target, int reduction)
{
    const tl_tensor *in[] = {input, target};
    if (!tl_alike(input, target) || !tl_same_shape(input, target)) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 2)) return NULL;
    tl_sqdiff p = {.a = tl_data(in[0]), .b = tl_data(in[1]), .n = input->numel};
    tl_tensor *out;
    if (reduction != TL_REDUCE_NONE) {
        out = sum_of_squares(&p, input->dtype, reduction == TL_REDUCE_MEAN);
    } else if ((out = tl_new(input->dtype, input->ndim, input->dims))) {
        p.out = tl_data(out);
        run(tl_rows_k->sqdiff, input->dtype, &p, blocks_of(p.n, TL_SQDIFF_BLOCK), p.n < TL_SQDIFF_BLOCK ? p.n : TL_SQDIFF_BLOCK);
    }
    tl_drop_all(in, 2);
    return out;
}

tl_tensor *arr_mse_grad(const tl_tensor *g, const tl_tensor *input, const tl_tensor *target, int reduction, bool negate)
{
    const tl_tensor *in[] = {input, target, g};
    bool each = reduction == TL_REDUCE_NONE;
    if (!tl_alike(input, target) || !tl_same_shape(input, target) || !tl_alike_of(input, g, each ? input->numel : 1)) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 3)) return NULL;
    tl_tensor *out = tl_new(input->dtype, input->ndim, input->dims);
    if (out) {
        double scale = reduction == TL_REDUCE_MEAN ? 2 / (double)input->numel : 2;
        tl_sqdiff p = {tl_data(out), NULL, tl_data(in[0]), tl_data(in[1]), tl_data(in[2]), input->numel, each, negate ? -scale : scale};
        run(tl_rows_k->sqdiff_grad, input->dtype, &p, blocks_of(p.n, TL_SQDIFF_BLOCK), p.n < TL_SQDIFF_BLOCK ? p.n : TL_SQDIFF_BLOCK);
    }
    tl_drop_all(in, 3);
    return out;
}
