/* Backward: an object per run, so nested and threaded runs do not meet.
 *
 *     heap    nodes that have received a gradient, newest (highest seq) first. A node's consumers are all newer, so whatever
 *             stands on top has received everything it ever will: no sort, no counting, no recursion.
 *     index   node -> its entry in the heap, to add further contributions
 *     leaves  leaf -> uses left and gradient so far; only where someone asks (hooks, inputs=), else gradients go straight to leaf->grad
 *
 * tl_run_next works until it is done or needs Python: to run a rule or a hook (ASK_NODE, ASK_LEAF), or to add or reduce gradients that
 * C does not serve or that must stay differentiable (ASK_ADD, ASK_REDUCE). Python answers with tl_run_give and calls again. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include "map.h"
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

enum { INLINE_INPUTS = 4, SIGNAL_NODES = 128, SIGNAL_NS = 5000000 };

typedef struct entry {
    tl_node *node;
    struct entry *next_free;
    tl_tensor *g[];                                         /* by output; owned */
} entry;

typedef struct { int64_t uses; tl_tensor *leaf, *g; bool capture, served; } leaf_state; /* served: leaf->grad has it, or stands for it */
typedef struct { void *to; int out_nr; tl_tensor *g; } capture;

struct tl_run {
    bool retain, create_graph, restricted;                  /* restricted: only towards the captures */
    entry **heap;
    int64_t n_heap, heap_capacity;
    entry *free_entries;
    map index, leaves, needed;
    bool counting;
    tl_deferred deferred;                                   /* products of weights that many nodes share */
    capture *captures;
    int n_captures;
    /* the node being worked on, and how far its input gradients are delivered */
    entry *current;
    tl_tensor **gin, *gin_inline[INLINE_INPUTS];
    int n_gin, delivered;
    bool hooks_done, rule_done;
    /* what Python was asked */
    int ask;
    tl_tensor *ask_a, *ask_b, **ask_sum;                    /* a + b belongs into *ask_sum (which holds a); b is owned */
    const tl_meta *ask_meta;
    leaf_state *ask_leaf;
    int64_t shared, flush;                                  /* next slots of `deferred` and of `leaves` to flush at the end */
    int since_signal;
    int64_t signal_ns;
};

/* ---- the heap ---- */
static bool heap_push(tl_run *r, entry *e)
{
    if (r->n_heap == r->heap_capacity) {
        int64_t capacity = r->heap_capacity ? 2 * r->heap_capacity : 32;
        entry **grown = realloc(r->heap, (size_t)capacity * sizeof *grown);
        if (!grown) return tl_fail(TL_NOMEM);
        r->heap = grown, r->heap_capacity = capacity;
    }
    int64_t i = r->n_heap++;
    for (; i > 0 && r->heap[(i - 1) / 2]->node->seq < e->node->seq; i = (i - 1) / 2) r->heap[i] = r->heap[(i - 1) / 2];
    r->heap[i] = e;
    return true;
}

static entry *heap_pop(tl_run *r)
{
    entry *top = r->heap[0], *last = r->heap[--r->n_heap];
    int64_t i = 0, n = r->n_heap;
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && r->heap[child + 1]->node->seq > r->heap[child]->node->seq) child++;
        if (r->heap[child]->node->seq <= last->node->seq) break;
        r->heap[i] = r->heap[child];
    }
    if (n) r->heap[i] = last;
    return top;
}

static entry *new_entry(tl_run *r, tl_node *node)
{
    entry *e = r->free_entries;
    if (node->n_out == 1 && e) {
        r->free_entries = e->next_free;
        e->g[0] = NULL;
    } else {
        e = calloc(1, sizeof *e + node->n_out * sizeof *e->g);
        if (!e) return tl_fail(TL_NOMEM);
    }
    node->refs++;
    e->node = node;
    return e;
}

