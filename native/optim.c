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

typedef struct group {                      /* what a step is given: arrays of n handles each, NULL where there is none of that kind */
    int n, line;
    tl_tensor *const *params, *const *grads, *const *states[MAX_STATE];
    tl_tensor *const *steps, *const *products;              /* float32 numbers: how many steps were made; NAdam's product of momenta */
    const tl_step_fn *kernels;                              /* by type */
    void *rule;                                             /* the kernel's */
    void (*count)(const struct group *a, double t, float *product);   /* makes the rule that of step t, from 1 */
    int kind;                                               /* count's own, as the next two */
    double lr, decay;
} group;

typedef struct {                            /* one parameter's share */
    tl_tensor *param, *state[MAX_STATE], *step, *product;
    tl_tensor *grad;
} slot;

/* An array that a step may write, or read. */
static bool writable(const tl_tensor *t) { return t && tl_contiguous(t) && t->storage->kind != TL_FOREIGN && !t->storage->readonly; }
static bool readable(const tl_tensor *t) { return t && tl_contiguous(t) && t->storage->kind != TL_FOREIGN; }

static bool is_count(const tl_tensor *t) { return writable(t) && t->dtype == TL_F32 && t->numel == 1; }

/* Parameter i with what belongs to it. False where a kernel can not serve it; grad NULL where it has no gradient. */
static bool fill_slot(slot *s, const group *a, int i)
{
    tl_tensor *p = a->params[i];
    if (!a->grads) tl_make_grad(p);
    *s = (slot){.param = p, .grad = a->grads ? a->grads[i] : p->grad};
    if (!s->grad) return true;
    if (!writable(p) || !tl_is_float(p->dtype) || !readable(s->grad)) return false;
    if (s->grad->dtype != p->dtype || s->grad->numel != p->numel) return false;
    for (int k = 0; k < MAX_STATE; k++) {
        if (!a->states[k]) continue;
        tl_tensor *t = a->states[k][i];
        if (!writable(t) || t->dtype != p->dtype || t->numel != p->numel) return false;
        s->state[k] = t;
    }
    if (a->steps && !is_count(s->step = a->steps[i])) return false;
    return !a->products || is_count(s->product = a->products[i]);
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
    tl_step_fn kernel;
    int size;
} pass;

static char *at(char *data, int64_t bytes) { return data ? data + bytes : NULL; }

static void step_chunk(void *arg, int64_t begin, int64_t end)
{
    const pass *a = arg;
    int64_t from = begin * a->size;
    a->kernel(a->rule, a->param + from, a->grad + from, at(a->state[0], from), at(a->state[1], from), at(a->state[2], from), end - begin);
}

/* Runs one parameter's pass. Its gradient is kept meanwhile: another thread may replace it while the GIL is free. */
static void run_slot(const slot *s, const group *g)
{
    bool wide = s->param->dtype == TL_F64;
    pass a = {.param = tl_data(s->param), .grad = tl_data(s->grad), .rule = g->rule, .kernel = g->kernels[wide], .size = wide ? 8 : 4};
    for (int k = 0; k < MAX_STATE; k++)
        if (s->state[k]) a.state[k] = tl_data(s->state[k]);
    tl_keep(s->grad);
    tl_gil gil = tl_unlock(s->param->numel >= UNLOCK);
    tl_parallel_for(step_chunk, &a, s->param->numel, GRAIN);
    tl_relock(gil);
    tl_unkeep(s->grad);
    tl_written(s->param, g->line);
    for (int k = 0; k < MAX_STATE; k++)
        if (s->state[k]) tl_written(s->state[k], g->line);
}

static float *counted(tl_tensor *t, int line)
{
    if (!t) return NULL;
    tl_written(t, line);
    return (float *)tl_data(t);
}

static bool step_group(const group *a)
{
    double last = -1;                       /* the step that the rule is for: the same throughout, as a rule */
    slot s;
    for (int i = 0; i < a->n; i++)
        if (!fill_slot(&s, a, i)) return decline();
    for (int i = 0; i < a->n; i++) {
        if (!fill_slot(&s, a, i) || !s.grad) continue;
        float *step = counted(s.step, a->line), *product = counted(s.product, a->line);
        if (step) *step += 1;
        if (step && a->count && (*step != last || product)) a->count(a, last = *step, product);
        run_slot(&s, a);
    }
    return true;
}

bool tl_sgd(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *buffers, double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize, int line)
{
    tl_sgd_rule rule = {lr, momentum, dampening, weight_decay, nesterov, maximize};
    return step_group(&(group){.n = n, .line = line, .params = params, .grads = grads, .states = {buffers}, .kernels = tl_optim_k->sgd, .rule = &rule});
}

