/* Winograd's convolution with 3x3 kernels, for one instruction set, in float. Driven by winograd.c, where the algorithm is told.
 *
 * Arrays of transformed values hold vectors over channels: [frequency][group of VF_LANES channels][row][VF_LANES], a row being a tile, or a
 * channel of the other operand. So every transform is plain arithmetic on vectors, one per position of a tile, and a product reads one operand
 * by vectors and the other by elements where they lie: nothing is packed again. Images, whose rows of pixels lie side by side, are turned into
 * vectors over channels on their way in and back on their way out, through a strip that also holds the padding. */

#if TL_VBYTES == 64
#define WN_UNIT 4 /* tiles are multiplied 3 or 2 units at a time: 12 x 2 accumulators in 32 registers */
#else
#define WN_UNIT 2
#endif
enum { WN_M = TL_WINO_TILE, WN_N = TL_WINO_TILE + 2, WN_F = TL_WINO_F, WN_PIECES = VF_LANES / 4 /* of 16 bytes in a vector */ };

/* The points 0, +-A, +-B and infinity, where polynomials are multiplied: of those tried (1 and 2, 1/2 and 1, 5/8 and 3/2, 1/sqrt(2) and
 * sqrt(2), ...) they leave the smallest error, about twice the rms error of a direct sum. A B = 1 saves a multiplication. */
#define WN_A 0.66666666666666666667
#define WN_B 1.5
#define WN_C(x) vf_splat((float)(x))
#define WN_A2 (WN_A * WN_A)
#define WN_B2 (WN_B * WN_B)
#define WN_DA (1 / (2 * WN_A2 * (WN_A2 - WN_B2))) /* what the rows of +-A are divided by, in kernels and gradients */
#define WN_DB (1 / (2 * WN_B2 * (WN_B2 - WN_A2)))

/* ---- one dimension: o[i * os] from x[i * xs], any of them in place ---- */

/* A tile of the image: 6 values -> 6. */
TL_INLINE void wn_image_1d(vf *o, const int os, const vf *x, const int xs)
{
    vf x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs], x4 = x[4 * xs], x5 = x[5 * xs], s = WN_C(-(WN_A2 + WN_B2));
    vf ea = vf_fma(WN_C(-WN_B2), x2, x4), oa = vf_fma(WN_C(-WN_B2), x1, x3), eb = vf_fma(WN_C(-WN_A2), x2, x4), ob = vf_fma(WN_C(-WN_A2), x1, x3);
    o[0] = vf_fma(s, x2, x0 + x4);
    o[os] = vf_fma(WN_C(WN_A), oa, ea);
    o[2 * os] = vf_fma(WN_C(-WN_A), oa, ea);
    o[3 * os] = vf_fma(WN_C(WN_B), ob, eb);
    o[4 * os] = vf_fma(WN_C(-WN_B), ob, eb);
    o[5 * os] = vf_fma(s, x3, x1 + x5);
}

/* A kernel: 3 values -> 6. */
TL_INLINE void wn_kernel_1d(vf *o, const int os, const vf *x, const int xs)
{
    vf x0 = x[0], x1 = x[xs], x2 = x[2 * xs];
    vf ea = vf_fma(WN_C(WN_DA * WN_A2), x2, x0 * WN_C(WN_DA)), eb = vf_fma(WN_C(WN_DB * WN_B2), x2, x0 * WN_C(WN_DB));
    o[0] = x0;
    o[os] = vf_fma(WN_C(WN_DA * WN_A), x1, ea);
    o[2 * os] = vf_fma(WN_C(-WN_DA * WN_A), x1, ea);
    o[3 * os] = vf_fma(WN_C(WN_DB * WN_B), x1, eb);
    o[4 * os] = vf_fma(WN_C(-WN_DB * WN_B), x1, eb);
    o[5 * os] = x2;
}

