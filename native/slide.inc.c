/* Convolution by sliding over a padded copy, for one instruction set: contracts in kernels.h, driver in slide.c. Weights are packed, and sums
 * run, as in product.inc.c; but a row of the right operand is where a tap sees the copy, so nothing is packed for each tap.
 *
 * The file includes itself once per type. */
#ifndef SL_REAL

#undef MM /* matmul.inc.c's */
#undef MM_V
#define SL_REAL float
#define MM(x) x##_f32
#define MM_V(x) vf_##x
#include "slide.inc.c"
#undef SL_REAL
#undef MM
#undef MM_V
#define SL_REAL double
#define MM(x) x##_f64
#define MM_V(x) vd_##x
#include "slide.inc.c"

#define SL_BOTH(name) {name##_f32, name##_f64}
const tl_slide_kernels TL_NAME(slide_kernels) = {
    .copy = SL_BOTH(sl_copy), .multiply = SL_BOTH(sl_multiply), .put = SL_BOTH(sl_put),
    .turn = SL_BOTH(sl_turn), .dots = SL_BOTH(sl_dots), .finish = SL_BOTH(sl_finish),
};
#undef SL_BOTH

#else /* ---- once per type ---- */
#define MM_LANES (TL_VBYTES / (int)sizeof(SL_REAL))

/* ---- the copy ---- */

/* Each of these may set up to a vector behind what it writes to zero. */

TL_INLINE void MM(sl_clear)(SL_REAL *dst, int64_t n)
{
    for (int64_t j = 0; j < n; j += MM_LANES) MM_V(store)(dst + j, MM_V(splat)(0));
}

/* dst[j] = src[j * step], j < n. */
TL_INLINE void MM(sl_take)(SL_REAL *dst, const SL_REAL *src, int64_t n, int64_t step)
{
    int64_t j = 0;
    if (step == 1) {
        for (; j + MM_LANES <= n; j += MM_LANES) MM_V(store)(dst + j, MM_V(load)(src + j));
        if (j < n) MM_V(store)(dst + j, MM_V(load_part)(src + j, n - j, 0));
        return;
    }
    if (step == 4)
        for (; j + MM_LANES < n; j += MM_LANES) { /* one more follows: all four vectors are inside the row */
            const SL_REAL *x = src + 4 * j;
            MM(v) low = MM_V(even)(MM_V(load)(x), MM_V(load)(x + MM_LANES));
            MM_V(store)(dst + j, MM_V(even)(low, MM_V(even)(MM_V(load)(x + 2 * MM_LANES), MM_V(load)(x + 3 * MM_LANES))));
        }
    for (; j < n; j++) dst[j] = src[j * step];
}

/* n elements in turns to a and to b. */
TL_INLINE void MM(sl_deal)(SL_REAL *a, SL_REAL *b, const SL_REAL *src, int64_t n)
{
    for (int64_t i = 0; i < n; i += 2 * MM_LANES, a += MM_LANES, b += MM_LANES) {
        int left = (int)least(n - i, 2 * MM_LANES);
        MM(v) x = MM(mm_load_upto)(src + i, left), y = MM(mm_load_upto)(src + i + (left > MM_LANES ? MM_LANES : 0), left - MM_LANES);
        MM_V(store)(a, MM_V(even)(x, y));
        MM_V(store)(b, MM_V(odd)(x, y));
    }
}

/* What products read behind a sheet's rows, and drop, must be numbers: denormal ones would be slow. */
static void MM(sl_clear_tails)(const tl_slide_copy *p, SL_REAL *sheet, int64_t sheets)
{
    const int64_t tail = (p->rows - 1) * p->pitch + p->columns;
    for (int64_t i = 0; i < sheets; i++) MM(sl_clear)(sheet + i * p->sheet + tail, least(p->sheet - tail, TL_SLIDE_SLACK));
}

/* The rows of one row phase, from row y of a slice (NULL: outside) on, to the sheet of a column phase; with `both`, to the sheets of both phases of a
 * step of two. */
