/* Everything Python calls. build.py reads the prototypes below the line of dashes, one on a line: `tl_tensor *`, `tl_node *` and `tl_run *`
 * cross as integers (uintptr_t), the rest as C types that cffi knows. A returned tl_tensor * is owned by the caller, a tl_node * is not,
 * unless a comment says otherwise. NULL or false: tl_status() says why. */
#ifndef TL_API_H
#define TL_API_H
#include "ops.h"
#include "tl.h"
typedef struct tl_run tl_run;
typedef struct tl_capture tl_capture;
enum { TL_RUN_DONE, TL_RUN_SIGNALS, TL_RUN_ERROR, TL_ASK_NODE, TL_ASK_ADD, TL_ASK_REDUCE, TL_ASK_LEAF };
/* ------------------------------------------------------------------------------------------------------------------------------- */
/* binding.c: handles, figures, modes */
int tl_status(void);
void tl_clear_status(void);
int64_t tl_detail(int i);
int tl_op_number(const char *name);
const char *tl_op_name(int op);
void tl_register_rule(int op, int input, uint64_t needs);
int64_t tl_drop(tl_tensor *t);
void tl_own(tl_tensor *t);
int64_t tl_drain_tokens(int64_t *out, int64_t capacity);
tl_tensor *tl_new(int dtype, int ndim, const int64_t *dims);
tl_tensor *tl_new_filled(int dtype, int ndim, const int64_t *dims, double value);
tl_tensor *tl_adopt(uintptr_t data, int64_t nbytes, int kind, int64_t token, bool readonly, int dtype, int ndim, const int64_t *dims, const int64_t *strides);
int tl_dtype_of(tl_tensor *t);
int tl_ndim(tl_tensor *t);
int64_t tl_numel(tl_tensor *t);
const int64_t *tl_dims(tl_tensor *t);
const int64_t *tl_strides(tl_tensor *t);
int64_t tl_offset(tl_tensor *t);
bool tl_is_contiguous(tl_tensor *t);
uintptr_t tl_address(tl_tensor *t);
uintptr_t tl_peek(tl_tensor *t);
uintptr_t tl_storage_address(tl_tensor *t);
int64_t tl_storage_bytes(tl_tensor *t);
int tl_storage_kind(tl_tensor *t);
int64_t tl_storage_token(tl_tensor *t);
bool tl_readonly(tl_tensor *t);
int64_t tl_version(tl_tensor *t);
int tl_write_line(tl_tensor *t);
double tl_item(tl_tensor *t);
int64_t tl_item_int(tl_tensor *t);
bool tl_requires_grad(tl_tensor *t);
void tl_set_requires_grad(tl_tensor *t, bool on);
bool tl_is_inference(tl_tensor *t);
bool tl_is_view_of(tl_tensor *t, tl_tensor *base);
tl_tensor *tl_base(tl_tensor *t);
tl_tensor *tl_grad_of(tl_tensor *t);
uintptr_t tl_grad_id(tl_tensor *t);
void tl_set_grad(tl_tensor *t, tl_tensor *g);
bool tl_set_grad_place(tl_tensor *leaf, tl_tensor *memory, bool puts_off, tl_tensor *factors);
tl_tensor *tl_take_factors(tl_tensor *leaf, uintptr_t *x);
bool tl_accumulate_grad_copy(tl_tensor *leaf, tl_tensor *g);
void tl_mark_number(tl_tensor *t);
bool tl_is_sole(const tl_tensor *t);
int tl_layout(int n, tl_tensor *const *ts, int64_t *out, int room);
int tl_hooks(tl_tensor *t);
void tl_set_hooks(tl_tensor *t, int key);
/* the leaf has hooks that see its gradient before it is accumulated */
void tl_show_grad(tl_tensor *leaf);
void tl_move_hooks(tl_tensor *to, tl_tensor *from);
bool tl_set_grad_enabled(bool on);
bool tl_is_grad_enabled(void);
bool tl_set_inference(bool on);
bool tl_is_inference_mode(void);
void tl_detach_inplace(tl_tensor *t);
/* capture.c: what a CUDA graph refers to */
tl_capture *tl_capture_begin(void);
void tl_capture_end(tl_capture *c);
void tl_capture_replayed(tl_capture *c);
void tl_capture_free(tl_capture *c);
bool tl_capture_wrote_host(tl_capture *c);
int tl_capture_host_line(tl_capture *c);
bool tl_capture_is_made(tl_tensor *t);
/* nodes */
tl_node *tl_node_of(tl_tensor *t);
int tl_out_nr(tl_tensor *t);
void tl_node_own(tl_node *n);
void tl_node_free(tl_node *n);
int tl_node_op(tl_node *n);
int tl_node_line(tl_node *n);
uint64_t tl_node_seq(tl_node *n);
int tl_node_inputs(tl_node *n);
int tl_node_outputs(tl_node *n);
int64_t tl_node_token(tl_node *n);
int64_t tl_node_int(tl_node *n, int i);
double tl_node_real(tl_node *n, int i);
int tl_node_hooks(tl_node *n);
void tl_node_set_hooks(tl_node *n, int key);
tl_node *tl_node_parent(tl_node *n, int i);
int tl_node_parent_nr(tl_node *n, int i);
tl_tensor *tl_node_leaf(tl_node *n, int i);
const tl_meta *tl_node_meta(tl_node *n, int i);
int tl_meta_dtype(const tl_meta *m);
int tl_meta_ndim(const tl_meta *m);
const int64_t *tl_meta_dims(const tl_meta *m);
tl_tensor *tl_node_saved(tl_node *n, int kind, int index);
tl_node *tl_record_python(int op, int n_in, tl_tensor *const *inputs, int n_out, tl_tensor *const *outs, uint64_t needs, int64_t token, int line);
/* dispatch.c: the recording operations */
int tl_set_autocast(int dtype);
int tl_autocast_dtype(void);
tl_tensor *tl_unary(int op, tl_tensor *x, int line);
tl_tensor *tl_binary(int op, tl_tensor *a, tl_tensor *b, int line);
tl_tensor *tl_binary_scalar(int op, tl_tensor *x, double s, int how, int line);
tl_tensor *tl_ternary(int op, tl_tensor *a, tl_tensor *b, tl_tensor *c, int line);
tl_tensor *tl_reduce(int op, tl_tensor *x, uint32_t mask, bool keepdim, int line);
tl_tensor *tl_cast(tl_tensor *x, int dtype, int line);
tl_tensor *tl_clone(tl_tensor *x, int line);
tl_tensor *tl_matmul(tl_tensor *a, tl_tensor *b, int line);
tl_tensor *tl_linear(tl_tensor *x, tl_tensor *w, tl_tensor *b, int line);
tl_tensor *tl_row(int op, tl_tensor *x, int64_t dim, int line);
tl_tensor *tl_attend(tl_tensor *q, tl_tensor *k, tl_tensor *v, tl_tensor *mask, double scale, bool causal, bool grouped, double dropout, uint64_t seed, uint64_t counter, int line);
tl_tensor *tl_embedding(tl_tensor *w, tl_tensor *index, int64_t padding, int how, int line);
tl_tensor *tl_dropout(tl_tensor *x, double p, uint64_t key, uint64_t counter, int line);
tl_tensor *tl_random(int kind, uint64_t key, uint64_t counter, int dtype, int ndim, const int64_t *dims, double a, double b);
bool tl_recurrent_layer(int kind, tl_tensor *const *in, int64_t batch, int line, uintptr_t *outs);
bool tl_tree_lstm(tl_tensor *const *in, bool shared, int line, uintptr_t *outs);
tl_tensor *tl_cat(tl_tensor *const *xs, int n, int dim, int line);
bool tl_assign(tl_tensor *x, tl_tensor *r, int line);
bool tl_assigning(tl_tensor *x, tl_tensor *r, tl_tensor *copy);
bool tl_unary_inplace(int op, tl_tensor *x, int line);
bool tl_binary_inplace(int op, tl_tensor *x, tl_tensor *b, int line);
bool tl_binary_scalar_inplace(int op, tl_tensor *x, double s, int how, int line);
bool tl_copy(tl_tensor *x, tl_tensor *src, int line);
bool tl_fill(tl_tensor *x, double value, int line);
bool tl_rewrite_history(tl_tensor *x, tl_tensor *r, int line);
tl_tensor *tl_writable(tl_tensor *x);
void tl_written(tl_tensor *x, int line);
/* finished.c */
tl_tensor *tl_linear_act(int act, tl_tensor *x, tl_tensor *w, tl_tensor *b, int line);
tl_tensor *tl_scaled_product(tl_tensor *x, tl_tensor *a, tl_tensor *b, double beta, double alpha, bool over_batch, int line);
/* convolution.c: geometry is stride, front, back, dilation of each dimension, then groups */
tl_tensor *tl_convolution(tl_tensor *x, tl_tensor *w, tl_tensor *b, const int64_t *geometry, int line);
tl_tensor *tl_conv_grad_input(tl_tensor *g, tl_tensor *w, const int64_t *size, const int64_t *geometry, int line);
tl_tensor *tl_conv_grad_weight(tl_tensor *g, tl_tensor *x, const int64_t *size, const int64_t *geometry, int line);
/* pool.c: *where receives a maximum's codes (a tl_tensor *, owned), else 0 */
tl_tensor *tl_pool(int op, tl_tensor *x, int n, const int64_t *spec, int line, uintptr_t *where);
/* sort.c: *second receives the places beside sorted values (a tl_tensor *, owned), else 0 */
tl_tensor *tl_sort(int op, tl_tensor *x, int64_t dim, int64_t k, bool descending, int line, uintptr_t *second);
tl_tensor *tl_scan(int op, tl_tensor *x, int64_t dim, int line);
/* norms.c */
tl_tensor *tl_layer_norm(tl_tensor *x, int dims, tl_tensor *w, tl_tensor *b, double eps, int line);
tl_tensor *tl_rms_norm(tl_tensor *x, int dims, tl_tensor *w, double eps, int line);
tl_tensor *tl_channel_norm(tl_tensor *x, tl_tensor *w, tl_tensor *b, int64_t groups, double eps, int line);
tl_tensor *tl_batch_norm(tl_tensor *x, tl_tensor *running_mean, tl_tensor *running_var, tl_tensor *w, tl_tensor *b, double momentum, double eps, int line);
tl_tensor *tl_fixed_norm(tl_tensor *x, tl_tensor *mean, tl_tensor *var, tl_tensor *w, tl_tensor *b, double eps, int line);
/* losses.c */
tl_tensor *tl_cross_entropy(tl_tensor *x, tl_tensor *target, tl_tensor *w, int64_t ignore, int reduction, double smoothing, int line);
tl_tensor *tl_nll(tl_tensor *x, tl_tensor *target, tl_tensor *w, int64_t ignore, int reduction, int line);
tl_tensor *tl_pair_loss(int op, tl_tensor *x, tl_tensor *target, tl_tensor *w, tl_tensor *pos_weight, double param, int reduction, int line);
/* crf.c, ctc.c */
tl_tensor *tl_crf_total(tl_tensor *x, tl_tensor *sizes, tl_tensor *start, tl_tensor *end, tl_tensor *transitions, int64_t batch, int line);
tl_tensor *tl_ctc_loss(tl_tensor *x, tl_tensor *targets, tl_tensor *inputs, tl_tensor *counts, int64_t blank, int reduction, bool zero_infinity, int line);
/* positions.c */
tl_tensor *tl_gather(tl_tensor *x, int64_t dim, tl_tensor *index, int line);
tl_tensor *tl_index_select(tl_tensor *x, int64_t dim, tl_tensor *index, int line);
tl_tensor *tl_scatter_add(tl_tensor *x, int64_t dim, tl_tensor *index, tl_tensor *src, int line);
bool tl_index_put(tl_tensor *x, int64_t dim, tl_tensor *index, tl_tensor *values, bool accumulate, int line);
tl_tensor *tl_nonzero(tl_tensor *x);
/* views.c */
tl_tensor *tl_detach(tl_tensor *x);
/* The same bytes, not recorded; declines another size. */
tl_tensor *tl_reinterpret(tl_tensor *x, int dtype);
tl_tensor *tl_reshape(tl_tensor *x, int ndim, const int64_t *dims, bool may_copy, int line);
tl_tensor *tl_permute(tl_tensor *x, int n, const int64_t *perm, int line);
tl_tensor *tl_transpose(tl_tensor *x, int64_t d0, int64_t d1, int line);
tl_tensor *tl_expand(tl_tensor *x, int ndim, const int64_t *dims, int line);
tl_tensor *tl_select(tl_tensor *x, int64_t dim, int64_t index, int line);
tl_tensor *tl_select_two(tl_tensor *x, int64_t i, int64_t j, int line);
tl_tensor *tl_slice(tl_tensor *x, int64_t dim, int64_t start, int64_t stop, int64_t step, int line);
int tl_split(tl_tensor *x, int64_t dim, int64_t size, int64_t chunks, int line, uintptr_t *outs, int room);
tl_tensor *tl_diagonal(tl_tensor *x, int64_t offset, int64_t d1, int64_t d2, int line);
tl_tensor *tl_unsqueeze(tl_tensor *x, int64_t dim, int line);
tl_tensor *tl_squeeze(tl_tensor *x, uint32_t mask, int line);
tl_tensor *tl_as_strided(tl_tensor *x, int ndim, const int64_t *dims, const int64_t *strides, int64_t offset, int line);
/* engine.c */
tl_run *tl_run_new(bool retain, bool create_graph);
void tl_run_free(tl_run *r);
bool tl_run_capture(tl_run *r, tl_tensor *t);
tl_tensor *tl_run_captured(tl_run *r, int k);
bool tl_run_count(tl_run *r, tl_tensor *const *roots, int n_roots);
int tl_run_seed(tl_run *r, tl_tensor *t, tl_tensor *g);
int tl_run_next(tl_run *r);
tl_node *tl_run_node(tl_run *r);
tl_tensor *tl_run_grad(tl_run *r, int j);
tl_tensor *tl_run_leaf(tl_run *r);
const tl_meta *tl_run_meta(tl_run *r);
bool tl_run_wants(tl_run *r, int i);
bool tl_run_hooks_pending(tl_run *r);
void tl_run_set_grad(tl_run *r, int j, tl_tensor *g);
void tl_run_hooked(tl_run *r);
void tl_run_give(tl_run *r, int i, tl_tensor *g);
void tl_run_gave(tl_run *r);
void tl_run_answer(tl_run *r, tl_tensor *g);
/* optim.c: false where a tensor is not what the kernels serve (then nothing was changed) */
bool tl_sgd(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *buffers, double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize, int line);
bool tl_adam(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *averages, tl_tensor *const *squares, tl_tensor *const *largest, tl_tensor *const *steps, tl_tensor *const *products, int kind, double lr, double beta1, double beta2, double eps, double weight_decay, double momentum_decay, bool decoupled, bool maximize, int line);
bool tl_rms(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *squares, tl_tensor *const *seconds, tl_tensor *const *buffers, tl_tensor *const *steps, double lr, double keep, double fresh, double eps, double weight_decay, double momentum, double lr_decay, bool ratio, bool maximize, int line);
bool tl_lion(int n, tl_tensor *const *params, tl_tensor *const *grads, tl_tensor *const *averages, double lr, double beta1, double beta2, double weight_decay, bool maximize, int line);
void tl_clear_grads(int n, tl_tensor *const *params);
void tl_describe(int n, tl_tensor *const *xs, bool grads, int64_t *out);
void tl_all_written(int n, tl_tensor *const *xs, int line);
bool tl_sum_of_squares(int n, tl_tensor *const *xs, double *out);
bool tl_scale(int n, tl_tensor *const *xs, double factor, int line);
/* sums.c: parts[a] += parts[b] for each pair (a, b) in order, in copies; then every out is scale times parts[0]. Outs may be parts. False where
 * a tensor is not what the kernels serve (then nothing was changed) */
