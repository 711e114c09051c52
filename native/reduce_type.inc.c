/* The reduction kernels for one element type. reduce.inc.c includes this once per type, with
 *   T, V, M          the element, a vector of it, and what comparing two such vectors yields
 *   T_INT            1 where T is an integer: sums and products wrap around, there is no NaN
 *   LOWEST, HIGHEST  what max and min start from
 *   RN(name)         the name with the suffixes of type and instruction set
 *
 * The order of a sum is a function of its length alone, the same on every instruction set: element i of a row joins lane i % LANES,
 * then lanes join in halves; row i of a column sum joins accumulator i % TL_RED_STREAMS, then accumulators join pairwise. */
#define LANES ((int64_t)(TL_RED_LANE_BYTES / sizeof(T)))
#define VLEN ((int64_t)(TL_VBYTES / sizeof(T)))
#define NACC (TL_RED_LANE_BYTES / TL_VBYTES)
#define INLINE static inline __attribute__((always_inline))
typedef T RN(red_quad) __attribute__((vector_size(16)));
enum { RN(SHORT_ROW) = 16 }; /* shorter rows are joined one element after the other */

#if T_INT
#define ADD(a, b) (T)((uint64_t)(a) + (uint64_t)(b))
#define MUL(a, b) (T)((uint64_t)(a) * (uint64_t)(b))
#define VADD(a, b) (V)((v_u64)(a) + (v_u64)(b))
#define VMUL(a, b) (V)((v_u64)(a) * (v_u64)(b))
#define IS_NAN(x) false
#define VNAN(x) v_zero(x)
#else
#define ADD(a, b) ((a) + (b))
#define MUL(a, b) ((a) * (b))
#define VADD(a, b) ((a) + (b))
#define VMUL(a, b) ((a) * (b))
#define IS_NAN(x) ((x) != (x))
#define VNAN(x) ((x) != (x))
#endif

INLINE V RN(red_load)(const T *x) { V v; memcpy(&v, x, sizeof v); return v; }
INLINE void RN(red_store)(T *x, V v) { memcpy(x, &v, sizeof v); }
INLINE V RN(red_splat)(T x) { return x - (V){0}; }
INLINE V RN(red_load_part)(const T *x, int64_t n, T fill) /* the first n lanes, then fill */
{
#if T_INT
    V v = RN(red_splat)(fill);
    tl_copy_small(&v, x, (size_t)n * sizeof(T));
    return v;
#else
    return VN(load_part)(x, n, fill);
#endif
}

/* op is a constant wherever these are used: each collapses to an instruction or two. A NaN wins over every number in max and min. */
INLINE T RN(red_neutral)(int op)
{
    return op == TL_RED_PROD ? 1 : op == TL_RED_MAX ? LOWEST : op == TL_RED_MIN ? HIGHEST : 0;
}
INLINE T RN(red_join)(int op, T a, T b)
{
    switch (op) {
    case TL_RED_PROD: return MUL(a, b);
    case TL_RED_MAX: return b > a || IS_NAN(b) ? b : a;
    case TL_RED_MIN: return b < a || IS_NAN(b) ? b : a;
    default: return ADD(a, b);
    }
}
INLINE V RN(red_vjoin)(int op, V a, V b)
{
    switch (op) {
    case TL_RED_PROD: return VMUL(a, b);
    case TL_RED_MAX: return v_select((M)(b > a) | VNAN(b), b, a);
    case TL_RED_MIN: return v_select((M)(b < a) | VNAN(b), b, a);
    default: return VADD(a, b);
    }
}
/* What is joined in x's place: the squared distance from m, or x itself. */
INLINE T RN(red_term)(int op, T x, T m) { return op == TL_RED_SQDEV ? MUL(x - m, x - m) : x; }
INLINE V RN(red_vterm)(int op, V x, V m)
{
    if (op != TL_RED_SQDEV) return x;
    V d = x - m;
    return VMUL(d, d);
}

/* Joins the lanes of v in halves. Vectors of 16 bytes exist everywhere: down to those it takes no detour through memory. */
INLINE T RN(red_lanes)(int op, V v)
{
    enum { QLEN = 16 / sizeof(T), QUADS = TL_VBYTES / 16 };
    RN(red_quad) q[QUADS];
    memcpy(q, &v, sizeof v);
#pragma GCC unroll 4
    for (int w = QUADS / 2; w > 0; w /= 2) {
#pragma GCC unroll 4
        for (int i = 0; i < w; i++) {
            if (T_INT || op == TL_RED_MAX || op == TL_RED_MIN) {
                for (int l = 0; l < QLEN; l++) q[i][l] = RN(red_join)(op, q[i][l], q[i + w][l]);
            } else {
                q[i] = op == TL_RED_PROD ? q[i] * q[i + w] : q[i] + q[i + w];
            }
        }
    }
    if (QLEN == 2) return RN(red_join)(op, q[0][0], q[0][1]);
    T even = RN(red_join)(op, q[0][0], q[0][2 % QLEN]), odd = RN(red_join)(op, q[0][1], q[0][3 % QLEN]);
    return RN(red_join)(op, even, odd);
}

