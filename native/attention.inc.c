/* Scaled dot-product attention of one head, block by block, for one instruction set, in float and double. Driven by attention.c; the
 * contract stands in kernels.h.
 *
 * A panel of TL_ATTENTION_ROW bytes' worth of queries lies in the lanes of a few vectors, so everything is computed transposed: scores (keys x
 * queries) = K Q^T, out^T = V^T P. K and V then are the operand whose elements are broadcast, and need no packing; only the panels do. A
 * query's maximum and sum are taken lane by lane, and its result depends on its lane alone. TL_ATTENTION_GROUP panels go over the keys
 * together, so that a block of TL_ATTENTION_KEYS rows of K and V is fetched once for all of them.
 *
 * Sums over keys run block by block: inside one a fused multiply-add per key, ascending from zero, the block then added. The gradients of
 * keys and values sum over the queries of a panel in that manner, then over the panels of a group, then over groups.
 *
 * Scores are held times AT(BITS), so that the exponential of this type is the cheapest one: of base 2 for floats, e for doubles.
 *
 * The file includes itself once per type. */
#ifndef AT_REAL

#if TL_VBYTES == 64
#define AT_MR 8 /* rows of a tile: 16 sums, or 8 where there are 16 registers */
#else
#define AT_MR 4
#endif
#define AT_NV 2 /* vectors of a row */
enum { AT_STORE, AT_ADD, AT_SCALE }; /* how a tile joins what is there: instead of it, added to it, added to it times a factor per column */

#define AT_BITS_f32 1.44269504088896340736f
#define AT_BITS_f64 1.0
/* e^(x / BITS) for x <= 0 and NaN, within 2 ulp; 0 for -inf if it is `masked`. Below the smallest normal number it stays there: a product
 * with a subnormal one would take a hundred cycles. 2^x = 2^n 2^r: n comes from the last bits of x + 1.5 2^23, and goes to the exponent. */
TL_INLINE vf at_exp_f32(vf x, const bool masked)
{
    vf y = vf_max(vf_splat(-125), x), t = y + 0x1.8p23f, r = y - (t - 0x1.8p23f);
    vf p = POLY5(r, 1.0f, 0.693146978f, 0.240222428f, 0.0555073371f, 0.00967146991f, 0.00132645817f);
    vf e = (vf)((v_u32)p + ((v_u32)t << 23));
    return masked ? v_and(~(x < -125.0f), e) : e;
}
TL_INLINE vd at_exp_f64(vd x, const bool masked)
{
    vd e = vd_exp(vd_max(vd_splat(-708), x));
    return masked ? v_and(~(x < -708.0), e) : e;
}

#define AT_REAL float
#define AT(x) x##_f32
#define AT_V(x) vf_##x
#include "attention.inc.c"
#undef AT_REAL
#undef AT
#undef AT_V
#define AT_REAL double
#define AT(x) x##_f64
#define AT_V(x) vd_##x
#include "attention.inc.c"

const tl_attention_kernels TL_NAME(attention_kernels) = {.forward = {at_forward_f32, at_forward_f64}, .backward = {at_backward_f32, at_backward_f64}};

#else /* ---- once per type ---- */
#define AT_LANES (TL_VBYTES / (int)sizeof(AT_REAL))
#define AT_Q (TL_ATTENTION_ROW / (int)sizeof(AT_REAL)) /* queries of a block */
#define AT_ALIGNED _Alignas(TL_ALIGN)

