/* softmax and log_softmax: in the last dimension one read and one write of rows that a block holds (rows.cuh), else along columns, where
 * neighbouring threads take neighbouring elements. Bytes of n elements: forward 2 n sizeof(T), gradient 3 n sizeof(T); of rows that are
 * longer than a block's registers, which are read twice, half as much again where the second read misses the cache. */
#include "rows.cuh"

static __device__ inline i64 row_of() { return (i64)blockIdx.x * blockDim.y + threadIdx.y; }

/* parts: NULL where a row is one block's; else room for two numbers of each chunk of each row, which `softmax_parts` fills. */
extern "C" __global__ void __launch_bounds__(512) softmax_parts(A *parts, const T *x, i64 n)
{
    A v[ELEMENTS];
    i64 row = row_of(), c = blockIdx.y;
    fetch(v, x + row * n + c * chunk_size(), length_of(n, c), lowest());
    spread made = spread_of(v);
    A *part = parts + 2 * (row * gridDim.y + c);
    if (threadIdx.x == 0) part[0] = made.most, part[1] = made.sum;
}
extern "C" __global__ void __launch_bounds__(512) softmax_rows(T *out, const T *x, const A *parts, i64 rows, i64 n, i64 logarithm)
{
    A v[ELEMENTS];
    i64 row = row_of(), chunks = chunks_of(n);
    bool mine = row < rows;
    spread all = {lowest(), 0};
    x += row * n, out += row * n;
    for (i64 c = 0; c < chunks; c++) {
        spread one;
        if (parts) {
            const A *part = parts + 2 * (row * chunks + c);
            one = spread{part[0], part[1]};
        } else {
            fetch(v, x + c * chunk_size(), mine ? length_of(n, c) : 0, lowest());
            one = spread_of(v);
        }
        all = c ? joined(all, one) : one;
    }
    if (!mine) return;
    A scale = 1 / all.sum, sunk = log_of(all.sum);
    for (i64 c = blockIdx.y; c < chunks; c += gridDim.y) {
        i64 length = length_of(n, c);
        if (chunks > 1) fetch(v, x + c * chunk_size(), length, 0);
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) v[i] = logarithm ? (v[i] - all.most) - sunk : exp_of(v[i] - all.most) * scale;
        put(out + c * chunk_size(), v, length);
    }
}

/* softmax: dx = out (g - sum(out g)); its logarithm: dx = g - exp(out) sum(g) */
static __device__ inline A slope_sum(const A *g, const A *out, i64 logarithm)
{
    A sum = 0;
#pragma unroll
    for (int i = 0; i < ELEMENTS; i++) sum += logarithm ? g[i] : g[i] * out[i];
    return across(sum, adding());
}
extern "C" __global__ void __launch_bounds__(512) softmax_grad_parts(A *parts, const T *g, const T *out, i64 n, i64 logarithm)
{
    A vg[ELEMENTS], vo[ELEMENTS];
    i64 row = row_of(), c = blockIdx.y, at = row * n + c * chunk_size();
    fetch(vg, g + at, length_of(n, c), 0);
    fetch(vo, out + at, length_of(n, c), 0);
    A sum = slope_sum(vg, vo, logarithm);
    if (threadIdx.x == 0) parts[row * gridDim.y + c] = sum;
}
extern "C" __global__ void __launch_bounds__(512) softmax_grad_rows(T *dx, const T *g, const T *out, const A *parts, i64 rows, i64 n, i64 logarithm)
{
    A vg[ELEMENTS], vo[ELEMENTS], sum = 0;
    i64 row = row_of(), chunks = chunks_of(n);
    bool mine = row < rows;
    g += row * n, out += row * n, dx += row * n;
    for (i64 c = 0; c < chunks; c++) {
        if (parts) {
            sum += parts[row * chunks + c];
            continue;
        }
        i64 length = mine ? length_of(n, c) : 0;
        fetch(vg, g + c * chunk_size(), length, 0);
        fetch(vo, out + c * chunk_size(), length, 0);
        sum += slope_sum(vg, vo, logarithm);
    }
    if (!mine) return;
    for (i64 c = blockIdx.y; c < chunks; c += gridDim.y) {
        i64 length = length_of(n, c);
        if (chunks > 1) fetch(vg, g + c * chunk_size(), length, 0), fetch(vo, out + c * chunk_size(), length, 0);
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) vg[i] = logarithm ? vg[i] - exp_of(vo[i]) * sum : vo[i] * (vg[i] - sum);
        put(dx + c * chunk_size(), vg, length);
    }
}

/* ---- along columns: x (outer, n, inner), blockDim.x neighbouring columns to a block, threads of one column join in order ---- */

struct column { i64 first; bool mine; };    /* its first element */
static __device__ inline column column_of(i64 n, i64 inner)
{
    i64 blocks = (inner + blockDim.x - 1) / blockDim.x, outer = blockIdx.x / blocks;
    i64 i = (blockIdx.x - outer * blocks) * blockDim.x + threadIdx.x;
    return column{outer * n * inner + i, i < inner};
}
extern "C" __global__ void __launch_bounds__(512) softmax_columns(T *out, const T *x, i64 n, i64 inner, i64 logarithm)
{
    __shared__ spread room[512];
    column at = column_of(n, inner);
    spread all = {lowest(), 0};
    if (at.mine)
        for (i64 j = threadIdx.y; j < n; j += blockDim.y) all = with(all, load(x[at.first + j * inner]));
    room[threadIdx.y * blockDim.x + threadIdx.x] = all;
    __syncthreads();
    if (!at.mine) return;
    all = room[threadIdx.x];
    for (int y = 1; y < blockDim.y; y++) all = joined(all, room[y * blockDim.x + threadIdx.x]);
    A scale = 1 / all.sum, sunk = log_of(all.sum);
    for (i64 j = threadIdx.y; j < n; j += blockDim.y) {
        A d = load(x[at.first + j * inner]) - all.most;
        out[at.first + j * inner] = store<T>(logarithm ? d - sunk : exp_of(d) * scale);
    }
}
extern "C" __global__ void __launch_bounds__(512) softmax_grad_columns(T *dx, const T *g, const T *out, i64 n, i64 inner, i64 logarithm)
{
    __shared__ A room[512];
    column at = column_of(n, inner);
    A sum = 0;
    if (at.mine)
        for (i64 j = threadIdx.y; j < n; j += blockDim.y) {
            A slope = load(g[at.first + j * inner]);
            sum += logarithm ? slope : slope * load(out[at.first + j * inner]);
        }
    room[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (!at.mine) return;
    sum = room[threadIdx.x];
    for (int y = 1; y < blockDim.y; y++) sum += room[y * blockDim.x + threadIdx.x];
    for (i64 j = threadIdx.y; j < n; j += blockDim.y) {
        A slope = load(g[at.first + j * inner]), value = load(out[at.first + j * inner]);
        dx[at.first + j * inner] = store<T>(logarithm ? slope - exp_of(value) * sum : value * (slope - sum));
    }
}
