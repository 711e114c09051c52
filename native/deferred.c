/* Gradients of weights that many small products of one backward run share: a tree or a sentence walked cell by cell, each with a few rows.
 *
 * By itself each such product writes a gradient as large as the weight, which is then added to the sum: memory traffic, nothing else. So from the
 * second use of a weight in a run on, the rows of both operands are kept, and one product over all of them makes the gradient, when the
 * run ends or enough have come together. The order of its sum is that of the run. An embedding's rows are added to one table at once. Under the GIL. */
#include "api.h"
#include "deferred.h"
#include "kernels.h"
#include <stdlib.h>

enum { FEW_ROWS = 64, LEAST = 1 << 10, MOST_ROWS = 2048 }; /* of a use that is kept; elements of its gradient; of all, from where they are multiplied */
enum { MOST_ADDED = 1 << 15 };                 /* elements that are added to rows of a table by one thread */

typedef struct { tl_tensor *g, *x; int64_t version; } use;  /* x NULL: the gradient is g's sum over its rows */
typedef struct {
    tl_tensor *leaf, *sum;                     /* sum: of the products made so far, or NULL */
    use *uses;
    int64_t n, capacity, rows;
} pending;

static int64_t rows_of(const tl_tensor *t) { return t->ndim > 1 ? t->numel / t->dims[t->ndim - 1] : 1; }

static void forget_uses(pending *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        tl_unkeep(p->uses[i].g);
        if (p->uses[i].x) tl_unkeep(p->uses[i].x);
    }
    p->n = p->rows = 0;
}

/* The rows of all operands of one side, one after the other: (rows, width). */
static tl_tensor *joined(const pending *p, bool of_x)
{
    const tl_tensor *first = of_x ? p->uses[0].x : p->uses[0].g;
    int64_t width = first->dims[first->ndim - 1], at = 0;
    tl_tensor *all = tl_new(first->dtype, 2, (int64_t[]){p->rows, width});
    bool ok = all;
    for (int64_t i = 0; ok && i < p->n; i++) {
        const tl_tensor *t = of_x ? p->uses[i].x : p->uses[i].g;
        tl_tensor *place = tl_new_view(all, t->ndim, t->dims, NULL, at);
        ok = place && arr_copy_into(place, t);
        tl_free(place);
        at += t->numel;
    }
    if (ok) return all;
    tl_free(all);
    return NULL;
}

/* sum += the product of all that waits. */
static bool multiply(pending *p)
{
    for (int64_t i = 0; i < p->n; i++)
        if (p->uses[i].x && p->uses[i].x->storage->version != p->uses[i].version) return tl_fail_with(TL_STALE, 0, TL_OP_linear, p->uses[i].x->storage->write_line);
    bool product = p->uses[0].x;
    tl_tensor *g = joined(p, false), *x = g && product ? joined(p, true) : NULL, *made = NULL;
    if (g && (x || !product)) made = x ? arr_linear_grad_weight(g, x) : arr_linear_grad_bias(g);
    tl_free(g);
    tl_free(x);
    forget_uses(p);
    if (!made) return false;
    if (!p->sum) return (p->sum = made);
    bool ok = arr_binary_into(TL_OP_add, p->sum, p->sum, made);
    tl_free(made);
    return ok;
}

static pending *pending_of(tl_deferred *d, tl_tensor *leaf)
{
    slot *s = map_insert(&d->leaves, leaf);
    pending *p = s ? calloc(1, sizeof *p) : NULL;
    if (s && !p) map_remove(&d->leaves, s);
    if (!p) return NULL;
    tl_own(leaf);
    p->leaf = leaf;
    s->value = p;
    return p;
}

/* True: kept until later. */
static bool defers(const tl_edge *e, const tl_tensor *g, const tl_tensor *x)
{
    tl_deferred *d = tl_deferring;
    if (!d || !e->leaf || !g->ndim || !g->numel || (x && !x->numel)) return false;
    int64_t rows = rows_of(g);
    tl_tensor *leaf = e->to;
    if (rows > FEW_ROWS || (x && rows_of(x) != rows) || leaf->numel < (x ? LEAST : 1) || leaf->dtype != g->dtype) return false;
    slot *s = map_find(&d->leaves, leaf);
    if (!s) {
        pending_of(d, leaf);                   /* the first use is multiplied at once: most weights have no other */
        return false;
    }
    pending *p = s->value;
    if (p->n && !p->uses[0].x != !x) return false;
    if (p->n == p->capacity) {
        int64_t capacity = p->capacity ? 2 * p->capacity : 16;
        use *grown = realloc(p->uses, (size_t)capacity * sizeof *grown);
        if (!grown) return false;
        p->uses = grown, p->capacity = capacity;
    }
    tl_tensor *kept_g = (tl_tensor *)g, *kept_x = (tl_tensor *)x;
    tl_keep(kept_g);
    if (x) tl_keep(kept_x);
    p->uses[p->n++] = (use){kept_g, kept_x, x ? x->storage->version : 0};
    p->rows += rows;
    if (p->rows >= MOST_ROWS) d->failed |= !multiply(p);
    return true;
}

bool tl_weight_gradient(const tl_edge *e, const tl_tensor *g, const tl_tensor *x, tl_tensor **to)
{
    if (!e->to || defers(e, g, x)) return true;
    bool places = x && e->leaf && tl_deferring && tl_deferring->places;
    if (places && tl_run_puts_off(tl_deferring, e->to, g, x)) return true;
    tl_tensor *place = places ? tl_free_place(e->to, g->dtype) : NULL;
    if (place) tl_written(place, 0);
    return (*to = place ? arr_linear_grad_weight_into(place, g, x) : x ? arr_linear_grad_weight(g, x) : arr_linear_grad_bias(g));
}

bool tl_rows_gradient(const tl_edge *e, const tl_tensor *g, const tl_tensor *index, int64_t padding, tl_tensor **to)
{
    tl_deferred *d = tl_deferring;
    int64_t rows = e->meta->dims[0];
    if (d && e->leaf && padding < 0 && g->numel <= MOST_ADDED && index->numel < rows && ((tl_tensor *)e->to)->dtype == g->dtype) {
        slot *s = map_find(&d->leaves, e->to);
        pending *p = s ? s->value : pending_of(d, e->to);
        if (p && p->sum) return arr_index_put(p->sum, 0, 1, &index, g, true);
        if (p) return (p->sum = arr_embedding_grad(g, index, rows, padding));
    }
    return (*to = arr_embedding_grad(g, index, rows, padding));
}

bool tl_deferred_take(tl_deferred *d, tl_tensor *leaf, tl_tensor **g)
{
    slot *s = map_find(&d->leaves, leaf);
    pending *p = s ? s->value : NULL;
    *g = NULL;
    if (d->failed || (p && p->n && !multiply(p))) return false;
    if (p) *g = p->sum, p->sum = NULL;
    return true;
}

void tl_deferred_free(tl_deferred *d)
{
    for (int64_t i = 0; i < d->leaves.capacity; i++) {
        pending *p = d->leaves.slots[i].value;
        if (!p) continue;
        forget_uses(p);
        tl_free(p->sum);
        tl_free(p->leaf);
        free(p->uses);
        free(p);
    }
    free(d->leaves.slots);
}

_Thread_local tl_deferred *tl_deferring;