/* C (mr, nv vectors) joins A (mr, kc) B (kc, nv vectors). `left`: columns of the last vector that exist. mr, nv, how are constants. */
TL_INLINE void AT(at_tile)(const int mr, const int nv, const int how, int64_t kc, const AT_REAL *a, int64_t ams, int64_t aks, const AT_REAL *b,
                           int64_t bks, AT_REAL *c, int64_t ldc, int left, const AT_REAL *factor)
{
    AT(v) acc[AT_MR][AT_NV], bv[AT_NV];
    TL_UNROLL for (int i = 0; i < mr; i++) TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = AT_V(splat)(0);
    for (int64_t k = 0; k < kc; k++, a += aks, b += bks) {
        TL_UNROLL for (int j = 0; j < nv; j++) bv[j] = AT_V(load)(b + j * AT_LANES);
        TL_UNROLL for (int i = 0; i < mr; i++) {
            AT(v) av = AT_V(splat)(a[i * ams]);
            TL_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = AT_V(fma)(av, bv[j], acc[i][j]);
        }
    }
    TL_UNROLL for (int i = 0; i < mr; i++) {
        TL_UNROLL for (int j = 0; j < nv; j++) {
            AT_REAL *to = c + i * ldc + j * AT_LANES;
            if (j == nv - 1 && left < AT_LANES) {
                AT(v) sum = how == AT_STORE ? acc[i][j] : AT_V(load_part)(to, left, 0) + acc[i][j];
                AT_V(store_part)(to, sum, left);
            } else {
                AT(v) sum = acc[i][j];
                if (how == AT_ADD) sum = AT_V(load)(to) + sum;
                if (how == AT_SCALE) sum = AT_V(fma)(AT_V(load)(to), AT_V(load)(factor + j * AT_LANES), sum);
                AT_V(store)(to, sum);
            }
        }
    }
}

/* The same for m rows. */
TL_TEMPLATE void AT(at_rows)(const int nv, const int how, int64_t m, int64_t kc, const AT_REAL *a, int64_t ams, int64_t aks, const AT_REAL *b,
                           int64_t bks, AT_REAL *c, int64_t ldc, int left, const AT_REAL *factor)
{
    for (; m >= AT_MR; m -= AT_MR, a += AT_MR * ams, c += AT_MR * ldc) AT(at_tile)(AT_MR, nv, how, kc, a, ams, aks, b, bks, c, ldc, left, factor);
    for (; m > 0; m--, a += ams, c += ldc) AT(at_tile)(1, nv, how, kc, a, ams, aks, b, bks, c, ldc, left, factor);
}

/* C (m, queries) joins A (m, kc) B (kc, queries). */
TL_INLINE void AT(at_over_queries)(const int how, int64_t m, int64_t kc, const AT_REAL *a, int64_t ams, int64_t aks, const AT_REAL *b, AT_REAL *c,
                                   const AT_REAL *factor)
{
    for (int j = 0; j < AT_Q; j += AT_NV * AT_LANES)
        AT(at_rows)(AT_NV, how, m, kc, a, ams, aks, b + j, AT_Q, c + j, AT_Q, AT_LANES, factor ? factor + j : NULL);
}

/* C (keys, n) joins P (keys, used queries) X (used queries, n), the rows of X `width` apart, zeros behind n. */
static void AT(at_over_width)(const int how, int64_t keys, int64_t used, int64_t n, const AT_REAL *p, const AT_REAL *x, int64_t width, AT_REAL *c)
{
    for (int64_t j = 0; j < n; j += 2 * AT_LANES) {
        int64_t left = n - j;
        if (left > AT_LANES)
            AT(at_rows)(2, how, keys, used, p, AT_Q, 1, x + j, width, c + j, n, left < 2 * AT_LANES ? (int)left - AT_LANES : AT_LANES, NULL);
        else AT(at_rows)(1, how, keys, used, p, AT_Q, 1, x + j, width, c + j, n, (int)left, NULL);
    }
}

/* A panel: queries [first, first + used) of the head; lanes behind `used` hold zeros. */
typedef struct {
    int64_t first, used, reach;                              /* reach: how many keys they see */
    AT_REAL *packed;                                         /* (d, AT_Q): the queries, times scale and BITS */
    AT_REAL *out;                                            /* (dv, AT_Q) */
    AT_REAL *g_packed, *q_rows, *g_rows, *gq;                /* (dv, AT_Q) of g; rows of q, times scale, and of g, padded; (d, AT_Q) */
    AT_ALIGNED AT_REAL most[AT_Q], sum[AT_Q], delta[AT_Q];   /* sum: backward has its inverse here */
} AT(at_panel);

