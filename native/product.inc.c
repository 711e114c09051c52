/* Convolution as products whose right operand is never written down: panels are packed straight from the images. Driven by product.c; what
 * each kernel takes is said in kernels.h. The micro-kernels and the order of sums are matmul.inc.c's: over (channel, tap), taps fastest, in
 * blocks of TL_MM_KC; a weight's gradient over (image, pixel) in blocks that the driver cuts from shapes.
 *
 * The file includes itself once per type. */
#ifndef CV_REAL

/* ---- the view ---- */
/* Columns of a view that lie side by side in one line of its lattice: `len` of them from pixel p of `image` on, as columns `at` ... */
typedef struct { int64_t at, len, image, p[3]; } cv_run;

/* The runs that make columns [j0, j0 + count), at most TL_CONV_COLUMNS of them. */
static int cv_runs(const tl_conv_view *v, int64_t j0, int64_t count, cv_run *runs)
{
    int64_t image = j0 / v->area, rest = j0 % v->area;
    int64_t p2 = rest % v->size[2], p1 = rest / v->size[2] % v->size[1], p0 = rest / v->size[2] / v->size[1];
    int n = 0;
    for (int64_t at = 0; at < count; n++) {
        int64_t len = v->size[2] - p2 < count - at ? v->size[2] - p2 : count - at;
        runs[n] = (cv_run){at, len, image, {p0, p1, p2}};
        at += len;
        p2 = 0;
        if (++p1 == v->size[1]) {
            p1 = 0;
            if (++p0 == v->size[0]) p0 = 0, image++;
        }
    }
    return n;
}

typedef struct { int64_t from; int32_t at, len; } cv_piece;

/* Those parts of the runs that tap t sees inside the image, as offsets from the channel. *whole: nothing is outside. */
static int cv_clip(const tl_conv_view *v, int64_t t, const cv_run *runs, int n, cv_piece *pieces, bool *whole)
{
    const int64_t *off = v->off[t], step = v->step[2];
    int found = 0;
    *whole = true;
    for (int i = 0; i < n; i++) {
        const cv_run *r = &runs[i];
        int64_t y0 = r->p[0] * v->step[0] + off[0], y1 = r->p[1] * v->step[1] + off[1], y2 = r->p[2] * step + off[2];
        bool outside = y0 < 0 || y0 >= v->in[0] || y1 < 0 || y1 >= v->in[1];
        int64_t first = y2 >= 0 ? 0 : (step - 1 - y2) / step, end = y2 >= v->in[2] ? 0 : (v->in[2] - 1 - y2) / step + 1;
        if (end > r->len) end = r->len;
        if (outside || first >= end) {
            *whole = false;
            continue;
        }
        if (first > 0 || end < r->len) *whole = false;
        int64_t from = r->image * v->image + (y0 * v->in[1] + y1) * v->in[2] + y2 + first * step;
        pieces[found++] = (cv_piece){from, (int32_t)(r->at + first), (int32_t)(end - first)};
    }
    return found;
}

#undef MM /* matmul.inc.c's */
#undef MM_V
#define CV_REAL float
#define MM(x) x##_f32
#define MM_V(x) vf_##x
#include "product.inc.c"
#undef CV_REAL
#undef MM
#undef MM_V
#define CV_REAL double
#define MM(x) x##_f64
#define MM_V(x) vd_##x
#include "product.inc.c"

const tl_product_kernels TL_NAME(product_kernels) = {
    .pack = {cv_pack_f32, cv_pack_f64},
    .multiply = {cv_multiply_f32, cv_multiply_f64},
    .correlate = {cv_correlate_f32, cv_correlate_f64},
    .add = {cv_add_f32, cv_add_f64},
};

#else /* ---- once per type ---- */
#define MM_LANES (TL_VBYTES / (int)sizeof(CV_REAL))

TL_INLINE void MM(cv_copy)(CV_REAL *dst, const CV_REAL *src, int64_t n, int64_t step)
{
    if (step != 1) {
        for (int64_t i = 0; i < n; i++) dst[i] = src[i * step];
        return;
    }
    int64_t i = 0;
    for (; i + MM_LANES <= n; i += MM_LANES) MM_V(store)(dst + i, MM_V(load)(src + i));
    if (i < n) MM_V(store_part)(dst + i, MM_V(load_part)(src + i, n - i, 0), n - i);
}

