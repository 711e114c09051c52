/* Products of segments of rows, added in a tree: the gradient of a weight from several parts of a batch, with the bits that each part's product,
 * made by itself, and sums over memory would give, in one pass over its memory. The kernel is in matmul.inc.c. */
#include "api.h"
#include "kernels.h"
#include "slots.h"

enum {
    BIG = 1 << 19,                         /* multiply-adds that threads may share */
    BLOCK_BYTES = 480 << 10                /* of packed columns: they stay in the second-level cache while all rows pass by */
};

typedef struct { tl_mm_segments p; int64_t columns; int type; tl_slots slots; } job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void run_pieces(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int slot = tl_slot_take(&j->slots);
    for (int64_t u = begin; u < end; u++)
        tl_mm_k->segments[j->type](&j->p, u * j->columns, least(j->p.n, (u + 1) * j->columns), tl_slot_data(&j->slots, slot));
    tl_slot_give(&j->slots, slot);
}

/* Its rows may lie apart. */
static bool is_matrix(const tl_tensor *t, int dtype, int64_t rows, int64_t columns)
{
    bool fits = t && t->ndim == 2 && t->dims[0] == rows && t->dims[1] == columns && t->dtype == dtype && t->storage->kind != TL_FOREIGN;
    return fits && (t->strides[1] == 1 || columns == 1) && (t->strides[0] >= columns || rows == 1);
}

/* False where they are not what the kernel serves. */
static bool fill(tl_mm_segments *p, tl_mm_segment *to, const tl_tensor *out, tl_tensor *const *g, tl_tensor *const *x, const int32_t *joins, const double *scales)
{
    int depth = 0;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t rows = g[i] && g[i]->ndim == 2 ? g[i]->dims[0] : 0;
        if (rows < 1 || rows > TL_MM_KC || !is_matrix(g[i], out->dtype, rows, p->m)) return false;
        if (!is_matrix(x[i], out->dtype, rows, p->n) || !tl_contiguous(x[i])) return false;
        if (depth == TL_MM_DEPTH || joins[i] < 0 || joins[i] > depth) return false;
        depth += 1 - joins[i];
        p->k += rows;
        to[i] = (tl_mm_segment){tl_data(g[i]), tl_data(x[i]), rows, g[i]->strides[0], scales[i], joins[i]};
    }
    return depth == 1;
}

static bool run(job *j)
{
    tl_mm_segments *p = &j->p;
    int64_t nr = tl_mm_k->nr[j->type], size = j->type ? 8 : 4, panels = ceil_div(p->n, nr), pieces = 1;
    if ((double)p->m * (double)p->n * (double)p->k >= BIG) pieces = least(panels, tl_get_num_threads());
    j->columns = ceil_div(panels, pieces) * nr;
    p->columns = least(j->columns, (BLOCK_BYTES / (p->k * nr * size) + 1) * nr);
    if (!tl_slots_new(&j->slots, pieces, (size_t)(tl_mm_segments_work(p, j->type) * size))) return false;
    tl_gil gil = tl_unlock(true);
    tl_parallel_for(run_pieces, j, ceil_div(p->n, j->columns), 1);
    tl_relock(gil);
    tl_slots_free(&j->slots);
    return true;
}

bool tl_sum_products(int n_outs, tl_tensor *const *outs, int n, tl_tensor *const *g, tl_tensor *const *x, const int32_t *joins, const double *scales, int line)
{
    const tl_tensor *first = n_outs > 0 ? outs[0] : NULL;
    if (n < 1 || !first || first->ndim != 2 || !tl_is_float(first->dtype)) return tl_fail(TL_DECLINE);
    for (int i = 0; i < n_outs; i++) {
        const tl_tensor *out = outs[i];
        if (!is_matrix(out, first->dtype, first->dims[0], first->dims[1]) || !tl_contiguous(out) || out->storage->readonly) return tl_fail(TL_DECLINE);
    }
    size_t granted;
    tl_mm_segment *segments = tl_alloc((size_t)n * sizeof *segments + (size_t)n_outs * sizeof(void *), &granted);
    if (!segments) return false;
    void **memories = (void **)(segments + n);
    for (int i = 0; i < n_outs; i++) memories[i] = tl_data(outs[i]);
    job j = {.p = {.segments = segments, .count = n, .m = first->dims[0], .n = first->dims[1], .outs = memories, .n_outs = n_outs},
             .type = first->dtype == TL_F64};
    bool ok = fill(&j.p, segments, first, g, x, joins, scales) || tl_fail(TL_DECLINE);
    if (ok && first->numel && (ok = run(&j)))
        for (int i = 0; i < n_outs; i++) tl_written(outs[i], line);
    tl_release(segments, granted);
    return ok;
}
