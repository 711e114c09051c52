/* Recurrent layers over ragged batches: steps, rows and threads. The gates are in recurrent.inc.c, the products are matmul's.
 *
 *     act      x W_ih^T + b_ih, one product for all rows of all steps; the steps turn it into the gates
 *     a step   product = h W_hh^T for the rows of the step, then the gates; both directions at once, each at its own end
 *     back     the same steps in reverse: the gates' gradients, then their product with W_hh for the step before
 *     weights  one product each, over all rows
 *
 * The rows of step t are the first sizes[t] sequences, so what came before row i is row i of the step before (its place among the results) or, where
 * the sequence has no such step, row i of the initial state. Every row is computed by itself, so its bits are those of its sequence alone. Units
 * are cut into pieces for the threads: where an element is computed does not matter to its bits. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include "operands.h"
#include "record.h"

enum { BIG = 1 << 20, SHARED = 1 << 19 };      /* multiply-adds: of all steps, from where the GIL is released; of one step, that threads share */

typedef struct {
    char *data;
    size_t granted;
} room;

/* The layer with operands that lie side by side, where loops read them by address; dropped in the end. */
enum { N_OWN = 7 };
typedef struct { tl_recurrent p; const tl_tensor *own[N_OWN]; } tidy;
static bool tidy_up(tidy *t, const tl_recurrent *p)
{
    *t = (tidy){*p, {p->sizes, p->h0, p->c0, p->b_ih[0], p->b_hh[0], p->b_ih[1], p->b_hh[1]}};
    if (!tl_make_contiguous(t->own, N_OWN)) return false;
    t->p.sizes = t->own[0], t->p.h0 = t->own[1], t->p.c0 = t->own[2];
    for (int d = 0; d < 2; d++) t->p.b_ih[d] = t->own[3 + 2 * d], t->p.b_hh[d] = t->own[4 + 2 * d];
    return true;
}

typedef struct {
    const char *h0, *c0, *b_hh;                /* (batch, h); NULL: zeros */
    char *act, *extra, *panels, *product;
    char *g_act, *g_product, *carry, *c_carry, *back;  /* backward */
    const char *out, *g_out;                   /* this direction's columns */
} direction;

