/* Conversions between dtypes, over contiguous elements.
 *
 * Kernels join the real types {u8 (bool too), i8, i16, i32, i64, f32, f64} with each other, float16 and bfloat16 with float32. copy.c
 * composes the rest. What C leaves undefined is defined here, as x86 does it: a float that does not fit int32 / int64 (NaN too) gives the
 * smallest one; one that goes to a narrower integer goes through int32 and wraps. A float is truncated; bool is x != 0, so NaN is true. */

typedef union { s_f32 f; s_u32 u; } float_bits;
typedef union { s_f64 f; s_u64 u; } double_bits;

/* The choice is made on the operand, so that the conversion itself always fits, and vectorises. */
TL_INLINE s_i32 f32_to_i32(s_f32 x) { return (s_i32)(x >= -0x1p31f && x < 0x1p31f ? x : -0x1p31f); }
TL_INLINE s_i64 f32_to_i64(s_f32 x) { return (s_i64)(x >= -0x1p63f && x < 0x1p63f ? x : -0x1p63f); }
TL_INLINE s_i32 f64_to_i32(s_f64 x) { return (s_i32)(x > -0x1p31 - 1 && x < 0x1p31 ? x : -0x1p31); }
TL_INLINE s_i64 f64_to_i64(s_f64 x) { return (s_i64)(x >= -0x1p63 && x < 0x1p63 ? x : -0x1p63); }

TL_INLINE s_u16 f32_to_bf16(s_f32 x)
{
    s_u32 u = ((float_bits){.f = x}).u, rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (s_u16)((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : rounded);
}

TL_INLINE s_f32 bf16_to_f32(s_u16 h) { return ((float_bits){.u = (s_u32)h << 16}).f; }

/* Adding a float whose last bit is what half precision keeps makes the addition round; subnormals get a larger one. */
TL_INLINE s_u16 f32_to_f16(s_f32 x)
{
    s_u32 u = ((float_bits){.f = x}).u, sign = u & 0x80000000, exponent = (u & 0x7f800000);
    s_f32 size = ((float_bits){.u = u ^ sign}).f * 0x1p112f * 0x1p-110f;               /* too large: infinite */
    s_u32 last = (exponent < 0x38800000 ? 0x38800000 : exponent) + 0x07800000;
    s_u32 r = ((float_bits){.f = size + ((float_bits){.u = last}).f}).u;
    s_u32 half = ((r >> 13) & 0x7c00) + (r & 0xfff);
    return (s_u16)(sign >> 16 | ((u ^ sign) > 0x7f800000 ? 0x7e00 : half));
}

TL_INLINE s_f32 f16_to_f32(s_u16 h)
{
    s_u32 sign = (s_u32)(h & 0x8000) << 16, magnitude = (s_u32)(h & 0x7fff) << 13;
    s_u32 finite = ((float_bits){.f = ((float_bits){.u = magnitude}).f * 0x1p112f}).u; /* subnormals come out right */
    return ((float_bits){.u = sign | (magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : finite)}).f;
}

/* Rounds so that rounding the result again, to float16 or bfloat16, is as if the double had been rounded once: towards zero, and the
 * last bit set where something was lost. */
TL_INLINE s_f32 f64_to_f32_odd(s_f64 x)
{
    s_f32 f = (s_f32)x;
    s_u32 u = ((float_bits){.f = f}).u, lost = (s_f64)f != x && x == x;
    s_u32 grew = __builtin_fabs((s_f64)f) > __builtin_fabs(x);
    return ((float_bits){.u = (u - grew) | lost}).f;
}

#define CASTS_FROM(T, to_u8, to_i8, to_i16, to_i32, to_i64)  \
    CAST(T, bool, u8, x != 0)                                \
    CAST(T, u8, u8, to_u8)                                   \
    CAST(T, i8, i8, to_i8)                                   \
    CAST(T, i16, i16, to_i16)                                \
    CAST(T, i32, i32, to_i32)                                \
    CAST(T, i64, i64, to_i64)                                \
    CAST(T, f32, f32, (s_f32)x)                              \
    CAST(T, f64, f64, (s_f64)x)
#define CASTS_FROM_INT(T) CASTS_FROM(T, (s_u8)x, (s_i8)x, (s_i16)x, (s_i32)x, (s_i64)x)
#define CASTS_FROM_FLOAT(T) CASTS_FROM(T, (s_u8)T##_to_i32(x), (s_i8)T##_to_i32(x), (s_i16)T##_to_i32(x), T##_to_i32(x), T##_to_i64(x))
#define CASTS               \
    CASTS_FROM_INT(u8)      \
    CASTS_FROM_INT(i8)      \
    CASTS_FROM_INT(i16)     \
    CASTS_FROM_INT(i32)     \
    CASTS_FROM_INT(i64)     \
    CASTS_FROM_FLOAT(f32)   \
    CASTS_FROM_FLOAT(f64)

/* cast_FROM_TO: n elements; out and x do not overlap. */
#define CAST(from, to, store, expression)                                                       \
    static void cast_##from##_##to(void *restrict out, const void *restrict in, int64_t n)      \
    {                                                                                           \
        s_##store *restrict o = out;                                                            \
        const s_##from *restrict p = in;                                                        \
        for (int64_t i = 0; i < n; i++) {                                                       \
            s_##from x = p[i];                                                                  \
            o[i] = expression;                                                                  \
        }                                                                                       \
    }
CASTS
#undef CAST

static void cast_f32_bf16(void *restrict out, const void *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) ((s_u16 *)out)[i] = f32_to_bf16(((const s_f32 *)in)[i]);
}

