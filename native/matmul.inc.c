/* Matrix products: the blocks of one product, for one instruction set, in float and double. Driven by matmul.c.
 *
 * The order of every sum is part of the contract (see tl_mm_kernels in kernels.h): over K in blocks of tl_mm_block(K), within a block one fused
 * multiply-add per k, ascending from zero, the block then added to the element. Tiles, packing and the choice between `direct` and
 * `packed` decide only where an element is computed, never how, so they are free to depend on anything.
 *
 * What later files of isa_dense.h may build on, for a TYPE of f32 or f64:
 *   mm_pack_TYPE   `used` rows (columns) of kc steps to k after k, `width` side by side
 *   mm_tile_TYPE   a tile of mr <= MM_MR rows and nv <= 2 vectors of columns; B k after k, bks apart (MM_NR, where mm_pack put it)
 *   mm_join_TYPE   where it goes, and what is added
 * `packed` itself uses a tile of its own shape (MM_PACKED_MR, MM_PACKED_NR), for which its caller's panels are packed by pack_columns.
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
/* The tile of packed operands. Wider where there are registers for it: fewer instructions per multiply-add. */
#if TL_VBYTES == 64
#define MM_PACKED_MR 9
#define MM_PACKED_NV 3
#define MM_EACH_HEIGHT(X) X(9) X(8) X(7) X(6) X(5) X(4) X(3) X(2) X(1)
#elif TL_VBYTES == 32
#define MM_PACKED_MR 6
#define MM_PACKED_NV 2
#define MM_EACH_HEIGHT(X) X(6) X(5) X(4) X(3) X(2) X(1)
#else
#define MM_PACKED_MR 4
#define MM_PACKED_NV 2
#define MM_EACH_HEIGHT(X) X(4) X(3) X(2) X(1)
#endif
#define MM_PACKED_NR (MM_PACKED_NV * MM_LANES)
enum {
    MM_AHEAD = 8,             /* steps of k that a packed panel is fetched ahead */
    MM_LINE = 64,             /* bytes of a cache line */
    MM_ROW = TL_MM_KC + 16    /* elements from row to row of a strip that keeps its rows: an odd number of lines, which spreads over the cache's sets */
};

TL_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
TL_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/* These may point past the end of what they fetch. */
TL_INLINE void mm_prefetch(const void *p, int64_t bytes) { __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)bytes), 0, 3); }
TL_INLINE void mm_prefetch_write(const void *p, int64_t bytes) { __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)bytes), 1, 3); }

/* Walks over `left` lines, then on by `gap` bytes to the next `per_row`. */
typedef struct { const char *at; int64_t left, per_row, gap; } mm_fetch;
TL_INLINE void mm_fetch_line(mm_fetch *f)
{
    __builtin_prefetch(f->at, 0, 2);
    bool turn = --f->left == 0;
    f->at = (const char *)((uintptr_t)f->at + (uintptr_t)(MM_LINE + (turn ? f->gap : 0)));
    if (turn) f->left = f->per_row;
}

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
    TL_UNROLL for (int k = 0; k < VF_LANES; k++) memcpy(dst + k * ld, (float *)&column[k % 4] + k / 4 * 4, 16);
}

/* The same for two rows of doubles. */
TL_INLINE void mm_turn_f64(double *dst, int64_t ld, const double *src, int64_t js)
{
    TL_UNROLL for (int k = 0; k < VD_LANES; k++) {
        dst[k * ld] = src[k];
        dst[k * ld + 1] = src[js + k];
    }
}

