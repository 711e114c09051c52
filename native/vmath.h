/* Elementary functions on vectors: included by vec.h, and for GPUs, where a vector is one lane, by tensorlib/gpu/vec.cuh: written in what C and
 * C++ share. vf_name is float32, vd_name float64 (which calls the C library lane by lane where a vector version would not pay); how far off each
 * may be stands in elementwise.def. All are right at NaN, infinities, signed zeros, subnormals and overflow, and a lane's result depends on that
 * lane alone.
 *
 * Polynomials are minimax fits on the reduced range. A constant split in two, HI and LO, has so few bits in HI that its product with a
 * small integer is exact: nothing here relies on a fused multiply-add. */
#define POLY1(x, c0, c1) v_fma(v_const(x, c1), x, v_const(x, c0))
#define POLY2(x, c0, ...) v_fma(POLY1(x, __VA_ARGS__), x, v_const(x, c0)) /* c0 + c1 x + c2 x^2, and so on */
#define POLY3(x, c0, ...) v_fma(POLY2(x, __VA_ARGS__), x, v_const(x, c0))
#define POLY4(x, c0, ...) v_fma(POLY3(x, __VA_ARGS__), x, v_const(x, c0))
#define POLY5(x, c0, ...) v_fma(POLY4(x, __VA_ARGS__), x, v_const(x, c0))
#define POLY6(x, c0, ...) v_fma(POLY5(x, __VA_ARGS__), x, v_const(x, c0))
#define POLY7(x, c0, ...) v_fma(POLY6(x, __VA_ARGS__), x, v_const(x, c0))
#define POLY8(x, c0, ...) v_fma(POLY7(x, __VA_ARGS__), x, v_const(x, c0))
#define POLY9(x, c0, ...) v_fma(POLY8(x, __VA_ARGS__), x, v_const(x, c0))

/* ---- exp ---- */
/* p * 2^n, rounded once: n holds integers of at most 250 (float64: 2000) in size. */
TL_INLINE vf vf_scale(vf p, vf n)
{
#if TL_VBYTES == 64
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    v_i32 k = __builtin_convertvector(n, v_i32), half = k >> 1;
    vf a = (vf)((half + 127) << 23), b = (vf)((k - half + 127) << 23);
    return p * a * b;
#endif
}
/* 2^n, normal */
TL_INLINE vf vf_pow2(vf n)
{
#if TL_VBYTES == 64
    return (vf)_mm512_scalef_ps((__m512)vf_splat(1), (__m512)n);
#else
    return (vf)((__builtin_convertvector(n, v_i32) + 127) << 23);
#endif
}
/* The integer in n = rint(...) as bits: 1.5 * 2^52 more and the significand holds it in two's complement. */
TL_INLINE v_u64 vd_bits(vd n) { return (v_u64)(n + 0x1.8p52) - 0x4338000000000000u; }
TL_INLINE vd vd_scale(vd p, vd n)
{
#if TL_VBYTES == 64
    return (vd)_mm512_scalef_pd((__m512d)p, (__m512d)n);
#else
    vd half = vd_rint(n * 0.5);
    return p * (vd)((vd_bits(half) + 1023) << 52) * (vd)((vd_bits(n - half) + 1023) << 52);
#endif
}