/* A tile of the gradient, in the kernel's place: 4 values -> 6. */
TL_INLINE void wn_grad_1d(vf *o, const int os, const vf *x, const int xs)
{
    vf x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];
    vf ea = vf_fma(WN_C(WN_DA * WN_A2), x2, x0 * WN_C(WN_DA)), eb = vf_fma(WN_C(WN_DB * WN_B2), x2, x0 * WN_C(WN_DB));
    vf oa = vf_fma(WN_C(WN_A2), x3, x1), ob = vf_fma(WN_C(WN_B2), x3, x1);
    o[0] = x0;
    o[os] = vf_fma(WN_C(WN_DA * WN_A), oa, ea);
    o[2 * os] = vf_fma(WN_C(-WN_DA * WN_A), oa, ea);
    o[3 * os] = vf_fma(WN_C(WN_DB * WN_B), ob, eb);
    o[4 * os] = vf_fma(WN_C(-WN_DB * WN_B), ob, eb);
    o[5 * os] = x3;
}

/* Back to a tile of the result: 6 values -> 4. */
TL_INLINE void wn_result_1d(vf *o, const int os, const vf *x, const int xs)
{
    vf x0 = x[0], ea = x[xs] + x[2 * xs], oa = x[xs] - x[2 * xs], eb = x[3 * xs] + x[4 * xs], ob = x[3 * xs] - x[4 * xs], x5 = x[5 * xs];
    o[0] = x0 + (ea + eb);
    o[os] = vf_fma(WN_C(WN_A), oa, WN_C(WN_B) * ob);
    o[2 * os] = vf_fma(WN_C(WN_A2), ea, WN_C(WN_B2) * eb);
    o[3 * os] = vf_fma(WN_C(WN_A2 * WN_A), oa, vf_fma(WN_C(WN_B2 * WN_B), ob, x5));
}

/* Back to the gradient of a kernel: 6 values -> 3. */
TL_INLINE void wn_grad_kernel_1d(vf *o, const int os, const vf *x, const int xs)
{
    vf x0 = x[0], ea = x[xs] + x[2 * xs], oa = x[xs] - x[2 * xs], eb = x[3 * xs] + x[4 * xs], ob = x[3 * xs] - x[4 * xs], x5 = x[5 * xs];
    o[0] = x0 + (ea + eb);
    o[os] = vf_fma(WN_C(WN_A), oa, WN_C(WN_B) * ob);
    o[2 * os] = vf_fma(WN_C(WN_A2), ea, vf_fma(WN_C(WN_B2), eb, x5));
}

/* Two dimensions: o (no x no, dense) from x (nx rows at distance row, in vectors; nx columns), by columns and then by rows. */
#define WN_2D(f, o, no, x, nx, row)                                                              \
    do {                                                                                         \
        vf columns_[(no) * (nx)];                                                                \
        TL_UNROLL for (int j_ = 0; j_ < (nx); j_++) f(columns_ + j_, nx, (x) + j_, (int)(row));  \
        TL_UNROLL for (int i_ = 0; i_ < (no); i_++) f((o) + i_ * (no), 1, columns_ + i_ * (nx), 1); \
    } while (0)

/* ---- between rows of pixels and vectors over channels ---- */

/* Four elements of every fourth row, 16 bytes beside 16 bytes. */
#define WN_PIECE(q) 4 * (q), 4 * (q) + 1, 4 * (q) + 2, 4 * (q) + 3
TL_INLINE vf wn_rows(const float *p, int64_t row)
{
    typedef float quad __attribute__((vector_size(16)));
    quad q[WN_PIECES];
    TL_UNROLL for (int i = 0; i < WN_PIECES; i++) memcpy(q + i, p + 4 * i * row, sizeof *q);
#if TL_VBYTES == 64
    vf_half low = __builtin_shufflevector(q[0], q[1], WN_PIECE(0), WN_PIECE(1)), high = __builtin_shufflevector(q[2], q[3], WN_PIECE(0), WN_PIECE(1));
    return __builtin_shufflevector(low, high, WN_PIECE(0), WN_PIECE(1), WN_PIECE(2), WN_PIECE(3));
#elif TL_VBYTES == 32
    return __builtin_shufflevector(q[0], q[1], WN_PIECE(0), WN_PIECE(1));
#else
    return q[0];
#endif
}

