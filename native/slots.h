/* Scratch for the threads of one parallel loop: as many slots as threads may run, taken for one chunk at a time. */
#ifndef TL_SLOTS_H
#define TL_SLOTS_H
#include "tl.h"

enum { TL_MAX_SLOTS = 64 };
typedef struct {
    char *data;
    size_t each, granted;
    _Atomic uint64_t free;
} tl_slots;

/* Room for every chunk of a loop over n that runs at once, `nbytes` each. With the GIL; false: no memory. */
static inline bool tl_slots_new(tl_slots *s, int64_t n, size_t nbytes)
{
    int64_t threads = tl_get_num_threads(), count = n < threads ? n : threads;
    count = count < 1 ? 1 : count < TL_MAX_SLOTS ? count : TL_MAX_SLOTS;
    s->each = (nbytes + 63) & ~(size_t)63;
    s->data = tl_alloc(s->each * (size_t)count, &s->granted);
    atomic_init(&s->free, ~UINT64_C(0) >> (64 - count));
    return s->data;
}
static inline void tl_slots_free(tl_slots *s)
{
    if (s->data) tl_release(s->data, s->granted);
}

/* Waits where more threads run than there are slots, which takes more than TL_MAX_SLOTS threads. */
static inline int tl_slot_take(tl_slots *s)
{
    for (;;) {
        uint64_t free = atomic_load(&s->free);
        while (free && !atomic_compare_exchange_weak(&s->free, &free, free & (free - 1))) {}
        if (free) return __builtin_ctzll(free);
    }
}
static inline void tl_slot_give(tl_slots *s, int slot) { atomic_fetch_or(&s->free, UINT64_C(1) << slot); }
static inline void *tl_slot_data(const tl_slots *s, int slot) { return s->data + (size_t)slot * s->each; }
#endif