typedef struct {
    int kind, dirs, type;
    bool backward, products;                   /* products: W_hh comes in; off where the one step has been multiplied before */
    int64_t steps, rows, batch, h, gates, item, cuts, now;
    const int64_t *sizes, *starts;             /* of each step: its rows, and the first of them */
    direction dir[2];
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static bool room_new(room *r, int64_t items, int64_t size) { return (r->data = tl_alloc((size_t)(items * size), &r->granted)); }
static void room_free(room *r)
{
    if (r->data) tl_release(r->data, r->granted);
}

/* ---- one step ---- */

/* The step that direction d does k-th, forward; and the one before it in that direction (-1: none). */
static int64_t step_of(const job *j, int d, int64_t k) { return d ? j->steps - 1 - k : k; }
static int64_t step_before(const job *j, int d, int64_t t)
{
    int64_t p = d ? t + 1 : t - 1;
    return p < j->steps ? p : -1;
}

/* Rows [from, to) of step t that were in step p before it (p < 0: that start here): everything the gates read and write. */
static tl_recurrent_step place(const job *j, const direction *d, int64_t t, int64_t p, int64_t from, int64_t to)
{
    int64_t row = (j->starts[t] + from) * j->item, h = j->h, out_step = j->dirs * h, state = from * h * j->item;
    tl_recurrent_step s = {.rows = to - from, .h = h, .gates = j->gates, .out_step = out_step, .bias = d->b_hh};
    s.act = d->act + row * j->gates * h;
    s.extra = d->extra ? d->extra + row * h : NULL;
    s.out = (char *)(uintptr_t)d->out + row * out_step;
    if (p >= 0) {
        s.before = d->out + (j->starts[p] + from) * out_step * j->item, s.before_step = out_step;
        s.c_before = d->extra ? d->extra + (j->starts[p] + from) * h * j->item : NULL;
    } else {
        s.before = d->h0 ? d->h0 + state : NULL, s.before_step = h;
        s.c_before = d->c0 ? d->c0 + state : NULL;
    }
    if (!j->backward) {
        s.product = d->product && s.before ? d->product + from * j->gates * h * j->item : NULL;
        return s;
    }
    s.g_out = d->g_out ? d->g_out + row * out_step : NULL;
    s.back = d->back + state, s.carry = d->carry + state, s.c_carry = d->c_carry ? d->c_carry + state : NULL;
    s.g_act = d->g_act + row * j->gates * h, s.g_product = d->g_product + row * j->gates * h;
    return s;
}

/* Gate by gate, product = before W_hh^T for units [u0, u1). */
static void multiply(const job *j, const direction *d, const tl_recurrent_step *s, int64_t u0, int64_t u1)
{
    int64_t wide = tl_mm_wide(j->h, j->type);
    tl_mm p = {.a = s->before, .ams = s->before_step, .aks = 1, .k = j->h, .ldc = j->gates * j->h, .packed_wide = wide};
    for (int64_t k = 0; k < j->gates; k++) {
        p.packed = d->panels + k * j->h * wide * j->item;
        p.c = (char *)(uintptr_t)s->product + k * j->h * j->item;
        tl_mm_k->packed[j->type](&p, 0, s->rows, u0, u1, NULL);
    }
}

static void forward_units(const job *j, int which, int64_t u0, int64_t u1)
{
    const direction *d = &j->dir[which];
    int64_t t = step_of(j, which, j->now), p = step_before(j, which, t), n = j->sizes[t], old = p >= 0 ? least(j->sizes[p], n) : 0;
    for (int part = 0; part < 2; part++) {     /* rows that go on, rows that begin */
        int64_t from = part ? old : 0, to = part ? n : old;
        if (from == to) continue;
        tl_recurrent_step s = place(j, d, t, part ? -1 : p, from, to);
        s.first = u0, s.end = u1;
        if (s.product && j->products) multiply(j, d, &s, u0, u1);
        tl_recurrent_k->forward[j->kind][j->type](&s);
    }
}

/* back = the gradients of step t's products times W_hh, for units [u0, u1). */
static void multiply_back(const job *j, const direction *d, int64_t t, int64_t u0, int64_t u1)
{
    int64_t width = j->gates * j->h;
    tl_mm p = {.a = d->g_product + j->starts[t] * width * j->item, .c = d->back, .ams = width, .aks = 1, .k = width, .ldc = j->h,
               .packed = d->panels, .packed_wide = tl_mm_wide(j->h, j->type)};
    tl_mm_k->packed[j->type](&p, 0, j->sizes[t], u0, u1, NULL);
}

/* Step now - 1 is finished where there is one: its product, then the gates of step now (none after the last). */
static void backward_units(const job *j, int which, int64_t u0, int64_t u1)
{
    const direction *d = &j->dir[which];
    int64_t k = j->steps - 1 - j->now;
    if (j->now && j->products) multiply_back(j, d, step_of(j, which, k + 1), u0, u1);
    if (k < 0) return;
    int64_t t = step_of(j, which, k), p = step_before(j, which, t), n = j->sizes[t], old = p >= 0 ? least(j->sizes[p], n) : 0;
    for (int part = 0; part < 2; part++) {
        int64_t from = part ? old : 0, to = part ? n : old;
        if (from == to) continue;
        tl_recurrent_step s = place(j, d, t, part ? -1 : p, from, to);
        s.first = u0, s.end = u1;
        tl_recurrent_k->backward[j->kind][j->type](&s);
    }
}

/* Pieces of step `now`: cuts of the units, direction by direction. */
static void run_pieces(void *arg, int64_t begin, int64_t end)
{
    const job *j = arg;
    int64_t nr = tl_mm_k->nr[j->type], panels = (j->h + nr - 1) / nr;
    for (int64_t i = begin; i < end; i++) {
        int64_t cut = i % j->cuts, u0 = cut * panels / j->cuts * nr, u1 = least(j->h, (cut + 1) * panels / j->cuts * nr);
        if (u0 >= u1) continue;
        (j->backward ? backward_units : forward_units)(j, (int)(i / j->cuts), u0, u1);
    }
}

/* All steps, one after the other; backward, `beyond` of them come after the last one: its product alone. */
static void run_steps(job *j, int64_t beyond)
{
    int64_t threads = tl_get_num_threads(), each = j->gates * j->h * j->h * j->dirs;
    bool big = j->rows * each >= BIG;
    tl_gil gil = tl_unlock(big);
    for (j->now = 0; j->now < j->steps + beyond; j->now++) {
        int64_t k = least(j->now, j->steps - 1), t = j->backward ? j->steps - 1 - k : k;
        int64_t rows = j->dirs == 2 ? (j->sizes[t] + j->sizes[j->steps - 1 - t] + 1) / 2 : j->sizes[t];
        bool shared = threads > 1 && rows * each >= SHARED;
        j->cuts = shared ? (threads + j->dirs - 1) / j->dirs : 1;
        if (shared) tl_parallel_for(run_pieces, j, j->dirs * j->cuts, 1);
        else run_pieces(j, 0, j->dirs);
    }
    tl_relock(gil);
}

/* ---- the layer ---- */

static bool is_vector(const tl_tensor *b, const tl_tensor *like, int64_t n)
{
    return !b || (b->dtype == like->dtype && b->ndim == 1 && b->dims[0] == n);
}
static bool is_state(const tl_tensor *s, const tl_recurrent *p, int64_t h)
{
    return !s || (s->dtype == p->x->dtype && s->ndim == 3 && s->dims[0] == p->dirs && s->dims[1] == p->batch && s->dims[2] == h);
}

/* Sizes and dtypes; false: they do not fit, or the kernels are not made for them. Writes where each step starts, `steps` of them. */
static bool open_job(job *j, const tl_recurrent *p, room *starts)
{
    const tl_tensor *x = p->x, *sizes = p->sizes;
    *j = (job){.kind = p->kind, .dirs = p->dirs, .type = x->dtype == TL_F64, .item = tl_itemsize[x->dtype], .batch = p->batch, .gates = tl_recurrent_gates(p->kind)};
    if (!tl_is_float(x->dtype) || x->ndim != 2 || sizes->dtype != TL_I64 || sizes->ndim != 1) return tl_fail(TL_DECLINE);
    if (p->w_hh[0]->ndim != 2 || !(j->h = p->w_hh[0]->dims[1])) return tl_fail(TL_DECLINE);
    for (int d = 0; d < p->dirs; d++) {
        const tl_tensor *w = p->w_ih[d], *u = p->w_hh[d];
        bool fits = w->dtype == x->dtype && u->dtype == x->dtype && w->ndim == 2 && u->ndim == 2 && w->dims[0] == j->gates * j->h &&
                    w->dims[1] == x->dims[1] && u->dims[0] == j->gates * j->h && u->dims[1] == j->h;
        if (!fits || !is_vector(p->b_ih[d], x, w->dims[0]) || !is_vector(p->b_hh[d], x, w->dims[0])) return tl_fail(TL_DECLINE);
    }
    if (!is_state(p->h0, p, j->h) || !is_state(p->c0, p, j->h)) return tl_fail(TL_DECLINE);
    j->steps = sizes->dims[0];
    j->sizes = (const int64_t *)tl_data(sizes);
    if (!room_new(starts, j->steps + 1, sizeof(int64_t))) return false;
    int64_t *at = (int64_t *)starts->data;
    for (int64_t t = 0, most = p->batch; t < j->steps; most = j->sizes[t++]) {
        at[t] = j->rows;
        if (j->sizes[t] < 1 || j->sizes[t] > most) return tl_fail(TL_DECLINE);
        j->rows += j->sizes[t];
    }
    j->starts = at;
    return j->rows == x->dims[0] || tl_fail(TL_DECLINE);
}

typedef struct { const job *j; const tl_tensor *w; char *out; int64_t step, wide, k; } packing;
/* Task i: gate i of W_hh^T (h, h) by itself, so that a cut of the units is a cut of panels. */
static void pack_gates(void *arg, int64_t begin, int64_t end)
{
    const packing *p = arg;
    for (int64_t g = begin; g < end; g++)
        for (int64_t k0 = 0; k0 < p->k; k0 += p->step) {
            const char *from = (char *)tl_data(p->w) + (g * p->j->h * p->w->strides[0] + k0 * p->w->strides[1]) * p->j->item;
            tl_mm_k->pack_columns[p->j->type](p->out + (g * p->k + k0) * p->wide * p->j->item, from, p->j->h, least(p->step, p->k - k0),
                                              p->w->strides[0], p->w->strides[1]);
        }
}
/* Task i: block i over K of W_hh (gates h, h). */
static void pack_blocks(void *arg, int64_t begin, int64_t end)
{
    const packing *p = arg;
    for (int64_t b = begin; b < end; b++) {
        int64_t k0 = b * p->step;
        tl_mm_k->pack_columns[p->j->type](p->out + k0 * p->wide * p->j->item, (char *)tl_data(p->w) + k0 * p->w->strides[0] * p->j->item, p->j->h,
                                          least(p->step, p->k - k0), p->w->strides[1], p->w->strides[0]);
    }
}
static bool pack_weights(const job *j, const tl_tensor *w, room *to)
{
    int64_t k = j->backward ? j->gates * j->h : j->h, wide = tl_mm_wide(j->h, j->type), step = tl_mm_block(k);
    if (!room_new(to, j->gates * j->h * wide, j->item)) return false;
    packing p = {j, w, to->data, step, wide, k};
    if (j->backward) tl_parallel_for(pack_blocks, &p, (k + step - 1) / step, 1);
    else tl_parallel_for(pack_gates, &p, j->gates, 1);
    return true;
}

/* ---- forward ---- */

static int64_t last_step_of(const job *j, int64_t row)
{
    int64_t low = 0, high = j->steps - 1;
    while (low < high) {
        int64_t mid = (low + high + 1) / 2;
        if (j->sizes[mid] > row) low = mid;
        else high = mid - 1;
    }
    return low;
}

/* The last state of each sequence: of its last step going forward, of step 0 going backward; of an empty one, the initial state. */
static void take_last(const job *j, int which, char *to, const char *from, int64_t step, const char *initial)
{
    int64_t bytes = j->h * j->item;
    for (int64_t row = 0; row < j->batch; row++) {
        bool empty = !j->steps || row >= j->sizes[0];
        const char *source = empty ? initial : from + (j->starts[which ? 0 : last_step_of(j, row)] + row) * step * j->item;
        if (empty && initial) source += row * bytes;
        if (source) memcpy(to + row * bytes, source, (size_t)bytes);
        else memset(to + row * bytes, 0, (size_t)bytes);
    }
}

static tl_tensor *new_states(const job *j, int dtype) { return tl_new(dtype, 3, (int64_t[]){j->dirs, j->batch, j->h}); }

/* The first rows of direction d's initial state, which the one step reads. */
static tl_tensor *first_rows(const tl_tensor *h0, int d, int64_t rows)
{
    return tl_new_view(h0, 2, (int64_t[]){rows, h0->dims[2]}, NULL, h0->offset + d * h0->dims[1] * h0->dims[2]);
}

static char *direction_of(const tl_tensor *t, int d) { return t ? tl_data(t) + d * (t->numel / t->dims[0]) * tl_itemsize[t->dtype] : NULL; }

static bool open_forward(job *j, const tl_recurrent *p, tl_recurrent_results *r, room *rooms, tl_tensor **product)
{
    int dtype = p->x->dtype;
    int64_t rows = j->steps ? j->sizes[0] : 0;
    bool lstm = j->kind == TL_LSTM, extra = lstm || j->kind == TL_GRU;
    if (!(r->out = tl_new(dtype, 2, (int64_t[]){j->rows, j->dirs * j->h})) || !(r->h_n = new_states(j, dtype))) return false;
    if (lstm && !(r->c_n = new_states(j, dtype))) return false;
    if (extra && !(r->extra = tl_new(dtype, 3, (int64_t[]){j->dirs, j->rows, j->h}))) return false;
    j->products = j->steps > 1;
    for (int d = 0; d < j->dirs; d++) {
        direction *to = &j->dir[d];
        if (!(r->act[d] = arr_linear(p->x, p->w_ih[d], p->b_ih[d]))) return false;
        *to = (direction){.h0 = direction_of(p->h0, d), .c0 = direction_of(p->c0, d), .b_hh = tl_data_or_null(p->b_hh[d]), .act = tl_data(r->act[d]),
                          .extra = direction_of(r->extra, d), .out = tl_data(r->out) + d * j->h * j->item};
        if (j->products) {
            if (!pack_weights(j, p->w_hh[d], &rooms[2 * d]) || !room_new(&rooms[2 * d + 1], rows * j->gates * j->h, j->item)) return false;
            to->panels = rooms[2 * d].data;
            to->product = rooms[2 * d + 1].data;
        } else if (p->h0 && rows) {
            tl_tensor *h = first_rows(p->h0, d, rows);
            product[d] = h ? arr_linear(h, p->w_hh[d], NULL) : NULL;
            tl_free(h);
            if (!product[d]) return false;
            to->product = tl_data(product[d]);
        }
    }
    return true;
}

bool arr_recurrent(const tl_recurrent *given, tl_recurrent_results *r)
{
    tidy t;
    if (!tidy_up(&t, given)) return false;
    const tl_recurrent *p = &t.p;
    job j;
    room starts = {0}, rooms[4] = {{0}};
    tl_tensor *product[2] = {NULL};
    *r = (tl_recurrent_results){0};
    bool ok = open_job(&j, p, &starts) && open_forward(&j, p, r, rooms, product);
    if (ok) {
        run_steps(&j, 0);
        for (int d = 0; d < j.dirs; d++) {
            take_last(&j, d, direction_of(r->h_n, d), j.dir[d].out, j.dirs * j.h, j.dir[d].h0);
            if (r->c_n) take_last(&j, d, direction_of(r->c_n, d), j.dir[d].extra, j.h, j.dir[d].c0);
        }
    } else {
        tl_recurrent_drop(r);
    }
    for (int i = 0; i < 4; i++) room_free(&rooms[i]);
    for (int d = 0; d < 2; d++) tl_free(product[d]);
    room_free(&starts);
    tl_drop_all(t.own, N_OWN);
    return ok;
}

void tl_recurrent_drop(tl_recurrent_results *r)
{
    tl_tensor *made[] = {r->out, r->h_n, r->c_n, r->act[0], r->act[1], r->extra};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) tl_free(made[i]);
    *r = (tl_recurrent_results){0};
}

