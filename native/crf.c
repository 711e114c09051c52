/* The driver of linear-chain random fields (crf.inc.c), its recording entry point and its gradient: for each sequence of a ragged batch, the
 * logarithm of the sum of exp(score) over all sequences of tags. A sequence is one thread's from end to end. The scores of the field get their
 * gradients from few sequences at a time, in order, and from these groups in order again. */
#include "api.h"
#include "kernels.h"
#include "operands.h"
#include "record.h"
#include "slots.h"

enum { X, SIZES, START, END, WAYS, N_IN };
enum { GROUP = 4 }; /* sequences that add into one sum */

typedef struct {
    tl_crf_task p;
    const tl_tensor *in[N_IN];
    int64_t batch, rows, width;
    tl_slots slots;
    double *numbers, *sums; /* totals, then what p's tables are in; backward: of each group */
    int64_t *starts;
    size_t granted[3];
} job;

static int64_t sums_of_group(const job *j) { return (j->p.tags + 2) * j->width; }

static void run_forward(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int slot = tl_slot_take(&j->slots);
    for (int64_t b = begin; b < end; b++) tl_crf_k->sequence(&j->p, b, tl_slot_data(&j->slots, slot), NULL);
    tl_slot_give(&j->slots, slot);
}
static void run_backward(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int slot = tl_slot_take(&j->slots);
    for (int64_t g = begin; g < end; g++) {
        double *sums = j->sums + g * sums_of_group(j);
        memset(sums, 0, (size_t)sums_of_group(j) * sizeof *sums);
        for (int64_t b = g * GROUP; b < (g + 1) * GROUP && b < j->batch; b++) tl_crf_k->sequence(&j->p, b, tl_slot_data(&j->slots, slot), sums);
    }
    tl_slot_give(&j->slots, slot);
}

/* Shapes and sizes; false (declined) where they do not fit. Writes where each step starts. */
static bool open_steps(job *j)
{
    const tl_tensor *x = j->in[X], *sizes = j->in[SIZES];
    if (!tl_is_float(x->dtype) || x->ndim != 2 || !x->dims[1] || sizes->dtype != TL_I64 || sizes->ndim != 1) return tl_fail(TL_DECLINE);
    for (int i = START; i < N_IN; i++) {
        const tl_tensor *t = j->in[i];
        if (t->dtype != x->dtype || t->ndim != 1 + (i == WAYS) || t->dims[0] != x->dims[1] || t->dims[t->ndim - 1] != x->dims[1]) return tl_fail(TL_DECLINE);
    }
    int64_t steps = sizes->dims[0], rows = 0;
    const int64_t *n = (const int64_t *)tl_data(sizes);
    if (!(j->starts = tl_alloc((size_t)(steps + 1) * sizeof *j->starts, &j->granted[0]))) return false;
    for (int64_t t = 0, most = j->batch; t < steps; most = n[t++]) {
        j->starts[t] = rows;
        if (n[t] < 1 || n[t] > most) return tl_fail(TL_DECLINE);
        rows += n[t];
    }
    j->rows = rows, j->width = tl_ctc_width(x->dims[1]);
    j->p = (tl_crf_task){.x = tl_data(x), .sizes = n, .starts = j->starts, .steps = steps, .tags = x->dims[1], .is_double = x->dtype == TL_F64};
    return rows == x->dims[0] || tl_fail(TL_DECLINE);
}

static bool open_tables(job *j)
{
    int64_t k = j->p.tags, row = 2 * j->width;
    if (!(j->numbers = tl_alloc((size_t)(j->batch + (2 + 2 * k) * row) * sizeof *j->numbers, &j->granted[1]))) return false;
    j->p.totals = j->numbers;
    j->p.ends = j->numbers + j->batch, j->p.ways = j->p.ends + 2 * row, j->p.back = j->p.ways + k * row;
    for (int64_t i = 0; i < k; i++) {
        for (int side = 0; side < 2; side++) j->p.ends[side * row + i] = tl_get_double(j->in[START + side], i);
        for (int64_t to = 0; to < k; to++) j->p.ways[i * row + to] = j->p.back[to * row + i] = tl_get_double(j->in[WAYS], i * k + to);
    }
    for (int64_t i = 0; i < 2 + 2 * k; i++) tl_crf_k->numbers(j->p.ends + i * row, k);
    return true;
}

