#include "common.cuh"
/* Convolutions over up to three dimensions; fewer are preceded by dimensions of size 1.
 *   D, H, W: the image, OD, OH, OW: the result, KD, KH, KW: the kernel; then strides, paddings in front, dilations. Each fits 31 bits.
 * A row of the column matrix is (channel, tap), its columns are the places of the result: product with the filters, (F, rows), is the convolution.
 * Element (image, row, place) of it lies at image * by_image + row * by_row + place. */
#define GEOMETRY i64 D, i64 H, i64 W, i64 OD, i64 OH, i64 OW, i64 KD, i64 KH, i64 KW, i64 sd, i64 sh, i64 sw, i64 pd, i64 ph, i64 pw, i64 dd, i64 dh, i64 dw

typedef acc_t<T> A;
struct place_t { int z, y, x; };

/* Place i among (.., height, width). */
static __device__ inline place_t place_of(i64 i, i64 height, i64 width)
{
    u32 at = (u32)i, h = (u32)height, w = (u32)width, row = at / w;
    return {(int)(row / h), (int)(row % h), (int)(at % w)};
}

/* What tap `k` of the window at `o` meets; outside the image: not `in`. */
static __device__ inline i64 met(int o, i64 k, i64 stride, i64 padding, i64 dilation) { return o * stride - padding + k * dilation; }
static __device__ inline bool in(i64 at, i64 size) { return at >= 0 && at < size; }

/* The window whose tap `k` meets `at`; -1 where there is none. */
static __device__ inline int window(int at, i64 k, i64 stride, i64 padding, i64 dilation, i64 windows)
{
    int from = at + (int)padding - (int)(k * dilation), o = from / (int)stride;
    return from >= 0 && o * (int)stride == from && o < windows ? o : -1;
}

/* The column matrix of x, (images, channels, D, H, W). */
extern "C" __global__ void columns(T *out, const T *x, i64 images, i64 channels, i64 by_image, i64 by_row, GEOMETRY)
{
    const i64 taps = KD * KH * KW, places = OD * OH * OW;
    for (i64 image = blockIdx.z; image < images; image += gridDim.z)
        for (i64 row = blockIdx.y; row < channels * taps; row += gridDim.y) {
            const place_t tap = place_of(row % taps, KH, KW);
            const T *plane = x + (image * channels + row / taps) * D * H * W;
            T *to = out + image * by_image + row * by_row;
            for (i64 i = first_index(); i < places; i += index_step()) {
                const place_t o = place_of(i, OH, OW);
                const i64 z = met(o.z, tap.z, sd, pd, dd), y = met(o.y, tap.y, sh, ph, dh), at = met(o.x, tap.x, sw, pw, dw);
                to[i] = in(z, D) && in(y, H) && in(at, W) ? plane[(z * H + y) * W + at] : T{};
            }
        }
}

/* The other way: every element of the image sums what its taps were given, in order of the taps. */
extern "C" __global__ void images(T *out, const T *columns, i64 images, i64 channels, i64 by_image, i64 by_row, GEOMETRY)
{
    const i64 taps = KD * KH * KW, size = D * H * W;
    for (i64 image = blockIdx.z; image < images; image += gridDim.z)
        for (i64 channel = blockIdx.y; channel < channels; channel += gridDim.y) {
            const T *from = columns + image * by_image + channel * taps * by_row;
            T *to = out + (image * channels + channel) * size;
            for (i64 i = first_index(); i < size; i += index_step()) {
                const place_t at = place_of(i, H, W);
                A sum = 0;
                for (i64 kz = 0; kz < KD; kz++) {
                    const int oz = window(at.z, kz, sd, pd, dd, OD);
                    if (oz < 0) continue;
                    for (i64 ky = 0; ky < KH; ky++) {
                        const int oy = window(at.y, ky, sh, ph, dh, OH);
                        if (oy < 0) continue;
                        for (i64 kx = 0; kx < KW; kx++) {
                            const int ox = window(at.x, kx, sw, pw, dw, OW);
                            if (ox >= 0) sum += load(from[((kz * KH + ky) * KW + kx) * by_row + (oz * OH + oy) * OW + ox]);
                        }
                    }
                }
                to[i] = store<T>(sum);
            }
        }
}

