#include "common.cuh"
/* Pooling over the last three dimensions of (planes, D, H, W), fewer are preceded by dimensions of size 1. A thread makes one result; in a gradient
 * it makes one element, from the windows that see it, so nothing is added atomically.
 *   n, o, k, s, p, d    lengths, windows and taps, then stride, padding in front and dilation, which adaptive windows do not use
 *   ADAPTIVE            1: windows share out the lengths evenly
 *   C                   the type of a maximum's code: which tap it was */
#define GEOMETRY i64 n0, i64 n1, i64 n2, i64 o0, i64 o1, i64 o2, i64 k0, i64 k1, i64 k2, i64 s0, i64 s1, i64 s2, i64 p0, i64 p1, i64 p2, i64 d0, i64 d1, i64 d2
#define AXES const axis_t z = {(int)n0, (int)o0, (int)k0, (int)s0, (int)p0, (int)d0}, y = {(int)n1, (int)o1, (int)k1, (int)s1, (int)p1, (int)d1}, \
    x = {(int)n2, (int)o2, (int)k2, (int)s2, (int)p2, (int)d2}

typedef acc_t<T> A;

struct axis_t {
    int n, o, k, s, p, d;
    __device__ int first(int window) const { return ADAPTIVE ? (int)((i64)window * n / o) : window * s - p; }
    __device__ int end(int window) const { return (int)(((i64)(window + 1) * n + o - 1) / o); } /* adaptive */
    /* What a window's tap meets; -1 outside the image or the window. */
    __device__ int met(int window, int tap) const
    {
        const int at = first(window) + (ADAPTIVE ? tap : tap * d);
        return at >= 0 && at < (ADAPTIVE ? end(window) : n) ? at : -1;
    }
    /* What an average divides by. */
    __device__ i64 count(int window, bool padding) const
    {
        if (ADAPTIVE) return end(window) - first(window);
        const int from = first(window), to = from + k, last = padding ? n + p : n;
        return (to < last ? to : last) - (padding || from > 0 ? from : 0);
    }
    /* The windows that see an element, numbered; `window` is -1 where a number is none. */
    __device__ int lookers(int at) const { return ADAPTIVE ? (int)(((i64)(at + 1) * o + n - 1) / n - (i64)at * o / n) : k; }
    __device__ int window(int at, int number) const
    {
        if (ADAPTIVE) return (int)((i64)at * o / n) + number;
        const int from = at + p - number * d, w = from / s;
        return from >= 0 && w * s == from && w < o ? w : -1;
    }
    __device__ int tap(int at, int number) const { return ADAPTIVE ? at - first(window(at, number)) : number; }
};
struct place_t { int z, y, x; };
static __device__ inline place_t place_of(i64 i, int height, int width)
{
    const u32 at = (u32)i, row = at / (u32)width;
    return {(int)(row / (u32)height), (int)(row % (u32)height), (int)(at % (u32)width)};
}

#define EACH(windows_or_elements, planes) \
    for (i64 plane = blockIdx.y; plane < planes; plane += gridDim.y) \
        for (i64 i = first_index(); i < (windows_or_elements); i += index_step())

/* The windows (wz, wy, wx) that see the element `at`. */
#define LOOKERS \
    for (int jz = 0; jz < z.lookers(at.z); jz++) if (const int wz = z.window(at.z, jz); wz >= 0) \
        for (int jy = 0; jy < y.lookers(at.y); jy++) if (const int wy = y.window(at.y, jy); wy >= 0) \
            for (int jx = 0; jx < x.lookers(at.x); jx++) if (const int wx = x.window(at.x, jx); wx >= 0)

#if MAXIMUM
/* The first largest element, the last NaN where there is one. */
extern "C" __global__ void pool(T *out, C *code, const T *in, i64 planes, GEOMETRY)
{
    AXES;
    const i64 size = n0 * n1 * n2, windows = o0 * o1 * o2;
    EACH(windows, planes) {
        const place_t w = place_of(i, y.o, x.o);
        int best = -1, found = 0, tap = 0;
        A top = 0;
        for (int kz = 0; kz < z.k; kz++)
            for (int ky = 0; ky < y.k; ky++)
                for (int kx = 0; kx < x.k; kx++, tap++) {
                    const int az = z.met(w.z, kz), ay = y.met(w.y, ky), ax = x.met(w.x, kx);
                    if (az < 0 || ay < 0 || ax < 0) continue;
                    const int at = (az * y.n + ay) * x.n + ax;
                    const A value = load(in[plane * size + at]);
                    if (best < 0 || value > top || value != value) {
                        best = tap;
                        found = at;
                        top = value;
                    }
                }
        out[plane * windows + i] = in[plane * size + found];
        code[plane * windows + i] = (C)best;
    }
}

extern "C" __global__ void pool_back(T *out, const T *g, const C *code, i64 planes, GEOMETRY)
{
    AXES;
    const i64 size = n0 * n1 * n2, windows = o0 * o1 * o2;
    EACH(size, planes) {
        const place_t at = place_of(i, y.n, x.n);
        A sum = 0;
        LOOKERS {
            const i64 w = plane * windows + ((i64)wz * y.o + wy) * x.o + wx;
            const int tap = (z.tap(at.z, jz) * y.k + y.tap(at.y, jy)) * x.k + x.tap(at.x, jx);
            if ((int)code[w] == tap) sum += load(g[w]);
        }
        out[plane * size + i] = store<T>(sum);
    }
}
#else
static __device__ inline A divided(A sum, i64 divisor, i64 count) { return sum / (A)(divisor ? divisor : count); }

extern "C" __global__ void pool(T *out, const T *in, i64 planes, i64 padding, i64 divisor, GEOMETRY)
{
    AXES;
    const i64 size = n0 * n1 * n2, windows = o0 * o1 * o2;
    EACH(windows, planes) {
        const place_t w = place_of(i, y.o, x.o);
        A sum = 0;
        for (int kz = 0; kz < z.k; kz++)
            for (int ky = 0; ky < y.k; ky++)
                for (int kx = 0; kx < x.k; kx++) {
                    const int az = z.met(w.z, kz), ay = y.met(w.y, ky), ax = x.met(w.x, kx);
                    if (az >= 0 && ay >= 0 && ax >= 0) sum += load(in[plane * size + (az * y.n + ay) * x.n + ax]);
                }
        out[plane * windows + i] = store<T>(divided(sum, divisor, z.count(w.z, padding) * y.count(w.y, padding) * x.count(w.x, padding)));
    }
}

extern "C" __global__ void pool_back(T *out, const T *g, i64 planes, i64 padding, i64 divisor, GEOMETRY)
{
    AXES;
    const i64 size = n0 * n1 * n2, windows = o0 * o1 * o2;
    EACH(size, planes) {
        const place_t at = place_of(i, y.n, x.n);
        A sum = 0;
        LOOKERS {
            const i64 count = z.count(wz, padding) * y.count(wy, padding) * x.count(wx, padding);
            sum += divided(load(g[plane * windows + ((i64)wz * y.o + wy) * x.o + wx]), divisor, count);
        }
        out[plane * size + i] = store<T>(sum);
    }
}
#endif