/* Runs `body` over n tasks; `keeps`: each has the room for all of its steps. */
static bool run(job *j, tl_range_fn body, int64_t n, bool keeps)
{
    int64_t rows = TL_CRF_OWN + (keeps ? 2 * j->p.steps : 4), work = j->rows * j->width * j->p.tags * (keeps ? 4 : 1);
    if (!n || !j->rows) return true;
    if (!tl_slots_new(&j->slots, n, (size_t)(rows * j->width) * sizeof(double))) return false;
    tl_run_tasks((const tl_range_fn[2]){body, body}, TL_F64, j, n, work / n + 1);
    tl_slots_free(&j->slots);
    return true;
}

static bool open_job(job *j, const tl_tensor *const in[N_IN], int64_t batch)
{
    *j = (job){.batch = batch};
    memcpy(j->in, in, sizeof j->in);
    if (!tl_make_contiguous(j->in, N_IN)) return memset(j->in, 0, sizeof j->in), false;
    return batch >= 0 && open_steps(j) && open_tables(j);
}
static void close_job(job *j)
{
    void *rooms[] = {j->starts, j->numbers, j->sums};
    for (int i = 0; i < 3; i++)
        if (rooms[i]) tl_release(rooms[i], j->granted[i]);
    tl_drop_all(j->in, N_IN);
}

static tl_tensor *from_doubles(int dtype, int ndim, const int64_t *dims, const double *values, int64_t step)
{
    tl_tensor *t = tl_new(dtype, ndim, dims);
    int64_t width = t && ndim ? dims[ndim - 1] : 1;
    for (int64_t i = 0; t && i < t->numel; i++) tl_put_double(t, i, values[i / width * step + i % width]);
    return t;
}

static bool total_grad(job *j, const tl_tensor *g, const tl_edge *edges, tl_tensor **gin)
{
    int64_t groups = tl_blocks_of(j->batch, GROUP), each = sums_of_group(j), k = j->p.tags, numel, bytes;
    int dtype = j->in[X]->dtype;
    for (int64_t b = 0; b < j->batch; b++) j->p.totals[b] = g->dtype == TL_F64 ? ((const double *)tl_data(g))[b * g->strides[0]] : (double)((const float *)tl_data(g))[b * g->strides[0]];
    if (!tl_numel_checked(2, (int64_t[]){groups + 1, each}, sizeof(double), &numel, &bytes)) return tl_fail(TL_NOMEM);
    if (!(j->sums = tl_alloc((size_t)bytes, &j->granted[2]))) return false;
    tl_tensor *slopes = tl_new(dtype, 2, j->in[X]->dims);
    if (!slopes) return false;
    j->p.slopes = tl_data(slopes);
    if (!run(j, run_backward, j->rows ? groups : 0, true)) return tl_free(slopes), false;
    double *all = j->sums + groups * each;
    memset(all, 0, (size_t)each * sizeof *all);
    for (int64_t i = 0; j->rows && i < groups * each; i++) all[i % each] += j->sums[i];
    bool ok = true;
    for (int i = 0; i < 3; i++)
        if (edges[START + i].to) ok = (gin[START + i] = from_doubles(dtype, 1 + (i == 2), (int64_t[]){k, k}, all + i * j->width, j->width)) && ok;
    if (edges[X].to) gin[X] = slopes;
    else tl_free(slopes);
    return ok;
}

/* ---- recorded ---- */

/* ints[0]: batch */
tl_tensor *tl_crf_total(tl_tensor *x, tl_tensor *sizes, tl_tensor *start, tl_tensor *end, tl_tensor *transitions, int64_t batch, int line)
{
    tl_tensor *in[N_IN] = {x, sizes, start, end, transitions}, *out = NULL;
    for (int i = 0; i < N_IN; i++)
        if (tl_elsewhere(in[i])) return tl_fail(TL_DECLINE);
    job j;
    if (open_job(&j, (const tl_tensor *const *)in, batch)) {
        memset(j.p.totals, 0, (size_t)batch * sizeof *j.p.totals);
        if (run(&j, run_forward, batch, false)) out = from_doubles(x->dtype, 1, &batch, j.p.totals, 0);
    }
    close_job(&j);
    tl_node *node;
    out = tl_recorded_with(TL_OP_crf_total, N_IN, in, out, line, &node);
    if (node) node->ints[0] = batch;
    return out;
}

bool tl_grad_crf(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *in[N_IN];
    for (int i = 0; i < N_IN; i++)
        if (!(in[i] = tl_saved_input(n, i))) return tl_fail(TL_DECLINE);
    job j;
    bool ok = open_job(&j, in, n->ints[0]) && total_grad(&j, g, n->edges, gin);
    close_job(&j);
    return ok || tl_undo(n, gin);
}
