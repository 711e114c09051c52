/* The kernels of losses for one element type, included by rows_type.inc.c, whose names and loops they use. */

/* v in its first n lanes, 0 in the others */
TL_INLINE V RN(only)(V v, int64_t n)
{
    T kept[VLEN] = {0};
    if (n >= VLEN) return v;
    VN(store_part)(kept, v, n);
    return VN(load)(kept);
}

/* ---- cross_entropy along rows ---- */

static void RN(cross_entropy)(void *arg, int64_t begin, int64_t end)
{
    const tl_cross_entropy_task *p = arg;
    int64_t n = p->n;
    const T *w = p->weight;
    T *loss = p->loss, *saved = p->saved;
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * n;
        int64_t y = p->target[r];
        if (y == p->ignore) {
            loss[r] = saved[3 * r] = saved[3 * r + 1] = 0;
            continue;
        }
        T m = RN(row_max)(x, n);
        double total = log(RN(row_total)(TERM_EXP, x, x, m, n));
        double value = ((double)m - (double)x[y] + total) * (w ? (double)w[y] : 1) * (1 - p->smoothing);
        if (p->smoothing > 0) {
            double below = w ? RN(row_total)(TERM_BELOW_DOT, x, w, m, n) : RN(row_total)(TERM_BELOW, x, x, m, n);
            value += (below + total * p->weight_sum) * p->smoothing / (double)n;
        }
        loss[r] = (T)value;
        saved[3 * r] = m;
        saved[3 * r + 1] = (T)total;
    }
}
static void RN(cross_entropy_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_cross_entropy_task *p = arg;
    int64_t n = p->n;
    const T *w = p->weight, *g = p->g, *saved = p->saved;
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * n;
        T *out = (T *)p->out + r * n;
        int64_t y = p->target[r];
        if (y == p->ignore) {
            memset(out, 0, (size_t)n * sizeof(T));
            continue;
        }
        double scale = (double)g[r * p->g_step] * p->scale, hit = scale * (1 - p->smoothing) * (w ? (double)w[y] : 1);
        double even = scale * p->smoothing / (double)n;
        RN(scalars) k = {{saved[3 * r], saved[3 * r + 1], (T)(hit + even * p->weight_sum), (T)even}};
        if (w) RN(row_map)(MAP_CE_GRAD_W, out, x, x, w, x, k, n);
        else RN(row_map)(MAP_CE_GRAD, out, x, x, x, x, k, n);
        out[y] -= (T)hit;
    }
}

/* ---- the same with probabilities as targets: class c counts q_c = w_c ((1 - smoothing) t_c + smoothing / n) ---- */

TL_INLINE V RN(soft_share)(const tl_cross_entropy_task *p, V t, V w) { return w * VN(fma)(t, VN(splat)((T)(1 - p->smoothing)), VN(splat)((T)(p->smoothing / (double)p->n))); }
/* q (m - x), and 0 where q is: also for scores of minus infinity */
TL_INLINE V RN(soft_term)(V q, V m, V x) { return v_select(q == 0, (V){0}, q * (m - x)); }

