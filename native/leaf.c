/* A leaf's gradient: how contributions of one or several backward runs come together in leaf->grad. */
#include "api.h"
#include "kernels.h"
#include <pthread.h>

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

/* leaf->grad += g in place, keeping its identity; the first gradient moves in where nobody else holds it. Consumes g. */
bool tl_accumulate_grad(tl_tensor *leaf, tl_tensor *g)
{
    bool ok = true;
    lock_leaves();
    if (!leaf->grad) {
        bool as_is = tl_exclusive(g) || !tl_is_float(g->dtype) || g->storage->kind == TL_FOREIGN;
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
    pthread_mutex_unlock(&leaf_lock);
    return ok;
}
