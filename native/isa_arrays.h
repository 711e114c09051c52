/* The families that work element by element and row by row. Included by isa.h, once per instruction set. */
#include "copy.inc.c"
#include "elementwise.inc.c"
#include "optim.inc.c"
#include "random.inc.c"
#include "recurrent.inc.c"
#include "reduce.inc.c"
#include "rows.inc.c"
