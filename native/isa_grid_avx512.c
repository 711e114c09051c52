#define TL_ISA avx512 /* F, DQ, BW, VL: Skylake-SP and later, Zen 4 and later. Compiled on x86-64 only */
#define TL_VBYTES 64
#define TL_FAMILIES "isa_grid.h"
#include "isa.h"
