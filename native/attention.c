/* Attention: shapes, batches, threads and memory. The kernels, and the order of their sums, are in attention.inc.c.
 *
 * Every head is computed by itself, so its bits depend on nothing but its own operands. Forward cuts heads into groups of panels of queries.
 * Backward takes a head of keys, with all queries that read it, in one piece: scores are recomputed once for the three gradients. Where
 * that makes too few pieces for the threads, they are recomputed twice: for keys and values in pieces of keys, for queries in pieces of
 * queries. Both ways add in the same order. */
#include "kernels.h"
#include "slots.h"
#include <math.h>

enum { BIG = 1 << 18, GRAIN = 1 << 20 };       /* multiply-adds: from where threads share the work; of a chunk */
enum { PIECE = 4 * TL_ATTENTION_KEYS };        /* keys of a piece, where backward is cut that way */
enum { FORWARD, BACKWARD_QUERIES, BACKWARD_KEYS };

/* An operand's leading dimensions, brought to the result's: its first element, and a stride in bytes for each (0 where it is broadcast). */
typedef struct { char *data; int64_t step[TL_MAX_DIMS]; } part;
enum { Q, K, V, MASK, OUT, G, GQ, GK, GV, N_PARTS };

typedef struct {
    tl_attention_head head;                    /* of the first one; what is NULL there stays NULL */
    tl_attention_grad grad;
    part parts[N_PARTS];
    int nb, type;
    int64_t dims[TL_MAX_DIMS];                 /* the leading dimensions of k and v, broadcast with the others' */
    int64_t group, batch, blocks, pieces;      /* queries' heads for each of k's; product of dims; pieces of a head, of queries and of keys */
    char *stats;
    tl_slots slots;
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- shapes ---- */

/* Leading dimension d, counted as the result counts them; 1 where t has none. */
static int64_t lead(const tl_tensor *t, int nb, int d)
{
    int at = d - (nb - (t->ndim - 2));
    return at < 0 ? 1 : t->dims[at];
}

static part part_of(const tl_tensor *t, int nb)
{
    part p = {tl_data(t), {0}};
    for (int d = 0; d < nb; d++) {
        int at = d - (nb - (t->ndim - 2));
        if (at >= 0 && t->dims[at] != 1) p.step[d] = t->strides[at] * tl_itemsize[t->dtype];
    }
    return p;
}

static int64_t row_step(const tl_tensor *t) { return t->strides[t->ndim - 2]; }
static int64_t rows_of(const tl_tensor *t) { return t->dims[t->ndim - 2]; }
static int64_t width_of(const tl_tensor *t) { return t->dims[t->ndim - 1]; }

/* Sizes, and the leading dimensions. False: they do not fit, or the kernels are not made for them. */
static bool set_shape(job *j, const tl_tensor *q, const tl_tensor *k, const tl_tensor *v, const tl_tensor *mask, const tl_attention *p)
{
    const tl_tensor *in[] = {q, k, v, mask};
    int n = mask ? 4 : 3;
    j->nb = 0;
    for (int i = 0; i < n; i++) {
        if (in[i]->ndim < 2 || (in[i]->dtype != q->dtype && !(i == 3 && mask->dtype == TL_BOOL))) return false;
        if (in[i]->ndim - 2 > j->nb) j->nb = in[i]->ndim - 2;
    }
    if (!tl_is_float(q->dtype) || width_of(q) != width_of(k) || rows_of(k) != rows_of(v) || (p->grouped && q->ndim < 3)) return false;
    j->group = 1;
    j->batch = 1;
    for (int d = 0; d < j->nb; d++) {
        bool heads = p->grouped && d == j->nb - 1;
        j->dims[d] = 1;
        for (int i = heads; i < 3; i++)
            if (lead(in[i], j->nb, d) != 1) j->dims[d] = lead(in[i], j->nb, d);
        int64_t whole = j->dims[d];
        if (heads) {
            if (lead(k, j->nb, d) != lead(v, j->nb, d) || !whole || lead(q, j->nb, d) % whole) return false;
            whole = lead(q, j->nb, d);
            j->group = whole / j->dims[d];
        }
        for (int i = heads ? 3 : 0; i < n; i++) {
            int64_t size = lead(in[i], j->nb, d);
            if (size != whole && (size != 1 || (i == 3 && whole == 0))) return false;
        }
        j->batch *= j->dims[d];
    }
    j->type = q->dtype == TL_F64;
    j->head = (tl_attention_head){.l = rows_of(q), .s = rows_of(k), .d = width_of(q), .dv = width_of(v), .scale = p->scale, .dropout = p->dropout,
                                  .seed = p->seed, .counter = p->counter, .causal = p->causal};
    j->blocks = ceil_div(j->head.l, TL_ATTENTION_GROUP * TL_ATTENTION_ROW / tl_itemsize[q->dtype]);
    return !mask || ((rows_of(mask) == 1 || rows_of(mask) == j->head.l) && (width_of(mask) == 1 || width_of(mask) == j->head.s));
}

static void set_operands(job *j, const tl_tensor *q, const tl_tensor *k, const tl_tensor *v, const tl_tensor *mask)
{
    tl_attention_head *h = &j->head;
    j->parts[Q] = part_of(q, j->nb);
    j->parts[K] = part_of(k, j->nb);
    j->parts[V] = part_of(v, j->nb);
    h->qs = row_step(q), h->ks = row_step(k), h->vs = row_step(v);
    if (!mask) return;
    j->parts[MASK] = part_of(mask, j->nb);
    h->mask_bool = mask->dtype == TL_BOOL;
    h->mask_l = rows_of(mask) == 1 ? 0 : row_step(mask);
    h->mask_s = width_of(mask) == 1 ? 0 : mask->strides[mask->ndim - 1];
}

/* t, or a copy, with the elements of each row side by side; owned by the caller. */
static tl_tensor *with_rows(const tl_tensor *t)
{
    if (width_of(t) > 1 && t->strides[t->ndim - 1] != 1) return arr_cast(t, t->dtype);
    tl_own((tl_tensor *)t);
    return (tl_tensor *)t;
}

/* A fresh (*dims, rows, width), which lies in memory as `like` does: heads within rows where it has them so. `heads`: of the last one. */
static tl_tensor *laid_out_as(const tl_tensor *like, const job *j, int64_t heads, int64_t rows, int64_t width)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    int nb = j->nb, n = nb + 2, last = like->ndim - 1;
    memcpy(dims, j->dims, (size_t)nb * sizeof *dims);
    if (nb) dims[nb - 1] = heads;
    dims[nb] = rows, dims[nb + 1] = width;
    bool swap = nb && like->ndim > 2 && like->strides[last - 2] < like->strides[last - 1];
    if (!swap) return tl_new(like->dtype, n, dims);
    dims[nb - 1] = rows, dims[nb] = heads;
    tl_tensor *made = tl_new(like->dtype, n, dims), *out = NULL;
    if (made) {
        memcpy(strides, made->strides, (size_t)n * sizeof *strides);
        strides[nb - 1] = made->strides[nb], strides[nb] = made->strides[nb - 1];
        dims[nb - 1] = heads, dims[nb] = rows;
        out = tl_new_view(made, n, dims, strides, 0);
        tl_free(made);
    }
    return out;
}

