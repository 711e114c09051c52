/* optim.inc.c for one float type T with its vectors V of VN(LANES) lanes. The operations are rounded one by one, in the order of the
 * definitions in optim/, so every instruction set gives the same bits. Tails run on padded vectors. */

TL_INLINE V VN(opt_load)(const T *p, int64_t n) { return n >= ON(LANES) ? VN(load)(p) : VN(load_part)(p, n, 0); }
TL_INLINE void VN(opt_store)(T *p, V v, int64_t n)
{
    if (n >= ON(LANES)) VN(store)(p, v);
    else VN(store_part)(p, v, n);
}

/* Asks for memory a few loops before it is read: the processor does so by itself within a page only. May point past the end. */
TL_INLINE void ON(ahead)(const T *p) { __builtin_prefetch((const void *)((uintptr_t)p + 2048)); }

/* m + w (g - m), as lerp rounds it; `keep` is 1 - w. */
TL_INLINE V VN(opt_lerp)(V m, V g, double keep)
{
    return keep > 0.5 ? m + (T)(1 - keep) * (g - m) : g - (g - m) * (1 - (T)(1 - keep));
}

static void ON(sgd)(const void *rule, void *param, const void *grad, void *buffer, void *none, void *none2, int64_t n)
{
    (void)none, (void)none2;
    const tl_sgd_rule *r = rule;
    T *p = param, *b = buffer;
    const T *gs = grad;
    T lr = (T)-r->lr, momentum = (T)r->momentum, fresh = (T)(1 - r->dampening), decay = (T)r->weight_decay;
    for (int64_t i = 0; i < n; i += ON(LANES)) {
        V x = VN(opt_load)(p + i, n - i), g = VN(opt_load)(gs + i, n - i);
        ON(ahead)(p + i), ON(ahead)(gs + i);
        if (r->maximize) g = -g;
        if (r->weight_decay != 0) g = g + decay * x;
        if (b) {
            ON(ahead)(b + i);
            V v = VN(opt_load)(b + i, n - i) * momentum + g * fresh;
            VN(opt_store)(b + i, v, n - i);
            g = r->nesterov ? g + momentum * v : v;
        }
        VN(opt_store)(p + i, x + lr * g, n - i);
    }
}

static void ON(adam)(const void *rule, void *param, const void *grad, void *average, void *square, void *largest, int64_t n)
{
    const tl_adam_rule *r = rule;
    T *p = param, *ms = average, *vs = square, *ls = largest;
    const T *gs = grad;
    T shrink = (T)r->shrink, decay = (T)r->weight_decay, beta2 = (T)r->beta2, w2 = (T)(1 - r->beta2);
    T root = (T)r->root, eps = (T)r->eps, step = (T)-r->step_size, look = (T)-r->look;
    for (int64_t i = 0; i < n; i += ON(LANES)) {
        V x = VN(opt_load)(p + i, n - i), g = VN(opt_load)(gs + i, n - i), m = VN(opt_load)(ms + i, n - i), v = VN(opt_load)(vs + i, n - i);
        ON(ahead)(p + i), ON(ahead)(gs + i), ON(ahead)(ms + i), ON(ahead)(vs + i);
        if (r->maximize) g = -g;
        if (r->shrink != 1) x = x * shrink;
        if (r->weight_decay != 0) g = g + decay * x;
        m = VN(opt_lerp)(m, g, r->beta1);
        if (r->peak) {
            V one = VN(abs)(g) + eps;
            v = v * beta2;
            v = v_select((one > v) | (one != one), one, v);
        } else v = v * beta2 + w2 * g * g;
        VN(opt_store)(ms + i, m, n - i);
        VN(opt_store)(vs + i, v, n - i);
        if (ls) {
            V l = VN(opt_load)(ls + i, n - i);
            v = v_select((v > l) | (v != v), v, l);
            VN(opt_store)(ls + i, v, n - i);
        }
        if (!r->peak) v = v_sqrt(v) / root + eps;
        V along = step * m;
        if (r->look != 0) along = along + look * g;
        VN(opt_store)(p + i, x + (r->plain ? along : along / v), n - i);
    }
}

static void ON(rms)(const void *rule, void *param, const void *grad, void *square, void *second, void *buffer, int64_t n)
{
    const tl_rms_rule *r = rule;
    T *p = param, *vs = square, *us = second, *bs = buffer;
    const T *gs = grad;
    T decay = (T)r->weight_decay, keep = (T)r->keep, fresh = (T)r->fresh, momentum = (T)r->momentum, eps = (T)r->eps, lr = (T)-r->lr;
    for (int64_t i = 0; i < n; i += ON(LANES)) {
        V x = VN(opt_load)(p + i, n - i), g = VN(opt_load)(gs + i, n - i), v = VN(opt_load)(vs + i, n - i);
        if (r->maximize) g = -g;
        if (r->weight_decay != 0) g = g + decay * x;
        v = v * keep + fresh * g * g;
        VN(opt_store)(vs + i, v, n - i);
        if (us) {
            V u = VN(opt_load)(us + i, n - i);
            if (r->ratio) {
                g = v_sqrt(u + eps) / v_sqrt(v + eps) * g;
                u = u * keep + fresh * g * g;
            } else {
                u = VN(opt_lerp)(u, g, r->keep);
                v = v - u * u;
            }
            VN(opt_store)(us + i, u, n - i);
        }
        V along = lr * g;
        if (!r->ratio) {
            v = v_sqrt(v) + eps;
            if (bs) {
                V b = VN(opt_load)(bs + i, n - i) * momentum + g / v;
                VN(opt_store)(bs + i, b, n - i);
                along = lr * b;
            } else along = along / v;
        }
        VN(opt_store)(p + i, x + along, n - i);
    }
}

static void ON(lion)(const void *rule, void *param, const void *grad, void *average, void *none, void *none2, int64_t n)
{
    (void)none, (void)none2;
    const tl_lion_rule *r = rule;
    T *p = param, *ms = average;
    const T *gs = grad;
    T shrink = (T)r->shrink, lr = (T)-r->lr;
    for (int64_t i = 0; i < n; i += ON(LANES)) {
        V x = VN(opt_load)(p + i, n - i), g = VN(opt_load)(gs + i, n - i), m = VN(opt_load)(ms + i, n - i);
        if (r->maximize) g = -g;
        V c = VN(opt_lerp)(m, g, r->beta1), one = VN(splat)(1);
        c = v_select(c > 0, one, v_select(c < 0, -one, c));
        VN(opt_store)(p + i, x * shrink + lr * c, n - i);
        VN(opt_store)(ms + i, VN(opt_lerp)(m, g, r->beta2), n - i);
    }
}

static void ON(scale)(void *x, double factor, int64_t n)
{
    T *p = x, f = (T)factor;
    for (int64_t i = 0; i < n; i++) p[i] *= f;
}

/* In 16 running sums, element i into sum i % 16, joined in halves: the same on every instruction set. */
static double ON(sum_of_squares)(const void *x, int64_t n)
{
    const T *p = x;
    double sums[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += (double)p[i + j] * (double)p[i + j];
    for (int j = 0; i < n; i++, j++) sums[j] += (double)p[i] * (double)p[i];
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++) sums[j] += sums[j + half];
    return sums[0];
}
#undef ON
