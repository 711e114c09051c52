/* Row-sparse gradients (tensorlib/sparse.py): n ids and n rows of values, where an id may stand several times.
 *
 * A stable sort by id brings together what belongs together. One thread adds an id's rows, in their order, and gives the sum to what wants
 * it: the row of a result, or an optimizer's own kernel as the gradient of that row. So neither threads nor other rows show in a bit of it,
 * and a step gives the rows it touches the bits of the dense step. */
#include "api.h"
#include "kernels.h"
#include <math.h>

enum { SUM_BYTES = 2048, GRAIN_BYTES = 1 << 16, BIG_BYTES = 1 << 16, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

typedef struct rows {
    const int64_t *index;                    /* (n) */
    int64_t n, unique;
    int64_t *order, *first;                  /* (n) places, sorted by id; (unique + 1) where each group begins there. NULL: the index ascends */
    uint64_t *keys;                          /* (2 n) of the sort */
    size_t granted;
    const char *values;
    int64_t width, size;                     /* of a row, of an element */
    int dtype;
    void (*take)(const struct rows *r, int64_t u, int64_t id, int64_t from, const char *sum, int64_t n); /* elements [from, from + n) of a row */
    char *param, *state[2];                  /* take's own: what it writes to */
    const void *rule;
} rows;

static bool decline(void)
{
    tl_fail(TL_DECLINE);
    return false;
}

/* ---- which rows belong together ---- */
static bool ascends(const int64_t *v, int64_t n)
{
    for (int64_t i = 1; i < n; i++)
        if (v[i - 1] >= v[i]) return false;
    return true;
}

/* Takes index (n) and values (n, width), ids below `limit`. The scratch is the caller's to release. */
static bool open_rows(rows *r, const tl_tensor *index, const tl_tensor *values, int64_t limit)
{
    *r = (rows){0};
    if (index->dtype != TL_I64 || index->ndim != 1 || values->ndim != 2 || values->dims[0] != index->numel || !tl_is_float(values->dtype)) return decline();
    if (index->storage->kind == TL_FOREIGN || values->storage->kind == TL_FOREIGN || !tl_contiguous(index) || !tl_contiguous(values)) return decline();
    if (index->numel > UINT32_MAX || limit > UINT32_MAX) return decline();
    *r = (rows){.index = (const int64_t *)(const void *)tl_data(index), .n = index->numel, .values = tl_data(values), .width = values->dims[1],
                .size = tl_itemsize[values->dtype], .dtype = values->dtype};
    for (int64_t i = 0; i < r->n; i++)
        if (r->index[i] < 0 || r->index[i] >= limit) {
            tl_fail_with(TL_RANGE, r->index[i], i, limit);
            return false;
        }
    r->unique = r->n;
    if (ascends(r->index, r->n)) return true;
    if (!(r->order = tl_alloc((size_t)(4 * r->n + 1) * sizeof *r->order, &r->granted))) return false;
    r->first = r->order + r->n, r->keys = (uint64_t *)(r->first + r->n + 1);
    return true;
}

/* Stable: ids beside their places as one number, digit by digit, the lowest first. Groups and order follow. */
static void sort_rows(rows *r)
{
    if (!r->order) return;
    uint64_t *a = r->keys, *b = a + r->n, any = 0;
    for (int64_t i = 0; i < r->n; i++) {
        a[i] = (uint64_t)r->index[i] << 32 | (uint64_t)i;
        any |= a[i];
    }
    for (int shift = 32; shift < 64 && any >> shift; shift += DIGIT_BITS) {
        uint32_t next[1 << DIGIT_BITS] = {0}, sum = 0;
        for (int64_t i = 0; i < r->n; i++) next[a[i] >> shift & (DIGITS - 1)]++;
        for (int d = 0; d < DIGITS; d++) {
            uint32_t count = next[d];
            next[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < r->n; i++) b[next[a[i] >> shift & (DIGITS - 1)]++] = a[i];
        uint64_t *t = a;
        a = b, b = t;
    }
    r->unique = 0;
    for (int64_t i = 0; i < r->n; i++) {
        if (!i || a[i] >> 32 != a[i - 1] >> 32) r->first[r->unique++] = i;
        r->order[i] = (int64_t)(a[i] & UINT32_MAX);
    }
    r->first[r->unique] = r->n;
}

static void close_rows(rows *r)
{
    if (r->granted) tl_release(r->order, r->granted);
}

/* ---- their sums ---- */
static const char *values_at(const rows *r, int64_t i) { return r->values + (r->order ? r->order[i] : i) * r->width * r->size; }
static int64_t group(const rows *r, int64_t u) { return r->first ? r->first[u] : u; }
static int64_t id_of(const rows *r, int64_t u) { return r->order ? r->index[r->order[r->first[u]]] : r->index[u]; }

TL_FETCHES fetch_row(const rows *r, int64_t u)
{
    int64_t bytes = r->width * r->size, at = id_of(r, u) * bytes;
    tl_fetch(values_at(r, group(r, u)), bytes);
    if (!r->rule) return;
    tl_fetch(r->param + at, bytes);
    for (int k = 0; k < 2; k++)
        if (r->state[k]) tl_fetch(r->state[k] + at, bytes);
}

/* Groups [begin, end). */
static void sum_rows(void *arg, int64_t begin, int64_t end)
{
    const rows *r = arg;
    _Alignas(TL_ALIGN) char sum[SUM_BYTES];
    for (int64_t u = begin; u < begin + TL_AHEAD && u < end; u++) fetch_row(r, u);
    for (int64_t u = begin; u < end; u++) {
        int64_t one = group(r, u), stop = group(r, u + 1), id = id_of(r, u), part = SUM_BYTES / r->size;
        if (u + TL_AHEAD < end) fetch_row(r, u + TL_AHEAD);
        if (stop - one == 1) {
            r->take(r, u, id, 0, values_at(r, one), r->width);
            continue;
        }
        for (int64_t from = 0; from < r->width; from += part) {
            int64_t n = r->width - from < part ? r->width - from : part;
            memcpy(sum, values_at(r, one) + from * r->size, (size_t)(n * r->size));
            for (int64_t i = one + 1; i < stop; i++) arr_add_run(r->dtype, sum, values_at(r, i) + from * r->size, n);
            r->take(r, u, id, from, sum, n);
        }
    }
}

static bool is_big(const rows *r) { return r->n * (r->width + 1) * r->size > BIG_BYTES; }

static void run_rows(rows *r)
{
    if (!r->width) return;
    if (is_big(r)) tl_parallel_for(sum_rows, r, r->unique, GRAIN_BYTES / (r->width * r->size) + 1);
    else sum_rows(r, 0, r->unique);
}

/* ---- the sums themselves ---- */
static void keep_row(const rows *r, int64_t u, int64_t id, int64_t from, const char *sum, int64_t n)
{
    memcpy(r->param + (u * r->width + from) * r->size, sum, (size_t)(n * r->size));
    if (!from) ((int64_t *)(void *)r->state[0])[u] = id;
}

/* The ids, ascending, in *ids (owned), and the sum of the values of each; ids are below `limit`. */
tl_tensor *tl_coalesce(tl_tensor *index, tl_tensor *values, int64_t limit, uintptr_t *ids)
{
    rows r;
    if (!open_rows(&r, index, values, limit)) return NULL;
    tl_gil gil = tl_unlock(is_big(&r));
    sort_rows(&r);
    tl_relock(gil);
    tl_tensor *at = tl_new(TL_I64, 1, &r.unique), *out = tl_new(values->dtype, 2, (int64_t[]){r.unique, r.width});
    if (at && out) {
        r.take = keep_row, r.param = tl_data(out), r.state[0] = tl_data(at);
        gil = tl_unlock(is_big(&r));
        run_rows(&r);
        for (int64_t u = 0; !r.width && u < r.unique; u++) ((int64_t *)(void *)r.state[0])[u] = id_of(&r, u);
        tl_relock(gil);
    } else {
        tl_free(at);
        tl_free(out);
        at = out = NULL;
    }
    close_rows(&r);
    *ids = (uintptr_t)at;
    return out;
}

/* ---- steps ---- */
static int64_t place(const rows *r, int64_t id, int64_t from) { return (id * r->width + from) * r->size; }

static void sgd_row(const rows *r, int64_t u, int64_t id, int64_t from, const char *sum, int64_t n)
{
    (void)u;
    tl_optim_k->sgd[r->dtype == TL_F64](r->rule, r->param + place(r, id, from), sum, NULL, NULL, NULL, n);
}

static void adam_row(const rows *r, int64_t u, int64_t id, int64_t from, const char *sum, int64_t n)
{
    (void)u;
    int64_t at = place(r, id, from);
    tl_optim_k->adam[r->dtype == TL_F64](r->rule, r->param + at, sum, r->state[0] + at, r->state[1] + at, NULL, n);
}

#define ADAGRAD(T, sqrt_of)                                                     \
    {                                                                           \
        T *p = (T *)(void *)(r->param + at), *s = (T *)(void *)(r->state[0] + at); \
        const T *g = (const T *)(const void *)sum, lr = (T)-rule[0], eps = (T)rule[1]; \
        for (int64_t j = 0; j < n; j++) {                                       \
            s[j] += g[j] * g[j];                                                \
            p[j] += lr * g[j] / (sqrt_of(s[j]) + eps);                          \
        }                                                                       \
    }

static void adagrad_row(const rows *r, int64_t u, int64_t id, int64_t from, const char *sum, int64_t n)
{
    (void)u;
    const double *rule = r->rule;
    int64_t at = place(r, id, from);
    if (r->dtype == TL_F64) ADAGRAD(double, sqrt)
    else ADAGRAD(float, sqrtf)
}

static bool fits(const tl_tensor *t, const tl_tensor *values)
{
    return t && t->ndim == 2 && t->dims[1] == values->dims[1] && t->dtype == values->dtype && tl_contiguous(t) && t->storage->kind != TL_FOREIGN &&
           !t->storage->readonly;
}

/* One step of the rows that index names, of the parameter and as much state as there is (NULL behind it). False: nothing was changed. */
static bool step_rows(tl_tensor *index, tl_tensor *values, tl_tensor *param, tl_tensor *const *state, rows *how, int line)
{
    rows r;
    if (values->ndim != 2 || !fits(param, values)) return decline();
    for (int k = 0; k < 2 && state[k]; k++)
        if (!fits(state[k], values) || state[k]->numel != param->numel) return decline();
    if (!open_rows(&r, index, values, param->dims[0])) return false;
    r.take = how->take, r.rule = how->rule, r.param = tl_data(param);
    for (int k = 0; k < 2 && state[k]; k++) r.state[k] = tl_data(state[k]);
    tl_keep(index);                          /* another thread may let go of the gradient meanwhile */
    tl_keep(values);
    tl_gil gil = tl_unlock(is_big(&r));
    sort_rows(&r);
    run_rows(&r);
    tl_relock(gil);
    tl_unkeep(index);
    tl_unkeep(values);
    close_rows(&r);
    tl_written(param, line);
    for (int k = 0; k < 2 && state[k]; k++) tl_written(state[k], line);
    return true;
}

bool tl_sgd_rows(tl_tensor *param, tl_tensor *index, tl_tensor *values, double lr, int line)
{
    tl_sgd_rule rule = {.lr = lr};
    return step_rows(index, values, param, (tl_tensor *const[]){NULL}, &(rows){.take = sgd_row, .rule = &rule}, line);
}

/* `step` counts from 1. eps joins the root before it is corrected: as in Adam with an eps sqrt(1 - beta2^step) times smaller. */
bool tl_adam_rows(tl_tensor *param, tl_tensor *index, tl_tensor *values, tl_tensor *average, tl_tensor *square, double step, double lr, double beta1, double beta2, double eps, int line)
{
    double size = lr * sqrt(1 - pow(beta2, step)) / (1 - pow(beta1, step));
    tl_adam_rule rule = {.shrink = 1, .beta1 = beta1, .beta2 = beta2, .root = 1, .eps = eps, .step_size = size};
    return step_rows(index, values, param, (tl_tensor *const[]){average, square}, &(rows){.take = adam_row, .rule = &rule}, line);
}

bool tl_adagrad_rows(tl_tensor *param, tl_tensor *index, tl_tensor *values, tl_tensor *sum, double lr, double eps, int line)
{
    const double rule[2] = {lr, eps};
    return step_rows(index, values, param, (tl_tensor *const[]){sum, NULL}, &(rows){.take = adagrad_row, .rule = rule}, line);
}
