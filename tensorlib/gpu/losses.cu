/* Losses over classes (cross_entropy, nll_loss), losses that pair an input with a target, and the sums behind both.
 *
 * cross_entropy reads its scores once and writes a number a position; its gradient reads them once more (rows that a block holds; longer ones
 * and columns twice) and writes theirs: 3 n sizeof(T) in all, where a softmax in memory takes 4. Losses are summed in double: 8192 to a block
 * in a fixed tree, then the blocks' sums in order. */
#include "rows.cuh"

static __device__ inline A not_a_number() { return lowest() - lowest(); }

/* What a position's target counts: 0 where ignored. A target that is no class makes NaN, and is reported: checks.py. */
static __device__ inline A factor_of(i64 y, const T *weight, i64 n, i64 ignore, i64 *report, i64 site)
{
    if (y == ignore) return 0;
    if (y < 0 || y >= n) {
        report[1] = y;
        report[0] = site;
        return not_a_number();
    }
    return weight ? load(weight[y]) : (A)1;
}

/* ---- scores (outer, n, inner): a row or a column of n for each position. SOFT: targets are probabilities, of the scores' shape ---- */

/* With q_c = w_c ((1 - smoothing) t_c + smoothing / n): the spread of the scores, the sum of q, and that of q (most - x). Of integer targets,
 * only what smoothing spreads over the classes, without its factor smoothing / n: q_c = w_c. */
struct scores { spread s; A share, below; };
static __device__ inline A share_of(A t, A w, A smoothing, A even) { return SOFT ? w * fused(t, 1 - smoothing, even) : w; }
static __device__ inline A below_of(A q, A shift, A x) { return q == 0 ? 0 : q * (shift - x); }
static __device__ inline scores joined(scores a, scores b)
{
    scores made = {joined(a.s, b.s), a.share + b.share, 0};
    A shift = shift_of(made.s.most);
    made.below = a.below + a.share * (shift - shift_of(a.s.most)) + b.below + b.share * (shift - shift_of(b.s.most));
    return made;
}
/* v: this thread's scores of a chunk, in registers afterwards. */
static __device__ inline scores scores_of(A *v, const T *x, const T *t, const T *weight, i64 length, A smoothing, A even)
{
    fetch(v, x, length, lowest());
    scores made = {spread_of(v), 0, 0};
    if (!SOFT && smoothing == 0) return made;
    A sums[2] = {0, 0}, shift = shift_of(made.s.most);
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int j = place(k);
        if (j >= length) continue;
        for (int i = 0; i < WIDTH; i++) {
            A q = share_of(SOFT ? load(t[j + i]) : (A)0, weight ? load(weight[j + i]) : (A)1, smoothing, even);
            sums[0] += q, sums[1] += below_of(q, shift, v[k * WIDTH + i]);
        }
    }
    across(sums, adding());
    made.share = sums[0], made.below = sums[1];
    return made;
}
static __device__ inline A loss_of(scores all, A at_target, A factor, A smoothing, A even)
{
    A total = log_of(all.s.sum);
    if (SOFT) return all.below + total * all.share;
    A loss = (all.s.most - at_target + total) * factor * (1 - smoothing);
    return smoothing > 0 ? loss + even * (all.below + total * all.share) : loss;
}
static __device__ inline scores scores_of_row(A *v, const T *x, const T *t, const T *weight, i64 n, bool mine, A smoothing, A even)
{
    scores all = {{lowest(), 0}, 0, 0};
    for (i64 c = 0; c < chunks_of(n); c++) {
        i64 at = c * chunk_size();
        scores one = scores_of(v, x + at, t + at, weight ? weight + at : weight, mine ? length_of(n, c) : 0, smoothing, even);
        all = c ? joined(all, one) : one;
    }
    return all;
}
extern "C" __global__ void __launch_bounds__(512) classes_rows(A *loss, A *factors, const T *x, const i64 *target, const T *soft, const T *weight, i64 rows, i64 n, i64 ignore, double smooth, i64 *report, i64 site)
{
    A v[ELEMENTS], smoothing = (A)smooth, even = (A)(smooth / (double)n);
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    bool mine = row < rows;
    scores all = scores_of_row(v, x + row * n, soft + row * n, weight, n, mine, smoothing, even);
    if (!mine || threadIdx.x) return;
    A factor = SOFT ? (A)1 : factor_of(target[row], weight, n, ignore, report, site);
    A at = SOFT || !(factor == factor) || target[row] == ignore ? (A)0 : load(x[row * n + target[row]]);
    loss[row] = !SOFT && target[row] == ignore ? (A)0 : loss_of(all, at, factor, smoothing, even) + (factor - factor);
    if (factors) factors[row] = factor;
}

