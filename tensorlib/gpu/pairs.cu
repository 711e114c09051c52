/* Losses that pair each element of an input with one of a target: their sum, or each, in one read; the gradients of both in one more.
 * `kind` is one of those below, as losses.py numbers them. `weight` and `positive` (pos_weight) are NULL or of the input's shape. */
#include "rows.cuh"

enum { MSE, L1, HUBER, SMOOTH_L1, KL, BCE, LOGITS };

static __device__ inline A size_of(A x) { return x < 0 ? -x : x; }
static __device__ inline A at_least(A x, A y) { return x < y ? y : x; } /* NaN stays */
static __device__ inline float more_log(float x) { return log1pf(x); }
static __device__ inline double more_log(double x) { return log1p(x); }
static __device__ inline A softplus(A x) { return (x > 0 ? x : (A)0) + more_log(exp_of(-size_of(x))) + (x - x); }
static __device__ inline A sign_of(A x) { return x > 0 ? (A)1 : x < 0 ? (A)-1 : x; }
static __device__ inline A clamped(A x, A bound) { return x > bound ? bound : x < -bound ? -bound : x; }

static __device__ inline A loss_of(i64 kind, A x, A t, A positive, A p)
{
    A d = x - t, size = size_of(d);
    switch (kind) {
    case MSE: return d * d;
    case L1: return size;
    case HUBER: case SMOOTH_L1: {
        A loss = size < p ? (A)0.5 * d * d : p * (size - (A)0.5 * p);
        return kind == HUBER ? loss : loss / p;
    }
    case KL: return p != 0 ? exp_of(t) * (t - x) : (t == 0 ? (A)0 : t * log_of(t)) - t * x;
    case BCE: return (t - 1) * at_least(more_log(-x), -100) - t * at_least(log_of(x), -100);
    default: return (1 - t) * x + (1 + (positive - 1) * t) * softplus(-x);
    }
}
static __device__ inline A slope_of(i64 kind, A x, A t, A positive, A p)
{
    A d = x - t;
    switch (kind) {
    case MSE: return 2 * d;
    case L1: return sign_of(d);
    case HUBER: return clamped(d, p);
    case SMOOTH_L1: return clamped(d, p) / p;
    case KL: return p != 0 ? -exp_of(t) : -t;
    case BCE: return d / at_least((1 - x) * x, (A)1e-12);
    default: {
        A s = 1 / (1 + exp_of(-x));
        return (1 + (positive - 1) * t) * s - positive * t;
    }
    }
}
static __device__ inline A target_slope_of(i64 kind, A x, A t, A positive, A p)
{
    switch (kind) {
    case KL: return p != 0 ? exp_of(t) * (t - x + 1) : log_of(t) + 1 - x;
    case BCE: return at_least(more_log(-x), -100) - at_least(log_of(x), -100);
    case LOGITS: return (positive - 1) * softplus(-x) - x;
    default: return -slope_of(kind, x, t, positive, p);
    }
}
/* f(place, input, target, weight, positive) for every WIDTH elements from `from` to `to`. */
template <class F> static __device__ inline void each_pair(const T *input, const T *target, const T *weight, const T *positive, i64 from, i64 to, i64 step, F f)
{
    for (i64 i = from; i < to; i += step) {
        pack x = *(const pack *)(input + i), t = *(const pack *)(target + i), w, q;
        if (weight) w = *(const pack *)(weight + i);
        if (positive) q = *(const pack *)(positive + i);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) f(i + k, k, load(x.at[k]), load(t.at[k]), weight ? load(w.at[k]) : (A)1, positive ? load(q.at[k]) : (A)1);
    }
}
/* parts[2 b]: the sum over the b-th 8192 elements. */
extern "C" __global__ void pair_parts(double *parts, const T *input, const T *target, const T *weight, const T *positive, i64 n, i64 kind, double p)
{
    i64 from = (i64)blockIdx.x * SUMMED, to = from + SUMMED < n ? from + SUMMED : n;
    double sum = 0;
    each_pair(input, target, weight, positive, from + threadIdx.x * WIDTH, to, (i64)blockDim.x * WIDTH, [&](i64, int, A x, A t, A w, A q) { sum += (double)(loss_of(kind, x, t, q, (A)p) * w); });
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[2 * blockIdx.x] = sum, parts[2 * blockIdx.x + 1] = 0;
}
extern "C" __global__ void pair_each(T *out, const T *input, const T *target, const T *weight, const T *positive, i64 n, i64 kind, double p)
{
    pack made;
    each_pair(input, target, weight, positive, first_index() * WIDTH, n, index_step() * WIDTH, [&](i64 i, int k, A x, A t, A w, A q) {
        made.at[k] = store<T>(loss_of(kind, x, t, q, (A)p) * w);
        if (k == WIDTH - 1) put_pack(out + i - k, made);
    });
}
/* g of `step` 0 (one number, times `scale`) or 1; dx and dt may be NULL. */
extern "C" __global__ void pair_grad(T *dx, T *dt, const T *g, i64 step, double scale, const T *input, const T *target, const T *weight, const T *positive, i64 n, i64 kind, double p)
{
    pack a, b;
    each_pair(input, target, weight, positive, first_index() * WIDTH, n, index_step() * WIDTH, [&](i64 i, int k, A x, A t, A w, A q) {
        A by = (A)((double)load(g[i * step]) * scale) * w;
        if (dx) a.at[k] = store<T>(slope_of(kind, x, t, q, (A)p) * by);
        if (dt) b.at[k] = store<T>(target_slope_of(kind, x, t, q, (A)p) * by);
        if (k < WIDTH - 1) return;
        if (dx) put_pack(dx + i - k, a);
        if (dt) put_pack(dt + i - k, b);
    });
}
