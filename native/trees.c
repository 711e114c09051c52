/* One node of a tree, or some that are alike: h, c = LSTM(x, h and c of each child). The gates are in tree_type.inc.c, the products are matmul's.
 *
 * Each child's state meets weights of its place, and what all of them make is summed into one part of the gates' sums; or (shared) all meet the same
 * weights: their states, one after the other, then make one product, and a part of each child comes out. Every row is computed by itself. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include "operands.h"
#include "record.h"

/* The operands of the entry, in its order; then w, h, c of each place. */
enum { X, W_IH, BIAS, PLACES, W = 0, H, C, N_IN = PLACES + 3 * TL_TREE_MOST };

typedef struct {
    const tl_tensor *in[N_IN], *stacked;       /* stacked: shared, the states of all children, (children, rows, h) */
    bool shared;
    int dtype, ndim, children, places, first;  /* first: place with a child */
    int64_t h, rows, lead;                     /* lead: sizes before the last one, where ndim is 2 */
} node;

static const tl_tensor *of_place(const node *n, int k, int what) { return n->in[PLACES + 3 * k + what]; }
static const tl_tensor *weights_of(const node *n, int k) { return of_place(n, n->shared ? 0 : k, W); }

static bool is_state(const node *n, const tl_tensor *t, int64_t width)
{
    return t && t->dtype == n->dtype && t->ndim == n->ndim && t->dims[n->ndim - 1] == width && (n->ndim == 1 || t->dims[0] == n->lead);
}
static bool is_weight(const node *n, const tl_tensor *w, int64_t rows, int64_t cols)
{
    return w && w->dtype == n->dtype && w->ndim == 2 && w->dims[0] == rows && w->dims[1] == cols;
}

/* Sizes of a node of these operands; false: they do not fit, or the kernels are not made for them. */
static bool open_node(node *n)
{
    const tl_tensor *x = n->in[X], *bias = n->in[BIAS], *w_ih = n->in[W_IH];
    n->first = TL_TREE_MOST;
    for (int k = TL_TREE_MOST - 1; k >= 0; k--)
        if (of_place(n, k, H)) n->first = k, n->children++;
    const tl_tensor *like = n->children ? of_place(n, n->first, H) : x, *w = n->children ? weights_of(n, n->first) : w_ih;
    if (!like || !x != !w_ih || !tl_is_float(like->dtype) || like->ndim < 1 || like->ndim > 2 || !w || w->ndim != 2) return tl_fail(TL_DECLINE);
    n->dtype = like->dtype, n->ndim = like->ndim, n->lead = like->dims[0];
    n->rows = n->ndim == 2 ? n->lead : 1;
    n->h = n->children ? w->dims[1] : w->dims[0] / 4;
    n->places = !n->children ? 1 : n->shared ? n->children : n->h ? (int)(w->dims[0] / n->h) - 3 : 0;
    if (!n->h || n->places < 1 || n->places > TL_TREE_MOST) return tl_fail(TL_DECLINE);
    int64_t gates = n->shared ? 4 : 3 + n->places;
    for (int k = 0; k < TL_TREE_MOST; k++) {
        if (!of_place(n, k, H) && !of_place(n, k, C)) continue;
        bool fits = is_state(n, of_place(n, k, H), n->h) && is_state(n, of_place(n, k, C), n->h) && is_weight(n, weights_of(n, k), gates * n->h, n->h);
        if (!fits || k >= n->places) return tl_fail(TL_DECLINE);
    }
    if (x && !(is_state(n, x, x->ndim ? x->dims[x->ndim - 1] : 0) && is_weight(n, w_ih, 4 * n->h, x->dims[x->ndim - 1]))) return tl_fail(TL_DECLINE);
    return !bias || (bias->dtype == n->dtype && bias->ndim == 1 && bias->dims[0] == 4 * n->h) || tl_fail(TL_DECLINE);
}

/* A fresh array of `width` a row; in_parts: for each child. */
static tl_tensor *new_rows(const node *n, int64_t width, bool in_parts)
{
    int64_t dims[3], ndim = 0;
    if (in_parts) dims[ndim++] = n->children;
    if (n->ndim == 2) dims[ndim++] = n->lead;
    dims[ndim++] = width;
    return tl_new(n->dtype, (int)ndim, dims);
}

/* Child k's part of an array of all of them. */
static tl_tensor *part_of(const node *n, const tl_tensor *all, int k)
{
    return tl_new_view(all, n->ndim, all->dims + 1, NULL, all->offset + k * (all->numel / n->children));
}

