/* What the drivers of kernels ask of their operands. */
#ifndef TL_OPERANDS_H
#define TL_OPERANDS_H
#include "tl.h"

static inline void tl_drop_all(const tl_tensor **t, int n)
{
    for (int i = 0; i < n; i++) tl_free((tl_tensor *)t[i]);
}
/* Turns every t[i] (which may be NULL) into a contiguous tensor that the caller owns: itself, or a copy. False: no memory, nothing owned. */
static inline bool tl_make_contiguous(const tl_tensor **t, int n)
{
    for (int i = 0; i < n; i++) {
        if (!t[i]) continue;
        if (tl_contiguous(t[i])) tl_own((tl_tensor *)t[i]);
        else if (!(t[i] = arr_cast(t[i], t[i]->dtype))) return tl_drop_all(t, i), false;
    }
    return true;
}
/* Of one dtype, and one that kernels compute in; b may be absent. */
static inline bool tl_alike(const tl_tensor *a, const tl_tensor *b) { return tl_is_float(a->dtype) && (!b || b->dtype == a->dtype); }
static inline bool tl_alike_of(const tl_tensor *a, const tl_tensor *b, int64_t numel) { return tl_alike(a, b) && (!b || b->numel == numel); }
static inline void *tl_data_or_null(const tl_tensor *t) { return t ? tl_data(t) : NULL; }
#endif