typedef struct { AT_REAL *k, *v, *gk, *gv; } AT(at_near);    /* a block of keys, and its gradients, side by side */

static int64_t AT(at_padded)(int64_t width) { return (width + AT_LANES - 1) / AT_LANES * AT_LANES; }

/* Cuts the room of tl_attention_room for the panels of a group, and what follows them for the keys. */
static void AT(at_furnish)(const tl_attention_head *h, AT(at_panel) *panels, AT(at_near) *near, void *room)
{
    AT_REAL *at = room;
    int64_t wide = TL_ATTENTION_PAD(h->d), wide_v = TL_ATTENTION_PAD(h->dv);
    for (int i = 0; i < TL_ATTENTION_GROUP; i++) {
        AT(at_panel) *p = &panels[i];
        p->packed = at, at += wide * AT_Q;
        p->q_rows = at, at += wide * AT_Q;
        p->gq = at, at += wide * AT_Q;
        p->out = p->g_packed = at, at += wide_v * AT_Q;
        p->g_rows = at, at += wide_v * AT_Q;
    }
    *near = (AT(at_near)){at, at + wide * TL_ATTENTION_KEYS, at + (wide + wide_v) * TL_ATTENTION_KEYS, at + (2 * wide + wide_v) * TL_ATTENTION_KEYS};
}

/* panel[k][j] = row j of x, element k, times scale */
static void AT(at_pack)(AT_REAL *panel, const AT_REAL *x, int64_t step, int64_t used, int64_t width, AT_REAL scale)
{
    AT(mm_pack)(panel, AT_Q, (int)used, width, x, step, 1);
    for (int64_t i = 0; i < width * AT_Q; i += AT_LANES) AT_V(store)(panel + i, AT_V(load)(panel + i) * scale);
}

/* Rows of x side by side: heads that lie within rows are far apart, and would share few places of the first cache. */
static void AT(at_fetch)(AT_REAL *room, const AT_REAL *x, int64_t step, int64_t rows, int64_t width)
{
    enum { AHEAD = 8, LINE = TL_ALIGN / sizeof(AT_REAL) };
    for (int64_t i = 0; i < rows; i++, x += step, room += width) {
        int64_t j = 0;
        if (i + AHEAD < rows)
            for (; j < width; j += LINE) __builtin_prefetch(x + AHEAD * step + j);
        for (j = 0; j + AT_LANES <= width; j += AT_LANES) AT_V(store)(room + j, AT_V(load)(x + j));
        if (j < width) AT(mm_store_upto)(room + j, AT(mm_load_upto)(x + j, (int)(width - j)), (int)(width - j));
    }
}

/* The way back: stored there, or added. */
static void AT(at_deliver)(const bool add, AT_REAL *x, int64_t step, const AT_REAL *room, int64_t rows, int64_t width)
{
    for (int64_t i = 0; i < rows; i++, x += step, room += width)
        for (int64_t j = 0; j < width; j += AT_LANES) {
            int left = width - j < AT_LANES ? (int)(width - j) : AT_LANES;
            AT(v) sum = AT(mm_load_upto)(room + j, left);
            AT(mm_store_upto)(x + j, add ? AT(mm_load_upto)(x + j, left) + sum : sum, left);
        }
}

/* The panels of the group that begins with query `first`. */
static int AT(at_group)(const tl_attention_head *h, AT(at_panel) *panels, int64_t first)
{
    int n = 0;
    for (; n < TL_ATTENTION_GROUP && first < h->l; n++, first += AT_Q) {
        AT(at_panel) *p = &panels[n];
        p->first = first;
        p->used = h->l - first < AT_Q ? h->l - first : AT_Q;
        p->reach = h->causal && first + p->used < h->s ? first + p->used : h->s;
        AT(at_pack)(p->packed, (const AT_REAL *)h->q + first * h->qs, h->qs, p->used, h->d, (AT_REAL)(h->scale * AT(AT_BITS)));
    }
    return n;
}

/* Keys of the block from k0 on that the panel sees. */
static int64_t AT(at_seen)(const AT(at_panel) *p, int64_t k0, int64_t kc) { return p->reach - k0 < kc ? p->reach - k0 : kc; }