static void drop_entry(tl_run *r, entry *e)
{
    int n_out = e->node->n_out;
    for (int j = 0; j < n_out; j++) tl_free(e->g[j]);
    tl_node_free(e->node);
    if (n_out == 1) {
        e->next_free = r->free_entries;
        r->free_entries = e;
    } else {
        free(e);
    }
}

/* ---- sums of gradients ---- */
static bool in_c(const tl_run *r, const tl_tensor *t) { return !r->create_graph && tl_is_float(t->dtype) && t->storage->kind != TL_FOREIGN; }

enum { ADDED = 1, ADD_FAILED = 0, ADD_ASK = -1 };

/* *sum += g; consumes g. ADD_ASK: Python adds ask_a and ask_b. */
static int add_gradient(tl_run *r, tl_tensor **sum, tl_tensor *g)
{
    if (!in_c(r, g) || !in_c(r, *sum)) { /* a sparse gradient may meet a dense one */
        r->ask_sum = sum, r->ask_a = *sum, r->ask_b = g;
        return ADD_ASK;
    }
    if (tl_exclusive(*sum)) {
        bool ok = arr_binary_into(TL_OP_add, *sum, *sum, g);
        tl_free(g);
        return ok;
    }
    tl_tensor *both = arr_binary(TL_OP_add, *sum, g);
    tl_free(g);
    if (!both) return ADD_FAILED;
    tl_free(*sum);
    *sum = both;
    return ADDED;
}

/* ---- building a run ---- */
tl_run *tl_run_new(bool retain, bool create_graph)
{
    tl_run *r = calloc(1, sizeof *r);
    if (!r) return tl_fail(TL_NOMEM);
    r->retain = retain || create_graph;
    r->create_graph = create_graph;
    return r;
}

static void drop_gin(tl_run *r)
{
    for (int i = 0; i < r->n_gin; i++) tl_free(r->gin[i]);
    if (r->gin != r->gin_inline) free(r->gin);
    r->gin = NULL, r->n_gin = 0;
}

void tl_run_free(tl_run *r)
{
    if (!r) return;
    drop_gin(r);
    if (r->current) {
        r->current->node->busy -= r->rule_done ? 0 : 1;
        drop_entry(r, r->current);
    }
    while (r->n_heap) drop_entry(r, r->heap[--r->n_heap]);
    for (int64_t i = 0; i < r->leaves.capacity; i++) {
        leaf_state *leaf = r->leaves.slots[i].value;
        if (!leaf) continue;
        tl_free(leaf->g);
        tl_free(leaf->leaf);
        free(leaf);
    }
    for (int i = 0; i < r->n_captures; i++) tl_free(r->captures[i].g);
    while (r->free_entries) {
        entry *e = r->free_entries;
        r->free_entries = e->next_free;
        free(e);
    }
    tl_free(r->ask_b);
    tl_deferred_free(&r->deferred);
    free(r->captures);
    free(r->heap);
    free(r->index.slots);
    free(r->leaves.slots);
    free(r->needed.slots);
    free(r);
}

/* Wants the gradient of t itself, k-th in order: see tl_run_captured. Before seeding. */
bool tl_run_capture(tl_run *r, tl_tensor *t)
{
    capture *grown = realloc(r->captures, (size_t)(r->n_captures + 1) * sizeof *grown);
    if (!grown) return tl_fail(TL_NOMEM);
    r->captures = grown;
    r->restricted = true;
    tl_tracks(t); /* a view follows its base first */
    r->captures[r->n_captures++] = (capture){t->node ? (void *)t->node : (void *)t, t->node ? t->out_nr : -1, NULL};
    return true;
}

tl_tensor *tl_run_captured(tl_run *r, int k)
{
    if (r->captures[k].out_nr < 0) { /* a leaf named twice has one gradient */
        slot *s = map_find(&r->leaves, r->captures[k].to);
        tl_tensor *g = s ? ((leaf_state *)s->value)->g : NULL;
        if (g) tl_own(g);
        return g;
    }
    tl_tensor *g = r->captures[k].g;
    r->captures[k].g = NULL;
    return g;
}

