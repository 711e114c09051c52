/* Normalisation over channels: batch norm, group norm, instance norm. What each function takes and gives is said in kernels.h.
 *
 * Statistics are summed box by box (at most TL_NORM_BOX elements, in their own type, around a value near the box's mean) and boxes joined in
 * double, in order: boxes follow from sizes alone. A cell that fits the caches runs through all steps at once; larger ones, of which there may be
 * fewer than threads, step by step. Channels of one or a few elements lie side by side and are taken as columns. */
#include <math.h>

#include "kernels.h"
#include "operands.h"

enum {
    TASK = 16384, LARGE = 32768, /* elements of one task; from where the GIL is released */
    CACHED = 1 << 18,            /* elements of a cell that runs through all steps at once */
    NARROW = 8                   /* elements of a channel from which on it is a run */
};
typedef struct { tl_norm p; int type; int64_t boxes; } job; /* boxes of a cell, in the steps at hand */

/* ---- the work ---- */

/* A step over all cells, in tasks of about TASK elements. */
static void each_box(tl_range_fn step, job *j)
{
    int64_t per_box = j->p.rows * j->p.len / j->boxes;
    tl_parallel_for(step, &j->p, j->p.cells * j->boxes, per_box >= TASK ? 1 : TASK / (per_box ? per_box : 1));
}
static void each_cell(tl_range_fn body, job *j)
{
    int64_t numel = j->p.rows * j->p.len;
    tl_parallel_for(body, j, j->p.cells, numel >= TASK ? 1 : TASK / numel);
}

static void join_moments(const tl_norm *p, int64_t cell, int64_t boxes)
{
    const double *part = p->parts + 2 * cell * boxes;
    double count = (double)(p->rows * p->len), mean = 0, squares = 0;
    for (int i = 0; i < 2; i++) { /* the mean, then the distances from it */
        for (int64_t k = 0; k < boxes; k++) {
            tl_norm_box b = tl_norm_box_at(p->rows, p->len, k);
            double n = (double)((b.r1 - b.r0) * (b.c1 - b.c0)), d = part[2 * k] - mean;
            if (i == 0) p->stats[cell] += n * part[2 * k];
            else squares += part[2 * k + 1] + n * d * d;
        }
        if (i == 0) mean = p->stats[cell] /= count;
    }
    p->stats[p->cells + cell] = squares > 0 || squares != squares ? squares / count : 0;
}
static double weight_of(const job *j, int64_t channel)
{
    return !j->p.weight ? 1 : j->type ? ((const double *)j->p.weight)[channel] : (double)((const float *)j->p.weight)[channel];
}
/* The boxes of each channel of the cell into the first, and what the whole cell has in common into p->pull. */
static void join_grad(const job *j, int64_t cell)
{
    const tl_norm *p = &j->p;
    int64_t boxes = j->boxes / p->spans;
    double count = (double)(p->rows * p->len), h = 0, dot = 0;
    for (int64_t run = cell * p->spans; run < (cell + 1) * p->spans; run++) {
        double *part = p->parts + 2 * run * boxes, w = weight_of(j, run % p->channels);
        for (int64_t i = 1; i < boxes; i++) part[0] += part[2 * i], part[1] += part[2 * i + 1];
        h += w * part[0];
        dot += w * part[1];
    }
    p->pull[2 * cell] = h / count;
    p->pull[2 * cell + 1] = dot / count;
}

static void forward_cells(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    for (int64_t cell = begin; cell < end; cell++) {
        tl_norm_k->moments[j->type](&j->p, cell * j->boxes, (cell + 1) * j->boxes);
        join_moments(&j->p, cell, j->boxes);
        tl_norm_k->apply[j->type](&j->p, cell * j->boxes, (cell + 1) * j->boxes);
    }
}
static void forward(job *j)
{
    if (!j->p.fixed && j->p.rows * j->p.len <= CACHED) {
        each_cell(forward_cells, j);
        return;
    }
    if (!j->p.fixed) {
        each_box(tl_norm_k->moments[j->type], j);
        for (int64_t cell = 0; cell < j->p.cells; cell++) join_moments(&j->p, cell, j->boxes);
    }
    each_box(tl_norm_k->apply[j->type], j);
}