/* Whether any of the scores may be -inf. */
static bool AT(at_hides)(const tl_attention_head *h, const AT(at_panel) *p, int64_t k0, int64_t kc)
{
    return h->mask || (h->causal && k0 + kc > p->first + 1);
}

/* The mask of keys [k0, k0 + kc) as what is added to the scores: (kc, AT_Q) */
static void AT(at_mask)(const tl_attention_head *h, const AT(at_panel) *p, int64_t k0, int64_t kc, AT_REAL *mask)
{
    AT_ALIGNED AT_REAL turned[AT_Q][TL_ATTENTION_KEYS];
    int64_t at = p->first * h->mask_l + k0 * h->mask_s;
    if (!h->mask_bool) {
        AT(mm_pack)(mask, AT_Q, (int)p->used, kc, (const AT_REAL *)h->mask + at, h->mask_l, h->mask_s);
        return;
    }
    for (int64_t i = 0; i < p->used; i++) {
        const uint8_t *seen = (const uint8_t *)h->mask + at + i * h->mask_l;
        if (h->mask_s == 1)
            for (int64_t k = 0; k < kc; k++) turned[i][k] = seen[k] ? 0 : -(AT_REAL)INFINITY;
        else
            for (int64_t k = 0; k < kc; k++) turned[i][k] = seen[k * h->mask_s] ? 0 : -(AT_REAL)INFINITY;
    }
    AT(mm_pack)(mask, AT_Q, (int)p->used, kc, turned[0], TL_ATTENTION_KEYS, 1);
}

/* What dropout multiplies the same scores with. */
static void AT(at_dropout)(const tl_attention_head *h, const AT(at_panel) *p, int64_t k0, int64_t kc, AT_REAL *kept)
{
    AT_ALIGNED AT_REAL turned[AT_Q][TL_ATTENTION_KEYS];
    uint32_t words[TL_ATTENTION_KEYS + 8];
    AT_REAL scale = (AT_REAL)(h->dropout < 1 ? 1 / (1 - h->dropout) : 0);
    for (int64_t i = 0; i < p->used; i++) {
        uint64_t at = h->drawn + (uint64_t)((p->first + i) * h->s + k0), skip = at % 4;
        tl_random_k->words(words, h->seed, h->counter + at / 4, (kc + (int64_t)skip + 3) / 4);
        for (int64_t k = 0; k < kc; k++)
            turned[i][k] = (float)(int32_t)(words[(int64_t)skip + k] >> 8) * 0x1p-24f >= (float)h->dropout ? scale : 0;
    }
    AT(mm_pack)(kept, AT_Q, (int)p->used, kc, turned[0], TL_ATTENTION_KEYS, 1);
}

TL_INLINE AT(v) AT(at_lanes)(void)
{
    AT(v) n;
    TL_UNROLL for (int i = 0; i < AT_LANES; i++) n[i] = (AT_REAL)i;
    return n;
}

/* scores (kc, AT_Q) of keys [k0, k0 + kc), which lie side by side at `keys` */
static void AT(at_scores)(const tl_attention_head *h, const AT(at_panel) *p, const AT_REAL *keys, int64_t k0, int64_t kc, AT_REAL *scores)
{
    AT(at_over_queries)(AT_STORE, kc, h->d, keys, h->d, 1, p->packed, scores, NULL);
    if (h->mask) {
        AT_ALIGNED AT_REAL mask[TL_ATTENTION_KEYS * AT_Q];
        AT(at_mask)(h, p, k0, kc, mask);
        for (int64_t i = 0; i < kc * AT_Q; i += AT_LANES)
            AT_V(store)(scores + i, AT_V(fma)(AT_V(load)(mask + i), AT_V(splat)(AT(AT_BITS)), AT_V(load)(scores + i)));
    }
    int64_t seen = p->first - k0 + 1; /* keys that lane 0 sees, and every lane after it */
    for (int64_t k = seen > 0 ? seen : 0; h->causal && k < kc; k++)
        for (int j = 0; j < AT_Q; j += AT_LANES) {
            AT(v) hidden = AT_V(splat)((AT_REAL)(k0 + k - p->first - j)); /* lanes that come before the key */
            AT_V(store)(scores + k * AT_Q + j, v_select(AT(at_lanes)() < hidden, AT_V(splat)(-(AT_REAL)INFINITY), AT_V(load)(scores + k * AT_Q + j)));
        }
}

