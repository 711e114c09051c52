/* Normalisation: over rows that a block holds in registers (layer_norm, rms_norm), and over channels (batch, group and instance norm).
 *
 * Bytes of n elements: layer_norm 2 n sizeof(T), its gradients 3 n sizeof(T) and a sum over at most 512 partial rows; over channels 3 n sizeof(T)
 * and 5 n sizeof(T), as statistics must be known before anything is written. Variances are sums of squared distances from a mean that is known. */
#include "rows.cuh"

static __device__ inline i64 row_of() { return (i64)blockIdx.x * blockDim.y + threadIdx.y; }

/* Of so many elements: their mean is mean + rest (of which a float holds the first), and the sum of squared distances from it. */
struct moments { A mean, rest, squares; };
/* Not `centred` (rms_norm): sums of squares, and a mean of 0. Elements behind the chunk's end are 0 in v. */
static __device__ inline moments moments_of(const A *v, i64 length, i64 centred)
{
    moments made = {0, 0, 0};
    A n = length > 0 ? (A)length : 1, sums[2] = {0, 0};
    if (centred) {
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) made.mean += v[i];
        made.mean = across(made.mean, adding()) / n;
    }
#pragma unroll
    for (int k = 0; k < PACKS; k++)
        if (place(k) < length)
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                A d = v[k * WIDTH + i] - made.mean;
                sums[0] += d * d, sums[1] += d;
            }
    across(sums, adding());
    if (centred) made.rest = sums[1] / n;
    made.squares = sums[0] - made.rest * made.rest * n;
    return made;
}
static __device__ inline moments moments_of_row(A *v, const T *x, i64 n, bool mine, i64 centred)
{
    moments all = {0, 0, 0};
    for (i64 c = 0; c < chunks_of(n); c++) {
        i64 length = mine ? length_of(n, c) : 0;
        fetch(v, x + c * chunk_size(), length, 0);
        moments one = moments_of(v, length, centred);
        if (c == 0) all = one;
        else if (!centred) all.squares += one.squares;
        else {
            A seen = (A)(c * chunk_size()), part = (A)length / (seen + (A)length), d = (one.mean - all.mean) + (one.rest - all.rest);
            all.mean += d * part;
            all.squares += one.squares + d * d * seen * part;
        }
    }
    all.mean += all.rest;
    return all;
}

/* ---- over the last dimensions ---- */

extern "C" __global__ void __launch_bounds__(512) norm_rows(T *out, const T *x, const T *weight, const T *bias, i64 rows, i64 n, i64 centred, double eps)
{
    A v[ELEMENTS], w[ELEMENTS];
    i64 row = row_of();
    bool mine = row < rows;
    x += row * n, out += row * n;
    moments m = moments_of_row(v, x, n, mine, centred);
    if (!mine) return;
    A scale = 1 / root_of(m.squares / (A)n + (A)eps);
    for (i64 c = 0; c < chunks_of(n); c++) {
        i64 length = length_of(n, c), at = c * chunk_size();
        if (chunks_of(n) > 1) fetch(v, x + at, length, 0);
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) v[i] = (v[i] - m.mean) * scale;
        if (weight) {
            fetch(w, weight + at, length, 0);
#pragma unroll
            for (int i = 0; i < ELEMENTS; i++) v[i] *= w[i];
        }
        if (bias) {
            fetch(w, bias + at, length, 0);
#pragma unroll
            for (int i = 0; i < ELEMENTS; i++) v[i] += w[i];
        }
        put(out + at, v, length);
    }
}

/* Rows of one chunk. Block b takes the rows b blockDim.y + threadIdx.y, then those gridDim.x blockDim.y further, and adds up what it has
 * for the parameters: of_weight and of_bias are NULL or (gridDim.x, n), which column_sums adds up in order. */