/* (first, second, inner) as (second, first, inner), plus a value for each of `first` where there is a bias. */
extern "C" __global__ void swapped(T *out, const T *x, const T *bias, i64 first, i64 second, i64 inner)
{
    for (i64 i = first_index(); i < first * second * inner; i += index_step()) {
        const i64 j = i / inner, a = j % first, b = j / first;
        const T value = x[(a * second + b) * inner + i % inner];
        out[i] = bias ? store<T>(load(value) + load(bias[a])) : value;
    }
}

/* ---- groups of few channels, straight from the image: w is (filters, channels of a group, taps) ---- */
extern "C" __global__ void direct(T *out, const T *x, const T *w, const T *bias, i64 images, i64 channels, i64 filters, i64 groups, GEOMETRY)
{
    const i64 own = channels / groups, taps = KD * KH * KW, places = OD * OH * OW;
    for (i64 image = blockIdx.z; image < images; image += gridDim.z)
        for (i64 f = blockIdx.y; f < filters; f += gridDim.y) {
            const T *from = x + (image * channels + f / (filters / groups) * own) * D * H * W;
            for (i64 i = first_index(); i < places; i += index_step()) {
                const place_t o = place_of(i, OH, OW);
                const T *weight = w + f * own * taps;
                A sum = bias ? (A)load(bias[f]) : (A)0;
                for (i64 c = 0; c < own; c++)
                    for (i64 kz = 0; kz < KD; kz++)
                        for (i64 ky = 0; ky < KH; ky++)
                            for (i64 kx = 0; kx < KW; kx++, weight++) {
                                const i64 z = met(o.z, kz, sd, pd, dd), y = met(o.y, ky, sh, ph, dh), at = met(o.x, kx, sw, pw, dw);
                                if (in(z, D) && in(y, H) && in(at, W)) sum = fma((A)load(from[((c * D + z) * H + y) * W + at]), (A)load(*weight), sum);
                            }
                out[(image * filters + f) * places + i] = store<T>(sum);
            }
        }
}

extern "C" __global__ void direct_grad_input(T *out, const T *g, const T *w, i64 images, i64 channels, i64 filters, i64 groups, GEOMETRY)
{
    const i64 own = channels / groups, several = filters / groups, taps = KD * KH * KW, places = OD * OH * OW, size = D * H * W;
    for (i64 image = blockIdx.z; image < images; image += gridDim.z)
        for (i64 channel = blockIdx.y; channel < channels; channel += gridDim.y) {
            const i64 first = channel / own * several;
            for (i64 i = first_index(); i < size; i += index_step()) {
                const place_t at = place_of(i, H, W);
                A sum = 0;
                for (i64 f = first; f < first + several; f++) {
                    const T *weight = w + (f * own + channel % own) * taps, *from = g + (image * filters + f) * places;
                    for (i64 kz = 0; kz < KD; kz++)
                        for (i64 ky = 0; ky < KH; ky++)
                            for (i64 kx = 0; kx < KW; kx++, weight++) {
                                const int oz = window(at.z, kz, sd, pd, dd, OD), oy = window(at.y, ky, sh, ph, dh, OH), ox = window(at.x, kx, sw, pw, dw, OW);
                                if (oz >= 0 && oy >= 0 && ox >= 0) sum = fma((A)load(from[(oz * OH + oy) * OW + ox]), (A)load(*weight), sum);
                            }
                }
                out[(image * channels + channel) * size + i] = store<T>(sum);
            }
        }
}

/* One block for each weight: threads take every blockDim.x-th term, and halves of the block are added. blockDim.x: a power of 2, at most 256. */
extern "C" __global__ void direct_grad_weight(T *out, const T *g, const T *x, i64 images, i64 channels, i64 filters, i64 groups, GEOMETRY)
{
    __shared__ A sums[256];
    const i64 own = channels / groups, taps = KD * KH * KW, places = OD * OH * OW, f = blockIdx.x / (own * taps);
    const i64 channel = f / (filters / groups) * own + blockIdx.x / taps % own;
    const place_t tap = place_of(blockIdx.x % taps, KH, KW);
    A sum = 0;
    for (i64 i = threadIdx.x; i < images * places; i += blockDim.x) {
        const i64 image = i / places;
        const place_t o = place_of(i % places, OH, OW);
        const i64 z = met(o.z, tap.z, sd, pd, dd), y = met(o.y, tap.y, sh, ph, dh), at = met(o.x, tap.x, sw, pw, dw);
        if (in(z, D) && in(y, H) && in(at, W))
            sum = fma((A)load(x[((image * channels + channel) * D + z) * H * W + y * W + at]), (A)load(g[(image * filters + f) * places + i % places]), sum);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = store<T>(sums[0]);
}
