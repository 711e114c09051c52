/* Pooling for one element type, included by pool.inc.c with
 *   T, V        the element and a vector of it;  I, VI  signed integers of the same width
 *   VN(name)    vec.h's name for this type;  PN(name)  ours, for type and instruction set
 *
 * Two ways for each operation: `each` takes window by window, whatever its shape; `rows` takes a row of equally spaced windows at once. There
 * an image row is split by place modulo the stride, so that one tap of neighbouring windows is a vector. */
#define VLEN ((int64_t)(sizeof(V) / sizeof(T)))

TL_INLINE V PN(get)(const T *p, int64_t n, T fill) { return n >= VLEN ? VN(load)(p) : VN(load_part)(p, n, fill); }
TL_INLINE void PN(put)(T *p, V v, int64_t n)
{
    if (n >= VLEN) VN(store)(p, v);
    else VN(store_part)(p, v, n);
}

/* ---- the largest of two, with its code ---- */

TL_INLINE void PN(join)(V *best, VI *code, V v, VI k)
{
    VI better = (v > *best) | (v != v);
    *best = v_select(better, v, *best);
    *code = v_select(better, k, *code);
}
typedef uint8_t PN(bytes) __attribute__((vector_size(sizeof(V) / sizeof(T))));
TL_INLINE void PN(put_codes)(uint8_t *where, VI code, int64_t n)
{
    PN(bytes) b = __builtin_convertvector(code, PN(bytes));
    if (n >= VLEN) memcpy(where, &b, sizeof b);
    else tl_copy_small(where, &b, (size_t)n);
}

/* ---- a row, split ---- */

/* out[phase * part + j] = in[stride * j + part], for all of the piece's length. */
TL_INLINE void PN(split)(T *out, const T *in, const pool_piece *b, int64_t stride)
{
    int64_t n = b->length;
    if (stride == 2) {
        for (int64_t i = 0; i < n; i += 2 * VLEN) {
            V low = PN(get)(in + i, n - i, 0), high = n - i > VLEN ? PN(get)(in + i + VLEN, n - i - VLEN, 0) : VN(splat)(0);
            int64_t left = (n - i + 1) / 2;
            PN(put)(out + i / 2, VN(even)(low, high), left);
            if (n - i > 1) PN(put)(out + b->phase + i / 2, VN(odd)(low, high), (n - i) / 2);
        }
        return;
    }
    for (int64_t part = 0; part < stride; part++)
        for (int64_t j = 0, i = part; i < n; i += stride, j++) out[part * b->phase + j] = in[i];
}
/* The piece of an image row of n elements, `fill` beyond its ends, split. The result lies in `split`, or where the row itself does. */
TL_INLINE const T *PN(piece)(const T *row, int64_t n, const pool_piece *b, int64_t stride, T fill, T *whole, T *split)
{
    const T *in = whole;
    if (b->at >= 0 && b->at + b->length <= n) {
        in = row + b->at;
    } else {
        int64_t from = b->at < 0 ? -b->at : 0, to = n - b->at < b->length ? n - b->at : b->length;
        for (int64_t i = 0; i < from; i++) whole[i] = fill;
        for (int64_t i = from; i < to; i++) whole[i] = row[b->at + i];
        for (int64_t i = to; i < b->length; i++) whole[i] = fill;
    }
    if (stride == 1) return in;
    PN(split)(split, in, b, stride);
    return split;
}

/* ---- max ---- */

static void PN(put_code)(const tl_pool_task *p, int64_t i, int64_t code)
{
    if (p->wide) ((int32_t *)p->where)[i] = (int32_t)code;
    else ((uint8_t *)p->where)[i] = (uint8_t)code;
}
static void PN(max_each)(const tl_pool_task *p, const T *x, int64_t i)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    T *out = p->out;
    for (int64_t od = 0; od < D->out; od++)
        for (int64_t oh = 0; oh < H->out; oh++) {
            pool_span d = TL_NAME(pool_span_of)(D, od), h = TL_NAME(pool_span_of)(H, oh);
            for (int64_t ow = 0; ow < W->out; ow++, i++) {
                pool_span w = TL_NAME(pool_span_of)(W, ow);
                T best = -(T)INFINITY;
                int64_t code = (d.from * H->ker + h.from) * W->ker + w.from;
                for (int64_t kd = d.from; kd < d.to; kd++)
                    for (int64_t kh = h.from; kh < h.to; kh++) {
                        const T *row = x + ((d.start + kd * D->dil) * H->n + h.start + kh * H->dil) * W->n + w.start;
                        for (int64_t kw = w.from; kw < w.to; kw++) {
                            T v = row[kw * W->dil];
                            if (v > best || v != v) best = v, code = (kd * H->ker + kh) * W->ker + kw;
                        }
                    }
                out[i] = best;
                PN(put_code)(p, i, code);
            }
        }
}

