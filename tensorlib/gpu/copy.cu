#include "common.cuh"
/* out = x, converted as native/copy.inc.c does it: what C leaves undefined is as on the CPU. Macros:
 *   T, O            elements of x and of out
 *   ND, PER, INDEX  dimensions, adjacent elements of the last one that a thread takes at a time, the type that counts such groups */
typedef acc_t<T> S;

static __device__ inline int to_int(float x) { return (int)(x >= -0x1p31f && x < 0x1p31f ? x : -0x1p31f); }
static __device__ inline i64 to_long(float x) { return (i64)(x >= -0x1p63f && x < 0x1p63f ? x : -0x1p63f); }
static __device__ inline int to_int(double x) { return (int)(x > -0x1p31 - 1 && x < 0x1p31 ? x : -0x1p31); }
static __device__ inline i64 to_long(double x) { return (i64)(x >= -0x1p63 && x < 0x1p63 ? x : -0x1p63); }
/* Rounds so that rounding again, to 16 bits, is as if the double had been rounded once. */
static __device__ inline float odd_float(double x)
{
    float f = (float)x;
    u32 lost = (double)f != x && x == x, grew = fabs((double)f) > fabs(x);
    return float_of((bits_of(f) - grew) | lost);
}

template <class N> struct kind { static constexpr bool REAL = false, HALF = false; };
template <> struct kind<float> { static constexpr bool REAL = true, HALF = false; };
template <> struct kind<double> { static constexpr bool REAL = true, HALF = false; };
template <> struct kind<half_t> { static constexpr bool REAL = true, HALF = true; };
template <> struct kind<bfloat_t> { static constexpr bool REAL = true, HALF = true; };
template <class To> struct target {
    template <class From> static __device__ inline To of(From x)
    {
        if constexpr (kind<To>::HALF) {
            if constexpr (sizeof(From) == 8 && kind<From>::REAL) return store<To>(odd_float(x));
            else if constexpr (kind<From>::REAL) return store<To>(x);
            else return store<To>((float)x);
        } else if constexpr (kind<From>::REAL && !kind<To>::REAL) {
            if constexpr (sizeof(To) == 8) return to_long(x);
            else return (To)to_int(x);
        } else return (To)x;
    }
};
template <> struct target<bool> { template <class From> static __device__ inline bool of(From x) { return x != 0; } };

template <class To, class From> struct between { static __device__ inline To of(From x) { return target<To>::of(load(x)); } };
template <class To> struct between<To, To> { static __device__ inline To of(To x) { return x; } };

template <class E> struct alignas(sizeof(E) * PER) group { E at[PER]; };

#define DIMS_1(M) M(0)
#define DIMS_2(M) DIMS_1(M), M(1)
#define DIMS_3(M) DIMS_2(M), M(2)
#define DIMS_4(M) DIMS_3(M), M(3)
#define DIMS_5(M) DIMS_4(M), M(4)
#define DIMS_6(M) DIMS_5(M), M(5)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define DIMS JOIN(DIMS_, ND)
#define SIZE(d) i64 size##d
#define TO(d) i64 to##d
#define FROM(d) i64 from##d
#define SIZE_NAME(d) size##d
#define TO_NAME(d) to##d
#define FROM_NAME(d) from##d

/* n elements; sizes (the last one in groups) and strides of out and x. With PER above 1 both lie side by side in the last dimension, or x's stride
 * there is 0; groups are aligned; and the last one may be short where there is no other dimension. */
extern "C" __global__ void copy(O *out, const T *x, i64 n, DIMS(SIZE), DIMS(TO), DIMS(FROM))
{
    const i64 size[] = {DIMS(SIZE_NAME)}, to[] = {DIMS(TO_NAME)}, from[] = {DIMS(FROM_NAME)};
    for (i64 i = first_index(); i * PER < n; i += index_step()) {
        i64 at = 0, read = 0;
        INDEX rest = (INDEX)i;
        for (int d = ND - 1; d >= 0; d--) {
            INDEX outer = d ? rest / (INDEX)size[d] : 0;
            i64 c = (i64)(rest - outer * (INDEX)size[d]) * (d == ND - 1 ? PER : 1);
            at += c * to[d], read += c * from[d];
            rest = outer;
        }
        if (n - i * PER >= PER) {
            group<T> g;
            group<O> made;
            if (PER > 1 && from[ND - 1] == 0)
                for (int k = 0; k < PER; k++) g.at[k] = x[read];
            else g = *(const group<T> *)(x + read);
            for (int k = 0; k < PER; k++) made.at[k] = between<O, T>::of(g.at[k]);
            *(group<O> *)(out + at) = made;
        } else
            for (i64 k = 0; k < n - i * PER; k++) out[at + k * to[0]] = between<O, T>::of(x[read + k * from[0]]);
    }
}
