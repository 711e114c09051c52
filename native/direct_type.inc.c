/* The loops of direct.inc.c for one type: T, V its vector of LANES, VN(name) a function of vec.h, DN(name) a name of ours. */

/* ---- the copy ---- */

/* Columns [0, n) of a row, the others stay as they are, except that up to a vector behind them may be set to zero. */
TL_INLINE void DN(copy_row)(T *dst, const T *src, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) VN(store)(dst + i, VN(load)(src + i));
    if (i < n) VN(store)(dst + i, VN(load_part)(src + i, n - i, 0));
}

/* Every second column of a row from there on: d[i] = src[2 i], n of them. */
TL_INLINE void DN(halve_row)(T *d, const T *src, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES < n; i += LANES) { /* one more column follows: both vectors are inside the row */
        V a = VN(load)(src + 2 * i), b = VN(load)(src + 2 * i + LANES);
        VN(store)(d + i, DIRECT_EVEN(a, b, LANES));
    }
    for (; i < n; i++) d[i] = src[2 * i];
}

static void DN(spread_row)(T *dst, const T *src, int64_t n, const direct_phases *f)
{
    for (int64_t i = 0; i < f->step; i++) {
        T *d = dst + f->at[i];
        if (f->step == 2) DN(halve_row)(d, src + f->first[i], (n - f->first[i] + 1) / 2);
        else
            for (int64_t j = f->first[i]; j < n; j += f->step) *d++ = src[j];
    }
}

static void DN(direct_copy)(const tl_direct_copy *p, void *band, const void *src, int64_t d0, int64_t h0)
{
    const int64_t row = p->step * p->pitch, skip = p->front < 0 ? -p->front : 0, column = p->front < 0 ? 0 : p->front;
    int64_t n = p->columns - column < p->width - skip ? p->columns - column : p->width - skip;
    if (n <= 0) return; /* the band is all border */
    T *dst = band;
    direct_phases phases = {0}; /* used where step > 1 alone */
    if (p->step > 1) phases = direct_phases_of(column, p->step, p->pitch);
    for (int64_t plane = 0; plane < p->planes; plane++)
        for (int64_t d = d0; d < d0 + p->slices; d++)
            for (int64_t h = h0; h < h0 + p->rows; h++, dst += row) {
                bool outside = d < 0 || d >= p->depth || h < 0 || h >= p->height;
                const T *from = (const T *)src + (outside ? 0 : ((plane * p->depth + d) * p->height + h) * p->width + skip);
                if (outside)
                    for (int64_t i = 0; i < row; i += LANES) VN(store)(dst + i, VN(splat)(0)); /* behind it: the next row, or the band's end */
                else if (p->step == 1) DN(copy_row)(dst + column, from, n);
                else DN(spread_row)(dst, from, n, &phases);
            }
}

/* ---- sums ---- */

/* The first `left` results of nv vectors, `step` apart. */
TL_TEMPLATE void DN(put_row)(T *out, const V *acc, const int nv, int64_t left, int64_t step)
{
    if (step == 1) {
        TL_UNROLL for (int j = 0; j < nv; j++) {
            if (left >= (j + 1) * LANES) VN(store)(out + j * LANES, acc[j]);
            else VN(store_part)(out + j * LANES, acc[j], left - j * LANES);
        }
        return;
    }
    T lanes[4 * LANES];
    TL_UNROLL for (int j = 0; j < nv; j++) VN(store)(lanes + j * LANES, acc[j]);
    if (left > nv * LANES) left = nv * LANES;
    for (int64_t i = 0; i < left; i++) out[i * step] = lanes[i];
}

/* kb sums of each of nv vectors of rb rows (kb or rb is 1): kb, rb and nv are constants where it is inlined. Of the last vector `left` results
 * count; what lies behind them in the band is read, and forgotten. */