static leaf_state *leaf_of(tl_run *r, tl_tensor *leaf)
{
    slot *s = map_find(&r->leaves, leaf);
    if (s) return s->value;
    leaf_state *made = calloc(1, sizeof *made);
    if (!made || !(s = map_insert(&r->leaves, leaf))) {
        free(made);
        return tl_fail(TL_NOMEM);
    }
    tl_own(leaf);
    made->leaf = leaf;
    s->value = made;
    return made;
}

static int by_seq(const void *a, const void *b)
{
    uint64_t x = (*(tl_node *const *)a)->seq, y = (*(tl_node *const *)b)->seq;
    return (x > y) - (x < y);
}

typedef struct { tl_node **items; int64_t n, capacity; } node_list;

static bool list_add(tl_run *r, node_list *list, tl_node *node)
{
    if (list->n == list->capacity) {
        int64_t more = list->capacity ? 2 * list->capacity : 256;
        tl_node **grown = realloc(list->items, (size_t)more * sizeof *grown);
        if (!grown) return tl_fail(TL_NOMEM);
        list->items = grown, list->capacity = more;
    }
    list->items[list->n++] = node;
    return map_insert(&r->needed, node);
}

/* Adds all nodes reachable from `root` to the list and, with value NULL, to `needed`. */
static bool reach(tl_run *r, tl_node *root, node_list *list)
{
    int64_t next = list->n;
    bool ok = map_find(&r->needed, root) || list_add(r, list, root);
    for (; ok && next < list->n; next++) {
        const tl_node *at = list->items[next];
        for (int i = 0; ok && i < at->n_in; i++) {
            const tl_edge *e = &at->edges[i];
            if (e->to && !e->leaf && !map_find(&r->needed, e->to)) ok = list_add(r, list, e->to);
        }
    }
    return ok;
}

static bool captured(const tl_run *r, const void *to)
{
    for (int i = 0; i < r->n_captures; i++)
        if (r->captures[i].to == to) return true;
    return false;
}

/* One pass over the graph, only where someone asks for leaves or inputs: which nodes lead to a capture, and how often each leaf is used. */
bool tl_run_count(tl_run *r, tl_tensor *const *roots, int n_roots)
{
    node_list list = {0};
    bool ok = true;
    r->counting = true;
    for (int i = 0; ok && i < n_roots; i++)
        if (roots[i]->node) ok = reach(r, roots[i]->node, &list);
    tl_node **found = list.items;
    int64_t n = list.n;
    if (n) qsort(found, (size_t)n, sizeof *found, by_seq); /* oldest first: inputs before consumers */
    for (int64_t k = 0; ok && k < n; k++) {
        bool wanted = !r->restricted || captured(r, found[k]);
        for (int i = 0; i < found[k]->n_in && !wanted; i++) {
            tl_edge *e = &found[k]->edges[i];
            slot *s = e->to && !e->leaf ? map_find(&r->needed, e->to) : NULL;
            wanted = (s && s->value) || (e->leaf && captured(r, e->to));
        }
        map_find(&r->needed, found[k])->value = wanted ? found[k] : NULL;
        for (int i = 0; ok && wanted && i < found[k]->n_in; i++) {
            tl_edge *e = &found[k]->edges[i];
            if (!e->leaf || (r->restricted && !captured(r, e->to))) continue;
            leaf_state *leaf = leaf_of(r, e->to);
            ok = leaf;
            if (leaf) leaf->uses++;
        }
    }
    for (int i = 0; ok && i < r->n_captures; i++)
        if (r->captures[i].out_nr < 0) {
            leaf_state *leaf = leaf_of(r, r->captures[i].to);
            ok = leaf;
            if (leaf) leaf->capture = true;
        }
    free(found);
    return ok;
}

/* ---- delivery ---- */
static bool wanted(const tl_run *r, const tl_node *node)
{
    if (!r->restricted) return true;
    const slot *s = map_find(&r->needed, node);
    return s && s->value;
}

enum { DELIVERED = 1, FAILED = 0 };

