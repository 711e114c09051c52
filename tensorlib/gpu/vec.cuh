#include "common.cuh"
/* native/vec.h for a GPU: a vector is one lane (of a type Lane). Functions then have the bits of the CPU's AVX2 kernels (fma and all), but for what vmath.h leaves
 * to the C library: float64 cos, erf, exp2, log2, log10, pow, sin, tan and their kin, and float32 angles beyond 2^20, which are CUDA's own. */
#define TL_VBYTES 32 /* of vmath.h's variants: AVX2's */
#define TL_INLINE __device__ inline
#define TL_TABLE static __device__
#define VF_LANES 1
#define VD_LANES 1
#ifndef INFINITY
#define INFINITY float_of(0x7f800000u)
#define NAN float_of(0x7fc00000u)
#endif
typedef signed char i8;
typedef short i16;
typedef int i32;

template <bool YES, class A1, class A2> struct pick { typedef A1 type; };
template <class A1, class A2> struct pick<false, A1, A2> { typedef A2 type; };
template <bool YES, class A1, class A2> using pick_t = typename pick<YES, A1, A2>::type;

template <int BYTES> struct integers;
template <> struct integers<1> { typedef i8 i; typedef u8 u; };
template <> struct integers<2> { typedef i16 i; typedef u16 u; };
template <> struct integers<4> { typedef i32 i; typedef u32 u; };
template <> struct integers<8> { typedef i64 i; typedef u64 u; };

/* A cast between types of one size keeps the bits, as in C; a number stands for a vector of it. Integers wrap around. */
template <class Lane> struct vec {
    typedef typename integers<sizeof(Lane)>::u U;
    typedef vec<typename integers<sizeof(Lane)>::i> mask; /* -1 where true, else 0 */
    static constexpr bool REAL = (Lane)0.5 != (Lane)0;
    Lane lane;

    vec() = default;
    __device__ vec(Lane x) : lane(x) {}
    template <class O> explicit __device__ vec(vec<O> x)
    {
        static_assert(sizeof(O) == sizeof(Lane), "");
        union { O o; Lane t; } v;
        v.o = x.lane;
        lane = v.t;
    }
    __device__ Lane &operator[](int) { return lane; }

    friend __device__ vec operator+(vec a, vec b) { if constexpr (REAL) return a.lane + b.lane; else return (Lane)((U)a.lane + (U)b.lane); }
    friend __device__ vec operator-(vec a, vec b) { if constexpr (REAL) return a.lane - b.lane; else return (Lane)((U)a.lane - (U)b.lane); }
    friend __device__ vec operator*(vec a, vec b) { if constexpr (REAL) return a.lane * b.lane; else return (Lane)((u64)a.lane * (u64)b.lane); }
    friend __device__ vec operator/(vec a, vec b) { return a.lane / b.lane; }
    friend __device__ vec operator-(vec a) { if constexpr (REAL) return -a.lane; else return (Lane)(0 - (U)a.lane); }
    friend __device__ vec operator&(vec a, vec b) { return (Lane)(a.lane & b.lane); }
    friend __device__ vec operator|(vec a, vec b) { return (Lane)(a.lane | b.lane); }
    friend __device__ vec operator^(vec a, vec b) { return (Lane)(a.lane ^ b.lane); }
    friend __device__ vec operator~(vec a) { return (Lane)~a.lane; }
    friend __device__ vec operator<<(vec a, vec b) { return (Lane)((U)a.lane << b.lane); }
    friend __device__ vec operator>>(vec a, vec b) { return (Lane)(a.lane >> b.lane); }
#define COMPARISON(op) \
    friend __device__ mask operator op(vec a, vec b) { return mask(-(a.lane op b.lane)); }
    COMPARISON(<) COMPARISON(<=) COMPARISON(>) COMPARISON(>=) COMPARISON(==) COMPARISON(!=)
#undef COMPARISON
};
typedef vec<float> vf;
typedef vec<double> vd;
typedef vec<i32> v_i32;
typedef vec<u32> v_u32;
typedef vec<i64> v_i64;
typedef vec<u64> v_u64;
typedef struct { vd lo, hi; } vd2; /* hi repeats lo, so nothing is computed twice */

