/* The kernels over rows for one element type, included by rows.inc.c with
 *   T, V        the element and a vector of it;  EXP_LOWEST  exp is a normal number from there on
 *   VN(name)    vec.h's name for this type;  RN(name)  ours, for type and instruction set
 *
 * Everything is built from three loops over a row (row_max, row_total, row_map), whose `what` is a constant wherever they are used. */
#define VLEN ((int64_t)(sizeof(V) / sizeof(T)))

TL_INLINE V RN(get)(const T *p, int64_t n, T fill) { return n >= VLEN ? VN(load)(p) : VN(load_part)(p, n, fill); }
TL_INLINE void RN(put)(T *p, V v, int64_t n)
{
    if (n >= VLEN) VN(store)(p, v);
    else VN(store_part)(p, v, n);
}
/* Sum and maximum of the lanes, in halves. Vectors of 16 bytes exist everywhere: down to those it takes no detour through memory. */
enum { RN(QUADS) = TL_VBYTES / 16, RN(QLEN) = 16 / sizeof(T) };
typedef T RN(quad) __attribute__((vector_size(16)));
TL_INLINE T RN(lanes)(V v)
{
    RN(quad) q[RN(QUADS)];
    memcpy(q, &v, sizeof v);
#pragma GCC unroll 4
    for (int w = RN(QUADS) / 2; w > 0; w /= 2) {
#pragma GCC unroll 4
        for (int i = 0; i < w; i++) q[i] += q[i + w];
    }
    return RN(QLEN) == 2 ? q[0][0] + q[0][1] : (q[0][0] + q[0][2 % RN(QLEN)]) + (q[0][1] + q[0][3 % RN(QLEN)]);
}
TL_INLINE T RN(larger)(T a, T b) { return a > b ? a : b; }
TL_INLINE T RN(max_lane)(V v)
{
    RN(quad) q[RN(QUADS)];
    memcpy(q, &v, sizeof v);
#pragma GCC unroll 4
    for (int w = RN(QUADS) / 2; w > 0; w /= 2) {
#pragma GCC unroll 4
        for (int i = 0; i < w; i++) q[i] = v_select(q[i] > q[i + w], q[i], q[i + w]);
    }
    if (RN(QLEN) == 2) return RN(larger)(q[0][0], q[0][1]);
    return RN(larger)(RN(larger)(q[0][0], q[0][2 % RN(QLEN)]), RN(larger)(q[0][1], q[0][3 % RN(QLEN)]));
}

/* NaN is passed over: it shows up in whatever is made of the elements. */
TL_INLINE T RN(row_max)(const T *a, int64_t n)
{
    V low = VN(splat)(-(T)INFINITY), m[4] = {low, low, low, low};
    int64_t i = 0;
    for (; i + 4 * VLEN <= n; i += 4 * VLEN) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) m[j] = VN(max)(VN(load)(a + i + j * VLEN), m[j]);
    }
    for (; i < n; i += VLEN) m[0] = VN(max)(RN(get)(a + i, n - i, -(T)INFINITY), m[0]);
    return RN(max_lane)(VN(max)(VN(max)(m[0], m[1]), VN(max)(m[2], m[3])));
}

/* exp(x), but 0 where that is subnormal: a masked score (-inf) costs nothing, where underflow would cost a hundred cycles. */
TL_INLINE V RN(exp)(V x)
{
    V low = VN(splat)(EXP_LOWEST);
    return v_select(x < low, (V){0}, VN(exp)(VN(max)(low, x)));
}

TL_INLINE V RN(term)(int what, V a, V b, V m)
{
    switch (what) {
    case TERM_SQDEV: return (a - m) * (a - m);
    case TERM_EXP: return RN(exp)(a - m);
    case TERM_DOT: return a * b;
    case TERM_BELOW: return m - a;
    case TERM_BELOW_DOT: return (m - a) * b;
    default: return a;
    }
}
/* What stands in for `a` behind the end of the row, so that the term is zero (b is zero there). */
TL_INLINE T RN(pad)(int what, T m)
{
    return what == TERM_SQDEV || what == TERM_BELOW || what == TERM_BELOW_DOT ? m : what == TERM_EXP ? -(T)INFINITY : 0;
}
/* The sum of the terms. out: NULL, or where they are stored as well; with `room`, its last vector may be written whole. */
TL_INLINE double RN(row_total_to)(int what, T *out, bool room, const T *a, const T *b, T m, int64_t n)
{
    V vm = VN(splat)(m);
    double total = 0;
    for (int64_t i = 0; i < n;) {
        int64_t end = n - i < ROW_BLOCK ? n : i + ROW_BLOCK;
        V sum[4] = {{0}, {0}, {0}, {0}};
        for (; i + 4 * VLEN <= end; i += 4 * VLEN) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                V t = RN(term)(what, VN(load)(a + i + j * VLEN), VN(load)(b + i + j * VLEN), vm);
                if (out) VN(store)(out + i + j * VLEN, t);
                sum[j] += t;
            }
        }
        for (; i < end; i += VLEN) {
            V t = RN(term)(what, RN(get)(a + i, end - i, RN(pad)(what, m)), RN(get)(b + i, end - i, 0), vm);
            if (out) RN(put)(out + i, t, room ? VLEN : end - i);
            sum[0] += t;
        }
        i = end;
        total += RN(lanes)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    return total;
}