static int ask(tl_run *r, int what)
{
    r->ask = what;
    return -what;
}

/* One gradient along one edge; consumes g. DELIVERED, FAILED, or -(what Python is asked). */
static int deliver_node(tl_run *r, tl_node *node, int out_nr, tl_tensor *g)
{
    if (!wanted(r, node)) {
        tl_free(g);
        return DELIVERED;
    }
    slot *s = map_find(&r->index, node);
    if (!s) {
        entry *e = new_entry(r, node);
        if (!e || !(s = map_insert(&r->index, node)) || !heap_push(r, e)) {
            if (e) drop_entry(r, e);
            if (s) map_remove(&r->index, s);
            tl_free(g);
            return FAILED;
        }
        s->value = e;
    }
    tl_tensor **at = &((entry *)s->value)->g[out_nr];
    if (!*at) {
        *at = g;
        return DELIVERED;
    }
    int added = add_gradient(r, at, g);
    return added == ADD_ASK ? ask(r, TL_ASK_ADD) : added;
}

/* Whether g can be added to the leaf's gradient here. */
static bool accumulates(const tl_run *r, const tl_tensor *leaf, const tl_tensor *g) { return in_c(r, g) && (!leaf->grad || in_c(r, leaf->grad)); }

static int finish_leaf(tl_run *r, leaf_state *leaf)
{
    if (leaf->capture) return DELIVERED;
    if (leaf->g && !(leaf->leaf->flags & TL_SHOWS_GRAD) && accumulates(r, leaf->leaf, leaf->g)) {
        tl_tensor *g = leaf->g;
        leaf->g = NULL;
        leaf->served = tl_accumulate_grad(leaf->leaf, g);
        if (!leaf->served) return FAILED;
    }
    if (!leaf->g && !(leaf->served && (leaf->leaf->flags & TL_HAS_HOOKS))) return DELIVERED;
    r->ask_leaf = leaf;
    return ask(r, TL_ASK_LEAF);
}

static int deliver_leaf(tl_run *r, tl_tensor *t, tl_tensor *g)
{
    if (!r->counting && accumulates(r, t, g)) return tl_accumulate_grad(t, g);
    if (r->restricted && !map_find(&r->leaves, t)) {
        tl_free(g);
        return DELIVERED;
    }
    leaf_state *leaf = leaf_of(r, t);
    if (!leaf) {
        tl_free(g);
        return FAILED;
    }
    if (!leaf->g) {
        leaf->g = g;
        return DELIVERED;
    }
    int added = add_gradient(r, &leaf->g, g);
    r->ask_leaf = leaf;
    return added == ADD_ASK ? ask(r, TL_ASK_ADD) : added;
}

/* Whether summing over broadcast dimensions makes g's shape m's. */
static bool reducible(const tl_tensor *g, const tl_meta *m)
{
    int lead = g->ndim - m->ndim;
    for (int i = 0; lead >= 0 && i < m->ndim; i++)
        if (m->dims[i] != 1 && m->dims[i] != g->dims[lead + i]) return false;
    return lead >= 0;
}

static bool fits(const tl_tensor *g, const tl_meta *m)
{
    return !m || (g->dtype == m->dtype && g->ndim == m->ndim && memcmp(g->dims, m->dims, m->ndim * sizeof *m->dims) == 0);
}

/* What was put off for the leaf goes there now. */
static int deliver_shared(tl_run *r, tl_tensor *leaf)
{
    tl_tensor *g;
    if (!tl_deferred_take(&r->deferred, leaf, &g)) return FAILED;
    return g ? deliver_leaf(r, leaf, g) : DELIVERED;
}

static int deliver_deferred(tl_run *r)
{
    for (; r->shared < r->deferred.leaves.capacity; r->shared++) {
        tl_tensor *leaf = r->deferred.leaves.slots[r->shared].key;
        int result = leaf ? deliver_shared(r, leaf) : DELIVERED;
        if (result != DELIVERED) return r->shared++, result;
    }
    return DELIVERED;
}

