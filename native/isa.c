/* Which instruction set runs: chosen once at load, the best that CPU and operating system allow. TENSORLIB_ISA=base|avx2|avx512 asks for
 * another. Where that one is not available the best stays installed, and the binding, which can word it, raises (tl_isa_name differs). */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

const tl_attention_kernels *tl_attention_k;
const tl_copy_kernels *tl_copy_k;
const tl_crf_kernels *tl_crf_k;
const tl_ctc_kernels *tl_ctc_k;
const tl_direct_kernels *tl_direct_k;
const tl_ew_kernels *tl_ew_k;
const tl_half_kernels *tl_half_k;
const tl_grid_kernels *tl_grid_k;
const tl_mm_kernels *tl_mm_k;
const tl_norm_kernels *tl_norm_k;
const tl_optim_kernels *tl_optim_k;
const tl_product_kernels *tl_product_k;
const tl_pool_kernels *tl_pool_k;
const tl_random_kernels *tl_random_k;
const tl_recurrent_kernels *tl_recurrent_k;
const tl_reduce_kernels *tl_reduce_k;
const tl_resample_kernels *tl_resample_k;
const tl_rows_kernels *tl_rows_k;
const tl_scan_kernels *tl_scan_k;
const tl_slide_kernels *tl_slide_k;
const tl_sort_kernels *tl_sort_k;
const tl_wino_kernels *tl_wino_k;

enum { BASE, AVX2, AVX512, N_LEVELS };
static const char *const level_names[N_LEVELS] = {"base", "avx2", "avx512"};
static int installed = BASE;

#if defined(__x86_64__)
#define PICK(table, level) ((level) == AVX512 ? &table##_avx512 : (level) == AVX2 ? &table##_avx2 : &table##_base)
static int best_level(void)
{
    __builtin_cpu_init(); /* its answers include what the operating system saves on a context switch */
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl");
    return avx2 && avx512 ? AVX512 : avx2 ? AVX2 : BASE;
}
#else
#define PICK(table, level) (&table##_base)
static int best_level(void) { return BASE; }
#endif

static void install(int level)
{
    installed = level;
    tl_attention_k = PICK(attention_kernels, level);
    tl_copy_k = PICK(copy_kernels, level);
    tl_crf_k = PICK(crf_kernels, level);
    tl_ctc_k = PICK(ctc_kernels, level);
    tl_direct_k = PICK(direct_kernels, level);
    tl_ew_k = PICK(ew_kernels, level);
    tl_half_k = PICK(half_kernels, level);
    tl_grid_k = PICK(grid_kernels, level);
    tl_mm_k = PICK(mm_kernels, level);
    tl_norm_k = PICK(norm_kernels, level);
    tl_optim_k = PICK(optim_kernels, level);
    tl_product_k = PICK(product_kernels, level);
    tl_pool_k = PICK(pool_kernels, level);
    tl_random_k = PICK(random_kernels, level);
    tl_recurrent_k = PICK(recurrent_kernels, level);
    tl_reduce_k = PICK(reduce_kernels, level);
    tl_resample_k = PICK(resample_kernels, level);
    tl_rows_k = PICK(rows_kernels, level);
    tl_scan_k = PICK(scan_kernels, level);
    tl_slide_k = PICK(slide_kernels, level);
    tl_sort_k = PICK(sort_kernels, level);
    tl_wino_k = PICK(wino_kernels, level);
}

int tl_isa_select(const char *name)
{
    for (int level = best_level(); level >= BASE; level--)
        if (!strcmp(name, level_names[level])) {
            install(level);
            return 0;
        }
    return -1;
}

const char *tl_isa_name(void) { return level_names[installed]; }

const char *tl_isa_available(void)
{
    static const char *const lists[N_LEVELS] = {"base", "base,avx2", "base,avx2,avx512"};
    return lists[best_level()];
}

__attribute__((constructor)) static void choose_at_load(void)
{
    const char *wanted = getenv("TENSORLIB_ISA");
    if (!wanted || tl_isa_select(wanted) < 0) install(best_level());
}