TL_INLINE double RN(row_total)(int what, const T *a, const T *b, T m, int64_t n) { return RN(row_total_to)(what, NULL, false, a, b, m, n); }

TL_INLINE V RN(mapped)(int what, V a, V b, V c, V d, const V *s)
{
    switch (what) {
    case MAP_SCALE: return a * s[0];
    case MAP_SHIFT: return (a - s[0]) - s[1];
    case MAP_SOFTMAX_GRAD: return a * (b - s[0]);
    case MAP_LOG_SOFTMAX_GRAD: return b - RN(exp)(a) * s[0];
    case MAP_NORM: return (a - s[0]) * s[1];
    case MAP_NORM_W: return (a - s[0]) * s[1] * c;
    case MAP_NORM_B: return (a - s[0]) * s[1] + d;
    case MAP_NORM_WB: return VN(fma)((a - s[0]) * s[1], c, d);
    case MAP_NORM_GRAD: return s[1] * ((b - s[2]) - (a - s[0]) * s[1] * s[3]);
    case MAP_NORM_GRAD_W: return s[1] * ((b * c - s[2]) - (a - s[0]) * s[1] * s[3]);
    case MAP_CE_GRAD: return RN(exp)((a - s[0]) - s[1]) * s[2] - s[3];
    default: return RN(exp)((a - s[0]) - s[1]) * s[2] - s[3] * c;
    }
}
typedef struct { T s[4]; } RN(scalars);
/* out[i] from a[i] .. d[i]; rows that `what` has no use for are a again. out may be any of them. */
TL_INLINE void RN(row_map)(int what, T *out, const T *a, const T *b, const T *c, const T *d, RN(scalars) k, int64_t n)
{
    V s[4] = {VN(splat)(k.s[0]), VN(splat)(k.s[1]), VN(splat)(k.s[2]), VN(splat)(k.s[3])};
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN)
        VN(store)(out + i, RN(mapped)(what, VN(load)(a + i), VN(load)(b + i), VN(load)(c + i), VN(load)(d + i), s));
    if (i == n) return;
    int64_t r = n - i;
    VN(store_part)(out + i, RN(mapped)(what, VN(load_part)(a + i, r, 0), VN(load_part)(b + i, r, 0), VN(load_part)(c + i, r, 0),
                                       VN(load_part)(d + i, r, 0), s), r);
}
#define SCALARS(...) ((RN(scalars)){{__VA_ARGS__}})

/* ---- softmax and log_softmax, along rows ---- */

static void RN(softmax)(void *arg, int64_t begin, int64_t end)
{
    enum { SCRATCH = 1024 };
    const tl_softmax *p = arg;
    int64_t n = p->n;
    _Alignas(TL_ALIGN) T scratch[SCRATCH];
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * n;
        T *out = (T *)p->out + r * n, m = RN(row_max)(x, n);
        if (p->log) {
            double total = RN(row_total)(TERM_EXP, x, x, m, n);
            RN(row_map)(MAP_SHIFT, out, x, x, x, x, SCALARS(m, (T)log(total)), n);
        } else {
            T *e = n <= SCRATCH ? scratch : out; /* aligned, and read back as it was written: much faster for short, odd rows */
            double total = n <= SCRATCH ? RN(row_total_to)(TERM_EXP, e, true, x, x, m, n) : RN(row_total_to)(TERM_EXP, e, false, x, x, m, n);
            RN(row_map)(MAP_SCALE, out, e, e, e, e, SCALARS((T)(1 / total)), n);
        }
    }
}
static void RN(softmax_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_softmax *p = arg;
    int64_t n = p->n;
    for (int64_t r = begin; r < end; r++) {
        const T *y = (const T *)p->x + r * n, *g = (const T *)p->g + r * n;
        T *out = (T *)p->out + r * n;
        if (p->log) {
            T total = (T)RN(row_total)(TERM_SUM, g, g, 0, n);
            RN(row_map)(MAP_LOG_SOFTMAX_GRAD, out, y, g, y, y, SCALARS(total), n);
        } else {
            T total = (T)RN(row_total)(TERM_DOT, y, g, 0, n);
            RN(row_map)(MAP_SOFTMAX_GRAD, out, y, g, y, y, SCALARS(total), n);
        }
    }
}