/* ---- one head ---- */

/* Everything of query head `member` in the group of k's head u. */
static void place(const job *j, int64_t u, int64_t member, tl_attention_head *h, tl_attention_grad *g)
{
    char *at[N_PARTS];
    int64_t number = u * j->group + member, rest = u;
    for (int i = 0; i < N_PARTS; i++) at[i] = j->parts[i].data;
    for (int d = j->nb - 1; d >= 0; rest /= j->dims[d], d--) {
        int64_t index = rest % j->dims[d], own = d == j->nb - 1 ? index * j->group + member : index;
        for (int i = 0; i < N_PARTS; i++)
            if (at[i]) at[i] += (i == K || i == V || i == GK || i == GV ? index : own) * j->parts[i].step[d];
    }
    *h = j->head;
    h->q = at[Q], h->k = at[K], h->v = at[V], h->mask = at[MASK], h->out = at[OUT];
    h->stats = j->stats + number * 2 * h->l * (j->type ? 8 : 4);
    h->drawn = (uint64_t)number * (uint64_t)(h->l * h->s);
    *g = j->grad;
    g->g = at[G], g->gq = at[GQ], g->gk = at[GK], g->gv = at[GV];
}

/* Units are pieces of queries, head by head. */
static void run_queries(job *j, int64_t begin, int64_t end, bool forward, void *room)
{
    tl_attention_head h;
    tl_attention_grad g;
    for (int64_t next; begin < end; begin = next) {
        int64_t head = begin / j->blocks, first = begin % j->blocks;
        next = least(end, (head + 1) * j->blocks);
        place(j, head / j->group, head % j->group, &h, &g);
        g.gk = g.gv = NULL;
        if (forward) tl_attention_k->forward[j->type](&h, first, first + (next - begin), room);
        else tl_attention_k->backward[j->type](&h, &g, first, first + (next - begin), 0, h.s, room);
    }
}