/* One row of n >= 1 contiguous elements. */
INLINE T RN(red_row)(int op, const T *x, int64_t n, T m)
{
    if (n < RN(SHORT_ROW)) {
        T s = RN(red_term)(op, x[0], m);
        for (int64_t i = 1; i < n; i++) s = RN(red_join)(op, s, RN(red_term)(op, x[i], m));
        return s;
    }
    V acc[NACC], vm = RN(red_splat)(m);
#pragma GCC unroll 16
    for (int j = 0; j < NACC; j++) acc[j] = RN(red_splat)(RN(red_neutral)(op));
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma GCC unroll 16
        for (int j = 0; j < NACC; j++) acc[j] = RN(red_vjoin)(op, acc[j], RN(red_vterm)(op, RN(red_load)(x + i + j * VLEN), vm));
    }
#pragma GCC unroll 16
    for (int j = 0; j < NACC && i < n; j++, i += VLEN) {
        V v = n - i >= VLEN ? RN(red_load)(x + i) : RN(red_load_part)(x + i, n - i, op == TL_RED_SQDEV ? m : RN(red_neutral)(op));
        acc[j] = RN(red_vjoin)(op, acc[j], RN(red_vterm)(op, v, vm));
    }
#pragma GCC unroll 4
    for (int w = NACC / 2; w > 0; w /= 2) {
#pragma GCC unroll 8
        for (int j = 0; j < w; j++) acc[j] = RN(red_vjoin)(op, acc[j], acc[j + w]);
    }
    return RN(red_lanes)(op, acc[0]);
}

INLINE void RN(red_rows_op)(int op, const tl_reduce_rows *a)
{
    T *out = a->out;
    const T *x = a->x, *m = a->m;
    for (int64_t r = 0; r < a->rows; r++)
        out[r * a->out_stride] = RN(red_row)(op, x + r * a->x_stride, a->n, m ? m[r * a->m_stride] : 0);
}
static void RN(red_rows)(int op, const tl_reduce_rows *a)
{
    switch (op) {
    case TL_RED_SUM: RN(red_rows_op)(TL_RED_SUM, a); break;
    case TL_RED_PROD: RN(red_rows_op)(TL_RED_PROD, a); break;
    case TL_RED_MAX: RN(red_rows_op)(TL_RED_MAX, a); break;
    case TL_RED_MIN: RN(red_rows_op)(TL_RED_MIN, a); break;
    default: RN(red_rows_op)(TL_RED_SQDEV, a); break;
    }
}

/* acc[c] joins x0[c], x1[c], x2[c], x3[c] in this order. */
INLINE void RN(red_four_rows)(int op, T *acc, const T *x0, const T *x1, const T *x2, const T *x3, int64_t n, const T *m)
{
    int64_t c = 0;
    for (; c + VLEN <= n; c += VLEN) {
        V s = RN(red_load)(acc + c), vm = op == TL_RED_SQDEV ? RN(red_load)(m + c) : s;
        s = RN(red_vjoin)(op, s, RN(red_vterm)(op, RN(red_load)(x0 + c), vm));
        s = RN(red_vjoin)(op, s, RN(red_vterm)(op, RN(red_load)(x1 + c), vm));
        s = RN(red_vjoin)(op, s, RN(red_vterm)(op, RN(red_load)(x2 + c), vm));
        s = RN(red_vjoin)(op, s, RN(red_vterm)(op, RN(red_load)(x3 + c), vm));
        RN(red_store)(acc + c, s);
    }
    for (; c < n; c++) {
        T s = acc[c], sm = op == TL_RED_SQDEV ? m[c] : 0;
        s = RN(red_join)(op, s, RN(red_term)(op, x0[c], sm));
        s = RN(red_join)(op, s, RN(red_term)(op, x1[c], sm));
        s = RN(red_join)(op, s, RN(red_term)(op, x2[c], sm));
        acc[c] = RN(red_join)(op, s, RN(red_term)(op, x3[c], sm));
    }
}
INLINE void RN(red_one_row)(int op, T *acc, const T *x, int64_t n, const T *m)
{
    int64_t c = 0;
    for (; c + VLEN <= n; c += VLEN) {
        V s = RN(red_load)(acc + c), vm = op == TL_RED_SQDEV ? RN(red_load)(m + c) : s;
        RN(red_store)(acc + c, RN(red_vjoin)(op, s, RN(red_vterm)(op, RN(red_load)(x + c), vm)));
    }
    for (; c < n; c++) acc[c] = RN(red_join)(op, acc[c], RN(red_term)(op, x[c], op == TL_RED_SQDEV ? m[c] : 0));
}