/* ---- the same along another dimension: (outer, n, inner), a vector of inner columns at a time ---- */

enum { RN(ACROSS_BLOCK) = 256 }; /* rows added before their sum joins the total */

TL_INLINE void RN(across_column)(const tl_softmax *p, const T *x, T *out, int64_t w)
{
    int64_t n = p->n, step = p->inner;
    V m = VN(splat)(-(T)INFINITY), total = {0};
    for (int64_t i = 0; i < n; i++) m = VN(max)(RN(get)(x + i * step, w, 0), m);
    for (int64_t i = 0; i < n;) {
        V sum = {0};
        for (int64_t end = n - i < RN(ACROSS_BLOCK) ? n : i + RN(ACROSS_BLOCK); i < end; i++) {
            V e = RN(exp)(RN(get)(x + i * step, w, 0) - m);
            if (!p->log) RN(put)(out + i * step, e, w);
            sum += e;
        }
        total += sum;
    }
    V last = p->log ? VN(log)(total) : 1 / total;
    for (int64_t i = 0; i < n; i++)
        RN(put)(out + i * step, p->log ? (RN(get)(x + i * step, w, 0) - m) - last : RN(get)(out + i * step, w, 0) * last, w);
}
TL_INLINE void RN(across_grad_column)(const tl_softmax *p, const T *y, const T *g, T *out, int64_t w)
{
    int64_t n = p->n, step = p->inner;
    V total = {0};
    for (int64_t i = 0; i < n;) {
        V sum = {0};
        for (int64_t end = n - i < RN(ACROSS_BLOCK) ? n : i + RN(ACROSS_BLOCK); i < end; i++) {
            V gi = RN(get)(g + i * step, w, 0);
            sum += p->log ? gi : gi * RN(get)(y + i * step, w, 0);
        }
        total += sum;
    }
    for (int64_t i = 0; i < n; i++) {
        V gi = RN(get)(g + i * step, w, 0), yi = RN(get)(y + i * step, w, 0);
        RN(put)(out + i * step, p->log ? gi - RN(exp)(yi) * total : yi * (gi - total), w);
    }
}
/* Tile t covers TL_ROWS_TILE columns of one outer index. */
TL_INLINE void RN(across)(const tl_softmax *p, int64_t begin, int64_t end, bool gradient)
{
    int64_t tiles = (p->inner + TL_ROWS_TILE - 1) / TL_ROWS_TILE;
    for (int64_t t = begin; t < end; t++) {
        int64_t first = t % tiles * TL_ROWS_TILE, last = p->inner - first < TL_ROWS_TILE ? p->inner : first + TL_ROWS_TILE;
        for (int64_t c = first; c < last; c += VLEN) {
            int64_t at = t / tiles * p->n * p->inner + c;
            const T *x = (const T *)p->x + at;
            if (gradient) RN(across_grad_column)(p, x, (const T *)p->g + at, (T *)p->out + at, last - c);
            else RN(across_column)(p, x, (T *)p->out + at, last - c);
        }
    }
}
static void RN(softmax_across)(void *arg, int64_t begin, int64_t end) { RN(across)(arg, begin, end, false); }
static void RN(softmax_across_grad)(void *arg, int64_t begin, int64_t end) { RN(across)(arg, begin, end, true); }

/* ---- layer_norm ---- */

static void RN(layer_norm)(void *arg, int64_t begin, int64_t end)
{
    const tl_layer_norm_task *p = arg;
    int64_t n = p->n;
    const T *w = p->weight, *b = p->bias;
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * n;
        T *out = (T *)p->out + r * n, mean = p->mean ? (T)(RN(row_total)(TERM_SUM, x, x, 0, n) / (double)n) : 0;
        T rstd = (T)(1 / sqrt(RN(row_total)(TERM_SQDEV, x, x, mean, n) / (double)n + p->eps));
        if (w && b) RN(row_map)(MAP_NORM_WB, out, x, x, w, b, SCALARS(mean, rstd), n);
        else if (w) RN(row_map)(MAP_NORM_W, out, x, x, w, x, SCALARS(mean, rstd), n);
        else if (b) RN(row_map)(MAP_NORM_B, out, x, x, x, b, SCALARS(mean, rstd), n);
        else RN(row_map)(MAP_NORM, out, x, x, x, x, SCALARS(mean, rstd), n);
        if (p->mean) ((T *)p->mean)[r] = mean;
        ((T *)p->rstd)[r] = rstd;
    }
}

