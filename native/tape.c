/* The tape: nodes, what they keep, and how they go.
 *
 *     y = tanh(x @ w)              y ──node──> tanh ──edge──> matmul ──edge──> w (leaf)
 *                                               │saved out      │saved in 0, in 1
 *
 * A node is made after everything it consumes, so following edges always leads to lower sequence numbers: backward needs no sort.
 * Freeing walks a list instead of recursing, so a chain of a million nodes goes like any other. All under the GIL. */
#include "ops.h"
#include "tl.h"
#include <stdlib.h>

_Thread_local bool tl_grad_enabled = true, tl_inference = false;
static uint64_t next_seq = 1;

/* ---- what forward has to keep ---- */
enum { MAX_RULE_INPUTS = 5 };
#define NONE 0
#define IN(i) TL_IN(i)
#define OUT(j) TL_OUT(j)
#define SHAPE(i) TL_SHAPE(i)
#define EACH(...) __VA_ARGS__
#define PAIR (TL_IN(0) | TL_IN(1) | TL_IN(2))
static uint64_t needs_of[TL_N_OPS][MAX_RULE_INPUTS] = { /* by the input whose gradient it is */
#define EW1(name, dtypes, out, ga, saves, ulp) [TL_OP_##name] = {saves},
#define EW2(name, dtypes, out, ga, gb, saves, ulp) [TL_OP_##name] = {saves},
#define EW3(name, dtypes, out, ga, gb, gc, saves, ulp) [TL_OP_##name] = {saves},
#define REDUCE(name, saves) [TL_OP_##name] = {saves},
#define VIEW(name, saves) [TL_OP_##name] = {saves},
#define OP(name, saves) [TL_OP_##name] = {saves},
#include "elementwise.def"
#include "structured.def"
};

void tl_register_rule(int op, int input, uint64_t needs)
{
    if (op >= 0 && op < TL_N_OPS && input >= 0 && input < MAX_RULE_INPUTS) needs_of[op][input] |= needs;
}

/* ---- tokens: keys of Python objects that nothing refers to any more ---- */
static int64_t *dead_tokens;
static int64_t n_dead, dead_capacity;

void tl_token_died(int64_t token)
{
    if (n_dead == dead_capacity) {
        int64_t capacity = dead_capacity ? 2 * dead_capacity : 64;
        int64_t *grown = realloc(dead_tokens, (size_t)capacity * sizeof *grown);
        if (!grown) return; /* the Python object stays alive: a leak beats a crash */
        dead_tokens = grown, dead_capacity = capacity;
    }
    dead_tokens[n_dead++] = token;
}

int64_t tl_dead_tokens(void) { return n_dead; }

int64_t tl_drain_tokens(int64_t *out, int64_t capacity)
{
    int64_t n = 0;
    while (n < capacity && n_dead) out[n++] = dead_tokens[--n_dead];
    return n;
}

/* ---- nodes ---- */
enum { CLASS_EDGES = 3, CLASS_SAVED = 7, EXTRA = 3, MAX_FREE_NODES = 4096, CLASSED = 1 }; /* EXTRA: room for a kernel's own results */
static tl_node *free_nodes;
static int n_free_nodes;

static size_t node_bytes(int n_in, int n_saved)
{
    return sizeof(tl_node) + (size_t)n_in * sizeof(tl_edge) + (size_t)n_saved * sizeof(tl_saved);
}

tl_node *tl_node_new(int op, int n_in, int n_saved, int line)
{
    bool classed = n_in <= CLASS_EDGES && n_saved + EXTRA <= CLASS_SAVED;
    tl_node *n;
    if (classed && free_nodes) {
        n = free_nodes;
        free_nodes = n->next;
        n_free_nodes--;
    } else {
        n = malloc(classed ? node_bytes(CLASS_EDGES, CLASS_SAVED) : node_bytes(n_in, n_saved + EXTRA));
        if (!n) return tl_fail(TL_NOMEM);
    }
    memset(n, 0, node_bytes(n_in, n_saved));
    n->refs = 1;
    n->op = (uint16_t)op;
    n->seq = next_seq++;
    n->line = line;
    n->n_in = n_in;
    n->n_out = 1;
    n->n_saved = (uint16_t)n_saved;
    n->cls = classed ? CLASSED : 0;
    n->saved = (tl_saved *)(n->edges + n_in);
    return n;
}

