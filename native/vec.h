/* Vectors of TL_VBYTES bytes for one instruction set: included by isa.h, once per isa_*.c, after the target is set.
 *
 * v_f32 (short: vf) has VF_LANES floats, v_f64 (vd) VD_LANES doubles, v_u8 ... v_i64 the integers. Arithmetic and comparisons are the
 * compiler's operators: `a * b + 1`, `a < b` (a mask: signed integers of the same width, -1 where true). What operators lack is here, spelled
 * vf_name for float32, vd_name for float64 and v_name for either. Intrinsics appear in this file only. */
#ifndef TL_VEC_H
#define TL_VEC_H

/* For functions of `const` parameters that are constants where they are called. */
#define TL_TEMPLATE static inline __attribute__((always_inline))
#ifdef TL_SMALL /* setup.py: kernels for old processors, where the compiler may call what it would rather not repeat */
#define TL_INLINE static inline
#else
#define TL_INLINE TL_TEMPLATE
#endif
#define TL_UNUSED __attribute__((unused))
#define TL_TABLE static __attribute__((aligned(64)))
/* Before a loop whose length is a constant once its function is inlined: its body so many times, so that arrays of vectors become registers. */
#ifdef __clang__
#define TL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TL_UNROLL _Pragma("GCC unroll 36")
#endif

typedef uint8_t s_u8;
typedef int8_t s_i8;
typedef uint16_t s_u16;
typedef int16_t s_i16;
typedef uint32_t s_u32;
typedef int32_t s_i32;
typedef uint64_t s_u64;
typedef int64_t s_i64;
typedef float s_f32;
typedef double s_f64;
typedef s_u8 v_u8 __attribute__((vector_size(TL_VBYTES)));
typedef s_i8 v_i8 __attribute__((vector_size(TL_VBYTES)));
typedef s_u16 v_u16 __attribute__((vector_size(TL_VBYTES)));
typedef s_i16 v_i16 __attribute__((vector_size(TL_VBYTES)));
typedef s_u32 v_u32 __attribute__((vector_size(TL_VBYTES)));
typedef s_i32 v_i32 __attribute__((vector_size(TL_VBYTES)));
typedef s_u64 v_u64 __attribute__((vector_size(TL_VBYTES)));
typedef s_i64 v_i64 __attribute__((vector_size(TL_VBYTES)));
typedef s_f32 v_f32 __attribute__((vector_size(TL_VBYTES)));
typedef s_f64 v_f64 __attribute__((vector_size(TL_VBYTES)));
typedef v_f32 vf;
typedef v_f64 vd;
enum { VF_LANES = TL_VBYTES / 4, VD_LANES = TL_VBYTES / 8 };

/* m ? a : b by lane, for a mask m: compilers make one blend of it. b must be a vector; a and b of the same width as m. */
#define v_select(m, a, b) \
    ({ __typeof__(m) m_ = (m); (__typeof__(b))(((__typeof__(m_))(a) & m_) | ((__typeof__(m_))(b) & ~m_)); })

/* ---- memory: no alignment needed ---- */
TL_INLINE vf vf_load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
TL_INLINE vd vd_load(const double *p) { vd v; memcpy(&v, p, sizeof v); return v; }
TL_INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
TL_INLINE void vd_store(double *p, vd v) { memcpy(p, &v, sizeof v); }
TL_INLINE vf vf_splat(float s) { return s - (vf){0}; }
TL_INLINE vd vd_splat(double s) { return s - (vd){0}; }

