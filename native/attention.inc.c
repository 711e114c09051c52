/* Scaled dot-product attention of one head, block by block, for one instruction set, in float and double. Driven by attention.c; the
 * contract stands in kernels.h.
 *
 * A block of TL_ATTENTION_ROW bytes' worth of queries lies in the lanes of a few vectors, so everything is computed transposed: scores (keys x
 * queries) = K Q^T, out^T = V^T P. K and V then are the operand whose elements are broadcast, read where they lie, whatever the distance of
 * their rows; only the block of queries is packed. A query's maximum and sum are taken lane by lane, and a query's result depends on its
 * lane alone. Over keys, sums run in blocks of TL_ATTENTION_KEYS: inside a block one fused multiply-add per key, ascending from zero, the block
 * then added. The gradient of keys and values sums over blocks of queries in the same manner.
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
enum { AT_STORE, AT_ADD, AT_SCALE }; /* how a tile joins what is there: instead of it, added to it, added to it times a factor per column */

#define AT_BITS_f32 1.44269504088896340736f
#define AT_BITS_f64 1.0
/* e^(x / BITS) for x <= 0 and NaN; 0 where that is below the smallest normal number */
TL_INLINE vf at_exp_f32(vf x) { return v_select(x < -126.0f, (vf){0}, vf_exp2(vf_max(vf_splat(-126), x))); }
TL_INLINE vd at_exp_f64(vd x) { return v_select(x < -708.0, (vd){0}, vd_exp(vd_max(vd_splat(-708), x))); }

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
#define AT_VECTORS (AT_Q / AT_LANES)
#define AT_ALIGNED _Alignas(TL_ALIGN)