static void RN(cross_entropy_soft)(void *arg, int64_t begin, int64_t end)
{
    const tl_cross_entropy_task *p = arg;
    int64_t n = p->n;
    const T *w = p->weight;
    V one = VN(splat)(1);
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * n, *t = (const T *)p->soft + r * n;
        T m = RN(row_max)(x, n), *saved = (T *)p->saved + 3 * r;
        double total = log(RN(row_total)(TERM_EXP, x, x, m, n)), below = 0, share = 0;
        for (int64_t i = 0; i < n;) {
            int64_t last = n - i < ROW_BLOCK ? n : i + ROW_BLOCK;
            V terms = {0}, shares = {0};
            for (; i < last; i += VLEN) {
                V q = RN(only)(RN(soft_share)(p, RN(get)(t + i, last - i, 0), w ? RN(get)(w + i, last - i, 0) : one), last - i);
                terms += RN(soft_term)(q, VN(splat)(m), RN(get)(x + i, last - i, 0));
                shares += q;
            }
            i = last;
            below += RN(lanes)(terms);
            share += RN(lanes)(shares);
        }
        ((T *)p->loss)[r] = (T)(below + total * share);
        saved[0] = m, saved[1] = (T)total, saved[2] = (T)share;
    }
}
static void RN(cross_entropy_soft_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_cross_entropy_task *p = arg;
    int64_t n = p->n;
    const T *w = p->weight, *g = p->g;
    V one = VN(splat)(1);
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * n, *t = (const T *)p->soft + r * n, *saved = (const T *)p->saved + 3 * r;
        T *out = (T *)p->out + r * n;
        V m = VN(splat)(saved[0]), total = VN(splat)(saved[1]), share = VN(splat)(saved[2]);
        V scale = VN(splat)((T)((double)g[r * p->g_step] * p->scale));
        for (int64_t i = 0; i < n; i += VLEN) {
            V q = RN(soft_share)(p, RN(get)(t + i, n - i, 0), w ? RN(get)(w + i, n - i, 0) : one);
            RN(put)(out + i, (RN(exp)((RN(get)(x + i, n - i, 0) - m) - total) * share - q) * scale, n - i);
        }
    }
}

/* ---- cross_entropy across rows: (outer, n, inner), a vector of inner positions at a time ---- */

enum { RN(ACROSS_ROOM) = 512 }; /* classes whose scores are kept near: rows that lie powers of two apart throw each other out of the caches */

/* What the targets of up to VLEN positions say: of each the score, the factor ((1 - smoothing) w_y, 0 where ignored) and whether it counts. */
typedef struct { V score, factor, counts; } RN(targets);
TL_INLINE RN(targets) RN(targets_of)(const tl_cross_entropy_task *p, const T *x, const int64_t *target, int64_t n)
{
    T score[VLEN] = {0}, factor[VLEN] = {0}, counts[VLEN] = {0};
    const T *w = p->weight;
    for (int64_t j = 0; j < n && j < VLEN; j++) {
        int64_t y = target[j];
        if (y == p->ignore) continue;
        score[j] = x[y * p->inner + j];
        factor[j] = (T)((1 - p->smoothing) * (w ? (double)w[y] : 1));
        counts[j] = 1;
    }
    return (RN(targets)){VN(load)(score), VN(load)(factor), VN(load)(counts)};
}

