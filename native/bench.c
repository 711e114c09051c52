/* The yardsticks of tests/benchmarks, measured in the same run as what is compared with them: of memory, a STREAM-like triad, a[i] = b[i] +
 * s * c[i]; of arithmetic, multiply-adds in registers. */
#include "api.h"
#include "kernels.h"
#include <time.h>
#if defined(__x86_64__)
#include <emmintrin.h> /* non-temporal stores have no spelling that gcc and clang share */
#endif

enum { GRAIN = 1 << 16 };
typedef struct { float *a; const float *b, *c; bool streaming; } triad_args;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void triad(void *arg, int64_t begin, int64_t end)
{
    const triad_args *t = arg;
    float *restrict a = t->a;
    const float *restrict b = t->b, *restrict c = t->c;
    int64_t i = begin;
#if defined(__x86_64__)
    if (t->streaming) {
        __m128 s = _mm_set1_ps(3.0f);
        for (; i + 4 <= end; i += 4) _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(s, _mm_load_ps(c + i))));
        _mm_sfence();
    }
#endif
    for (; i < end; i++) a[i] = b[i] + 3.0f * c[i];
}

/* Bytes per second (12 per element, as STREAM counts them) of the best of `reps` passes over float32 arrays of n elements, by plain and by
 * non-temporal stores. Runs on as many threads as the kernels do. 0 where memory runs out. The caller holds the GIL and keeps it. */
double tl_bench_triad(int64_t n, int reps)
{
    size_t granted[3] = {0}, nbytes = (size_t)n * sizeof(float);
    float *x[3] = {NULL};
    double best = 0;
    for (int i = 0; i < 3; i++)
        if (!(x[i] = tl_alloc(nbytes, &granted[i]))) goto done;
    for (int i = 0; i < 3; i++)
        for (int64_t k = 0; k < n; k++) x[i][k] = (float)i; /* touches every page before the clock runs */
    for (int rep = 0; rep < 2 * reps; rep++) {
        triad_args args = {x[0], x[1], x[2], rep % 2};
        double start = seconds();
        tl_parallel_for(triad, &args, n, GRAIN);
        double rate = 3.0 * (double)nbytes / (seconds() - start);
        if (rate > best) best = rate;
    }
done:
    for (int i = 0; i < 3; i++)
        if (x[i]) tl_release(x[i], granted[i]);
    return best;
}

enum { FMA_STEPS = 100000 };

/* Operations per second (two per multiply-add) in float32 of one thread with the instruction set in use: the best of `reps`. */
double tl_bench_fma(int reps)
{
    double best = 0;
    for (int rep = 0; rep < reps; rep++) {
        float io[32] = {0};
        double start = seconds(), operations = tl_mm_k->peak(FMA_STEPS, io), rate = operations / (seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}