TL_INLINE AT(v) AT(at_exponential)(AT_REAL *score, AT(v) base, const bool masked)
{
    AT(v) e = AT(at_exp)(AT_V(load)(score) - base, masked);
    AT_V(store)(score, e);
    return e;
}

/* A block of scores becomes its exponentials, against the maximum so far; their sum joins p->sum, and `factor` is what everything summed
 * before has to be multiplied with. A query that has seen no key but masked ones keeps the maximum -inf, and zeros. */
TL_INLINE void AT(at_exponentials)(AT_REAL *scores, int64_t kc, AT(at_panel) *p, AT_REAL *factor, const bool masked)
{
    AT(v) lowest = AT_V(splat)(-(AT_REAL)INFINITY);
    for (int j = 0; j < AT_Q; j += AT_LANES) {
        AT(v) before = AT_V(load)(p->most + j), m[4] = {before, lowest, lowest, lowest}, total[4] = {{0}, {0}, {0}, {0}};
        int64_t k = 0;
        for (; k + 4 <= kc; k += 4)
            TL_UNROLL for (int i = 0; i < 4; i++) m[i] = AT_V(max)(AT_V(load)(scores + (k + i) * AT_Q + j), m[i]);
        for (; k < kc; k++) m[0] = AT_V(max)(AT_V(load)(scores + k * AT_Q + j), m[0]);
        AT(v) now = AT_V(max)(AT_V(max)(m[0], m[1]), AT_V(max)(m[2], m[3]));
        AT(v) base = v_select(now == lowest, AT_V(splat)(0), now), scale = AT(at_exp)(before - base, true);
        for (k = 0; k + 4 <= kc; k += 4)
            TL_UNROLL for (int i = 0; i < 4; i++) total[i] += AT(at_exponential)(scores + (k + i) * AT_Q + j, base, masked);
        for (; k < kc; k++) total[0] += AT(at_exponential)(scores + k * AT_Q + j, base, masked);
        AT_V(store)(p->most + j, now);
        AT_V(store)(factor + j, scale);
        AT_V(store)(p->sum + j, AT_V(fma)(AT_V(load)(p->sum + j), scale, (total[0] + total[1]) + (total[2] + total[3])));
    }
}

/* Row i of x, for i < used, is column i of the panel (width, AT_Q), times scale[i]. */
static void AT(at_unpack)(AT_REAL *x, int64_t step, int64_t used, AT_REAL *panel, int64_t width, const AT_REAL *scale)
{
    enum { TURN = AT(MM_TURN) };
    for (int64_t w = 0; w < width; w++)
        for (int j = 0; j < AT_Q; j += AT_LANES) AT_V(store)(panel + w * AT_Q + j, AT_V(load)(panel + w * AT_Q + j) * AT_V(load)(scale + j));
    int64_t turned = width - width % TURN, i = 0;
    for (; i + AT_LANES <= used; i += AT_LANES)
        for (int64_t w = 0; w < turned; w += TURN) AT(mm_turn)(x + i * step + w, step, panel + w * AT_Q + i, AT_Q);
    for (int64_t k = 0; k < used; k++)
        for (int64_t w = k < i ? turned : 0; w < width; w++) x[k * step + w] = panel[w * AT_Q + k];
}