TL_TEMPLATE void DN(sum_block)(const int kb, const int rb, const int nv, const tl_direct_sums *p, const T *band, const T *w, const T *bias, T *out,
                             int64_t left)
{
    const int64_t taps = p->taps, w_sum = p->w_sum, *offsets = p->offsets;
    V acc[16];
    TL_UNROLL for (int k = 0; k < kb; k++)
        TL_UNROLL for (int j = 0; j < rb * nv; j++) acc[k * rb * nv + j] = VN(splat)(bias ? bias[k] : 0);
    for (int64_t t = 0; t < taps; t++) {
        const T *x = band + offsets[t];
        V xv[8];
        TL_UNROLL for (int r = 0; r < rb; r++)
            TL_UNROLL for (int j = 0; j < nv; j++) xv[r * nv + j] = VN(load)(x + r * p->row + j * LANES);
        TL_UNROLL for (int k = 0; k < kb; k++) {
            V wv = VN(splat)(w[k * w_sum + t]);
            TL_UNROLL for (int j = 0; j < rb * nv; j++) acc[k * rb * nv + j] = VN(fma)(wv, xv[j], acc[k * rb * nv + j]);
        }
    }
    TL_UNROLL for (int k = 0; k < kb; k++)
        TL_UNROLL for (int r = 0; r < rb; r++)
            DN(put_row)(out + k * p->out_plane + r * p->out_row, acc + (k * rb + r) * nv, nv, left, p->out_step);
}

static void DN(sum_blocks)(int kb, int rb, int nv, const tl_direct_sums *p, const T *band, const T *w, const T *bias, T *out, int64_t left)
{
#define BLOCK(k, r, n) case k << 8 | r << 4 | n: DN(sum_block)(k, r, n, p, band, w, bias, out, left); break
#define BLOCKS(k, r) BLOCK(k, r, 1); BLOCK(k, r, 2); BLOCK(k, r, 3); BLOCK(k, r, 4)
    switch (kb << 8 | rb << 4 | nv) {
        BLOCKS(1, 1); BLOCKS(2, 1); BLOCKS(3, 1); BLOCKS(4, 1);
        BLOCKS(1, 2); BLOCK(1, 4, 2);
        BLOCK(1, 3, 1); BLOCK(1, 4, 1); BLOCK(1, 5, 1); BLOCK(1, 6, 1); BLOCK(1, 7, 1); BLOCK(1, 8, 1);
    }
#undef BLOCKS
#undef BLOCK
}

static void DN(direct_sums)(const tl_direct_sums *p, const void *band, const void *w, const void *bias, void *out, int64_t rows)
{
    const int64_t vectors = (p->width + LANES - 1) / LANES, nv = direct_share(vectors, DIRECT_VECTORS), nk = direct_share(p->sums, 4);
    const int64_t most = nk > 1 ? 1 : vectors == 1 ? direct_share(rows, 8) : vectors == 2 ? 4 : 2;
    for (int64_t r = 0, rb; r < rows; r += rb) {
        if (vectors == 1) rb = direct_least(most, rows - r);
        else for (rb = most; r + rb > rows; rb /= 2) {}
        for (int64_t v = 0; v < vectors; v += nv)
            for (int64_t k = 0; k < p->sums; k += nk)
                DN(sum_blocks)(direct_least(nk, p->sums - k), (int)rb, direct_least(nv, vectors - v), p, (const T *)band + r * p->row + v * LANES,
                               (const T *)w + k * p->w_sum, bias ? (const T *)bias + k : NULL,
                               (T *)out + k * p->out_plane + r * p->out_row + v * LANES * p->out_step, p->width - v * LANES);
    }
}

/* ---- the weight's gradient ---- */

enum { DN(QUADS) = TL_VBYTES / 16, DN(QUAD) = 16 / sizeof(T) };
typedef T DN(quad) __attribute__((vector_size(16)));