/* exp(x) = (1 + p) * 2^n: what the functions below start from. x is clamped to where the result is 0 or overflows. */
typedef struct { vf p, n; } vf_exp_parts;
typedef struct { vd p, n; } vd_exp_parts;
TL_INLINE vf vf_exp_n(vf x) { return vf_fma(x, vf_splat(0x1.715476p+0f), vf_splat(0x1.8p23f)) - 0x1.8p23f; }
TL_INLINE vf vf_exp_r(vf x, vf n) { return vf_fma(n, vf_splat(0x1.bd0106p-13f), vf_fma(n, vf_splat(-0x1.63p-1f), x)); }
/* (exp(c r) - 1 - c r) / r^2 for a constant c, a power of two */
TL_INLINE vf vf_exp_q(vf r, float c)
{
    return POLY4(r, 0.4999999305f * c * c, 0.1666651479f * c * c * c, 0.04166845683f * c * c * c * c, 0.008369419043f * c * c * c * c * c,
                 0.001381314236f * c * c * c * c * c * c);
}
TL_INLINE vf vf_exp_clamp(vf x) { return vf_max(vf_splat(-120), vf_min(vf_splat(89), x)); }
TL_INLINE vf_exp_parts vf_exp_open(vf x)
{
    x = vf_exp_clamp(x);
    vf n = vf_exp_n(x), r = vf_exp_r(x, n);
    vf_exp_parts made = {vf_fma(vf_exp_q(r, 1), r * r, r), n};
    return made;
}
/* exp(c (hi + lo)) for -200 <= c hi <= 0, c a power of two, |c lo| <= 0.05: everything is held divided by c until the end */
TL_INLINE vf_exp_parts vf_exp_open2(float c, vf hi, vf lo)
{
    vf n = vf_fma(hi, vf_splat(c * 0x1.715476p+0f), vf_splat(0x1.8p23f)) - 0x1.8p23f;
    vf r = vf_fma(n, vf_splat(0x1.bd0106p-13f / c), vf_fma(n, vf_splat(-0x1.63p-1f / c), hi)) + lo;
    vf_exp_parts made = {r * vf_fma(vf_exp_q(r, c), r, vf_splat(c)), n};
    return made;
}
TL_INLINE vd vd_exp_n(vd x) { return vd_fma(x, vd_splat(0x1.71547652b82fep+0), vd_splat(0x1.8p52)) - 0x1.8p52; }
TL_INLINE vd vd_exp_r(vd x, vd n) { return vd_fma(n, vd_splat(-0x1.a39ef35793c76p-33), vd_fma(n, vd_splat(-0x1.62e42feep-1), x)); }
/* exp(r) - 1 */
TL_INLINE vd vd_exp_p(vd r)
{
    vd q = POLY9(r, 0.500000000000000104, 0.166666666666666675, 0.0416666666666234768, 0.00833333333333001176, 0.00138888889175382958,
                 0.000198412698633032233, 2.48015207925726928e-05, 2.75572680728900983e-06, 2.76203274282682382e-07, 2.51005692758136826e-08);
    return vd_fma(q, r * r, r);
}
TL_INLINE vd_exp_parts vd_exp_open(vd x)
{
    x = vd_max(vd_splat(-760), vd_min(vd_splat(710), x));
    vd n = vd_exp_n(x);
    vd_exp_parts made = {vd_exp_p(vd_exp_r(x, n)), n};
    return made;
}
TL_INLINE vf vf_exp(vf x)
{
    x = vf_exp_clamp(x);
    vf n = vf_exp_n(x), r = vf_exp_r(x, n);
    return vf_scale(vf_fma(vf_fma(vf_exp_q(r, 1), r, vf_splat(1)), r, vf_splat(1)), n);
}
TL_INLINE vd vd_exp(vd x) { vd_exp_parts e = vd_exp_open(x); return vd_scale(1 + e.p, e.n); }

TL_INLINE vf vf_exp2(vf x)
{
    x = vf_max(vf_splat(-200), vf_min(vf_splat(129), x));
    vf n = vf_rint(x), r = x - n;
    vf q = POLY4(r, 0.2402265116f, 0.05550360862f, 0.009618021059f, 0.001339089452f, 0.0001547238337f);
    return vf_scale(1 + vf_fma(r, vf_fma(r, q, vf_splat(1.9046542e-09f)), r * 0.693147182f), n);
}

/* expm1 without the care for tiny arguments: (2^n - 1) + p 2^n, all halved so that 2^128 is not needed. */
TL_INLINE vf vf_expm1_open(vf x)
{
    vf_exp_parts e = vf_exp_open(vf_max(vf_splat(-20), x));
    vf h = (vf)((__builtin_convertvector(e.n, v_i32) + 126) << 23);
    return 2 * vf_fma(e.p, h, h - 0.5f);
}
TL_INLINE vd vd_expm1_open(vd x)
{
    vd_exp_parts e = vd_exp_open(vd_max(vd_splat(-50), x));
    vd h = (vd)((vd_bits(e.n) + 1022) << 52);
    return 2 * vd_fma(e.p, h, h - 0.5);
}
TL_INLINE vf vf_expm1(vf x) { return v_select(vf_abs(x) < 0x1p-25f, x, vf_expm1_open(x)); }
TL_INLINE vd vd_expm1(vd x) { return v_select(vd_abs(x) < 0x1p-54, x, vd_expm1_open(x)); }

/* Near 0 a polynomial, else t / (t + 2) with t = expm1(2|x|): where t is inexact, for large x, its errors cancel. From 9.02 on it is 1. */
TL_INLINE vf vf_tanh(vf x)
{
    vf a = vf_abs(x), z = a * a, near = vf_fma(a * z, POLY3(z, -0.3333332115f, 0.1333235633f, -0.05372367266f, 0.01942536683f), a);
    vf d = vf_min(vf_splat(18.04f), a + a);
    vf n = vf_exp_n(d), r = vf_exp_r(d, n), h = vf_pow2(n);
    vf t = vf_fma(vf_fma(vf_exp_q(r, 1), r * r, r), h, h - 1);
    return vf_signed(v_select(a < 0.35f, near, t / (t + 2)), x);
}
TL_INLINE vd vd_tanh(vd x)
{
    vd a = vd_abs(x), t = vd_expm1_open(-2 * a);
    return v_select(a < 0x1p-28, x, vd_signed(vd_abs(t / (t + 2)), x));
}