static void cast_bf16_f32(void *restrict out, const void *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) ((s_f32 *)out)[i] = bf16_to_f32(((const s_u16 *)in)[i]);
}

static void cast_f32_f16(void *restrict out, const void *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) ((s_u16 *)out)[i] = f32_to_f16(((const s_f32 *)in)[i]);
}

static void cast_f16_f32(void *restrict out, const void *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) ((s_f32 *)out)[i] = f16_to_f32(((const s_u16 *)in)[i]);
}

static void cast_f64_f32_odd(void *restrict out, const void *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) ((s_f32 *)out)[i] = f64_to_f32_odd(((const s_f64 *)in)[i]);
}

/* From PAGES pages in turn: one stream of reads does not keep the memory busy. */
static void copy_past_caches(char *out, const char *x, int64_t nbytes)
{
    enum { PAGE = 4096, PAGES = 8 };
    for (; nbytes >= PAGES * PAGE; nbytes -= PAGES * PAGE, out += PAGES * PAGE, x += PAGES * PAGE)
        for (int at = 0; at < PAGE; at += 128)
            for (int page = 0; page < PAGES; page++)
                for (int i = page * PAGE + at; i < page * PAGE + at + 128; i += TL_VBYTES) v_stream(out + i, x + i);
    for (; nbytes > 0; nbytes -= TL_VBYTES, out += TL_VBYTES, x += TL_VBYTES) v_stream(out, x);
}

enum { dtype_bool = TL_BOOL, dtype_u8 = TL_U8, dtype_i8 = TL_I8, dtype_i16 = TL_I16, dtype_i32 = TL_I32, dtype_i64 = TL_I64, dtype_f32 = TL_F32, dtype_f64 = TL_F64 };
#define CAST(from, to, store, expression) [dtype_##from][dtype_##to] = cast_##from##_##to,
const tl_copy_kernels TL_NAME(copy_kernels) = {
    .cast = {
        CASTS
        [TL_F32][TL_BF16] = cast_f32_bf16,
        [TL_BF16][TL_F32] = cast_bf16_f32,
        [TL_F32][TL_F16] = cast_f32_f16,
        [TL_F16][TL_F32] = cast_f16_f32,
    },
    .stream = copy_past_caches,
    .f64_to_f32_odd = cast_f64_f32_odd,
};
#undef CAST
#undef CASTS
#undef CASTS_FROM_FLOAT
#undef CASTS_FROM_INT
#undef CASTS_FROM