/* One block of keys and values joins a panel's result. */
static void AT(at_attend)(const tl_attention_head *h, AT(at_panel) *p, const AT(at_near) *near, int64_t k0, int64_t kc)
{
    AT_ALIGNED AT_REAL scores[TL_ATTENTION_KEYS * AT_Q], factor[AT_Q];
    AT(at_scores)(h, p, near->k, k0, kc, scores);
    if (AT(at_hides)(h, p, k0, kc)) AT(at_exponentials)(scores, kc, p, factor, true);
    else AT(at_exponentials)(scores, kc, p, factor, false);
    if (h->dropout > 0) {
        AT_ALIGNED AT_REAL kept[TL_ATTENTION_KEYS * AT_Q];
        AT(at_dropout)(h, p, k0, kc, kept);
        for (int64_t i = 0; i < kc * AT_Q; i += AT_LANES) AT_V(store)(scores + i, AT_V(load)(scores + i) * AT_V(load)(kept + i));
    }
    if (k0) AT(at_over_queries)(AT_SCALE, h->dv, kc, near->v, 1, h->dv, scores, p->out, factor);
    else AT(at_over_queries)(AT_STORE, h->dv, kc, near->v, 1, h->dv, scores, p->out, NULL);
}

static void AT(at_finish)(const tl_attention_head *h, AT(at_panel) *p)
{
    AT_REAL *stats = (AT_REAL *)h->stats + p->first, inverse[AT_Q];
    for (int64_t j = 0; j < AT_Q; j++) inverse[j] = p->sum[j] == 0 ? 0 : 1 / p->sum[j];
    for (int64_t j = 0; j < p->used; j++) stats[j] = p->sum[j] == 0 ? 0 : p->most[j], stats[h->l + j] = inverse[j];
    AT(at_unpack)((AT_REAL *)h->out + p->first * h->os, h->os, p->used, p->out, h->dv, inverse);
}

static void AT(at_forward)(const tl_attention_head *h, int64_t begin, int64_t end, void *room)
{
    AT(at_panel) panels[TL_ATTENTION_GROUP];
    AT(at_near) near;
    AT(at_furnish)(h, panels, &near, room);
    for (int64_t first = begin * TL_ATTENTION_GROUP * AT_Q; first < h->l && first < end * TL_ATTENTION_GROUP * AT_Q; first += TL_ATTENTION_GROUP * AT_Q) {
        int n = AT(at_group)(h, panels, first);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < AT_Q; j++) panels[i].most[j] = -(AT_REAL)INFINITY, panels[i].sum[j] = 0;
        int64_t reach = panels[n - 1].reach;
        for (int64_t k0 = 0, kc; k0 < reach; k0 += kc) {
            kc = reach - k0 < TL_ATTENTION_KEYS ? reach - k0 : TL_ATTENTION_KEYS;
            AT(at_fetch)(near.k, (const AT_REAL *)h->k + k0 * h->ks, h->ks, kc, h->d);
            AT(at_fetch)(near.v, (const AT_REAL *)h->v + k0 * h->vs, h->vs, kc, h->dv);
            for (int i = 0; i < n; i++)
                if (panels[i].reach > k0) AT(at_attend)(h, &panels[i], &near, k0, AT(at_seen)(&panels[i], k0, kc));
        }
        for (int i = 0; i < n; i++) AT(at_finish)(h, &panels[i]);
    }
}

/* ---- backward ---- */

/* A panel's rows of x, side by side, times scale, zeros behind `used` and behind `width`. */
static void AT(at_take)(AT_REAL *rows, int64_t padded, const AT_REAL *x, int64_t step, int64_t used, int64_t width, AT_REAL scale)
{
    for (int64_t i = 0; i < AT_Q; i++)
        for (int64_t j = 0; j < padded; j++) rows[i * padded + j] = i < used && j < width ? x[i * step + j] * scale : 0;
}

/* scores -> p, dp -> ds, with p times dropout left in scores: ds = p (dp - delta) */
TL_INLINE void AT(at_slopes)(AT_REAL *scores, AT_REAL *dp, const AT_REAL *kept, int64_t kc, const AT(at_panel) *of, const bool masked)
{
    for (int j = 0; j < AT_Q; j += AT_LANES) {
        AT(v) m = AT_V(load)(of->most + j), inv = AT_V(load)(of->sum + j), d = AT_V(load)(of->delta + j);
        for (int64_t i = j; i < kc * AT_Q; i += AT_Q) {
            AT(v) p = AT(at_exp)(AT_V(load)(scores + i) - m, masked) * inv, slope = AT_V(load)(dp + i);
            if (kept) slope *= AT_V(load)(kept + i);
            AT_V(store)(scores + i, kept ? p * AT_V(load)(kept + i) : p);
            AT_V(store)(dp + i, p * (slope - d));
        }
    }
}

