#include "vec.cuh"
/* native/random.c on a GPU: block counter + j of Philox 4x32-10 makes words 4j to 4j + 3, a thread makes a block's elements, and what they are made
 * into is the same to the bit. T: the dtype. `base`: NULL, or two numbers to be added to counter and key (see capture.py). */
typedef acc_t<T> S;

struct words { u32 w[4]; };

static __device__ inline words philox(u64 key, u64 number)
{
    u32 c0 = (u32)number, c1 = (u32)(number >> 32), c2 = 0, c3 = 0, k0 = (u32)key, k1 = (u32)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c1 = (u32)p1;
        c3 = (u32)p0;
    }
    return words{{c0, c1, c2, c3}};
}
static __device__ inline words block_of(i64 key, i64 counter, const i64 *base, i64 j)
{
    return philox((u64)key + (base ? (u64)base[1] : 0), (u64)counter + (base ? (u64)base[0] : 0) + (u64)j);
}
static __device__ inline u64 word64(words b, int i) { return (u64)b.w[2 * i + 1] << 32 | b.w[2 * i]; }
static __device__ inline float unit_f(u32 w) { return (float)(int)(w >> 8) * 0x1p-24f; }
static __device__ inline double unit_d(u64 w) { return (double)(i64)(w >> 11) * 0x1p-53; }

/* How many elements a block makes, and the first n of them from `at` on. */
static constexpr int EACH = sizeof(S) == 8 ? 2 : 4;
template <class E, int N> struct alignas(sizeof(E) * N) several { E at[N]; };
template <class E, int N> static __device__ inline void keep(E *out, i64 at, i64 n, const several<E, N> &made)
{
    if (n - at >= N) *(several<E, N> *)(out + at) = made;
    else
        for (int i = 0; i < n - at; i++) out[at + i] = made.at[i];
}

extern "C" __global__ void uniform(T *out, i64 n, i64 key, i64 counter, const i64 *base, double low, double width, double top)
{
    const S l = (S)low, s = (S)width, t = (S)top;
    for (i64 j = first_index(); j * EACH < n; j += index_step()) {
        words b = block_of(key, counter, base, j);
        several<T, EACH> made;
        for (int i = 0; i < EACH; i++) {
            S x;
            if constexpr (EACH == 2) x = l + s * unit_d(word64(b, i));
            else x = l + s * unit_f(b.w[i]);
            made.at[i] = store<T>(x < t ? x : t);
        }
        keep(out, j * EACH, n, made);
    }
}

extern "C" __global__ void normal(T *out, i64 n, i64 key, i64 counter, const i64 *base, double mean, double std)
{
    for (i64 j = first_index(); j * EACH < n; j += index_step()) {
        words b = block_of(key, counter, base, j);
        several<T, EACH> made;
        if constexpr (EACH == 2) {
            vd u = unit_d(word64(b, 0)) + 0x1p-53, turn = (double)((i64)word64(b, 1) >> 11) * 0x1p-53, s, c;
            vd_sincos_turns(turn, &s, &c);
            vd r = vd_sqrt(-2 * vd_log(u)) * std;
            made.at[0] = store<T>((S)(r * c + mean).lane), made.at[1] = store<T>((S)(r * s + mean).lane);
        } else {
            for (int i = 0; i < EACH; i += 2) {
                vf u = (float)b.w[i] * 0x1p-32f + 0x1p-33f, turn = (float)((int)b.w[i + 1] >> 8) * 0x1p-24f, s, c;
                vf_sincos_turns(turn, &s, &c);
                vf r = vf_sqrt(-2 * vf_log(u)) * (float)std;
                made.at[i] = store<T>((S)(r * c + (float)mean).lane), made.at[i + 1] = store<T>((S)(r * s + (float)mean).lane);
            }
        }
        keep(out, j * EACH, n, made);
    }
}

extern "C" __global__ void bernoulli(T *out, i64 n, i64 key, i64 counter, const i64 *base, double p)
{
    for (i64 j = first_index(); j * 4 < n; j += index_step()) {
        words b = block_of(key, counter, base, j);
        several<T, 4> made;
        for (int i = 0; i < 4; i++) made.at[i] = store<T>((S)(unit_f(b.w[i]) < (float)p));
        keep(out, j * 4, n, made);
    }
}

/* low + the high half of word * span; span 0 is 2^64 */
extern "C" __global__ void randint(i64 *out, i64 n, i64 key, i64 counter, const i64 *base, i64 low, i64 span)
{
    for (i64 j = first_index(); j * 2 < n; j += index_step()) {
        words b = block_of(key, counter, base, j);
        several<i64, 2> made;
        for (int i = 0; i < 2; i++) {
            u64 w = word64(b, i), s = (u64)span, wl = (u32)w, wh = w >> 32, sl = (u32)s, sh = s >> 32;
            u64 middle = wh * sl + (wl * sl >> 32), high = wh * sh + (middle >> 32) + ((u32)middle + wl * sh >> 32);
            made.at[i] = (i64)((u64)low + (s ? high : w));
        }
        keep(out, j * 2, n, made);
    }
}

/* out = x * scale where the draw is at least p, else 0; x contiguous, and aligned as out is where `aligned` */
extern "C" __global__ void dropout(T *out, const T *x, i64 n, i64 aligned, i64 key, i64 counter, const i64 *base, double p, double scale)
{
    for (i64 j = first_index(); j * 4 < n; j += index_step()) {
        words b = block_of(key, counter, base, j);
        several<T, 4> given;
        if (aligned && n - j * 4 >= 4) given = *(const several<T, 4> *)(x + j * 4);
        else
            for (int i = 0; i < 4; i++)
                if (j * 4 + i < n) given.at[i] = x[j * 4 + i];
        for (int i = 0; i < 4; i++)
            if (j * 4 + i < n) given.at[i] = store<T>(unit_f(b.w[i]) >= (float)p ? load(given.at[i]) * (S)scale : (S)0);
        keep(out, j * 4, n, given);
    }
}
