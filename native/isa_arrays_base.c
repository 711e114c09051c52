/* What every machine runs: 16-byte vectors, no target beyond the compiler's default (SSE2 on x86-64, NEON on aarch64). */
#define TL_ISA base
#define TL_VBYTES 16
#define TL_FAMILIES "isa_arrays.h"
#include "isa.h"