/* The yardstick of tests/benchmarks: as many multiply-adds of float vectors as fit into registers, n times over. Returns their operations. */
static double mm_peak(int64_t n, float *out)
{
    enum { CHAINS = 2 * MM_MR };
    vf acc[CHAINS], x = vf_load(out), y = vf_load(out + VF_LANES);
    TL_UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = vf_splat((float)i);
    for (int64_t k = 0; k < n; k++)
        TL_UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = vf_fma(acc[i], x, y);
    vf sum = acc[0];
    TL_UNROLL for (int i = 1; i < CHAINS; i++) sum += acc[i];
    vf_store(out, sum);
    return 2.0 * CHAINS * VF_LANES * (double)n;
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
    .mr = MM_PACKED_MR,
    .nr = {TL_VBYTES / 4 * MM_PACKED_NV, TL_VBYTES / 8 * MM_PACKED_NV},
    .direct = {mm_direct_f32, mm_direct_f64},
    .pack_columns = {mm_pack_columns_f32, mm_pack_columns_f64},
    .packed = {mm_packed_f32, mm_packed_f64},
    .dots = {mm_dots_f32, mm_dots_f64},
    .segments = {mm_segments_f32, mm_segments_f64},
    .finish = {mm_finish_f32, mm_finish_f64},
    .peak = mm_peak,
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

#include "finish.inc.c"

/* dst[k * width + j] = src[j * js + k * ks] for j < used, zero for used <= j < width. */
TL_TEMPLATE void MM(mm_pack)(MM_REAL *restrict dst, const int width, int used, int64_t kc, const MM_REAL *restrict src, int64_t js, int64_t ks)
{
    enum { TURN = MM(MM_TURN) };
    if (js == 1 && used == width && __builtin_constant_p(width)) {
        for (int64_t k = 0; k < kc; k++) memcpy(dst + k * width, src + k * ks, (size_t)width * sizeof *dst);
        return;
    }
    if (js == 1 && width <= MM_LANES) {
        for (int64_t k = 0; k < kc; k++) MM(mm_store_upto)(dst + k * width, MM(mm_load_upto)(src + k * ks, used), width);
        return;
    }
    if (js == 1) {
        for (int64_t k = 0; k < kc; k++)
            for (int j = 0; j < width; j += MM_LANES) MM(mm_store_upto)(dst + k * width + j, MM(mm_load_upto)(src + k * ks + j, used - j), width - j);
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

/* How a block over k joins what is in out: the first one is stored, later ones are added. */
typedef struct {
    MM_REAL *out;          /* element (0, 0) of the tile */
    int64_t ld;
    int cols;              /* that exist: at most the tile's */
    bool add;
} MM(mm_join);

/* Joins a tile that is not full: `sums` has mr rows of nv vectors. */
static __attribute__((noinline)) void MM(mm_join_tile)(const MM(mm_join) *join, const MM_REAL *sums, int mr, int nv)
{
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < join->cols; j += MM_LANES) {
            MM_REAL *out = join->out + i * join->ld + j;
            int left = join->cols - j;
            MM(v) v = MM_V(load)(sums + i * nv * MM_LANES + j);
            if (join->add) v = MM(mm_load_upto)(out, left) + v;
            MM(mm_store_upto)(out, v, left);
        }
}

/* acc = A (mr, kc) B (kc, nv vectors). mr and nv are constants where it is inlined. With `fetch`, for packed operands, memory is asked in time for
 * the panel (MM_AHEAD steps of k before it is read), for C (NULL: not) and for what *fetch walks over. */
TL_TEMPLATE void MM(mm_multiply)(const int mr, const int nv, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, int64_t bks,
                               MM(v) acc[MM_MR][MM_PACKED_NV], const MM_REAL *c, int64_t ldc, mm_fetch *const fetch)
{
    MM(v) bv[MM_PACKED_NV];
    mm_fetch next = fetch ? *fetch : (mm_fetch){NULL, 0, 0, 0};
    TL_UNROLL for (int i = 0; i < mr; i++) TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(splat)(0);
    for (int64_t k = 0; k < kc;) {
        int64_t end = fetch ? least(k + MM_AHEAD, kc) : kc;
        if (fetch) {
            if (c && k < mr * MM_AHEAD)
                TL_UNROLL for (int j = 0; j < nv; j++) mm_prefetch_write(c + k / MM_AHEAD * ldc, j * TL_VBYTES);
            mm_fetch_line(&next);
        }
        for (; k < end; k++, a += aks, b += bks) {
            TL_UNROLL for (int j = 0; j < nv; j++) bv[j] = MM_V(load)(b + j * MM_LANES);
            if (fetch) TL_UNROLL for (int j = 0; j < nv; j++) mm_prefetch(b, (MM_AHEAD * nv + j) * TL_VBYTES);
            TL_UNROLL for (int i = 0; i < mr; i++) {
                MM(v) av = MM_V(splat)(a[i * ams]);
                TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(fma)(av, bv[j], acc[i][j]);
            }
        }
    }
    if (fetch) *fetch = next;
}

/* out tile (mr x nv vectors) = or += A (mr, kc) B (kc, nv vectors). */
TL_TEMPLATE void MM(mm_tile_fetching)(const int mr, const int nv, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, int64_t bks,
                                    const MM(mm_join) *join, mm_fetch *const fetch)
{
    MM(v) acc[MM_MR][MM_PACKED_NV];
    MM(mm_multiply)(mr, nv, kc, a, ams, aks, b, bks, acc, join->out, join->ld, fetch);
    if (join->cols == nv * MM_LANES) {
        if (join->add)
            TL_UNROLL for (int i = 0; i < mr; i++)
                TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(load)(join->out + i * join->ld + j * MM_LANES) + acc[i][j];
        TL_UNROLL for (int i = 0; i < mr; i++)
            TL_UNROLL for (int j = 0; j < nv; j++) MM_V(store)(join->out + i * join->ld + j * MM_LANES, acc[i][j]);
        return;
    }
    MM_REAL sums[MM_MR * MM_PACKED_NR];
    TL_UNROLL for (int i = 0; i < mr; i++)
        TL_UNROLL for (int j = 0; j < nv; j++) MM_V(store)(sums + (i * nv + j) * MM_LANES, acc[i][j]);
    MM(mm_join_tile)(join, sums, mr, nv);
}

TL_TEMPLATE void MM(mm_tile)(const int mr, const int nv, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, int64_t bks,
                           const MM(mm_join) *join)
{
    MM(mm_tile_fetching)(mr, nv, kc, a, ams, aks, b, bks, join, NULL);
}

/* All rows of A, unpacked, against one panel of B. */
TL_TEMPLATE void MM(mm_rows)(const int nv, int64_t m, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, int64_t bks,
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
    int64_t step = tl_mm_block(p->k);
    for (int64_t k0 = 0, kc; k0 < p->k || k0 == 0; k0 += step) {
        kc = least(step, p->k - k0);
        bool last = k0 + kc == p->k;
        const MM_REAL *a = (const MM_REAL *)p->a + m0 * p->ams + k0 * p->aks;
        for (int64_t n = n0; n < n1; n += MM_NR) {
            int cols = (int)least(n1 - n, MM_NR);
            MM(mm_join) join = {(MM_REAL *)p->c + m0 * p->ldc + n, p->ldc, cols, k0 > 0 || p->adds};
            const MM_REAL *b = (const MM_REAL *)p->b + n * p->bns + k0 * p->bks;
            int64_t bks = p->bks;
            if (cols <= MM_LANES) {
                if (p->bns != 1 || cols < MM_LANES) MM(mm_pack)(panel, MM_LANES, cols, kc, b, p->bns, bks), b = panel, bks = MM_LANES;
                MM(mm_rows)(1, m1 - m0, kc, a, p->ams, p->aks, b, bks, &join);
            } else {
                if (p->bns != 1 || cols < MM_NR) MM(mm_pack)(panel, MM_NR, cols, kc, b, p->bns, bks), b = panel, bks = MM_NR;
                MM(mm_rows)(2, m1 - m0, kc, a, p->ams, p->aks, b, bks, &join);
            }
            if (last && p->finishes) MM(mm_finish)(p, m0, m1, n, n + cols);
        }
    }
}

/* ---- packed operands ---- */
/* n columns to panels of `tall` rows, the first kc of each. */
static void MM(mm_pack_panels)(MM_REAL *out, const MM_REAL *x, int64_t n, int64_t kc, int64_t ns, int64_t ks, int64_t tall)
{
    enum { NR = MM_PACKED_NR, TOGETHER = 8 }; /* panels that are filled at once, so that whole cache lines of a row are read in order */
    while (ns == 1 && n >= NR) {
        int64_t panels = least(n / NR, TOGETHER);
        for (int64_t k = 0; k < kc; k++)
            for (int64_t j = 0; j < panels; j++)
                TL_UNROLL for (int i = 0; i < NR; i += MM_LANES) {
                    mm_prefetch(x + j * NR, (MM_AHEAD * ks + i) * (int64_t)sizeof *x);
                    MM_V(store)(out + (j * tall + k) * NR + i, MM_V(load)(x + k * ks + j * NR + i));
                }
        n -= panels * NR;
        out += panels * NR * tall;
        x += panels * NR;
    }
    for (; n > 0; n -= NR, out += NR * tall, x += NR * ns) MM(mm_pack)(out, NR, (int)least(n, NR), kc, x, ns, ks);
}

static void MM(mm_pack_columns)(void *dst, const void *src, int64_t n, int64_t kc, int64_t ns, int64_t ks)
{
    MM(mm_pack_panels)(dst, src, n, kc, ns, ks, kc);
}

/* A packed strip of mr rows against the packed panels of n columns. */
TL_TEMPLATE void MM(mm_strip)(const int mr, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks, const MM_REAL *b, MM(mm_join) join, int64_t n,
                            mm_fetch *fetch)
{
    for (; n > 0; n -= MM_PACKED_NR, b += kc * MM_PACKED_NR, join.out += MM_PACKED_NR) {
        join.cols = (int)least(n, MM_PACKED_NR);
        if (join.cols > (MM_PACKED_NV - 1) * MM_LANES) MM(mm_tile_fetching)(mr, MM_PACKED_NV, kc, a, ams, aks, b, MM_PACKED_NR, &join, fetch);
        else if (MM_PACKED_NV > 2 && join.cols > MM_LANES) MM(mm_tile_fetching)(mr, 2, kc, a, ams, aks, b, MM_PACKED_NR, &join, fetch);
        else MM(mm_tile_fetching)(mr, 1, kc, a, ams, aks, b, MM_PACKED_NR, &join, fetch);
    }
}

static void MM(mm_any_strip)(int rows, bool keeps_rows, int64_t kc, const MM_REAL *a, const MM_REAL *b, const MM(mm_join) *join, int64_t n,
                             mm_fetch *fetch)
{
    if (keeps_rows && rows == MM_PACKED_MR) MM(mm_strip)(MM_PACKED_MR, kc, a, MM_ROW, 1, b, *join, n, fetch);
    else if (keeps_rows) MM(mm_strip)(MM_PACKED_MR - 1, kc, a, MM_ROW, 1, b, *join, n, fetch);
    else switch (rows) {
#define MM_CASE(h) case h: MM(mm_strip)(h, kc, a, 1, h, b, *join, n, fetch); return;
        MM_EACH_HEIGHT(MM_CASE)
#undef MM_CASE
    default: return;
    }
}

/* A strip of A to where it stays in the nearest cache: rows as they are where each is contiguous and the strip full, else turned. */
TL_INLINE void MM(mm_pack_strip)(MM_REAL *strip, bool keeps_rows, int rows, int64_t kc, const MM_REAL *a, int64_t ams, int64_t aks)
{
    if (!keeps_rows) MM(mm_pack)(strip, rows, rows, kc, a, ams, aks);
    else
        for (int i = 0; i < rows; i++)
            for (int64_t k = 0; k < kc; k += MM_LANES) MM_V(store)(strip + i * MM_ROW + k, MM(mm_load_upto)(a + i * ams + k, (int)(kc - k)));
}

/* Walks over the memory of a strip of A that will be packed next. */
static mm_fetch MM(mm_fetch_strip)(const MM_REAL *a, int64_t rows, int64_t kc, int64_t ams, int64_t aks)
{
    int64_t size = sizeof *a, lines = (aks == 1 ? kc : rows) * size / MM_LINE + 1;
    return (mm_fetch){(const char *)a, lines, lines, (aks == 1 ? ams : aks) * size - lines * MM_LINE};
}

static void MM(mm_packed)(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work)
{
    MM_REAL strip[MM_ROW * MM_PACKED_MR] __attribute__((aligned(64)));
    int64_t step = tl_mm_block(p->k), strips = ceil_div(m1 - m0, MM_PACKED_MR);
    for (int64_t k0 = 0, kc; k0 < p->k; k0 += kc) {
        kc = least(step, p->k - k0);
        const MM_REAL *a = (const MM_REAL *)p->a + k0 * p->aks, *b = (const MM_REAL *)p->b + k0 * p->bks, *panels = work;
        if (p->packed) panels = (const MM_REAL *)p->packed + k0 * p->packed_wide + n0 * kc;
        else MM(mm_pack_columns)(work, b + n0 * p->bns, n1 - n0, kc, p->bns, p->bks);
        bool last = k0 + kc == p->k;
        for (int64_t s = 0, m = m0, end; s < strips; s++, m = end) {
            end = m0 + (s + 1) * (m1 - m0) / strips;
            int rows = (int)(end - m);
            bool keeps_rows = p->aks == 1 && rows >= MM_PACKED_MR - 1;
            MM(mm_pack_strip)(strip, keeps_rows, rows, kc, a + m * p->ams, p->ams, p->aks);
            MM(mm_join) join = {(MM_REAL *)p->c + m * p->ldc + n0, p->ldc, 0, k0 > 0 || p->adds};
            mm_fetch fetch = MM(mm_fetch_strip)((const MM_REAL *)((uintptr_t)a + (uintptr_t)(end * p->ams) * sizeof *a), rows, kc, p->ams, p->aks);
            MM(mm_any_strip)(rows, keeps_rows, kc, strip, panels, &join, n1 - n0, &fetch);
            if (last && p->finishes) MM(mm_finish)(p, m, end, n0, n1);
        }
    }
}

/* ---- segments of rows ---- */
/* A strip of A against a panel of B, segment after segment: each tile joins those before it, which lie in the nearest cache. The total of `rows`
 * rows and `cols` columns goes to element `at` of every out. sums: TL_MM_DEPTH tiles. */
static void MM(mm_tree)(const tl_mm_segments *p, int rows, int cols, const MM_REAL *a, const MM_REAL *b, int64_t at, MM_REAL *sums, mm_fetch *fetch)
{
    enum { MR = MM_PACKED_MR, NV = MM_PACKED_NV, NR = MM_PACKED_NR, TILE = MR * NR };
    MM(v) acc[MM_MR][NV];
    MM_REAL *top = sums;
    for (const tl_mm_segment *s = p->segments, *end = s + p->count;; s++, top += TILE) {
        const bool last = s + 1 == end;
        MM(mm_multiply)(MR, NV, s->rows, a, 1, MR, b, NR, acc, NULL, 0, fetch);
        a += MR * s->rows;
        b += NR * s->rows;
        if (s->scale != 1)
            TL_UNROLL for (int i = 0; i < MR; i++) TL_UNROLL for (int j = 0; j < NV; j++) acc[i][j] *= MM_V(splat)((MM_REAL)s->scale);
        for (int n = s->joins; n > 0; n--) {
            top -= TILE;
            TL_UNROLL for (int i = 0; i < MR; i++)
                TL_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = MM_V(load)(top + i * NR + j * MM_LANES) + acc[i][j];
        }
        if (last && rows == MR && cols == NR) {
            for (int o = 0; o < p->n_outs; o++)
                TL_UNROLL for (int i = 0; i < MR; i++)
                    TL_UNROLL for (int j = 0; j < NV; j++) MM_V(store)((MM_REAL *)p->outs[o] + at + i * p->n + j * MM_LANES, acc[i][j]);
            return;
        }
        TL_UNROLL for (int i = 0; i < MR; i++) TL_UNROLL for (int j = 0; j < NV; j++) MM_V(store)(top + i * NR + j * MM_LANES, acc[i][j]);
        if (last) break;
    }
    for (int o = 0; o < p->n_outs; o++) MM(mm_join_tile)(&(MM(mm_join)){(MM_REAL *)p->outs[o] + at, p->n, cols, false}, sums, rows, NV);
}

/* Panels and strips of all segments, one after the other: each has all k. */
static void MM(mm_segments)(const tl_mm_segments *p, int64_t n0, int64_t n1, void *work)
{
    enum { MR = MM_PACKED_MR, NR = MM_PACKED_NR };
    const tl_mm_segment *end = p->segments + p->count;
    int64_t strips = ceil_div(p->m, MR), k = p->k, step;
    MM_REAL *sums = work, *b = sums + TL_MM_DEPTH * MR * NR, *a = b + p->columns * k, *to = a;
    for (int64_t m = 0; m < p->m; m += MR)
        for (const tl_mm_segment *s = p->segments; s < end; to += s++->rows * MR)
            MM(mm_pack)(to, MR, (int)least(MR, p->m - m), s->rows, (const MM_REAL *)s->a + m, 1, s->a_row);
    for (int64_t n = n0; n < n1; n += step) {
        step = least(n1 - n, p->columns);
        to = b;
        for (const tl_mm_segment *s = p->segments; s < end; to += s++->rows * NR)
            MM(mm_pack_panels)(to, (const MM_REAL *)s->b + n, step, s->rows, 1, p->n, k);
        for (int64_t i = 0; i < strips; i++) {
            const MM_REAL *strip = a + i * MR * k;
            mm_fetch fetch = {(const char *)((uintptr_t)strip + (uintptr_t)(MR * k) * sizeof *a), INT64_MAX, 0, 0}; /* the next one */
            for (int64_t j = 0; j < step; j += NR)
                MM(mm_tree)(p, (int)least(MR, p->m - i * MR), (int)least(NR, step - j), strip, b + j * k, i * MR * p->n + n + j, sums, &fetch);
        }
    }
}

/* Sum of a[k] * b[k]: four vectors of partial sums, joined in a fixed tree. */
static MM_REAL MM(mm_dot)(const MM_REAL *a, const MM_REAL *b, int64_t n)
{
    MM(v) acc[4] = {{0}, {0}, {0}, {0}};
    int64_t k = 0;
    for (; k + 4 * MM_LANES <= n; k += 4 * MM_LANES)
        TL_UNROLL for (int j = 0; j < 4; j++)
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
