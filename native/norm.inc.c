/* Normalisation over channels for one instruction set: contracts in kernels.h, the loops in norm_type.inc.c, drivers in norm.c. */
enum {
    PILOT = 64, PILOT_ROWS = 16,                  /* elements of a box, rows of a column, whose mean the others are summed around */
    LANE_BYTES = 128, ACC = LANE_BYTES / TL_VBYTES /* the running sums of a box, in vectors */
};

#define T float
#define V v_f32
#define VN(name) vf_##name
#define NN(name) norm_##name##_f32
#include "norm_type.inc.c"

#define T double
#define V v_f64
#define VN(name) vd_##name
#define NN(name) norm_##name##_f64
#include "norm_type.inc.c"

#define BOTH(name) {norm_##name##_f32, norm_##name##_f64}
const tl_norm_kernels TL_NAME(norm_kernels) = {
    .moments = BOTH(moments), .apply = BOTH(apply), .grad_sums = BOTH(grad_sums), .grad_apply = BOTH(grad_apply),
    .columns_moments = BOTH(columns_moments), .columns_grad_sums = BOTH(columns_grad_sums), .columns_apply = BOTH(columns_apply),
};
#undef BOTH
