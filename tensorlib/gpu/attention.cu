#include "common.cuh"
/* Attention a block of queries and a block of keys at a time: scores exist in shared memory only, the softmax is carried along (its maximum and sum
 * so far), and the gradient computes the scores again from the logarithm of each query's sum, `lse`. Sums run over keys (queries) in order.
 *   D      what depths are padded to: 16, 32, 64, 128 or 256
 *   MASK   0 none, 1 bool, 2 numbers that are added
 *   GRADIENT  0: the kernel that attends, 1: those of the gradient
 * 256 threads: 16 rows of 16, each with several rows and columns of every product. Heads are numbered (batch, head); operands have strides for
 * batch, head and row, their last dimension is contiguous. share: query heads that read one head of keys (values).
 * A second version would take 16-bit floats to the tensor cores (mma.sync) and fetch a block while it works on the one before (cp.async). */
typedef acc_t<T> A;

constexpr int BYTES = (int)sizeof(A) * D, PITCH = D + 1; /* odd: a column's elements lie in different banks */
constexpr int SIDE = 16, THREADS = SIDE * SIDE, DEPTHS = D / SIDE;
constexpr int QUERIES = BYTES <= 256 ? 64 : BYTES <= 512 ? 32 : 16, KEYS = BYTES <= 512 ? 32 : 16; /* of a block, forward */
constexpr int BLOCK = sizeof(A) * (4 * 32 * PITCH + 2 * 32 * 33) <= 49152 ? 32 : 16; /* of either, backward: what a block may share is 48 KB */

#define OPERANDS const T *query, const T *key, const T *value, const void *mask, i64 L, i64 S, i64 E, i64 EV, i64 heads, i64 share_k, i64 share_v, \
    i64 causal, double scale, i64 qb, i64 qh, i64 qr, i64 kb, i64 kh, i64 kr, i64 vb, i64 vh, i64 vr, i64 mb, i64 mh, i64 mr, i64 mc

static __device__ inline float exp_of(float x) { return expf(x); }
static __device__ inline double exp_of(double x) { return exp(x); }
static __device__ inline float log_of(float x) { return logf(x); }
static __device__ inline double log_of(double x) { return log(x); }
static __device__ inline A infinity() { return (A)float_of(0x7f800000u); }
/* Over the 16 threads of a row. */
static __device__ inline A row_sum(A x)
{
    for (int far = SIDE / 2; far; far /= 2) x += __shfl_xor_sync(0xffffffffu, x, far);
    return x;
}
static __device__ inline A row_max(A x)
{
    for (int far = SIDE / 2; far; far /= 2) {
        const A other = __shfl_xor_sync(0xffffffffu, x, far);
        x = other > x ? other : x;
    }
    return x;
}

/* Rows first ... of a matrix into shared memory, `times` a factor; zeros beyond its `rows` and `depth`. */
static __device__ inline void fetch(A *to, const T *from, int count, i64 first, i64 rows, i64 depth, i64 pitch, A times)
{
    for (int i = (int)threadIdx.x; i < count * D; i += THREADS) {
        const int row = i / D, d = i % D;
        to[row * PITCH + d] = first + row < rows && d < depth ? (A)load(from[(first + row) * pitch + d]) * times : (A)0;
    }
}

/* made[i][j] = sum over d of a[i][d] b[j][d], for the rows of a and b that are this thread's */
template <int ROWS, int COLUMNS> static __device__ inline void scores(A (&made)[ROWS][COLUMNS], const A *a, const A *b)
{
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++) made[i][j] = 0;
#pragma unroll 8
    for (int d = 0; d < D; d++) {
        A left[ROWS], right[COLUMNS];
        for (int i = 0; i < ROWS; i++) left[i] = a[i * PITCH + d];
        for (int j = 0; j < COLUMNS; j++) right[j] = b[j * SIDE * PITCH + d];
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLUMNS; j++) made[i][j] = fma(left[i], right[j], made[i][j]);
    }
}