/* out[i] = row i of a times row i of b, for i < used; zero behind */
static void AT(at_dots)(AT_REAL *out, const AT_REAL *a, int64_t a_step, const AT_REAL *b, int64_t b_step, int64_t used, int64_t width)
{
    AT_ALIGNED AT_REAL sums[AT_Q * AT_LANES], turned[AT_LANES * AT_Q];
    for (int64_t i = 0; i < used; i++) {
        AT(v) sum = AT_V(splat)(0);
        for (int64_t j = 0; j < width; j += AT_LANES) {
            int left = width - j < AT_LANES ? (int)(width - j) : AT_LANES;
            sum = AT_V(fma)(AT(mm_load_upto)(a + i * a_step + j, left), AT(mm_load_upto)(b + i * b_step + j, left), sum);
        }
        AT_V(store)(sums + i * AT_LANES, sum);
    }
    AT(mm_pack)(turned, AT_Q, (int)used, AT_LANES, sums, AT_LANES, 1);
    for (int j = 0; j < AT_Q; j += AT_LANES) {
        AT(v) sum = AT_V(load)(turned + j);
        for (int k = 1; k < AT_LANES; k++) sum += AT_V(load)(turned + k * AT_Q + j);
        AT_V(store)(out + j, sum);
    }
}

static void AT(at_prepare)(const tl_attention_head *h, const tl_attention_grad *g, AT(at_panel) *p)
{
    const AT_REAL *q = (const AT_REAL *)h->q + p->first * h->qs, *go = (const AT_REAL *)g->g + p->first * g->gs;
    const AT_REAL *o = (const AT_REAL *)h->out + p->first * h->os, *stats = (const AT_REAL *)h->stats + p->first;
    AT(at_pack)(p->g_packed, go, g->gs, p->used, h->dv, 1);
    if (g->gk) AT(at_take)(p->q_rows, AT(at_padded)(h->d), q, h->qs, p->used, h->d, (AT_REAL)h->scale);
    if (g->gv) AT(at_take)(p->g_rows, AT(at_padded)(h->dv), go, g->gs, p->used, h->dv, 1);
    for (int64_t j = 0; j < AT_Q; j++) {
        bool real = j < p->used;
        p->most[j] = real ? stats[j] : 0;
        p->sum[j] = real ? stats[h->l + j] : 0;
    }
    AT(at_dots)(p->delta, go, g->gs, o, h->os, p->used, h->dv);
}

/* near (rows of width) joins p (kc, used queries) x (used queries, width); `fresh`: it holds nothing yet, and has so many rows. */
static void AT(at_join_keys)(AT_REAL *near, int64_t fresh, const AT(at_panel) *p, const AT_REAL *scores, int64_t kc, const AT_REAL *x, int64_t width)
{
    if (!fresh) AT(at_over_width)(AT_ADD, kc, p->used, width, scores, x, AT(at_padded)(width), near);
    else AT(at_over_width)(AT_STORE, kc, p->used, width, scores, x, AT(at_padded)(width), near);
    if (fresh > kc) memset(near + kc * width, 0, (size_t)((fresh - kc) * width) * sizeof *near);
}