/* 4x4 transposes within each 16 bytes of the four vectors. */
TL_INLINE void wn_turn(vf v[4])
{
    vf a = MM_SHUFFLE(v[0], v[1], MM_LO), b = MM_SHUFFLE(v[2], v[3], MM_LO), c = MM_SHUFFLE(v[0], v[1], MM_HI), d = MM_SHUFFLE(v[2], v[3], MM_HI);
    v[0] = MM_SHUFFLE(a, b, MM_LOLO), v[1] = MM_SHUFFLE(a, b, MM_HIHI), v[2] = MM_SHUFFLE(c, d, MM_LOLO), v[3] = MM_SHUFFLE(c, d, MM_HIHI);
}

/* Transposes of the 16-byte pieces of as many vectors as one has pieces. */
TL_INLINE void wn_turn_pieces(vf *v)
{
#if TL_VBYTES == 64 /* pieces 0 to 3 are of the first operand, 4 to 7 of the second */
#define WN_PIECES_OF(a, b, p, q, r, s) __builtin_shufflevector(a, b, WN_PIECE(p), WN_PIECE(q), WN_PIECE(r), WN_PIECE(s))
    vf a = WN_PIECES_OF(v[0], v[1], 0, 4, 2, 6), b = WN_PIECES_OF(v[0], v[1], 1, 5, 3, 7);
    vf c = WN_PIECES_OF(v[2], v[3], 0, 4, 2, 6), d = WN_PIECES_OF(v[2], v[3], 1, 5, 3, 7);
    v[0] = WN_PIECES_OF(a, c, 0, 1, 4, 5), v[1] = WN_PIECES_OF(b, d, 0, 1, 4, 5);
    v[2] = WN_PIECES_OF(a, c, 2, 3, 6, 7), v[3] = WN_PIECES_OF(b, d, 2, 3, 6, 7);
#undef WN_PIECES_OF
#elif TL_VBYTES == 32
    vf a = __builtin_shufflevector(v[0], v[1], WN_PIECE(0), WN_PIECE(2));
    v[1] = __builtin_shufflevector(v[0], v[1], WN_PIECE(1), WN_PIECE(3));
    v[0] = a;
#else
    (void)v;
#endif
}

/* A whole square: VF_LANES elements of VF_LANES rows. */
TL_INLINE void wn_square_out(float *x, int64_t row, const vf *v)
{
    vf t[4][WN_PIECES];
    TL_UNROLL for (int g = 0; g < WN_PIECES; g++) {
        vf four[4];
        memcpy(four, v + 4 * g, sizeof four);
        wn_turn(four);
        TL_UNROLL for (int j = 0; j < 4; j++) t[j][g] = four[j];
    }
    TL_UNROLL for (int j = 0; j < 4; j++) {
        wn_turn_pieces(t[j]);
        TL_UNROLL for (int g = 0; g < WN_PIECES; g++) vf_store(x + (4 * g + j) * row, t[j][g]);
    }
}
TL_INLINE void wn_square_in(vf *v, const float *x, int64_t row)
{
    vf t[4][WN_PIECES];
    TL_UNROLL for (int j = 0; j < 4; j++) {
        TL_UNROLL for (int g = 0; g < WN_PIECES; g++) t[j][g] = vf_load(x + (4 * g + j) * row);
        wn_turn_pieces(t[j]);
    }
    TL_UNROLL for (int g = 0; g < WN_PIECES; g++) {
        vf four[4] = {t[0][g], t[1][g], t[2][g], t[3][g]};
        wn_turn(four);
        memcpy(v + 4 * g, four, sizeof four);
    }
}

/* v[i] = (x[0][i], x[1][i], ...) for i < n <= 4 elements of each of VF_LANES rows, of which `rows` exist; the others read as zero. */
TL_INLINE void wn_turn_in(vf v[4], const float *x, int64_t row, int rows, int n)
{
    if (rows == VF_LANES && n == 4) {
        TL_UNROLL for (int j = 0; j < 4; j++) v[j] = wn_rows(x + j * row, row);
        wn_turn(v);
        return;
    }
    float lanes[4][VF_LANES] = {{0}};
    for (int j = 0; j < rows; j++)
        for (int i = 0; i < n; i++) lanes[i][j] = x[j * row + i];
    memcpy(v, lanes, sizeof lanes);
}