/* ---- backward ---- */
enum { WANT_X, WANT_H0, WANT_C0, WANT_WEIGHTS }; /* then four of each direction */
enum { W_IH, W_HH, B_IH, B_HH };

typedef struct {
    const tl_tensor *g[3];
    tl_tensor *g_act[2], *g_product[2], *carry, *c_carry, *back;
    room panels[2];
} backward_job;

static tl_tensor *copy_or_zeros(const tl_tensor *g, const job *j, int dtype)
{
    if (g) return arr_cast(g, dtype);
    tl_tensor *t = new_states(j, dtype);
    if (t && !arr_fill(t, 0)) tl_free(t), t = NULL;
    return t;
}

static bool open_backward(job *j, const tl_recurrent *p, const tl_recurrent_results *r, backward_job *b)
{
    int dtype = p->x->dtype;
    int64_t width = j->gates * j->h;
    j->backward = true;
    j->products = j->steps > 1;
    if (!(b->carry = copy_or_zeros(b->g[1], j, dtype)) || !(b->back = copy_or_zeros(NULL, j, dtype))) return false;
    if (j->kind == TL_LSTM && !(b->c_carry = copy_or_zeros(b->g[2], j, dtype))) return false;
    for (int d = 0; d < j->dirs; d++) {
        if (!(b->g_act[d] = tl_new(dtype, 2, (int64_t[]){j->rows, width}))) return false;
        if (j->kind != TL_GRU) tl_own(b->g_product[d] = b->g_act[d]);
        else if (!(b->g_product[d] = tl_new(dtype, 2, (int64_t[]){j->rows, width}))) return false;
        if (j->products && !pack_weights(j, p->w_hh[d], &b->panels[d])) return false;
        j->dir[d] = (direction){.h0 = direction_of(p->h0, d), .c0 = direction_of(p->c0, d), .act = tl_data(r->act[d]), .extra = direction_of(r->extra, d),
                                .panels = b->panels[d].data, .g_act = tl_data(b->g_act[d]), .g_product = tl_data(b->g_product[d]),
                                .carry = direction_of(b->carry, d), .c_carry = direction_of(b->c_carry, d), .back = direction_of(b->back, d),
                                .out = tl_data(r->out) + d * j->h * j->item,
                                .g_out = b->g[0] ? tl_data(b->g[0]) + d * j->h * j->item : NULL};
    }
    return true;
}

