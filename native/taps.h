/* What the paths of convolution that multiply weights by images share: which taps of a kernel a view sees, and where; little arithmetic. */
#ifndef TL_TAPS_H
#define TL_TAPS_H
#include "kernels.h"

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
static inline int64_t product(const int64_t *d) { return d[0] * d[1] * d[2]; }
static inline int64_t size_of(int type) { return type ? 8 : 4; }
static inline const void *at(const void *p, int type, int64_t i) { return (const char *)p + i * size_of(type); }

/* In chunks of one piece where the work, in multiply-adds, is worth waking threads for. */
static inline void for_pieces(tl_range_fn body, void *arg, int64_t pieces, double work)
{
    enum { BIG_WORK = 1 << 18 };
    bool big = work >= BIG_WORK;
    tl_gil gil = tl_unlock(big);
    if (big && pieces > 1) tl_parallel_for(body, arg, pieces, 1);
    else body(arg, 0, pieces);
    tl_relock(gil);
}

/* The taps that a view has, and where each lies in a kernel of the weights. */
typedef struct {
    int64_t (*off)[3], *at, n;
    size_t granted;
} taps;

/* Room for all of p's; none yet. False: no memory. */
static inline bool new_taps(taps *t, const tl_conv *p)
{
    int64_t most = product(p->ker);
    t->n = 0;
    t->off = tl_alloc((size_t)most * 4 * sizeof **t->off, &t->granted);
    t->at = t->off ? (int64_t *)(t->off + most) : NULL;
    return t->off;
}

/* Adds, forward: every tap, from -pad. For the gradient of the input at positions congruent to `from` modulo the stride: those that reach it. */
static inline void find_taps(taps *t, const tl_conv *p, const int64_t *from)
{
    for (int64_t i = 0, all = product(p->ker); i < all; i++) {
        int64_t r[3] = {i / p->ker[2] / p->ker[1], i / p->ker[2] % p->ker[1], i % p->ker[2]};
        bool reaches = true;
        for (int d = 0; d < 3; d++) {
            int64_t shift = r[d] * p->dil[d] - p->pad[d];
            if (from) {
                int64_t back = from[d] - shift;
                reaches &= back % p->stride[d] == 0;
                shift = back / p->stride[d];
            }
            if (t->n < all) t->off[t->n][d] = shift;
        }
        if (t->n < all) t->at[t->n] = i;
        t->n += reaches;
    }
}

/* Whether each pixel of the input has a tap that reaches it: residues r * dil for r < ker, all of them where ker >= stride and nothing divides both. */
static inline bool reaches_all(const tl_conv *p)
{
    for (int d = 0; d < 3; d++)
        if (p->stride[d] != 1 && (p->ker[d] < p->stride[d] || p->dil[d] != 1)) return false;
    return true;
}
#endif