/* made[i][c] += sum over j < count of weights[i][j] x[j][c]; this thread's columns of x are SIDE apart */
template <int ROWS> static __device__ inline void gather(A (&made)[ROWS][DEPTHS], const A *weights, int pitch, const A *x, int count)
{
#pragma unroll 4
    for (int j = 0; j < count; j++) {
        A left[ROWS];
        for (int i = 0; i < ROWS; i++) left[i] = weights[i * pitch + j];
        for (int c = 0; c < DEPTHS; c++) {
            const A right = x[j * PITCH + c * SIDE];
            for (int i = 0; i < ROWS; i++) made[i][c] = fma(left[i], right, made[i][c]);
        }
    }
}

/* A score with the mask's say: -inf where this query does not see this key. */
static __device__ inline A seen(A score, const void *mask, i64 at, i64 row, i64 column, i64 L, i64 S, i64 causal)
{
    if (row >= L || column >= S || (causal && column > row)) return -infinity();
#if MASK == 1
    return ((const u8 *)mask)[at] ? score : -infinity();
#elif MASK == 2
    return score + (A)load(((const T *)mask)[at]);
#else
    return score;
#endif
}

#if GRADIENT == 0
/* out: (batch, heads, L, EV) contiguous; lse: (batch, heads, L), infinity for a query that sees no key, null where not wanted */
extern "C" __global__ void attend(T *out, A *lse, OPERANDS)
{
    __shared__ A queries[QUERIES * PITCH], others[KEYS * PITCH], weights[QUERIES * (KEYS + 1)];
    constexpr int ROWS = QUERIES / SIDE, COLUMNS = KEYS / SIDE;
    const int tx = (int)threadIdx.x % SIDE, ty = (int)threadIdx.x / SIDE;
    const i64 tiles = (L + QUERIES - 1) / QUERIES, which = blockIdx.x / tiles, first = blockIdx.x % tiles * QUERIES;
    const i64 batch = which / heads, head = which % heads;
    const T *k = key + batch * kb + head / share_k * kh, *v = value + batch * vb + head / share_v * vh;
    const i64 mask_at = batch * mb + head * mh;
    A most[ROWS], sum[ROWS], made[ROWS][DEPTHS];
    for (int i = 0; i < ROWS; i++) {
        most[i] = -infinity();
        sum[i] = 0;
        for (int c = 0; c < DEPTHS; c++) made[i][c] = 0;
    }
    fetch(queries, query + batch * qb + head * qh, QUERIES, first, L, E, qr, (A)scale);
    const i64 end = causal && first + QUERIES < S ? first + QUERIES : S;
    for (i64 from = 0; from < end; from += KEYS) {
        A score[ROWS][COLUMNS];
        __syncthreads();
        fetch(others, k, KEYS, from, S, E, kr, 1);
        __syncthreads();
        scores<ROWS, COLUMNS>(score, queries + ty * ROWS * PITCH, others + tx * PITCH);
        for (int i = 0; i < ROWS; i++) {
            const i64 row = first + ty * ROWS + i;
            A top = -infinity();
            for (int j = 0; j < COLUMNS; j++) {
                const i64 column = from + tx + j * SIDE;
                score[i][j] = seen(score[i][j], mask, mask_at + row * mr + column * mc, row, column, L, S, causal);
                top = score[i][j] > top ? score[i][j] : top;
            }
            top = row_max(top);
            const A now = top > most[i] ? top : most[i], shift = now == -infinity() ? (A)0 : now, faded = exp_of(most[i] - shift);
            A more = 0;
            for (int j = 0; j < COLUMNS; j++) {
                const A p = exp_of(score[i][j] - shift);
                weights[(ty * ROWS + i) * (KEYS + 1) + tx + j * SIDE] = p;
                more += p;
            }
            most[i] = now;
            sum[i] = sum[i] * faded + row_sum(more);
            for (int c = 0; c < DEPTHS; c++) made[i][c] *= faded;
        }
        __syncthreads();
        fetch(others, v, KEYS, from, S, EV, vr, 1);
        __syncthreads();
        gather<ROWS>(made, weights + ty * ROWS * (KEYS + 1), KEYS + 1, others + tx, KEYS);
    }
    for (int i = 0; i < ROWS; i++) {
        const i64 row = first + ty * ROWS + i;
        if (row >= L) continue;
        for (int c = 0; c < DEPTHS; c++)
            if (tx + c * SIDE < EV) out[(which * L + row) * EV + tx + c * SIDE] = store<T>(sum[i] == 0 ? (A)0 : made[i][c] / sum[i]);
        if (lse && tx == 0) lse[which * L + row] = sum[i] == 0 ? infinity() : most[i] + log_of(sum[i]);
    }
}

