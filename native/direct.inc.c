/* Convolution from a padded copy of a band of rows, for one instruction set: contracts in kernels.h, the loops in direct_type.inc.c, driver in
 * direct.c. */
#define DN_(name, type) TL_NAME(name##_##type)
#if TL_VBYTES == 64
enum { DIRECT_VECTORS = 4, DIRECT_TAPS = 5 };   /* of a row, for the sums; of several channels, for a weight's gradient: what registers hold */
#else
enum { DIRECT_VECTORS = 3, DIRECT_TAPS = 3 };
#endif

/* n in equal parts of at most `most`: the size of a part. */
static inline int64_t direct_share(int64_t n, int64_t most)
{
    int64_t parts = n <= most ? 1 : (n + most - 1) / most;
    return parts == 1 ? n : (n + parts - 1) / parts;
}
static inline int direct_least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

/* Where the columns of a row go that stands `column` columns from the left: those first[i], first[i] + step, ... side by side from at[i] on. */
typedef struct { int64_t step, first[TL_CONV_PHASES], at[TL_CONV_PHASES]; } direct_phases;
static direct_phases direct_phases_of(int64_t column, int64_t step, int64_t pitch)
{
    direct_phases f = {.step = step};
    for (int64_t i = 0; i < step; i++) {
        f.first[i] = (i + step - column % step) % step;
        f.at[i] = i * pitch + (column + f.first[i]) / step;
    }
    return f;
}

/* The even elements of two vectors of n. */
#define DIRECT_EVEN_2 0, 2
#define DIRECT_EVEN_4 DIRECT_EVEN_2, 4, 6
#define DIRECT_EVEN_8 DIRECT_EVEN_4, 8, 10, 12, 14
#define DIRECT_EVEN_16 DIRECT_EVEN_8, 16, 18, 20, 22, 24, 26, 28, 30
#define DIRECT_EVEN_(a, b, n) __builtin_shufflevector(a, b, DIRECT_EVEN_##n)
#define DIRECT_EVEN(a, b, n) DIRECT_EVEN_(a, b, n)
#if TL_VBYTES == 64
#define LANES_f32 16
#define LANES_f64 8
#elif TL_VBYTES == 32
#define LANES_f32 8
#define LANES_f64 4
#else
#define LANES_f32 4
#define LANES_f64 2
#endif

#define T float
#define V v_f32
#define LANES LANES_f32
#define VN(name) vf_##name
#define DN(name) DN_(name, f32)
#include "direct_type.inc.c"

#define T double
#define V v_f64
#define LANES LANES_f64
#define VN(name) vd_##name
#define DN(name) DN_(name, f64)
#include "direct_type.inc.c"

#define BOTH(name) {TL_NAME(name##_f32), TL_NAME(name##_f64)}
const tl_direct_kernels TL_NAME(direct_kernels) = {
    .copy = BOTH(direct_copy), .sums = BOTH(direct_sums), .dots = BOTH(direct_dots),
};
#undef BOTH
#undef DN_