INLINE void RN(red_columns_op)(int op, const tl_reduce_columns *a)
{
    enum { S = TL_RED_STREAMS };
    T *acc = a->acc;
    const T *x = a->x, *m = a->m;
    int64_t w = a->width, r = 0;
    if (!a->offsets && a->x_stride == w && op != TL_RED_SQDEV) { /* rows without a gap: S of them are one long row */
        for (; r + 4 * S <= a->rows; r += 4 * S) {
            const T *p = x + r * w;
            RN(red_four_rows)(op, acc, p, p + S * w, p + 2 * S * w, p + 3 * S * w, S * w, m);
        }
        for (; r + S <= a->rows; r += S) RN(red_one_row)(op, acc, x + r * w, S * w, m);
    }
#define ROW(i) (x + (a->offsets ? a->offsets[i] : (i) * a->x_stride))
    for (; r + 4 * S <= a->rows; r += 4 * S)
        for (int64_t j = 0; j < S; j++)
            RN(red_four_rows)(op, acc + j * w, ROW(r + j), ROW(r + S + j), ROW(r + 2 * S + j), ROW(r + 3 * S + j), w, m);
    for (; r < a->rows; r++) RN(red_one_row)(op, acc + (r % S) * w, ROW(r), w, m);
#undef ROW
}
static void RN(red_columns)(int op, const tl_reduce_columns *a)
{
    switch (op) {
    case TL_RED_SUM: RN(red_columns_op)(TL_RED_SUM, a); break;
    case TL_RED_PROD: RN(red_columns_op)(TL_RED_PROD, a); break;
    case TL_RED_MAX: RN(red_columns_op)(TL_RED_MAX, a); break;
    case TL_RED_MIN: RN(red_columns_op)(TL_RED_MIN, a); break;
    default: RN(red_columns_op)(TL_RED_SQDEV, a); break;
    }
}

static void RN(red_fill)(int op, void *out, int64_t n)
{
    T *p = out, value = RN(red_neutral)(op);
    for (int64_t i = 0; i < n; i++) p[i] = value;
}

INLINE void RN(red_tree_op)(int op, const tl_reduce_tree *a)
{
    T *p = a->parts;
    if (op == TL_RED_SQDEV) op = TL_RED_SUM; /* the parts are sums of squares already */
    for (int64_t s = 1; s < a->n; s *= 2)
        for (int64_t i = 0; i + s < a->n; i += 2 * s) RN(red_one_row)(op, p + i * a->width, p + (i + s) * a->width, a->width, NULL);
}
static void RN(red_tree)(int op, const tl_reduce_tree *a)
{
    switch (op) {
    case TL_RED_SUM: RN(red_tree_op)(TL_RED_SUM, a); break;
    case TL_RED_PROD: RN(red_tree_op)(TL_RED_PROD, a); break;
    case TL_RED_MAX: RN(red_tree_op)(TL_RED_MAX, a); break;
    case TL_RED_MIN: RN(red_tree_op)(TL_RED_MIN, a); break;
    default: RN(red_tree_op)(TL_RED_SQDEV, a); break;
    }
}

/* Where in x[0..n) the value lies first; a NaN is looked for by being one. It must be there. */
static int64_t RN(red_find)(const T *x, int64_t n, T value)
{
    int64_t i = 0;
    V want = RN(red_splat)(value);
    bool nan = IS_NAN(value);
    for (; i + 4 * VLEN <= n; i += 4 * VLEN) {
        M hit = {0};
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            V v = RN(red_load)(x + i + j * VLEN);
            hit |= nan ? (M)VNAN(v) : (M)(v == want);
        }
        if (v_any((v_i32)hit)) break;
    }
    while (i < n - 1 && !(nan ? IS_NAN(x[i]) : x[i] == value)) i++;
    return i;
}
static void RN(red_arg)(int op, const void *px, int64_t n, void *pbest, int64_t *index, int64_t base)
{
    const T *x = px;
    T *best = pbest;
    T v = op == TL_RED_MAX ? RN(red_row)(TL_RED_MAX, x, n, 0) : RN(red_row)(TL_RED_MIN, x, n, 0);
    bool better = *index < 0 || (IS_NAN(v) ? !IS_NAN(*best) : op == TL_RED_MAX ? v > *best : v < *best);
    if (!better) return;
    *index = base + RN(red_find)(x, n, v);
    *best = v;
}

#undef T
#undef V
#undef M
#undef VN
#undef T_INT
#undef LOWEST
#undef HIGHEST
#undef RN
#undef LANES
#undef VLEN
#undef NACC
#undef INLINE
#undef ADD
#undef MUL
#undef VADD
#undef VMUL
#undef IS_NAN
#undef VNAN