#else
/* dq: (batch, heads, L, E) contiguous. delta: (batch, heads, L), each query's sum of g * out, which attend_grad_keys reads. */
extern "C" __global__ void attend_grad_query(T *dq, A *delta, const A *lse, const T *out, const T *g, i64 gb, i64 gh, i64 gr, OPERANDS)
{
    __shared__ A queries[BLOCK * PITCH], given[BLOCK * PITCH], keys[BLOCK * PITCH], values[BLOCK * PITCH], slopes[BLOCK * (BLOCK + 1)];
    constexpr int ROWS = BLOCK / SIDE;
    const int tx = (int)threadIdx.x % SIDE, ty = (int)threadIdx.x / SIDE;
    const i64 tiles = (L + BLOCK - 1) / BLOCK, which = blockIdx.x / tiles, first = blockIdx.x % tiles * BLOCK;
    const i64 batch = which / heads, head = which % heads;
    const T *k = key + batch * kb + head / share_k * kh, *v = value + batch * vb + head / share_v * vh;
    const i64 mask_at = batch * mb + head * mh;
    A level[ROWS], total[ROWS], made[ROWS][DEPTHS];
    fetch(queries, query + batch * qb + head * qh, BLOCK, first, L, E, qr, (A)scale);
    fetch(given, g + batch * gb + head * gh, BLOCK, first, L, EV, gr, 1);
    __syncthreads();
    for (int i = 0; i < ROWS; i++) {
        const i64 row = first + ty * ROWS + i;
        A sum = 0;
        for (int d = tx; d < EV && row < L; d += SIDE) sum = fma(given[(ty * ROWS + i) * PITCH + d], (A)load(out[(which * L + row) * EV + d]), sum);
        level[i] = row < L ? lse[which * L + row] : infinity();
        total[i] = row_sum(sum);
        if (row < L && tx == 0) delta[which * L + row] = total[i];
        for (int c = 0; c < DEPTHS; c++) made[i][c] = 0;
    }
    const i64 end = causal && first + BLOCK < S ? first + BLOCK : S;
    for (i64 from = 0; from < end; from += BLOCK) {
        A score[ROWS][ROWS], slope[ROWS][ROWS];
        __syncthreads();
        fetch(keys, k, BLOCK, from, S, E, kr, 1);
        fetch(values, v, BLOCK, from, S, EV, vr, 1);
        __syncthreads();
        scores<ROWS, ROWS>(score, queries + ty * ROWS * PITCH, keys + tx * PITCH);
        scores<ROWS, ROWS>(slope, given + ty * ROWS * PITCH, values + tx * PITCH);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < ROWS; j++) {
                const i64 row = first + ty * ROWS + i, column = from + tx + j * SIDE;
                const A s = seen(score[i][j], mask, mask_at + row * mr + column * mc, row, column, L, S, causal);
                slopes[(ty * ROWS + i) * (BLOCK + 1) + tx + j * SIDE] = s == -infinity() ? (A)0 : exp_of(s - level[i]) * (slope[i][j] - total[i]);
            }
        __syncthreads();
        gather<ROWS>(made, slopes + ty * ROWS * (BLOCK + 1), BLOCK + 1, keys + tx, BLOCK);
    }
    for (int i = 0; i < ROWS; i++) {
        const i64 row = first + ty * ROWS + i;
        for (int c = 0; c < DEPTHS; c++)
            if (row < L && tx + c * SIDE < E) dq[(which * L + row) * E + tx + c * SIDE] = store<T>(made[i][c] * (A)scale);
    }
}

