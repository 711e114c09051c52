/* Pooling for one instruction set: contracts in kernels.h, the loops in pool_type.inc.c, the driver in pool.c. */

/* The taps of a window that lie in the image: from <= k < to, tap k at start + k * dil. */
typedef struct { int64_t start, from, to; } pool_span;

static pool_span TL_NAME(pool_span_of)(const tl_pool_dim *d, int64_t o)
{
    if (!d->stride) { /* adaptive */
        int64_t start = o * d->n / d->out, end = ((o + 1) * d->n + d->out - 1) / d->out;
        return (pool_span){start, 0, end - start};
    }
    int64_t start = o * d->stride - d->pad, last = start + (d->ker - 1) * d->dil;
    int64_t from = start < 0 ? (-start + d->dil - 1) / d->dil : 0;
    int64_t to = last < d->n ? d->ker : (d->n - start + d->dil - 1) / d->dil;
    return (pool_span){start, from, to};
}
/* How many of window o's taps an average counts. */
static int64_t TL_NAME(pool_share)(const tl_pool_task *p, const tl_pool_dim *d, int64_t o)
{
    pool_span s = TL_NAME(pool_span_of)(d, o);
    if (!p->padded) return s.to - s.from;
    return s.start + d->ker < d->n + d->pad ? d->ker : d->n + d->pad - s.start;
}
static int64_t TL_NAME(pool_volume)(const tl_pool_dim *d, bool windows)
{
    return windows ? d[0].out * d[1].out * d[2].out : d[0].n * d[1].n * d[2].n;
}

/* The fast loops work on pieces of a row: as many windows as find room with all they cover. */
enum { POOL_ROW = 2048, POOL_BLOCK = 256 };
typedef struct {
    int64_t first, n;        /* windows along the row */
    int64_t at, length;      /* elements that they cover, from at on (at and the end may lie in the padding) */
    int64_t phase;           /* elements are split by their place modulo the stride: the length of one such part */
} pool_piece;

static bool TL_NAME(pool_by_rows)(const tl_pool_dim *w)
{
    if (!w->stride) return w->n <= POOL_ROW && w->out <= POOL_BLOCK; /* adaptive: all at once */
    return w->stride && w->stride <= POOL_ROW / 2 && w->ker <= POOL_ROW && (w->ker - 1) * w->dil < POOL_ROW / 2;
}
static pool_piece TL_NAME(pool_piece_at)(const tl_pool_dim *w, int64_t first)
{
    if (!w->stride) return (pool_piece){0, w->out, 0, w->n, w->n};
    int64_t reach = (w->ker - 1) * w->dil + 1, room = (POOL_ROW - reach) / w->stride + 1, n = w->out - first;
    n = n < POOL_BLOCK ? n : POOL_BLOCK;
    n = n < room ? n : room;
    int64_t length = (n - 1) * w->stride + reach;
    return (pool_piece){first, n, first * w->stride - w->pad, length, (length + w->stride - 1) / w->stride};
}
/* Where tap k of the piece's first window lies in the split row. */
static void TL_NAME(pool_taps)(const tl_pool_dim *w, const pool_piece *b, int32_t *tap)
{
    for (int64_t k = 0; k < w->ker; k++) tap[k] = (int32_t)(k * w->dil % w->stride * b->phase + k * w->dil / w->stride);
}

#define PN_(name, type) TL_NAME(pool_##name##_##type)

#define T float
#define V v_f32
#define I s_i32
#define VI v_i32
#define VN(name) vf_##name
#define PN(name) PN_(name, f32)
#include "pool_type.inc.c"

#define T double
#define V v_f64
#define I s_i64
#define VI v_i64
#define VN(name) vd_##name
#define PN(name) PN_(name, f64)
#include "pool_type.inc.c"

#define BOTH(name) {TL_NAME(pool_##name##_f32), TL_NAME(pool_##name##_f64)}
const tl_pool_kernels TL_NAME(pool_kernels) = {
    .max = BOTH(max), .max_grad = BOTH(max_grad), .average = BOTH(average), .average_grad = BOTH(average_grad),
};
#undef BOTH
#undef PN_
