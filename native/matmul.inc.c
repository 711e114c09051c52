/* Matrix products: the blocks of one product, for one instruction set, in float and double. Driven by matmul.c.
 *
 * The order of every sum is part of the contract (see tl_mm_kernels in kernels.h): over K in blocks of TL_MM_KC, within a block one fused
 * multiply-add per k, ascending from zero, the block then added to the element. Tiles, packing and the choice between `direct` and
 * `packed` decide only where an element is computed, never how, so they are free to depend on anything.
 *
 * The file includes itself once per type: MM_REAL is the type, MM_LANES the number of them in a vector. */
#ifndef MM_REAL

#if TL_VBYTES == 64
#define MM_MR 14 /* rows of the packed tile: 14 x 2 accumulators, 2 of B and one of A fill the 32 registers */
#elif TL_VBYTES == 32
#define MM_MR 6
#else
#define MM_MR 4
#endif
#define MM_NR (2 * MM_LANES) /* columns of a tile */
#define MM_UNROLL _Pragma("GCC unroll 16")

/* Four rows, transposed in blocks of 4x4 within each 16 bytes of a vector: dst[k * ld + j] = src[j * js + k], j < 4, k < VF_LANES. */
#define MM_LO(q) 4 * q, VF_LANES + 4 * q, 4 * q + 1, VF_LANES + 4 * q + 1
#define MM_HI(q) 4 * q + 2, VF_LANES + 4 * q + 2, 4 * q + 3, VF_LANES + 4 * q + 3
#define MM_LOLO(q) 4 * q, 4 * q + 1, VF_LANES + 4 * q, VF_LANES + 4 * q + 1
#define MM_HIHI(q) 4 * q + 2, 4 * q + 3, VF_LANES + 4 * q + 2, VF_LANES + 4 * q + 3
#if TL_VBYTES == 64
#define MM_SHUFFLE(a, b, f) __builtin_shufflevector(a, b, f(0), f(1), f(2), f(3))
#elif TL_VBYTES == 32
#define MM_SHUFFLE(a, b, f) __builtin_shufflevector(a, b, f(0), f(1))
#else
#define MM_SHUFFLE(a, b, f) __builtin_shufflevector(a, b, f(0))
#endif
enum { MM_TURN_f32 = 4, MM_TURN_f64 = 2 }; /* rows that mm_turn takes */
TL_INLINE void mm_turn_f32(float *dst, int64_t ld, const float *src, int64_t js)
{
    vf r0 = vf_load(src), r1 = vf_load(src + js), r2 = vf_load(src + 2 * js), r3 = vf_load(src + 3 * js);
    vf a = MM_SHUFFLE(r0, r1, MM_LO), b = MM_SHUFFLE(r2, r3, MM_LO), c = MM_SHUFFLE(r0, r1, MM_HI), d = MM_SHUFFLE(r2, r3, MM_HI);
    vf column[4] = {MM_SHUFFLE(a, b, MM_LOLO), MM_SHUFFLE(a, b, MM_HIHI), MM_SHUFFLE(c, d, MM_LOLO), MM_SHUFFLE(c, d, MM_HIHI)};
    MM_UNROLL for (int k = 0; k < VF_LANES; k++) memcpy(dst + k * ld, (float *)&column[k % 4] + k / 4 * 4, 16);
}

/* The same for two rows of doubles. */
TL_INLINE void mm_turn_f64(double *dst, int64_t ld, const double *src, int64_t js)
{
    MM_UNROLL for (int k = 0; k < VD_LANES; k++) {
        dst[k * ld] = src[k];
        dst[k * ld + 1] = src[js + k];
    }
}

#define MM_REAL float
#define MM(x) x##_f32
#define MM_V(x) vf_##x
#include "matmul.inc.c"
#undef MM_REAL
#undef MM
#undef MM_V
#define MM_REAL double
#define MM(x) x##_f64
#define MM_V(x) vd_##x
#include "matmul.inc.c"