/* What multiplies a position's gradient: g, which has `step` 0 or 1, over the divisor of a mean (`divisor` NULL: `count`). */
static __device__ inline A scale_of(const T *g, i64 step, const double *divisor, double count, i64 position)
{
    return (A)((double)load(g[position * step]) / (divisor ? *divisor : count));
}
/* d loss / d x_c = scale (p_c sum(q) - q_c), and of an integer target y the same with the whole weight of y at y. */
struct slope { A most, total, share, even, hit; };
static __device__ inline slope slope_of(scores all, A factor, A scale, A smoothing, A even)
{
    A total = log_of(all.s.sum), hit = scale * (1 - smoothing) * factor;
    if (SOFT) return slope{all.s.most, total, all.share, scale, 0};
    return slope{all.s.most, total, smoothing > 0 ? hit + scale * even * all.share : hit, scale * even, hit};
}
static __device__ inline A slope_at(slope s, A x, A q, bool target)
{
    A p = exp_of((x - s.most) - s.total) * s.share;
    return SOFT ? (p - q) * s.even : p - s.even * q - (target ? s.hit : (A)0);
}
extern "C" __global__ void __launch_bounds__(512) classes_grad_rows(T *dx, const T *g, const double *divisor, const T *x, const i64 *target, const T *soft, const T *weight, i64 rows, i64 n, i64 ignore, i64 step, double count, double smooth, i64 *report, i64 site)
{
    A v[ELEMENTS], smoothing = (A)smooth, even = (A)(smooth / (double)n);
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y, chunks = chunks_of(n);
    bool mine = row < rows;
    x += row * n, soft += row * n, dx += row * n;
    scores all = scores_of_row(v, x, soft, weight, n, mine, smoothing, even);
    if (!mine) return;
    i64 y = SOFT ? -1 : target[row];
    bool counts = SOFT || y != ignore;
    slope s = slope_of(all, SOFT ? (A)1 : factor_of(y, weight, n, ignore, report, site), scale_of(g, step, divisor, count, row), smoothing, even);
    for (i64 c = 0; c < chunks; c++) {
        i64 at = c * chunk_size(), length = length_of(n, c);
        if (chunks > 1) fetch(v, x + at, length, 0);
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int j = place(k);
            if (j >= length) continue;
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                i64 class_ = at + j + i;
                A q = SOFT || smoothing > 0 ? share_of(SOFT ? load(soft[class_]) : (A)0, weight ? load(weight[class_]) : (A)1, smoothing, even) : (A)0;
                v[k * WIDTH + i] = counts ? slope_at(s, v[k * WIDTH + i], q, class_ == y) : (A)0;
            }
        }
        put(dx + at, v, length);
    }
}