/* nbytes < 64. A call to memcpy for a length known only at run time costs more than the kernel of a small array. */
static TL_UNUSED __attribute__((noinline)) void tl_copy_small(void *dst, const void *src, size_t nbytes)
{
    char *d = dst;
    const char *s = src;
    if (nbytes & 32) memcpy(d, s, 32), d += 32, s += 32;
    if (nbytes & 16) memcpy(d, s, 16), d += 16, s += 16;
    if (nbytes & 8) memcpy(d, s, 8), d += 8, s += 8;
    if (nbytes & 4) memcpy(d, s, 4), d += 4, s += 4;
    if (nbytes & 2) memcpy(d, s, 2), d += 2, s += 2;
    if (nbytes & 1) *d = *s;
}
/* The first n lanes, 0 <= n < VF_LANES; the others read as `fill` and are not written: neither touches what lies behind the end. */
#if TL_VBYTES == 64
#define VF_FIRST(n) ((__mmask16)((1u << (n)) - 1))
#define VD_FIRST(n) ((__mmask8)((1u << (n)) - 1))
TL_INLINE vf vf_load_part(const float *p, int64_t n, float fill) { return (vf)_mm512_mask_loadu_ps((__m512)vf_splat(fill), VF_FIRST(n), p); }
TL_INLINE vd vd_load_part(const double *p, int64_t n, double fill) { return (vd)_mm512_mask_loadu_pd((__m512d)vd_splat(fill), VD_FIRST(n), p); }
TL_INLINE void vf_store_part(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, VF_FIRST(n), (__m512)v); }
TL_INLINE void vd_store_part(double *p, vd v, int64_t n) { _mm512_mask_storeu_pd(p, VD_FIRST(n), (__m512d)v); }
#elif TL_VBYTES == 32
#define VF_FIRST(n) ((v_i32){0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)(n))
#define VD_FIRST(n) ((v_i64){0, 1, 2, 3} < (n))
TL_INLINE vf vf_load_part(const float *p, int64_t n, float fill)
{
    v_i32 m = VF_FIRST(n);
    return v_select(m, (vf)_mm256_maskload_ps(p, (__m256i)m), vf_splat(fill));
}
TL_INLINE vd vd_load_part(const double *p, int64_t n, double fill)
{
    v_i64 m = VD_FIRST(n);
    return v_select(m, (vd)_mm256_maskload_pd(p, (__m256i)m), vd_splat(fill));
}
TL_INLINE void vf_store_part(float *p, vf v, int64_t n) { _mm256_maskstore_ps(p, (__m256i)VF_FIRST(n), (__m256)v); }
TL_INLINE void vd_store_part(double *p, vd v, int64_t n) { _mm256_maskstore_pd(p, (__m256i)VD_FIRST(n), (__m256d)v); }
#else
TL_INLINE vf vf_load_part(const float *p, int64_t n, float fill) { vf v = vf_splat(fill); tl_copy_small(&v, p, (size_t)n * 4); return v; }
TL_INLINE vd vd_load_part(const double *p, int64_t n, double fill) { vd v = vd_splat(fill); tl_copy_small(&v, p, (size_t)n * 8); return v; }
TL_INLINE void vf_store_part(float *p, vf v, int64_t n) { tl_copy_small(p, &v, (size_t)n * 4); }
TL_INLINE void vd_store_part(double *p, vd v, int64_t n) { tl_copy_small(p, &v, (size_t)n * 8); }
#endif

/* One vector past the caches; dst aligned to it. */
TL_INLINE void v_stream(void *dst, const void *src)
{
#if TL_VBYTES == 64
    _mm512_stream_si512((__m512i *)dst, _mm512_loadu_si512(src));
#elif TL_VBYTES == 32
    _mm256_stream_si256((__m256i *)dst, _mm256_loadu_si256((const __m256i *)src));
#elif defined(__x86_64__)
    _mm_stream_si128((__m128i *)dst, _mm_loadu_si128((const __m128i *)src));
#else
    memcpy(dst, src, TL_VBYTES);
#endif
}

/* ---- lanes ---- */
#define v_and(m, a) ({ __typeof__(m) m_ = (m); (__typeof__(a))((__typeof__(m_))(a) & m_); }) /* m ? a : 0 */
#define v_zero(x) ((__typeof__(x)){0})

TL_INLINE bool v_any(v_i32 m)
{
#if TL_VBYTES == 64
    return _mm512_movepi32_mask((__m512i)m) != 0;
#elif TL_VBYTES == 32
    return _mm256_movemask_epi8((__m256i)m) != 0;
#else
    v_u64 q = (v_u64)m;
    return (q[0] | q[1]) != 0;
#endif
}

/* p at each of the indices, >= 0 */
TL_INLINE vf vf_gather(const float *p, v_i32 i)
{
#if TL_VBYTES == 64
    return (vf)_mm512_i32gather_ps((__m512i)i, p, 4);
#elif TL_VBYTES == 32
    return (vf)_mm256_i32gather_ps(p, (__m256i)i, 4);
#else
    return (vf){p[i[0]], p[i[1]], p[i[2]], p[i[3]]};
#endif
}
TL_INLINE vd vd_gather(const double *p, v_i64 i)
{
#if TL_VBYTES == 64
    return (vd)_mm512_i64gather_pd((__m512i)i, p, 8);
#elif TL_VBYTES == 32
    return (vd)_mm256_i64gather_pd(p, (__m256i)i, 8);
#else
    return (vd){p[i[0]], p[i[1]]};
#endif
}