static void backward_cells(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    for (int64_t cell = begin; cell < end; cell++) {
        tl_norm_k->grad_sums[j->type](&j->p, cell * j->boxes, (cell + 1) * j->boxes);
        join_grad(j, cell);
        if (j->p.out) tl_norm_k->grad_apply[j->type](&j->p, cell * j->boxes, (cell + 1) * j->boxes);
    }
}
static void backward(job *j)
{
    if (j->p.rows * j->p.len <= CACHED) {
        each_cell(backward_cells, j);
        return;
    }
    each_box(tl_norm_k->grad_sums[j->type], j);
    for (int64_t cell = 0; cell < j->p.cells; cell++) join_grad(j, cell);
    if (j->p.out) each_box(tl_norm_k->grad_apply[j->type], j);
}

/* ---- channels as columns ---- */

typedef struct { tl_norm_columns c; int64_t span, blocks; size_t granted; char *work; } columns;

/* Scratch: what blocks of rows add up to, then m, a, b and c. */
static bool columns_begin(columns *v, const job *j)
{
    const tl_norm *p = &j->p;
    int64_t width = p->channels * p->span, blocks = (p->rows + TL_NORM_ROWS - 1) / TL_NORM_ROWS;
    size_t row = (size_t)width * sizeof(double);
    *v = (columns){.c = {.rows = p->rows, .width = width, .x = p->x, .g = p->g, .out = p->out}, .span = p->span, .blocks = blocks};
    if (!(v->work = tl_alloc((2 * (size_t)blocks + 4) * row, &v->granted))) return false;
    v->c.parts = (double *)v->work;
    void **const vectors[] = {&v->c.m, &v->c.a, &v->c.b, &v->c.c};
    for (size_t i = 0; i < 4; i++) *vectors[i] = v->work + (2 * (size_t)blocks + i) * row;
    return true;
}
static void columns_end(columns *v) { tl_release(v->work, v->granted); }

static void put(void *vector, int type, int64_t i, double value)
{
    if (type) ((double *)vector)[i] = value;
    else ((float *)vector)[i] = (float)value;
}
static double rounded(int type, double value) { return type ? value : (double)(float)value; }

static void each_tile(tl_range_fn step, columns *v)
{
    int64_t tiles = (v->c.width + TL_NORM_TILE - 1) / TL_NORM_TILE, size = TL_NORM_ROWS * TL_NORM_TILE;
    tl_parallel_for(step, &v->c, tiles * v->blocks, TASK / size);
}
static void each_row(columns *v, int type)
{
    tl_parallel_for(tl_norm_k->columns_apply[type], &v->c, v->c.rows, v->c.width >= TASK ? 1 : TASK / v->c.width);
}

static void columns_join_moments(const columns *v, const tl_norm *p, int64_t channel)
{
    double count = (double)(p->rows * p->span), mean = 0, squares = 0;
    for (int i = 0; i < 2; i++) {
        for (int64_t b = 0; b < v->blocks; b++) {
            const double *part = v->c.parts + 2 * b * v->c.width + channel * v->span;
            double n = (double)(p->rows - b * TL_NORM_ROWS < TL_NORM_ROWS ? p->rows - b * TL_NORM_ROWS : TL_NORM_ROWS);
            for (int64_t s = 0; s < v->span; s++) {
                double d = part[s] - mean;
                if (i == 0) p->stats[channel] += n * part[s];
                else squares += part[v->c.width + s] + n * d * d;
            }
        }
        if (i == 0) mean = p->stats[channel] /= count;
    }
    p->stats[p->cells + channel] = squares > 0 || squares != squares ? squares / count : 0;
}
static bool columns_forward(job *j, const void *bias)
{
    const tl_norm *p = &j->p;
    columns v;
    if (!columns_begin(&v, j)) return false;
    tl_gil gil = tl_unlock(p->rows * v.c.width >= LARGE);
    if (!p->fixed) each_tile(tl_norm_k->columns_moments[j->type], &v);
    for (int64_t c = 0; c < p->channels; c++) {
        if (!p->fixed) columns_join_moments(&v, p, c);
        double m = rounded(j->type, p->stats[c]), a = tl_norm_rstd(p, c) * weight_of(j, c);
        double shift = (bias ? (j->type ? ((const double *)bias)[c] : (double)((const float *)bias)[c]) : 0) + (m - p->stats[c]) * a;
        for (int64_t i = c * v.span; i < (c + 1) * v.span; i++) put(v.c.m, j->type, i, m), put(v.c.a, j->type, i, a), put(v.c.c, j->type, i, shift);
    }
    each_row(&v, j->type);
    tl_relock(gil);
    columns_end(&v);
    return true;
}
/* Leaves the sums of g and of g xhat in p->parts, by channel. */
static bool columns_backward(job *j)
{
    const tl_norm *p = &j->p;
    columns v;
    if (!columns_begin(&v, j)) return false;
    double count = (double)(p->rows * p->span);
    tl_gil gil = tl_unlock(p->rows * v.c.width >= LARGE);
    for (int64_t i = 0; i < v.c.width; i++) put(v.c.m, j->type, i, p->stats[i / v.span]);
    each_tile(tl_norm_k->columns_grad_sums[j->type], &v);
    for (int64_t c = 0; c < p->channels; c++) {
        double sum = 0, dot = 0, off = rounded(j->type, p->stats[c]) - p->stats[c], rstd = tl_norm_rstd(p, c), w = weight_of(j, c);
        for (int64_t b = 0; b < v.blocks; b++) {
            const double *part = v.c.parts + 2 * b * v.c.width;
            for (int64_t i = c * v.span; i < (c + 1) * v.span; i++) sum += part[i], dot += part[v.c.width + i];
        }
        p->parts[2 * c] = sum;
        p->parts[2 * c + 1] = dot = (dot + off * sum) * rstd;
        double slope = p->fixed ? 0 : -rstd * rstd * w * dot / count, level = p->fixed ? 0 : -rstd * w * sum / count + off * slope;
        for (int64_t i = c * v.span; i < (c + 1) * v.span; i++) put(v.c.a, j->type, i, rstd * w), put(v.c.b, j->type, i, slope), put(v.c.c, j->type, i, level);
    }
    if (p->out) each_row(&v, j->type);
    tl_relock(gil);
    columns_end(&v);
    return true;
}

