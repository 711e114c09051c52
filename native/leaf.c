/* A leaf's gradient: how contributions of one or several backward runs come together in leaf->grad. */
#include "api.h"
#include "kernels.h"
#include <pthread.h>
#include <stdlib.h>

/* Whether nobody but the holder of g sees its memory: it may be written, or become somebody's gradient as it is. */
bool tl_exclusive(const tl_tensor *g)
{
    return g->refs == 1 && atomic_load_explicit(&g->storage->refs, memory_order_relaxed) == 1 && tl_contiguous(g) && !g->storage->readonly
           && g->storage->kind == TL_OWNED && (size_t)g->numel * tl_itemsize[g->dtype] == g->storage->nbytes;
}

/* Several threads may run backward into the same leaf, and the addition releases the GIL: one lock, never waited for with the GIL held. */
static pthread_mutex_t leaf_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_leaves(void)
{
    if (pthread_mutex_trylock(&leaf_lock) == 0) return;
    tl_gil gil = tl_unlock(true);
    pthread_mutex_lock(&leaf_lock);
    tl_relock(gil);
}

/* ---- where it lies, and as what ---- */
/* Memory that a leaf's gradient is to lie in while nobody else holds it: a handle that only the leaf has, so that its count tells. g, x: the
 * gradient is g^T x, not multiplied yet (leaf->grad is NULL then), or NULL; they lie in `factors` where it is given. */
typedef struct tl_grad_place { tl_tensor *memory, *factors, *g, *x; bool puts_off; } tl_grad_place;
enum { FEWER = 4, LEAST = 1 << 14 }; /* factors are kept where they have so many times fewer elements than their product, which has so many at least */

void tl_place_free(tl_grad_place *p)
{
    if (!p) return;
    tl_free(p->memory);
    tl_free(p->factors);
    tl_free(p->g);
    tl_free(p->x);
    free(p);
}

tl_tensor *tl_free_place(const tl_tensor *leaf, int dtype)
{
    tl_grad_place *p = leaf->place;
    if (!p || p->g || leaf->grad || p->memory->refs > 1 || p->memory->dtype != dtype) return NULL;
    tl_own(p->memory);
    return p->memory;
}

/* t as a matrix of its last dimension that nobody writes to: copied, from element `at` of the memory on if there is any, or as it is where nobody
 * else has it. */
static tl_tensor *rows_kept(tl_tensor *t, int64_t rows, tl_tensor *memory, int64_t at)
{
    tl_tensor *copy;
    if (memory) copy = tl_new_view(memory, t->ndim, t->dims, NULL, memory->offset + at);
    else if (tl_exclusive(t)) tl_own(copy = t);
    else copy = arr_cast(t, t->dtype);
    bool ok = copy && (!memory || arr_copy_into(copy, t));
    if (ok && memory) tl_written(memory, 0);
    tl_tensor *matrix = ok ? tl_new_view(copy, 2, (int64_t[]){rows, t->dims[t->ndim - 1]}, NULL, copy->offset) : NULL;
    tl_free(copy);
    return matrix;
}

/* With the leaves locked: copying releases the GIL. */
static bool put_off(tl_tensor *leaf, const tl_tensor *g, const tl_tensor *x)
{
    tl_grad_place *p = leaf->place;
    if (!p || !p->puts_off || leaf->grad || p->g || p->memory->refs > 1) return false;
    bool fits = leaf->ndim == 2 && g->ndim && x->ndim == g->ndim && g->dtype == leaf->dtype && x->dtype == leaf->dtype && leaf->numel >= LEAST;
    if (!fits || g->dims[g->ndim - 1] != leaf->dims[0] || x->dims[x->ndim - 1] != leaf->dims[1]) return false;
    int64_t rows = g->numel / leaf->dims[0];
    if (rows < 1 || rows > TL_MM_KC || x->numel != rows * leaf->dims[1] || FEWER * (g->numel + x->numel) > leaf->numel) return false;
    tl_tensor *kept_g = rows_kept((tl_tensor *)g, rows, p->factors, 0);
    tl_tensor *kept_x = kept_g ? rows_kept((tl_tensor *)x, rows, p->factors, g->numel) : NULL;
    if (kept_x) {
        p->g = kept_g, p->x = kept_x;
        return true;
    }
    tl_free(kept_g);
    return false;
}

bool tl_put_off(tl_tensor *leaf, const tl_tensor *g, const tl_tensor *x)
{
    if (!leaf->place || !leaf->place->puts_off) return false;
    lock_leaves();
    bool kept = put_off(leaf, g, x);
    pthread_mutex_unlock(&leaf_lock);
    return kept;
}

/* With the leaves locked. It needs no memory that it could not do without. */
static void make_grad(tl_tensor *leaf)
{
    tl_grad_place *p = leaf->place;
    if (!p || !p->g) return;
    tl_own(p->memory);
    leaf->grad = arr_linear_grad_weight_into(p->memory, p->g, p->x);
    tl_written(p->memory, 0);
    tl_free(p->g);
    tl_free(p->x);
    p->g = p->x = NULL;
}