extern "C" __global__ void __launch_bounds__(512) norm_grad_rows(T *dx, A *of_weight, A *of_bias, const T *g, const T *x, const T *weight, i64 rows, i64 n, i64 centred, double eps)
{
    extern __shared__ A room[];             /* n numbers, where blockDim.y > 1 */
    A vx[ELEMENTS], vg[ELEMENTS], w[ELEMENTS], dw[ELEMENTS], db[ELEMENTS];
#pragma unroll
    for (int i = 0; i < ELEMENTS; i++) w[i] = 1, dw[i] = 0, db[i] = 0;
    if (weight) fetch(w, weight, n, 0);
    i64 step = (i64)gridDim.x * blockDim.y;
    for (i64 first = (i64)blockIdx.x * blockDim.y; first < rows; first += step) {
        i64 row = first + threadIdx.y, length = row < rows ? n : 0;
        moments m = moments_of_row(vx, x + row * n, n, row < rows, centred);
        fetch(vg, g + row * n, length, 0);
        A scale = length ? 1 / root_of(m.squares / (A)n + (A)eps) : 0, sums[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) {
            A h = vg[i] * w[i];
            vx[i] = (vx[i] - m.mean) * scale;
            dw[i] += vg[i] * vx[i], db[i] += vg[i];
            sums[0] += h, sums[1] += h * vx[i];
        }
        across(sums, adding());
        A even = centred ? sums[0] / (A)n : 0, along = sums[1] / (A)n;
        if (!dx) continue;
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) vg[i] = scale * (vg[i] * w[i] - even - vx[i] * along);
        put(dx + row * n, vg, length);
    }
    for (int which = 0; which < 2; which++) {
        A *to = which ? of_bias : of_weight;
        if (!to) continue;
        for (int y = 0; y < blockDim.y; y++) {      /* rows of the block one after the other */
            if (threadIdx.y == y) {
#pragma unroll
                for (int k = 0; k < PACKS; k++) {
                    i64 j = place(k);
                    if (j >= n) continue;
#pragma unroll
                    for (int i = 0; i < WIDTH; i++) {
                        A value = which ? db[k * WIDTH + i] : dw[k * WIDTH + i];
                        if (y) value += room[j + i];
                        if (y + 1 < blockDim.y) room[j + i] = value;
                        else to[blockIdx.x * n + j + i] = value;
                    }
                }
            }
            __syncthreads();
        }
    }
}
/* out[j] = sum of parts[., j], (count, n): blockDim.x neighbouring columns to a block. */
extern "C" __global__ void __launch_bounds__(512) column_sums(T *out, const A *parts, i64 count, i64 n)
{
    __shared__ A room[512];
    i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    A sum = 0;
    if (j < n)
        for (i64 i = threadIdx.y; i < count; i += blockDim.y) sum += parts[i * n + j];
    room[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || j >= n) return;
    for (int y = 1; y < blockDim.y; y++) sum += room[y * blockDim.x + threadIdx.x];
    out[j] = store<T>(sum);
}

/* ---- over channels: x (N, C, span), whose runs are its rows of span elements ----
 * 1. `runs`: of each run its mean and squares, with g also the sums of g and of g (x - mean of the run);
 * 2. `cells`: runs of a cell (what shares statistics) joined in double, in a fixed order; running statistics moved;
 * 3. `channels`: parameters' gradients;  4. `channel_norm`, `channel_norm_grad`: one pass over elements. */

/* of_runs (2 or 4, count) */
extern "C" __global__ void __launch_bounds__(512) runs(double *of_runs, const T *x, const T *g, i64 count, i64 span)
{
    A v[ELEMENTS], h[ELEMENTS];
    i64 row = row_of();
    bool mine = row < count;
    x += row * span, g = g ? g + row * span : g;
    double mean = 0, squares = 0, sum = 0, dot = 0;
    for (i64 c = 0; c < chunks_of(span); c++) {
        i64 length = mine ? length_of(span, c) : 0, at = c * chunk_size();
        fetch(v, x + at, length, 0);
        moments one = moments_of(v, length, 1);
        double seen = (double)at, part = (double)length / (seen + (double)length), d = (double)one.mean + (double)one.rest - mean, was = mean;
        if (!mine) part = 0;
        mean += d * part;
        squares += (double)one.squares + d * d * seen * part;
        if (!g) continue;
        A sums[2] = {0, 0};
        fetch(h, g + at, length, 0);
#pragma unroll
        for (int i = 0; i < ELEMENTS; i++) sums[0] += h[i], sums[1] += h[i] * (v[i] - one.mean);
        across(sums, adding());
        dot += sum * (was - mean) + (double)sums[1] + (double)sums[0] * ((double)one.mean - mean);
        sum += (double)sums[0];
    }
    if (!mine || threadIdx.x) return;
    of_runs[row] = mean, of_runs[count + row] = squares;
    if (g) of_runs[2 * count + row] = sum, of_runs[3 * count + row] = dot;
}

/* Sums over threadIdx.y, in order; every thread gets them. */
template <int K> static __device__ inline void down(double (&v)[K])
{
    __shared__ double room[K * 256];
    int at = threadIdx.y * blockDim.x + threadIdx.x;
    for (int k = 0; k < K; k++) room[k * 256 + at] = v[k];
    __syncthreads();
    for (int k = 0; k < K; k++) {
        v[k] = 0;
        for (int y = 0; y < blockDim.y; y++) v[k] += room[k * 256 + y * blockDim.x + threadIdx.x];
    }
    __syncthreads();
}
/* Cell c has `per` runs: number i is run first(c) + i stride. of_cells (4, cells): mean, 1 / sqrt(variance + eps), and of the gradient of the
 * normalised values its mean and the mean of its product with them. Running statistics, where given, move by `momentum` (a cell is a channel). */
