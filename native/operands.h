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

static inline void tl_put_double(tl_tensor *t, int64_t i, double value)
{
    if (t->dtype == TL_F64) ((double *)tl_data(t))[i] = value;
    else ((float *)tl_data(t))[i] = (float)value;
}
static inline double tl_get_double(const tl_tensor *t, int64_t i)
{
    return t->dtype == TL_F64 ? ((double *)tl_data(t))[i] : (double)((float *)tl_data(t))[i];
}
static inline tl_tensor *tl_scalar_of(int dtype, double value)
{
    tl_tensor *t = tl_new(dtype, 0, NULL);
    if (t) tl_put_double(t, 0, value);
    return t;
}

/* The kernel for this dtype over all tasks, of task_size >= 1 elements each. */
static inline void tl_run_tasks(const tl_range_fn by_type[2], int dtype, void *arg, int64_t tasks, int64_t task_size)
{
    enum { TASK = 16384, LARGE = 32768 }; /* elements of one task; from where the GIL is released */
    tl_range_fn body = by_type[dtype == TL_F64];
    if (tasks * task_size < LARGE) {
        body(arg, 0, tasks);
        return;
    }
    tl_gil gil = tl_unlock(true);
    tl_parallel_for(body, arg, tasks, task_size >= TASK ? 1 : TASK / task_size);
    tl_relock(gil);
}
static inline int64_t tl_blocks_of(int64_t n, int64_t block) { return n / block + (n % block != 0); }
#endif
