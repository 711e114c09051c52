/* Steps of optimizers over whole groups of parameters: native/optim.c's, operation by operation, so with its bits in float32 and float64.
 * 16-bit parameters and their states are computed in float and rounded where they are stored.
 *
 *   table (n, 8)        of each parameter the addresses of itself, its gradient, up to three states, its step and product (float), and its size
 *   chunks (m, 2)       a block's parameter, and where in it the block begins
 *   rules (n, RULE)     what `prepare`, one thread a parameter, makes of the numbers of the step for the blocks of `sgd`, `adam`, `rms`, `lion`
 *
 * One read and one write of everything (adam: 28 bytes an element in float32), in accesses of 16 bytes where addresses allow. */
#include "common.cuh"

enum { CHUNK = 16384, WORDS = 8, PARAM = 0, GRAD = 1, STATES = 2, STEP = 5, PRODUCT = 6, SIZE = 7, RULE = 12, WIDTH = 16 / sizeof(T) };
enum { SGD, ADAM, ADAMAX, NADAM, RADAM, RMS, LION }; /* as optim.py numbers them */
typedef acc_t<T> A;
struct alignas(16) pack { T at[WIDTH]; };

static __device__ inline float root_of(float x) { return sqrtf(x); }
static __device__ inline double root_of(double x) { return sqrt(x); }

/* h[i], or where there is none (a graph's step reads it from memory, others have it as an argument) the argument. */
struct numbers {
    const double *h, *lr;
    double given[8];
    __device__ double operator[](int i) const { return i == 0 && lr ? *lr : h ? h[i] : given[i]; }
};
static __device__ inline void prepare_adam(double *r, i64 kind, const numbers &h, double t, float *product)
{
    double lr = h[0], beta1 = h[1], beta2 = h[2], weight_decay = h[4], decay = h[5], correction = 1 - pow(beta2, t), step = lr / (1 - pow(beta1, t)), root = sqrt(correction), look = 0;
    bool decoupled = h[6] != 0, plain = false;
    if (kind == NADAM) {
        double now = beta1 * (1 - 0.5 * pow(0.96, t * decay)), ahead = beta1 * (1 - 0.5 * pow(0.96, (t + 1) * decay));
        *product *= (float)now;
        look = lr * (1 - now) / (1 - (double)*product);
        step = lr * ahead / (1 - (double)*product * ahead);
    } else if (kind == RADAM) {
        double most = 2 / (1 - beta2) - 1, seen = most - 2 * t * pow(beta2, t) / correction;
        plain = !(seen > 5);
        if (!plain) step *= sqrt((seen - 4) * (seen - 2) * most / ((most - 4) * (most - 2) * seen)) * root;
        root = 1;
    }
    r[1] = decoupled ? 1 - lr * weight_decay : 1, r[2] = decoupled ? 0 : weight_decay;
    r[3] = beta1, r[4] = beta2, r[5] = root, r[6] = h[3], r[7] = step, r[8] = look, r[9] = plain, r[10] = h[7], r[11] = kind == ADAMAX;
}
/* Counts the steps. found: NULL, or a bool that is true where the step is to be left out. */
extern "C" __global__ void prepare(double *rules, const i64 *table, i64 n, i64 kind, const double *changing, const double *lr, const bool *found, double a, double b, double c, double d, double e, double f, double g, double i)
{
    numbers h = {changing, lr, {a, b, c, d, e, f, g, i}};
    for (i64 p = first_index(); p < n; p += index_step()) {
        const i64 *entry = table + WORDS * p;
        double *r = rules + RULE * p, t = 0;
        r[0] = found && *found;
        if (r[0] != 0) continue;
        if (float *step = (float *)entry[STEP]) t = *step += 1;
        if (kind == SGD) for (int k = 0; k < 6; k++) r[k + 1] = h[k];
        else if (kind == LION) r[1] = 1 - h[0] * h[3], r[2] = h[1], r[3] = h[2], r[4] = h[0], r[5] = h[4];
        else if (kind == RMS) {
            r[1] = h[4], r[2] = h[1], r[3] = h[2], r[4] = h[5], r[5] = h[3], r[7] = h[7];
            r[6] = entry[STEP] ? h[0] / (1 + (t - 1) * h[6]) : h[0];
        } else prepare_adam(r, kind, h, t, (float *)entry[PRODUCT]);
    }
}

