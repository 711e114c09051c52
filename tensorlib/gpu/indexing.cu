/* Reading and writing by position, where positions lie in device memory: nothing waits for the host, and a position out of range is noted
 * (checks.py), reads bytes of 0xff (NaN, -1) and writes nothing.
 *
 * What is added at a place is added in the order of positions, whatever the device: positions are sorted, stably (`digits`, `offsets`,
 * `reorder`: 8 bits a pass, integers only), and then each place has one run of them, which one thread an element adds up. */
#include "common.cuh"

/* A position as a row of a table of `rows`; negative ones count from the end where low is -rows. -1: out of range. */
static __device__ inline i64 row_of(i64 i, i64 rows, i64 low, i64 *report, i64 site)
{
    if (i < low || i >= rows) {
        report[1] = i;
        report[0] = site;
        return -1;
    }
    return i < 0 ? i + rows : i;
}

/* ---- x (P, L, Q) -> out (P, K, Q): out[p, k, q] = x[p, index[k], q], in words W of memory ---- */
#ifdef W
struct alignas(W) word { u8 at[W]; };
extern "C" __global__ void read_slices(word *out, const word *x, const i64 *index, i64 n, i64 l, i64 k, i64 q, i64 low, i64 *report, i64 site)
{
    for (i64 i = first_index(); i < n; i += index_step()) {
        i64 slice = over(i, q), p = over(slice, k), row = row_of(index[slice - p * k], l, low, report, site);
        word made;
        if (row >= 0) made = x[(p * l + row) * q + (i - slice * q)];
        else for (int j = 0; j < W; j++) made.at[j] = 0xff;
        out[i] = made;
    }
}
/* index (P, K, Q): out[p, k, q] = x[p, index[p, k, q], q] */
extern "C" __global__ void read_elements(word *out, const word *x, const i64 *index, i64 n, i64 l, i64 k, i64 q, i64 *report, i64 site)
{
    for (i64 i = first_index(); i < n; i += index_step()) {
        i64 slice = over(i, q), p = over(slice, k), row = row_of(index[i], l, 0, report, site);
        word made;
        if (row >= 0) made = x[(p * l + row) * q + (i - slice * q)];
        else for (int j = 0; j < W; j++) made.at[j] = 0xff;
        out[i] = made;
    }
}
/* out (places, Q), value (n, Q): the last of several that are written to one place counts. `last` (places) begins as -1. */
extern "C" __global__ void find_last(i64 *last, const i64 *keys, i64 n)
{
    for (i64 i = first_index(); i < n; i += index_step())
        if (keys[i] >= 0) atomicMax(last + keys[i], i);
}
/* p of out (P, places, Q) and value (P, n, Q) is outermost: all share the keys. */
extern "C" __global__ void write_last(word *out, const word *value, const i64 *last, const i64 *keys, i64 all, i64 n, i64 places, i64 q)
{
    for (i64 i = first_index(); i < all; i += index_step()) {
        i64 slice = over(i, q), p = over(slice, n), at = slice - p * n, key = keys[at];
        if (key >= 0 && last[key] == at) out[(p * places + key) * q + (i - slice * q)] = value[i];
    }
}
#endif

/* ---- places ---- */

extern "C" __global__ void slice_keys(i64 *keys, const i64 *index, i64 n, i64 rows, i64 low, i64 *report, i64 site)
{
    for (i64 i = first_index(); i < n; i += index_step()) keys[i] = row_of(index[i], rows, low, report, site);
}
/* index (P, K, Q) into (P, L, Q): where each element goes, flat */
extern "C" __global__ void element_keys(i64 *keys, const i64 *index, i64 n, i64 l, i64 k, i64 q, i64 *report, i64 site)
{
    for (i64 i = first_index(); i < n; i += index_step()) {
        i64 slice = over(i, q), p = over(slice, k), row = row_of(index[i], l, 0, report, site);
        keys[i] = row < 0 ? -1 : (p * l + row) * q + (i - slice * q);
    }
}

/* ---- a stable sort of keys with what comes along, by the digit at `shift`: blocks of TILE keys ----
 * -1, out of range, has the highest digits and so ends up last. */
enum { TILE = 1024, DIGITS = 256 };
static __device__ inline int digit_of(i64 key, i64 shift) { return (int)((u64)key >> shift & (DIGITS - 1)); }