/* The leaf behind edge i has one use less. */
static int leaf_used(tl_run *r, const tl_edge *e)
{
    if (!r->counting || !e->leaf) return DELIVERED;
    slot *s = map_find(&r->leaves, e->to);
    leaf_state *leaf = s ? s->value : NULL;
    if (!leaf || --leaf->uses) return DELIVERED;
    int result = deliver_shared(r, leaf->leaf);
    return result == DELIVERED ? finish_leaf(r, leaf) : result;
}

/* Delivers gin[delivered..]; resumable after a question. */
static int deliver_all(tl_run *r)
{
    tl_node *node = r->current->node;
    while (r->delivered < 2 * r->n_gin) { /* two steps an input: bring the gradient there, then count the use */
        int i = r->delivered / 2, result = DELIVERED;
        tl_edge *e = &node->edges[i];
        tl_tensor *g = r->gin[i];
        if (r->delivered % 2 == 0 && e->to && g) {
            if (!fits(g, e->meta)) {
                if (!in_c(r, g) || !tl_is_float(e->meta->dtype) || !reducible(g, e->meta)) {
                    r->ask_a = g, r->ask_meta = e->meta;
                    return ask(r, TL_ASK_REDUCE);
                }
                r->gin[i] = g = arr_sum_to(g, e->meta->dtype, e->meta->ndim, e->meta->dims);
                if (!g) return FAILED;
            }
            r->gin[i] = NULL;
            result = e->leaf ? deliver_leaf(r, e->to, g) : deliver_node(r, e->to, e->out_nr, g);
        } else if (r->delivered % 2) {
            result = leaf_used(r, e);
        }
        r->delivered++;
        if (result != DELIVERED) return result;
    }
    drop_gin(r);
    drop_entry(r, r->current);
    r->current = NULL;
    return DELIVERED;
}

static int verdict(int result) { return result == DELIVERED ? TL_RUN_DONE : result == FAILED ? TL_RUN_ERROR : -result; }

/* The gradient of root t; a question as from tl_run_next, where two roots share a node. */
int tl_run_seed(tl_run *r, tl_tensor *t, tl_tensor *g)
{
    tl_own(g);
    tl_tracks(t);
    return verdict(t->node ? deliver_node(r, t->node, t->out_nr, g) : deliver_leaf(r, t, g));
}

/* ---- running a node ---- */
/* A node that keeps no tensor (the operand of x * 2 is a number) can run again: a weight's transpose serves every step. As in PyTorch. */
static bool keeps_tensors(const tl_node *n)
{
    for (int i = 0; i < n->n_saved; i++)
        if (!(n->saved[i].value->flags & TL_NUMBER)) return true;
    return false;
}

static void leave_node(tl_run *r, tl_node *n)
{
    if (!r->retain && keeps_tensors(n)) n->flags |= TL_NODE_SPENT;
    if (--n->busy == 0 && (n->flags & TL_NODE_SPENT)) tl_node_release_saved(n);
    r->rule_done = true;
}

static bool open_gin(tl_run *r, int n)
{
    r->gin = n <= INLINE_INPUTS ? r->gin_inline : malloc((size_t)n * sizeof *r->gin);
    if (!r->gin) return tl_fail(TL_NOMEM);
    memset(r->gin, 0, (size_t)n * sizeof *r->gin);
    r->n_gin = n;
    r->delivered = 0;
    return true;
}

static void take_captures(tl_run *r, entry *e)
{
    for (int i = 0; i < r->n_captures; i++) {
        capture *c = &r->captures[i];
        if (c->to != e->node || c->out_nr < 0 || !e->g[c->out_nr]) continue;
        tl_own(e->g[c->out_nr]);
        tl_free(c->g);
        c->g = e->g[c->out_nr];
    }
}