static void recycle_node(tl_node *n)
{
    if (n->cls != CLASSED || n_free_nodes >= MAX_FREE_NODES) {
        free(n);
        return;
    }
    n->next = free_nodes;
    free_nodes = n;
    n_free_nodes++;
}

void tl_node_release_saved(tl_node *n)
{
    for (int i = 0; i < n->n_saved; i++)
        if (n->saved[i].value) tl_unkeep(n->saved[i].value);
    n->n_saved = 0;
}

/* Nodes whose count reached zero wait in `doomed`; the outermost call works the list off, inner calls only add to it. */
static tl_node *doomed;
static bool freeing;

static void drop_node(tl_node *n)
{
    if (--n->refs > 0) return;
    n->next = doomed;
    doomed = n;
}

static void drop_edge(tl_edge *e)
{
    if (e->meta && --e->meta->refs == 0) free(e->meta);
    if (!e->to) return;
    if (e->leaf)
        tl_free(e->to);
    else
        drop_node(e->to);
}

void tl_node_free(tl_node *n)
{
    if (!n) return;
    drop_node(n);
    if (freeing) return;
    freeing = true;
    while (doomed) {
        tl_node *last = doomed;
        doomed = last->next;
        tl_node_release_saved(last);
        for (int i = 0; i < last->n_in; i++) drop_edge(&last->edges[i]);
        if (last->token) tl_token_died(last->token);
        if (last->hooks) tl_token_died(last->hooks);
        recycle_node(last);
    }
    freeing = false;
}

/* ---- edges ---- */
tl_edge tl_edge_to(tl_tensor *t)
{
    tl_edge e = {0};
    if (!tl_tracks(t)) return e;
    if (t->node) {
        t->node->refs++;
        e.to = t->node, e.out_nr = t->out_nr;
    } else {
        tl_own(t);
        e.to = t, e.leaf = true;
    }
    return e;
}

bool tl_edge_shape(tl_edge *e, const tl_tensor *t)
{
    tl_meta *meta = malloc(sizeof *meta + t->ndim * sizeof(int64_t));
    if (!meta) return tl_fail(TL_NOMEM);
    meta->dtype = t->dtype, meta->ndim = t->ndim, meta->refs = 1;
    memcpy(meta->dims, t->dims, t->ndim * sizeof(int64_t));
    e->meta = meta;
    return true;
}

void tl_attach(tl_tensor *out, int out_nr, tl_node *n)
{
    tl_node *old = out->node;
    n->refs++;
    out->node = n;
    out->out_nr = (uint16_t)out_nr;
    out->flags |= TL_REQUIRES_GRAD;
    if (old) tl_node_free(old);
}

void tl_detach_inplace(tl_tensor *t)
{
    tl_node *old = t->node;
    t->node = NULL;
    t->flags &= (uint16_t)~TL_REQUIRES_GRAD;
    if (old) tl_node_free(old);
}

/* ---- recording ---- */
void tl_saved_set(tl_node *n, int slot, tl_tensor *t, int kind, int index)
{
    tl_keep(t);
    n->saved[slot] = (tl_saved){t, t->storage->version, (uint8_t)kind, (uint8_t)index};
}

static bool inference_among(int n_in, tl_tensor *const *inputs)
{
    for (int i = 0; i < n_in; i++)
        if (inputs[i] && (inputs[i]->flags & TL_INFERENCE_TENSOR)) return true;
    return false;
}