/* The other way. v is lost. */
TL_INLINE void wn_turn_out(float *x, int64_t row, int rows, int n, vf v[4])
{
    if (rows == VF_LANES && n == 4) {
        wn_turn(v);
        TL_UNROLL for (int j = 0; j < 4; j++)
            TL_UNROLL for (int q = 0; q < VF_LANES / 4; q++) memcpy(x + (4 * q + j) * row, (const float *)&v[j] + 4 * q, 16);
        return;
    }
    float lanes[4][VF_LANES];
    memcpy(lanes, v, sizeof lanes);
    for (int j = 0; j < rows; j++)
        for (int i = 0; i < n; i++) x[j * row + i] = lanes[i][j];
}

/* n pixels of each of `rows` channels into n vectors; the last four may overlap those before. */
static void wn_pixels_in(vf *v, const float *x, int64_t row, int rows, int64_t n)
{
    int64_t i = 0;
    for (; i + VF_LANES <= n && rows == VF_LANES; i += VF_LANES) wn_square_in(v + i, x + i, row);
    for (int64_t next; i < n; i = next) {
        if (i + 4 > n && n >= 4) i = n - 4;
        next = i + 4;
        vf four[4];
        int some = n - i < 4 ? (int)(n - i) : 4;
        wn_turn_in(four, x + i, row, rows, some);
        memcpy(v + i, four, (size_t)some * sizeof *v);
    }
}

static void wn_pixels_out(float *x, int64_t row, int rows, int64_t n, const vf *v)
{
    int64_t i = 0;
    for (; i + VF_LANES <= n && rows == VF_LANES; i += VF_LANES) wn_square_out(x + i, row, v + i);
    for (int64_t next; i < n; i = next) {
        if (i + 4 > n && n >= 4) i = n - 4;
        next = i + 4;
        vf four[4];
        int some = n - i < 4 ? (int)(n - i) : 4;
        memcpy(four, v + i, (size_t)some * sizeof *v);
        wn_turn_out(x + i, row, rows, some, four);
    }
}

TL_INLINE int64_t wn_clip(int64_t x, int64_t most) { return x < 0 ? 0 : x > most ? most : x; }
/* Where image i begins. */
TL_INLINE int64_t wn_image_at(const tl_wino_image *m, int64_t i) { return i / m->depths * m->batch + i % m->depths * m->h * m->w; }

/* The pixels from (top, left), rows x cols of them, of one image into a strip, zeros where the image ends. */
static void wn_strip_in(vf *strip, const tl_wino_image *m, const float *x, int channels, int64_t top, int64_t left, int64_t rows, int64_t cols)
{
    int64_t from = wn_clip(left, m->w), to = wn_clip(left + cols, m->w);
    for (int64_t r = 0; r < rows; r++, strip += cols) {
        int64_t y = top + r, n = y < 0 || y >= m->h ? 0 : to - from;
        int64_t before = n ? from - left : cols;
        memset(strip, 0, (size_t)before * sizeof *strip);
        wn_pixels_in(strip + before, x + y * m->w + from, m->channel, channels, n);
        if (n) memset(strip + before + n, 0, (size_t)(cols - before - n) * sizeof *strip);
    }
}

/* ---- the kernels ---- */

/* The tiles of a block, size x size pixels each, the next one WN_M pixels on, transformed by f. */
#define WN_TILES(name, size, f)                                                                                                   \
    static void name(float *v, int64_t stride, const tl_wino_image *m, const float *x, int channels, const tl_wino_block *b, void *work) \
    {                                                                                                                             \
        vf *strip = work, out[WN_F];                                                                                              \
        int64_t tile = 0, width = (b->x1 - b->x0) * WN_M + (size) - WN_M, height = (b->y1 - b->y0) * WN_M + (size) - WN_M;        \
        for (int64_t i = b->i0; i < b->i1; i++) {                                                                                 \
            wn_strip_in(strip, m, x + wn_image_at(m, i), channels, b->y0 * WN_M - m->pad_y, b->x0 * WN_M - m->pad_x, height, width); \
            for (int64_t y = 0; y < b->y1 - b->y0; y++)                                                                           \
                for (int64_t xx = 0; xx < b->x1 - b->x0; xx++, tile++) {                                                          \
                    const vf *at = strip + y * WN_M * width + xx * WN_M;                                                          \
                    WN_2D(f, out, WN_N, at, size, width);                                                                         \
                    TL_UNROLL for (int k = 0; k < WN_F; k++) vf_store(v + k * stride + tile * VF_LANES, out[k]);                  \
                }                                                                                                                 \
        }                                                                                                                         \
        for (; tile % WN_UNIT; tile++)                                                                                       \
            for (int k = 0; k < WN_F; k++) vf_store(v + k * stride + tile * VF_LANES, vf_splat(0));                               \
    }
