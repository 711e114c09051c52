#include "vec.cuh"
/* Elementwise operations of native/elementwise.def, forward (FORWARD) or their gradients (bits of WANTED), for one dtype. Macros:
 *   OPS               OP(name, reads) for each of them: the kernel is elementwise_name, and reads says as bits which operands it reads
 *   SELECT, IS_TEST   the first operand is a mask; results are bool
 *   T                 elements in memory; 16-bit floats are computed in float32
 *   N_IN, N_OUT       operands as the row's columns name them (gradients: inputs, out, g), and results
 *   NUMBERS           as bits: which operands are numbers
 *   ND, PER, INDEX    dimensions, adjacent elements of the last one that a thread takes at a time, the type that counts such groups
 *
 * Results are contiguous. An operand is an address and a stride for each dimension (0 where it is broadcast), or a number. With more dimensions
 * than one PER divides the last, and whole groups of an operand with stride 1 there are aligned; with one, the last group may be short. */
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define K(c) ((S)(c))
#define NOGRAD v_zero(g)
/* S: the type that is computed in; A: of the first input, a mask for SELECT rows, else V */
#define GIVEN template <class S, class A, class V> static __device__
#define EW1(name, dtypes, forward, grad, saves, ulp)                                     \
    struct row_##name {                                                                  \
        GIVEN auto result(A x) { return forward; }                                       \
        GIVEN V slope0(A x, V out, V g) { return grad; }                                 \
        GIVEN V slope1(A, V, V) { return V(S(0)); }                                      \
        GIVEN V slope2(A, V, V) { return V(S(0)); }                                      \
    };
#define EW2(name, dtypes, forward, grad_a, grad_b, saves, ulp)                           \
    struct row_##name {                                                                  \
        GIVEN auto result(A a, V b) { return forward; }                                  \
        GIVEN V slope0(A a, V b, V out, V g) { return grad_a; }                          \
        GIVEN V slope1(A a, V b, V out, V g) { return grad_b; }                          \
        GIVEN V slope2(A, V, V, V) { return V(S(0)); }                                   \
    };
#define EW3(name, dtypes, forward, grad_a, grad_b, grad_c, saves, ulp)                   \
    struct row_##name {                                                                  \
        GIVEN auto result(A a, V b, V c) { return forward; }                             \
        GIVEN V slope0(A a, V b, V c, V out, V g) { return grad_a; }                     \
        GIVEN V slope1(A a, V b, V c, V out, V g) { return grad_b; }                     \
        GIVEN V slope2(A a, V b, V c, V out, V g) { return grad_c; }                     \
    };
#include "elementwise.def"

typedef acc_t<T> S;
typedef vec<S> V;
#if SELECT
typedef bool MEMORY_0; /* the first input in memory, and as it is read */
typedef bool first_s;
typedef V::mask A;
#else
typedef T MEMORY_0;
typedef S first_s;
typedef V A;
#endif
typedef T MEMORY_1, MEMORY_2, MEMORY_3, MEMORY_4;
#if IS_TEST
typedef bool out_t;
#else
typedef T out_t;
#endif

typedef pick_t<V::REAL, double, i64> number_t;
template <int NUMBER> using in_t = pick_t<NUMBER, number_t, const char *>;
template <class E> struct alignas(sizeof(E) * PER) group { E at[PER]; };

/* The first n of PER elements from p on, as they are computed with; all of them in one access where they lie side by side. */
template <class E, class O> static __device__ inline void fetch(O *to, const char *address, i64 at, i64 step, int n)
{
    const E *p = (const E *)address + at;
    if (step == 1 && n == PER) {
        group<E> g = *(const group<E> *)p;
        for (int i = 0; i < PER; i++) to[i] = load(g.at[i]);
    } else if (step == 0) {
        O x = load(*p);
        for (int i = 0; i < PER; i++) to[i] = x;
    } else {
        for (int i = 0; i < PER; i++) to[i] = i < n ? load(p[i * step]) : O(0);
    }
}
template <class E> static __device__ inline void keep(char *address, i64 at, const E *from, int n)
{
    E *p = (E *)address + at;
    group<E> g;
    for (int i = 0; i < PER; i++) g.at[i] = from[i];
    if (n == PER) *(group<E> *)p = g;
    else
        for (int i = 0; i < n; i++) p[i] = g.at[i];
}
template <class E, class O> static __device__ inline void fetch(O *to, number_t x, i64, i64, int)
{
    for (int i = 0; i < PER; i++) to[i] = (O)x;
}

#if SELECT
static __device__ inline A first(bool x) { return A(-(int)x); }
#else
static __device__ inline A first(S x) { return A(x); }
#endif