bool tl_sum_pairs(int n_parts, tl_tensor *const *parts, int n_pairs, const int32_t *pairs, int n_outs, tl_tensor *const *outs, double scale, int line);
/* segments.c: every out = the products g[i]^T x[i], times scales[i], added as tl_mm_segments says */
bool tl_sum_products(int n_outs, tl_tensor *const *outs, int n, tl_tensor *const *g, tl_tensor *const *x, const int32_t *joins, const double *scales, int line);
/* bags.c: edges are where each bag of positions begins, and the end of the last */
tl_tensor *tl_bag(tl_tensor *w, tl_tensor *index, tl_tensor *edges, tl_tensor *factors, bool mean, int64_t padding, int how, int line);
tl_tensor *tl_bag_max(tl_tensor *w, tl_tensor *index, tl_tensor *edges, int64_t padding, uintptr_t *which);
/* sparse.c: rows of values (n, D) by their ids (n); steps return false where a tensor is not what the kernels serve (then nothing was changed) */
tl_tensor *tl_coalesce(tl_tensor *index, tl_tensor *values, int64_t limit, uintptr_t *ids);
bool tl_sgd_rows(tl_tensor *param, tl_tensor *index, tl_tensor *values, double lr, int line);
bool tl_adam_rows(tl_tensor *param, tl_tensor *index, tl_tensor *values, tl_tensor *average, tl_tensor *square, double step, double lr, double beta1, double beta2, double eps, int line);
bool tl_adagrad_rows(tl_tensor *param, tl_tensor *index, tl_tensor *values, tl_tensor *sum, double lr, double eps, int line);
/* grid.c */
tl_tensor *tl_grid_sample(tl_tensor *x, tl_tensor *grid, int mode, int padding, bool align, int line);
/* resample.c: not recorded */
tl_tensor *tl_resample(tl_tensor *x, int dim, int64_t m, const int64_t *starts, const int64_t *index, const void *weight);
tl_tensor *tl_constant_pad(tl_tensor *x, const int64_t *pads, double value);
tl_tensor *tl_border_pad(tl_tensor *x, const int64_t *dims, const int64_t *runs, bool back);
/* threads.c, alloc.c, isa.c */
int tl_get_num_threads(void);
void tl_set_num_threads(int n);
uint64_t tl_shared_loops(void);
bool tl_set_flush_denormal(bool on);
int64_t tl_memory_figure(int i);
void tl_memory_reset_peak(void);
void tl_memory_set_cap(int64_t bytes);
void tl_empty_cache(void);
int tl_isa_select(const char *name);
const char *tl_isa_name(void);
const char *tl_isa_available(void);
/* bench.c */
double tl_bench_triad(int64_t n, int reps);
double tl_bench_fma(int reps);
#endif