WN_TILES(wn_image, WN_N, wn_image_1d)
WN_TILES(wn_grad, WN_M, wn_grad_1d)

static void wn_kernels(float *u, int64_t stride, const tl_wino_weights *w, const float *x, int outs, int64_t ins, int64_t padded)
{
    for (int64_t c = 0; c < padded; c++, u += VF_LANES) {
        vf k[12], out[WN_F];
        if (c < ins) {
            const float *at = x + c * w->in_step;
            wn_turn_in(k, at, w->out_step, outs, 4);
            wn_turn_in(k + 4, at + 4, w->out_step, outs, 4);
            vf last[4];
            wn_turn_in(last, at + 5, w->out_step, outs, 4);
            k[8] = last[3];
            if (w->flip)
                TL_UNROLL for (int i = 0; i < 4; i++) {
                    vf t = k[i];
                    k[i] = k[8 - i], k[8 - i] = t;
                }
        } else memset(k, 0, sizeof k);
        WN_2D(wn_kernel_1d, out, WN_N, k, 3, 3);
        TL_UNROLL for (int f = 0; f < WN_F; f++) vf_store(u + f * stride, out[f]);
    }
}

/* out[i, j] = sum over k of a[i, k] b[k, j] for mr rows and nv vectors, added to what is there if `add`. k runs over `outer` times `inner`. */
TL_INLINE void wn_tile(const int mr, const int nv, int64_t outer, const int64_t inner, const float *a, const int64_t row, const int64_t step,
                       int64_t a_outer, const float *b, int64_t b_next, float *out, int64_t out_next, bool add)
{
    vf acc[3 * WN_UNIT][2], bv[2];
    TL_UNROLL for (int i = 0; i < mr; i++) TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = vf_splat(0);
    for (int64_t o = 0; o < outer; o++, a += a_outer) {
        const float *at = a;
        for (int64_t k = 0; k < inner; k++, at += step, b += VF_LANES) {
            TL_UNROLL for (int j = 0; j < nv; j++) bv[j] = vf_load(b + j * b_next);
            TL_UNROLL for (int i = 0; i < mr; i++) {
                vf av = vf_splat(at[i * row]);
                TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = vf_fma(av, bv[j], acc[i][j]);
            }
        }
    }
    TL_UNROLL for (int i = 0; i < mr; i++)
        TL_UNROLL for (int j = 0; j < nv; j++) {
            float *at = out + j * out_next + i * VF_LANES;
            vf_store(at, add ? vf_load(at) + acc[i][j] : acc[i][j]);
        }
}

/* One frequency: m [nv][tiles] (+)= v [groups][tiles] u [nv][groups * VF_LANES]. */
TL_TEMPLATE void wn_product(const int nv, float *m, bool add, const float *v, const float *u, int64_t u_next, int64_t groups, int64_t tiles)
{
    enum { U = WN_UNIT, L = VF_LANES };
    for (int64_t left = tiles, mr; left; left -= mr, v += mr * L, m += mr * L) {
#define WN_ROWS(rows) wn_tile(mr = (rows), nv, groups, L, v, L, 1, tiles * L, u, u_next, m, tiles * L, add)
        if (left >= 3 * U && left != 4 * U) WN_ROWS(3 * U);
        else if (left >= 2 * U) WN_ROWS(2 * U);
        else WN_ROWS(U);
#undef WN_ROWS
    }
}

static void wn_products(int nv, float *m, int64_t m_stride, bool add, const float *v, int64_t v_stride, const float *u, int64_t u_stride,
                        int64_t u_next, int64_t groups, int64_t tiles)
{
    for (int f = 0; f < WN_F; f++, m += m_stride, v += v_stride, u += u_stride)
        if (nv == 2) wn_product(2, m, add, v, u, u_next, groups, tiles);
        else wn_product(1, m, add, v, u, u_next, groups, tiles);
}

