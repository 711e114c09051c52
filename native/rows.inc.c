/* Kernels over rows for one instruction set: contracts in kernels.h, the loops in rows_type.inc.c, drivers in rows.c and losses.c. */
enum { /* what is summed over a row; m is the row's own scalar */
    TERM_SUM,       /* a */
    TERM_SQDEV,     /* (a - m)^2 */
    TERM_EXP,       /* exp(a - m), also stored where a result is given */
    TERM_DOT,       /* a b */
    TERM_BELOW,     /* m - a */
    TERM_BELOW_DOT  /* (m - a) b */
};
enum { /* what is written to a row, from up to four rows and the scalars s */
    MAP_SCALE,            /* a s0 */
    MAP_SHIFT,            /* a - s0 - s1 */
    MAP_SOFTMAX_GRAD,     /* a (b - s0) */
    MAP_LOG_SOFTMAX_GRAD, /* b - exp(a) s0 */
    MAP_NORM,             /* (a - s0) s1, times c, plus d */
    MAP_NORM_W,
    MAP_NORM_B,
    MAP_NORM_WB,
    MAP_NORM_GRAD,        /* s1 (b - s2 - (a - s0) s1 s3), b times c */
    MAP_NORM_GRAD_W,
    MAP_CE_GRAD,          /* exp(a - s0 - s1) s2 - s3, s3 times c */
    MAP_CE_GRAD_W
};
enum { ROW_BLOCK = 4096 }; /* elements added in the element's own type; such sums are added in double */

#define RN_(name, type) TL_NAME(name##_##type)

#define T float
#define V v_f32
#define EXP_LOWEST (-87.0f)
#define VN(name) vf_##name
#define RN(name) RN_(name, f32)
#include "rows_type.inc.c"

#define T double
#define V v_f64
#define EXP_LOWEST (-708.0)
#define VN(name) vd_##name
#define RN(name) RN_(name, f64)
#include "rows_type.inc.c"

#define BOTH(name) {TL_NAME(name##_f32), TL_NAME(name##_f64)}
const tl_rows_kernels TL_NAME(rows_kernels) = {
    .softmax = BOTH(softmax), .softmax_grad = BOTH(softmax_grad),
    .softmax_across = BOTH(softmax_across), .softmax_across_grad = BOTH(softmax_across_grad),
    .layer_norm = BOTH(layer_norm), .layer_norm_grad = BOTH(layer_norm_grad),
    .cross_entropy = BOTH(cross_entropy), .cross_entropy_grad = BOTH(cross_entropy_grad),
    .cross_entropy_soft = BOTH(cross_entropy_soft), .cross_entropy_soft_grad = BOTH(cross_entropy_soft_grad),
    .cross_entropy_across = BOTH(cross_entropy_across), .cross_entropy_across_grad = BOTH(cross_entropy_across_grad),
    .nll = BOTH(nll), .nll_grad = BOTH(nll_grad),
    .pair_each = BOTH(pair_each), .pair_sum = BOTH(pair_sum), .pair_grad = BOTH(pair_grad),
};
#undef BOTH
#undef RN_
