#if defined(__x86_64__)
#define TL_ISA avx2
#define TL_VBYTES 32
#include "isa.h"
#else
typedef int tl_isa_avx2_is_for_x86; /* ISO C wants a declaration in every file */
#endif