static void MM(sl_copy_rows)(const tl_slide_copy *p, SL_REAL *sheet, const SL_REAL *slice, int64_t y, int64_t phase, bool both)
{
    const int64_t x = p->from[2] + phase, width = p->in[2], step = both ? 1 : p->step[2], all = both ? 2 * p->columns : p->columns;
    const int64_t first = x >= 0 ? 0 : step == 1 ? -x : (step - 1 - x) / step;
    const int64_t end = x >= width ? 0 : least(all, step == 1 ? width - x : (width - 1 - x) / step + 1), n = end - first, odd = first & 1;
    for (int64_t i = 0; i < p->rows; i++, y += p->step[1], sheet += p->pitch) {
        bool inside = slice && y >= 0 && y < p->in[1] && n > 0;
        const SL_REAL *row = inside ? slice + y * width + x + first * step : NULL;
        if (both) {
            if (!inside || n < all) MM(sl_clear)(sheet, p->columns), MM(sl_clear)(sheet + p->sheet, p->columns);
            SL_REAL *same = sheet + first / 2, *other = sheet + p->sheet + first / 2;
            if (inside) MM(sl_deal)(odd ? other : same, odd ? same + 1 : other, row, n);
        } else if (!inside) MM(sl_clear)(sheet, p->columns);
        else {
            MM(sl_clear)(sheet, first);
            MM(sl_take)(sheet + first, row, n, step);
            MM(sl_clear)(sheet + end, p->columns - end);
        }
    }
}

/* The same for MM_LANES column phases at once, whose columns all lie inside the source: squares are turned. */
static void MM(sl_turn_rows)(const tl_slide_copy *p, SL_REAL *sheet, const SL_REAL *slice, int64_t y, int64_t phase)
{
    enum { TURN = MM(MM_TURN) };
    const int64_t step = p->step[2], columns = p->columns;
    for (int64_t i = 0; i < p->rows; i++, y += p->step[1], sheet += p->pitch) {
        bool inside = slice && y >= 0 && y < p->in[1];
        const SL_REAL *row = inside ? slice + y * p->in[2] + p->from[2] + phase : NULL;
        for (int64_t j = 0, next; inside && j < columns; j = next) { /* the last columns may overlap those before */
            if (j + TURN > columns) j = columns - TURN;
            MM(mm_turn)(sheet + j, p->sheet, row + j * step, step);
            next = j + TURN;
        }
        if (!inside)
            for (int64_t k = 0; k < MM_LANES; k++) memset(sheet + k * p->sheet, 0, (size_t)columns * sizeof *sheet);
    }
}

static void MM(sl_copy)(const tl_slide_copy *p, void *band, const void *src, int64_t channels)
{
    const int64_t step = p->step[2], sheets = p->phases[2];
    const bool both = step == 2 && sheets == 2, inside = p->from[2] >= 0 && p->from[2] + p->columns * step <= p->in[2];
    const bool turns = !both && step >= MM_LANES && inside && p->columns >= MM(MM_TURN);
    const SL_REAL *x = src;
    SL_REAL *sheet = band;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t z = p->from[0]; z < p->from[0] + p->slices; z++) {
            const SL_REAL *slice = z < 0 || z >= p->in[0] ? NULL : x + (c * p->in[0] + z) * p->in[1] * p->in[2];
            for (int64_t p1 = 0, y = p->from[1]; p1 < p->phases[1]; p1++, y++) {
                MM(sl_clear_tails)(p, sheet, sheets); /* before rows: it may reach into the next sheet */
                for (int64_t p2 = 0, some; p2 < sheets; p2 += some, sheet += some * p->sheet) {
                    bool turn = turns && p2 + MM_LANES <= sheets;
                    some = both ? 2 : turn ? MM_LANES : 1;
                    if (turn) MM(sl_turn_rows)(p, sheet, slice, y, p2);
                    else MM(sl_copy_rows)(p, sheet, slice, y, p2, both);
                }
            }
        }
    MM(sl_clear)(sheet, TL_SLIDE_SLACK);
}

/* ---- weights times the copy ---- */

/* mr rows of A, of nv vectors of positions each; both are constants where it is inlined. */
TL_INLINE void MM(sl_tile)(const int mr, const int nv, const tl_slide_sums *p, const SL_REAL *a, const SL_REAL *band, int64_t channels, SL_REAL *out,
                           bool add)
{
    const int64_t taps = p->taps, *offsets = p->offsets;
    MM(v) acc[MM_PACKED_MR][MM_PACKED_NV], x[MM_PACKED_NV];
    TL_UNROLL for (int i = 0; i < mr; i++) TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(splat)(0);
    for (int64_t c = 0; c < channels; c++, band += p->plane)
        for (int64_t t = 0; t < taps; t++, a += mr) {
            const SL_REAL *from = band + offsets[t];
            TL_UNROLL for (int j = 0; j < nv; j++) x[j] = MM_V(load)(from + j * MM_LANES);
            TL_UNROLL for (int j = 0; j < nv; j++) mm_prefetch(from + p->plane, j * TL_VBYTES);
            TL_UNROLL for (int i = 0; i < mr; i++) {
                MM(v) av = MM_V(splat)(a[i]);
                TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(fma)(av, x[j], acc[i][j]);
            }
        }
    TL_UNROLL for (int i = 0; i < mr; i++)
        TL_UNROLL for (int j = 0; j < nv; j++) {
            SL_REAL *to = out + i * p->ld + j * MM_LANES;
            MM_V(store)(to, add ? MM_V(load)(to) + acc[i][j] : acc[i][j]);
        }
}