static void wn_result(float *y, const tl_wino_image *im, const float *bias, int channels, const float *m, int64_t stride,
                      const tl_wino_block *b, void *work)
{
    vf *strip = work, in[WN_F], out[WN_M * WN_M], add = bias ? channels == VF_LANES ? vf_load(bias) : vf_load_part(bias, channels, 0) : vf_splat(0);
    int64_t width = (b->x1 - b->x0) * WN_M, left = b->x0 * WN_M, cols = wn_clip(left + width, im->w) - left;
    for (int64_t i = b->i0; i < b->i1; i++) {
        float *image = y + wn_image_at(im, i);
        for (int64_t ty = b->y0; ty < b->y1; ty++) {
            for (int64_t tx = 0; tx < b->x1 - b->x0; tx++, m += VF_LANES) {
                TL_UNROLL for (int f = 0; f < WN_F; f++) in[f] = vf_load(m + f * stride);
                vf columns[WN_M * WN_N];
                TL_UNROLL for (int j = 0; j < WN_N; j++) wn_result_1d(columns + j, WN_N, in + j, WN_N);
                TL_UNROLL for (int r = 0; r < WN_M; r++) wn_result_1d(out + r * WN_M, 1, columns + r * WN_N, 1);
                TL_UNROLL for (int r = 0; r < WN_M; r++)
                    TL_UNROLL for (int c = 0; c < WN_M; c++) strip[r * width + tx * WN_M + c] = out[r * WN_M + c] + add;
            }
            for (int64_t r = 0; r < WN_M && ty * WN_M + r < im->h; r++)
                wn_pixels_out(image + (ty * WN_M + r) * im->w + left, im->channel, channels, cols, strip + r * width);
        }
    }
}

/* m [frequency][nv][VF_LANES channels of x] (+)= the products over the tiles of v, a group, and g, nv groups. */
static void wn_grad_products(int nv, float *m, bool add, const float *v, int64_t v_stride, const float *g, int64_t g_stride, int64_t g_next,
                             int64_t tiles)
{
    enum { ROWS = 2 * WN_UNIT, L = VF_LANES };
    for (int f = 0; f < WN_F; f++, m += TL_WINO_SUMS(L) / WN_F, v += v_stride, g += g_stride)
        for (int i = 0; i < L; i += ROWS)
            if (nv == 2) wn_tile(ROWS, 2, 1, tiles, v + i, 1, L, 0, g, g_next, m + i * L, L * L, add);
            else wn_tile(ROWS, 1, 1, tiles, v + i, 1, L, 0, g, g_next, m + i * L, L * L, add);
}

/* gw [channels of g][channels of x][9] from `parts` arrays of sums, `apart` floats each from the next, joined in order. */
static void wn_grad_result(float *gw, int64_t row, int outs, int ins, const float *m, int64_t parts, int64_t apart)
{
    vf kernels[VF_LANES * 9], in[WN_F];
    for (int c = 0; c < ins; c++) {
        TL_UNROLL for (int f = 0; f < WN_F; f++) in[f] = vf_load(m + f * (TL_WINO_SUMS(VF_LANES) / WN_F) + c * VF_LANES);
        for (int64_t p = 1; p < parts; p++)
            TL_UNROLL for (int f = 0; f < WN_F; f++) in[f] += vf_load(m + p * apart + f * (TL_WINO_SUMS(VF_LANES) / WN_F) + c * VF_LANES);
        vf columns[3 * WN_N];
        TL_UNROLL for (int j = 0; j < WN_N; j++) wn_grad_kernel_1d(columns + j, WN_N, in + j, WN_N);
        TL_UNROLL for (int r = 0; r < 3; r++) wn_grad_kernel_1d(kernels + c * 9 + r * 3, 1, columns + r * WN_N, 1);
    }
    wn_pixels_out(gw, row, outs, ins * 9, kernels);
}

const tl_wino_kernels TL_NAME(wino_kernels) = {
    .lanes = VF_LANES,
    .unit = WN_UNIT,
    .image = wn_image,
    .grad = wn_grad,
    .kernels = wn_kernels,
    .products = wn_products,
    .result = wn_result,
    .grad_products = wn_grad_products,
    .grad_result = wn_grad_result,
};