/* One image row, split, joins the piece's windows. */
TL_INLINE void PN(max_row)(T *best, I *code, const T *row, const int32_t *tap, int64_t taps, int64_t first_code, int64_t n)
{
    for (int64_t i = 0; i < n; i += VLEN) {
        V b = VN(load)(best + i);
        VI c;
        memcpy(&c, code + i, sizeof c);
        for (int64_t k = 0; k < taps; k++)
            PN(join)(&b, &c, PN(get)(row + tap[k] + i, n - i, -(T)INFINITY), (I)(first_code + k) - (VI){0});
        VN(store)(best + i, b);
        memcpy(code + i, &c, sizeof c);
    }
}
static void PN(max_rows)(const tl_pool_task *p, const T *x, int64_t at)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    T whole[POOL_ROW], split[POOL_ROW + POOL_ROW / 2], best[POOL_BLOCK + VLEN];
    I first[POOL_BLOCK + VLEN], code[POOL_BLOCK + VLEN];
    int32_t tap[POOL_ROW];
    for (int64_t start = 0; start < W->out;) {
        pool_piece b = TL_NAME(pool_piece_at)(W, start);
        TL_NAME(pool_taps)(W, &b, tap);
        int64_t padded = (b.n + VLEN - 1) / VLEN * VLEN;
        for (int64_t i = 0; i < padded; i++) first[i] = (I)TL_NAME(pool_span_of)(W, start + i).from;
        for (int64_t od = 0; od < D->out; od++)
            for (int64_t oh = 0; oh < H->out; oh++) {
                pool_span d = TL_NAME(pool_span_of)(D, od), h = TL_NAME(pool_span_of)(H, oh);
                I lead = (I)((d.from * H->ker + h.from) * W->ker);
                for (int64_t i = 0; i < padded; i++) best[i] = -(T)INFINITY, code[i] = lead + first[i];
                for (int64_t kd = d.from; kd < d.to; kd++)
                    for (int64_t kh = h.from; kh < h.to; kh++) {
                        const T *row = x + ((d.start + kd * D->dil) * H->n + h.start + kh * H->dil) * W->n;
                        row = PN(piece)(row, W->n, &b, W->stride, -(T)INFINITY, whole, split);
                        PN(max_row)(best, code, row, tap, W->ker, (kd * H->ker + kh) * W->ker, b.n);
                    }
                int64_t to = at + (od * H->out + oh) * W->out + start;
                memcpy((T *)p->out + to, best, (size_t)b.n * sizeof(T));
                for (int64_t i = 0; i < b.n; i++) PN(put_code)(p, to + i, code[i]);
            }
        start += b.n;
    }
}

/* 2x2 windows side by side in two dimensions: straight from the two rows. */
static bool PN(is_quarter)(const tl_pool_task *p)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    return D->ker == 1 && D->stride == 1 && D->pad == 0 && H->ker == 2 && H->stride == 2 && H->pad == 0 && H->dil == 1 && W->ker == 2 &&
           W->stride == 2 && W->pad == 0 && W->dil == 1 && 2 * H->out <= H->n && 2 * W->out <= W->n;
}
TL_INLINE void PN(pairs)(const T *p, int64_t n, V *even, V *odd)
{
    V low = PN(get)(p, n, 0), high = n > VLEN ? PN(get)(p + VLEN, n - VLEN, 0) : VN(splat)(0);
    *even = VN(even)(low, high);
    *odd = VN(odd)(low, high);
}
static void PN(max_quarter)(const tl_pool_task *p, const T *x, int64_t at)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    T *out = (T *)p->out + at;
    uint8_t *where = (uint8_t *)p->where + at;
    for (int64_t d = 0; d < D->out; d++, x += H->n * W->n)
        for (int64_t h = 0; h < H->out; h++, out += W->out, where += W->out) {
            const T *row = x + 2 * h * W->n;
            for (int64_t i = 0; i < W->out; i += VLEN) {
                V v[4];
                PN(pairs)(row + 2 * i, 2 * (W->out - i), &v[0], &v[1]);
                PN(pairs)(row + W->n + 2 * i, 2 * (W->out - i), &v[2], &v[3]);
                VI code = {0};
                for (int k = 1; k < 4; k++) PN(join)(&v[0], &code, v[k], k - (VI){0});
                PN(put)(out + i, v[0], W->out - i);
                PN(put_codes)(where + i, code, W->out - i);
            }
        }
}
static void PN(max)(void *arg, int64_t begin, int64_t end)
{
    const tl_pool_task *p = arg;
    int64_t elements = TL_NAME(pool_volume)(p->d, false), windows = TL_NAME(pool_volume)(p->d, true);
    bool quarter = PN(is_quarter)(p), rows = p->d[2].stride && TL_NAME(pool_by_rows)(&p->d[2]);
    for (int64_t i = begin; i < end; i++) {
        const T *x = (const T *)p->x + i * elements;
        if (quarter) PN(max_quarter)(p, x, i * windows);
        else if (rows) PN(max_rows)(p, x, i * windows);
        else PN(max_each)(p, x, i * windows);
    }
}