/* f(x, g, states) for every element of this block's chunk: it changes the parameter x and the states. */
template <class F> static __device__ inline void over_chunk(const i64 *entry, i64 from, F f)
{
    T *p = (T *)entry[PARAM] + from, *s[3];
    const T *g = (const T *)entry[GRAD] + from;
    i64 n = entry[SIZE] - from < CHUNK ? entry[SIZE] - from : CHUNK, all = 0;
    for (int k = 0; k < 5; k++) all |= entry[k];
    for (int k = 0; k < 3; k++) s[k] = entry[STATES + k] ? (T *)entry[STATES + k] + from : (T *)0;
    for (i64 i = threadIdx.x * WIDTH; i < n; i += blockDim.x * WIDTH) {
        int few = n - i < WIDTH ? (int)(n - i) : WIDTH;
        bool whole = few == WIDTH && (all & 15) == 0;
        pack x, y, z[3];
        if (whole) {
            x = *(const pack *)(p + i), y = *(const pack *)(g + i);
#pragma unroll
            for (int k = 0; k < 3; k++) if (s[k]) z[k] = *(const pack *)(s[k] + i);
        } else {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                if (j >= few) continue;
                x.at[j] = p[i + j], y.at[j] = g[i + j];
                for (int k = 0; k < 3; k++) if (s[k]) z[k].at[j] = s[k][i + j];
            }
        }
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            if (j >= few) continue;
            A v = load(x.at[j]), u[3];
#pragma unroll
            for (int k = 0; k < 3; k++) if (s[k]) u[k] = load(z[k].at[j]);
            f(v, load(y.at[j]), u);
            x.at[j] = store<T>(v);
#pragma unroll
            for (int k = 0; k < 3; k++) if (s[k]) z[k].at[j] = store<T>(u[k]);
        }
        if (whole) {
            *(pack *)(p + i) = x;
#pragma unroll
            for (int k = 0; k < 3; k++) if (s[k]) *(pack *)(s[k] + i) = z[k];
        } else {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                if (j >= few) continue;
                p[i + j] = x.at[j];
                for (int k = 0; k < 3; k++) if (s[k]) s[k][i + j] = z[k].at[j];
            }
        }
    }
}

/* m + w (g - m), as lerp rounds it; `keep` is 1 - w. */
static __device__ inline A lerp_of(A m, A g, double keep) { return keep > 0.5 ? m + (A)(1 - keep) * (g - m) : g - (g - m) * (1 - (A)(1 - keep)); }

struct chunk { const i64 *entry; i64 from; const double *rule; };
static __device__ inline chunk mine(const double *rules, const i64 *table, const i64 *chunks)
{
    i64 p = chunks[2 * blockIdx.x];
    return chunk{table + WORDS * p, chunks[2 * blockIdx.x + 1], rules + RULE * p};
}

extern "C" __global__ void __launch_bounds__(512) sgd(const double *rules, const i64 *table, const i64 *chunks)
{
    chunk c = mine(rules, table, chunks);
    const double *r = c.rule;
    if (r[0] != 0) return;
    A lr = (A)-r[1], momentum = (A)r[2], fresh = (A)(1 - r[3]), decay = (A)r[4];
    bool nesterov = r[5] != 0, maximize = r[6] != 0, buffered = c.entry[STATES] != 0;
    over_chunk(c.entry, c.from, [=](A &x, A g, A *s) {
        if (maximize) g = -g;
        if (decay != 0) g = g + decay * x;
        if (buffered) {
            s[0] = s[0] * momentum + g * fresh;
            g = nesterov ? g + momentum * s[0] : s[0];
        }
        x = x + lr * g;
    });
}

extern "C" __global__ void __launch_bounds__(512) adam(const double *rules, const i64 *table, const i64 *chunks)
{
    chunk c = mine(rules, table, chunks);
    const double *r = c.rule;
    if (r[0] != 0) return;
    A shrink = (A)r[1], decay = (A)r[2], beta2 = (A)r[4], w2 = (A)(1 - r[4]), root = (A)r[5], eps = (A)r[6], step = (A)-r[7], look = (A)-r[8];
    double beta1 = r[3];
    bool shrinks = r[1] != 1, decays = r[2] != 0, looks = r[8] != 0, plain = r[9] != 0, maximize = r[10] != 0, peak = r[11] != 0, largest = c.entry[STATES + 2] != 0;
    over_chunk(c.entry, c.from, [=](A &x, A g, A *s) {
        if (maximize) g = -g;
        if (shrinks) x = x * shrink;
        if (decays) g = g + decay * x;
        s[0] = lerp_of(s[0], g, beta1);
        A v = s[1] * beta2;
        if (peak) {
            A one = (g < 0 ? -g : g == 0 ? (A)0 : g) + eps;
            v = one > v || one != one ? one : v;
        } else v = v + w2 * g * g;
        s[1] = v;
        if (largest) s[2] = v = v > s[2] || v != v ? v : s[2];
        if (!peak) v = root_of(v) / root + eps;
        A along = step * s[0];
        if (looks) along = along + look * g;
        x = x + (plain ? along : along / v);
    });
}

