/* Sorting and selecting for one instruction set: contracts in kernels.h, the loops in sort_type.inc.c, the driver in sort.c. */
enum {
    SORT_SHORT = 40,         /* rows up to here: insertion */
    SORT_WIDE = 1 << 15,     /* from here on digits of 11 bits, else of 8 */
    SORT_DIGIT = 1 << 11,
    SORT_STEP = 64           /* elements that selection looks at together */
};

/* A number of the same order, for every type: equal floats (-0 and 0; all NaN, the greatest) have equal keys. */
TL_INLINE uint32_t TL_NAME(sort_key_f32)(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    uint32_t key = u & 0x80000000u ? ~u : u | 0x80000000u;
    key = u << 1 ? key : 0x80000000u;
    return u << 1 > 0xff000000u ? UINT32_MAX : key;
}
TL_INLINE uint64_t TL_NAME(sort_key_f64)(double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    uint64_t key = u >> 63 ? ~u : u | UINT64_C(1) << 63;
    key = u << 1 ? key : UINT64_C(1) << 63;
    return u << 1 > UINT64_C(0xffe0000000000000) ? UINT64_MAX : key;
}
TL_INLINE uint64_t TL_NAME(sort_key_i64)(int64_t v) { return (uint64_t)v ^ UINT64_C(1) << 63; }

#define SN_(name, type) TL_NAME(sort_##name##_##type)

#define T float
#define KEY uint32_t
#define SN(name) SN_(name, f32)
#include "sort_type.inc.c"

#define T double
#define KEY uint64_t
#define SN(name) SN_(name, f64)
#include "sort_type.inc.c"

#define T int64_t
#define KEY uint64_t
#define SN(name) SN_(name, i64)
#include "sort_type.inc.c"

const tl_sort_kernels TL_NAME(sort_kernels) = {{TL_NAME(sort_rows_f32), TL_NAME(sort_rows_f64), TL_NAME(sort_rows_i64)}};
#undef SN_
