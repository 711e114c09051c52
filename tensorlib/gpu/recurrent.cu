#include "common.cuh"
/* One step of a recurrent layer over the `n` sequences that have it, from gates that are sums already, and its gradient. Rows of one step follow
 * each other from row `first` of a ragged batch on. H units, `out` has `pitch` elements from row to row.
 *   KIND  0 tanh, 1 relu, 2 GRU (r z n), 3 LSTM (i f g o)
 *   B     what cells are kept in: as wide as the arithmetic */
typedef acc_t<T> A;
typedef acc_t<T> B;

static __device__ inline float exp_of(float x) { return expf(x); }
static __device__ inline double exp_of(double x) { return exp(x); }
static __device__ inline float tanh_of(float x) { return tanhf(x); }
static __device__ inline double tanh_of(double x) { return tanh(x); }
static __device__ inline A sigmoid(A x)
{
    const A e = exp_of(x < 0 ? x : -x);
    return x < 0 ? e / (1 + e) : 1 / (1 + e);
}
static __device__ inline A bias_of(const T *bias, i64 i) { return bias ? (A)load(bias[i]) : (A)0; }

/* gates: from the inputs, (rows, gates H), replaced by the activated ones. sums: from the state, (n, gates H). h, c: the state, replaced.
 * kept_h, kept_c: the state before, of every row, and of a GRU kept_c what the reset gate multiplies; null where no gradient is asked for. */
extern "C" __global__ void take_step(T *out, T *gates, const T *sums, const T *bias, T *h, B *c, T *kept_h, B *kept_c, i64 n, i64 first, i64 H, i64 pitch)
{
    for (i64 i = first_index(); i < n * H; i += index_step()) {
        const i64 row = i / H, unit = i % H, at = (first + row) * H + unit;
        const A before = load(h[i]);
        if (kept_h) kept_h[at] = h[i];
        A state;
#if KIND == 3
        T *gate = gates + (first + row) * 4 * H + unit;
        const T *sum = sums + row * 4 * H + unit;
        const A in = sigmoid(load(gate[0]) + load(sum[0]) + bias_of(bias, unit));
        const A forget = sigmoid(load(gate[H]) + load(sum[H]) + bias_of(bias, H + unit));
        const A cell = tanh_of(load(gate[2 * H]) + load(sum[2 * H]) + bias_of(bias, 2 * H + unit));
        const A show = sigmoid(load(gate[3 * H]) + load(sum[3 * H]) + bias_of(bias, 3 * H + unit));
        const B now = forget * c[i] + in * cell;
        if (kept_c) {
            kept_c[at] = c[i];
            gate[0] = store<T>(in); gate[H] = store<T>(forget); gate[2 * H] = store<T>(cell); gate[3 * H] = store<T>(show);
        }
        c[i] = now;
        state = show * tanh_of(now);
#elif KIND == 2
        T *gate = gates + (first + row) * 3 * H + unit;
        const T *sum = sums + row * 3 * H + unit;
        const A reset = sigmoid(load(gate[0]) + load(sum[0]) + bias_of(bias, unit));
        const A stay = sigmoid(load(gate[H]) + load(sum[H]) + bias_of(bias, H + unit));
        const A inner = load(sum[2 * H]) + bias_of(bias, 2 * H + unit);
        const A fresh = tanh_of(load(gate[2 * H]) + reset * inner);
        if (kept_c) {
            kept_c[at] = inner;
            gate[0] = store<T>(reset); gate[H] = store<T>(stay); gate[2 * H] = store<T>(fresh);
        }
        state = fresh + stay * (before - fresh);
#else
        const A total = load(gates[at]) + load(sums[i]) + bias_of(bias, unit);
        state = KIND == 1 ? (total > 0 || total != total ? total : (A)0) : tanh_of(total);
        if (kept_h) gates[at] = store<T>(state);
#endif
        h[i] = store<T>(state);
        out[(first + row) * pitch + unit] = store<T>(state);
    }
}

/* dx, dh: gradients of the gates' two sums, (rows, gates H); one array unless KIND is 2. dstate, dcell: of the state after the step, (n, H); they
 * become those of the state before it, but for what flows through dh. */
extern "C" __global__ void take_step_back(T *dx, T *dh, T *dstate, B *dcell, const T *g, const T *gates, const T *kept_h, const B *kept_c, i64 n, i64 first, i64 H, i64 pitch)
{
    for (i64 i = first_index(); i < n * H; i += index_step()) {
        const i64 row = i / H, unit = i % H, at = (first + row) * H + unit;
        const A d = load(dstate[i]) + (g ? (A)load(g[(first + row) * pitch + unit]) : (A)0);
#if KIND == 3
        const i64 place = (first + row) * 4 * H + unit;
        const A in = load(gates[place]), forget = load(gates[place + H]), cell = load(gates[place + 2 * H]), show = load(gates[place + 3 * H]);
        const A before = kept_c[at], shown = tanh_of(forget * before + in * cell);
        const A dc = dcell[i] + d * show * (1 - shown * shown);
        dx[place] = store<T>(dc * cell * in * (1 - in));
        dx[place + H] = store<T>(dc * before * forget * (1 - forget));
        dx[place + 2 * H] = store<T>(dc * in * (1 - cell * cell));
        dx[place + 3 * H] = store<T>(d * shown * show * (1 - show));
        dcell[i] = dc * forget;
#elif KIND == 2
        const i64 place = (first + row) * 3 * H + unit;
        const A reset = load(gates[place]), stay = load(gates[place + H]), fresh = load(gates[place + 2 * H]);
        const A dn = d * (1 - stay) * (1 - fresh * fresh);
        const A dr = dn * kept_c[at] * reset * (1 - reset), dz = d * (load(kept_h[at]) - fresh) * stay * (1 - stay);
        dx[place] = dh[place] = store<T>(dr);
        dx[place + H] = dh[place + H] = store<T>(dz);
        dx[place + 2 * H] = store<T>(dn);
        dh[place + 2 * H] = store<T>(dn * reset);
        dstate[i] = store<T>(d * stay);
#else
        const A made = load(gates[at]);
        dx[at] = store<T>(KIND == 1 ? (made > 0 ? d : (A)0) : d * (1 - made * made));
#endif
    }
}