/* counts (DIGITS, blocks) */
extern "C" __global__ void digits(i64 *counts, const i64 *keys, i64 n, i64 shift)
{
    __shared__ unsigned seen[DIGITS];
    i64 from = (i64)blockIdx.x * TILE, to = from + TILE < n ? from + TILE : n;
    seen[threadIdx.x] = 0;
    __syncthreads();
    for (i64 i = from + threadIdx.x; i < to; i += DIGITS) atomicAdd(&seen[digit_of(keys[i], shift)], 1u);
    __syncthreads();
    counts[(i64)threadIdx.x * gridDim.x + blockIdx.x] = seen[threadIdx.x];
}
/* Each of n counts becomes the sum of those before it. One block of 1024. */
extern "C" __global__ void offsets(i64 *counts, i64 n)
{
    __shared__ i64 room[1024];
    i64 per = (n + 1023) / 1024, from = threadIdx.x * per, to = from + per < n ? from + per : n, sum = 0;
    for (i64 i = from; i < to; i++) sum += counts[i];
    room[threadIdx.x] = sum;
    for (int d = 1; d < 1024; d *= 2) {
        __syncthreads();
        i64 before = threadIdx.x >= d ? room[threadIdx.x - d] : 0;
        __syncthreads();
        room[threadIdx.x] += before;
    }
    sum = room[threadIdx.x] - sum;
    for (i64 i = from; i < to; i++) {
        i64 count = counts[i];
        counts[i] = sum;
        sum += count;
    }
}
/* Thread d puts the tile's keys of digit d in their places, in order. `was` NULL: the positions 0, 1, ... */
extern "C" __global__ void reorder(i64 *keys_out, i64 *positions_out, const i64 *keys, const i64 *was, const i64 *counts, i64 n, i64 shift)
{
    __shared__ i64 tile[TILE];
    i64 from = (i64)blockIdx.x * TILE, few = n - from < TILE ? n - from : TILE;
    for (i64 i = threadIdx.x; i < few; i += DIGITS) tile[i] = keys[from + i];
    __syncthreads();
    i64 to = counts[(i64)threadIdx.x * gridDim.x + blockIdx.x];
    for (i64 i = 0; i < few; i++) {
        if (digit_of(tile[i], shift) != (int)threadIdx.x) continue;
        keys_out[to] = tile[i];
        positions_out[to++] = was ? was[from + i] : from + i;
    }
}

/* ---- sums ----
 * of runs of equal keys, in pieces of PIECE sorted positions, so that a long run is many threads' work: a piece that goes on with the run before
 * it is added up by itself, and the first position of each run joins its pieces, in order. */
#ifdef T
enum { PIECE = 64 };
typedef acc_t<T> A;
/* From `begin` as far as the key goes on within the piece. */
static __device__ inline i64 run_end(const i64 *keys, i64 begin, i64 n)
{
    i64 most = (begin / PIECE + 1) * PIECE, end = begin + 1;
    if (most > n) most = n;
    while (end < most && keys[end] == keys[begin]) end++;
    return end;
}
static __device__ inline A run_sum(A sum, const T *value, const i64 *positions, i64 begin, i64 end, i64 q)
{
#pragma unroll 4
    for (i64 i = begin; i < end; i++) sum += load(value[positions[i] * q]);
    return sum;
}
/* parts (P, pieces, Q) */
extern "C" __global__ void run_parts(A *parts, const T *value, const i64 *keys, const i64 *positions, i64 p, i64 n, i64 q)
{
    i64 piece = (i64)blockIdx.x * blockDim.y + threadIdx.y, pieces = (n + PIECE - 1) / PIECE, begin = piece * PIECE;
    if (begin == 0 || begin >= n || keys[begin] != keys[begin - 1]) return;
    i64 end = run_end(keys, begin, n);
    for (i64 outer = 0; outer < p; outer++)
        for (i64 j = threadIdx.x; j < q; j += blockDim.x)
            parts[(outer * pieces + piece) * q + j] = run_sum(0, value + outer * n * q + j, positions, begin, end, q);
}
/* out (P, places, Q) += value (P, n, Q) by the sorted keys (n). `skipped`: a key that is left out. `mean`: a run's sum is divided by its length. */
extern "C" __global__ void add_runs(T *out, const T *value, const A *parts, const i64 *keys, const i64 *positions, i64 p, i64 n, i64 places, i64 q, i64 skipped, i64 mean)
{
    i64 begin = (i64)blockIdx.x * blockDim.y + threadIdx.y, pieces = (n + PIECE - 1) / PIECE;
    if (begin >= n) return;
    i64 key = keys[begin];
    if (key < 0 || key == skipped || (begin && keys[begin - 1] == key)) return;
    i64 end = run_end(keys, begin, n), first = end / PIECE, last = first, all = end;
    if (end % PIECE == 0)
        for (; last < pieces && keys[last * PIECE] == key; last++) all = run_end(keys, last * PIECE, n);
    for (i64 outer = 0; outer < p; outer++)
        for (i64 j = threadIdx.x; j < q; j += blockDim.x) {
            T *to = out + (outer * places + key) * q + j;
            A sum = run_sum(mean ? (A)0 : load(*to), value + outer * n * q + j, positions, begin, end, q);
            for (i64 piece = first; piece < last; piece++) sum += parts[(outer * pieces + piece) * q + j];
            *to = store<T>(mean ? load(*to) + sum / (A)(all - begin) : sum);
        }
}
#endif
