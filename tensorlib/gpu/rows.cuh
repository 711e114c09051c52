/* Rows of n numbers, each the work of the blockDim.x threads that share a threadIdx.y, held in registers.
 *
 *   T, WIDTH, PACKS   the element; elements of one access (16 bytes where n allows, else 1); accesses of one thread
 *   blockDim.x        a power of two up to WARP, or a multiple of WARP (then blockDim.y is 1); all warps of a block are full
 *
 * A row of at most blockDim.x * PACKS * WIDTH elements is one chunk, read once; a longer one is taken chunk by chunk and what chunks
 * add up to is joined in order, in one block or, where rows are few, in as many as there are chunks: the order of every sum follows from n. */
#include "common.cuh"

enum { WARP = 32, ELEMENTS = PACKS * WIDTH };
typedef acc_t<T> A;
struct alignas(WIDTH * sizeof(T)) pack { T at[WIDTH]; };

/* One access: an assignment of 16 bytes is split by the compiler where they were computed one by one. */
static __device__ inline void put_pack(T *to, const pack &p)
{
#ifdef __CUDA_ARCH__
    if (sizeof(pack) == 16) {
        union { pack p; u32 at[4]; } v;
        v.p = p;
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" : : "l"(to), "r"(v.at[0]), "r"(v.at[1]), "r"(v.at[2]), "r"(v.at[3]) : "memory");
        return;
    }
#endif
    *(pack *)to = p;
}

static __device__ inline float exp_of(float x) { return expf(x); }
static __device__ inline double exp_of(double x) { return exp(x); }
static __device__ inline float log_of(float x) { return logf(x); }
static __device__ inline double log_of(double x) { return log(x); }
static __device__ inline float root_of(float x) { return sqrtf(x); }
static __device__ inline double root_of(double x) { return sqrt(x); }
static __device__ inline float fused(float x, float y, float z) { return fmaf(x, y, z); }
static __device__ inline double fused(double x, double y, double z) { return fma(x, y, z); }
static __device__ inline A lowest() { return -(A)1 / (A)0; }

static __device__ inline i64 chunk_size() { return (i64)blockDim.x * ELEMENTS; }
static __device__ inline i64 chunks_of(i64 n) { return (n + chunk_size() - 1) / chunk_size(); }
static __device__ inline i64 length_of(i64 n, i64 chunk)
{
    i64 left = n - chunk * chunk_size();
    return left < chunk_size() ? left : chunk_size();
}
/* Where access k of this thread begins in its chunk. */
static __device__ inline int place(int k) { return (k * (int)blockDim.x + (int)threadIdx.x) * WIDTH; }

/* This thread's elements of a chunk; `fill` behind its end. */
static __device__ inline void fetch(A *v, const T *chunk, i64 length, A fill)
{
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int j = place(k);
        if (j < length) {
            pack p = *(const pack *)(chunk + j);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) v[k * WIDTH + i] = load(p.at[i]);
        } else {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) v[k * WIDTH + i] = fill;
        }
    }
}
static __device__ inline void put(T *chunk, const A *v, i64 length)
{
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int j = place(k);
        if (j >= length) continue;
        pack p;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) p.at[i] = store<T>(v[k * WIDTH + i]);
        put_pack(chunk + j, p);
    }
}

/* Over the threads of a row, every one of which gets the result. All threads of the block take part. */
struct adding { __device__ A operator()(A a, A b) const { return a + b; } };
struct larger { __device__ A operator()(A a, A b) const { return a > b ? a : b; } };
template <int K, class F> static __device__ inline void across(A (&v)[K], F join)
{
    __shared__ A room[K * WARP];
    int lanes = blockDim.x < WARP ? blockDim.x : WARP;
    for (int d = lanes / 2; d; d /= 2) {
#pragma unroll
        for (int k = 0; k < K; k++) v[k] = join(v[k], __shfl_xor_sync(0xffffffffu, v[k], d));
    }
    if (blockDim.x <= WARP) return;
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP == 0)
        for (int k = 0; k < K; k++) room[k * WARP + warp] = v[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; k++) {
        v[k] = room[k * WARP];
        for (int w = 1; w < warps; w++) v[k] = join(v[k], room[k * WARP + w]);
    }
    __syncthreads();
}
template <class F> static __device__ inline A across(A v, F join)
{
    A one[1] = {v};
    across(one, join);
    return one[0];
}

/* ---- the maximum of a row, and the sum of exp(x - maximum) ----
 * Minus infinity adds nothing and NaN passes into the sum, so that a row of nothing but minus infinity, where x - maximum is NaN, is NaN. */
struct spread { A most, sum; };
static __device__ inline A shift_of(A most) { return most == lowest() ? 0 : most; }
static __device__ inline spread joined(spread a, spread b)
{
    A most = a.most > b.most ? a.most : b.most, shift = shift_of(most);
    return spread{most, a.sum * exp_of(a.most - shift) + b.sum * exp_of(b.most - shift)};
}
static __device__ inline spread spread_of(const A *v)
{
    spread made = {lowest(), 0};
#pragma unroll
    for (int i = 0; i < ELEMENTS; i++) made.most = v[i] > made.most ? v[i] : made.most;
    made.most = across(made.most, larger());
    A shift = shift_of(made.most);
#pragma unroll
    for (int i = 0; i < ELEMENTS; i++) made.sum += exp_of(v[i] - shift);
    made.sum = across(made.sum, adding());
    return made;
}
/* The same one element after the other. */
static __device__ inline spread with(spread a, A x)
{
    if (x > a.most) return spread{x, a.sum * exp_of(a.most - x) + (x - x + 1)};
    return spread{a.most, a.sum + (x == lowest() ? 0 : exp_of(x - a.most))};
}

/* ---- sums over blocks of 256 threads ---- */

enum { SUMMED = 8192 };                     /* numbers to a block of 256 threads */
static __device__ inline double block_sum(double v)
{
    __shared__ double room[256];
    room[threadIdx.x] = v;
    for (int half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    }
    __syncthreads();
    v = room[0];
    __syncthreads();
    return v;
}