/* Parameters: results, operands, how many elements, sizes (the last one in groups), strides by operand. */
#define LIST_1(M) M(0)
#define LIST_2(M) LIST_1(M), M(1)
#define LIST_3(M) LIST_2(M), M(2)
#define LIST_4(M) LIST_3(M), M(3)
#define LIST_5(M) LIST_4(M), M(4)
#define IN_LIST PASTE(LIST_, N_IN)
#define OUT_LIST PASTE(LIST_, N_OUT)
#define DIMS_1(M, k) M(k, 0)
#define DIMS_2(M, k) DIMS_1(M, k), M(k, 1)
#define DIMS_3(M, k) DIMS_2(M, k), M(k, 2)
#define DIMS_4(M, k) DIMS_3(M, k), M(k, 3)
#define DIMS_5(M, k) DIMS_4(M, k), M(k, 4)
#define DIMS_6(M, k) DIMS_5(M, k), M(k, 5)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define DIMS JOIN(DIMS_, ND)
#define IN(k) in_t<(NUMBERS >> k & 1)> in##k
#define OUT(k) char *out##k
#define IN_NAME(k) in##k
#define OUT_NAME(k) out##k
#define SIZE(k, d) i64 size##d
#define SIZE_NAME(k, d) size##d
#define STRIDE(k, d) i64 stride##k##_##d
#define STRIDES(k) DIMS(STRIDE, k)
#define STRIDE_NAME(k, d) stride##k##_##d
#define STRIDE_NAMES(k) DIMS(STRIDE_NAME, k)
#define STRIDE_ROW(k) {DIMS(STRIDE_NAME, k)}
#define ARG(k) v##k[j]
#define READ(k, E, make)                                                                                             \
    if (READS >> k & 1) {                                                                                            \
        E e[PER];                                                                                                    \
        fetch<MEMORY_##k>(e, in##k, at[k], stride[k][ND - 1], count);                                                \
        for (int j = 0; j < PER; j++) v##k[j] = make(e[j]);                                                          \
    }

#define PARAMETERS OUT_LIST(OUT), IN_LIST(IN), i64 n, DIMS(SIZE, 0), IN_LIST(STRIDES)
#define PARAMETER_NAMES OUT_LIST(OUT_NAME), IN_LIST(IN_NAME), n, DIMS(SIZE_NAME, 0), IN_LIST(STRIDE_NAMES)
template <class row, int READS> static __device__ inline void run(PARAMETERS)
{
    const i64 size[] = {DIMS(SIZE_NAME, 0)}, stride[][ND] = {IN_LIST(STRIDE_ROW)};
    char *const out[] = {OUT_LIST(OUT_NAME)};
    for (i64 i = first_index(); i * PER < n; i += index_step()) {
        int count = n - i * PER < PER ? (int)(n - i * PER) : PER;
        i64 at[N_IN] = {};
        INDEX rest = (INDEX)i;
        for (int d = ND - 1; d >= 0; d--) {
            INDEX outer = d ? rest / (INDEX)size[d] : 0;
            i64 c = (i64)(rest - outer * (INDEX)size[d]) * (d == ND - 1 ? PER : 1);
            for (int k = 0; k < N_IN; k++) at[k] += c * stride[k][d];
            rest = outer;
        }
        A v0[PER];
        V v1[PER], v2[PER], v3[PER], v4[PER];
        READ(0, first_s, first)
#if N_IN > 1
        READ(1, S, V)
#endif
#if N_IN > 2
        READ(2, S, V)
#endif
#if N_IN > 3
        READ(3, S, V)
#endif
#if N_IN > 4
        READ(4, S, V)
#endif
#if FORWARD
        out_t made[PER];
        for (int j = 0; j < PER; j++) {
            auto value = row::template result<S, A, V>(IN_LIST(ARG));
            made[j] = IS_TEST ? store<out_t>(value.lane != 0) : store<out_t>(V(value).lane);
        }
        keep(out[0], i * PER, made, count);
#else
        int o = 0;
#define GRADIENT(k)                                                                                                  \
    if (WANTED >> k & 1) {                                                                                           \
        T made[PER];                                                                                                 \
        for (int j = 0; j < PER; j++) made[j] = store<T>(row::template slope##k<S, A, V>(IN_LIST(ARG)).lane);                 \
        keep(out[o++], i * PER, made, count);                                                                        \
    }
        GRADIENT(0)
        GRADIENT(1)
        GRADIENT(2)
#endif
    }
}

#define OP(name, reads) \
    extern "C" __global__ void elementwise_##name(PARAMETERS) { run<row_##name, reads>(PARAMETER_NAMES); }
OPS