/* What each row of a step saw: (N, H), the state before it. */
static tl_tensor *states_before(const job *j, int which, int dtype)
{
    tl_tensor *t = tl_new(dtype, 2, (int64_t[]){j->rows, j->h});
    const direction *d = &j->dir[which];
    int64_t bytes = j->h * j->item;
    for (int64_t step = 0; t && step < j->steps; step++) {
        int64_t p = step_before(j, which, step), old = p >= 0 ? least(j->sizes[p], j->sizes[step]) : 0;
        char *to = tl_data(t) + j->starts[step] * bytes;
        for (int64_t row = 0; row < j->sizes[step]; row++, to += bytes) {
            const char *from = row < old ? d->out + (j->starts[p] + row) * j->dirs * bytes : d->h0 ? d->h0 + row * bytes : NULL;
            if (from) memcpy(to, from, (size_t)bytes);
            else memset(to, 0, (size_t)bytes);
        }
    }
    return t;
}

static bool add_into(tl_tensor **sum, tl_tensor *more)
{
    if (!more) return false;
    if (!*sum) return (*sum = more);
    bool ok = arr_binary_into(TL_OP_add, *sum, *sum, more);
    tl_free(more);
    return ok;
}

static bool weight_gradient(const tl_wanted *w, const tl_tensor *g, const tl_tensor *x) { return !w->to || tl_weight_gradient(w->edge, g, x, w->to); }