/* states: squares; means or (`ratio`, adadelta) squared steps; momenta */
extern "C" __global__ void __launch_bounds__(512) rms(const double *rules, const i64 *table, const i64 *chunks, i64 ratio)
{
    chunk c = mine(rules, table, chunks);
    const double *r = c.rule;
    if (r[0] != 0) return;
    A decay = (A)r[1], keep = (A)r[2], fresh = (A)r[3], momentum = (A)r[4], eps = (A)r[5], lr = (A)-r[6];
    double kept = r[2];
    bool decays = r[1] != 0, maximize = r[7] != 0, second = c.entry[STATES + 1] != 0, buffered = c.entry[STATES + 2] != 0;
    over_chunk(c.entry, c.from, [=](A &x, A g, A *s) {
        if (maximize) g = -g;
        if (decays) g = g + decay * x;
        A v = s[0] * keep + fresh * g * g;
        s[0] = v;
        if (second && ratio) {
            g = root_of(s[1] + eps) / root_of(v + eps) * g;
            s[1] = s[1] * keep + fresh * g * g;
        } else if (second) {
            s[1] = lerp_of(s[1], g, kept);
            v = v - s[1] * s[1];
        }
        A along = lr * g;
        if (!ratio) {
            v = root_of(v) + eps;
            if (buffered) {
                s[2] = s[2] * momentum + g / v;
                along = lr * s[2];
            } else along = along / v;
        }
        x = x + along;
    });
}

extern "C" __global__ void __launch_bounds__(512) lion(const double *rules, const i64 *table, const i64 *chunks)
{
    chunk c = mine(rules, table, chunks);
    const double *r = c.rule;
    if (r[0] != 0) return;
    A shrink = (A)r[1], lr = (A)-r[4];
    double beta1 = r[2], beta2 = r[3];
    bool maximize = r[5] != 0;
    over_chunk(c.entry, c.from, [=](A &x, A g, A *s) {
        if (maximize) g = -g;
        A m = lerp_of(s[0], g, beta1);
        m = m > 0 ? (A)1 : m < 0 ? (A)-1 : m;
        x = x * shrink + lr * m;
        s[0] = lerp_of(s[0], g, beta2);
    });
}

/* ---- clipping ---- */

/* parts[2 b]: the sum of squares of a block's chunk, in a fixed tree; losses.cu's sum_finish adds them up. 512 threads. */
extern "C" __global__ void __launch_bounds__(512) squares(double *parts, const i64 *table, const i64 *chunks)
{
    __shared__ double room[512];
    const i64 *entry = table + WORDS * chunks[2 * blockIdx.x];
    i64 from = chunks[2 * blockIdx.x + 1], n = entry[SIZE] - from < CHUNK ? entry[SIZE] - from : CHUNK;
    const T *x = (const T *)entry[PARAM] + from;
    bool whole = (entry[PARAM] & 15) == 0;
    double sum = 0;
    for (i64 i = threadIdx.x * WIDTH; i < n; i += blockDim.x * WIDTH) {
        pack p;
        bool all = whole && n - i >= WIDTH;
        if (all) p = *(const pack *)(x + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            double v = (double)(all ? load(p.at[j]) : i + j < n ? load(x[i + j]) : (A)0);
            sum += v * v;
        }
    }
    room[threadIdx.x] = sum;
    for (int half = 256; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    }
    if (threadIdx.x == 0) parts[2 * blockIdx.x] = room[0], parts[2 * blockIdx.x + 1] = 0;
}
/* Multiply by *factor, which is at most `most` taken: nothing is touched where it is 1. found: NULL, or set where a product is not finite. */
extern "C" __global__ void __launch_bounds__(512) scale(const i64 *table, const i64 *chunks, const double *at, double given, double most, bool *found)
{
    const i64 *entry = table + WORDS * chunks[2 * blockIdx.x];
    double factor = at ? *at : given;
    factor = factor > most ? most : factor;
    if (factor == 1 && !found) return;
    A by = (A)factor;
    i64 from = chunks[2 * blockIdx.x + 1], n = entry[SIZE] - from < CHUNK ? entry[SIZE] - from : CHUNK;
    T *x = (T *)entry[PARAM] + from;
    bool whole = (entry[PARAM] & 15) == 0, bad = false;
    for (i64 i = threadIdx.x * WIDTH; i < n; i += blockDim.x * WIDTH) {
        pack p;
        bool all = whole && n - i >= WIDTH;
        if (all) p = *(const pack *)(x + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            if (!all && i + j >= n) continue;
            A v = (all ? load(p.at[j]) : load(x[i + j])) * by;
            bad |= !(v - v == 0);
            if (all) p.at[j] = store<T>(v);
            else x[i + j] = store<T>(v);
        }
        if (all) *(pack *)(x + i) = p;
    }
    if (found && bad) *found = true;
}
