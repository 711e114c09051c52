/* Products of segments of rows, added in a tree: the gradient of a weight from several parts of a batch, with the bits that each part's product,
 * made by itself, and sums over memory would give, in one pass over its memory. The kernel is in matmul.inc.c. */
#include "api.h"
#include "kernels.h"
#include "slots.h"

enum { BIG = 1 << 19 };                    /* multiply-adds that threads may share */

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

static bool is_matrix(const tl_tensor *t, int dtype, int64_t rows, int64_t columns)
{
    return t && t->ndim == 2 && t->dims[0] == rows && t->dims[1] == columns && t->dtype == dtype && tl_contiguous(t) && t->storage->kind != TL_FOREIGN;
}

/* False where they are not what the kernel serves. */
static bool fill(tl_mm_segments *p, tl_mm_segment *to, const tl_tensor *out, tl_tensor *const *g, tl_tensor *const *x, const int32_t *joins, const double *scales)
{
    int depth = 0;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t rows = g[i] && g[i]->ndim == 2 ? g[i]->dims[0] : 0;
        if (rows < 1 || rows > TL_MM_KC || !is_matrix(g[i], out->dtype, rows, p->m) || !is_matrix(x[i], out->dtype, rows, p->n)) return false;
        if (depth == TL_MM_DEPTH || joins[i] < 0 || joins[i] > depth) return false;
        depth += 1 - joins[i];
        p->k += rows;
        to[i] = (tl_mm_segment){tl_data(g[i]), tl_data(x[i]), rows, scales[i], joins[i]};
    }
    return depth == 1;
}

static bool run(job *j)
{
    tl_mm_segments *p = &j->p;
    int64_t nr = tl_mm_k->nr[j->type], panels = ceil_div(p->n, nr), pieces = 1;
    if ((double)p->m * (double)p->n * (double)p->k >= BIG) pieces = least(panels, tl_get_num_threads());
    j->columns = ceil_div(panels, pieces) * nr;
    if (!tl_slots_new(&j->slots, pieces, (size_t)(tl_mm_segments_work(p, j->type) * (j->type ? 8 : 4)))) return false;
    tl_gil gil = tl_unlock(true);
    tl_parallel_for(run_pieces, j, ceil_div(p->n, j->columns), 1);
    tl_relock(gil);
    tl_slots_free(&j->slots);
    return true;
}

bool tl_sum_products(tl_tensor *out, int n, tl_tensor *const *g, tl_tensor *const *x, const int32_t *joins, const double *scales, int line)
{
    if (n < 1 || !tl_is_float(out->dtype) || out->ndim != 2 || !tl_contiguous(out) || out->storage->kind == TL_FOREIGN || out->storage->readonly)
        return tl_fail(TL_DECLINE);
    size_t granted;
    tl_mm_segment *segments = tl_alloc((size_t)n * sizeof *segments, &granted);
    if (!segments) return false;
    job j = {.p = {.segments = segments, .count = n, .m = out->dims[0], .n = out->dims[1], .c = tl_data(out)}, .type = out->dtype == TL_F64};
    bool ok = fill(&j.p, segments, out, g, x, joins, scales) || tl_fail(TL_DECLINE);
    if (ok && out->numel && (ok = run(&j))) tl_written(out, line);
    tl_release(segments, granted);
    return ok;
}