/* Gradients of the input and of the weights: products over all rows. */
static bool finish_direction(const job *j, const tl_recurrent *p, const backward_job *b, int d, const tl_wanted want[])
{
    const tl_wanted *w = want + WANT_WEIGHTS + 4 * d;
    const tl_tensor *g = b->g_act[d], *of_state = b->g_product[d];
    if (want[WANT_X].to && !add_into(want[WANT_X].to, arr_linear_grad_input(g, p->w_ih[d]))) return false;
    if (!weight_gradient(&w[W_IH], g, p->x) || !weight_gradient(&w[B_IH], g, NULL) || !weight_gradient(&w[B_HH], of_state, NULL)) return false;
    tl_tensor *before = w[W_HH].to ? states_before(j, d, p->x->dtype) : NULL;
    bool ok = !w[W_HH].to || (before && weight_gradient(&w[W_HH], of_state, before));
    tl_free(before);
    return ok;
}

/* to = g W_hh, where the weights were not packed. */
static bool multiply_whole(const job *j, const tl_tensor *g, const tl_tensor *w, char *to)
{
    if (j->h == 1) { /* a product with a single column runs as dot products, which add in another order than steps do */
        tl_mm p = {.a = tl_data(g), .b = tl_data(w), .c = to, .k = j->gates, .ams = j->gates, .aks = 1, .bks = w->strides[0], .bns = 1, .ldc = 1};
        tl_mm_k->direct[j->type](&p, 0, j->rows, 0, 1);
        return true;
    }
    tl_tensor *made = arr_linear_grad_input(g, w);
    if (made) memcpy(to, tl_data(made), (size_t)(made->numel * j->item));
    tl_free(made);
    return made;
}

