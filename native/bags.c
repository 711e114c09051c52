/* Bags of rows of a table (tensorlib/ops/bags.py): sum, mean or maximum over the rows that each bag names, without a copy of them.
 *
 * Bag b holds positions [edges[b], edges[b + 1]) of index; `padding` names a row that counts for nothing. A bag is one thread's, its rows join in
 * their order. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include "record.h"
#include <math.h>

enum { BIG_BYTES = 1 << 17, CHUNK_BYTES = 1 << 16 };

typedef struct {
    const char *table, *factors;             /* (V, D); by position, or NULL: ones */
    const int64_t *index, *edges;
    char *out;                               /* (bags, D) */
    int64_t *which;                          /* of a maximum: the row each element is from, -1 of an empty bag; NULL: sums */
    int64_t n, bags, width, padding;
    bool mean, wide;
} bags;

#define BAGS(T, name)                                                                                        \
    static void name(const bags *p, int64_t b)                                                               \
    {                                                                                                        \
        int64_t width = p->width, met = 0, *which = p->which ? p->which + b * width : NULL;                  \
        T *out = (T *)(void *)p->out + b * width;                                                            \
        const T *table = (const T *)(const void *)p->table, *factors = (const T *)(const void *)p->factors;  \
        for (int64_t j = 0; j < width; j++) out[j] = 0;                                                      \
        for (int64_t j = 0; which && j < width; j++) which[j] = -1;                                          \
        for (int64_t i = p->edges[b]; i < p->edges[b + 1]; i++) {                                            \
            int64_t id = p->index[i];                                                                        \
            const T *row = table + id * width;                                                               \
            if (i + TL_AHEAD < p->n) tl_fetch(table + p->index[i + TL_AHEAD] * width, width * (int64_t)sizeof(T)); \
            if (id == p->padding) continue;                                                                  \
            T f = factors ? factors[i] : 1;                                                                  \
            if (which)                                                                                       \
                for (int64_t j = 0; j < width; j++) {                                                        \
                    bool more = !met || row[j] > out[j] || (row[j] != row[j] && out[j] == out[j]);           \
                    out[j] = more ? row[j] : out[j];                                                         \
                    which[j] = more ? id : which[j];                                                         \
                }                                                                                            \
            else if (factors)                                                                                \
                for (int64_t j = 0; j < width; j++) out[j] += f * row[j];                                    \
            else                                                                                             \
                for (int64_t j = 0; j < width; j++) out[j] += row[j];                                        \
            met++;                                                                                           \
        }                                                                                                    \
        for (int64_t j = 0; p->mean && met && j < width; j++) out[j] /= (T)met;                              \
    }

BAGS(float, bag_f32)
BAGS(double, bag_f64)

static void some_bags(void *arg, int64_t begin, int64_t end)
{
    const bags *p = arg;
    for (int64_t b = begin; b < end; b++) (p->wide ? bag_f64 : bag_f32)(p, b);
}

static bool plain(const tl_tensor *t, int dtype, int ndim)
{
    return t->dtype == dtype && t->ndim == ndim && tl_contiguous(t) && !tl_elsewhere(t);
}

/* index (N), edges (bags + 1), factors (N) or NULL, against a table (V, D). */
static bool open_bags(bags *p, const tl_tensor *w, const tl_tensor *index, const tl_tensor *edges, const tl_tensor *factors)
{
    if (!tl_is_float(w->dtype) || !plain(w, w->dtype, 2) || !plain(index, TL_I64, 1) || !plain(edges, TL_I64, 1) || !edges->numel) return tl_fail(TL_DECLINE);
    if (factors && (!plain(factors, w->dtype, 1) || factors->numel != index->numel)) return tl_fail(TL_DECLINE);
    *p = (bags){.table = tl_data(w), .factors = factors ? tl_data(factors) : NULL, .index = (const int64_t *)(void *)tl_data(index),
                .edges = (const int64_t *)(void *)tl_data(edges), .n = index->numel, .bags = edges->numel - 1, .width = w->dims[1], .wide = w->dtype == TL_F64};
    if (p->edges[0] < 0 || p->edges[p->bags] > p->n) return tl_fail(TL_DECLINE);
    for (int64_t b = 0; b < p->bags; b++)
        if (p->edges[b] > p->edges[b + 1]) return tl_fail(TL_DECLINE);
    for (int64_t i = 0; i < p->n; i++)
        if (p->index[i] < 0 || p->index[i] >= w->dims[0]) return tl_fail_with(TL_RANGE, p->index[i], i, w->dims[0]);
    return true;
}

