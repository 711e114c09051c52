/* Weighted sums along one dimension, for one instruction set: contracts in kernels.h, the loops in resample_type.inc.c, driver in resample.c. */
#define SN_(name, type) TL_NAME(name##_##type)

#define T float
#define V v_f32
#define VN(name) vf_##name
#define SN(name) SN_(name, f32)
#include "resample_type.inc.c"

#define T double
#define V v_f64
#define VN(name) vd_##name
#define SN(name) SN_(name, f64)
#include "resample_type.inc.c"

const tl_resample_kernels TL_NAME(resample_kernels) = {
    .rows = {TL_NAME(resample_rows_f32), TL_NAME(resample_rows_f64)},
    .across = {TL_NAME(resample_across_f32), TL_NAME(resample_across_f64)},
};
#undef SN_
