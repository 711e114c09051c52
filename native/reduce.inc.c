/* Reduction kernels for one instruction set: contracts in kernels.h, the loops in reduce_type.inc.c, iteration in reduce.c. */
#define RN_(name, type) TL_NAME(name##_##type)

#define T float
#define V v_f32
#define M v_i32
#define VN(name) vf_##name
#define T_INT 0
#define LOWEST (-INFINITY)
#define HIGHEST INFINITY
#define RN(name) RN_(name, f32)
#include "reduce_type.inc.c"

#define T double
#define V v_f64
#define M v_i64
#define VN(name) vd_##name
#define T_INT 0
#define LOWEST (-(double)INFINITY)
#define HIGHEST ((double)INFINITY)
#define RN(name) RN_(name, f64)
#include "reduce_type.inc.c"

#define T int64_t
#define V v_i64
#define M v_i64
#define VN(name) not_there_##name
#define T_INT 1
#define LOWEST INT64_MIN
#define HIGHEST INT64_MAX
#define RN(name) RN_(name, i64)
#include "reduce_type.inc.c"

#define TYPE_TABLE(type) \
    {TL_NAME(red_rows_##type), TL_NAME(red_columns_##type), TL_NAME(red_fill_##type), TL_NAME(red_tree_##type), TL_NAME(red_arg_##type)}
const tl_reduce_kernels TL_NAME(reduce_kernels) = {.f32 = TYPE_TABLE(f32), .f64 = TYPE_TABLE(f64), .i64 = TYPE_TABLE(i64)};
#undef TYPE_TABLE
#undef RN_
