/* Optimizer steps over whole groups of parameters: the fused versions of optim/, which holds their definitions.
 *
 * A group is checked first, so a call that declines has changed nothing; then each parameter is one pass over memory, on threads where it
 * is large. `grads` NULL: each parameter's own gradient, and parameters without one are passed over. */
#include "api.h"
#include "kernels.h"
#include "tl.h"
#include <math.h>

enum { GRAIN = 16384, UNLOCK = 8192 };      /* elements: of a thread's chunk, and from which on the GIL is released */
enum { MAX_STATE = 3 };

typedef struct {                            /* one parameter's share */
    tl_tensor *param, *state[MAX_STATE];
    tl_tensor *grad;
} slot;

/* An array that a step may write, or read. */
static bool writable(const tl_tensor *t) { return t && tl_contiguous(t) && t->storage->kind != TL_FOREIGN && !t->storage->readonly; }
static bool readable(const tl_tensor *t) { return t && tl_contiguous(t) && t->storage->kind != TL_FOREIGN; }

/* Parameter i with its gradient and n_state arrays of state (a NULL array of arrays: none of that kind). False where a kernel can not serve
 * it; grad NULL where it has no gradient. */
static bool fill_slot(slot *s, int i, tl_tensor *const *params, tl_tensor *const *grads, int n_state, tl_tensor *const *const *states)
{
    tl_tensor *p = params[i];
    *s = (slot){.param = p, .grad = grads ? grads[i] : p->grad};
    if (!s->grad) return true;
    if (!writable(p) || !tl_is_float(p->dtype) || !readable(s->grad)) return false;
    if (s->grad->dtype != p->dtype || s->grad->numel != p->numel) return false;
    for (int k = 0; k < n_state; k++) {
        if (!states[k]) continue;
        tl_tensor *t = states[k][i];
        if (!writable(t) || t->dtype != p->dtype || t->numel != p->numel) return false;
        s->state[k] = t;
    }
    return true;
}

static bool decline(void)
{
    tl_fail(TL_DECLINE);
    return false;
}

typedef struct {
    char *param, *state[MAX_STATE];
    const char *grad;
    const void *rule;
    bool wide;                              /* float64 */
} pass;

static char *at(char *data, int64_t bytes) { return data ? data + bytes : NULL; }

static void sgd_chunk(void *arg, int64_t begin, int64_t end)
{
    const pass *a = arg;
    int64_t from = begin * (a->wide ? 8 : 4);
    tl_optim_k->sgd[a->wide](a->rule, a->param + from, a->grad + from, at(a->state[0], from), end - begin);
}

static void adam_chunk(void *arg, int64_t begin, int64_t end)
{
    const pass *a = arg;
    int64_t from = begin * (a->wide ? 8 : 4);
    tl_optim_k->adam[a->wide](a->rule, a->param + from, a->grad + from, a->state[0] + from, a->state[1] + from, at(a->state[2], from), end - begin);
}

/* Runs one parameter's pass. Its gradient is kept meanwhile: another thread may replace it while the GIL is free. */
static void run_slot(const slot *s, tl_range_fn chunk, const void *rule, int line)
{
    pass a = {.param = tl_data(s->param), .grad = tl_data(s->grad), .rule = rule, .wide = s->param->dtype == TL_F64};
    for (int k = 0; k < MAX_STATE; k++)
        if (s->state[k]) a.state[k] = tl_data(s->state[k]);
    tl_keep(s->grad);
    tl_gil gil = tl_unlock(s->param->numel >= UNLOCK);
    tl_parallel_for(chunk, &a, s->param->numel, GRAIN);
    tl_relock(gil);
    tl_unkeep(s->grad);
    tl_written(s->param, line);
    for (int k = 0; k < MAX_STATE; k++)
        if (s->state[k]) tl_written(s->state[k], line);
}

bool tl_sgd(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *buffers, double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize, int line)
{
    tl_sgd_rule rule = {lr, momentum, dampening, weight_decay, nesterov, maximize};
    slot s;
    for (int i = 0; i < n; i++)
        if (!fill_slot(&s, i, params, grads, 1, &buffers)) return decline();
    for (int i = 0; i < n; i++)
        if (fill_slot(&s, i, params, grads, 1, &buffers) && s.grad) run_slot(&s, sgd_chunk, &rule, line);
    return true;
}

