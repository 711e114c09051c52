#include "common.cuh"
/* Reductions: each result joins n elements of x. The order follows from sizes alone: a thread joins elements that lie a block apart, a block's
 * threads join in halves, and so do chunks, by the same kernels again (PARTS: x holds what is joined already). Macros:
 *   OP            SUM PROD MAX MIN ALL ANY COUNT SQDEV (squared distances from m) ARGMAX ARGMIN
 *   T, O          elements, results (chunks > 1: what is joined is written, E)
 *   PER           adjacent elements (rows) or columns that a thread reads at a time; all are aligned to that
 *   KD, RD        how many dimensions are kept and reduced: parameters are their sizes and strides in x, the outermost first
 * A NaN wins over all numbers in MAX and MIN; the first of equals is the place of ARGMAX and ARGMIN. */
#define SUM 1
#define PROD 2
#define MAX 3
#define MIN 4
#define ALL 5
#define ANY 6
#define COUNT 7
#define SQDEV 8
#define ARGMAX 9
#define ARGMIN 10
#define PLACES (OP == ARGMAX || OP == ARGMIN)

typedef acc_t<T> S;
#if PLACES
struct E { S value; i64 at; };
#elif OP == ALL || OP == ANY
typedef bool E;
#elif OP == COUNT
typedef i64 E;
#else
typedef S E;
#endif

template <class N> static __device__ inline N least(N)
{
    return (N)-1 < (N)0 ? (N)((u64)1 << (8 * sizeof(N) - 1)) : (N)0;
}
static __device__ inline float least(float) { return -float_of(0x7f800000u); }
static __device__ inline double least(double) { return -(double)float_of(0x7f800000u); }
static __device__ inline bool least(bool) { return false; }
template <class N> static __device__ inline N most(N x) { return (N)~least(x); }
static __device__ inline float most(float) { return float_of(0x7f800000u); }
static __device__ inline double most(double) { return (double)float_of(0x7f800000u); }
static __device__ inline bool most(bool) { return true; }

static __device__ inline E neutral()
{
#if PLACES
    return E{OP == ARGMAX ? least(S()) : most(S()), (i64)(~(u64)0 >> 1)};
#elif OP == MAX
    return least(S());
#elif OP == MIN
    return most(S());
#else
    return (E)(OP == PROD || OP == ALL);
#endif
}
/* What the r-th element x of a result is joined as. */
static __device__ inline E lift(S x, i64 r, S m)
{
#if PLACES
    return E{x, r};
#elif OP == SQDEV
    return (x - m) * (x - m);
#elif OP == ALL || OP == ANY || OP == COUNT
    return x != 0;
#else
    return x;
#endif
}
static __device__ inline E join(E a, E b)
{
#if PLACES
    bool a_nan = a.value != a.value, b_nan = b.value != b.value, first = b.at < a.at;
    if (a_nan || b_nan) return b_nan && (!a_nan || first) ? b : a;
    bool better = OP == ARGMAX ? b.value > a.value : b.value < a.value;
    return better || (b.value == a.value && first) ? b : a;
#elif OP == MAX
    return b > a || b != b ? b : a;
#elif OP == MIN
    return b < a || b != b ? b : a;
#elif OP == PROD
    return a * b;
#elif OP == ALL
    return a && b;
#elif OP == ANY
    return a || b;
#else
    return a + b;
#endif
}
static __device__ inline void write(char *out, i64 at, E s, bool last, double divisor)
{
    if (!last) {
        ((E *)out)[at] = s;
        return;
    }
#if PLACES
    ((O *)out)[at] = s.at;
#elif DIVIDE
    ((O *)out)[at] = store<O>(s / (E)divisor);
#else
    ((O *)out)[at] = store<O>(s);
#endif
}

#if PARTS
typedef E given_t;
static __device__ inline E read(E x, i64, S) { return x; }
#else
typedef T given_t;
static __device__ inline E read(T x, i64 r, S m) { return lift(load(x), r, m); }
#endif
struct alignas(sizeof(given_t) * PER) group { given_t at[PER]; };

#define DIMS_1(M) M(0)
#define DIMS_2(M) DIMS_1(M), M(1)
#define DIMS_3(M) DIMS_2(M), M(2)
#define DIMS_4(M) DIMS_3(M), M(3)
#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
#define KEPT JOINED(DIMS_, KD)
#define REDUCED JOINED(DIMS_, RD)
#define K_SIZE(d) i64 ksize##d
#define K_STRIDE(d) i64 kstride##d
#define R_SIZE(d) i64 rsize##d
#define R_STRIDE(d) i64 rstride##d
#define K_SIZE_NAME(d) ksize##d
#define K_STRIDE_NAME(d) kstride##d
#define R_SIZE_NAME(d) rsize##d
#define R_STRIDE_NAME(d) rstride##d
#define GEOMETRY KEPT(K_SIZE), KEPT(K_STRIDE), REDUCED(R_SIZE), REDUCED(R_STRIDE)
#define GEOMETRY_ARRAYS                                                                       \
    const i64 ksize[] = {KEPT(K_SIZE_NAME)}, kstride[] = {KEPT(K_STRIDE_NAME)},               \
              rsize[] = {REDUCED(R_SIZE_NAME)}, rstride[] = {REDUCED(R_STRIDE_NAME)};