/* Rows [q0, q1) of the view, of the columns that `runs` names: dst[(q - q0) * ld + column]. What is outside is zero, and from the last column
 * to `width`, whole vectors. */
static void MM(cv_rows)(const tl_conv_view *v, const cv_run *runs, int n, int64_t q0, int64_t q1, CV_REAL *dst, int64_t width, int64_t ld)
{
    cv_piece pieces[TL_CONV_COLUMNS];
    bool whole, full = runs[n - 1].at + runs[n - 1].len == width;
    for (int64_t t = 0; t < v->taps; t++) {
        int64_t channel = (q0 - t + v->taps - 1) / v->taps;
        if (channel * v->taps + t >= q1) continue;
        int count = cv_clip(v, t, runs, n, pieces, &whole);
        const CV_REAL *src = (const CV_REAL *)v->src + channel * v->plane;
        for (int64_t q = channel * v->taps + t; q < q1; q += v->taps, src += v->plane) {
            CV_REAL *row = dst + (q - q0) * ld;
            if (!whole || !full)
                for (int64_t j = 0; j < width; j += MM_LANES) MM_V(store)(row + j, MM_V(splat)(0));
            for (int i = 0; i < count; i++) MM(cv_copy)(row + pieces[i].at, src + pieces[i].from, pieces[i].len, v->step[2]);
        }
    }
}

/* ---- out = A times the view ---- */
static void MM(cv_pack)(const tl_conv_weights *p, void *out, int64_t begin, int64_t end)
{
    int64_t depth = p->channels * p->taps;
    for (int64_t panel = begin; panel < end; panel++) {
        CV_REAL *dst = (CV_REAL *)out + panel * MM_MR * depth;
        const CV_REAL *a = (const CV_REAL *)p->a + panel * MM_MR * p->row_step;
        int used = p->rows - panel * MM_MR < MM_MR ? (int)(p->rows - panel * MM_MR) : MM_MR;
        if (p->channel_step == p->taps && p->at[p->taps - 1] == p->taps - 1 && p->row_step != 1) { /* (channel, tap) lie side by side */
            MM(mm_pack)(dst, MM_MR, used, depth, a, p->row_step, 1);
            continue;
        }
        if (used < MM_MR) memset(dst, 0, (size_t)(MM_MR * depth) * sizeof *dst);
        for (int64_t channel = 0; channel < p->channels; channel++, a += p->channel_step, dst += MM_MR * p->taps)
            for (int i = 0; i < used; i++)
                for (int64_t t = 0; t < p->taps; t++) dst[t * MM_MR + i] = a[i * p->row_step + p->at[t]];
    }
}

/* Columns gathered in `local` (rows of `width`) to their places in out. */
static void MM(cv_scatter)(const tl_conv_multiply *p, int64_t m0, int64_t m1, const cv_run *runs, int n, const CV_REAL *local, int64_t width)
{
    int64_t step = p->place.step[2];
    for (int64_t m = m0; m < m1; m++, local += width)
        for (int i = 0; i < n; i++) {
            const cv_run *r = &runs[i];
            const CV_REAL *src = local + r->at;
            CV_REAL *out = (CV_REAL *)p->out + r->image * p->place.image + m * p->place.plane + p->place.at + r->p[0] * p->place.step[0] +
                           r->p[1] * p->place.step[1] + r->p[2] * step;
            if (step == 1) MM(cv_copy)(out, src, r->len, 1);
            else
                for (int64_t j = 0; j < r->len; j++) out[j * step] = src[j];
        }
}