/* table[i % 16] by lane */
TL_INLINE vf vf_lookup(const float *table, v_u32 i)
{
#if TL_VBYTES == 64
    return (vf)_mm512_permutexvar_ps((__m512i)i, _mm512_load_ps(table));
#elif TL_VBYTES == 32
    vf low = (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)i), high = (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), (__m256i)i);
    return v_select((i & 8) != 0, high, low);
#else
    vf x;
    for (int k = 0; k < VF_LANES; k++) x[k] = table[i[k] & 15];
    return x;
#endif
}
/* a * b + c: rounded once where the instruction set has it, else as written. */
TL_INLINE vf vf_fma(vf a, vf b, vf c)
{
#if TL_VBYTES == 64
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif TL_VBYTES == 32
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
TL_INLINE vd vd_fma(vd a, vd b, vd c)
{
#if TL_VBYTES == 64
    return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif TL_VBYTES == 32
    return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

TL_INLINE vf vf_sqrt(vf x)
{
#if TL_VBYTES == 64
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif TL_VBYTES == 32
    return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
    return (vf)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < VF_LANES; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}
TL_INLINE vd vd_sqrt(vd x)
{
#if TL_VBYTES == 64
    return (vd)_mm512_sqrt_pd((__m512d)x);
#elif TL_VBYTES == 32
    return (vd)_mm256_sqrt_pd((__m256d)x);
#elif defined(__x86_64__)
    return (vd)_mm_sqrt_pd((__m128d)x);
#else
    for (int i = 0; i < VD_LANES; i++) x[i] = sqrt(x[i]);
    return x;
#endif
}

/* The smaller / larger by lane; where one is NaN: b. (So a constant goes first, and NaN in the variable comes through.) */
TL_INLINE vf vf_min(vf a, vf b)
{
#if TL_VBYTES == 64
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif TL_VBYTES == 32
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return v_select(a < b, a, b);
#endif
}
TL_INLINE vf vf_max(vf a, vf b)
{
#if TL_VBYTES == 64
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif TL_VBYTES == 32
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return v_select(a > b, a, b);
#endif
}
TL_INLINE vd vd_min(vd a, vd b)
{
#if TL_VBYTES == 64
    return (vd)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif TL_VBYTES == 32
    return (vd)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
    return v_select(a < b, a, b);
#endif
}
TL_INLINE vd vd_max(vd a, vd b)
{
#if TL_VBYTES == 64
    return (vd)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif TL_VBYTES == 32
    return (vd)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
    return v_select(a > b, a, b);
#endif
}

TL_INLINE vf vf_abs(vf x) { return (vf)((v_u32)x & 0x7fffffffu); }
TL_INLINE vd vd_abs(vd x) { return (vd)((v_u64)x & 0x7fffffffffffffffu); }
/* magnitude of x, sign of s; x >= 0 (or with its sign bit clear) */
TL_INLINE vf vf_signed(vf x, vf s) { return (vf)((v_u32)x | ((v_u32)s & 0x80000000u)); }
TL_INLINE vd vd_signed(vd x, vd s) { return (vd)((v_u64)x | ((v_u64)s & 0x8000000000000000u)); }

/* ---- a and b as one sequence: its elements at even and at odd places; and the opposite, the halves of a0 b0 a1 b1 ... ---- */
#if TL_VBYTES == 64
TL_INLINE vf vf_even(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30); }
TL_INLINE vf vf_odd(vf a, vf b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31); }
TL_INLINE vf vf_zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
TL_INLINE vf vf_zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); }
TL_INLINE vd vd_even(vd a, vd b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
TL_INLINE vd vd_odd(vd a, vd b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
TL_INLINE vd vd_zip_low(vd a, vd b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
TL_INLINE vd vd_zip_high(vd a, vd b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#elif TL_VBYTES == 32
TL_INLINE vf vf_even(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
TL_INLINE vf vf_odd(vf a, vf b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
TL_INLINE vf vf_zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
TL_INLINE vf vf_zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
TL_INLINE vd vd_even(vd a, vd b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
TL_INLINE vd vd_odd(vd a, vd b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
TL_INLINE vd vd_zip_low(vd a, vd b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
TL_INLINE vd vd_zip_high(vd a, vd b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else
TL_INLINE vf vf_even(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
TL_INLINE vf vf_odd(vf a, vf b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
TL_INLINE vf vf_zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
TL_INLINE vf vf_zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
TL_INLINE vd vd_even(vd a, vd b) { return __builtin_shufflevector(a, b, 0, 2); }
TL_INLINE vd vd_odd(vd a, vd b) { return __builtin_shufflevector(a, b, 1, 3); }
TL_INLINE vd vd_zip_low(vd a, vd b) { return __builtin_shufflevector(a, b, 0, 2); }
TL_INLINE vd vd_zip_high(vd a, vd b) { return __builtin_shufflevector(a, b, 1, 3); }
#endif

/* ---- rounding to integers; -0 stays -0, NaN and what is already an integer stay ---- */
#if TL_VBYTES == 64
#define VF_ROUND(x, mode) ((vf)_mm512_roundscale_ps((__m512)(x), mode))
#define VD_ROUND(x, mode) ((vd)_mm512_roundscale_pd((__m512d)(x), mode))
#elif TL_VBYTES == 32
#define VF_ROUND(x, mode) ((vf)_mm256_round_ps((__m256)(x), (mode) | 8))
#define VD_ROUND(x, mode) ((vd)_mm256_round_pd((__m256d)(x), (mode) | 8))
#endif
#if TL_VBYTES > 16
TL_INLINE vf vf_rint(vf x) { return VF_ROUND(x, 0); } /* half to even */
TL_INLINE vd vd_rint(vd x) { return VD_ROUND(x, 0); }
TL_INLINE vf vf_floor(vf x) { return VF_ROUND(x, 1); }
TL_INLINE vd vd_floor(vd x) { return VD_ROUND(x, 1); }
TL_INLINE vf vf_trunc(vf x) { return VF_ROUND(x, 3); }
TL_INLINE vd vd_trunc(vd x) { return VD_ROUND(x, 3); }
#else /* adding 2^23 (2^52) pushes the fraction out of the significand */
TL_INLINE vf vf_rint(vf x) { vf a = vf_abs(x), r = (a + 0x1p23f) - 0x1p23f; return v_select(a < 0x1p23f, vf_signed(r, x), x); }
TL_INLINE vd vd_rint(vd x) { vd a = vd_abs(x), r = (a + 0x1p52) - 0x1p52; return v_select(a < 0x1p52, vd_signed(r, x), x); }
TL_INLINE vf vf_trunc(vf x) { vf a = vf_abs(x), r = vf_rint(a); return vf_signed(r - v_and(r > a, vf_splat(1)), x); }
TL_INLINE vd vd_trunc(vd x) { vd a = vd_abs(x), r = vd_rint(a); return vd_signed(r - v_and(r > a, vd_splat(1)), x); }
TL_INLINE vf vf_floor(vf x) { vf r = vf_rint(x); return r - v_and(r > x, vf_splat(1)); }
TL_INLINE vd vd_floor(vd x) { vd r = vd_rint(x); return r - v_and(r > x, vd_splat(1)); }
#endif
TL_INLINE vf vf_ceil(vf x) { return -vf_floor(-x); }
TL_INLINE vd vd_ceil(vd x) { return -vd_floor(-x); }

/* ---- float32 <-> float64: a vector of one is two of the other ---- */
typedef float vf_half __attribute__((vector_size(TL_VBYTES / 2)));
typedef struct { vd lo, hi; } vd2;
TL_INLINE vd2 vd2_from_vf(vf x)
{
    vf_half h[2];
    memcpy(h, &x, sizeof x);
    return (vd2){__builtin_convertvector(h[0], vd), __builtin_convertvector(h[1], vd)};
}
TL_INLINE vf vf_from_vd2(vd lo, vd hi)
{
    vf_half h[2] = {__builtin_convertvector(lo, vf_half), __builtin_convertvector(hi, vf_half)};
    vf x;
    memcpy(&x, h, sizeof x);
    return x;
}

/* ---- half precision -> float32: the lanes of a vector of it are as many, of half the size ---- */
typedef uint16_t v_half __attribute__((vector_size(TL_VBYTES / 2)));
TL_INLINE vf vf_from_bf16(v_half h) { return (vf)(__builtin_convertvector(h, v_u32) << 16); }
TL_INLINE vf vf_from_f16(v_half h)
{
#if TL_VBYTES == 64
    return (vf)_mm512_cvtph_ps((__m256i)h);
#elif TL_VBYTES == 32
    return (vf)_mm256_cvtph_ps((__m128i)h);
#else
    v_u32 u = __builtin_convertvector(h, v_u32), magnitude = (u & 0x7fff) << 13, finite = (v_u32)((vf)magnitude * 0x1p112f);
    return (vf)((u & 0x8000) << 16 | v_select((v_i32)(magnitude >= 0x0f800000), magnitude | 0x7f800000, finite)); /* subnormals come out right */
#endif
}

#define V_EITHER(name, x) _Generic((x), vf: vf_##name, vd: vd_##name)
#define v_const(x, c) V_EITHER(splat, x)(c)
#define v_fma(a, b, c) V_EITHER(fma, c)(a, b, c)
#define v_sqrt(x) V_EITHER(sqrt, x)(x)
#define v_rint(x) V_EITHER(rint, x)(x)
#define v_floor(x) V_EITHER(floor, x)(x)
#define v_ceil(x) V_EITHER(ceil, x)(x)
#define v_trunc(x) V_EITHER(trunc, x)(x)

#include "vmath.h"

/* ---- what of elementwise.def is no function of floats ---- */
TL_INLINE v_u8 v_abs_u8(v_u8 x) { return x; }
TL_INLINE v_i8 v_abs_i8(v_i8 x) { v_u8 s = (v_u8)(x < 0); return (v_i8)(((v_u8)x ^ s) - s); }
TL_INLINE v_i16 v_abs_i16(v_i16 x) { v_u16 s = (v_u16)(x < 0); return (v_i16)(((v_u16)x ^ s) - s); }
TL_INLINE v_i32 v_abs_i32(v_i32 x) { v_u32 s = (v_u32)(x < 0); return (v_i32)(((v_u32)x ^ s) - s); }
TL_INLINE v_i64 v_abs_i64(v_i64 x) { v_u64 s = (v_u64)(x < 0); return (v_i64)(((v_u64)x ^ s) - s); }
#define v_abs(x) \
    _Generic((x), vf: vf_abs, vd: vd_abs, v_u8: v_abs_u8, v_i8: v_abs_i8, v_i16: v_abs_i16, v_i32: v_abs_i32, v_i64: v_abs_i64)(x)
TL_INLINE vf vf_sign(vf x) { return v_select(x > 0, vf_splat(1), v_select(x < 0, vf_splat(-1), x + 0)); }
TL_INLINE vd vd_sign(vd x) { return v_select(x > 0, vd_splat(1), v_select(x < 0, vd_splat(-1), x + 0)); }
TL_INLINE v_u8 v_sign_u8(v_u8 x) { return (v_u8)(x != 0) & 1; }
TL_INLINE v_i8 v_sign_i8(v_i8 x) { return (x < 0) - (x > 0); }
TL_INLINE v_i16 v_sign_i16(v_i16 x) { return (x < 0) - (x > 0); }
TL_INLINE v_i32 v_sign_i32(v_i32 x) { return (x < 0) - (x > 0); }
TL_INLINE v_i64 v_sign_i64(v_i64 x) { return (v_i64)((x < 0) - (x > 0)); }
#define v_sign(x) \
    _Generic((x), vf: vf_sign, vd: vd_sign, v_u8: v_sign_u8, v_i8: v_sign_i8, v_i16: v_sign_i16, v_i32: v_sign_i32, v_i64: v_sign_i64)(x)

/* Shifts by any amount, as NumPy has them: the width or more (a negative amount counts as more) pushes every bit out. */
#define v_bits(x)                                                                                                               \
    _Generic((x), v_u8: (v_u8)(x), v_i8: (v_u8)(x), v_i16: (v_u16)(x), v_i32: (v_u32)(x), v_i64: (v_u64)(x))
#define v_width(x) (8 * sizeof((x)[0]))
#define v_shift_left(a, b) v_and(v_bits(b) < v_width(b), (__typeof__(a))(v_bits(a) << (v_bits(b) & (v_width(b) - 1))))
#define v_shift_right(a, b)                                                                     \
    v_and((v_bits(b) < v_width(b)) | ((a) < 0), (a) >> (__typeof__(b))v_select(v_bits(b) < v_width(b), v_bits(b), v_bits(b) * 0 + (v_width(b) - 1)))
#endif
