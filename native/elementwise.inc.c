/* Elementwise kernels for one instruction set: elementwise.def turned into functions and their table. See isa.h for how this is included.
 *
 * A row makes, for each of its dtypes, an inline function from vectors to a vector and a kernel (tl_ew_fn) that is one of the loops of
 * elementwise_loops.inc.c around it: map (same dtype out), test (bool out) or choose (bool first in). */
#define TY u8
#include "elementwise_loops.inc.c"
#define TY i8
#include "elementwise_loops.inc.c"
#define TY u16
#include "elementwise_loops.inc.c"
#define TY i16
#include "elementwise_loops.inc.c"
#define TY u32
#include "elementwise_loops.inc.c"
#define TY i32
#include "elementwise_loops.inc.c"
#define TY u64
#include "elementwise_loops.inc.c"
#define TY i64
#include "elementwise_loops.inc.c"
#define TY f32
#include "elementwise_loops.inc.c"
#define TY f64
#include "elementwise_loops.inc.c"

/* The names an expression may use: every inline function takes five vectors, as a gradient of three inputs does. */
#define FORWARD1(A, V) TL_UNUSED A x, TL_UNUSED V p1, TL_UNUSED V p2, TL_UNUSED V p3, TL_UNUSED V p4
#define FORWARD2(A, V) TL_UNUSED A a, TL_UNUSED V b, TL_UNUSED V p2, TL_UNUSED V p3, TL_UNUSED V p4
#define FORWARD3(A, V) TL_UNUSED A a, TL_UNUSED V b, TL_UNUSED V c, TL_UNUSED V p3, TL_UNUSED V p4
#define BACKWARD1(A, V) TL_UNUSED A x, TL_UNUSED V out, TL_UNUSED V g, TL_UNUSED V p3, TL_UNUSED V p4
#define BACKWARD2(A, V) TL_UNUSED A a, TL_UNUSED V b, TL_UNUSED V out, TL_UNUSED V g, TL_UNUSED V p4
#define BACKWARD3(A, V) TL_UNUSED A a, TL_UNUSED V b, TL_UNUSED V c, TL_UNUSED V out, TL_UNUSED V g

/* KERNEL(element type, type of the first input, result type, loop, name, inputs, parameters, expression) */
#define KERNEL(ty, A, R, loop, name, n_in, params, expr)                                                \
    TL_INLINE R ew_##name##_of_##ty(params(A, v_##ty))                                                  \
    {                                                                                                   \
        typedef s_##ty S TL_UNUSED;                                                                     \
        return (R)(expr);                                                                               \
    }                                                                                                   \
    static void ew_##name##_##ty(void *out, const void *const *in, int64_t n, const uint8_t *step)      \
    {                                                                                                   \
        ew_##loop##_##ty(out, in, n, step, n_in, ew_##name##_of_##ty);                                  \
    }
#define K(c) ((S)(c))
#define MAP(ty, ...) KERNEL(ty, v_##ty, v_##ty, map, __VA_ARGS__)
#define TEST(ty, ...) KERNEL(ty, v_##ty, ew_mask_##ty, test, __VA_ARGS__)
#define CHOOSE(ty, ...) KERNEL(ty, ew_mask_##ty, v_##ty, choose, __VA_ARGS__)

/* By the dtypes column: the forward kernels, ... */
#define MAKE_FLOAT(...) MAP(f32, __VA_ARGS__) MAP(f64, __VA_ARGS__)
#define MAKE_UNSIGNED(...) MAP(u8, __VA_ARGS__) MAP(u16, __VA_ARGS__) MAP(u32, __VA_ARGS__) MAP(u64, __VA_ARGS__)
#define MAKE_BITS(...) MAKE_UNSIGNED(__VA_ARGS__)
#define MAKE_INTS(...) MAP(u8, __VA_ARGS__) MAP(i8, __VA_ARGS__) MAP(i16, __VA_ARGS__) MAP(i32, __VA_ARGS__) MAP(i64, __VA_ARGS__)
#define MAKE_WRAP(...) MAKE_UNSIGNED(__VA_ARGS__) MAKE_FLOAT(__VA_ARGS__)
#define MAKE_ORDERED(...) MAKE_INTS(__VA_ARGS__) MAKE_FLOAT(__VA_ARGS__)
#define MAKE_SELECT(...) CHOOSE(u8, __VA_ARGS__) CHOOSE(u16, __VA_ARGS__) CHOOSE(u32, __VA_ARGS__) CHOOSE(u64, __VA_ARGS__)
#define MAKE_FLOAT_TEST(...) TEST(f32, __VA_ARGS__) TEST(f64, __VA_ARGS__)
#define MAKE_ANY_TEST(...) TEST(u8, __VA_ARGS__) TEST(u16, __VA_ARGS__) TEST(u32, __VA_ARGS__) TEST(u64, __VA_ARGS__) MAKE_FLOAT_TEST(__VA_ARGS__)
#define MAKE_ORDERED_TEST(...)                                                                                                    \
    TEST(u8, __VA_ARGS__) TEST(i8, __VA_ARGS__) TEST(i16, __VA_ARGS__) TEST(i32, __VA_ARGS__) TEST(i64, __VA_ARGS__) MAKE_FLOAT_TEST(__VA_ARGS__)