static tl_tensor *stack_states(const node *n)
{
    tl_tensor *all = new_rows(n, n->h, true);
    for (int k = 0; all && k < n->children; k++) {
        tl_tensor *place = part_of(n, all, k);
        bool ok = place && arr_copy_into(place, of_place(n, k, H));
        tl_free(place);
        if (!ok) tl_free(all), all = NULL;
    }
    return all;
}

/* What the children add to the gates' sums. */
static tl_tensor *children_parts(node *n)
{
    if (n->shared) return (n->stacked = stack_states(n)) ? arr_linear(n->stacked, weights_of(n, 0), NULL) : NULL;
    tl_tensor *sums = arr_linear(of_place(n, n->first, H), of_place(n, n->first, W), NULL);
    for (int k = n->first + 1; sums && k < n->places; k++)
        if (of_place(n, k, H) && !arr_linear_add(sums, of_place(n, k, H), of_place(n, k, W))) tl_free(sums), sums = NULL;
    return sums;
}

/* Both directions read the cells; `own` makes them contiguous. */
static tl_tree_gates gates_of(const node *n, const tl_tensor *const cells[], const tl_tensor *act)
{
    tl_tree_gates p = {.h = n->h, .own_step = 4 * n->h, .places = n->places, .parts = n->shared ? n->children : n->children > 0, .shared = n->shared};
    for (int k = 0; k < TL_TREE_MOST; k++) p.cell[k] = tl_data_or_null(cells[k]);
    p.act = tl_data(act);
    return p;
}
static void set_parts(const node *n, const tl_tree_gates *p, void *to[], const tl_tensor *parts)
{
    for (int k = 0; parts && k < p->parts; k++) to[k] = tl_data(parts) + k * (parts->numel / p->parts) * tl_itemsize[n->dtype];
}
static void run_gates(const node *n, const tl_range_fn by_type[2], tl_tree_gates *p) { tl_run_tasks(by_type, n->dtype, p, n->rows, (3 + n->places) * n->h); }

/* ---- forward ---- */
typedef struct { tl_tensor *h, *c, *act; } results;

static bool forward(node *n, results *r)
{
    const tl_tensor *tidy[1 + TL_TREE_MOST] = {n->in[BIAS]};
    tl_tensor *own = NULL, *parts = NULL;
    for (int k = 0; k < TL_TREE_MOST; k++) tidy[1 + k] = of_place(n, k, C);
    if (!tl_make_contiguous(tidy, 1 + TL_TREE_MOST)) return false;
    bool ok = (!n->in[X] || (own = arr_linear(n->in[X], n->in[W_IH], n->in[BIAS]))) && (!n->children || (parts = children_parts(n)));
    ok = ok && (r->h = new_rows(n, n->h, false)) && (r->c = new_rows(n, n->h, false));
    if (ok && n->shared && n->children > 1) ok = (r->act = new_rows(n, (3 + n->places) * n->h, false));
    else if (ok) tl_own(r->act = parts ? parts : own);
    if (ok) {
        tl_tree_gates p = gates_of(n, tidy + 1, r->act);
        void *from[TL_TREE_MOST] = {NULL};
        set_parts(n, &p, from, parts);
        for (int k = 0; k < p.parts; k++) p.part[k] = from[k];
        p.own = own ? tl_data(own) : tl_data_or_null(tidy[0]);
        if (!own) p.own_step = 0;
        p.c = tl_data(r->c), p.out = tl_data(r->h);
        run_gates(n, tl_recurrent_k->tree_forward, &p);
    }
    tl_free(own);
    tl_free(parts);
    tl_drop_all(tidy, 1 + TL_TREE_MOST);
    return ok;
}

/* ints[0]: shared; extra: the gates, the states of all children. outs: h, c */
bool tl_tree_lstm(tl_tensor *const *in, bool shared, int line, uintptr_t *outs)
{
    node n = {.shared = shared};
    results r = {NULL, NULL, NULL};
    bool tracked = false, ok;
    uint64_t needs = TL_OUT(1);
    for (int i = 0; i < N_IN; i++) {
        if (tl_elsewhere(in[i])) return tl_fail(TL_DECLINE);
        if ((n.in[i] = in[i])) needs |= TL_IN(i);
        tracked |= tl_tracks(in[i]);
    }
    if (!open_node(&n)) return false;
    if ((ok = forward(&n, &r)) && tracked && tl_grad_enabled) {
        tl_node *made = tl_record_many(TL_OP_tree_lstm, N_IN, in, 2, (tl_tensor *[]){r.h, r.c}, needs, line);
        if ((ok = made)) {
            made->ints[0] = shared;
            tl_keep_extra(made, 0, r.act);
            tl_keep_extra(made, 1, (tl_tensor *)n.stacked);
        }
    }
    tl_free(r.act);
    tl_free((tl_tensor *)n.stacked);
    if (!ok) return tl_free(r.h), tl_free(r.c), false;
    outs[0] = (uintptr_t)r.h, outs[1] = (uintptr_t)r.c;
    return true;
}