/* The sum of the lanes: in halves, down to the 16 bytes that every instruction set works on. */
TL_INLINE T DN(add_lanes)(V v)
{
    DN(quad) q[DN(QUADS)];
    memcpy(q, &v, sizeof v);
    TL_UNROLL for (int half = DN(QUADS) / 2; half > 0; half /= 2)
        TL_UNROLL for (int i = 0; i < half; i++) q[i] += q[i + half];
    T sum = q[0][0] + q[0][1];
    return DN(QUAD) == 4 ? sum + (q[0][2 % DN(QUAD)] + q[0][3 % DN(QUAD)]) : sum;
}

/* gw[k][t] += sum over rows and columns of g[k] and the band at offsets[t], k < kb, t < tb: constants where it is inlined. */
TL_TEMPLATE void DN(dot_block)(const int kb, const int tb, const tl_direct_sums *p, const T *band, const int64_t *offsets, const T *g, T *gw,
                             int64_t rows)
{
    const int64_t width = p->width, whole = width - width % LANES, rest = width % LANES;
    V acc[20], gv[4];
    const T *x[5];
    TL_UNROLL for (int i = 0; i < kb * tb; i++) acc[i] = VN(splat)(0);
    TL_UNROLL for (int t = 0; t < tb; t++) x[t] = band + offsets[t];
    for (int64_t r = 0; r < rows; r++, g += p->out_row) {
        for (int64_t j = 0; j < whole; j += LANES) {
            TL_UNROLL for (int k = 0; k < kb; k++) gv[k] = VN(load)(g + k * p->out_plane + j);
            TL_UNROLL for (int t = 0; t < tb; t++) {
                V xv = VN(load)(x[t] + j);
                TL_UNROLL for (int k = 0; k < kb; k++) acc[k * tb + t] = VN(fma)(gv[k], xv, acc[k * tb + t]);
            }
        }
        if (rest) { /* what lies behind a row of the band may be infinite: it must not meet a zero */
            TL_UNROLL for (int k = 0; k < kb; k++) gv[k] = VN(load_part)(g + k * p->out_plane + whole, rest, 0);
            TL_UNROLL for (int t = 0; t < tb; t++) {
                V xv = VN(load_part)(x[t] + whole, rest, 0);
                TL_UNROLL for (int k = 0; k < kb; k++) acc[k * tb + t] = VN(fma)(gv[k], xv, acc[k * tb + t]);
            }
        }
        TL_UNROLL for (int t = 0; t < tb; t++) x[t] += p->row;
    }
    TL_UNROLL for (int k = 0; k < kb; k++)
        TL_UNROLL for (int t = 0; t < tb; t++) gw[k * p->w_sum + t] += DN(add_lanes)(acc[k * tb + t]);
}

static void DN(dot_blocks)(int kb, int tb, const tl_direct_sums *p, const T *band, const int64_t *offsets, const T *g, T *gw, int64_t rows)
{
#define BLOCK(k, t) case k << 4 | t: DN(dot_block)(k, t, p, band, offsets, g, gw, rows); break
#define BLOCKS(k) BLOCK(k, 1); BLOCK(k, 2); BLOCK(k, 3); BLOCK(k, 4); BLOCK(k, 5)
    switch (kb << 4 | tb) { BLOCKS(1); BLOCKS(2); BLOCKS(3); BLOCKS(4); }
#undef BLOCKS
#undef BLOCK
}

static void DN(direct_dots)(const tl_direct_sums *p, const void *band, const void *g, void *gw, int64_t rows)
{
    const int64_t nk = direct_share(p->sums, 4), nt = direct_share(p->taps, nk <= 2 ? 5 : DIRECT_TAPS);
    for (int64_t k = 0; k < p->sums; k += nk)
        for (int64_t t = 0; t < p->taps; t += nt)
            DN(dot_blocks)(direct_least(nk, p->sums - k), direct_least(nt, p->taps - t), p, band, p->offsets + t,
                           (const T *)g + k * p->out_plane, (T *)gw + k * p->w_sum + t, rows);
}
#undef LANES
#undef T
#undef V
#undef VN
#undef DN
