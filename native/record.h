/* What the recording entry points (dispatch.c and the files beside it) have in common. */
#ifndef TL_RECORD_H
#define TL_RECORD_H
#include "tl.h"

/* On a device of an array module: Python's. */
static inline bool tl_elsewhere(const tl_tensor *t) { return t && t->storage->kind == TL_FOREIGN; }

/* Autocast is on in this thread, to this dtype (0: off): in bits 0 to 7 here, in bits 8 to 15 on GPUs, whose operations are Python's anyway. */
extern _Thread_local int tl_autocast;
/* The operation would run in that dtype: Python's. */
static inline bool tl_lowers(const tl_tensor *t) { return __builtin_expect(tl_autocast & 0xff, 0) && t->dtype >= TL_F16 && t->dtype <= TL_F32; }

/* Records; attributes are the caller's to set on *node (NULL where nothing is recorded).
 * NULL on failure (out is freed then), and where out is NULL. */
static inline tl_tensor *tl_recorded_with(int op, int n_in, tl_tensor *const *in, tl_tensor *out, int line, tl_node **node)
{
    *node = NULL;
    if (out && !tl_record(op, n_in, in, out, line, node)) {
        tl_free(out);
        return NULL;
    }
    return out;
}

/* A kernel's own results for its gradient go onto the node: three slots more than the mask asked for (tl_node_new keeps room). */
static inline void tl_keep_extra(tl_node *n, int i, tl_tensor *t)
{
    if (n && t) tl_saved_set(n, n->n_saved++, t, TL_SAVED_EXTRA, i);
}

/* For C gradients: gives back what they have made so far, and declines. */
static inline bool tl_undo(const tl_node *n, tl_tensor **gin)
{
    for (int i = 0; i < n->n_in; i++) {
        tl_free(gin[i]);
        gin[i] = NULL;
    }
    return false;
}
#endif