/* ---- backward ---- */
static bool wants(const tl_node *made, int i) { return made->edges[i].to; }

/* The gradients of the input and of its weights. */
static bool own_gradients(const tl_node *made, const node *n, const tl_tensor *g, tl_tensor **gin)
{
    return (!wants(made, X) || (gin[X] = arr_linear_grad_input(g, n->in[W_IH]))) &&
           tl_weight_gradient(&made->edges[W_IH], g, n->in[X], &gin[W_IH]) && tl_weight_gradient(&made->edges[BIAS], g, NULL, &gin[BIAS]);
}

static bool shared_gradients(const tl_node *made, const node *n, const tl_tensor *g, tl_tensor **gin)
{
    bool ok = tl_weight_gradient(&made->edges[PLACES + W], g, n->stacked, &gin[PLACES + W]), any = false;
    for (int k = 0; k < n->children; k++) any |= wants(made, PLACES + 3 * k + H);
    tl_tensor *all = ok && any ? arr_linear_grad_input(g, weights_of(n, 0)) : NULL;
    for (int k = 0; all && ok && k < n->children; k++) {
        int at = PLACES + 3 * k + H;
        ok = !wants(made, at) || (gin[at] = part_of(n, all, k));
    }
    tl_free(all);
    return ok && (all || !any);
}

static bool places_gradients(const tl_node *made, const node *n, const tl_tensor *g, tl_tensor **gin)
{
    for (int k = n->first; k < n->places; k++) {
        int at = PLACES + 3 * k;
        if (wants(made, at + H) && !(gin[at + H] = arr_linear_grad_input(g, n->in[at + W]))) return false;
        if (n->in[at + H] && !tl_weight_gradient(&made->edges[at + W], g, n->in[at + H], &gin[at + W])) return false;
    }
    return true;
}

bool tl_grads_tree_lstm(const tl_node *made, tl_tensor *const *g, tl_tensor **gin)
{
    node n = {.shared = made->ints[0], .stacked = tl_saved_extra(made, 1)};
    for (int i = 0; i < N_IN; i++) n.in[i] = tl_saved_input(made, i);
    const tl_tensor *tidy[2 + TL_TREE_MOST] = {g[0], g[1]};
    for (int k = 0; k < TL_TREE_MOST; k++) tidy[2 + k] = of_place(&n, k, C);
    if (!open_node(&n) || !tl_make_contiguous(tidy, 2 + TL_TREE_MOST)) return false;
    tl_tree_gates p = gates_of(&n, tidy + 2, tl_saved_extra(made, 0));
    bool of_input = wants(made, X) || wants(made, W_IH) || wants(made, BIAS), alike = n.children && n.places == 1; /* then both have the same gates */
    tl_tensor *parts = NULL, *own = NULL;
    bool ok = !n.children || (parts = new_rows(&n, (n.shared ? 4 : 3 + n.places) * n.h, n.shared));
    ok = ok && (!of_input || alike || (own = new_rows(&n, 4 * n.h, false)));
    for (int k = 0; ok && k < TL_TREE_MOST; k++) {
        int at = PLACES + 3 * k + C;
        if (!wants(made, at)) continue;
        ok = (gin[at] = new_rows(&n, n.h, false));
        p.g_cell[k] = tl_data_or_null(gin[at]);
    }
    if (ok && of_input && alike) own = n.shared ? part_of(&n, parts, 0) : tl_new_view(parts, parts->ndim, parts->dims, NULL, parts->offset);
    ok = ok && (own || !of_input);
    if (ok) {
        set_parts(&n, &p, p.g_part, parts);
        p.g_own = tl_data_or_null(alike ? NULL : own);
        p.c = tl_data(tl_saved_output(made, 1)), p.g_out = tl_data_or_null(tidy[0]), p.g_c = tl_data_or_null(tidy[1]);
        run_gates(&n, tl_recurrent_k->tree_backward, &p);
        ok = (!of_input || own_gradients(made, &n, own, gin)) && (!parts || (n.shared ? shared_gradients : places_gradients)(made, &n, parts, gin));
    }
    tl_free(parts);
    tl_free(own);
    tl_drop_all(tidy, 2 + TL_TREE_MOST);
    return ok || tl_undo(made, gin);
}