/* ---- operands ---- */

/* What sizes decide. False: not served. */
static bool plan(job *j, const tl_tensor *x, int64_t groups, double eps)
{
    if (x->ndim < 2 || !x->numel || !tl_is_float(x->dtype) || (groups > 0 && x->dims[1] % groups)) return tl_fail(TL_DECLINE);
    int64_t n = x->dims[0], c = x->dims[1], span = x->numel / (n * c), spans = groups > 0 ? c / groups : 1;
    *j = (job){.type = x->dtype == TL_F64, .p = {.channels = c, .span = span, .spans = spans, .len = spans * span, .step = spans * span, .eps = eps, .fixed = groups < 0}};
    j->p.cells = groups > 0 ? n * groups : c;
    j->p.rows = groups > 0 ? 1 : n;
    j->p.stride = c * span;
    return true;
}
static bool is_narrow(const job *j, int64_t groups) { return groups <= 0 && j->p.span < NARROW; }

static bool run_forward(job *j, int64_t groups)
{
    if (is_narrow(j, groups)) return columns_forward(j, j->p.bias);
    size_t granted = 0;
    j->boxes = tl_norm_boxes(j->p.rows, j->p.len);
    if (!j->p.fixed && !(j->p.parts = tl_alloc((size_t)(2 * j->p.cells * j->boxes) * sizeof(double), &granted))) return false;
    tl_gil gil = tl_unlock(j->p.cells * j->p.rows * j->p.len >= LARGE);
    forward(j);
    tl_relock(gil);
    if (!j->p.fixed) tl_release(j->p.parts, granted);
    return true;
}

static tl_tensor *normalized(const tl_tensor *x, const tl_tensor *weight, const tl_tensor *bias, int64_t groups, double eps, tl_tensor *stats)
{
    const tl_tensor *in[] = {x, weight, bias};
    job j;
    if (!stats || !plan(&j, x, groups, eps) || !tl_make_contiguous(in, 3)) return NULL;
    tl_tensor *out = tl_new(x->dtype, x->ndim, x->dims);
    if (out) {
        j.p.x = tl_data(in[0]), j.p.weight = tl_data_or_null(in[1]), j.p.bias = tl_data_or_null(in[2]);
        j.p.out = tl_data(out), j.p.stats = (double *)tl_data(stats);
        if (!run_forward(&j, groups)) tl_free(out), out = NULL;
    }
    tl_drop_all(in, 3);
    return out;
}

/* One number a channel, or absent. */
static bool fits(const tl_tensor *x, const tl_tensor *t) { return x->ndim >= 2 && tl_alike_of(x, t, x->dims[1]) && (!t || t->ndim == 1); }