/* ---- its gradient: each window's goes to the element it came from ---- */

static void PN(max_grad_quarter)(const tl_pool_task *p, T *gx, int64_t at)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    const T *g = (const T *)p->x + at;
    const uint8_t *where = (const uint8_t *)p->where + at;
    for (int64_t d = 0; d < D->out; d++, gx += H->n * W->n) {
        for (int64_t h = 0; h < H->out; h++, g += W->out, where += W->out) {
            for (int line = 0; line < 2; line++) {
                T *row = gx + (2 * h + line) * W->n;
                for (int64_t i = 0; i < W->out; i += VLEN) {
                    int64_t n = W->out - i;
                    PN(bytes) b = {0};
                    if (n >= VLEN) memcpy(&b, where + i, sizeof b);
                    else tl_copy_small(&b, where + i, (size_t)n);
                    VI code = __builtin_convertvector(b, VI);
                    V v = PN(get)(g + i, n, 0), even = v_and(code == 2 * line, v), odd = v_and(code == 2 * line + 1, v);
                    PN(put)(row + 2 * i, VN(zip_low)(even, odd), 2 * n);
                    if (2 * n > VLEN) PN(put)(row + 2 * i + VLEN, VN(zip_high)(even, odd), 2 * n - VLEN);
                }
                for (int64_t i = 2 * W->out; i < W->n; i++) row[i] = 0;
            }
        }
        memset(gx + 2 * H->out * W->n, 0, (size_t)((H->n - 2 * H->out) * W->n) * sizeof(T));
    }
}
/* From a window's start to the element of a code. */
TL_INLINE int64_t PN(offset_of)(const tl_pool_task *p, int64_t code)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    int64_t kw = code % W->ker, kh = code / W->ker % H->ker, kd = code / W->ker / H->ker;
    return (kd * D->dil * H->n + kh * H->dil) * W->n + kw * W->dil;
}
static void PN(max_grad_each)(const tl_pool_task *p, T *gx, int64_t i)
{
    enum { SHORT = 256 };
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    int64_t taps = D->ker * H->ker * W->ker, offset[SHORT];
    for (int64_t k = 0; k < taps && !p->wide; k++) offset[k] = PN(offset_of)(p, k);
    const T *g = p->x;
    for (int64_t od = 0; od < D->out; od++)
        for (int64_t oh = 0; oh < H->out; oh++) {
            int64_t line = (TL_NAME(pool_span_of)(D, od).start * H->n + TL_NAME(pool_span_of)(H, oh).start) * W->n;
            for (int64_t ow = 0; ow < W->out; ow++, i++) {
                int64_t start = line + (W->stride ? ow * W->stride - W->pad : TL_NAME(pool_span_of)(W, ow).start);
                if (p->wide) gx[start + PN(offset_of)(p, ((const int32_t *)p->where)[i])] += g[i];
                else gx[start + offset[((const uint8_t *)p->where)[i]]] += g[i];
            }
        }
}
static void PN(max_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_pool_task *p = arg;
    int64_t elements = TL_NAME(pool_volume)(p->d, false), windows = TL_NAME(pool_volume)(p->d, true);
    bool quarter = PN(is_quarter)(p);
    for (int64_t i = begin; i < end; i++) {
        T *gx = (T *)p->out + i * elements;
        if (quarter) {
            PN(max_grad_quarter)(p, gx, i * windows);
        } else {
            memset(gx, 0, (size_t)elements * sizeof(T));
            PN(max_grad_each)(p, gx, i * windows);
        }
    }
}