TL_INLINE void MM(sl_strip)(const int mr, const tl_slide_sums *p, const SL_REAL *a, const SL_REAL *band, int64_t channels, SL_REAL *out, bool add)
{
    for (int64_t left = ceil_div(p->positions, MM_LANES), nv; left > 0; left -= nv, band += nv * MM_LANES, out += nv * MM_LANES) {
        if (MM_PACKED_NV > 2 && (left > 4 || left == 3)) MM(sl_tile)(mr, nv = MM_PACKED_NV, p, a, band, channels, out, add);
        else if (left > 1) MM(sl_tile)(mr, nv = 2, p, a, band, channels, out, add);
        else MM(sl_tile)(mr, nv = 1, p, a, band, channels, out, add);
    }
}

static void MM(sl_multiply)(const tl_slide_sums *p, int64_t s0, int64_t s1, const void *band, int64_t c0, int64_t channels, void *local)
{
    int64_t strips = ceil_div(p->rows, MM_PACKED_MR), first = s0 * p->rows / strips;
    for (int64_t s = s0; s < s1; s++) {
        int64_t m = s * p->rows / strips, rows = (s + 1) * p->rows / strips - m;
        const SL_REAL *a = (const SL_REAL *)p->a + m * p->depth + c0 * p->taps * rows;
        SL_REAL *out = (SL_REAL *)local + (m - first) * p->ld;
        switch (rows) {
#define SL_CASE(h) case h: MM(sl_strip)(h, p, a, band, channels, out, c0 > 0); break;
            MM_EACH_HEIGHT(SL_CASE)
#undef SL_CASE
        }
    }
}

/* One row of results: out[i] = x[i % fan][i / fan] + bias. */
TL_INLINE void MM(sl_put_row)(SL_REAL *out, const SL_REAL *x, int64_t n, int64_t fan, int64_t apart, SL_REAL bias)
{
    const MM(v) b = MM_V(splat)(bias);
    int64_t i = 0;
    if (fan == 1) {
        for (; i + MM_LANES <= n; i += MM_LANES) MM_V(store)(out + i, MM_V(load)(x + i) + b);
        if (i < n) MM_V(store_part)(out + i, MM_V(load)(x + i) + b, n - i);
    } else if (fan == 2) {
        for (; i < n; i += 2 * MM_LANES) {
            MM(v) even = MM_V(load)(x + i / 2) + b, odd = MM_V(load)(x + apart + i / 2) + b;
            MM(mm_store_upto)(out + i, MM_V(zip_low)(even, odd), (int)least(n - i, MM_LANES));
            MM(mm_store_upto)(out + i + (n - i > MM_LANES ? MM_LANES : 0), MM_V(zip_high)(even, odd), (int)least(n - i - MM_LANES, MM_LANES));
        }
    } else
        for (int64_t f = 0; f < fan; f++)
            for (i = f; i < n; i += fan) out[i] = x[f * apart + i / fan] + bias;
}

static void MM(sl_put)(const tl_slide_put *p, void *out, const void *local, const void *bias, int64_t rows)
{
    for (int64_t m = 0; m < rows; m++)
        for (int64_t i = 0; i < p->lines; i++)
            MM(sl_put_row)((SL_REAL *)out + m * p->out_row + i * p->out_line, (const SL_REAL *)local + m * p->ld + i * p->pitch, p->width, p->fan,
                           p->apart, bias ? ((const SL_REAL *)bias)[m] : 0);
}

/* ---- the weights' gradient ---- */

static void MM(sl_turn)(void *panels, const void *g, int64_t row, int64_t n, int64_t columns)
{
    SL_REAL *dst = panels;
    const SL_REAL *src = g;
    for (int64_t k = 0; k < columns; k += MM_PACKED_NR, src += MM_PACKED_NR * row) {
        int used = (int)least(columns - k, MM_PACKED_NR), width = (int)ceil_div(used, MM_LANES) * MM_LANES;
        MM(mm_pack)(dst, width, used, n, src, row, 1);
        dst += width * n;
    }
}