/* One vector of layer_norm_sums: h = g w and h xhat join sum and dot; gw and gb, where given, take their share. */
TL_INLINE void RN(norm_step)(V g, V xhat, V w, V *sum, V *dot, T *gw, T *gb, int64_t n)
{
    if (gw) {
        RN(put)(gw, RN(get)(gw, n, 0) + g * xhat, n);
        RN(put)(gb, RN(get)(gb, n, 0) + g, n);
    }
    *sum += g * w;
    *dot += g * w * xhat;
}
/* The means of h and of h xhat over a row, where h = g w (w NULL: g); adds g xhat to gw and g to gb, unless they are NULL. */
TL_INLINE void RN(norm_sums)(const T *g, const T *x, const T *w, T mean, T rstd, T *gw, T *gb, int64_t n, T *h_mean, T *dot_mean)
{
    V m = VN(splat)(mean), r = VN(splat)(rstd), one = VN(splat)(1);
    double sum = 0, dot = 0;
    for (int64_t i = 0; i < n;) {
        int64_t end = n - i < ROW_BLOCK ? n : i + ROW_BLOCK;
        V s[2] = {{0}, {0}}, d[2] = {{0}, {0}};
        for (; i + 2 * VLEN <= end; i += 2 * VLEN) {
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                int64_t k = i + j * VLEN;
                RN(norm_step)(VN(load)(g + k), (VN(load)(x + k) - m) * r, w ? VN(load)(w + k) : one, &s[j], &d[j], gw ? gw + k : NULL,
                              gw ? gb + k : NULL, VLEN);
            }
        }
        for (; i < end; i += VLEN)
            RN(norm_step)(RN(get)(g + i, end - i, 0), (RN(get)(x + i, end - i, mean) - m) * r, w ? RN(get)(w + i, end - i, 0) : one, &s[0],
                          &d[0], gw ? gw + i : NULL, gw ? gb + i : NULL, end - i);
        i = end;
        sum += RN(lanes)(s[0] + s[1]);
        dot += RN(lanes)(d[0] + d[1]);
    }
    *h_mean = (T)(sum / (double)n);
    *dot_mean = (T)(dot / (double)n);
}
static void RN(layer_norm_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_layer_norm_grad *p = arg;
    int64_t n = p->n;
    const T *w = p->weight;
    for (int64_t b = begin; b < end; b++) {
        T *gw = p->parts ? (T *)p->parts + b * 2 * n : NULL, *gb = gw ? gw + n : NULL;
        if (gw) memset(gw, 0, (size_t)(2 * n) * sizeof(T));
        int64_t last = p->rows - b * TL_ROWS_BLOCK < TL_ROWS_BLOCK ? p->rows : (b + 1) * TL_ROWS_BLOCK;
        for (int64_t r = b * TL_ROWS_BLOCK; r < last; r++) {
            const T *g = (const T *)p->g + r * n, *x = (const T *)p->x + r * n;
            T mean = p->mean ? ((const T *)p->mean)[r] : 0, rstd = ((const T *)p->rstd)[r], h, dot;
            if (w && gw) RN(norm_sums)(g, x, w, mean, rstd, gw, gb, n, &h, &dot);
            else if (gw) RN(norm_sums)(g, x, NULL, mean, rstd, gw, gb, n, &h, &dot);
            else if (w) RN(norm_sums)(g, x, w, mean, rstd, NULL, NULL, n, &h, &dot);
            else RN(norm_sums)(g, x, NULL, mean, rstd, NULL, NULL, n, &h, &dot);
            if (!p->mean) h = 0;
            T *gx = p->gx ? (T *)p->gx + r * n : NULL;
            if (gx && w) RN(row_map)(MAP_NORM_GRAD_W, gx, x, g, w, x, SCALARS(mean, rstd, h, dot), n);
            else if (gx) RN(row_map)(MAP_NORM_GRAD, gx, x, g, x, x, SCALARS(mean, rstd, h, dot), n);
        }
    }
}

#include "losses_type.inc.c"

#undef T
#undef V
#undef EXP_LOWEST
#undef VN
#undef RN
#undef VLEN
#undef SCALARS