extern "C" __global__ void cells(double *of_cells, const double *of_runs, const T *weight, T *running_mean, T *running_var, i64 count, i64 per, i64 stride, i64 span, i64 channels, i64 runs_in_all, i64 graded, double eps, double momentum)
{
    i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x, first = stride == 1 ? c * per : c;
    bool mine = c < count;
    double n = (double)(per * span), sum[1] = {0}, more[3] = {0, 0, 0};
    for (i64 i = threadIdx.y; mine && i < per; i += blockDim.y) sum[0] += of_runs[first + i * stride];
    down(sum);
    double mean = sum[0] / (double)per;
    for (i64 i = threadIdx.y; mine && i < per; i += blockDim.y) {
        i64 run = first + i * stride;
        double d = of_runs[run] - mean;
        more[0] += of_runs[runs_in_all + run] + d * d * (double)span;
        if (graded) {
            double w = weight ? (double)load(weight[run % channels]) : 1, s = of_runs[2 * runs_in_all + run];
            more[1] += w * s, more[2] += w * (of_runs[3 * runs_in_all + run] + s * d);
        }
    }
    down(more);
    if (!mine || threadIdx.y) return;
    double scale = 1 / sqrt(more[0] / n + eps);
    of_cells[c] = mean, of_cells[count + c] = scale;
    if (graded) of_cells[2 * count + c] = more[1] / n, of_cells[3 * count + c] = more[2] * scale / n;
    if (running_mean) running_mean[c] = store<T>((A)((1 - momentum) * (double)load(running_mean[c]) + momentum * mean));
    if (running_var) running_var[c] = store<T>((A)((1 - momentum) * (double)load(running_var[c]) + momentum * more[0] / (n - 1)));
}
/* The cell of run (i, c): with groups, i groups + c / (channels / groups); else c. */
static __device__ inline i64 cell_of(i64 i, i64 c, i64 channels, i64 groups) { return groups ? i * groups + over(c, over(channels, groups)) : c; }
extern "C" __global__ void channels_grad(T *of_weight, T *of_bias, const double *of_runs, const double *of_cells, i64 batch, i64 channels, i64 groups, i64 cells)
{
    i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x, all = batch * channels;
    double sums[2] = {0, 0};
    for (i64 i = threadIdx.y; c < channels && i < batch; i += blockDim.y) {
        i64 run = i * channels + c, cell = cell_of(i, c, channels, groups);
        double s = of_runs[2 * all + run];
        sums[0] += (of_runs[3 * all + run] + s * (of_runs[run] - of_cells[cell])) * of_cells[cells + cell];
        sums[1] += s;
    }
    down(sums);
    if (threadIdx.y || c >= channels) return;
    if (of_weight) of_weight[c] = store<T>((A)sums[0]);
    if (of_bias) of_bias[c] = store<T>((A)sums[1]);
}

/* One pass over all elements, WIDTH of one run at a time: f(elements, run). */
template <class F> static __device__ inline void each_pack(i64 count, i64 span, F f)
{
    i64 per = span / WIDTH, all = count * per;
    for (i64 i = first_index(); i < all; i += index_step()) f(i * WIDTH, over(i, per));
}
/* fixed_norm: the statistics are given, of_cells is NULL. */
extern "C" __global__ void channel_norm(T *out, const T *x, const double *of_cells, const T *mean, const T *variance, const T *weight, const T *bias, i64 count, i64 span, i64 channels, i64 groups, i64 cells, double eps)
{
    each_pack(count, span, [=](i64 at, i64 run) {
        i64 i = over(run, channels), c = run - i * channels, cell = cell_of(i, c, channels, of_cells ? groups : 0);
        A m = of_cells ? (A)of_cells[cell] : load(mean[c]), s = of_cells ? (A)of_cells[cells + cell] : 1 / root_of(load(variance[c]) + (A)eps);
        A w = weight ? load(weight[c]) : (A)1, b = bias ? load(bias[c]) : (A)0;
        pack p = *(const pack *)(x + at);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) p.at[k] = store<T>((load(p.at[k]) - m) * s * w + b);
        put_pack(out + at, p);
    });
}
/* of_cells NULL: dx = g w / sqrt(variance + eps) */
extern "C" __global__ void channel_norm_grad(T *dx, const T *g, const T *x, const double *of_cells, const T *variance, const T *weight, i64 count, i64 span, i64 channels, i64 groups, i64 cells, double eps)
{
    each_pack(count, span, [=](i64 at, i64 run) {
        i64 i = over(run, channels), c = run - i * channels, cell = cell_of(i, c, channels, of_cells ? groups : 0);
        A s = of_cells ? (A)of_cells[cells + cell] : 1 / root_of(load(variance[c]) + (A)eps), w = weight ? load(weight[c]) : (A)1;
        A m = of_cells ? (A)of_cells[cell] : 0, even = of_cells ? (A)of_cells[2 * cells + cell] : 0, along = of_cells ? (A)of_cells[3 * cells + cell] : 0;
        pack p = *(const pack *)(g + at);
        if (of_cells) {
            pack q = *(const pack *)(x + at);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) p.at[k] = store<T>(s * (load(p.at[k]) * w - even - (load(q.at[k]) - m) * s * along));
        } else {
#pragma unroll
            for (int k = 0; k < WIDTH; k++) p.at[k] = store<T>(load(p.at[k]) * (w * s));
        }
        put_pack(dx + at, p);
    });
}
