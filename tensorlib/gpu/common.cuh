/* What every source here begins with. Nothing is included from CUDA's own headers, so NVRTC, nvcc and (for tests of index arithmetic, see
 * tests/gpu/render.h) a host compiler read the same text.
 *
 * Macros of sources (T above all) are defined before this text, so nothing here has their names.
 *
 *   half_t, bfloat_t    16-bit floats as memory holds them: `load` and `store` are the only ways in and out
 *   acc_t<E>            what an element is computed in: float for 16-bit floats, else E itself */
typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

struct half_t { u16 bits; };
struct bfloat_t { u16 bits; };

template <class E> struct acc_of { typedef E type; };
template <> struct acc_of<half_t> { typedef float type; };
template <> struct acc_of<bfloat_t> { typedef float type; };
template <class E> using acc_t = typename acc_of<E>::type;

static __device__ inline u32 bits_of(float x) { union { float f; u32 u; } v; v.f = x; return v.u; }
static __device__ inline float float_of(u32 x) { union { u32 u; float f; } v; v.u = x; return v.f; }

static __device__ inline float half_to_float(u16 h)
{
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#else
    u32 sign = (u32)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return float_of(sign | ((rest << 13) + 0x38000000u));
    return float_of(sign | bits_of((float)rest * 0x1p-24f));
#endif
}
static __device__ inline u16 float_to_half(float x)
{
#ifdef __CUDA_ARCH__
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#else
    u32 bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (u16)(sign | 0x7e00);
    if (rest >= 0x47800000u - 0x1000u) return (u16)(sign | 0x7c00); /* 65520 and more round to infinity */
    if (rest < 0x38800000u) return (u16)(sign | bits_of(float_of(rest) + 0.5f) - 0x3f000000u); /* adding 1/2 rounds to multiples of 2^-24 */
    return (u16)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
#endif
}

template <class E> static __device__ inline E load(E x) { return x; }
static __device__ inline float load(half_t x) { return half_to_float(x.bits); }
static __device__ inline float load(bfloat_t x) { return float_of((u32)x.bits << 16); }

template <class E> struct stored { template <class A> static __device__ inline E from(A x) { return (E)x; } };
template <> struct stored<half_t> { static __device__ inline half_t from(float x) { return half_t{float_to_half(x)}; } };
template <> struct stored<bfloat_t> {
    static __device__ inline bfloat_t from(float x)
    {
        u32 bits = bits_of(x);
        if (x != x) return bfloat_t{(u16)(bits >> 16 | 0x40)};
        return bfloat_t{(u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
    }
};
/* An element of type E from what it was computed in, rounded to nearest. */
template <class E, class A> static __device__ inline E store(A x) { return stored<E>::from(x); }

/* The first index of this thread's grid-stride loop, and its step: for (i64 i = first_index(); i < n; i += index_step()) */
static __device__ inline i64 first_index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ inline i64 index_step() { return (i64)gridDim.x * blockDim.x; }
/* a / b of numbers that are not negative, in 32 bits where they fit: a fraction of the instructions. */
static __device__ inline i64 over(i64 a, i64 b) { return (a | b) >> 32 ? a / b : (i64)((u32)a / (u32)b); }