/* C (mr, nv vectors) joins A (mr, kc) B (kc, nv vectors). `left`: columns of the last vector that exist. mr, nv, how are constants. */
TL_INLINE void AT(at_tile)(const int mr, const int nv, const int how, int64_t kc, const AT_REAL *a, int64_t ams, int64_t aks, const AT_REAL *b,
                           int64_t bks, AT_REAL *c, int64_t ldc, int left, const AT_REAL *factor)
{
    AT(v) acc[AT_MR][2], bv[2];
    MM_UNROLL for (int i = 0; i < mr; i++) MM_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = AT_V(splat)(0);
    for (int64_t k = 0; k < kc; k++, a += aks, b += bks) {
        MM_UNROLL for (int j = 0; j < nv; j++) bv[j] = AT_V(load)(b + j * AT_LANES);
        MM_UNROLL for (int i = 0; i < mr; i++) {
            AT(v) av = AT_V(splat)(a[i * ams]);
            MM_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = AT_V(fma)(av, bv[j], acc[i][j]);
        }
    }
    MM_UNROLL for (int i = 0; i < mr; i++) {
        MM_UNROLL for (int j = 0; j < nv; j++) {
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
TL_INLINE void AT(at_rows)(const int nv, const int how, int64_t m, int64_t kc, const AT_REAL *a, int64_t ams, int64_t aks, const AT_REAL *b,
                           int64_t bks, AT_REAL *c, int64_t ldc, int left, const AT_REAL *factor)
{
    for (; m >= AT_MR; m -= AT_MR, a += AT_MR * ams, c += AT_MR * ldc) AT(at_tile)(AT_MR, nv, how, kc, a, ams, aks, b, bks, c, ldc, left, factor);
    for (; m > 0; m--, a += ams, c += ldc) AT(at_tile)(1, nv, how, kc, a, ams, aks, b, bks, c, ldc, left, factor);
}

/* C (m, queries) joins A (m, kc) B (kc, queries). */
TL_INLINE void AT(at_over_queries)(const int how, int64_t m, int64_t kc, const AT_REAL *a, int64_t ams, int64_t aks, const AT_REAL *b, AT_REAL *c,
                                   const AT_REAL *factor)
{
    enum { NV = AT_VECTORS < 2 ? 1 : 2 };
    for (int j = 0; j < AT_Q; j += NV * AT_LANES)
        AT(at_rows)(NV, how, m, kc, a, ams, aks, b + j, AT_Q, c + j, AT_Q, AT_LANES, factor ? factor + j : NULL);
}

/* C (keys, n) += P (keys, used queries) X (used queries, n), the rows of X `width` apart, zeros behind n. */
static void AT(at_over_width)(int64_t keys, int64_t used, int64_t n, const AT_REAL *p, const AT_REAL *x, int64_t width, AT_REAL *c, int64_t ldc)
{
    for (int64_t j = 0; j < n; j += 2 * AT_LANES) {
        int64_t left = n - j;
        if (left > AT_LANES)
            AT(at_rows)(2, AT_ADD, keys, used, p, AT_Q, 1, x + j, width, c + j, ldc, left < 2 * AT_LANES ? (int)left - AT_LANES : AT_LANES, NULL);
        else AT(at_rows)(1, AT_ADD, keys, used, p, AT_Q, 1, x + j, width, c + j, ldc, (int)left, NULL);
    }
}

/* What is at hand for one block of queries. */
typedef struct {
    int64_t first, used;                                     /* of the head's queries; lanes behind `used` hold zeros */
    AT_REAL *packed;                                         /* (d, AT_Q): the queries, times scale and BITS */
    AT_REAL (*rows)[AT_Q];                                   /* room for a block's mask or dropout: (TL_ATTENTION_KEYS, AT_Q) */
} AT(at_block);

/* panel[k][j] = row j of x, element k, times scale */
static void AT(at_pack)(AT_REAL *panel, const AT_REAL *x, int64_t step, int64_t used, int64_t width, AT_REAL scale)
{
    AT(mm_pack)(panel, AT_Q, (int)used, width, x, step, 1);
    for (int64_t i = 0; i < width * AT_Q; i += AT_LANES) AT_V(store)(panel + i, AT_V(load)(panel + i) * scale);
}

/* The mask of keys [k0, k0 + kc) and a block's queries into b->rows, as what is added to the scores. */
static void AT(at_mask)(const tl_attention_head *h, const AT(at_block) *b, int64_t k0, int64_t kc)
{
    AT_ALIGNED AT_REAL turned[AT_Q][TL_ATTENTION_KEYS];
    int64_t at = b->first * h->mask_l + k0 * h->mask_s;
    if (!h->mask_bool) {
        AT(mm_pack)(b->rows[0], AT_Q, (int)b->used, kc, (const AT_REAL *)h->mask + at, h->mask_l, h->mask_s);
        return;
    }
    for (int64_t i = 0; i < b->used; i++) {
        const uint8_t *seen = (const uint8_t *)h->mask + at + i * h->mask_l;
        if (h->mask_s == 1)
            for (int64_t k = 0; k < kc; k++) turned[i][k] = seen[k] ? 0 : -(AT_REAL)INFINITY;
        else
            for (int64_t k = 0; k < kc; k++) turned[i][k] = seen[k * h->mask_s] ? 0 : -(AT_REAL)INFINITY;
    }
    AT(mm_pack)(b->rows[0], AT_Q, (int)b->used, kc, turned[0], TL_ATTENTION_KEYS, 1);
}

/* What dropout multiplies the same block with, into b->rows. */
static void AT(at_dropout)(const tl_attention_head *h, const AT(at_block) *b, int64_t k0, int64_t kc)
{
    AT_ALIGNED AT_REAL turned[AT_Q][TL_ATTENTION_KEYS];
    uint32_t words[TL_ATTENTION_KEYS + 8];
    AT_REAL kept = (AT_REAL)(h->dropout < 1 ? 1 / (1 - h->dropout) : 0);
    for (int64_t i = 0; i < b->used; i++) {
        uint64_t at = h->drawn + (uint64_t)((b->first + i) * h->s + k0), skip = at % 4;
        tl_random_k->words(words, h->seed, h->counter + at / 4, (kc + (int64_t)skip + 3) / 4);
        for (int64_t k = 0; k < kc; k++)
            turned[i][k] = (float)(int32_t)(words[(int64_t)skip + k] >> 8) * 0x1p-24f >= (float)h->dropout ? kept : 0;
    }
    AT(mm_pack)(b->rows[0], AT_Q, (int)b->used, kc, turned[0], TL_ATTENTION_KEYS, 1);
}

/* scores (kc, AT_Q) of keys [k0, k0 + kc) */
static void AT(at_scores)(const tl_attention_head *h, const AT(at_block) *b, int64_t k0, int64_t kc, AT_REAL *scores)
{
    AT(at_over_queries)(AT_STORE, kc, h->d, (const AT_REAL *)h->k + k0 * h->ks, h->ks, 1, b->packed, scores, NULL);
    if (h->mask) {
        AT(at_mask)(h, b, k0, kc);
        for (int64_t i = 0; i < kc * AT_Q; i += AT_LANES)
            AT_V(store)(scores + i, AT_V(fma)(AT_V(load)(b->rows[0] + i), AT_V(splat)(AT(AT_BITS)), AT_V(load)(scores + i)));
    }
    int64_t seen = b->first - k0 + 1; /* keys that lane 0 sees, and every lane after it */
    for (int64_t k = seen > 0 ? seen : 0; h->causal && k < kc; k++) {
        int64_t n = k0 + k - b->first; /* lanes that come before the key */
        for (int64_t j = 0; j < AT_Q && j < n; j++) scores[k * AT_Q + j] = -(AT_REAL)INFINITY;
    }
}

/* How many keys the block sees. */
static int64_t AT(at_reach)(const tl_attention_head *h, const AT(at_block) *b)
{
    int64_t last = b->first + b->used;
    return h->causal && last < h->s ? last : h->s;
}

/* A block of scores becomes its exponentials, against the maximum so far; their sum joins `sum`, and `factor` is what everything summed
 * before has to be multiplied with. A query that has seen no key but masked ones keeps the maximum -inf, and zeros. */
static void AT(at_exponentials)(AT_REAL *scores, int64_t kc, AT_REAL *most, AT_REAL *sum, AT_REAL *factor)
{
    AT(v) lowest = AT_V(splat)(-(AT_REAL)INFINITY);
    for (int j = 0; j < AT_Q; j += AT_LANES) {
        AT(v) before = AT_V(load)(most + j), m[4] = {before, lowest, lowest, lowest}, total[4] = {{0}, {0}, {0}, {0}};
        for (int64_t k = 0; k < kc; k++) m[k & 3] = AT_V(max)(AT_V(load)(scores + k * AT_Q + j), m[k & 3]);
        AT(v) now = AT_V(max)(AT_V(max)(m[0], m[1]), AT_V(max)(m[2], m[3]));
        AT(v) base = v_select(now == lowest, AT_V(splat)(0), now), scale = AT(at_exp)(before - base);
        for (int64_t k = 0; k < kc; k++) {
            AT(v) e = AT(at_exp)(AT_V(load)(scores + k * AT_Q + j) - base);
            AT_V(store)(scores + k * AT_Q + j, e);
            total[k & 3] += e;
        }
        AT_V(store)(most + j, now);
        AT_V(store)(factor + j, scale);
        AT_V(store)(sum + j, AT_V(fma)(AT_V(load)(sum + j), scale, (total[0] + total[1]) + (total[2] + total[3])));
    }
}

/* Row i of x, for i < used, is column i of the panel (width, AT_Q), times scale[i]. */
static void AT(at_unpack)(AT_REAL *x, int64_t step, int64_t used, const AT_REAL *panel, int64_t width, const AT_REAL *scale)
{
    AT_REAL room[16 * AT_Q];
    for (int64_t w = 0; w < width; w += 16) {
        int64_t n = width - w < 16 ? width - w : 16;
        AT(mm_pack)(room, (int)n, (int)n, AT_Q, panel + w * AT_Q, AT_Q, 1);
        for (int64_t i = 0; i < used; i++)
            for (int64_t j = 0; j < n; j++) x[i * step + w + j] = room[i * n + j] * scale[i];
    }
}

static void AT(at_forward)(const tl_attention_head *h, int64_t begin, int64_t end)
{
    AT_ALIGNED AT_REAL packed[TL_ATTENTION_WIDTH * AT_Q], out[TL_ATTENTION_WIDTH * AT_Q], scores[TL_ATTENTION_KEYS * AT_Q], rows[TL_ATTENTION_KEYS][AT_Q];
    AT_ALIGNED AT_REAL most[AT_Q], sum[AT_Q], factor[AT_Q];
    for (int64_t first = begin * AT_Q; first < h->l && first < end * AT_Q; first += AT_Q) {
        AT(at_block) b = {first, h->l - first < AT_Q ? h->l - first : AT_Q, packed, rows};
        AT(at_pack)(packed, (const AT_REAL *)h->q + first * h->qs, h->qs, b.used, h->d, (AT_REAL)(h->scale * AT(AT_BITS)));
        memset(out, 0, (size_t)(h->dv * AT_Q) * sizeof *out);
        for (int j = 0; j < AT_Q; j++) most[j] = -(AT_REAL)INFINITY, sum[j] = 0;
        int64_t reach = AT(at_reach)(h, &b);
        for (int64_t k0 = 0, kc; k0 < reach; k0 += kc) {
            kc = reach - k0 < TL_ATTENTION_KEYS ? reach - k0 : TL_ATTENTION_KEYS;
            AT(at_scores)(h, &b, k0, kc, scores);
            AT(at_exponentials)(scores, kc, most, sum, factor);
            if (h->dropout > 0) {
                AT(at_dropout)(h, &b, k0, kc);
                for (int64_t i = 0; i < kc * AT_Q; i += AT_LANES) AT_V(store)(scores + i, AT_V(load)(scores + i) * AT_V(load)(rows[0] + i));
            }
            AT(at_over_queries)(AT_SCALE, h->dv, kc, (const AT_REAL *)h->v + k0 * h->vs, 1, h->vs, scores, out, factor);
        }
        AT_REAL *stats = (AT_REAL *)h->stats + first;
        for (int j = 0; j < AT_Q; j++) factor[j] = sum[j] == 0 ? 0 : 1 / sum[j];
        for (int64_t j = 0; j < b.used; j++) stats[j] = sum[j] == 0 ? 0 : most[j], stats[h->l + j] = factor[j];
        AT(at_unpack)((AT_REAL *)h->out + first * h->os, h->os, b.used, out, h->dv, factor);
    }
}

/* ---- backward ---- */

/* A block's rows of x, side by side, times scale, zeros behind `used` and behind `width`. */
static void AT(at_gather)(AT_REAL *rows, int64_t padded, const AT_REAL *x, int64_t step, int64_t used, int64_t width, AT_REAL scale)
{
    for (int64_t i = 0; i < AT_Q; i++)
        for (int64_t j = 0; j < padded; j++) rows[i * padded + j] = i < used && j < width ? x[i * step + j] * scale : 0;
}

/* scores -> p, dp -> ds, with p times dropout left in scores: ds = p (dp - delta) */
static void AT(at_slopes)(AT_REAL *scores, AT_REAL *dp, const AT_REAL *kept, int64_t kc, const AT_REAL *most, const AT_REAL *inverse, const AT_REAL *delta)
{
    for (int j = 0; j < AT_Q; j += AT_LANES) {
        AT(v) m = AT_V(load)(most + j), inv = AT_V(load)(inverse + j), d = AT_V(load)(delta + j);
        for (int64_t i = j; i < kc * AT_Q; i += AT_Q) {
            AT(v) p = AT(at_exp)(AT_V(load)(scores + i) - m) * inv, slope = AT_V(load)(dp + i);
            if (kept) slope *= AT_V(load)(kept + i);
            AT_V(store)(scores + i, kept ? p * AT_V(load)(kept + i) : p);
            AT_V(store)(dp + i, p * (slope - d));
        }
    }
}

static int64_t AT(at_padded)(int64_t width) { return (width + AT_LANES - 1) / AT_LANES * AT_LANES; }

static void AT(at_backward)(const tl_attention_head *h, const tl_attention_grad *g, int64_t begin, int64_t end, int64_t k_begin, int64_t k_end)
{
    AT_ALIGNED AT_REAL packed[TL_ATTENTION_WIDTH * AT_Q], g_packed[TL_ATTENTION_WIDTH * AT_Q], q_rows[TL_ATTENTION_WIDTH * AT_Q], g_rows[TL_ATTENTION_WIDTH * AT_Q];
    AT_ALIGNED AT_REAL gq[TL_ATTENTION_WIDTH * AT_Q], scores[TL_ATTENTION_KEYS * AT_Q], slopes[TL_ATTENTION_KEYS * AT_Q], rows[TL_ATTENTION_KEYS][AT_Q];
    AT_ALIGNED AT_REAL most[AT_Q], inverse[AT_Q], delta[AT_Q], scale[AT_Q];
    int64_t wide = AT(at_padded)(h->d), wide_v = AT(at_padded)(h->dv);
    for (int64_t first = begin * AT_Q; first < h->l && first < end * AT_Q; first += AT_Q) {
        AT(at_block) b = {first, h->l - first < AT_Q ? h->l - first : AT_Q, packed, rows};
        int64_t reach = AT(at_reach)(h, &b);
        if (reach <= k_begin && !g->gq) continue;
        const AT_REAL *q = (const AT_REAL *)h->q + first * h->qs, *go = (const AT_REAL *)g->g + first * g->gs, *o = (const AT_REAL *)h->out + first * h->os;
        const AT_REAL *stats = (const AT_REAL *)h->stats + first;
        AT(at_pack)(packed, q, h->qs, b.used, h->d, (AT_REAL)(h->scale * AT(AT_BITS)));
        AT(at_pack)(g_packed, go, g->gs, b.used, h->dv, 1);
        if (g->gk) AT(at_gather)(q_rows, wide, q, h->qs, b.used, h->d, (AT_REAL)h->scale);
        if (g->gv) AT(at_gather)(g_rows, wide_v, go, g->gs, b.used, h->dv, 1);
        for (int64_t j = 0; j < AT_Q; j++) {
            bool real = j < b.used;
            most[j] = real ? stats[j] : 0;
            inverse[j] = real ? stats[h->l + j] : 0;
            delta[j] = real ? AT(mm_dot)(go + j * g->gs, o + j * h->os, h->dv) : 0;
            scale[j] = (AT_REAL)h->scale;
        }
        memset(gq, 0, (size_t)(h->d * AT_Q) * sizeof *gq);
        if (reach > k_end) reach = k_end;
        for (int64_t k0 = k_begin, kc; k0 < reach; k0 += kc) {
            kc = reach - k0 < TL_ATTENTION_KEYS ? reach - k0 : TL_ATTENTION_KEYS;
            AT(at_scores)(h, &b, k0, kc, scores);
            AT(at_over_queries)(AT_STORE, kc, h->dv, (const AT_REAL *)h->v + k0 * h->vs, h->vs, 1, g_packed, slopes, NULL);
            if (h->dropout > 0) AT(at_dropout)(h, &b, k0, kc);
            AT(at_slopes)(scores, slopes, h->dropout > 0 ? rows[0] : NULL, kc, most, inverse, delta);
            if (g->gv) AT(at_over_width)(kc, b.used, h->dv, scores, g_rows, wide_v, (AT_REAL *)g->gv + k0 * g->gvs, g->gvs);
            if (g->gk) AT(at_over_width)(kc, b.used, h->d, slopes, q_rows, wide, (AT_REAL *)g->gk + k0 * g->gks, g->gks);
            if (g->gq) AT(at_over_queries)(AT_ADD, h->d, kc, (const AT_REAL *)h->k + k0 * h->ks, 1, h->ks, slopes, gq, NULL);
        }
        if (g->gq) AT(at_unpack)((AT_REAL *)g->gq + first * g->gqs, g->gqs, b.used, gq, h->d, scale);
    }
}
#undef AT_LANES
#undef AT_Q
#undef AT_VECTORS
#undef AT_ALIGNED
#endif