static void run_bags(bags *p)
{
    int64_t bytes = (p->n + p->bags) * p->width * (p->wide ? 8 : 4);
    tl_gil gil = tl_unlock(bytes > BIG_BYTES);
    if (bytes > BIG_BYTES) tl_parallel_for(some_bags, p, p->bags, CHUNK_BYTES / (bytes / (p->bags + 1) + 1) + 1);
    else some_bags(p, 0, p->bags);
    tl_relock(gil);
}

/* The sums, or means. ints: padding, how (as of tl_embedding), mean */
tl_tensor *tl_bag(tl_tensor *w, tl_tensor *index, tl_tensor *edges, tl_tensor *factors, bool mean, int64_t padding, int how, int line)
{
    bags p;
    if (!open_bags(&p, w, index, edges, factors)) return NULL;
    tl_tensor *in[4] = {w, index, edges, factors}, *out = tl_new(w->dtype, 2, (int64_t[]){p.bags, p.width});
    if (!out) return NULL;
    p.out = tl_data(out), p.mean = mean, p.padding = padding;
    run_bags(&p);
    tl_node *node;
    out = tl_recorded_with(TL_OP_bag, factors ? 4 : 3, in, out, line, &node);
    if (node) node->ints[0] = padding, node->ints[1] = how, node->ints[2] = mean;
    return out;
}

/* The maxima; *which receives the rows that they are from (a tl_tensor *, owned). Not recorded. */
tl_tensor *tl_bag_max(tl_tensor *w, tl_tensor *index, tl_tensor *edges, int64_t padding, uintptr_t *which)
{
    bags p;
    if (!open_bags(&p, w, index, edges, NULL)) return NULL;
    int64_t dims[2] = {p.bags, p.width};
    tl_tensor *out = tl_new(w->dtype, 2, dims), *rows = out ? tl_new(TL_I64, 2, dims) : NULL;
    if (!rows) {
        tl_free(out);
        return NULL;
    }
    p.out = tl_data(out), p.which = (int64_t *)(void *)tl_data(rows), p.padding = padding;
    run_bags(&p);
    *which = (uintptr_t)rows;
    return out;
}

/* Of the table, where it shall be dense: each position adds its bag's g, scaled, to its row. */
bool tl_grad_bag(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *index = tl_saved_input(n, 1), *edges = tl_saved_input(n, 2), *factors = n->n_in > 3 ? tl_saved_input(n, 3) : NULL;
    if (n->ints[1] || (n->n_in > 3 && n->edges[3].to) || !tl_is_float(g->dtype)) return tl_fail(TL_DECLINE);
    const int64_t *ids = (const int64_t *)(const void *)tl_data(index), *edge = (const int64_t *)(const void *)tl_data(edges), padding = n->ints[0];
    int64_t bags = edges->numel - 1, positions = edge[bags];
    size_t granted;
    int64_t *source = tl_alloc((size_t)(2 * positions + 1) * sizeof *source, &granted);
    if (!source) return false;
    void *scale = n->ints[2] || factors ? source + positions : NULL;
    for (int64_t b = 0; b < bags; b++) {
        int64_t met = 0;
        for (int64_t i = edge[b]; i < edge[b + 1]; i++) met += ids[i] != padding;
        for (int64_t i = edge[b]; i < edge[b + 1]; i++) {
            source[i] = b;
            if (!scale) continue;
            if (g->dtype == TL_F64) ((double *)scale)[i] = factors ? ((const double *)(const void *)tl_data(factors))[i] : 1.0 / (double)met;
            else ((float *)scale)[i] = factors ? ((const float *)(const void *)tl_data(factors))[i] : 1.0f / (float)met;
        }
    }
    gin[0] = arr_rows_added(g, positions, index, n->edges[0].meta->dims[0], padding, source, scale);
    tl_release(source, granted);
    return gin[0];
}
