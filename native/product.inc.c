/* Convolution as products whose right operand is never written down: panels are packed straight from the images. Driven by product.c; what
 * each kernel takes is said in kernels.h. The micro-kernels and the order of sums are matmul.inc.c's: over (channel, tap), taps fastest, in
 * blocks of tl_mm_block; a weight's gradient over (image, pixel) in blocks that the driver cuts from shapes.
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

/* Whether a row of the view is a channel, as it lies. */
static bool cv_straight(const tl_conv_view *v)
{
    return v->taps == 1 && v->area == v->plane && v->size[2] == v->area && v->step[2] == 1 && v->off[0][2] == 0;
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

/* Every other lane of two vectors. */
#if TL_VBYTES == 64
#define CV_EVEN_f64 0, 2, 4, 6, 8, 10, 12, 14
#define CV_EVEN_f32 CV_EVEN_f64, 16, 18, 20, 22, 24, 26, 28, 30
#elif TL_VBYTES == 32
#define CV_EVEN_f64 0, 2, 4, 6
#define CV_EVEN_f32 CV_EVEN_f64, 8, 10, 12, 14
#else
#define CV_EVEN_f64 0, 2
#define CV_EVEN_f32 CV_EVEN_f64, 4, 6
#endif

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
    int64_t i = 0;
    if (step == 2)
        for (; i < n; i += MM_LANES) {
            int left = (int)least(n - i, MM_LANES), seen = 2 * left - 1;
            MM(v) low = MM(mm_load_upto)(src + 2 * i, seen), high = MM(mm_load_upto)(src + 2 * i + (seen > MM_LANES ? MM_LANES : 0), seen - MM_LANES);
            MM(mm_store_upto)(dst + i, __builtin_shufflevector(low, high, MM(CV_EVEN)), left);
        }
    if (step != 1) {
        for (; i < n; i++) dst[i] = src[i * step];
        return;
    }
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
/* Strips of rows as even as can be, of at most MM_PACKED_MR; in each, for each (channel, tap), its rows side by side. */
static void MM(cv_pack)(const tl_conv_weights *p, void *out, int64_t begin, int64_t end)
{
    int64_t depth = p->channels * p->taps, strips = ceil_div(p->rows, MM_PACKED_MR);
    bool straight = p->channel_step == p->taps && p->at[p->taps - 1] == p->taps - 1; /* (channel, tap) lie side by side */
    for (int64_t s = begin; s < end; s++) {
        int64_t m = s * p->rows / strips, rows = (s + 1) * p->rows / strips - m;
        CV_REAL *dst = (CV_REAL *)out + m * depth;
        const CV_REAL *a = (const CV_REAL *)p->a + m * p->row_step;
        if (straight) {
            MM(mm_pack)(dst, (int)rows, (int)rows, depth, a, p->row_step, 1);
            continue;
        }
        for (int64_t channel = 0; channel < p->channels; channel++, a += p->channel_step, dst += rows * p->taps)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t t = 0; t < p->taps; t++) dst[t * rows + i] = a[i * p->row_step + p->at[t]];
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

static void MM(cv_multiply)(const tl_conv_multiply *p, int64_t s0, int64_t s1, int64_t j0, int64_t j1, void *work)
{
    const tl_conv_view *v = &p->view;
    int64_t columns = j1 - j0, wide = ceil_div(columns, MM_PACKED_NR) * MM_PACKED_NR, ld = p->flat ? p->place.plane : wide;
    int64_t strips = ceil_div(p->rows, MM_PACKED_MR), first = s0 * p->rows / strips, step = tl_mm_block(p->depth);
    CV_REAL *panels = work, *local = panels + step * wide, *out = local;
    cv_run runs[TL_CONV_COLUMNS];
    if (p->flat) out = (CV_REAL *)p->out + j0 / v->area * p->place.image + first * ld + j0 % v->area;
    for (int64_t k0 = 0, kc; k0 < p->depth; k0 += kc) {
        kc = least(step, p->depth - k0);
        if (p->flat && cv_straight(v)) /* one line: as it is in memory, several panels at a time */
            MM(mm_pack_columns)(panels, (const CV_REAL *)v->src + j0 / v->area * v->image + k0 * v->plane + j0 % v->area, columns, kc, 1, v->plane);
        else for (int64_t j = 0; j < columns; j += MM_PACKED_NR) {
            int n = cv_runs(v, j0 + j, least(columns - j, MM_PACKED_NR), runs);
            MM(cv_rows)(v, runs, n, k0, k0 + kc, panels + j * kc, MM_PACKED_NR, MM_PACKED_NR);
        }
        for (int64_t s = s0; s < s1; s++) {
            int64_t m = s * p->rows / strips, rows = (s + 1) * p->rows / strips - m;
            const CV_REAL *a = (const CV_REAL *)p->a + m * p->depth + k0 * rows;
            CV_REAL *c = out + (m - first) * ld;
            MM(mm_join) join = {c, ld, 0, k0 > 0};
            mm_fetch fetch = {(const char *)((uintptr_t)a + (uintptr_t)(rows * p->depth) * sizeof *a), INT64_MAX, 0, 0}; /* the next strip */
            MM(mm_any_strip)((int)rows, false, kc, a, panels, &join, columns, &fetch);
            if (p->bias && k0 + kc == p->depth)
                for (int64_t i = 0; i < rows; i++) {
                    CV_REAL bias = ((const CV_REAL *)p->bias)[m + i];
                    for (int64_t j = 0; j < columns; j++) c[i * ld + j] += bias;
                }
        }
    }
    if (p->flat) return;
    int n = cv_runs(v, j0, columns, runs);
    MM(cv_scatter)(p, first, s1 * p->rows / strips, runs, n, local, wide);
}

/* ---- out = G times the view's transpose ---- */
/* `rows` rows of G from m on, columns [j0, j0 + kc), MM_ROW apart. */
static void MM(cv_strip)(const tl_conv_correlate *p, int64_t m, int64_t rows, int64_t j0, int64_t kc, CV_REAL *strip)
{
    int64_t area = p->view.area;
    for (int64_t j = j0, len; j < j0 + kc; j += len) { /* image by image */
        int64_t at = j % area;
        len = least(area - at, j0 + kc - j);
        const CV_REAL *g = (const CV_REAL *)p->g + j / area * p->image + m * area + at;
        for (int64_t i = 0; i < rows; i++) MM(cv_copy)(strip + i * MM_ROW + j - j0, g + i * area, len, 1);
    }
}

static void MM(cv_correlate)(const tl_conv_correlate *p, int64_t c0, int64_t c1, int64_t b0, int64_t b1, void *out, int64_t ld, void *work)
{
    const tl_conv_view *v = &p->view;
    const bool straight = cv_straight(v);
    int64_t strips = ceil_div(p->rows, MM_PACKED_MR);
    cv_run runs[TL_CONV_COLUMNS];
    CV_REAL kept[MM_PACKED_MR * MM_ROW] __attribute__((aligned(64))), turned[MM_PACKED_MR * TL_MM_KC] __attribute__((aligned(64)));
    CV_REAL *view = work, *panels = view + MM_PACKED_NR * TL_MM_KC;
    for (int64_t b = b0; b < b1; b++) {
        int64_t j0 = b * p->block, kc = least(p->columns - j0, p->block);
        int n = cv_runs(v, j0, kc, runs);
        for (int64_t c = c0; c < c1; c += MM_PACKED_NR) {
            int used = (int)least(c1 - c, MM_PACKED_NR);
            if (straight) {
                for (int i = 0; i < n; i++)
                    MM(mm_pack)(panels + (c - c0) * kc + runs[i].at * MM_PACKED_NR, MM_PACKED_NR, used, runs[i].len,
                                (const CV_REAL *)v->src + runs[i].image * v->image + c * v->plane + runs[i].p[2], v->plane, 1);
                continue;
            }
            MM(cv_rows)(v, runs, n, c, c + used, view, kc, TL_MM_KC);
            MM(mm_pack)(panels + (c - c0) * kc, MM_PACKED_NR, used, kc, view, TL_MM_KC, 1);
        }
        for (int64_t s = 0; s < strips; s++) {
            int64_t m = s * p->rows / strips, rows = (s + 1) * p->rows / strips - m;
            bool keeps_rows = rows >= MM_PACKED_MR - 1;
            MM(cv_strip)(p, m, rows, j0, kc, kept);
            if (!keeps_rows) MM(mm_pack)(turned, (int)rows, (int)rows, kc, kept, MM_ROW, 1);
            MM(mm_join) join = {(CV_REAL *)out + m * ld + c0, ld, 0, b > b0};
            const uintptr_t next = (uintptr_t)p->g + (uintptr_t)(j0 / v->area * p->image + (m + rows) * v->area + j0 % v->area) * sizeof *kept;
            mm_fetch fetch = MM(mm_fetch_strip)((const CV_REAL *)next, rows, kc, v->area, 1);
            MM(mm_any_strip)((int)rows, keeps_rows, kc, keeps_rows ? kept : turned, panels, &join, c1 - c0, &fetch);
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