/* Units are pieces of keys, head by head (of keys). */
static void run_keys(job *j, int64_t begin, int64_t end, void *room)
{
    int64_t each = ceil_div(ceil_div(j->head.s, j->pieces), TL_ATTENTION_KEYS) * TL_ATTENTION_KEYS;
    tl_attention_head h;
    tl_attention_grad g;
    for (int64_t u = begin; u < end; u++)
        for (int64_t member = 0; member < j->group; member++) {
            int64_t first = u % j->pieces * each;
            place(j, u / j->pieces, member, &h, &g);
            if (j->pieces > 1) g.gq = NULL;
            g.fresh = member == 0;
            if (first < h.s) tl_attention_k->backward[j->type](&h, &g, 0, j->blocks, first, least(h.s, first + each), room);
        }
}

static void with_slot(job *j, int64_t begin, int64_t end, int what)
{
    int slot = tl_slot_take(&j->slots);
    void *room = tl_slot_data(&j->slots, slot);
    if (what == BACKWARD_KEYS) run_keys(j, begin, end, room);
    else run_queries(j, begin, end, what == FORWARD, room);
    tl_slot_give(&j->slots, slot);
}
static void forward(void *arg, int64_t begin, int64_t end) { with_slot(arg, begin, end, FORWARD); }
static void backward_queries(void *arg, int64_t begin, int64_t end) { with_slot(arg, begin, end, BACKWARD_QUERIES); }
static void backward_keys(void *arg, int64_t begin, int64_t end) { with_slot(arg, begin, end, BACKWARD_KEYS); }

/* `units` pieces that cost `work` multiply-adds in all. */
static void run(job *j, tl_range_fn body, int64_t units, double work)
{
    if (work < BIG) body(j, 0, units);
    else tl_parallel_for(body, j, units, (int64_t)fmax(1, GRAIN / (work / (double)units)));
}

/* Multiply-adds of `products` products of the size of the scores. */
static double work_of(const job *j, int products)
{
    const tl_attention_head *h = &j->head;
    return (double)(j->batch * j->group) * (double)h->l * (double)h->s * (double)(h->d + h->dv + 8) * products / (h->causal ? 4 : 2);
}

/* ---- the operation ---- */

static bool make_room(job *j) { return tl_slots_new(&j->slots, j->batch * j->group * j->blocks, tl_attention_room(j->head.d, j->head.dv, j->type ? 8 : 4)); }

