/* The steps of optimizers for one instruction set: one pass over a parameter, its gradient and its state. Contracts in kernels.h, the
 * loops in optim_type.inc.c, the drivers in optim.c. */

#define T float
#define V v_f32
#define VN(name) vf_##name
#define ON(name) name##_f32
enum { ON(LANES) = VF_LANES };
#include "optim_type.inc.c"
#undef T
#undef V
#undef VN

#define T double
#define V v_f64
#define VN(name) vd_##name
#define ON(name) name##_f64
enum { ON(LANES) = VD_LANES };
#include "optim_type.inc.c"
#undef T
#undef V
#undef VN

const tl_optim_kernels TL_NAME(optim_kernels) = {
    .sgd = {sgd_f32, sgd_f64},
    .adam = {adam_f32, adam_f64},
    .rms = {rms_f32, rms_f64},
    .lion = {lion_f32, lion_f64},
    .scale = {scale_f32, scale_f64},
    .sum_of_squares = {sum_of_squares_f32, sum_of_squares_f64},
};
