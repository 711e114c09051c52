/* The driver of the loss of labels without places (ctc.inc.c), its recording entry point and its gradient. A sequence is one thread's from
 * end to end, and its numbers are those it has alone. Where a gradient will be asked for, the slopes are made with the losses: backward
 * multiplies. */
#include <math.h>
#include "api.h"
#include "kernels.h"
#include "operands.h"
#include "record.h"
#include "slots.h"

typedef struct {
    tl_ctc_task p;
    tl_slots slots;
    int64_t work, rows, width; /* work: states of all steps and sequences, and elements of the slopes */
} job;

static void run_sequences(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int slot = tl_slot_take(&j->slots);
    for (int64_t b = begin; b < end; b++) tl_ctc_k->sequence(&j->p, b, tl_slot_data(&j->slots, slot));
    tl_slot_give(&j->slots, slot);
}

/* Shapes, lengths and labels; false (declined) where they do not fit. Learns how large the widest sequence and the longest one are. */
static bool open_job(job *j, const tl_tensor *x, const tl_tensor *const in[3], int64_t blank)
{
    const tl_tensor *targets = in[0];
    bool fits = tl_is_float(x->dtype) && x->ndim == 3 && targets->dtype == TL_I64 && targets->ndim == 2 && targets->dims[0] == x->dims[1];
    for (int i = 1; i < 3; i++) fits = fits && in[i]->dtype == TL_I64 && in[i]->ndim == 1 && in[i]->dims[0] == x->dims[1];
    if (!fits || blank < 0 || blank >= x->dims[2]) return tl_fail(TL_DECLINE);
    *j = (job){.p = {.x = tl_data(x), .strides = {x->strides[0], x->strides[1], x->strides[2]}, .steps = x->dims[0], .batch = x->dims[1],
                     .classes = x->dims[2], .longest = targets->dims[1], .blank = blank, .targets = tl_data_or_null(targets),
                     .inputs = tl_data_or_null(in[1]), .counts = tl_data_or_null(in[2]), .is_double = x->dtype == TL_F64}};
    tl_ctc_task *p = &j->p;
    for (int64_t b = 0; b < p->batch; b++) {
        int64_t steps = p->inputs[b], labels = p->counts[b];
        if (steps < 0 || steps > p->steps || labels < 0 || labels > p->longest) return tl_fail(TL_DECLINE);
        for (int64_t i = 0; i < labels; i++) {
            int64_t label = p->targets[b * p->longest + i];
            if (label < 0 || label >= p->classes || label == blank) return tl_fail(TL_DECLINE);
        }
        int64_t width = tl_ctc_width(labels);
        if (steps > j->rows) j->rows = steps;
        if (width > j->width) j->width = width;
        j->work += 2 * steps * width;
    }
    return true;
}

/* One for each sequence: what its slopes are multiplied by, and behind those its loss. */
static double *new_numbers(const job *j, bool mean, size_t *granted)
{
    double *numbers = tl_alloc((size_t)j->p.batch * 2 * sizeof *numbers, granted);
    for (int64_t b = 0; numbers && b < j->p.batch; b++) {
        int64_t count = j->p.counts[b];
        numbers[b] = mean ? 1 / ((double)j->p.batch * (double)(count ? count : 1)) : 1;
    }
    return numbers;
}

/* Runs all sequences. False: no memory. */
static bool run(job *j)
{
    int64_t numel, bytes, rows = TL_CTC_OWN + 4 * (j->p.slopes ? j->rows + 1 : 2);
    if (!j->p.batch) return true;
    if (!tl_numel_checked(2, (int64_t[]){rows, j->width + 8}, sizeof(double), &numel, &bytes) || bytes > INT64_MAX / TL_MAX_SLOTS) return tl_fail(TL_NOMEM);
    if (!tl_slots_new(&j->slots, j->p.batch, (size_t)bytes)) return false;
    if (j->p.slopes) j->work += j->work + j->p.steps * j->p.batch * j->p.classes;
    tl_run_tasks((const tl_range_fn[2]){run_sequences, run_sequences}, TL_F64, j, j->p.batch, j->work / j->p.batch + 1);
    tl_slots_free(&j->slots);
    return true;
}

/* *slopes: of the sum or mean, or (reduction none) of each loss; NULL: not wanted */
static tl_tensor *ctc(const tl_tensor *x, const tl_tensor *const given[3], int64_t blank, int reduction, bool zero_infinity, tl_tensor **slopes)
{
    const tl_tensor *in[3] = {given[0], given[1], given[2]};
    job j;
    if (!tl_make_contiguous(in, 3)) return NULL;
    tl_tensor *out = NULL;
    size_t granted = 0;
    double *numbers = NULL;
    bool ok = open_job(&j, x, in, blank) && (numbers = new_numbers(&j, reduction == TL_REDUCE_MEAN, &granted)) &&
              (!slopes || (*slopes = tl_new(x->dtype, 3, x->dims)));
    if (ok) {
        int64_t batch = j.p.batch;
        double sum = 0;
        j.p.scale = numbers, j.p.losses = numbers + batch, j.p.zero_infinity = zero_infinity;
        j.p.slopes = slopes ? tl_data(*slopes) : NULL;
        ok = run(&j);
        for (int64_t b = 0; ok && b < batch; b++) sum += j.p.losses[b] * j.p.scale[b];
        out = !ok ? NULL : reduction == TL_REDUCE_NONE ? tl_new(x->dtype, 1, &batch) : tl_scalar_of(x->dtype, batch || reduction == TL_REDUCE_SUM ? sum : (double)NAN);
        for (int64_t b = 0; out && reduction == TL_REDUCE_NONE && b < batch; b++) tl_put_double(out, b, j.p.losses[b]);
    }
    if (numbers) tl_release(numbers, granted);
    tl_drop_all(in, 3);
    if (!out && slopes) tl_free(*slopes), *slopes = NULL;
    return out;
}

/* ---- recorded ---- */

/* ints: blank, reduction, zero_infinity; extra: the slopes */
tl_tensor *tl_ctc_loss(tl_tensor *x, tl_tensor *targets, tl_tensor *inputs, tl_tensor *counts, int64_t blank, int reduction, bool zero_infinity, int line)
{
    tl_tensor *in[4] = {x, targets, inputs, counts}, *slopes = NULL;
    for (int i = 0; i < 4; i++)
        if (tl_elsewhere(in[i])) return tl_fail(TL_DECLINE);
    tl_node *node;
    tl_tensor *loss = ctc(x, (const tl_tensor *const *)in + 1, blank, reduction, zero_infinity, tl_grad_enabled && tl_tracks(x) ? &slopes : NULL);
    tl_tensor *out = tl_recorded_with(TL_OP_ctc_loss, 4, in, loss, line, &node);
    if (node) {
        node->ints[0] = blank, node->ints[1] = reduction, node->ints[2] = zero_infinity;
        tl_keep_extra(node, 0, slopes);
    }
    tl_free(slopes);
    return out;
}

bool tl_grad_ctc(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *slopes = tl_saved_extra(n, 0);
    if (!slopes) return tl_fail(TL_DECLINE);
    bool each = n->ints[1] == TL_REDUCE_NONE;
    tl_tensor *column = each ? tl_new_view(g, 2, (int64_t[]){g->dims[0], 1}, (int64_t[]){g->strides[0], 1}, g->offset) : NULL;
    if (!each || column) gin[0] = arr_binary(TL_OP_mul, slopes, each ? column : g);
    tl_free(column);
    return gin[0];
}
