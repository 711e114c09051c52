/* The gates of recurrent layers and of tree cells for one instruction set: what lies between the products of a step. Contracts in kernels.h, the
 * loops in recurrent_type.inc.c and tree_type.inc.c, the drivers in recurrent.c and trees.c. */
#define RT_(name, type) recurrent_##name##_##type

#define T float
#define VN(name) vf_##name
#define RT(name) RT_(name, f32)
enum { RT(LANES) = VF_LANES };
#include "recurrent_type.inc.c"
#include "tree_type.inc.c"
#undef T
#undef VN
#undef RT

#define T double
#define VN(name) vd_##name
#define RT(name) RT_(name, f64)
enum { RT(LANES) = VD_LANES };
#include "recurrent_type.inc.c"
#include "tree_type.inc.c"
#undef T
#undef VN
#undef RT

#define BOTH(name) {RT_(name, f32), RT_(name, f64)}
const tl_recurrent_kernels TL_NAME(recurrent_kernels) = {
    .forward = {[TL_RNN_TANH] = BOTH(tanh_forward), [TL_RNN_RELU] = BOTH(relu_forward), [TL_GRU] = BOTH(gru_forward), [TL_LSTM] = BOTH(lstm_forward)},
    .backward = {[TL_RNN_TANH] = BOTH(tanh_backward), [TL_RNN_RELU] = BOTH(relu_backward), [TL_GRU] = BOTH(gru_backward),
                 [TL_LSTM] = BOTH(lstm_backward)},
    .tree_forward = BOTH(tree_forward),
    .tree_backward = BOTH(tree_backward),
};
#undef BOTH
#undef RT_
