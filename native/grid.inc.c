/* Images read at points, for one instruction set: contracts in kernels.h, the loops in grid_type.inc.c, the driver in grid.c. */
enum { GRID_TAPS = 16, GRID_BLOCK = 32 }; /* the most elements that a point reads; points at a time, a multiple of every vector's lanes */

#define GN_(name, type) TL_NAME(grid_##name##_##type)

#define T float
#define V v_f32
#define I s_i32
#define VI v_i32
#define VN(name) vf_##name
#define GN(name) GN_(name, f32)
#include "grid_type.inc.c"

#define T double
#define V v_f64
#define I s_i64
#define VI v_i64
#define VN(name) vd_##name
#define GN(name) GN_(name, f64)
#include "grid_type.inc.c"

#define BOTH(name) {TL_NAME(grid_##name##_f32), TL_NAME(grid_##name##_f64)}
const tl_grid_kernels TL_NAME(grid_kernels) = {
    .lanes = {VF_LANES, VD_LANES},
    .open = BOTH(open), .close = BOTH(close), .read = BOTH(read), .gradient = BOTH(gradient),
    .read_few = BOTH(read_few), .spread_few = BOTH(spread_few), .slopes_few = BOTH(slopes_few),
};
#undef BOTH
#undef GN_