/* The same for columns, a thread each. */
static __device__ inline scores scores_of_column(const T *x, const T *soft, const T *weight, i64 n, i64 inner, A smoothing, A even)
{
    scores all = {{lowest(), 0}, 0, 0};
    for (i64 c = 0; c < n; c++) all.s = with(all.s, load(x[c * inner]));
    A shift = shift_of(all.s.most);
    for (i64 c = 0; (SOFT || smoothing > 0) && c < n; c++) {
        A q = share_of(SOFT ? load(soft[c * inner]) : (A)0, weight ? load(weight[c]) : (A)1, smoothing, even);
        all.share += q, all.below += below_of(q, shift, load(x[c * inner]));
    }
    return all;
}
extern "C" __global__ void classes_columns(A *loss, A *factors, const T *x, const i64 *target, const T *soft, const T *weight, i64 positions, i64 n, i64 inner, i64 ignore, double smooth, i64 *report, i64 site)
{
    A smoothing = (A)smooth, even = (A)(smooth / (double)n);
    for (i64 i = first_index(); i < positions; i += index_step()) {
        i64 first = i / inner * n * inner + i % inner, y = SOFT ? -1 : target[i];
        A factor = SOFT ? (A)1 : factor_of(y, weight, n, ignore, report, site);
        if (factors) factors[i] = factor;
        loss[i] = SOFT || y != ignore ? factor - factor : (A)0;
        if (!SOFT && (y == ignore || factor != factor)) continue;
        scores all = scores_of_column(x + first, soft + first, weight, n, inner, smoothing, even);
        loss[i] = loss_of(all, SOFT ? (A)0 : load(x[first + y * inner]), factor, smoothing, even);
    }
}
extern "C" __global__ void classes_grad_columns(T *dx, const T *g, const double *divisor, const T *x, const i64 *target, const T *soft, const T *weight, i64 positions, i64 n, i64 inner, i64 ignore, i64 step, double count, double smooth, i64 *report, i64 site)
{
    A smoothing = (A)smooth, even = (A)(smooth / (double)n);
    for (i64 i = first_index(); i < positions; i += index_step()) {
        i64 first = i / inner * n * inner + i % inner, y = SOFT ? -1 : target[i];
        bool counts = SOFT || y != ignore;
        scores all = {{0, 1}, 0, 0};
        if (counts) all = scores_of_column(x + first, soft + first, weight, n, inner, smoothing, even);
        slope s = slope_of(all, SOFT ? (A)1 : factor_of(y, weight, n, ignore, report, site), scale_of(g, step, divisor, count, i), smoothing, even);
        for (i64 c = 0; c < n; c++) {
            A q = SOFT || smoothing > 0 ? share_of(SOFT ? load(soft[first + c * inner]) : (A)0, weight ? load(weight[c]) : (A)1, smoothing, even) : (A)0;
            dx[first + c * inner] = store<T>(counts ? slope_at(s, load(x[first + c * inner]), q, c == y) : (A)0);
        }
    }
}

/* ---- nll_loss: one score a position ---- */

extern "C" __global__ void nll(A *loss, A *factors, const T *x, const i64 *target, const T *weight, i64 positions, i64 n, i64 inner, i64 ignore, i64 *report, i64 site)
{
    for (i64 i = first_index(); i < positions; i += index_step()) {
        i64 y = target[i];
        A factor = factor_of(y, weight, n, ignore, report, site);
        bool reads = y != ignore && factor == factor;
        if (loss) loss[i] = reads ? -load(x[i / inner * n * inner + y * inner + i % inner]) * factor : factor;
        if (factors) factors[i] = factor;
    }
}
extern "C" __global__ void nll_grad(T *dx, const T *g, const double *divisor, const i64 *target, const T *weight, i64 elements, i64 n, i64 inner, i64 ignore, i64 step, i64 *report, i64 site)
{
    for (i64 i = first_index(); i < elements; i += index_step()) {
        i64 c = i / inner % n, position = i / inner / n * inner + i % inner, y = target[position];
        A slope = c == y && y != ignore ? -factor_of(y, weight, n, ignore, report, site) * scale_of(g, step, divisor, 1, position) : (A)0;
        dx[i] = store<T>(slope);
    }
}

/* ---- sums ---- */

/* parts[2 b] and parts[2 b + 1]: the sums of a and of b over the b-th 8192; either may be NULL. */
extern "C" __global__ void sum_parts(double *parts, const A *a, const A *b, i64 n)
{
    i64 from = (i64)blockIdx.x * SUMMED, to = from + SUMMED < n ? from + SUMMED : n;
    double sums[2] = {0, 0};
    for (i64 i = from + threadIdx.x; i < to; i += blockDim.x) {
        if (a) sums[0] += (double)a[i];
        if (b) sums[1] += (double)b[i];
    }
    for (int k = 0; k < 2; k++) {
        double sum = block_sum(sums[k]);
        if (threadIdx.x == 0) parts[2 * blockIdx.x + k] = sum;
    }
}
/* out = the first sum over the second (`mean`), or over `divisor`; `divided`, where given, becomes the second. */
extern "C" __global__ void sum_finish(T *out, double *divided, const double *parts, i64 count, i64 mean, double divisor)
{
    double sums[2] = {0, 0};
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) sums[0] += parts[2 * i], sums[1] += parts[2 * i + 1];
    double a = block_sum(sums[0]), b = block_sum(sums[1]);
    if (threadIdx.x) return;
    if (out) *out = store<T>((A)(a / (mean ? b : divisor)));
    if (divided) *divided = b;
}
extern "C" __global__ void narrowed(T *out, const A *x, i64 n)
{
    for (i64 i = first_index(); i < n; i += index_step()) out[i] = store<T>(x[i]);
}