/* ---- average ---- */

TL_INLINE T PN(divisor)(const tl_pool_task *p, int64_t od, int64_t oh, int64_t share_w)
{
    if (p->divisor != 0) return (T)p->divisor;
    return (T)(TL_NAME(pool_share)(p, &p->d[0], od) * TL_NAME(pool_share)(p, &p->d[1], oh) * share_w);
}
static void PN(average_each)(const tl_pool_task *p, const T *x, int64_t i)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    T *out = p->out;
    for (int64_t od = 0; od < D->out; od++)
        for (int64_t oh = 0; oh < H->out; oh++) {
            pool_span d = TL_NAME(pool_span_of)(D, od), h = TL_NAME(pool_span_of)(H, oh);
            for (int64_t ow = 0; ow < W->out; ow++, i++) {
                pool_span w = TL_NAME(pool_span_of)(W, ow);
                double sum = 0;
                for (int64_t kd = d.from; kd < d.to; kd++)
                    for (int64_t kh = h.from; kh < h.to; kh++) {
                        const T *row = x + ((d.start + kd) * H->n + h.start + kh) * W->n + w.start;
                        for (int64_t kw = w.from; kw < w.to; kw++) sum += (double)row[kw];
                    }
                out[i] = (T)(sum / (double)PN(divisor)(p, od, oh, TL_NAME(pool_share)(p, W, ow)));
            }
        }
}
/* Sums along a row, one for each window. */
TL_INLINE void PN(sum_spaced)(T *out, const T *row, T *split, const int32_t *tap, const pool_piece *b, const tl_pool_dim *w)
{
    const T *parts = row;
    if (w->stride != 1) PN(split)(split, row, b, w->stride), parts = split;
    for (int64_t i = 0; i < b->n; i += VLEN) {
        V sum = {0};
        for (int64_t k = 0; k < w->ker; k++) sum += PN(get)(parts + tap[k] + i, b->n - i, 0);
        PN(put)(out + i, sum, b->n - i);
    }
}
TL_INLINE void PN(sum_adaptive)(T *out, const T *row, const tl_pool_dim *w)
{
    for (int64_t i = 0; i < w->out; i++) {
        pool_span s = TL_NAME(pool_span_of)(w, i);
        T sum = 0;
        for (int64_t k = s.start; k < s.start + s.to; k++) sum += row[k];
        out[i] = sum;
    }
}
/* Down the rows first, then along: sum over kw of the sum over (kd, kh). */
static void PN(average_rows)(const tl_pool_task *p, const T *x, int64_t at)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    T column[POOL_ROW], split[POOL_ROW + POOL_ROW / 2], share[POOL_BLOCK];
    int32_t tap[POOL_ROW];
    for (int64_t start = 0; start < W->out;) {
        pool_piece b = TL_NAME(pool_piece_at)(W, start);
        if (W->stride) TL_NAME(pool_taps)(W, &b, tap);
        for (int64_t i = 0; i < b.n; i++) share[i] = p->divisor != 0 ? 1 : (T)TL_NAME(pool_share)(p, W, start + i);
        int64_t from = b.at < 0 ? -b.at : 0, to = W->n - b.at < b.length ? W->n - b.at : b.length;
        memset(column, 0, (size_t)b.length * sizeof(T));
        for (int64_t od = 0; od < D->out; od++)
            for (int64_t oh = 0; oh < H->out; oh++) {
                pool_span d = TL_NAME(pool_span_of)(D, od), h = TL_NAME(pool_span_of)(H, oh);
                for (int64_t i = from; i < to; i++) column[i] = 0;
                for (int64_t kd = d.from; kd < d.to; kd++)
                    for (int64_t kh = h.from; kh < h.to; kh++) {
                        const T *row = x + ((d.start + kd) * H->n + h.start + kh) * W->n;
                        for (int64_t i = from; i < to; i++) column[i] += row[b.at + i];
                    }
                T *out = (T *)p->out + at + (od * H->out + oh) * W->out + start, lines = PN(divisor)(p, od, oh, 1);
                if (W->stride) PN(sum_spaced)(out, column, split, tap, &b, W);
                else PN(sum_adaptive)(out, column, W);
                for (int64_t i = 0; i < b.n; i++) out[i] /= lines * share[i];
            }
        start += b.n;
    }
}
static void PN(average)(void *arg, int64_t begin, int64_t end)
{
    const tl_pool_task *p = arg;
    int64_t elements = TL_NAME(pool_volume)(p->d, false), windows = TL_NAME(pool_volume)(p->d, true);
    bool rows = TL_NAME(pool_by_rows)(&p->d[2]);
    for (int64_t i = begin; i < end; i++) {
        const T *x = (const T *)p->x + i * elements;
        if (rows) PN(average_rows)(p, x, i * windows);
        else PN(average_each)(p, x, i * windows);
    }
}