TL_INLINE void RN(ce_column)(const tl_cross_entropy_task *p, int64_t outer, int64_t c, int64_t width)
{
    int64_t n = p->n, step = p->inner, here = n <= RN(ACROSS_ROOM) ? VLEN : width;
    const T *x = (const T *)p->x + outer * n * step + c, *t = p->soft ? (const T *)p->soft + outer * n * step + c : NULL, *w = p->weight;
    T near[RN(ACROSS_ROOM) * VLEN], *saved = (T *)p->saved + outer * 3 * step + c;
    V m = VN(splat)(-(T)INFINITY), total = {0}, below = {0}, share = {0};
    for (int64_t i = 0; i < n; i++) {
        V v = RN(get)(x + i * step, width, 0);
        if (n <= RN(ACROSS_ROOM)) VN(store)(near + i * VLEN, v);
        m = VN(max)(v, m);
    }
    const T *from = n <= RN(ACROSS_ROOM) ? near : x;
    int64_t apart = n <= RN(ACROSS_ROOM) ? VLEN : step;
    for (int64_t i = 0; i < n;) {
        V sum = {0};
        for (int64_t end = n - i < RN(ACROSS_BLOCK) ? n : i + RN(ACROSS_BLOCK); i < end; i++) {
            V v = RN(get)(from + i * apart, here, 0), of_class = VN(splat)(w ? w[i] : 1);
            sum += RN(exp)(v - m);
            if (t) {
                V q = RN(soft_share)(p, RN(get)(t + i * step, width, 0), of_class);
                below += RN(soft_term)(q, m, v);
                share += q;
            } else if (p->smoothing > 0) {
                below += (m - v) * of_class;
            }
        }
        total += sum;
    }
    V last = VN(log)(total), loss;
    if (t) {
        loss = VN(fma)(last, share, below);
    } else {
        RN(targets) y = RN(targets_of)(p, x, p->target + outer * step + c, width);
        loss = ((m - y.score) + last) * y.factor;
        if (p->smoothing > 0) loss += VN(fma)(last, VN(splat)((T)p->weight_sum), below) * (T)(p->smoothing / (double)n);
        loss = v_select(y.counts != 0, loss, (V){0});
    }
    RN(put)((T *)p->loss + outer * step + c, loss, width);
    RN(put)(saved, m, width);
    RN(put)(saved + step, last, width);
    RN(put)(saved + 2 * step, share, width);
}
TL_INLINE void RN(ce_grad_column)(const tl_cross_entropy_task *p, int64_t outer, int64_t c, int64_t width)
{
    int64_t n = p->n, step = p->inner, at = outer * n * step + c;
    const T *x = (const T *)p->x + at, *t = p->soft ? (const T *)p->soft + at : NULL, *w = p->weight, *g = p->g;
    const T *saved = (const T *)p->saved + outer * 3 * step + c;
    T *out = (T *)p->out + at;
    V m = RN(get)(saved, width, 0), last = RN(get)(saved + step, width, 0), scale = VN(splat)((T)p->scale);
    scale *= p->g_step ? RN(get)(g + outer * step + c, width, 0) : VN(splat)(g[0]);
    if (t) {
        V share = RN(get)(saved + 2 * step, width, 0);
        for (int64_t i = 0; i < n; i++) {
            V q = RN(soft_share)(p, RN(get)(t + i * step, width, 0), VN(splat)(w ? w[i] : 1));
            RN(put)(out + i * step, (RN(exp)((RN(get)(x + i * step, width, 0) - m) - last) * share - q) * scale, width);
        }
        return;
    }
    const int64_t *target = p->target + outer * step + c;
    RN(targets) y = RN(targets_of)(p, x, target, width);
    V even = scale * y.counts * (T)(p->smoothing / (double)n), hit = scale * y.factor, all = VN(fma)(even, VN(splat)((T)p->weight_sum), hit);
    for (int64_t i = 0; i < n; i++) {
        V slope = RN(exp)((RN(get)(x + i * step, width, 0) - m) - last) * all - even * VN(splat)(w ? w[i] : 1);
        RN(put)(out + i * step, v_select(y.counts != 0, slope, (V){0}), width);
    }
    for (int64_t j = 0; j < width && j < VLEN; j++)
        if (target[j] != p->ignore) out[target[j] * step + j] -= hit[j];
}
/* Tile t covers TL_ROWS_TILE positions of one outer index. */
TL_INLINE void RN(ce_across)(const tl_cross_entropy_task *p, int64_t begin, int64_t end, bool gradient)
{
    int64_t tiles = (p->inner + TL_ROWS_TILE - 1) / TL_ROWS_TILE;
    for (int64_t t = begin; t < end; t++) {
        int64_t first = t % tiles * TL_ROWS_TILE, last = p->inner - first < TL_ROWS_TILE ? p->inner : first + TL_ROWS_TILE;
        for (int64_t c = first; c < last; c += VLEN) {
            if (gradient) RN(ce_grad_column)(p, t / tiles, c, last - c);
            else RN(ce_column)(p, t / tiles, c, last - c);
        }
    }
}
static void RN(cross_entropy_across)(void *arg, int64_t begin, int64_t end) { RN(ce_across)(arg, begin, end, false); }
static void RN(cross_entropy_across_grad)(void *arg, int64_t begin, int64_t end) { RN(ce_across)(arg, begin, end, true); }

/* ---- nll_loss: (outer, n, inner), tasks are outer indices ---- */

