/* The kernels of norm.inc.c for one element type, included there with
 *   T, V      the element and a vector of it
 *   VN(name)  vec.h's name for this type;  NN(name)  ours */
#define VLEN ((int64_t)(sizeof(V) / sizeof(T)))

TL_INLINE V NN(get)(const T *p, int64_t n, T fill) { return n >= VLEN ? VN(load)(p) : VN(load_part)(p, n, fill); }
TL_INLINE void NN(put)(T *p, V v, int64_t n)
{
    if (n >= VLEN) VN(store)(p, v);
    else VN(store_part)(p, v, n);
}
/* ---- boxes ---- */

/* The sum of the lanes of ACC vectors, in halves. */
TL_INLINE double NN(lanes)(const V *v)
{
    T s[ACC * VLEN];
    memcpy(s, v, sizeof s);
#pragma GCC unroll 8
    for (int64_t w = ACC * VLEN / 2; w > 0; w /= 2) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < w; i++) s[i] += s[i + w];
    }
    return (double)s[0];
}

/* d = e = x - m, or with g: d = g, e = x - m. The sums of d and of d e over a box: element i of a run joins lane i % (LANE_BYTES / sizeof(T)),
 * and nothing is fused, so that every instruction set gives the same bits. */
TL_INLINE void NN(box_sums)(const T *g, const T *x, tl_norm_box b, int64_t stride, T m, double *sum, double *dot)
{
    V vm = VN(splat)(m), s[ACC], q[ACC];
#pragma GCC unroll 8
    for (int j = 0; j < ACC; j++) s[j] = q[j] = (V){0};
    for (int64_t r = b.r0; r < b.r1; r++) {
        const T *xr = x + r * stride, *gr = g ? g + r * stride : NULL;
        int64_t i = b.c0;
        for (; i + ACC * VLEN <= b.c1; i += ACC * VLEN) {
#pragma GCC unroll 8
            for (int j = 0; j < ACC; j++) {
                V e = VN(load)(xr + i + j * VLEN) - vm, d = g ? VN(load)(gr + i + j * VLEN) : e;
                s[j] += d;
                q[j] += d * e;
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < ACC; j++, i += VLEN) {
            if (i >= b.c1) break;
            V e = NN(get)(xr + i, b.c1 - i, m) - vm, d = g ? NN(get)(gr + i, b.c1 - i, 0) : e;
            s[j] += d;
            q[j] += d * e;
        }
    }
    *sum = NN(lanes)(s);
    *dot = NN(lanes)(q);
}

/* Mean of a box and sum of squared distances from it. Summed around the mean of the box's beginning, or, where that turns out to lie far from the
 * rest, around a better one: so that rounding errors are those of the spread, however far from zero the values lie. */
TL_INLINE void NN(box_moments)(const T *x, tl_norm_box b, int64_t stride, double *mean, double *squares)
{
    int64_t n = b.c1 - b.c0, few = (PILOT + n - 1) / n;
    tl_norm_box pilot = {b.r0, b.r1 - b.r0 < few ? b.r1 : b.r0 + few, b.c0, n < PILOT ? b.c1 : b.c0 + PILOT};
    double sum, dot, count = (double)((b.r1 - b.r0) * n);
    NN(box_sums)(NULL, x, pilot, stride, 0, &sum, &dot);
    T m = (T)(sum / (double)((pilot.r1 - pilot.r0) * (pilot.c1 - pilot.c0)));
    NN(box_sums)(NULL, x, b, stride, m, &sum, &dot);
    if (sum * sum > 0.5 * count * dot) {
        m += (T)(sum / count);
        NN(box_sums)(NULL, x, b, stride, m, &sum, &dot);
    }
    *mean = (double)m + sum / count;
    *squares = dot - sum * sum / count;
}

/* out = (x - m) a + c */
TL_INLINE void NN(box_affine)(T *out, const T *x, tl_norm_box b, int64_t stride, T m, T a, T c)
{
    V vm = VN(splat)(m), va = VN(splat)(a), vc = VN(splat)(c);
    for (int64_t r = b.r0; r < b.r1; r++) {
        const T *xr = x + r * stride;
        T *o = out + r * stride;
        int64_t i = b.c0;
        for (; i + VLEN <= b.c1; i += VLEN) VN(store)(o + i, VN(fma)(VN(load)(xr + i) - vm, va, vc));
        if (i < b.c1) VN(store_part)(o + i, VN(fma)(VN(load_part)(xr + i, b.c1 - i, 0) - vm, va, vc), b.c1 - i);
    }
}
/* gx = g scale + (x - m) slope + level */
TL_INLINE void NN(box_grad)(T *gx, const T *g, const T *x, tl_norm_box b, int64_t stride, T m, T scale, T slope, T level)
{
    V vm = VN(splat)(m), k0 = VN(splat)(scale), k1 = VN(splat)(slope), k2 = VN(splat)(level);
    for (int64_t r = b.r0; r < b.r1; r++) {
        const T *xr = x + r * stride, *gr = g + r * stride;
        T *o = gx + r * stride;
        int64_t i = b.c0, w;
        for (; i + VLEN <= b.c1; i += VLEN)
            VN(store)(o + i, VN(fma)(VN(load)(gr + i), k0, VN(fma)(VN(load)(xr + i) - vm, k1, k2)));
        if ((w = b.c1 - i) > 0)
            VN(store_part)(o + i, VN(fma)(VN(load_part)(gr + i, w, 0), k0, VN(fma)(VN(load_part)(xr + i, w, 0) - vm, k1, k2)), w);
    }
}

/* ---- cells, box by box ---- */

static void NN(moments)(void *arg, int64_t begin, int64_t end)
{
    const tl_norm *p = arg;
    int64_t boxes = tl_norm_boxes(p->rows, p->len);
    for (int64_t i = begin, cell = i / boxes, box = i % boxes; i < end; i++) {
        NN(box_moments)((const T *)p->x + cell * p->step, tl_norm_box_at(p->rows, p->len, box), p->stride, p->parts + 2 * i, p->parts + 2 * i + 1);
        if (++box == boxes) box = 0, cell++;
    }
}

/* A box may reach over several channels of a group. */
TL_INLINE void NN(apply_box)(const tl_norm *p, int64_t cell, tl_norm_box b)
{
    const T *w = p->weight, *bias = p->bias;
    double mean = p->stats[cell], rstd = tl_norm_rstd(p, cell);
    T m = (T)mean;
    int64_t end = b.c1, in_cell = b.c0 / p->span, c = (cell * p->spans + in_cell) % p->channels;
    for (; b.c0 < end; b.c0 = b.c1, c++) {
        b.c1 = ++in_cell * p->span < end ? in_cell * p->span : end;
        double a = w ? rstd * (double)w[c] : rstd, shift = (bias ? (double)bias[c] : 0) + ((double)m - mean) * a;
        NN(box_affine)((T *)p->out + cell * p->step, (const T *)p->x + cell * p->step, b, p->stride, m, (T)a, (T)shift);
    }
}
static void NN(apply)(void *arg, int64_t begin, int64_t end)
{
    const tl_norm *p = arg;
    int64_t boxes = tl_norm_boxes(p->rows, p->len);
    for (int64_t i = begin, cell = i / boxes, box = i % boxes; i < end; i++) {
        NN(apply_box)(p, cell, tl_norm_box_at(p->rows, p->len, box));
        if (++box == boxes) box = 0, cell++;
    }
}

static void NN(grad_sums)(void *arg, int64_t begin, int64_t end)
{
    const tl_norm *p = arg;
    int64_t boxes = tl_norm_boxes(p->rows, p->span);
    for (int64_t i = begin, run = i / boxes, box = i % boxes; i < end; i++) {
        int64_t cell = run / p->spans, at = cell * p->step + run % p->spans * p->span;
        double mean = p->stats[cell], *part = p->parts + 2 * i;
        T m = (T)mean;
        NN(box_sums)((const T *)p->g + at, (const T *)p->x + at, tl_norm_box_at(p->rows, p->span, box), p->stride, m, &part[0], &part[1]);
        part[1] = (part[1] + ((double)m - mean) * part[0]) * tl_norm_rstd(p, cell);
        if (++box == boxes) box = 0, run++;
    }
}

static void NN(grad_apply)(void *arg, int64_t begin, int64_t end)
{
    const tl_norm *p = arg;
    int64_t boxes = tl_norm_boxes(p->rows, p->span);
    for (int64_t i = begin, run = i / boxes, box = i % boxes; i < end; i++) {
        int64_t cell = run / p->spans, at = cell * p->step + run % p->spans * p->span;
        double mean = p->stats[cell], rstd = tl_norm_rstd(p, cell), scale = rstd * (p->weight ? (double)((const T *)p->weight)[run % p->channels] : 1);
        T m = (T)mean, *gx = (T *)p->out + at;
        const T *g = (const T *)p->g + at;
        tl_norm_box b = tl_norm_box_at(p->rows, p->span, box);
        if (p->fixed) {
            NN(box_affine)(gx, g, b, p->stride, 0, (T)scale, 0);
        } else {
            double slope = -rstd * rstd * p->pull[2 * cell + 1], level = -rstd * p->pull[2 * cell] + ((double)m - mean) * slope;
            NN(box_grad)(gx, g, (const T *)p->x + at, b, p->stride, m, (T)scale, (T)slope, (T)level);
        }
        if (++box == boxes) box = 0, run++;
    }
}

/* ---- columns: (rows, width), a vector of columns at a time. Task t: block of rows t / tiles, tile of columns t % tiles ---- */

typedef struct { V sum, dot; } NN(sums);
/* As box_sums, by column: row i joins sum i % 4. */
TL_INLINE NN(sums) NN(column_sums)(const T *g, const T *x, int64_t rows, int64_t step, int64_t w, V m)
{
    V s[4] = {{0}, {0}, {0}, {0}}, q[4] = {{0}, {0}, {0}, {0}};
    for (int64_t r = 0; r < rows; r += 4) {
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++) {
            if (r + j >= rows) break;
            V e = NN(get)(x + (r + j) * step, w, 0) - m, d = g ? NN(get)(g + (r + j) * step, w, 0) : e;
            s[j] += d;
            q[j] += d * e;
        }
    }
    return (NN(sums)){(s[0] + s[1]) + (s[2] + s[3]), (q[0] + q[1]) + (q[2] + q[3])};
}
TL_INLINE void NN(columns)(const tl_norm_columns *p, int64_t begin, int64_t end, bool gradient)
{
    int64_t tiles = (p->width + TL_NORM_TILE - 1) / TL_NORM_TILE;
    for (int64_t t = begin; t < end; t++) {
        int64_t r0 = t / tiles * TL_NORM_ROWS, rows = p->rows - r0 < TL_NORM_ROWS ? p->rows - r0 : TL_NORM_ROWS;
        int64_t c = t % tiles * TL_NORM_TILE, last = p->width - c < TL_NORM_TILE ? p->width : c + TL_NORM_TILE;
        double *part = p->parts + t / tiles * 2 * p->width, count = (double)rows;
        for (; c < last; c += VLEN) {
            int64_t w = last - c < VLEN ? last - c : VLEN;
            const T *x = (const T *)p->x + r0 * p->width + c;
            int64_t few = rows < PILOT_ROWS ? rows : PILOT_ROWS;
            V m = gradient ? NN(get)((const T *)p->m + c, w, 0) : NN(column_sums)(NULL, x, few, p->width, w, (V){0}).sum / (T)few;
            NN(sums) s = NN(column_sums)(gradient ? (const T *)p->g + r0 * p->width + c : NULL, x, rows, p->width, w, m);
            for (int64_t j = 0; j < w; j++) {
                double sum = (double)s.sum[j], dot = (double)s.dot[j];
                part[c + j] = gradient ? sum : (double)m[j] + sum / count;
                part[p->width + c + j] = gradient ? dot : dot - sum * sum / count;
            }
        }
    }
}
static void NN(columns_moments)(void *arg, int64_t begin, int64_t end) { NN(columns)(arg, begin, end, false); }
static void NN(columns_grad_sums)(void *arg, int64_t begin, int64_t end) { NN(columns)(arg, begin, end, true); }

/* Rows [begin, end): out = (x - m) a + c, or with g: g a + (x - m) b + c. */
static void NN(columns_apply)(void *arg, int64_t begin, int64_t end)
{
    const tl_norm_columns *p = arg;
    const T *m = p->m, *a = p->a, *b = p->b, *c = p->c;
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * p->width, *g = p->g ? (const T *)p->g + r * p->width : NULL;
        T *out = (T *)p->out + r * p->width;
        for (int64_t i = 0, w; (w = p->width - i) > 0; i += VLEN) {
            V d = NN(get)(x + i, w, 0) - NN(get)(m + i, w, 0);
            if (!g) NN(put)(out + i, VN(fma)(d, NN(get)(a + i, w, 0), NN(get)(c + i, w, 0)), w);
            else NN(put)(out + i, VN(fma)(NN(get)(g + i, w, 0), NN(get)(a + i, w, 0), VN(fma)(d, NN(get)(b + i, w, 0), NN(get)(c + i, w, 0))), w);
        }
    }
}

#undef T
#undef V
#undef VN
#undef NN
#undef VLEN