const tl_mm_kernels TL_NAME(mm_kernels) = {
    .mr = MM_MR,
    .nr = {TL_VBYTES / 4 * 2, TL_VBYTES / 8 * 2},
    .direct = {mm_direct_f32, mm_direct_f64},
    .packed = {mm_packed_f32, mm_packed_f64},
    .dots = {mm_dots_f32, mm_dots_f64},
};

#else /* ---- once per type ---- */
#define MM_LANES (TL_VBYTES / (int)sizeof(MM_REAL))

/* The first `left` lanes at p, none or all of them; the others are zero, and not written. */
TL_INLINE MM(v) MM(mm_load_upto)(const MM_REAL *p, int left)
{
    return left >= MM_LANES ? MM_V(load)(p) : left > 0 ? MM_V(load_part)(p, left & (MM_LANES - 1), 0) : MM_V(splat)(0);
}

TL_INLINE void MM(mm_store_upto)(MM_REAL *p, MM(v) v, int left)
{
    if (left >= MM_LANES) MM_V(store)(p, v);
    else if (left > 0) MM_V(store_part)(p, v, left & (MM_LANES - 1));
}

/* dst[k * width + j] = src[j * js + k * ks] for j < used, zero for used <= j < width, which is a whole number of vectors if used < width. */
TL_INLINE void MM(mm_pack)(MM_REAL *restrict dst, const int width, int used, int64_t kc, const MM_REAL *restrict src, int64_t js, int64_t ks)
{
    enum { TURN = MM(MM_TURN) };
    if (js == 1 && used == width) {
        for (int64_t k = 0; k < kc; k++) memcpy(dst + k * width, src + k * ks, (size_t)width * sizeof *dst);
        return;
    }
    if (js == 1) {
        for (int64_t k = 0; k < kc; k++)
            for (int j = 0; j < width; j += MM_LANES) MM_V(store)(dst + k * width + j, MM(mm_load_upto)(src + k * ks + j, used - j));
        return;
    }
    int64_t turned = ks == 1 && used >= TURN ? kc - kc % MM_LANES : 0;
    for (int64_t k = 0; k < turned; k += MM_LANES)
        for (int j = 0, next; j < used; j = next) { /* the last rows may overlap those before */
            if (j + TURN > used) j = used - TURN;
            MM(mm_turn)(dst + k * width + j, width, src + j * js + k, js);
            next = j + TURN;
        }
    for (int64_t k = used == width ? turned : 0; k < kc; k++)
        for (int j = k < turned ? used : 0; j < width; j++) dst[k * width + j] = j < used ? src[j * js + k * ks] : 0;
}

/* How a block over k joins what is in out: the first one is stored, later ones are added; the last one takes the bias. */
typedef struct {
    MM_REAL *out;          /* element (0, 0) of the tile */
    int64_t ld;
    const MM_REAL *bias;   /* of its first column; NULL but for the last block over k */
    int cols;              /* that exist: at most the tile's */
    bool add;
} MM(mm_join);

/* Joins a tile that is not full, or joins more than zeros: `sums` has mr rows of two vectors. */
static void MM(mm_join_tile)(const MM(mm_join) *join, const MM_REAL *sums, int mr)
{
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < join->cols; j += MM_LANES) {
            MM_REAL *out = join->out + i * join->ld + j;
            int left = join->cols - j;
            MM(v) v = MM_V(load)(sums + i * MM_NR + j);
            if (join->add) v = MM(mm_load_upto)(out, left) + v;
            if (join->bias) v += MM(mm_load_upto)(join->bias + j, left);
            MM(mm_store_upto)(out, v, left);
        }
}