static void RN(nll)(void *arg, int64_t begin, int64_t end)
{
    const tl_cross_entropy_task *p = arg;
    const T *x = p->x, *w = p->weight;
    for (int64_t o = begin; o < end; o++)
        for (int64_t i = o * p->inner; i < (o + 1) * p->inner; i++) {
            int64_t y = p->target[i];
            ((T *)p->loss)[i] = y == p->ignore ? 0 : -x[(o * (p->n - 1) + y) * p->inner + i] * (w ? w[y] : 1);
        }
}
static void RN(nll_grad)(void *arg, int64_t begin, int64_t end)
{
    const tl_cross_entropy_task *p = arg;
    const T *w = p->weight, *g = p->g;
    T *out = p->out;
    memset(out + begin * p->n * p->inner, 0, (size_t)((end - begin) * p->n * p->inner) * sizeof(T));
    for (int64_t o = begin; o < end; o++)
        for (int64_t i = o * p->inner; i < (o + 1) * p->inner; i++) {
            int64_t y = p->target[i];
            if (y != p->ignore) out[(o * (p->n - 1) + y) * p->inner + i] = -(T)p->scale * g[i * p->g_step] * (w ? w[y] : 1);
        }
}

/* ---- losses of pairs, element by element: block b covers TL_PAIR_BLOCK elements ---- */

enum { RN(PAIR_EACH), RN(PAIR_SUM), RN(PAIR_GRAD) };
typedef struct { V x, y, pos; } RN(pair); /* input, target, weight of the positive class */

