/* Random numbers: Philox 4x32-10 (Salmon et al. 2011), and what is made of its words. random.c says which word goes to which element. */

/* out[4 i + lane] = lane of block `block + i`. */
static void random_words(uint32_t *restrict out, uint64_t key, uint64_t block, int64_t n_blocks)
{
    for (int64_t i = 0; i < n_blocks; i++) {
        uint64_t number = block + (uint64_t)i;
        uint32_t c0 = (uint32_t)number, c1 = (uint32_t)(number >> 32), c2 = 0, c3 = 0, k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c1 = (uint32_t)p1;
            c3 = (uint32_t)p0;
        }
        out[4 * i] = c0, out[4 * i + 1] = c1, out[4 * i + 2] = c2, out[4 * i + 3] = c3;
    }
}

/* From here on: n elements, two words each for doubles and int64. */
TL_INLINE uint64_t word64(const uint32_t *w, int64_t i) { return (uint64_t)w[2 * i + 1] << 32 | w[2 * i]; }

/* A multiple of 2^-24 or 2^-53 in [0, 1). */
TL_INLINE float unit_f32(uint32_t w) { return (float)(int32_t)(w >> 8) * 0x1p-24f; }
TL_INLINE double unit_f64(uint64_t w) { return (double)(int64_t)(w >> 11) * 0x1p-53; }

/* low + width * unit, at most top. */
static void uniform_f32(void *out, const uint32_t *w, int64_t n, double low, double width, double top)
{
    float *o = out, l = (float)low, s = (float)width, t = (float)top;
    for (int64_t i = 0; i < n; i++) {
        float x = l + s * unit_f32(w[i]);
        o[i] = x < t ? x : t;
    }
}

static void uniform_f64(void *out, const uint32_t *w, int64_t n, double low, double width, double top)
{
    double *o = out;
    for (int64_t i = 0; i < n; i++) {
        double x = low + width * unit_f64(word64(w, i));
        o[i] = x < top ? x : top;
    }
}

/* Box and Muller: words 2i and 2i + 1 make elements 2i = r cos and 2i + 1 = r sin, where r = sqrt(-2 log u), u = (word 2i + 1/2) / 2^32,
 * and the angle is word 2i + 1 as a signed fraction of the turn. n is even: the caller pads. */
static void normal_f32(void *out, const uint32_t *w, int64_t n, double mean, double std)
{
    float *o = out;
    for (int64_t i = 0; i < n; i += 2 * VF_LANES) {
        int64_t m = n - i < 2 * VF_LANES ? (n - i) / 2 : VF_LANES;
        vf u = vf_splat(1), turn = {0}, s, c;
        for (int j = 0; j < m; j++) {
            u[j] = (float)w[i + 2 * j] * 0x1p-32f + 0x1p-33f;
            turn[j] = (float)((int32_t)w[i + 2 * j + 1] >> 8) * 0x1p-24f;
        }
        vf_sincos_turns(turn, &s, &c);
        vf r = vf_sqrt(-2 * vf_log(u)) * (float)std;
        c = r * c + (float)mean, s = r * s + (float)mean;
        for (int j = 0; j < m; j++) o[i + 2 * j] = c[j], o[i + 2 * j + 1] = s[j];
    }
}

/* The same over 64-bit words: u = (word >> 11, plus 1) / 2^53. */
static void normal_f64(void *out, const uint32_t *w, int64_t n, double mean, double std)
{
    double *o = out;
    for (int64_t i = 0; i < n; i += 2 * VD_LANES) {
        int64_t m = n - i < 2 * VD_LANES ? (n - i) / 2 : VD_LANES;
        vd u = vd_splat(1), turn = {0}, s, c;
        for (int j = 0; j < m; j++) {
            u[j] = unit_f64(word64(w, i + 2 * j)) + 0x1p-53;
            turn[j] = (double)((int64_t)word64(w, i + 2 * j + 1) >> 11) * 0x1p-53;
        }
        vd_sincos_turns(turn, &s, &c);
        vd r = vd_sqrt(-2 * vd_log(u)) * std;
        c = r * c + mean, s = r * s + mean;
        for (int j = 0; j < m; j++) o[i + 2 * j] = c[j], o[i + 2 * j + 1] = s[j];
    }
}

static void dropout_f32(void *out, const void *x, const uint32_t *w, int64_t n, float p, double scale)
{
    float *o = out, s = (float)scale;
    const float *in = x;
    for (int64_t i = 0; i < n; i++) o[i] = unit_f32(w[i]) >= p ? in[i] * s : 0;
}

static void dropout_f64(void *out, const void *x, const uint32_t *w, int64_t n, float p, double scale)
{
    double *o = out;
    const double *in = x;
    for (int64_t i = 0; i < n; i++) o[i] = unit_f32(w[i]) >= p ? in[i] * scale : 0;
}

const tl_random_kernels TL_NAME(random_kernels) = {
    .words = random_words,
    .uniform = {uniform_f32, uniform_f64},
    .normal = {normal_f32, normal_f64},
    .dropout = {dropout_f32, dropout_f64},
};