bool tl_record(int op, int n_in, tl_tensor *const *inputs, tl_tensor *out, int line, tl_node **made)
{
    if (made) *made = NULL;
    if (!tl_grad_enabled) return true;
    uint64_t needs = 0;
    bool tracked = false;
    for (int i = 0; i < n_in; i++) {
        if (!tl_tracks(inputs[i])) continue;
        tracked = true;
        needs |= needs_of[op][i];
    }
    if (!tracked) return true;
    if (inference_among(n_in, inputs)) return tl_fail(TL_INFERENCE);
    tl_node *n = tl_node_new(op, n_in, __builtin_popcountll(needs & (TL_SHAPE(0) - 1)), line);
    if (!n) return false;
    int slot = 0;
    for (int i = 0; i < n_in; i++) {
        tl_tensor *t = inputs[i];
        if (!t) continue;
        n->edges[i] = tl_edge_to(t);
        bool shape_differs = n->edges[i].to && !(t->dtype == out->dtype && tl_same_shape(t, out));
        if ((shape_differs || (needs & TL_SHAPE(i))) && !tl_edge_shape(&n->edges[i], t)) {
            tl_node_free(n);
            return false;
        }
        if (needs & TL_IN(i)) tl_saved_set(n, slot++, t, TL_SAVED_INPUT, i);
    }
    if (needs & TL_OUT(0)) tl_saved_set(n, slot++, out, TL_SAVED_OUTPUT, 0);
    n->n_saved = (uint16_t)slot;
    out->node = n; /* takes the reference that tl_node_new returned */
    out->out_nr = 0;
    out->flags |= TL_REQUIRES_GRAD;
    if (made) *made = n;
    return true;
}

tl_node *tl_record_many(int op, int n_in, tl_tensor *const *inputs, int n_out, tl_tensor *const *outs, uint64_t needs, int line)
{
    if (n_out > UINT16_MAX) return tl_fail(TL_NOMEM); /* an edge counts outputs in 16 bits */
    if (inference_among(n_in, inputs)) return tl_fail(TL_INFERENCE);
    tl_node *n = tl_node_new(op, n_in, __builtin_popcountll(needs), line);
    if (!n) return NULL;
    int slot = 0;
    for (int i = 0; i < n_in; i++) {
        if (!inputs[i]) continue;
        n->edges[i] = tl_edge_to(inputs[i]);
        if (!tl_edge_shape(&n->edges[i], inputs[i])) {
            tl_node_free(n);
            return NULL;
        }
        if (i < 24 && (needs & TL_IN(i))) tl_saved_set(n, slot++, inputs[i], TL_SAVED_INPUT, i);
    }
    n->n_out = (uint16_t)n_out;
    for (int j = 0; j < n_out; j++) {
        if (j < 8 && (needs & TL_OUT(j))) tl_saved_set(n, slot++, outs[j], TL_SAVED_OUTPUT, j);
        if (outs[j]->dtype >= TL_F16) tl_attach(outs[j], j, n);
    }
    n->n_saved = (uint16_t)slot;
    tl_node *alive = n->refs > 1 ? n : NULL; /* at least one float output holds it; else there is nothing to differentiate */
    tl_node_free(n);
    return alive;
}

/* ---- reading what was kept ---- */
static const tl_tensor *saved_value(const tl_node *n, int kind, int index)
{
    for (int i = 0; i < n->n_saved; i++)
        if (n->saved[i].kind == kind && n->saved[i].index == index) return n->saved[i].value;
    return NULL;
}

const tl_tensor *tl_saved_input(const tl_node *n, int i) { return saved_value(n, TL_SAVED_INPUT, i); }
const tl_tensor *tl_saved_output(const tl_node *n, int j) { return saved_value(n, TL_SAVED_OUTPUT, j); }
const tl_tensor *tl_saved_geometry(const tl_node *n) { return saved_value(n, TL_SAVED_GEOMETRY, 0); }
const tl_tensor *tl_saved_extra(const tl_node *n, int i) { return saved_value(n, TL_SAVED_EXTRA, i); }

int64_t tl_saved_stale(const tl_node *n)
{
    for (int i = 0; i < n->n_saved; i++)
        if (n->saved[i].kind != TL_SAVED_GEOMETRY && n->saved[i].value->storage->version != n->saved[i].version) return i;
    return -1;
}