/* One block of keys and values: a panel's share in all three gradients. `fresh`: the rows of the near gradients, for their first panel. */
static void AT(at_retrace)(const tl_attention_head *h, const tl_attention_grad *g, AT(at_panel) *p, const AT(at_near) *near, int64_t k0, int64_t kc,
                           int64_t fresh)
{
    AT_ALIGNED AT_REAL scores[TL_ATTENTION_KEYS * AT_Q], slopes[TL_ATTENTION_KEYS * AT_Q], kept[TL_ATTENTION_KEYS * AT_Q];
    AT(at_scores)(h, p, near->k, k0, kc, scores);
    AT(at_over_queries)(AT_STORE, kc, h->dv, near->v, h->dv, 1, p->g_packed, slopes, NULL);
    if (h->dropout > 0) AT(at_dropout)(h, p, k0, kc, kept);
    if (h->dropout > 0) AT(at_slopes)(scores, slopes, kept, kc, p, true);
    else if (AT(at_hides)(h, p, k0, kc)) AT(at_slopes)(scores, slopes, NULL, kc, p, true);
    else AT(at_slopes)(scores, slopes, NULL, kc, p, false);
    if (g->gv) AT(at_join_keys)(near->gv, fresh, p, scores, kc, p->g_rows, h->dv);
    if (g->gk) AT(at_join_keys)(near->gk, fresh, p, slopes, kc, p->q_rows, h->d);
    if (g->gq && !k0) AT(at_over_queries)(AT_STORE, h->d, kc, near->k, 1, h->d, slopes, p->gq, NULL);
    else if (g->gq) AT(at_over_queries)(AT_ADD, h->d, kc, near->k, 1, h->d, slopes, p->gq, NULL);
}

static void AT(at_backward)(const tl_attention_head *h, const tl_attention_grad *g, int64_t begin, int64_t end, int64_t k_begin, int64_t k_end, void *room)
{
    AT(at_panel) panels[TL_ATTENTION_GROUP];
    AT(at_near) near;
    AT_REAL scale[AT_Q];
    for (int j = 0; j < AT_Q; j++) scale[j] = (AT_REAL)h->scale;
    AT(at_furnish)(h, panels, &near, room);
    for (int64_t first = begin * TL_ATTENTION_GROUP * AT_Q; first < h->l && first < end * TL_ATTENTION_GROUP * AT_Q; first += TL_ATTENTION_GROUP * AT_Q) {
        int n = AT(at_group)(h, panels, first);
        for (int i = 0; i < n; i++) AT(at_prepare)(h, g, &panels[i]);
        int64_t reach = panels[n - 1].reach < k_end ? panels[n - 1].reach : k_end;
        for (int64_t k0 = k_begin, kc; k0 < reach; k0 += kc) {
            kc = reach - k0 < TL_ATTENTION_KEYS ? reach - k0 : TL_ATTENTION_KEYS;
            AT(at_fetch)(near.k, (const AT_REAL *)h->k + k0 * h->ks, h->ks, kc, h->d);
            AT(at_fetch)(near.v, (const AT_REAL *)h->v + k0 * h->vs, h->vs, kc, h->dv);
            int64_t fresh = kc;
            for (int i = 0; i < n; i++) {
                if (panels[i].reach <= k0) continue;
                AT(at_retrace)(h, g, &panels[i], &near, k0, AT(at_seen)(&panels[i], k0, kc), fresh);
                fresh = 0;
            }
            bool add = first > 0 || !g->fresh;
            if (g->gk) AT(at_deliver)(add, (AT_REAL *)g->gk + k0 * g->gks, g->gks, near.gk, kc, h->d);
            if (g->gv) AT(at_deliver)(add, (AT_REAL *)g->gv + k0 * g->gvs, g->gvs, near.gv, kc, h->dv);
        }
        for (int64_t k = reach > k_begin ? reach : k_begin; g->fresh && first == 0 && k < k_end; k++) { /* keys that no query so far has seen */
            if (g->gk) memset((AT_REAL *)g->gk + k * g->gks, 0, (size_t)h->d * sizeof(AT_REAL));
            if (g->gv) memset((AT_REAL *)g->gv + k * g->gvs, 0, (size_t)h->dv * sizeof(AT_REAL));
        }
        for (int i = 0; g->gq && i < n; i++)
            AT(at_unpack)((AT_REAL *)g->gq + panels[i].first * g->gqs, g->gqs, panels[i].used, panels[i].gq, h->d, scale);
    }
}
#undef AT_LANES
#undef AT_Q
#undef AT_ALIGNED
#endif
