/* The numbers of the operations C knows, generated from the tables: EW* from elementwise.def, the others from structured.def. */
#ifndef TL_OPS_H
#define TL_OPS_H
enum tl_op {
#define EW1(name, ...) TL_OP_##name,
#define EW2(name, ...) TL_OP_##name,
#define EW3(name, ...) TL_OP_##name,
#define REDUCE(name, ...) TL_OP_##name,
#define VIEW(name, ...) TL_OP_##name,
#define OP(name, ...) TL_OP_##name,
#include "elementwise.def"
#include "structured.def"
#undef EW1
#undef EW2
#undef EW3
#undef REDUCE
#undef VIEW
#undef OP
    TL_N_OPS
};
#endif