TL_INLINE V RN(pair_loss)(int kind, RN(pair) e, V bound)
{
    V zero = {0}, one = VN(splat)(1), d = e.x - e.y, size = v_abs(d);
    switch (kind) {
    case TL_PAIR_SQUARED: return d * d;
    case TL_PAIR_ABSOLUTE: return size;
    case TL_PAIR_HUBER: return v_select(size < bound, (T)0.5 * d * d, bound * (size - (T)0.5 * bound));
    case TL_PAIR_KL: return v_select(e.y == 0, zero, e.y * v_log(e.y)) - e.y * e.x;
    case TL_PAIR_KL_LOG: return v_exp(e.y) * (e.y - e.x);
    case TL_PAIR_BCE: return (e.y - 1) * VN(max)(VN(splat)(-100), v_log1p(-e.x)) - e.y * VN(max)(VN(splat)(-100), v_log(e.x));
    default: return (one - e.y) * e.x + (one + (e.pos - 1) * e.y) * v_softplus(-e.x);
    }
}
/* The derivative by x; by y it is the opposite up to TL_PAIR_HUBER. */
TL_INLINE V RN(pair_slope)(int kind, RN(pair) e, V bound)
{
    V d = e.x - e.y;
    switch (kind) {
    case TL_PAIR_SQUARED: return d + d;
    case TL_PAIR_ABSOLUTE: return v_sign(d);
    case TL_PAIR_HUBER: return VN(max)(-bound, VN(min)(bound, d));
    case TL_PAIR_KL: return -e.y;
    case TL_PAIR_KL_LOG: return -v_exp(e.y);
    case TL_PAIR_BCE: return d / VN(max)(VN(splat)((T)1e-12), (1 - e.x) * e.x);
    default: return (1 + (e.pos - 1) * e.y) * v_sigmoid(e.x) - e.pos * e.y;
    }
}
/* Elements i .. i + VLEN of the operands, n of them real: what `mode` wants to know. */
TL_INLINE V RN(pair_at)(int kind, int mode, const tl_pair *p, int64_t i, int64_t n, V bound, V scale)
{
    const T *w = p->weight, *pos = p->pos_weight, *g = p->g;
    RN(pair) e = {RN(get)((const T *)p->x + i, n, 0), RN(get)((const T *)p->y + i, n, 0), pos ? RN(get)(pos + i, n, 0) : VN(splat)(1)};
    V v = mode == RN(PAIR_GRAD) ? RN(pair_slope)(kind, e, bound) : RN(pair_loss)(kind, e, bound);
    v *= mode == RN(PAIR_GRAD) && p->g_step ? scale * RN(get)(g + i, n, 0) : scale;
    return w ? v * RN(get)(w + i, n, 0) : v;
}
/* Whether all of x lies in [0, 1]. */
TL_INLINE bool RN(probabilities)(const T *x, int64_t n)
{
    V outside = {0};
    for (int64_t i = 0; i < n; i += VLEN) {
        V v = RN(get)(x + i, n - i, 0);
        outside += v_select((v >= 0) & (v <= 1), (V){0}, VN(splat)(1));
    }
    return RN(lanes)(outside) == 0;
}
TL_INLINE void RN(pair_blocks)(int kind, int mode, tl_pair *p, int64_t begin, int64_t end)
{
    V bound = VN(splat)((T)p->bound), scale = VN(splat)((T)(mode == RN(PAIR_GRAD) && !p->g_step ? p->scale * (double)((const T *)p->g)[0] : p->scale));
    for (int64_t b = begin; b < end; b++) {
        int64_t i = b * TL_PAIR_BLOCK, last = p->n - i < TL_PAIR_BLOCK ? p->n : i + TL_PAIR_BLOCK;
        if (kind == TL_PAIR_BCE && mode != RN(PAIR_GRAD) && !RN(probabilities)((const T *)p->x + i, last - i)) atomic_store(&p->outside, true);
        V sum[4] = {{0}, {0}, {0}, {0}};
        for (; i + 4 * VLEN <= last; i += 4 * VLEN) {
#pragma GCC unroll 1 /* copies of logarithms would be 0.1 MB */
            for (int j = 0; j < 4; j++) {
                V v = RN(pair_at)(kind, mode, p, i + j * VLEN, VLEN, bound, scale);
                if (mode == RN(PAIR_SUM)) sum[j] += v;
                else VN(store)((T *)p->out + i + j * VLEN, v);
            }
        }
        for (; i < last; i += VLEN) {
            V v = RN(pair_at)(kind, mode, p, i, last - i, bound, scale);
            if (mode == RN(PAIR_SUM)) sum[0] += RN(only)(v, last - i);
            else RN(put)((T *)p->out + i, v, last - i);
        }
        if (mode == RN(PAIR_SUM)) p->sums[b] = RN(lanes)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}
TL_INLINE void RN(pair_kinds)(int mode, tl_pair *p, int64_t begin, int64_t end)
{
    switch (p->kind) {
    case TL_PAIR_SQUARED: RN(pair_blocks)(TL_PAIR_SQUARED, mode, p, begin, end); break;
    case TL_PAIR_ABSOLUTE: RN(pair_blocks)(TL_PAIR_ABSOLUTE, mode, p, begin, end); break;
    case TL_PAIR_HUBER: RN(pair_blocks)(TL_PAIR_HUBER, mode, p, begin, end); break;
    case TL_PAIR_KL: RN(pair_blocks)(TL_PAIR_KL, mode, p, begin, end); break;
    case TL_PAIR_KL_LOG: RN(pair_blocks)(TL_PAIR_KL_LOG, mode, p, begin, end); break;
    case TL_PAIR_BCE: RN(pair_blocks)(TL_PAIR_BCE, mode, p, begin, end); break;
    default: RN(pair_blocks)(TL_PAIR_BCE_LOGITS, mode, p, begin, end);
    }
}
static void RN(pair_each)(void *arg, int64_t begin, int64_t end) { RN(pair_kinds)(RN(PAIR_EACH), arg, begin, end); }
static void RN(pair_sum)(void *arg, int64_t begin, int64_t end) { RN(pair_kinds)(RN(PAIR_SUM), arg, begin, end); }
static void RN(pair_grad)(void *arg, int64_t begin, int64_t end) { RN(pair_kinds)(RN(PAIR_GRAD), arg, begin, end); }