static bool is_step(const tl_tensor *t) { return writable(t) && t->dtype == TL_F32 && t->numel == 1; }

bool tl_adam(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *averages, tl_tensor *const *squares, tl_tensor *const *largest, tl_tensor *const *steps, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool maximize, int line)
{
    tl_tensor *const *const states[MAX_STATE] = {averages, squares, largest};
    tl_adam_rule rule = {.shrink = decoupled ? 1 - lr * weight_decay : 1, .weight_decay = decoupled ? 0 : weight_decay,
                         .beta1 = beta1, .beta2 = beta2, .eps = eps, .maximize = maximize};
    double last = -1;                       /* the step that rule.root and rule.step_size are for: the same throughout, as a rule */
    slot s;
    for (int i = 0; i < n; i++)
        if (!fill_slot(&s, i, params, grads, MAX_STATE, states) || (s.grad && !is_step(steps[i]))) return decline();
    for (int i = 0; i < n; i++) {
        if (!fill_slot(&s, i, params, grads, MAX_STATE, states) || !s.grad) continue;
        float *step = (float *)tl_data(steps[i]);
        *step += 1;
        tl_written(steps[i], line);
        if (*step != last) {
            last = *step;
            rule.root = sqrt(1 - pow(beta2, last));
            rule.step_size = lr / (1 - pow(beta1, last));
        }
        run_slot(&s, adam_chunk, &rule, line);
    }
    return true;
}

void tl_clear_grads(int n, tl_tensor *const *params)
{
    for (int i = 0; i < n; i++) {
        tl_tensor *g = params[i]->grad;
        params[i]->grad = NULL;
        tl_free(g);
    }
}

/* ---- clipping ---- */

enum { SQUARES = 8192 };                    /* elements per partial sum: part of the result */
typedef struct { const char *x; double *parts; bool wide; } squares;

static void squares_chunk(void *arg, int64_t begin, int64_t end)
{
    const squares *a = arg;
    for (int64_t i = begin; i < end; i += SQUARES)
        a->parts[i / SQUARES] = tl_optim_k->sum_of_squares[a->wide](a->x + i * (a->wide ? 8 : 4), end - i < SQUARES ? end - i : SQUARES);
}

static bool add_squares(const tl_tensor *x, double *sum)
{
    double one;
    size_t granted = 0;
    int64_t n_parts = (x->numel + SQUARES - 1) / SQUARES;
    squares a = {.x = tl_data(x), .parts = &one, .wide = x->dtype == TL_F64};
    if (n_parts > 1 && !(a.parts = tl_alloc((size_t)n_parts * sizeof *a.parts, &granted))) return false;
    tl_gil gil = tl_unlock(x->numel >= UNLOCK);
    tl_parallel_for(squares_chunk, &a, x->numel, SQUARES);
    tl_relock(gil);
    for (int64_t i = 0; i < n_parts; i++) *sum += a.parts[i];
    if (granted) tl_release(a.parts, granted);
    return true;
}

bool tl_sum_of_squares(int n, tl_tensor *const *xs, double *out)
{
    *out = 0;
    for (int i = 0; i < n; i++)
        if (!readable(xs[i]) || !tl_is_float(xs[i]->dtype)) return decline();
    for (int i = 0; i < n; i++)
        if (!add_squares(xs[i], out)) return false;
    return true;
}

typedef struct { char *x; double factor; bool wide; } scaling;

static void scale_chunk(void *arg, int64_t begin, int64_t end)
{
    const scaling *a = arg;
    tl_optim_k->scale[a->wide](a->x + begin * (a->wide ? 8 : 4), a->factor, end - begin);
}

bool tl_scale(int n, tl_tensor *const *xs, double factor, int line)
{
    for (int i = 0; i < n; i++)
        if (!writable(xs[i]) || !tl_is_float(xs[i]->dtype)) return decline();
    for (int i = 0; i < n; i++) {
        scaling a = {.x = tl_data(xs[i]), .factor = factor, .wide = xs[i]->dtype == TL_F64};
        tl_gil gil = tl_unlock(xs[i]->numel >= UNLOCK);
        tl_parallel_for(scale_chunk, &a, xs[i]->numel, GRAIN);
        tl_relock(gil);
        tl_written(xs[i], line);
    }
    return true;
}