/* out tile (mr x nv vectors) = or += A (mr, kc) B (kc, nv vectors). mr and nv are constants where it is inlined. */
TL_INLINE void MM(mm_tile)(const int mr, const int nv, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, int64_t bks,
                           const MM(mm_join) *join)
{
    MM(v) acc[MM_MR][2], bv[2];
    MM_UNROLL for (int i = 0; i < mr; i++) MM_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(splat)(0);
    for (int64_t k = 0; k < kc; k++, a += aks, b += bks) {
        MM_UNROLL for (int j = 0; j < nv; j++) bv[j] = MM_V(load)(b + j * MM_LANES);
        MM_UNROLL for (int i = 0; i < mr; i++) {
            MM(v) av = MM_V(splat)(a[i * ams]);
            MM_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(fma)(av, bv[j], acc[i][j]);
        }
    }
    if (join->cols == nv * MM_LANES && !join->add && !join->bias) {
        MM_UNROLL for (int i = 0; i < mr; i++)
            MM_UNROLL for (int j = 0; j < nv; j++) MM_V(store)(join->out + i * join->ld + j * MM_LANES, acc[i][j]);
        return;
    }
    MM_REAL sums[MM_MR * MM_NR];
    MM_UNROLL for (int i = 0; i < mr; i++)
        MM_UNROLL for (int j = 0; j < nv; j++) MM_V(store)(sums + i * MM_NR + j * MM_LANES, acc[i][j]);
    MM(mm_join_tile)(join, sums, mr);
}

/* All rows of A, unpacked, against one panel of B. */
TL_INLINE void MM(mm_rows)(const int nv, int64_t m, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, int64_t bks,
                           MM(mm_join) *join)
{
    while (m > 0) {
        int mr;
#if MM_MR > 8
        if (m >= 8) MM(mm_tile)(mr = 8, nv, kc, a, ams, aks, b, bks, join);
        else
#endif
        if (m >= 4) MM(mm_tile)(mr = 4, nv, kc, a, ams, aks, b, bks, join);
        else if (m >= 2) MM(mm_tile)(mr = 2, nv, kc, a, ams, aks, b, bks, join);
        else MM(mm_tile)(mr = 1, nv, kc, a, ams, aks, b, bks, join);
        m -= mr;
        a += mr * ams;
        join->out += mr * join->ld;
    }
}

static void MM(mm_direct)(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1)
{
    MM_REAL panel[TL_MM_KC * MM_NR] __attribute__((aligned(64)));
    const MM_REAL *bias = p->bias;
    for (int64_t k0 = 0, kc; k0 < p->k || k0 == 0; k0 += TL_MM_KC) {
        kc = p->k - k0 < TL_MM_KC ? p->k - k0 : TL_MM_KC;
        bool last = k0 + kc == p->k;
        const MM_REAL *a = (const MM_REAL *)p->a + m0 * p->ams + k0 * p->aks;
        for (int64_t n = n0; n < n1; n += MM_NR) {
            int cols = n1 - n < MM_NR ? (int)(n1 - n) : MM_NR;
            MM(mm_join) join = {(MM_REAL *)p->c + m0 * p->ldc + n, p->ldc, last && bias ? bias + n : NULL, cols, k0 > 0};
            const MM_REAL *b = (const MM_REAL *)p->b + n * p->bns + k0 * p->bks;
            int64_t bks = p->bks;
            if (cols <= MM_LANES) {
                if (p->bns != 1 || cols < MM_LANES) MM(mm_pack)(panel, MM_LANES, cols, kc, b, p->bns, bks), b = panel, bks = MM_LANES;
                MM(mm_rows)(1, m1 - m0, kc, a, p->ams, p->aks, b, bks, &join);
            } else {
                if (p->bns != 1 || cols < MM_NR) MM(mm_pack)(panel, MM_NR, cols, kc, b, p->bns, bks), b = panel, bks = MM_NR;
                MM(mm_rows)(2, m1 - m0, kc, a, p->ams, p->aks, b, bks, &join);
            }
        }
    }
}