/* Whether, restricted to captures, any edge of this node leads on. */
static bool leads_on(const tl_run *r, const tl_node *n)
{
    if (!r->restricted) return true;
    for (int i = 0; i < n->n_in; i++) {
        const tl_edge *e = &n->edges[i];
        if (e->to && (e->leaf ? map_find(&r->leaves, e->to) != NULL : wanted(r, e->to))) return true;
    }
    return false;
}

static bool open_node(tl_run *r)
{
    entry *e = heap_pop(r);
    map_remove(&r->index, map_find(&r->index, e->node));
    r->current = e;
    r->rule_done = r->hooks_done = false;
    e->node->busy++;
    return open_gin(r, e->node->n_in);
}

/* What the input of n has received so far, where it is ours to add a part to: then no zeros are made around it. */
static tl_tensor *sum_to_join(const tl_run *r, const tl_node *n, const tl_tensor *g)
{
    const tl_edge *e = &n->edges[0];
    slot *s = tl_shows_part(n) && e->to ? map_find(e->leaf ? &r->leaves : &r->index, e->to) : NULL;
    tl_tensor *sum = !s ? NULL : e->leaf ? ((leaf_state *)s->value)->g : ((entry *)s->value)->g[e->out_nr];
    return sum && sum->dtype == g->dtype && fits(sum, e->meta) && tl_exclusive(sum) ? sum : NULL;
}

/* Nobody sees it before it is there, and nothing came before it or, where leaves are counted, comes after it in this run. */
bool tl_run_puts_off(const tl_deferred *d, tl_tensor *leaf, const tl_tensor *g, const tl_tensor *x)
{
    const tl_run *r = (const tl_run *)((const char *)d - offsetof(tl_run, deferred));
    const slot *s = r->counting ? map_find(&r->leaves, leaf) : NULL;
    leaf_state *state = s ? s->value : NULL;
    bool alone = !r->counting || (state && state->uses == 1 && !state->g && !state->capture && !(leaf->flags & TL_SHOWS_GRAD));
    if (!alone || !tl_put_off(leaf, g, x)) return false;
    if (state) state->served = true;
    return true;
}

/* Fills gin; false where Python has to, or (TL_NOMEM) nobody can. */
static bool gradient_in_c(tl_run *r, const entry *e)
{
    const tl_node *n = e->node;
    tl_tensor *sum;
    if (n->op >= TL_N_OPS || n->token || r->create_graph) return false; /* a node with a token keeps its attributes in Python */
    for (int j = 0; j < n->n_out; j++)
        if (e->g[j] && !in_c(r, e->g[j])) return false;
    if (e->g[0] && (sum = sum_to_join(r, n, e->g[0]))) return tl_add_part(n, sum, e->g[0]);
    tl_grads_fn many = tl_gradients_of_many[n->op];
    tl_grad_fn one = tl_gradients[n->op];
    tl_deferring = &r->deferred;
    r->deferred.places = !r->restricted; /* a captured gradient is the caller's */
    bool done = many ? many(n, e->g, r->gin) : one && e->g[0] && one(n, e->g[0], r->gin);
    tl_deferring = NULL;
    return done;
}