static void MM(cv_multiply)(const tl_conv_multiply *p, int64_t m0, int64_t m1, int64_t j0, int64_t j1, void *work)
{
    const tl_conv_view *v = &p->view;
    int64_t columns = j1 - j0, wide = (columns + MM_NR - 1) / MM_NR * MM_NR, ld = p->flat ? p->place.plane : wide;
    CV_REAL *panels = work, *local = panels + TL_MM_KC * wide, *out = local;
    cv_run runs[TL_CONV_COLUMNS];
    if (p->flat) out = (CV_REAL *)p->out + j0 / v->area * p->place.image + m0 * ld + j0 % v->area;
    for (int64_t k0 = 0, kc; k0 < p->depth; k0 += TL_MM_KC) {
        kc = p->depth - k0 < TL_MM_KC ? p->depth - k0 : TL_MM_KC;
        for (int64_t j = 0; j < columns; j += MM_NR) {
            int n = cv_runs(v, j0 + j, columns - j < MM_NR ? columns - j : MM_NR, runs);
            MM(cv_rows)(v, runs, n, k0, k0 + kc, panels + j * kc, MM_NR, MM_NR);
        }
        for (int64_t m = m0; m < m1; m += MM_MR) {
            const CV_REAL *a = (const CV_REAL *)p->a + m * p->depth + k0 * MM_MR;
            int64_t rows = m1 - m < MM_MR ? m1 - m : MM_MR;
            CV_REAL *c = out + (m - m0) * ld;
            for (int64_t j = 0; j < columns; j += MM_NR) {
                MM(mm_join) join = {c + j, ld, NULL, columns - j < MM_NR ? (int)(columns - j) : MM_NR, k0 > 0};
                if (rows == MM_MR) MM(mm_tile)(MM_MR, 2, kc, a, 1, MM_MR, panels + j * kc, MM_NR, &join);
                else MM(mm_rows)(2, rows, kc, a, 1, MM_MR, panels + j * kc, MM_NR, &join);
            }
            if (p->bias && k0 + kc == p->depth)
                for (int64_t i = 0; i < rows; i++) {
                    CV_REAL bias = ((const CV_REAL *)p->bias)[m + i];
                    for (int64_t j = 0; j < columns; j++) c[i * ld + j] += bias;
                }
        }
    }
    if (p->flat) return;
    int n = cv_runs(v, j0, columns, runs);
    MM(cv_scatter)(p, m0, m1, runs, n, local, wide);
}

/* ---- out = G times the view's transpose ---- */
static void MM(cv_correlate)(const tl_conv_correlate *p, int64_t c0, int64_t c1, int64_t b0, int64_t b1, void *out, int64_t ld, void *work)
{
    const tl_conv_view *v = &p->view;
    cv_run runs[TL_CONV_COLUMNS];
    CV_REAL rows[MM_MR * TL_MM_KC] __attribute__((aligned(64))), *turn = work, *panels = turn + MM_NR * TL_MM_KC;
    for (int64_t b = b0; b < b1; b++) {
        int64_t j0 = b * p->block, kc = p->columns - j0 < p->block ? p->columns - j0 : p->block;
        int n = cv_runs(v, j0, kc, runs);
        for (int64_t c = c0; c < c1; c += MM_NR) {
            int used = c1 - c < MM_NR ? (int)(c1 - c) : MM_NR;
            MM(cv_rows)(v, runs, n, c, c + used, turn, kc, TL_MM_KC);
            MM(mm_pack)(panels + (c - c0) * kc, MM_NR, used, kc, turn, TL_MM_KC, 1);
        }
        for (int64_t m = 0; m < p->rows; m += MM_MR) {
            int64_t used = p->rows - m < MM_MR ? p->rows - m : MM_MR;
            for (int64_t j = j0; j < j0 + kc;) { /* image by image */
                int64_t at = j % v->area, len = v->area - at < j0 + kc - j ? v->area - at : j0 + kc - j;
                const CV_REAL *g = (const CV_REAL *)p->g + j / v->area * p->image + m * v->area + at;
                for (int64_t i = 0; i < used; i++) MM(cv_copy)(rows + i * TL_MM_KC + j - j0, g + i * v->area, len, 1);
                j += len;
            }
            for (int64_t c = c0; c < c1; c += MM_NR) {
                MM(mm_join) join = {(CV_REAL *)out + m * ld + c, ld, NULL, c1 - c < MM_NR ? (int)(c1 - c) : MM_NR, b > b0};
                const CV_REAL *panel = panels + (c - c0) * kc;
                if (used == MM_MR) MM(mm_tile)(MM_MR, 2, kc, rows, TL_MM_KC, 1, panel, MM_NR, &join);
                else MM(mm_rows)(2, used, kc, rows, TL_MM_KC, 1, panel, MM_NR, &join);
            }
        }
    }
}

static void MM(cv_add)(void *out, const void *x, int64_t n)
{
    CV_REAL *o = out;
    for (int64_t i = 0; i < n; i++) o[i] += ((const CV_REAL *)x)[i];
}
#undef MM_LANES
#endif