tl_tensor *arr_channel_norm(const tl_tensor *x, const tl_tensor *weight, const tl_tensor *bias, int64_t groups, double eps, tl_tensor **stats)
{
    if (!fits(x, weight) || !fits(x, bias) || groups < 0 || (!groups && x->numel == x->dims[1])) return tl_fail(TL_DECLINE);
    tl_tensor *made = tl_new(TL_F64, 2, (int64_t[]){2, groups ? x->dims[0] * groups : x->dims[1]});
    if (made) memset(tl_data(made), 0, (size_t)made->numel * sizeof(double));
    tl_tensor *out = normalized(x, weight, bias, groups, eps, made);
    if (out) *stats = made;
    else tl_free(made);
    return out;
}

tl_tensor *arr_fixed_norm(const tl_tensor *x, const tl_tensor *mean, const tl_tensor *variance, const tl_tensor *weight, const tl_tensor *bias,
                          double eps, tl_tensor **stats)
{
    if (!fits(x, mean) || !fits(x, variance) || !fits(x, weight) || !fits(x, bias)) return tl_fail(TL_DECLINE);
    tl_tensor *made = tl_new(TL_F64, 2, (int64_t[]){2, x->dims[1]});
    for (int i = 0; made && i < 2; i++) {
        tl_tensor *row = tl_new_view(made, 1, made->dims + 1, NULL, i * made->dims[1]);
        bool ok = row && arr_copy_into(row, i ? variance : mean);
        tl_free(row);
        if (!ok) tl_free(made), made = NULL;
    }
    tl_tensor *out = made ? normalized(x, weight, bias, -1, eps, made) : NULL;
    if (out) *stats = made;
    else tl_free(made);
    return out;
}

/* gweight and gbias from p->parts: the sums of each example's channels, `boxes` to a channel. */
static void sum_channels(const job *j, int64_t boxes, tl_tensor *gweight, tl_tensor *gbias)
{
    int64_t runs = j->p.cells * j->p.spans;
    for (int64_t c = 0; c < j->p.channels; c++) {
        double sum = 0, dot = 0;
        for (int64_t run = c; run < runs; run += j->p.channels) sum += j->p.parts[2 * run * boxes], dot += j->p.parts[2 * run * boxes + 1];
        if (gweight) put(tl_data(gweight), j->type, c, dot);
        if (gbias) put(tl_data(gbias), j->type, c, sum);
    }
}

static bool run_backward(job *j, int64_t groups, tl_tensor *gweight, tl_tensor *gbias)
{
    bool narrow = is_narrow(j, groups);
    int64_t boxes = narrow ? 1 : tl_norm_boxes(j->p.rows, j->p.span), cells = j->p.cells, runs = cells * j->p.spans;
    size_t granted = 0;
    double *work = tl_alloc((size_t)(2 * (runs * boxes + cells)) * sizeof(double), &granted);
    if (!work) return false;
    j->boxes = boxes * j->p.spans;
    j->p.parts = work;
    j->p.pull = work + 2 * runs * boxes;
    bool ok = true;
    if (narrow) {
        ok = columns_backward(j);
    } else {
        tl_gil gil = tl_unlock(cells * j->p.rows * j->p.len >= LARGE);
        backward(j);
        tl_relock(gil);
    }
    if (ok && (gweight || gbias)) sum_channels(j, boxes, gweight, gbias);
    tl_release(work, granted);
    return ok;
}

bool arr_channel_norm_grad(const tl_tensor *g, const tl_tensor *x, const tl_tensor *weight, const tl_tensor *stats, int64_t groups, double eps,
                           tl_tensor **gx, tl_tensor **gweight, tl_tensor **gbias)
{
    const tl_tensor *in[] = {g, x, weight};
    job j;
    if (!plan(&j, x, groups, eps) || !tl_same_shape(g, x) || g->dtype != x->dtype) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 3)) return false;
    tl_tensor *made[3] = {
        gx ? tl_new(x->dtype, x->ndim, x->dims) : NULL,
        gweight ? tl_new(x->dtype, 1, x->dims + 1) : NULL,
        gbias ? tl_new(x->dtype, 1, x->dims + 1) : NULL,
    };
    bool ok = (!gx || made[0]) && (!gweight || made[1]) && (!gbias || made[2]);
    if (ok) {
        j.p.g = tl_data(in[0]), j.p.x = tl_data(in[1]), j.p.weight = tl_data_or_null(in[2]);
        j.p.out = tl_data_or_null(made[0]), j.p.stats = (double *)tl_data(stats);
        ok = run_backward(&j, groups, made[1], made[2]);
    }
    tl_drop_all(in, 3);
    for (int i = 0; !ok && i < 3; i++) tl_free(made[i]);
    if (!ok) return false;
    if (gx) *gx = made[0];
    if (gweight) *gweight = made[1];
    if (gbias) *gbias = made[2];
    return true;
}