/* carry := the gradient of the initial state: what is left of it and of back. */
static bool finish_state(const job *j, const tl_recurrent *p, backward_job *b)
{
    if (j->steps == 1)
        for (int d = 0; d < j->dirs; d++) {
            if (!multiply_whole(j, b->g_product[d], p->w_hh[d], j->dir[d].back)) return false;
        }
    return arr_binary_into(TL_OP_add, b->carry, b->carry, b->back);
}

bool arr_recurrent_grad(const tl_recurrent *given, const tl_recurrent_results *r, const tl_tensor *const g[3], const tl_wanted want[11])
{
    tidy t;
    job j;
    room starts = {0};
    backward_job b = {.g = {g[0], g[1], g[2]}};
    if (!tl_make_contiguous(b.g, 3)) return false;
    if (!tidy_up(&t, given)) return tl_drop_all(b.g, 3), false;
    const tl_recurrent *p = &t.p;
    bool ok = open_job(&j, p, &starts) && open_backward(&j, p, r, &b);
    if (ok) {
        run_steps(&j, want[WANT_H0].to && j.products);
        for (int d = 0; ok && d < j.dirs; d++) ok = finish_direction(&j, p, &b, d, want);
        if (ok && want[WANT_H0].to && (ok = finish_state(&j, p, &b))) tl_own(*want[WANT_H0].to = b.carry);
        if (ok && want[WANT_C0].to) tl_own(*want[WANT_C0].to = b.c_carry);
    }
    for (int i = 0; !ok && i < WANT_WEIGHTS + 4 * p->dirs; i++)
        if (want[i].to) tl_free(*want[i].to), *want[i].to = NULL;
    for (int d = 0; d < 2; d++) tl_free(b.g_act[d]), tl_free(b.g_product[d]), room_free(&b.panels[d]);
    tl_free(b.carry), tl_free(b.c_carry), tl_free(b.back);
    tl_drop_all(b.g, 3);
    tl_drop_all(t.own, N_OWN);
    room_free(&starts);
    return ok;
}