/* ---- its gradient: each window's share is added to all that it covers, a row of the image at a time ---- */

static void PN(average_grad_each)(const tl_pool_task *p, T *gx, int64_t i)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    const T *g = p->x;
    for (int64_t od = 0; od < D->out; od++)
        for (int64_t oh = 0; oh < H->out; oh++) {
            pool_span d = TL_NAME(pool_span_of)(D, od), h = TL_NAME(pool_span_of)(H, oh);
            for (int64_t ow = 0; ow < W->out; ow++, i++) {
                pool_span w = TL_NAME(pool_span_of)(W, ow);
                T v = g[i] / PN(divisor)(p, od, oh, TL_NAME(pool_share)(p, W, ow));
                for (int64_t kd = d.from; kd < d.to; kd++)
                    for (int64_t kh = h.from; kh < h.to; kh++) {
                        T *row = gx + ((d.start + kd) * H->n + h.start + kh) * W->n + w.start;
                        for (int64_t kw = w.from; kw < w.to; kw++) row[kw] += v;
                    }
            }
        }
}
static void PN(average_grad_rows)(const tl_pool_task *p, T *gx, int64_t at)
{
    const tl_pool_dim *D = &p->d[0], *H = &p->d[1], *W = &p->d[2];
    T spread[POOL_ROW], part[POOL_BLOCK], share[POOL_BLOCK];
    for (int64_t start = 0; start < W->out;) {
        pool_piece b = TL_NAME(pool_piece_at)(W, start);
        int64_t from = b.at < 0 ? -b.at : 0, to = W->n - b.at < b.length ? W->n - b.at : b.length;
        for (int64_t i = 0; i < b.n; i++) share[i] = p->divisor != 0 ? 1 : (T)TL_NAME(pool_share)(p, W, start + i);
        for (int64_t od = 0; od < D->out; od++)
            for (int64_t oh = 0; oh < H->out; oh++) {
                pool_span d = TL_NAME(pool_span_of)(D, od), h = TL_NAME(pool_span_of)(H, oh);
                const T *g = (const T *)p->x + at + (od * H->out + oh) * W->out + start;
                T lines = PN(divisor)(p, od, oh, 1);
                memset(spread, 0, (size_t)b.length * sizeof(T));
                for (int64_t i = 0; i < b.n; i++) part[i] = g[i] / (lines * share[i]);
                for (int64_t k = 0; k < W->ker && W->stride; k++)
                    for (int64_t i = 0; i < b.n; i++) spread[i * W->stride + k] += part[i];
                for (int64_t i = 0; i < b.n && !W->stride; i++) {
                    pool_span s = TL_NAME(pool_span_of)(W, i);
                    for (int64_t k = s.start; k < s.start + s.to; k++) spread[k] += part[i];
                }
                for (int64_t kd = d.from; kd < d.to; kd++)
                    for (int64_t kh = h.from; kh < h.to; kh++) {
                        T *row = gx + ((d.start + kd) * H->n + h.start + kh) * W->n;
                        for (int64_t i = from; i < to; i++) row[b.at + i] += spread[i];
                    }
            }
        start += b.n;
    }
}
static void PN(average_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_pool_task *p = arg;
    int64_t elements = TL_NAME(pool_volume)(p->d, false), windows = TL_NAME(pool_volume)(p->d, true);
    bool rows = TL_NAME(pool_by_rows)(&p->d[2]);
    for (int64_t i = begin; i < end; i++) {
        T *gx = (T *)p->out + i * elements;
        memset(gx, 0, (size_t)elements * sizeof(T));
        if (rows) PN(average_grad_rows)(p, gx, i * windows);
        else PN(average_grad_each)(p, gx, i * windows);
    }
}

#undef T
#undef V
#undef I
#undef VI
#undef VN
#undef PN
#undef VLEN
