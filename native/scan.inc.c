/* Running sums and products for one instruction set: contracts in kernels.h, the driver in scan.c. */
enum { SCAN_ROWS = 4 }; /* rows taken together: each is a chain of dependent steps */

/* rows SCAN_ROWS or 1; W: the type of the computation */
#define SCAN_LINES(name, T, W, join)                                                                            \
    TL_TEMPLATE void TL_NAME(scan_lines_##name)(const tl_scan_task *p, int64_t row, const int rows)               \
    {                                                                                                           \
        const T *x = (const T *)p->x + row * p->n;                                                              \
        T *out = (T *)p->out + row * p->n;                                                                      \
        W acc[SCAN_ROWS];                                                                                       \
        TL_UNROLL for (int r = 0; r < rows; r++) acc[r] = p->product ? 1 : 0;                                   \
        for (int64_t j = 0; j < p->n; j++) {                                                                    \
            int64_t i = p->reverse ? p->n - 1 - j : j;                                                          \
            TL_UNROLL for (int r = 0; r < rows; r++) {                                                          \
                W v = (W)x[r * p->n + i];                                                                       \
                acc[r] = join;                                                                                  \
                out[r * p->n + i] = (T)acc[r];                                                                  \
            }                                                                                                   \
        }                                                                                                       \
    }
/* Columns [first, first + width) of one (n, inner) block. */
#define SCAN_TILE(name, T, W, join)                                                                             \
    TL_INLINE void TL_NAME(scan_tile_##name)(const tl_scan_task *p, int64_t at, int64_t width)                  \
    {                                                                                                           \
        W acc[TL_SCAN_TILE];                                                                                    \
        for (int64_t r = 0; r < width; r++) acc[r] = p->product ? 1 : 0;                                        \
        for (int64_t j = 0; j < p->n; j++) {                                                                    \
            int64_t i = at + (p->reverse ? p->n - 1 - j : j) * p->inner;                                        \
            const T *restrict x = (const T *)p->x + i;                                                          \
            T *restrict out = (T *)p->out + i;                                                                  \
            for (int64_t r = 0; r < width; r++) {                                                               \
                W v = (W)x[r];                                                                                  \
                acc[r] = join;                                                                                  \
                out[r] = (T)acc[r];                                                                             \
            }                                                                                                   \
        }                                                                                                       \
    }
#define SCAN_BODIES(name, T)                                                                                    \
    static void TL_NAME(scan_rows_##name)(void *arg, int64_t begin, int64_t end)                                \
    {                                                                                                           \
        const tl_scan_task *p = arg;                                                                            \
        int64_t row = begin;                                                                                    \
        for (; row + SCAN_ROWS <= end; row += SCAN_ROWS) TL_NAME(scan_lines_##name)(p, row, SCAN_ROWS);         \
        for (; row < end; row++) TL_NAME(scan_lines_##name)(p, row, 1);                                         \
    }                                                                                                           \
    static void TL_NAME(scan_columns_##name)(void *arg, int64_t begin, int64_t end)                             \
    {                                                                                                           \
        const tl_scan_task *p = arg;                                                                            \
        int64_t tiles = (p->inner + TL_SCAN_TILE - 1) / TL_SCAN_TILE;                                           \
        for (int64_t t = begin; t < end; t++) {                                                                 \
            int64_t first = t % tiles * TL_SCAN_TILE, left = p->inner - first;                                  \
            TL_NAME(scan_tile_##name)(p, t / tiles * p->n * p->inner + first, left < TL_SCAN_TILE ? left : TL_SCAN_TILE); \
        }                                                                                                       \
    }
#define SCAN_TYPE(name, T, W)                          \
    SCAN_LINES(name##_sum, T, W, acc[r] + v)           \
    SCAN_LINES(name##_prod, T, W, acc[r] * v)          \
    SCAN_TILE(name##_sum, T, W, acc[r] + v)            \
    SCAN_TILE(name##_prod, T, W, acc[r] * v)           \
    SCAN_BODIES(name##_sum, T)                         \
    SCAN_BODIES(name##_prod, T)
SCAN_TYPE(f32, float, double)
SCAN_TYPE(f64, double, double)
SCAN_TYPE(i64, uint64_t, uint64_t) /* wraps around */

#define SCAN_BOTH(way, name) {TL_NAME(scan_##way##_##name##_sum), TL_NAME(scan_##way##_##name##_prod)}
const tl_scan_kernels TL_NAME(scan_kernels) = {
    .rows = {SCAN_BOTH(rows, f32), SCAN_BOTH(rows, f64), SCAN_BOTH(rows, i64)},
    .columns = {SCAN_BOTH(columns, f32), SCAN_BOTH(columns, f64), SCAN_BOTH(columns, i64)},
};
#undef SCAN_LINES
#undef SCAN_TILE
#undef SCAN_BODIES
#undef SCAN_TYPE
#undef SCAN_BOTH
