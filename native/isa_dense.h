/* The matrix engine, and what is built from its tiles: each file may use what stands before it. Included by isa.h, once per instruction set. */
#include "matmul.inc.c"
#include "half.inc.c"
#include "attention.inc.c"
#include "winograd.inc.c"
#include "product.inc.c"
#include "slide.inc.c"
