#if defined(__x86_64__)
#define TL_ISA avx512 /* F, DQ, BW, VL: Skylake-SP and later, Zen 4 and later */
#define TL_VBYTES 64
#include "isa.h"
#else
typedef int tl_isa_avx512_is_for_x86; /* ISO C wants a declaration in every file */
#endif