/* Where the i-th element in the order of some dimensions lies. */
template <int N> static __device__ inline i64 place(i64 i, const i64 (&size)[N], const i64 (&stride)[N])
{
    i64 at = 0;
    for (int d = N - 1; d > 0; d--) {
        i64 outer = i / size[d];
        at += (i - outer * size[d]) * stride[d];
        i = outer;
    }
    return at + i * stride[0];
}

/* A block's blockDim.x threads make a result each blockDim.y; block (., j) joins the j-th chunk and writes out[result * chunks + j]. */
extern "C" __global__ void rows(char *out, const char *x, const S *m, i64 results, i64 n, i64 chunk, double divisor, GEOMETRY)
{
    GEOMETRY_ARRAYS
    __shared__ E memory[256];
    E *part = memory + threadIdx.y * blockDim.x;
    const i64 begin = blockIdx.y * chunk, end = n - begin < chunk ? n : begin + chunk;
    const int lane = threadIdx.x, lanes = blockDim.x;
    for (i64 first = (i64)blockIdx.x * blockDim.y; first < results; first += (i64)gridDim.x * blockDim.y) {
        i64 o = first + threadIdx.y;
        E s = neutral();
        if (o < results) {
            const given_t *p = (const given_t *)x + place(o, ksize, kstride);
            S center = m ? m[o] : S();
            i64 r = begin;
            if (PER > 1) {
                E several[PER];
                for (int k = 0; k < PER; k++) several[k] = neutral();
                i64 whole = begin + (end - begin) / PER * PER;
                for (r += lane * PER; r < whole; r += (i64)lanes * PER) {
                    group g = *(const group *)(p + r);
                    for (int k = 0; k < PER; k++) several[k] = join(several[k], read(g.at[k], r + k, center));
                }
                for (int w = PER / 2; w > 0; w /= 2)
                    for (int k = 0; k < w; k++) several[k] = join(several[k], several[k + w]);
                s = several[0];
                r = whole;
            }
            for (r += lane; r < end; r += lanes) s = join(s, read(p[place(r, rsize, rstride)], r, center));
        }
        part[lane] = s;
        __syncthreads();
        for (int w = lanes / 2; w > 0; w /= 2) {
            if (lane < w) part[lane] = join(part[lane], part[lane + w]);
            __syncthreads();
        }
        if (!lane && o < results) write(out, o * gridDim.y + blockIdx.y, part[0], gridDim.y == 1, divisor);
        __syncthreads();
    }
}

/* Results side by side: `width` of them in x's and out's last dimension, outside of which the kept dimensions lie. A block makes blockDim.x * PER
 * of them from the rows of its chunk j, of which each of its blockDim.y lines joins a part, and writes from out[j * results] on. */
extern "C" __global__ void columns(char *out, const char *x, const S *m, i64 results, i64 width, i64 n, i64 chunk, double divisor, GEOMETRY)
{
    GEOMETRY_ARRAYS
    __shared__ E part[256];
    const i64 begin = blockIdx.y * chunk, end = n - begin < chunk ? n : begin + chunk;
    const i64 blocks = (width + (i64)blockDim.x * PER - 1) / ((i64)blockDim.x * PER);
    const i64 o = blockIdx.x / blocks, c = ((blockIdx.x - o * blocks) * blockDim.x + threadIdx.x) * PER;
    const int lane = threadIdx.y * blockDim.x + threadIdx.x;
    E s[PER];
    for (int k = 0; k < PER; k++) s[k] = neutral();
    if (c < width) {
        const given_t *p = (const given_t *)x + place(o, ksize, kstride) + c;
        S center[PER];
        for (int k = 0; k < PER; k++) center[k] = m ? m[o * width + c + k] : S();
#pragma unroll 4
        for (i64 r = begin + threadIdx.y; r < end; r += blockDim.y) {
            group g = *(const group *)(p + place(r, rsize, rstride));
            for (int k = 0; k < PER; k++) s[k] = join(s[k], read(g.at[k], r, center[k]));
        }
    }
    for (int k = 0; k < PER; k++) {
        part[lane] = s[k];
        __syncthreads();
        for (int w = blockDim.y / 2; w > 0; w /= 2) {
            if (threadIdx.y < w) part[lane] = join(part[lane], part[lane + w * blockDim.x]);
            __syncthreads();
        }
        if (!threadIdx.y && c < width) write(out, blockIdx.y * results + o * width + c + k, part[lane], gridDim.y == 1, divisor);
        __syncthreads();
    }
}