template <class To, class Lane> TL_INLINE To v_convert(vec<Lane> x) { return To((decltype(To::lane))x.lane); }
#define __builtin_convertvector(x, To) v_convert<To>(x)
template <class M, class A, class B> TL_INLINE B v_select(M m, A a, B b) { return m.lane ? B(a) : b; }
template <class M, class A> TL_INLINE A v_and(M m, A a) { return m.lane ? a : A(0); }
template <class A> TL_INLINE A v_zero(A) { return A(0); }
template <class V, class C> TL_INLINE V v_const(V, C c) { return V((decltype(V::lane))c); }
template <class V, class F, class D> TL_INLINE auto v_either(V, F f, D d) { if constexpr (sizeof(V) == 4) return f; else return d; }
#define V_EITHER(name, x) v_either(x, vf_##name, vd_##name)
TL_INLINE bool v_any(v_i32 m) { return m.lane != 0; }

#define BOTH(name, f, d, ...)                                                                   \
    TL_INLINE vf vf_##name(vf x) { return f(x.lane); }                                          \
    TL_INLINE vd vd_##name(vd x) { return d(x.lane); }                                          \
    template <class V> TL_INLINE V v_##name(V x) { return V_EITHER(name, x)(x); }
BOTH(sqrt, sqrtf, sqrt)
BOTH(rint, rintf, rint)
BOTH(floor, floorf, floor)
BOTH(ceil, ceilf, ceil)
BOTH(trunc, truncf, trunc)
#undef BOTH
TL_INLINE vf vf_splat(float x) { return x; }
TL_INLINE vd vd_splat(double x) { return x; }
TL_INLINE vf vf_fma(vf a, vf b, vf c) { return fmaf(a.lane, b.lane, c.lane); }
TL_INLINE vd vd_fma(vd a, vd b, vd c) { return fma(a.lane, b.lane, c.lane); }
template <class V> TL_INLINE V v_fma(V a, V b, V c) { return V_EITHER(fma, c)(a, b, c); }
/* where one is NaN: b */
TL_INLINE vf vf_min(vf a, vf b) { return a.lane < b.lane ? a : b; }
TL_INLINE vd vd_min(vd a, vd b) { return a.lane < b.lane ? a : b; }
TL_INLINE vf vf_max(vf a, vf b) { return a.lane > b.lane ? a : b; }
TL_INLINE vd vd_max(vd a, vd b) { return a.lane > b.lane ? a : b; }
TL_INLINE vf vf_abs(vf x) { return (vf)((v_u32)x & 0x7fffffffu); }
TL_INLINE vd vd_abs(vd x) { return (vd)((v_u64)x & 0x7fffffffffffffffu); }
TL_INLINE vf vf_signed(vf x, vf s) { return (vf)((v_u32)x | ((v_u32)s & 0x80000000u)); }
TL_INLINE vd vd_signed(vd x, vd s) { return (vd)((v_u64)x | ((v_u64)s & 0x8000000000000000u)); }
TL_INLINE vd2 vd2_from_vf(vf x) { vd2 made = {(double)x.lane, (double)x.lane}; return made; }
TL_INLINE vf vf_from_vd2(vd lo, vd) { return (float)lo.lane; }
TL_INLINE vf vf_lookup(const float *table, v_u32 i) { return table[i.lane & 15]; }

#include "vmath.h"

template <class Lane> TL_INLINE vec<Lane> v_abs(vec<Lane> x)
{
    if constexpr (vec<Lane>::REAL) return V_EITHER(abs, x)(x);
    else return x.lane < Lane(0) ? -x : x;
}
template <class Lane> TL_INLINE vec<Lane> v_sign(vec<Lane> x) { return x.lane > Lane(0) ? Lane(1) : x.lane < Lane(0) ? Lane(-1) : Lane(x.lane + Lane(0)); }
/* by any amount: the width or more, or less than 0, pushes every bit out */
template <class Lane> TL_INLINE vec<Lane> v_shift_left(vec<Lane> a, vec<Lane> b)
{
    typedef typename vec<Lane>::U U;
    return (U)b.lane < 8 * sizeof(Lane) ? Lane((U)a.lane << b.lane) : Lane(0);
}
template <class Lane> TL_INLINE vec<Lane> v_shift_right(vec<Lane> a, vec<Lane> b)
{
    const int width = 8 * sizeof(Lane);
    return Lane(a.lane >> ((typename vec<Lane>::U)b.lane < width ? b.lane : width - 1) & ((typename vec<Lane>::U)b.lane < width || a.lane < Lane(0) ? ~Lane(0) : Lane(0)));
}