static void MM(mm_packed)(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work)
{
    MM_REAL rows[TL_MM_KC * MM_MR] __attribute__((aligned(64))), *panels = work;
    const MM_REAL *bias = p->bias;
    for (int64_t k0 = 0, kc; k0 < p->k; k0 += TL_MM_KC) {
        kc = p->k - k0 < TL_MM_KC ? p->k - k0 : TL_MM_KC;
        bool last = k0 + kc == p->k;
        const MM_REAL *a = (const MM_REAL *)p->a + k0 * p->aks, *b = (const MM_REAL *)p->b + k0 * p->bks;
        for (int64_t n = n0; n < n1; n += MM_NR)
            MM(mm_pack)(panels + (n - n0) * kc, MM_NR, n1 - n < MM_NR ? (int)(n1 - n) : MM_NR, kc, b + n * p->bns, p->bns, p->bks);
        for (int64_t m = m0; m < m1; m += MM_MR) {
            bool whole = m1 - m >= MM_MR;
            if (whole) MM(mm_pack)(rows, MM_MR, MM_MR, kc, a + m * p->ams, p->ams, p->aks);
            for (int64_t n = n0; n < n1; n += MM_NR) {
                int cols = n1 - n < MM_NR ? (int)(n1 - n) : MM_NR;
                MM(mm_join) join = {(MM_REAL *)p->c + m * p->ldc + n, p->ldc, last && bias ? bias + n : NULL, cols, k0 > 0};
                const MM_REAL *panel = panels + (n - n0) * kc;
                if (whole) MM(mm_tile)(MM_MR, 2, kc, rows, 1, MM_MR, panel, MM_NR, &join);
                else MM(mm_rows)(2, m1 - m, kc, a + m * p->ams, p->ams, p->aks, panel, MM_NR, &join);
            }
        }
    }
}

/* Sum of a[k] * b[k]: four vectors of partial sums, joined in a fixed tree. */
static MM_REAL MM(mm_dot)(const MM_REAL *a, const MM_REAL *b, int64_t n)
{
    MM(v) acc[4] = {{0}, {0}, {0}, {0}};
    int64_t k = 0;
    for (; k + 4 * MM_LANES <= n; k += 4 * MM_LANES)
        MM_UNROLL for (int j = 0; j < 4; j++)
            acc[j] = MM_V(fma)(MM_V(load)(a + k + j * MM_LANES), MM_V(load)(b + k + j * MM_LANES), acc[j]);
    for (; k + MM_LANES <= n; k += MM_LANES) acc[0] = MM_V(fma)(MM_V(load)(a + k), MM_V(load)(b + k), acc[0]);
    int64_t rest = n & (MM_LANES - 1);
    if (rest) acc[1] = MM_V(fma)(MM_V(load_part)(a + k, rest, 0), MM_V(load_part)(b + k, rest, 0), acc[1]);
    MM_REAL lanes[MM_LANES];
    MM_V(store)(lanes, (acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (int half = MM_LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
    return lanes[0];
}

static void MM(mm_dots)(const tl_mm *p, int64_t m0, int64_t m1)
{
    MM_REAL column[TL_MM_DOT], *c = p->c;
    for (int64_t k0 = 0, kc; k0 < p->k || k0 == 0; k0 += TL_MM_DOT) {
        kc = p->k - k0 < TL_MM_DOT ? p->k - k0 : TL_MM_DOT;
        const MM_REAL *a = (const MM_REAL *)p->a + k0, *b = (const MM_REAL *)p->b + k0 * p->bks;
        if (p->bks != 1) {
            for (int64_t k = 0; k < kc; k++) column[k] = b[k * p->bks];
            b = column;
        }
        for (int64_t m = m0; m < m1; m++) {
            MM_REAL sum = MM(mm_dot)(a + m * p->ams, b, kc);
            c[m * p->ldc] = k0 ? c[m * p->ldc] + sum : sum;
        }
    }
}
#undef MM_LANES
#endif