void tl_make_grad(tl_tensor *leaf)
{
    if (__builtin_expect(!leaf->place, 1) || !leaf->place->g) return;
    lock_leaves();
    make_grad(leaf);
    pthread_mutex_unlock(&leaf_lock);
}

void tl_forget_grad(tl_tensor *leaf)
{
    uintptr_t x = 0;
    tl_free(tl_take_factors(leaf, &x));
    tl_free((tl_tensor *)x);
    tl_tensor *g = leaf->grad;
    leaf->grad = NULL;
    tl_free(g);
}

/* The factors of the leaf's gradient, which it then has none of; NULL where it has none, or it is multiplied. */
tl_tensor *tl_take_factors(tl_tensor *leaf, uintptr_t *x)
{
    if (!leaf->place || !leaf->place->g) return NULL;
    lock_leaves(); /* somebody may be multiplying them */
    tl_grad_place *p = leaf->place;
    tl_tensor *g = p ? p->g : NULL;
    if (g) *x = (uintptr_t)p->x, p->g = p->x = NULL;
    pthread_mutex_unlock(&leaf_lock);
    return g;
}

/* False where the memory can not hold the leaf's gradients. NULL: they lie anywhere again. */
bool tl_set_grad_place(tl_tensor *leaf, tl_tensor *memory, bool puts_off, tl_tensor *factors)
{
    tl_grad_place *place = NULL;
    if (memory) {
        if (leaf->node || memory->dtype != leaf->dtype || !tl_is_float(leaf->dtype) || !tl_same_shape(memory, leaf) || !tl_contiguous(memory)
            || memory->storage->kind == TL_FOREIGN || !tl_overwritable(memory))
            return tl_fail(TL_DECLINE);
        bool room = !factors || (factors->dtype == leaf->dtype && factors->ndim == 1 && factors->numel >= leaf->numel / FEWER);
        if (!room || (factors && (!tl_contiguous(factors) || factors->storage->kind == TL_FOREIGN || !tl_overwritable(factors)))) return tl_fail(TL_DECLINE);
        tl_tensor *view = tl_new_view(memory, memory->ndim, memory->dims, NULL, memory->offset);
        tl_tensor *kept = factors ? tl_new_view(factors, 1, factors->dims, NULL, factors->offset) : NULL;
        place = view && (kept || !factors) ? malloc(sizeof *place) : NULL;
        if (!place) {
            tl_free(view);
            tl_free(kept);
            return tl_fail(TL_NOMEM);
        }
        *place = (tl_grad_place){.memory = view, .factors = kept, .puts_off = puts_off};
    }
    lock_leaves(); /* another thread may be putting off */
    make_grad(leaf);
    tl_grad_place *before = leaf->place;
    leaf->place = place;
    pthread_mutex_unlock(&leaf_lock);
    tl_place_free(before);
    return true;
}

/* ---- contributions ---- */
/* leaf->grad += g in place, keeping its identity; the first gradient moves in where nobody else holds it. Consumes g. */
bool tl_accumulate_grad(tl_tensor *leaf, tl_tensor *g)
{
    bool ok = true;
    lock_leaves();
    make_grad(leaf);
    const tl_tensor *own = leaf->place ? leaf->place->memory : NULL;
    tl_tensor *place = g == own ? NULL : tl_free_place(leaf, g->dtype);
    if (place && g->storage->kind != TL_FOREIGN) {
        ok = arr_copy_into(place, g);
        tl_written(place, 0);
        if (ok) leaf->grad = place, place = NULL;
        tl_free(g);
    } else if (!leaf->grad) {
        bool constant = !g->node && !(g->flags & TL_REQUIRES_GRAD);
        bool as_is = g == own || (tl_exclusive(g) && constant) || !tl_is_float(g->dtype) || g->storage->kind == TL_FOREIGN;
        tl_tensor *taken = as_is ? g : arr_cast(g, g->dtype);
        if (!as_is) tl_free(g);
        ok = taken;
        leaf->grad = taken;
    } else {
        tl_tensor *held = leaf->grad;
        tl_own(held); /* another thread may replace leaf->grad while the addition runs without the GIL */
        if (tl_overwritable(held)) {
            ok = arr_binary_into(TL_OP_add, held, held, g);
            if (ok) tl_written(held, 0);
        } else { /* the user put it there: an expanded tensor, or memory that is not ours to write */
            tl_tensor *sum = arr_binary(TL_OP_add, held, g);
            ok = sum;
            if (sum) tl_set_grad(leaf, sum);
            tl_free(sum);
        }
        tl_free(held);
        tl_free(g);
    }
    tl_free(place);
    pthread_mutex_unlock(&leaf_lock);
    return ok;
}