/* DELIVERED once gin is filled. */
static int run_node(tl_run *r)
{
    entry *e = r->current;
    tl_node *n = e->node;
    if (n->hooks && !r->hooks_done) return ask(r, TL_ASK_NODE);
    take_captures(r, e);
    if (!leads_on(r, n)) {
        r->n_gin = 0;
        n->busy--; /* nothing was run: nothing is spent */
        r->rule_done = true;
        return DELIVERED;
    }
    if (n->flags & TL_NODE_SPENT) {
        tl_fail_with(TL_SPENT, n->line, n->op, 0);
        return FAILED;
    }
    int64_t stale = tl_saved_stale(n);
    if (stale >= 0) {
        tl_fail_with(TL_STALE, n->line, n->op, n->saved[stale].value->storage->write_line);
        return FAILED;
    }
    tl_last_error.code = TL_OK;
    if (!gradient_in_c(r, e)) return tl_last_error.code == TL_NOMEM ? FAILED : ask(r, TL_ASK_NODE);
    leave_node(r, n);
    return DELIVERED;
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool signals_due(tl_run *r)
{
    if (++r->since_signal < SIGNAL_NODES) return false;
    r->since_signal = 0;
    int64_t now = now_ns();
    if (now - r->signal_ns < SIGNAL_NS) return false;
    bool first = r->signal_ns == 0;
    r->signal_ns = now;
    return !first;
}

/* Leaves whose uses were not all reached (a rule gave no gradient somewhere upstream) still get what arrived. */
static int flush_leaves(tl_run *r)
{
    while (r->flush < r->leaves.capacity) {
        leaf_state *leaf = r->leaves.slots[r->flush++].value;
        int result = leaf ? finish_leaf(r, leaf) : DELIVERED;
        if (result != DELIVERED) return result;
    }
    return DELIVERED;
}

int tl_run_next(tl_run *r)
{
    for (;;) {
        int result = DELIVERED;
        if (!r->current) {
            if (!r->n_heap) {
                if ((result = deliver_deferred(r)) == DELIVERED) result = flush_leaves(r);
                return verdict(result);
            }
            if (signals_due(r)) return TL_RUN_SIGNALS;
            if (!open_node(r)) return TL_RUN_ERROR;
        }
        if (!r->rule_done) result = run_node(r);
        if (result == DELIVERED) result = deliver_all(r);
        if (result != DELIVERED) return verdict(result);
    }
}

/* ---- questions and answers ---- */
tl_node *tl_run_node(tl_run *r) { return r->current ? r->current->node : NULL; }

tl_tensor *tl_run_grad(tl_run *r, int j)
{
    tl_tensor *g = r->ask == TL_ASK_NODE ? r->current->g[j] : r->ask == TL_ASK_LEAF ? r->ask_leaf->g : j ? r->ask_b : r->ask_a;
    if (g) tl_own(g);
    return g;
}

tl_tensor *tl_run_leaf(tl_run *r)
{
    tl_own(r->ask_leaf->leaf);
    return r->ask_leaf->leaf;
}

const tl_meta *tl_run_meta(tl_run *r) { return r->ask_meta; }
bool tl_run_wants(tl_run *r, int i)
{
    const tl_edge *e = &r->current->node->edges[i];
    return e->to && (!r->restricted || (e->leaf ? map_find(&r->leaves, e->to) != NULL : wanted(r, e->to)));
}
bool tl_run_hooks_pending(tl_run *r) { return r->current->node->hooks && !r->hooks_done; }

void tl_run_set_grad(tl_run *r, int j, tl_tensor *g)
{
    tl_own(g);
    tl_free(r->current->g[j]);
    r->current->g[j] = g;
}

void tl_run_hooked(tl_run *r) { r->hooks_done = true; }

/* The answer to ASK_NODE, input by input (NULL: no gradient); tl_run_gave ends it. */
void tl_run_give(tl_run *r, int i, tl_tensor *g)
{
    if (g) tl_own(g);
    tl_free(r->gin[i]);
    r->gin[i] = g;
}

void tl_run_gave(tl_run *r) { leave_node(r, r->current->node); }

/* The answer to ASK_ADD, ASK_REDUCE and ASK_LEAF (there: NULL, the leaf has its gradient and hooks are run). */
void tl_run_answer(tl_run *r, tl_tensor *g)
{
    if (g) tl_own(g);
    if (r->ask == TL_ASK_REDUCE) {
        tl_free(r->gin[r->delivered / 2]);
        r->gin[r->delivered / 2] = g;
    } else if (r->ask == TL_ASK_LEAF) {
        tl_free(r->ask_leaf->g);
        r->ask_leaf->g = NULL;
        r->ask_leaf->served = false;
        tl_free(g);
    } else {
        tl_free(*r->ask_sum);
        *r->ask_sum = g;
        tl_free(r->ask_b);
    }
    r->ask_a = r->ask_b = NULL;
    r->ask_sum = NULL;
}