/* With e = exp(-|x|) nothing overflows: 1 / (1 + e) for x >= 0, e / (1 + e) below. `low` is what the sum 1 + e has lost. */
TL_INLINE vf vf_sigmoid(vf x)
{
    vf e = vf_exp(-vf_abs(x)), sum = 1 + e, low = e - (sum - 1);
    vf y = v_select(x < 0, e, vf_splat(1)) / sum;
    return vf_fma(-y, low * (1 - 0.5f * e), y); /* low / sum, near enough */
}
TL_INLINE vd vd_sigmoid(vd x)
{
    vd e = vd_exp(-vd_abs(x));
    return v_select(x < 0, e, vd_splat(1)) / (1 + e);
}
/* x / (1 + exp(v)) where x > 0, x exp(v) / (1 + exp(v)) below, v <= 0. Scaled last: exp(v) alone may be subnormal; then made good for
 * what the sums 1 + p and 1 + exp(v) have lost. */
TL_INLINE vf vf_times_sigmoid(vf x, vf_exp_parts v, float nothing_below)
{
    vf m = 1 + v.p, e = vf_scale(m, v.n), sum = 1 + e, y = x / sum;
    vf m_low = v.p - (m - 1), low = e - (sum - 1);
    vf z = m * y;
    z = vf_fma(z, m_low * (2 - m) - low * (1 - 0.5f * e), z);
    return v_select(x < 0, v_select(x < nothing_below, x * 0, vf_scale(z, v.n)), y);
}
TL_INLINE vf vf_silu(vf x) { return vf_times_sigmoid(x, vf_exp_open(-vf_abs(x)), -120); }
TL_INLINE vd vd_silu(vd x)
{
    vd_exp_parts e = vd_exp_open(-vd_abs(x));
    vd m = 1 + e.p, y = x / (1 + vd_scale(m, e.n));
    return v_select(x < 0, v_select(x < -760, x * 0, vd_scale(m * y, e.n)), y);
}
TL_INLINE vf vf_silu_slope(vf x) { vf s = vf_sigmoid(x); return s * (1 + x * (1 - s)); }
TL_INLINE vd vd_silu_slope(vd x) { vd s = vd_sigmoid(x); return s * (1 + x * (1 - s)); }