/* dk, dv: (batch, heads, S, E) and (.., EV) contiguous, of every query head its own */
extern "C" __global__ void attend_grad_keys(T *dk, T *dv, const A *delta, const A *lse, const T *g, i64 gb, i64 gh, i64 gr, OPERANDS)
{
    __shared__ A queries[BLOCK * PITCH], given[BLOCK * PITCH], keys[BLOCK * PITCH], values[BLOCK * PITCH];
    __shared__ A weights[BLOCK * (BLOCK + 1)], slopes[BLOCK * (BLOCK + 1)];
    constexpr int ROWS = BLOCK / SIDE;
    const int tx = (int)threadIdx.x % SIDE, ty = (int)threadIdx.x / SIDE;
    const i64 tiles = (S + BLOCK - 1) / BLOCK, which = blockIdx.x / tiles, first = blockIdx.x % tiles * BLOCK;
    const i64 batch = which / heads, head = which % heads;
    const T *q = query + batch * qb + head * qh, *gradient = g + batch * gb + head * gh;
    const i64 mask_at = batch * mb + head * mh;
    A of_keys[ROWS][DEPTHS], of_values[ROWS][DEPTHS];
    for (int i = 0; i < ROWS; i++)
        for (int c = 0; c < DEPTHS; c++) of_keys[i][c] = of_values[i][c] = 0;
    fetch(keys, key + batch * kb + head / share_k * kh, BLOCK, first, S, E, kr, 1);
    fetch(values, value + batch * vb + head / share_v * vh, BLOCK, first, S, EV, vr, 1);
    for (i64 from = causal ? first : 0; from < L; from += BLOCK) {
        A score[ROWS][ROWS], slope[ROWS][ROWS];
        __syncthreads();
        fetch(queries, q, BLOCK, from, L, E, qr, (A)scale);
        fetch(given, gradient, BLOCK, from, L, EV, gr, 1);
        __syncthreads();
        scores<ROWS, ROWS>(score, keys + ty * ROWS * PITCH, queries + tx * PITCH);
        scores<ROWS, ROWS>(slope, values + ty * ROWS * PITCH, given + tx * PITCH);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < ROWS; j++) {
                const i64 column = first + ty * ROWS + i, row = from + tx + j * SIDE;
                const A s = seen(score[i][j], mask, mask_at + row * mr + column * mc, row, column, L, S, causal);
                const A p = s == -infinity() ? (A)0 : exp_of(s - lse[which * L + row]);
                const int at = (ty * ROWS + i) * (BLOCK + 1) + tx + j * SIDE;
                weights[at] = p;
                slopes[at] = p == 0 ? (A)0 : p * (slope[i][j] - delta[which * L + row]);
            }
        __syncthreads();
        gather<ROWS>(of_values, weights + ty * ROWS * (BLOCK + 1), BLOCK + 1, given + tx, BLOCK);
        gather<ROWS>(of_keys, slopes + ty * ROWS * (BLOCK + 1), BLOCK + 1, queries + tx, BLOCK);
    }
    for (int i = 0; i < ROWS; i++) {
        const i64 column = first + ty * ROWS + i;
        for (int c = 0; c < DEPTHS; c++) {
            const int d = tx + c * SIDE;
            if (column < S && d < E) dk[(which * S + column) * E + d] = store<T>(of_keys[i][c]);
            if (column < S && d < EV) dv[(which * S + column) * EV + d] = store<T>(of_values[i][c]);
        }
    }
}
#endif