tl_tensor *arr_attention(const tl_tensor *q, const tl_tensor *k, const tl_tensor *v, const tl_tensor *mask, const tl_attention *p, tl_tensor **stats)
{
    job j = {0};
    if (!set_shape(&j, q, k, v, mask, p)) return tl_fail(TL_DECLINE);
    int64_t heads = j.nb ? j.dims[j.nb - 1] * j.group : 1, rows = j.batch * j.group * 2 * j.head.l;
    tl_tensor *in[] = {with_rows(q), with_rows(k), with_rows(v)};
    tl_tensor *out = laid_out_as(q, &j, heads, j.head.l, j.head.dv), *kept = tl_new(q->dtype, 1, &rows);
    bool ok = in[0] && in[1] && in[2] && out && kept;
    if (ok && out->numel && !j.head.s) {
        ok = arr_fill(out, 0);
    } else if (ok && out->numel && (ok = make_room(&j))) {
        set_operands(&j, in[0], in[1], in[2], mask);
        j.parts[OUT] = part_of(out, j.nb);
        j.head.os = row_step(out);
        j.stats = tl_data(kept);
        double work = work_of(&j, 2);
        tl_gil gil = tl_unlock(work >= BIG);
        run(&j, forward, j.batch * j.group * j.blocks, work);
        tl_relock(gil);
    }
    tl_slots_free(&j.slots);
    for (int i = 0; i < 3; i++) tl_free(in[i]);
    if (ok) *stats = kept;
    else tl_free(kept), tl_free(out), out = NULL;
    return out;
}

/* A head of keys is a piece of its own unless there are too few of them for the threads. */
static void run_gradient(job *j)
{
    double work = work_of(j, 5);
    tl_gil gil = tl_unlock(work >= BIG);
    bool keys = j->parts[GK].data || j->parts[GV].data, few = j->batch < tl_get_num_threads() && work >= BIG;
    j->pieces = keys && few ? ceil_div(j->head.s, PIECE) : 1;
    if (keys) run(j, backward_keys, j->batch * j->pieces, work);
    if (j->parts[GQ].data && (!keys || j->pieces > 1)) run(j, backward_queries, j->batch * j->group * j->blocks, work);
    tl_relock(gil);
}

bool arr_attention_grad(const tl_tensor *g, const tl_tensor *q, const tl_tensor *k, const tl_tensor *v, const tl_tensor *mask, const tl_tensor *out,
                        const tl_tensor *stats, const tl_attention *p, tl_tensor **gq, tl_tensor **gk, tl_tensor **gv)
{
    job j = {0};
    if (!set_shape(&j, q, k, v, mask, p) || g->dtype != q->dtype || !tl_same_shape(g, out)) return tl_fail(TL_DECLINE);
    int64_t heads = j.nb ? j.dims[j.nb - 1] : 1;
    const tl_tensor *given[] = {q, k, v, out, g};
    tl_tensor *in[5], **wanted[] = {gq, gk, gv}, *made[3] = {0};
    bool ok = true, work = out->numel && j.head.s;
    for (int i = 0; i < 5; i++) ok &= (in[i] = with_rows(given[i])) != NULL;
    for (int i = 0; i < 3; i++)
        if (wanted[i]) ok &= (made[i] = laid_out_as(given[i], &j, i ? heads : heads * j.group, rows_of(given[i]), width_of(given[i]))) != NULL;
    for (int i = 0; i < 3 && !work; i++)
        if (made[i]) ok &= arr_fill(made[i], 0);
    if (ok && work && (ok = make_room(&j))) {
        set_operands(&j, in[0], in[1], in[2], mask);
        j.parts[OUT] = part_of(in[3], j.nb);
        j.parts[G] = part_of(in[4], j.nb);
        j.head.os = row_step(in[3]);
        j.stats = tl_data(stats);
        for (int i = 0; i < 3; i++)
            if (made[i]) j.parts[GQ + i] = part_of(made[i], j.nb);
        j.grad = (tl_attention_grad){.gs = row_step(in[4]), .gqs = gq ? row_step(made[0]) : 0, .gks = gk ? row_step(made[1]) : 0,
                                     .gvs = gv ? row_step(made[2]) : 0};
        run_gradient(&j);
    }
    tl_slots_free(&j.slots);
    for (int i = 0; i < 5; i++) tl_free(in[i]);
    for (int i = 0; i < 3; i++)
        if (!ok) tl_free(made[i]);
        else if (wanted[i]) *wanted[i] = made[i];
    return ok;
}