/* ... the gradient kernels, ... */
#define GRAD_FLOAT(...) MAP(f32, __VA_ARGS__) MAP(f64, __VA_ARGS__)
#define GRAD_WRAP(...) GRAD_FLOAT(__VA_ARGS__)
#define GRAD_ORDERED(...) GRAD_FLOAT(__VA_ARGS__)
#define GRAD_SELECT(...) CHOOSE(f32, __VA_ARGS__) CHOOSE(f64, __VA_ARGS__)
#define GRAD_UNSIGNED(...)
#define GRAD_BITS(...)
#define GRAD_INTS(...)
#define GRAD_FLOAT_TEST(...)
#define GRAD_ANY_TEST(...)
#define GRAD_ORDERED_TEST(...)

/* ... and the same as rows of the tables. */
#define ROW_FLOAT(k) [TL_F32] = k##_f32, [TL_F64] = k##_f64
#define ROW_UNSIGNED(k) \
    [TL_U8] = k##_u8, [TL_I8] = k##_u8, [TL_I16] = k##_u16, [TL_I32] = k##_u32, [TL_I64] = k##_u64
#define ROW_BITS(k) [TL_BOOL] = k##_u8, ROW_UNSIGNED(k)
#define ROW_INTS(k) [TL_U8] = k##_u8, [TL_I8] = k##_i8, [TL_I16] = k##_i16, [TL_I32] = k##_i32, [TL_I64] = k##_i64
#define ROW_WRAP(k) ROW_UNSIGNED(k), ROW_FLOAT(k)
#define ROW_ORDERED(k) ROW_INTS(k), ROW_FLOAT(k)
#define ROW_SELECT(k) \
    ROW_BITS(k), [TL_F16] = k##_u16, [TL_BF16] = k##_u16, [TL_F32] = k##_u32, [TL_F64] = k##_u64, [TL_C64] = k##_u64
#define ROW_FLOAT_TEST(k) ROW_FLOAT(k)
#define ROW_ANY_TEST(k) ROW_BITS(k), ROW_FLOAT(k)
#define ROW_ORDERED_TEST(k) [TL_BOOL] = k##_u8, ROW_INTS(k), ROW_FLOAT(k)

#define GROW_FLOAT(k) {k##_f32, k##_f64}
#define GROW_WRAP(k) GROW_FLOAT(k)
#define GROW_ORDERED(k) GROW_FLOAT(k)
#define GROW_SELECT(k) GROW_FLOAT(k)
#define GROW_UNSIGNED(k) {NULL}
#define GROW_BITS(k) {NULL}
#define GROW_INTS(k) {NULL}
#define GROW_FLOAT_TEST(k) {NULL}
#define GROW_ANY_TEST(k) {NULL}
#define GROW_ORDERED_TEST(k) {NULL}

#define NOGRAD v_zero(g) /* only where's condition gets this far, and the driver never asks for it */
#define EW1(name, dtypes, forward, grad, saves, ulp)    \
    MAKE_##dtypes(name, 1, FORWARD1, forward)           \
    GRAD_##dtypes(name##_grad0, 3, BACKWARD1, grad)
#define EW2(name, dtypes, forward, grad_a, grad_b, saves, ulp) \
    MAKE_##dtypes(name, 2, FORWARD2, forward)                  \
    GRAD_##dtypes(name##_grad0, 4, BACKWARD2, grad_a)          \
    GRAD_##dtypes(name##_grad1, 4, BACKWARD2, grad_b)
#define EW3(name, dtypes, forward, grad_a, grad_b, grad_c, saves, ulp) \
    MAKE_##dtypes(name, 3, FORWARD3, forward)                          \
    GRAD_##dtypes(name##_grad0, 5, BACKWARD3, grad_a)                  \
    GRAD_##dtypes(name##_grad1, 5, BACKWARD3, grad_b)                  \
    GRAD_##dtypes(name##_grad2, 5, BACKWARD3, grad_c)
#include "elementwise.def"
#undef EW1
#undef EW2
#undef EW3
#undef NOGRAD

static void ew_stream(void *dst, const void *src, int64_t nbytes)
{
    char *d = dst;
    const char *s = src;
    for (; nbytes > 0; nbytes -= TL_VBYTES, d += TL_VBYTES, s += TL_VBYTES) v_stream(d, s);
}

const tl_ew_kernels TL_NAME(ew_kernels) = {
    .forward = {
#define EW1(name, dtypes, ...) [TL_OP_##name] = {ROW_##dtypes(ew_##name)},
#define EW2(name, dtypes, ...) [TL_OP_##name] = {ROW_##dtypes(ew_##name)},
#define EW3(name, dtypes, ...) [TL_OP_##name] = {ROW_##dtypes(ew_##name)},
#include "elementwise.def"
#undef EW1
#undef EW2
#undef EW3
    },
    .grad = {
#define EW1(name, dtypes, ...) [TL_OP_##name] = {GROW_##dtypes(ew_##name##_grad0)},
#define EW2(name, dtypes, ...) [TL_OP_##name] = {GROW_##dtypes(ew_##name##_grad0), GROW_##dtypes(ew_##name##_grad1)},
#define EW3(name, dtypes, ...) \
    [TL_OP_##name] = {GROW_##dtypes(ew_##name##_grad0), GROW_##dtypes(ew_##name##_grad1), GROW_##dtypes(ew_##name##_grad2)},
#include "elementwise.def"
#undef EW1
#undef EW2
#undef EW3
    },
    .vector_bytes = TL_VBYTES,
    .stream = ew_stream,
};
#undef K
