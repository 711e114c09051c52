#define TL_ISA avx2 /* and FMA, F16C: Haswell and later, Zen and later. Compiled on x86-64 only */
#define TL_VBYTES 32
#define TL_FAMILIES "isa_arrays.h"
#include "isa.h"