/* ---- log ---- */
/* log(1 + f) - f for 1 + f from 3/4 to 3/2; doubles: for 1 + f from sqrt(1/2) to sqrt(2) */
TL_INLINE vf vf_log1p_rest(vf f)
{
    vf q = POLY7(f, 0.3333344943f, -0.2500009691f, 0.1999084547f, -0.1664724541f, 0.1447851086f, -0.1316207777f, 0.1046429709f, -0.04507951611f);
    return f * f * vf_fma(f, q, vf_splat(-0.5f));
}
TL_INLINE vd vd_log1p_rest(vd f)
{
    vd s = f / (2 + f), z = s * s, h = 0.5 * f * f;
    vd q = z * POLY6(z, 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
                     1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01);
    return s * (h + q) - h;
}
/* x = (1 + f) * 2^e with f in that range, for finite x > 0. AVX-512 does it in hardware, and for any x: e is -inf at 0, f NaN below. */
typedef struct { vf f, e; } vf_log_parts;
TL_INLINE vf_log_parts vf_log_open(vf x)
{
#if TL_VBYTES == 64
    vf m = (vf)_mm512_getmant_ps((__m512)x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    vf e = (vf)_mm512_getexp_ps((__m512)x); /* of the m < 1 the next */
    vf_log_parts made = {m - 1, v_select(m < 1, e + 1, e)};
    return made;
#else
    v_i32 small = x < 0x1p-126f;
    v_u32 bits = (v_u32)v_select(small, x * 0x1p23f, x) - 0x3f400000u;
    vf e = __builtin_convertvector((v_i32)bits >> 23, vf) - v_and(small, vf_splat(23));
    vf_log_parts made = {(vf)((bits & 0x7fffffu) + 0x3f400000u) - 1, e};
    return made;
#endif
}
typedef struct { vd f, e; } vd_log_parts;
TL_INLINE vd_log_parts vd_log_open(vd x)
{
    v_i64 small = (v_i64)(x < 0x1p-1022);
    v_u64 bits = (v_u64)v_select(small, x * 0x1p52, x) - 0x3fe6a09e667f3bcdu;
    vd e = (vd)(((bits + 0x4000000000000000u) >> 52) + 0x4330000000000000u) - (0x1p52 + 1024) - v_and(small, vd_splat(52)); /* no signed shift by 52 in AVX2 */
    vd_log_parts made = {(vd)((bits & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu) - 1, e};
    return made;
}
/* result, but -inf where x is 0, NaN below, x at +inf and NaN */
TL_INLINE vf vf_log_edges(vf x, vf result)
{
    result = v_select(x < INFINITY, result, x);
    return v_select(x > 0, result, v_select(x == 0, vf_splat(-INFINITY), x + NAN));
}
TL_INLINE vd vd_log_edges(vd x, vd result)
{
    result = v_select((v_i64)(x < (double)INFINITY), result, x);
    return v_select((v_i64)(x > 0), result, v_select((v_i64)(x == 0), vd_splat(-INFINITY), x + (double)NAN));
}
TL_INLINE vf vf_log_done(vf x, vf result) { return TL_VBYTES == 64 ? result : vf_log_edges(x, result); }
/* The low parts of logarithms of 2 are positive: at e = -inf both products are then -inf. */
#define LN2_HI 0x1.62p-1f
#define LN2_LO 0.00174093055994530942f
TL_INLINE vf vf_log(vf x)
{
    vf_log_parts p = vf_log_open(x);
    vf rest = vf_fma(p.e, vf_splat(LN2_LO), vf_log1p_rest(p.f));
    return vf_log_done(x, vf_fma(p.e, vf_splat(LN2_HI), p.f + rest));
}
TL_INLINE vd vd_log(vd x)
{
    vd_log_parts p = vd_log_open(x);
    vd rest = vd_fma(p.e, vd_splat(0x1.a39ef35793c76p-33), vd_log1p_rest(p.f));
    return vd_log_edges(x, vd_fma(p.e, vd_splat(0x1.62e42feep-1), p.f + rest));
}
/* To another base: c = 1/log(b) as c_hi + c_lo, log(2)/log(b) as l_hi + l_lo; c_hi times the upper half of f is exact. */
TL_INLINE vf vf_log_to(vf x, double c, float c_hi, float l_hi, float l_lo)
{
    vf_log_parts p = vf_log_open(x);
    vf upper = (vf)((v_u32)p.f & 0xfffff000u);
    vf rest = vf_log1p_rest(p.f) * (float)c + vf_fma(p.f - upper, vf_splat((float)c), upper * (float)(c - c_hi));
    if (l_lo != 0) rest = vf_fma(p.e, vf_splat(l_lo), rest);
    return vf_log_done(x, vf_fma(p.e, vf_splat(l_hi), upper * c_hi) + rest);
}
TL_INLINE vf vf_log2(vf x) { return vf_log_to(x, 1.4426950408889634, 0x1.714p+0f, 1, 0); }
TL_INLINE vf vf_log10(vf x) { return vf_log_to(x, 0.4342944819032518, 0x1.bccp-2f, 0x1.344p-2f, 0x1.3509f8p-18f); }

/* 1 + x = (1 + f) * 2^e with f from x itself, not from the rounded sum: f = x 2^-e + (2^-e - 1). */
TL_INLINE vf vf_log1p(vf x)
{
    v_u32 i = ((v_u32)(1 + x) - 0x3f400000u) & 0xff800000u;
    vf f = (vf)((v_u32)x - i) + ((vf)(0x40800000u - i) * 0.25f - 1);
    vf e = __builtin_convertvector((v_i32)i >> 23, vf);
    vf rest = vf_fma(e, vf_splat(LN2_LO), vf_log1p_rest(f));
    vf y = vf_log_edges(1 + x, vf_fma(e, vf_splat(LN2_HI), f + rest));
    return v_select(vf_abs(x) < 0x1p-25f, x, y);
}
TL_INLINE vd vd_log1p(vd x)
{
    v_u64 i = ((v_u64)(1 + x) - 0x3fe6a09e667f3bcdu) & 0xfff0000000000000u;
    vd f = (vd)((v_u64)x - i) + ((vd)(0x4010000000000000u - i) * 0.25 - 1);
    vd e = (vd)(((i + 0x4000000000000000u) >> 52) + 0x4330000000000000u) - (0x1p52 + 1024);
    vd rest = vd_fma(e, vd_splat(0x1.a39ef35793c76p-33), vd_log1p_rest(f));
    vd y = vd_log_edges(1 + x, vd_fma(e, vd_splat(0x1.62e42feep-1), f + rest));
    return v_select((v_i64)(vd_abs(x) < 0x1p-54), x, y);
}
TL_INLINE vf vf_softplus(vf x) { return vf_max(vf_splat(0), x) + vf_log1p(vf_exp(-vf_abs(x))); }
TL_INLINE vd vd_softplus(vd x) { return vd_max(vd_splat(0), x) + vd_log1p(vd_exp(-vd_abs(x))); }
TL_INLINE vf vf_mish_slope(vf x) { vf t = vf_tanh(vf_softplus(x)); return t + x * vf_sigmoid(x) * (1 - t * t); }
TL_INLINE vd vd_mish_slope(vd x) { vd t = vd_tanh(vd_softplus(x)); return t + x * vd_sigmoid(x) * (1 - t * t); }

/* ---- erf, gelu ---- */
/* a * a = hi + lo */
TL_INLINE vf vf_square_exact(vf a, vf *lo)
{
#if TL_VBYTES > 16
    vf hi = a * a;
    *lo = vf_fma(a, a, -hi);
    return hi;
#else
    vf h = (vf)((v_u32)a & 0xfffff000u); /* so few bits that its square is exact */
    *lo = (a - h) * (a + h);
    return h * h;
#endif
}
TL_INLINE vf vf_erf(vf x)
{
    vf a = vf_abs(x), t = vf_min(vf_splat(4.5f), a), s = t * t;
    vf near = vf_fma(POLY5(s, 0.128379166f, -0.376125336f, 0.112819925f, -2.67681349e-2f, 4.99119423e-3f, -5.96761703e-4f), a, a);
    vf r = POLY6(t, -0.128717512f, -0.634846687f, -0.106777877f, 2.42546219e-2f, -3.88396438e-3f, 3.83197126e-4f, -1.7285347e-5f);
    vf far = 1 - vf_exp(vf_fma(r, t, -t)); /* log(erfc(t)) is smooth */
    return vf_signed(v_select(a > 0.927734375f, far, near), x);
}
/* tail(a) / density(a) of the normal distribution (with density exp(-a^2 / 2)): on each of 16 intervals of [0, 15) a polynomial in a - center.
 * a + 1 in [1, 16) has 4 exponents; with two bits of the significand they number the intervals (modulo 16). Rows: center, c0 ... c5. */
TL_TABLE const float tl_tail_table[7][16] = {
    {1.25f, 1.75f, 2.25f, 2.75f, 3.5f, 4.5f, 5.5f, 6.5f, 8.0f, 10.0f, 12.0f, 14.0f, 0.125f, 0.375f, 0.625f, 0.875f},
    {0.230760321f, 0.185231671f, 0.153651938f, 0.130724728f, 0.106345162f, 0.084803395f, 0.0703426972f, 0.0600156747f,
     0.0491225496f, 0.0395066962f, 0.0330189727f, 0.0283526611f, 0.453793228f, 0.379604429f, 0.323356181f, 0.279770583f},
    {-0.110491879f, -0.0747868642f, -0.0532254204f, -0.0394492634f, -0.0267342422f, -0.0173270162f, -0.0120574636f, -0.00884039048f,
     -0.00596191082f, -0.0038753394f, -0.00271462742f, -0.00200503296f, -0.342218131f, -0.256590605f, -0.196844682f, -0.154143035f},
    {0.0463214032f, 0.0271768179f, 0.0169471614f, 0.0111195398f, 0.00638715923f, 0.00341577479f, 0.00201327889f, 0.00127655163f,
     0.000713556539f, 0.000376632583f, 0.00022171544f, 0.000141097262f, 0.205506936f, 0.14169091f, 0.100163803f, 0.0724475235f},
    {-0.0175293759f, -0.00907546002f, -0.00503125275f, -0.00295674475f, -0.00145908433f, -0.000651788316f, -0.000328056631f,
     -0.000180897667f, -8.42818627e-05f, -3.62778846e-05f, -1.79926683e-05f, -9.88159354e-06f, -0.105509959f, -0.0678187907f,
     -0.0447473601f, -0.0302504208f},
    {0.00615966041f, 0.00284539489f, 0.00141563895f, 0.000751070853f, 0.000325402216f, 0.000122136582f, 5.27143784e-05f,
     2.53549788e-05f, 1.00246398e-05f, 3.51060453e-06f, 1.46496211e-06f, 6.93747097e-07f, 0.0482581295f, 0.0291618407f,
     0.0181034859f, 0.0115257809f},
    {-0.00199314672f, -0.000831508602f, -0.000375076372f, -0.00018120381f, -6.86717976e-05f, -2.19668491e-05f, -8.2095803e-06f,
     -3.46799197e-06f, -1.15343221e-06f, -3.32190979e-07f, -1.17376786e-07f, -4.81225868e-08f, -0.0199402738f, -0.0114062019f,
     -0.00670587644f, -0.00404571835f},
};
/* At a = |x| (at most 14.99, beyond which all is 0): the density times sqrt(2 pi) and the upper tail, both still to be scaled by 2^n. */
typedef struct { vf a, density, tail, n; } vf_normal;
TL_INLINE vf_normal vf_normal_open(vf x)
{
    vf a = vf_min(vf_splat(14.99f), vf_abs(x)), lo, hi = vf_square_exact(a, &lo);
    vf_exp_parts e = vf_exp_open2(-0.5f, hi, lo);
    v_u32 i = (v_u32)(a + 1) >> 21;
    vf d = a - vf_lookup(tl_tail_table[0], i), r = vf_lookup(tl_tail_table[6], i);
    for (int k = 5; k > 0; k--) r = vf_fma(r, d, vf_lookup(tl_tail_table[k], i));
    vf_normal made = {a, 1 + e.p, vf_fma(r, e.p, r), e.n};
    return made;
}
TL_INLINE vf vf_gelu(vf x) /* max(x, 0) - |x| tail */
{
    vf_normal d = vf_normal_open(x);
    return vf_max(vf_splat(0), x) - vf_scale(d.a * d.tail, d.n);
}
TL_INLINE vf vf_gelu_slope(vf x)
{
    vf_normal d = vf_normal_open(x);
    vf tail = vf_scale(d.tail, d.n);
    return vf_fma(vf_signed(d.a, x) * 0.3989422804f, vf_scale(d.density, d.n), v_select(x < 0, tail, 1 - tail));
}
/* x sigmoid(v), v = x (c1 + c2 x^2), is gelu's tanh form. v in float64: an error of v is one of the result's tail. */
#define GELU_C1 1.5957691216057308
#define GELU_C2 0.07135481627260025
TL_INLINE vf_exp_parts vf_gelu_tanh_open(vf x)
{
    vd2 a = vd2_from_vf(vf_min(vf_splat(12), vf_abs(x)));
    vd v0 = a.lo * (GELU_C1 + GELU_C2 * a.lo * a.lo), v1 = a.hi * (GELU_C1 + GELU_C2 * a.hi * a.hi);
    vf hi = vf_from_vd2(v0, v1);
    vd2 back = vd2_from_vf(hi);
    return vf_exp_open2(-1, hi, vf_from_vd2(v0 - back.lo, v1 - back.hi));
}
TL_INLINE vf vf_gelu_tanh(vf x) { return vf_times_sigmoid(x, vf_gelu_tanh_open(x), -12); }
TL_INLINE vf vf_gelu_tanh_slope(vf x)
{
    vf_exp_parts p = vf_gelu_tanh_open(x);
    vf e = vf_scale(1 + p.p, p.n), y = 1 / (1 + e), s = v_select(x < 0, e * y, y);
    vf slope = (float)GELU_C1 + (float)(3 * GELU_C2) * (x * x);
    return vf_fma(x * slope, e * y * y, s);
}

/* ---- sin, cos, tan ---- */
/* x = n pi/2 + r, |r| <= pi/4, reduced in float64; good to |x| = 2^20. Beyond, lanes go to the C library. */
typedef struct { vf sin, cos; v_i32 n; } vf_trig;
TL_INLINE vf_trig vf_trig_open(vf x)
{
    vd2 d = vd2_from_vf(x);
    vd n0 = (d.lo * 0.6366197723675814 + 0x1.8p52) - 0x1.8p52, n1 = (d.hi * 0.6366197723675814 + 0x1.8p52) - 0x1.8p52;
    vd r0 = (d.lo - n0 * 0x1.921fb544p+0) - n0 * 0x1.0b4611a626331p-34, r1 = (d.hi - n1 * 0x1.921fb544p+0) - n1 * 0x1.0b4611a626331p-34;
    vf r = vf_from_vd2(r0, r1), n = vf_from_vd2(n0, n1), z = r * r;
    vf s = vf_fma(r * z, POLY2(z, -1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f), r);
    vf c = vf_fma(z * z, POLY2(z, 4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f), vf_fma(vf_splat(-0.5f), z, vf_splat(1)));
    vf_trig made = {s, c, __builtin_convertvector(vf_min(vf_splat(0x1p21f), vf_max(vf_splat(-0x1p21f), n)), v_i32)};
    return made;
}
TL_INLINE vf vf_far_lanes(vf x, vf result, float (*f)(float))
{
    v_i32 far = vf_abs(x) > 0x1p20f;
    if (__builtin_expect(v_any(far), 0))
        for (int i = 0; i < VF_LANES; i++)
            if (far[i]) result[i] = f(x[i]);
    return result;
}
/* The sine n quarter turns on: sin, cos, -sin, -cos. */
TL_INLINE vf vf_quarter(vf s, vf c, v_i32 n) { return (vf)((v_i32)v_select((n & 1) != 0, c, s) ^ (v_i32)((v_u32)(n & 2) << 30)); }
TL_INLINE vf vf_sin(vf x) /* of |x|, then the sign: -0 stays */
{
    vf_trig t = vf_trig_open(vf_abs(x));
    vf y = (vf)((v_u32)vf_quarter(t.sin, t.cos, t.n) ^ ((v_u32)x & 0x80000000u));
    return vf_far_lanes(x, y, sinf);
}
TL_INLINE vf vf_cos(vf x) { vf_trig t = vf_trig_open(x); return vf_far_lanes(x, vf_quarter(t.sin, t.cos, t.n + 1), cosf); }
/* sin and cos of 2 pi x for x in [-1/2, 1/2): of the distance to the nearest quarter turn, by polynomial, then turned there. */
TL_INLINE void vf_sincos_turns(vf x, vf *s, vf *c)
{
    vf quarter = vf_rint(x * 4), t = (x - quarter * 0.25f) * 6.283185307f, z = t * t; /* the difference is exact */
    vf a = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * t + t;
    vf b = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1;
    v_i32 q = __builtin_convertvector(quarter, v_i32), odd = (q & 1) != 0;
    vf sine = v_select(odd, b, a), cosine = v_select(odd, a, b);
    *s = (vf)((v_i32)sine ^ ((q & 2) << 30));
    *c = (vf)((v_i32)cosine ^ (((q + 1) & 2) << 30));
}

TL_INLINE void vd_sincos_turns(vd x, vd *s, vd *c)
{
    vd quarter = vd_rint(x * 4), t = (x - quarter * 0.25) * 6.283185307179586477, z = t * t;
    vd p = ((((1.58962301576546568060e-10 * z - 2.50507477628578072866e-8) * z + 2.75573136213857245213e-6) * z - 1.98412698295895385996e-4) * z +
            8.33333333332211858878e-3) * z - 1.66666666666666307295e-1;
    vd r = ((((-1.13585365213876817300e-11 * z + 2.08757008419747316778e-9) * z - 2.75573141792967388112e-7) * z + 2.48015872888517045348e-5) * z -
            1.38888888888730564116e-3) * z + 4.16666666666665929218e-2;
    vd a = p * z * t + t, b = r * z * z - 0.5 * z + 1;
    v_i64 q = __builtin_convertvector(quarter, v_i64), odd = (q & 1) != 0;
    vd sine = v_select(odd, b, a), cosine = v_select(odd, a, b);
    *s = (vd)((v_i64)sine ^ ((q & 2) << 62));
    *c = (vd)((v_i64)cosine ^ (((q + 1) & 2) << 62));
}

/* ---- through float64: not hot, and exact to the last rounding that way ---- */
/* for 0 <= t <= 10.7: exp(-t^2) / (t + 3) times a polynomial in w = (t - 1) / (t + 3) */
TL_INLINE vd vd_erfc_near(vd t)
{
    vd y = 1 / (t + 3), w = (t - 1) * y;
    return vd_exp(-t * t) * y * POLY9(w, 1.710334308, -2.661057965, 2.847329017, -2.046602894, 0.8490834317, -0.04684259374, -0.1363892331,
                                      0.0356246461, 0.02513761176, -0.01250699016);
}
TL_INLINE vf vf_erfc(vf x)
{
    vd2 t = vd2_from_vf(vf_min(vf_splat(10.7f), vf_abs(x)));
    vf y = vf_from_vd2(vd_erfc_near(t.lo), vd_erfc_near(t.hi));
    return v_select(x < 0, 2 - y, y);
}
TL_INLINE vd vd_cosh_near(vd x) { vd e = vd_exp(x); return 0.5 * (e + 1 / e); }
TL_INLINE vd vd_sinh_near(vd x) { vd e = vd_exp(x); return 0.5 * (e - 1 / e); }
TL_INLINE vf vf_cosh(vf x)
{
    vd2 d = vd2_from_vf(vf_min(vf_splat(100), vf_abs(x)));
    return vf_from_vd2(vd_cosh_near(d.lo), vd_cosh_near(d.hi));
}
TL_INLINE vf vf_sinh(vf x)
{
    vf a = vf_min(vf_splat(100), vf_abs(x));
    vd2 d = vd2_from_vf(a);
    vf y = vf_from_vd2(vd_sinh_near(d.lo), vd_sinh_near(d.hi));
    return vf_signed(v_select(a < 0x1p-10f, vf_fma(a * a, a * 0.16666667f, a), y), x);
}
TL_INLINE vd vd_tan_near(vd x)
{
    vd n = (x * 0.6366197723675814 + 0x1.8p52) - 0x1.8p52, r = (x - n * 0x1.921fb544p+0) - n * 0x1.0b4611a626331p-34, z = r * r;
    vd s = r + r * z * POLY3(z, -1.6666666666666666e-1, 8.3333333333e-3, -1.98412698e-4, 2.7557e-6);
    vd c = 1 + z * POLY4(z, -0.5, 4.16666666666e-2, -1.388888888e-3, 2.480158e-5, -2.7557e-7);
    v_i64 odd = (v_i64)((vd_bits(n) & 1) != 0);
    return v_select(odd, -c, s) / v_select(odd, s, c);
}
TL_INLINE vf vf_tan(vf x)
{
    vd2 d = vd2_from_vf(vf_abs(x));
    return vf_far_lanes(x, (vf)((v_u32)vf_from_vd2(vd_tan_near(d.lo), vd_tan_near(d.hi)) ^ ((v_u32)x & 0x80000000u)), tanf);
}
TL_INLINE vf vf_pow(vf a, vf b)
{
    vf m = vf_abs(a);
    vd2 x = vd2_from_vf(m), y = vd2_from_vf(b);
    vf r = vf_from_vd2(vd_exp(y.lo * vd_log(x.lo)), vd_exp(y.hi * vd_log(x.hi)));
    v_i32 whole = vf_rint(b) == b, odd = whole & (vf_rint(0.5f * b) != 0.5f * b);
    r = v_select((b == 0) | (m == 1), vf_splat(1), r);
    r = vf_signed(r, (vf)(odd & (v_i32)a));
    return v_select(((a < 0) & (a > -INFINITY) & ~whole) | ((b != b) & (a != 1)), vf_splat(NAN), r);
}

/* ---- float64 by the C library, lane by lane ---- */
TL_INLINE vd vd_lanes(vd x, double (*f)(double))
{
    for (int i = 0; i < VD_LANES; i++) x[i] = f(x[i]);
    return x;
}
TL_INLINE vd vd_cos(vd x) { return vd_lanes(x, cos); }
TL_INLINE vd vd_cosh(vd x) { return vd_lanes(x, cosh); }
TL_INLINE vd vd_erf(vd x) { return vd_lanes(x, erf); }
TL_INLINE vd vd_erfc(vd x) { return vd_lanes(x, erfc); }
TL_INLINE vd vd_exp2(vd x) { return vd_lanes(x, exp2); }
TL_INLINE vd vd_log10(vd x) { return vd_lanes(x, log10); }
TL_INLINE vd vd_log2(vd x) { return vd_lanes(x, log2); }
TL_INLINE vd vd_sin(vd x) { return vd_lanes(x, sin); }
TL_INLINE vd vd_sinh(vd x) { return vd_lanes(x, sinh); }
TL_INLINE vd vd_tan(vd x) { return vd_lanes(x, tan); }
TL_INLINE vd vd_pow(vd a, vd b)
{
    for (int i = 0; i < VD_LANES; i++) a[i] = pow(a[i], b[i]);
    return a;
}
/* Phi(x) = erfc(-x / sqrt(2)) / 2; in the left tail the rounding of the argument is made good to first order. */
TL_INLINE double tl_normal_cdf(double x)
{
    double v = x * -0.7071067811865476, p = 0.5 * erfc(v);
    if (x > -1 || x < -38) return p;
    double error = fma(x, -0.7071067811865476, -v) + x * 4.833646656726457e-17;
    return p - p * 2 * v * error;
}
TL_INLINE vd vd_gelu(vd x) { return vd_max(vd_splat(-50), x) * vd_lanes(x, tl_normal_cdf); }
TL_INLINE vd vd_gelu_slope(vd x) { return vd_lanes(x, tl_normal_cdf) + x * 0.3989422804014327 * vd_exp(-0.5 * x * x); }
TL_INLINE vd vd_gelu_tanh(vd x) { return x * vd_sigmoid(x * (GELU_C1 + GELU_C2 * x * x)); }
TL_INLINE vd vd_gelu_tanh_slope(vd x)
{
    vd s = vd_sigmoid(x * (GELU_C1 + GELU_C2 * x * x));
    return s + x * s * (1 - s) * (GELU_C1 + 3 * GELU_C2 * x * x);
}

/* ---- what elementwise.def is written in: v_name for either type, by V_EITHER of the including file ---- */
#define v_cos(x) V_EITHER(cos, x)(x)
#define v_cosh(x) V_EITHER(cosh, x)(x)
#define v_erf(x) V_EITHER(erf, x)(x)
#define v_erfc(x) V_EITHER(erfc, x)(x)
#define v_exp(x) V_EITHER(exp, x)(x)
#define v_exp2(x) V_EITHER(exp2, x)(x)
#define v_expm1(x) V_EITHER(expm1, x)(x)
#define v_gelu(x) V_EITHER(gelu, x)(x)
#define v_gelu_slope(x) V_EITHER(gelu_slope, x)(x)
#define v_gelu_tanh(x) V_EITHER(gelu_tanh, x)(x)
#define v_gelu_tanh_slope(x) V_EITHER(gelu_tanh_slope, x)(x)
#define v_log(x) V_EITHER(log, x)(x)
#define v_log10(x) V_EITHER(log10, x)(x)
#define v_log1p(x) V_EITHER(log1p, x)(x)
#define v_log2(x) V_EITHER(log2, x)(x)
#define v_mish_slope(x) V_EITHER(mish_slope, x)(x)
#define v_sigmoid(x) V_EITHER(sigmoid, x)(x)
#define v_silu(x) V_EITHER(silu, x)(x)
#define v_silu_slope(x) V_EITHER(silu_slope, x)(x)
#define v_sin(x) V_EITHER(sin, x)(x)
#define v_sinh(x) V_EITHER(sinh, x)(x)
#define v_softplus(x) V_EITHER(softplus, x)(x)
#define v_tan(x) V_EITHER(tan, x)(x)
#define v_tanh(x) V_EITHER(tanh, x)(x)
#define v_pow(a, b) V_EITHER(pow, a)(a, b)
#define v_pow_slope(a, b) v_and((b) != 0, (b) * v_pow(a, (b) - 1))

/* The gradient of a maximum: all of g where m holds, half of it where both operands are equal. */
#define v_share(loses, equal, g) v_select(equal, (g) * K(0.5), v_and(~(loses), g))
#define v_larger(a, b) v_select(((a) > (b)) | ((a) != (a)), a, b)
#define v_smaller(a, b) v_select(((a) < (b)) | ((a) != (a)), a, b)