/* mr rows of the sums, of nv vectors each, from as many places of the copy. */
TL_TEMPLATE void MM(sl_dot_tile)(const int mr, const int nv, const tl_slide_dots *p, const SL_REAL *const *rows, const SL_REAL *g, SL_REAL *out, bool add)
{
    const int64_t width = p->width, pitch = p->pitch, lines = p->lines;
    const SL_REAL *x[MM_PACKED_MR];
    MM(v) acc[MM_PACKED_MR][MM_PACKED_NV], gv[MM_PACKED_NV];
    TL_UNROLL for (int i = 0; i < mr; i++) x[i] = rows[i];
    TL_UNROLL for (int i = 0; i < mr; i++) TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(splat)(0);
    for (int64_t line = 0; line < lines; line++)
        for (int64_t at = line * pitch, end = at + width; at < end; at++, g += nv * MM_LANES) {
            TL_UNROLL for (int j = 0; j < nv; j++) gv[j] = MM_V(load)(g + j * MM_LANES);
            TL_UNROLL for (int j = 0; j < nv; j++) mm_prefetch(g, (MM_AHEAD * nv + j) * TL_VBYTES);
            TL_UNROLL for (int i = 0; i < mr; i++) {
                MM(v) xv = MM_V(splat)(x[i][at]);
                TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = MM_V(fma)(xv, gv[j], acc[i][j]);
            }
        }
    TL_UNROLL for (int i = 0; i < mr; i++)
        TL_UNROLL for (int j = 0; j < nv; j++) {
            SL_REAL *to = out + i * p->ld + j * MM_LANES;
            MM_V(store)(to, add ? MM_V(load)(to) + acc[i][j] : acc[i][j]);
        }
}

TL_TEMPLATE void MM(sl_dot_strip)(const int mr, const tl_slide_dots *p, const SL_REAL *const *rows, const SL_REAL *g, SL_REAL *out, bool add)
{
    int64_t positions = p->lines * p->width;
    for (int64_t left = ceil_div(p->columns, MM_LANES), nv; left > 0; left -= nv, g += nv * MM_LANES * positions, out += nv * MM_LANES) {
        nv = least(left, MM_PACKED_NV);
        if (MM_PACKED_NV > 2 && nv == MM_PACKED_NV) MM(sl_dot_tile)(mr, MM_PACKED_NV, p, rows, g, out, add);
        else if (nv == 2) MM(sl_dot_tile)(mr, 2, p, rows, g, out, add);
        else MM(sl_dot_tile)(mr, 1, p, rows, g, out, add);
    }
}

static void MM(sl_dots)(const tl_slide_dots *p, const void *band, const void *panels, int64_t channels, void *sums, bool add)
{
    const SL_REAL *rows[MM_PACKED_MR], *plane = band;
    int64_t n = channels * p->taps, strips = ceil_div(n, MM_PACKED_MR), t = 0;
    SL_REAL *out = sums;
    for (int64_t s = 0; s < strips; s++) {
        int64_t q = s * n / strips, count = (s + 1) * n / strips - q;
        for (int i = 0; i < count; i++) {
            rows[i] = plane + p->offsets[t];
            if (++t == p->taps) t = 0, plane += p->plane;
        }
        switch (count) {
#define SL_CASE(h) case h: MM(sl_dot_strip)(h, p, rows, panels, out, add); break;
            MM_EACH_HEIGHT(SL_CASE)
#undef SL_CASE
        }
        out += count * p->ld;
    }
}

static void MM(sl_finish)(void *gw, int64_t row, const void *sums, int64_t ld, int64_t n, int64_t columns)
{
    enum { TURN = MM(MM_TURN) };
    SL_REAL *out = gw;
    const SL_REAL *x = sums;
    for (int64_t i = 0; i < n; i += TURN)
        for (int64_t j = 0; j < columns; j += MM_LANES) {
            if (n - i >= TURN && columns - j >= MM_LANES) MM(mm_turn)(out + j * row + i, row, x + i * ld + j, ld);
            else
                for (int64_t k = j; k < least(j + MM_LANES, columns); k++)
                    for (int64_t l = i; l < least(i + TURN, n); l++) out[k * row + l] = x[l * ld + k];
        }
}
#undef MM_LANES
#endif
