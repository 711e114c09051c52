/* The body of every isa_GROUP_NAME.c: one copy of a group of kernel families for one instruction set.
 *
 * Such a file defines TL_ISA (base | avx2 | avx512), TL_VBYTES (16 | 32 | 64: the width of a vector) and TL_FAMILIES (the group's list), and
 * includes this file, which sets the compiler's target for all that follows and includes vec.h and the list. A family is one NAME.inc.c that
 * ends in one exported table, `const tl_NAME_kernels TL_NAME(NAME_kernels)`, declared in kernels.h; everything else in it is static.
 * Adding a family: a struct and a line in kernels.h, a line in isa_arrays.h, isa_dense.h or isa_grid.h, a line in isa.c.
 *
 * gcc takes the target from `#pragma GCC target`, which clang ignores; clang takes it from `#pragma clang attribute push`. */
#if !defined(TL_ISA) || !defined(TL_VBYTES) || !defined(TL_FAMILIES)
#error "include isa.h from an isa_*.c that defines TL_ISA, TL_VBYTES and TL_FAMILIES"
#endif

/* Everything from outside comes before the target is set: system headers must not be compiled for it. */
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h> /* vec.h: the few operations that vector extensions lack */
#endif
#include "kernels.h"
#include "ops.h"
#include "tl.h"

#define TL_PASTE_(a, b) a##_##b
#define TL_PASTE(a, b) TL_PASTE_(a, b)
#define TL_NAME(x) TL_PASTE(x, TL_ISA) /* the exported name of x for this instruction set: x_avx2 */

#if TL_VBYTES == 64
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#endif
#elif TL_VBYTES == 32
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#endif

#include "vec.h"

#include TL_FAMILIES

#if defined(__clang__) && TL_VBYTES > 16
#pragma clang attribute pop
#endif
