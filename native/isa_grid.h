/* Images and sequences: pooling, normalisation over channels, resampling, scans, sorting. Included by isa.h, once per instruction set. */
#include "ctc.inc.c"
#include "direct.inc.c"
#include "grid.inc.c"
#include "resample.inc.c"
#include "pool.inc.c"
#include "scan.inc.c"
#include "sort.inc.c"
#include "norm.inc.c"