enum { ADAM, ADAMAX, NADAM, RADAM };        /* as fused.py numbers them */

static void count_adam(const group *a, double t, float *product)
{
    tl_adam_rule *r = a->rule;
    double correction = 1 - pow(r->beta2, t);
    r->root = sqrt(correction);
    r->step_size = a->lr / (1 - pow(r->beta1, t));
    if (a->kind == NADAM) {
        double now = r->beta1 * (1 - 0.5 * pow(0.96, t * a->decay)), ahead = r->beta1 * (1 - 0.5 * pow(0.96, (t + 1) * a->decay));
        *product *= (float)now;
        r->look = a->lr * (1 - now) / (1 - (double)*product);
        r->step_size = a->lr * ahead / (1 - (double)*product * ahead);
    } else if (a->kind == RADAM) {
        double most = 2 / (1 - r->beta2) - 1, seen = most - 2 * t * pow(r->beta2, t) / correction;
        r->plain = !(seen > 5);
        if (!r->plain) r->step_size *= sqrt((seen - 4) * (seen - 2) * most / ((most - 4) * (most - 2) * seen)) * r->root;
        r->root = 1;
    }
}

bool tl_adam(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *averages, tl_tensor *const *squares, tl_tensor *const *largest, tl_tensor *const *steps, tl_tensor *const *products, int kind, double lr, double beta1, double beta2, double eps, double weight_decay, double momentum_decay, bool decoupled, bool maximize, int line)
{
    tl_adam_rule rule = {.shrink = decoupled ? 1 - lr * weight_decay : 1, .weight_decay = decoupled ? 0 : weight_decay,
                         .beta1 = beta1, .beta2 = beta2, .eps = eps, .maximize = maximize, .peak = kind == ADAMAX};
    if (!averages || !squares || !steps || (kind == NADAM && !products)) return decline();
    return step_group(&(group){.n = n, .line = line, .params = params, .grads = grads, .states = {averages, squares, largest}, .steps = steps,
                               .products = products, .kernels = tl_optim_k->adam, .rule = &rule, .count = count_adam, .kind = kind, .lr = lr,
                               .decay = momentum_decay});
}

static void count_rms(const group *a, double t, float *product)
{
    (void)product;
    ((tl_rms_rule *)a->rule)->lr = a->lr / (1 + (t - 1) * a->decay);
}

bool tl_rms(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *squares, tl_tensor *const *seconds, tl_tensor *const *buffers, tl_tensor *const *steps, double lr, double keep, double fresh, double eps, double weight_decay, double momentum, double lr_decay, bool ratio, bool maximize, int line)
{
    tl_rms_rule rule = {.keep = keep, .fresh = fresh, .weight_decay = weight_decay, .momentum = momentum, .eps = eps, .lr = lr, .maximize = maximize,
                        .ratio = ratio};
    if (!squares || (ratio && !seconds)) return decline();
    return step_group(&(group){.n = n, .line = line, .params = params, .grads = grads, .states = {squares, seconds, buffers}, .steps = steps,
                               .kernels = tl_optim_k->rms, .rule = &rule, .count = count_rms, .lr = lr, .decay = lr_decay});
}

bool tl_lion(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *averages, double lr, double beta1, double beta2, double weight_decay, bool maximize, int line)
{
    tl_lion_rule rule = {1 - lr * weight_decay, beta1, beta2, lr, maximize};
    if (!averages) return decline();
    return step_group(&(group){.n = n, .line = line, .params = params, .grads = grads, .states = {averages}, .kernels = tl_optim_k->lion, .rule = &rule});
}

void tl_clear_grads(int n, tl_tensor *const *params)
{
    for (int i = 0; i < n; i++) tl_forget_grad(params[i]);
}

/* ---- groups elsewhere: tensorlib/gpu/optim.py ---- */

/* out (n, 3): address, number of elements and dtype of each tensor, or with `grads` of its gradient; zeros where there is none. The dtype is -1
 * where it is not contiguous or has no address (a sparse one, one of another array module). */
void tl_describe(int n, tl_tensor *const *xs, bool grads, int64_t *out)
{
    for (int i = 0; i < n; i++, out += 3) {
        const tl_tensor *x = xs[i] && grads ? xs[i]->grad : xs[i];
        out[0] = out[1] = out[2] = 0;
        if (!x) continue;
        out[0] = (int64_t)(uintptr_t)tl_data(x), out[1] = x->numel;
        out[2] = tl_contiguous(x) && (out[0] || !x->numel) ? x->dtype : -1;
        if (out[2] < 0) out[0] = -1;
    }
}

void tl_all_written(int n, tl_tensor *const *xs, int line)
{
    for (int i = 0; i < n; i++)
        if (xs[i]) tl_written(xs[i], line);
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