/* ---- recorded ---- */
enum { LSTM_IN = 12, OTHER_IN = 11 };

/* The operands of an entry, in its order: x, batch_sizes, h0, (LSTM) c0, then w_ih, w_hh, b_ih, b_hh of each direction. */
static tl_recurrent layer_of(int kind, int64_t batch, const tl_tensor *const *in)
{
    const tl_tensor *const *w = in + (kind == TL_LSTM ? 4 : 3);
    tl_recurrent p = {.kind = kind, .dirs = w[4] ? 2 : 1, .batch = batch, .x = in[0], .sizes = in[1], .h0 = in[2], .c0 = kind == TL_LSTM ? in[3] : NULL};
    for (int d = 0; d < p.dirs; d++) p.w_ih[d] = w[4 * d], p.w_hh[d] = w[4 * d + 1], p.b_ih[d] = w[4 * d + 2], p.b_hh[d] = w[4 * d + 3];
    return p;
}

/* ints: kind, batch; extra: act of each direction, extra. outs: out, h_n, (LSTM) c_n */
bool tl_recurrent_layer(int kind, tl_tensor *const *in, int64_t batch, int line, uintptr_t *outs)
{
    int n_in = kind == TL_LSTM ? LSTM_IN : OTHER_IN, n_out = kind == TL_LSTM ? 3 : 2;
    bool tracked = false;
    uint64_t needs = TL_OUT(0);
    for (int i = 0; i < n_in; i++) {
        if (tl_elsewhere(in[i])) return tl_fail(TL_DECLINE);
        if (in[i]) needs |= TL_IN(i);
        tracked |= tl_tracks(in[i]);
    }
    tl_recurrent p = layer_of(kind, batch, (const tl_tensor *const *)in);
    tl_recurrent_results r;
    if (!p.x || !p.sizes || !p.w_ih[0] || !p.w_hh[0] || (p.dirs == 2 && !p.w_hh[1])) return tl_fail(TL_DECLINE);
    if (!arr_recurrent(&p, &r)) return false;
    tl_tensor *made[3] = {r.out, r.h_n, r.c_n};
    if (tracked && tl_grad_enabled) {
        tl_node *node = tl_record_many(kind == TL_LSTM ? TL_OP_lstm : TL_OP_recurrent, n_in, in, n_out, made, needs, line);
        if (!node) return tl_recurrent_drop(&r), false;
        node->ints[0] = kind, node->ints[1] = batch;
        tl_keep_extra(node, 0, r.act[0]);
        tl_keep_extra(node, 1, r.act[1]);
        tl_keep_extra(node, 2, r.extra);
    }
    for (int i = 0; i < n_out; i++) {
        outs[i] = (uintptr_t)made[i];
        tl_own(made[i]);
    }
    tl_recurrent_drop(&r);
    return true;
}

bool tl_grads_recurrent(const tl_node *n, tl_tensor *const *g, tl_tensor **gin)
{
    int kind = (int)n->ints[0], n_in = kind == TL_LSTM ? LSTM_IN : OTHER_IN, weights = n_in - 8;
    const tl_tensor *in[LSTM_IN];
    tl_wanted want[WANT_WEIGHTS + 8] = {{NULL, NULL}};
    for (int i = 0; i < n_in; i++) {
        int place = i == 0 ? WANT_X : i == 2 ? WANT_H0 : i < weights ? WANT_C0 : WANT_WEIGHTS + i - weights;
        in[i] = tl_saved_input(n, i);
        if (i != 1 && n->edges[i].to) want[place] = (tl_wanted){&gin[i], &n->edges[i]};
    }
    tl_recurrent p = layer_of(kind, n->ints[1], in);
    tl_recurrent_results r = {.out = (tl_tensor *)tl_saved_output(n, 0), .act = {(tl_tensor *)tl_saved_extra(n, 0), (tl_tensor *)tl_saved_extra(n, 1)},
                              .extra = (tl_tensor *)tl_saved_extra(n, 2)};
    return arr_recurrent_grad(&p, &r, (const tl_tensor *const[3]){g[0], g[1], kind == TL_LSTM ? g[2] : NULL}, want);
}
