/* The kernel tables: what each family offers per instruction set, and the pointer through which its driver calls. isa.c sets the pointers. */
#ifndef TL_KERNELS_H
#define TL_KERNELS_H
#include "ops.h"
#include "tl.h"

/* Asks for a row that will be read TL_AHEAD rows later: rows far apart are waited for one by one otherwise. Inlined always, and so must be
 * its callers that do nothing else: gcc takes a function without other effects for one that does nothing, and drops the call. */
enum { TL_AHEAD = 8, TL_AHEAD_BYTES = 512 /* of a row: the processor sees from there what comes */ };
#define TL_FETCHES static inline __attribute__((always_inline)) void
TL_FETCHES tl_fetch(const void *row, int64_t bytes)
{
    for (int64_t b = 0; b < bytes && b < TL_AHEAD_BYTES; b += TL_ALIGN) __builtin_prefetch((const char *)row + b);
}

/* ---- isa.c ---- */
int tl_isa_select(const char *name);      /* "base", "avx2", "avx512": 0, or -1 where unknown or unavailable. Not while kernels run */
const char *tl_isa_name(void);            /* the one in use */
const char *tl_isa_available(void);       /* comma-separated, weakest first */

/* One line per family: its tables, one per instruction set, and the pointer to the one in use. */
#define TL_KERNELS(type, table, in_use)                    \
    extern const type table##_base, table##_avx2, table##_avx512; \
    extern const type *in_use

/* ---- elementwise.inc.c, driven by elementwise.c ---- */
enum { /* elementwise operations have the numbers 0 .. TL_N_EW - 1 */
#define EW1(...) +1
#define EW2(...) +1
#define EW3(...) +1
    TL_N_EW = 0
#include "elementwise.def"
#undef EW1
#undef EW2
#undef EW3
};
/* out[i] = f(in[0][i], in[1][i], ...) for n elements, a multiple of the lanes that a vector of the widest operand has (elementwise.c pads the
 * rest); step[k] is 1 (contiguous) or 0 (one value for all i). out may be exactly one of the in[] (with step 1). All have the kernel's dtype, except: tests and comparisons write bool, `where` reads bool first. A gradient reads
 * (inputs..., out, g); the pointers it has no use for must still be readable. */
typedef void (*tl_ew_fn)(void *out, const void *const *in, int64_t n, const uint8_t *step);
#define TL_EW_MAX_IN 5
typedef struct {
    tl_ew_fn forward[TL_N_EW][TL_N_DTYPES];                     /* NULL: no kernel for that dtype */
    tl_ew_fn grad[TL_N_EW][3][2];                               /* by input, then float32 | float64; NULL: no C gradient */
    int vector_bytes;
    void (*stream)(void *dst, const void *src, int64_t nbytes); /* copy past the caches; dst 64-byte aligned, nbytes a multiple of 64 */
} tl_ew_kernels;
TL_KERNELS(tl_ew_kernels, ew_kernels, tl_ew_k);
/* elementwise.c, beside what tl.h declares */
void arr_add_runs(int dtype, void *out, const void *a, const void *b, int64_t n); /* out[i] = a[i] + b[i], in the caller's thread; out may be either */
void arr_add_run(int dtype, void *sum, const void *x, int64_t n);                 /* sum[i] += x[i] */
bool arr_has_kernel(int op, int dtype);                                                        /* dtype of the inputs (where: of the chosen) */
tl_tensor *arr_binary_scalar(int op, const tl_tensor *x, double s, bool reversed);             /* s in x's dtype; declines what that can not hold */
bool arr_binary_scalar_into(int op, tl_tensor *out, const tl_tensor *x, double s, bool reversed);
/* The gradient of one input, of g's shape (broadcasting is not undone); operands that the row's `saves` does not name may be NULL. May be g itself. */
tl_tensor *arr_unary_grad(int op, const tl_tensor *x, const tl_tensor *out, const tl_tensor *g);
tl_tensor *arr_binary_grad(int op, int which, const tl_tensor *a, const tl_tensor *b, const tl_tensor *out, const tl_tensor *g);
tl_tensor *arr_ternary_grad(int op, int which, const tl_tensor *a, const tl_tensor *b, const tl_tensor *c, const tl_tensor *out,
                            const tl_tensor *g);

/* ---- reduce_type.inc.c, driven by reduce.c ---- */
enum { TL_RED_SUM, TL_RED_PROD, TL_RED_MAX, TL_RED_MIN, TL_RED_SQDEV };  /* SQDEV: the sum of (x - m)^2, floats only */
enum {
    TL_RED_LANE_BYTES = 256, /* a row is summed in this many bytes' worth of lanes, on every instruction set */
    TL_RED_STREAMS = 8       /* a column in this many accumulators */
};
/* out[r] = the reduction of x[r][0..n), n >= 1; strides in elements. m (SQDEV): per row, NULL for zeros. */
typedef struct { void *out; int64_t out_stride; const void *x; int64_t rows, x_stride, n; const void *m; int64_t m_stride; } tl_reduce_rows;
/* acc[r % TL_RED_STREAMS][c] joins x[r][c]. Row r begins at x + offsets[r], or at x + r * x_stride where offsets is NULL. m: per column. */
typedef struct { void *acc; const void *x; const int64_t *offsets; int64_t x_stride, rows, width; const void *m; } tl_reduce_columns;
/* Joins parts[0..n)[width] pairwise into parts[0]. Of 2^k parts at a time or all at once: the same tree. */
typedef struct { void *parts; int64_t n, width; } tl_reduce_tree;
typedef struct {
    void (*rows)(int op, const tl_reduce_rows *a);
    void (*columns)(int op, const tl_reduce_columns *a);
    void (*fill)(int op, void *out, int64_t n);              /* with the neutral element */
    void (*tree)(int op, const tl_reduce_tree *a);
    /* Replaces *best and *index where x[0..n) holds a better value (any value while *index < 0): its first place, plus base. MAX or MIN. */
    void (*arg)(int op, const void *x, int64_t n, void *best, int64_t *index, int64_t base);
} tl_reduce_type;
typedef struct { tl_reduce_type f32, f64, i64; } tl_reduce_kernels;
TL_KERNELS(tl_reduce_kernels, reduce_kernels, tl_reduce_k);

/* ---- matmul.inc.c, driven by matmul.c ---- */
enum { TL_MM_KC = 384, TL_MM_DOT = 4096 };   /* the longest block over K of a product; of a dot product */
/* K is cut into the fewest blocks of at most TL_MM_KC, of this length each (the last may be shorter). Part of the results: every sum runs
 * block by block. */
static inline int64_t tl_mm_block(int64_t k)
{
    int64_t blocks = (k + TL_MM_KC - 1) / TL_MM_KC;
    return k ? ((k + blocks - 1) / blocks + 7) / 8 * 8 : 8;
}
/* What becomes of each sum: act(alpha sum + beta added). */
enum { TL_MM_AS_IT_IS = -1 };
typedef struct {
    const void *added;                       /* (m, n), or NULL; its strides: any value */
    void *out;                               /* where results go, laid out as C, which then gets what act is taken of; NULL: C */
    int64_t added_ms, added_ns;
    double alpha, beta;
    int act;                                 /* TL_OP_relu, _gelu, _gelu_tanh, _silu, _tanh or _sigmoid; TL_MM_AS_IT_IS: none */
} tl_mm_finish;
/* C (m, n) = A (m, k) B (k, n), finished. Strides in elements, any value, except that the columns of C lie side by side. */
typedef struct {
    const void *a, *b;
    void *c;
    int64_t k, ams, aks, bks, bns, ldc;
    const void *packed;                      /* B packed before, or NULL; with `packed` only: */
    int64_t packed_wide;                     /* its columns, filled up */
    bool adds;                               /* to what C holds already */
    bool finishes;                           /* else `finish` is not looked at */
    tl_mm_finish finish;
} tl_mm;
/* C (m, n): products of segments of rows, A^T B each, added in a binary tree as a stack has it: a segment's product, times `scale`, is put on top,
 * then `joins` times the topmost sum is added to the one below it, and taken off. In the end one is left. */
enum { TL_MM_DEPTH = 16 };                   /* of the stack, at most */
typedef struct { const void *a, *b; int64_t rows, a_row; double scale; int joins; } tl_mm_segment; /* (rows, m), a_row apart, and (rows, n); rows <= TL_MM_KC */
typedef struct { const tl_mm_segment *segments; int64_t count, k, m, n, columns; void *const *outs; int n_outs; } tl_mm_segments; /* k: all rows; columns, whole panels: packed at a time; every out is C */
/* By type: [0] float, [1] double. Each call computes rows [m0, m1) and columns [n0, n1) of C. `direct` and `packed` give the same bits:
 * per block over K one fused multiply-add per k, ascending from zero; blocks are added in order. None takes the GIL,
 * allocates or splits its work: they may be called from any loop over threads. */
typedef struct {
    int mr, nr[2];                           /* the tile of `packed` (MM_PACKED_MR, MM_PACKED_NR; mm_tile's own is MM_MR, MM_NR) */
    void (*direct[2])(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1); /* packs B's panels only where it must; k may be 0 */
    /* Packs both (B only where p->packed is NULL: into `work`, tl_mm_block(k) * tl_mm_wide(n1 - n0) elements, 64-byte aligned); k >= 1. n0 is a
     * multiple of nr. */
    void (*packed[2])(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work);
    /* One block of kc over K: panel after panel of nr columns, the last one filled up with zeros; in each, for each k, its columns. The blocks of
     * a packed B lie one after the other, block k0 at element k0 * tl_mm_wide(n). */
    void (*pack_columns[2])(void *dst, const void *src, int64_t n, int64_t kc, int64_t ns, int64_t ks);
    void (*dots[2])(const tl_mm *p, int64_t m0, int64_t m1); /* n = 1, aks = 1: sums over k in lanes; neither added nor finished */
    /* Columns [n0, n1) of C; n0 is a multiple of nr. The bits of `packed` for each segment. work: tl_mm_segments_work elements, 64-byte aligned. */
    void (*segments[2])(const tl_mm_segments *p, int64_t n0, int64_t n1, void *work);
    void (*finish[2])(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1); /* C's elements, of which all sums are complete */
    double (*peak)(int64_t n, float *io);    /* bench.c: returns how many operations it did; io: 2 vectors, read and written */
} tl_mm_kernels;
TL_KERNELS(tl_mm_kernels, mm_kernels, tl_mm_k);
/* n columns filled up to whole panels */
static inline int64_t tl_mm_wide(int64_t n, int type) { return (n + tl_mm_k->nr[type] - 1) / tl_mm_k->nr[type] * tl_mm_k->nr[type]; }
static inline int64_t tl_mm_segments_work(const tl_mm_segments *p, int type)
{
    return tl_mm_k->nr[type] * TL_MM_DEPTH * tl_mm_k->mr + p->columns * p->k + (p->m + tl_mm_k->mr) * p->k;
}
/* ---- half.inc.c, driven by matmul.c: as the functions of their names above, of float16 [0] and bfloat16 [1] operands; C is float ---- */
typedef struct {
    /* ams or aks is 1, bns or bks is 1; adds is not served. out: where results go, rounded, laid out as C */
    void (*packed[2])(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work, void *out);
    void (*pack_columns[2])(void *dst, const void *src, int64_t n, int64_t kc, int64_t ns, int64_t ks); /* ns or ks is 1 */
} tl_half_kernels;
TL_KERNELS(tl_half_kernels, half_kernels, tl_half_k);
/* ---- packed.c: weights that stay packed between calls ---- */
typedef struct { const char *data; int64_t k, n, ks, ns; int dtype; } tl_mm_view; /* a right operand in its storage; half precision is packed as float */
typedef struct tl_mm_weight tl_mm_weight;
/* The packed form of the view, pinned until tl_mm_weight_done; NULL where it has none (the first time, or no memory). */
tl_mm_weight *tl_mm_weight_find(tl_storage *s, const tl_mm_view *v, const void **data);
void tl_mm_weight_done(tl_mm_weight *w);
/* Array level (as in tl.h): float dtypes and half precision (in float32, rounded once), any strides; shapes that do not fit decline. */
tl_tensor *arr_linear(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias);      /* (..., K), (N, K), (N) or NULL -> (..., N) */
/* act(arr_linear); float dtypes only. *sums: fresh, what act was taken of, where it is wanted; else left alone. */
tl_tensor *arr_linear_act(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias, int act, bool keeps_sums, tl_tensor **sums);
/* beta x + alpha a b, in one pass; a b as arr_matmul has it, x broadcasts to its shape; x NULL: not added. Float dtypes only. */
tl_tensor *arr_scaled_product(const tl_tensor *x, const tl_tensor *a, const tl_tensor *b, double beta, double alpha);
/* The same of the sum of the products of a batch, a (B, M, K), b (B, K, N), in order; declines where B is 0 or N 1. */
tl_tensor *arr_scaled_sum(const tl_tensor *x, const tl_tensor *a, const tl_tensor *b, double beta, double alpha);
bool arr_linear_add(tl_tensor *out, const tl_tensor *x, const tl_tensor *w);               /* out += x w^T, x and out (N, .) or (.); false: they do not fit */
tl_tensor *arr_turned(const tl_tensor *t);   /* a view with the last two dimensions swapped */
tl_tensor *arr_linear_grad_input(const tl_tensor *g, const tl_tensor *w);                  /* (..., N), (N, K) -> (..., K) */
tl_tensor *arr_linear_grad_weight(const tl_tensor *g, const tl_tensor *x);                 /* (..., N), (..., K) -> (N, K) */
tl_tensor *arr_linear_grad_weight_into(tl_tensor *out, const tl_tensor *g, const tl_tensor *x); /* the same in out, which is contiguous and consumed, where it fits */
tl_tensor *arr_linear_grad_bias(const tl_tensor *g);                                       /* (..., N) -> (N) */

/* ---- attention.inc.c, driven by attention.c ---- */
enum {
    TL_ATTENTION_ROW = 128,    /* bytes' worth of queries in a panel */
    TL_ATTENTION_KEYS = 64,    /* keys of a block: part of the results, every sum over keys runs block by block */
    TL_ATTENTION_GROUP = 4     /* panels that go over the keys together: a piece of work */
};
/* One head: q (l, d), k (s, d), v (s, dv) -> out (l, dv) = dropout(softmax(scale q k^T + mask)) v. Steps in elements from row to row; the
 * elements of a row lie side by side, except the mask's. Rows of zeros where every key is masked. */
typedef struct {
    const void *q, *k, *v, *mask;             /* mask: NULL, or (l, s), bool (true: seen) or of the type */
    void *out, *stats;                        /* stats (2, l), contiguous: a row's maximum (as the kernel holds scores), 1 / its sum */
    int64_t l, s, d, dv, qs, ks, vs, os, mask_l, mask_s;
    double scale, dropout;
    uint64_t seed, counter, drawn;            /* dropout: element (i, j) reads word drawn + i * s + j of the draw, see random.c */
    bool causal, mask_bool;                   /* causal: query i sees keys 0 .. i */
} tl_attention_head;
/* g (l, dv): the gradient of out. gq is written; gk and gv, of as many rows as k and v, are added to, or if `fresh` written. Each may be NULL:
 * not wanted. */
typedef struct { const void *g; void *gq, *gk, *gv; int64_t gs, gqs, gks, gvs; bool fresh; } tl_attention_grad;
/* What both directions want of scratch memory, 64-byte aligned, in bytes. */
#define TL_ATTENTION_PAD(width) (((width) + 15) / 16 * 16)
static inline size_t tl_attention_room(int64_t d, int64_t dv, int itemsize)
{
    int64_t wide = TL_ATTENTION_PAD(d), wide_v = TL_ATTENTION_PAD(dv);
    return (size_t)(TL_ATTENTION_GROUP * TL_ATTENTION_ROW * (3 * wide + 2 * wide_v) + 2 * itemsize * TL_ATTENTION_KEYS * (wide + wide_v));
}
typedef struct {                              /* by type: [0] float, [1] double; over groups [begin, end) of panels */
    void (*forward[2])(const tl_attention_head *h, int64_t begin, int64_t end, void *room);
    /* Reads out and stats. Of keys [k_begin, k_end), multiples of TL_ATTENTION_KEYS or s; in pieces of either kind: the same bits, if the
     * pieces of queries come in order where gk or gv are wanted, and each piece has all keys where gq is. */
    void (*backward[2])(const tl_attention_head *h, const tl_attention_grad *g, int64_t begin, int64_t end, int64_t k_begin, int64_t k_end, void *room);
} tl_attention_kernels;
TL_KERNELS(tl_attention_kernels, attention_kernels, tl_attention_k);
/* Array level: float dtypes, any strides; leading dimensions broadcast; mask (bool or of q's dtype) broadcasts to (..., L, S), or NULL. */
typedef struct { double scale, dropout; uint64_t seed, counter; bool causal, grouped; } tl_attention; /* grouped: q has a multiple of the heads of k and v */
tl_tensor *arr_attention(const tl_tensor *q, const tl_tensor *k, const tl_tensor *v, const tl_tensor *mask, const tl_attention *p, tl_tensor **stats);
/* Those that are wanted, in the shape that the leading dimensions broadcast to (heads: k's and v's own). */
bool arr_attention_grad(const tl_tensor *g, const tl_tensor *q, const tl_tensor *k, const tl_tensor *v, const tl_tensor *mask, const tl_tensor *out,
                        const tl_tensor *stats, const tl_attention *p, tl_tensor **gq, tl_tensor **gk, tl_tensor **gv);

/* ---- recurrent.inc.c, driven by recurrent.c ---- */
enum { TL_RNN_TANH, TL_RNN_RELU, TL_GRU, TL_LSTM, TL_N_RECURRENT };
static inline int tl_recurrent_gates(int kind) { return kind == TL_LSTM ? 4 : kind == TL_GRU ? 3 : 1; } /* in PyTorch's order: i f g o; r z n */
/* Units [first, end) of some rows in one step. (rows, h) or (rows, gates h) arrays are contiguous; out and what came before have steps of their own
 * from row to row. Where NULL is allowed it stands for zeros. */
typedef struct {
    int64_t rows, h, gates, first, end, out_step, before_step;
    void *act;               /* (rows, gates h). Forward: in, the input's part of each gate; out, the gates. Backward: the gates (a plain RNN: unused) */
    void *extra;             /* (rows, h). LSTM: the cells; GRU: the state's part of n */
    void *out;               /* (rows, h): the state after the step */
    const void *before, *c_before; /* (rows, h): state and cell before it, or NULL */
    const void *product;     /* forward, (rows, gates h): the product of the state before with the weights, or NULL */
    const void *bias;        /* forward, (gates h): added to it, or NULL */
    const void *g_out;       /* backward, as out: its gradient, or NULL */
    const void *back;        /* backward, (rows, h): the gradient of out that comes through the products of the step after */
    void *carry, *c_carry;   /* backward, (rows, h): in, what else of the gradient of out, of the cell, comes from there; out, for the step before */
    void *g_act, *g_product; /* backward, (rows, gates h): the gradients of both parts of each gate; one array where they are the same (not GRU) */
} tl_recurrent_step;
typedef struct {             /* by kind, then [0] float, [1] double */
    void (*forward[TL_N_RECURRENT][2])(const tl_recurrent_step *s), (*backward[TL_N_RECURRENT][2])(const tl_recurrent_step *s);
    tl_range_fn tree_forward[2], tree_backward[2]; /* of a tl_tree_gates; tasks are rows */
} tl_recurrent_kernels;
TL_KERNELS(tl_recurrent_kernels, recurrent_kernels, tl_recurrent_k);
/* One layer over a ragged batch, in one or both directions. x (N, D): the rows of step 0, then those of step 1 ...; sizes (T), int64: how many sequences
 * have a step t, which never rises. `batch` sequences, of which sizes[0] are not empty. */
typedef struct {
    int kind, dirs;
    int64_t batch;
    const tl_tensor *x, *sizes, *h0, *c0;        /* (dirs, batch, H), or NULL: zeros; c0: LSTM */
    const tl_tensor *w_ih[2], *w_hh[2], *b_ih[2], *b_hh[2]; /* (gates H, D), (gates H, H), (gates H) or NULL */
} tl_recurrent;
/* What forward makes: out (N, dirs H), the last state of each sequence (dirs, batch, H), for LSTM its last cell; for backward, the gates
 * (N, gates H) of each direction and (LSTM, GRU) (dirs, N, H). */
typedef struct { tl_tensor *out, *h_n, *c_n, *act[2], *extra; } tl_recurrent_results;
bool arr_recurrent(const tl_recurrent *p, tl_recurrent_results *r);
void tl_recurrent_drop(tl_recurrent_results *r);
/* g: of out, h_n, c_n, each may be NULL. Each wanted gradient is written to *want[i].to (NULL before), in the order x, h0, c0, then w_ih, w_hh, b_ih,
 * b_hh of each direction; to NULL: not wanted. Those of weights may be put off (deferred.c). */
typedef struct { tl_tensor **to; const tl_edge *edge; } tl_wanted;
bool arr_recurrent_grad(const tl_recurrent *p, const tl_recurrent_results *r, const tl_tensor *const g[3], const tl_wanted want[11]);

/* Nodes of tree cells, driven by trees.c. A node has `places` for children, each with a forget gate. What children add to the sums of the gates comes
 * in parts: one, (rows, (3 + places) h), summed over the children: i, f of each place, g, o; or, `shared`, (rows, 4 h) of each child: i f g o. */
enum { TL_TREE_MOST = 4 };
typedef struct {
    int64_t h, own_step;
    int places, parts;
    bool shared;
    const void *own;                                 /* (rows, 4 h), own_step from row to row: the input's part, the f for all places; NULL: zeros */
    const void *part[TL_TREE_MOST], *cell[TL_TREE_MOST];    /* cell: (rows, h) of each place; NULL: no child there */
    void *act;                                       /* (rows, (3 + places) h), the gates. Forward: written, may be own or a part where they are as wide */
    void *c, *out;                                   /* (rows, h) */
    const void *g_c, *g_out;                         /* backward; NULL: zeros */
    void *g_own, *g_part[TL_TREE_MOST], *g_cell[TL_TREE_MOST]; /* backward: written where not NULL; own_step is 4 h */
} tl_tree_gates;

/* ---- convolution: conv.c chooses the path by shape (never by n) and drives; see there ---- */
/* out[n, k, o] = bias[k] + sum over c, r of x[n, c, o * stride + r * dil - pad] * w[k, c, r], c over the channels of k's group; positions outside
 * the image are zero. Images have three dimensions, the leading ones of size 1 where there are fewer. All arrays are contiguous:
 * x (n, c, in), w (k, c / groups, ker), out (n, k, out). No size is zero. */
typedef struct {
    int64_t n, c, k, groups;
    int64_t in[3], out[3], ker[3], stride[3], pad[3], dil[3];   /* pad: in front; what lies behind follows from out */
} tl_conv;
/* What every path offers. Called with the GIL: each takes its scratch from tl_alloc first, then gives the GIL up (tl_unlock) and splits its work by
 * tl_parallel_for. False: no memory. */
typedef struct {
    bool (*fits)(int type, const tl_conv *p);                  /* type: 0 float, 1 double */
    bool (*forward)(int type, const tl_conv *p, const void *x, const void *w, const void *bias, void *out); /* bias may be NULL */
    bool (*grad_input)(int type, const tl_conv *p, const void *g, const void *w, void *gx);
    bool (*grad_weight)(int type, const tl_conv *p, const void *g, const void *x, void *gw);
} tl_conv_path;
extern const tl_conv_path tl_conv_product;    /* product.c: implicit products, any shape */
extern const tl_conv_path tl_conv_slide;      /* slide.c: kernels of more than one tap, whatever the stride and the dilation */
extern const tl_conv_path tl_conv_winograd;   /* winograd.c: 3x3, stride 1, many channels */
extern const tl_conv_path tl_conv_direct;     /* direct.c: depthwise, and first layers with few channels */

/* ---- direct.inc.c, driven by direct.c ---- */
enum { TL_CONV_PHASES = 16 };                /* of one dimension, and of all together: a product of strides, at most */
/* The rows of some planes that a band of results needs, with their borders: (planes, slices, rows, step, pitch). Column j of the padded row is
 * at (j % step) * pitch + j / step, so that positions `step` apart lie side by side. */
typedef struct {
    int64_t planes, depth, height, width;    /* the source */
    int64_t slices, rows, step, pitch;       /* the copy */
    int64_t front, columns;                  /* zeros in front of a row (negative: it is cropped); columns that are read */
} tl_direct_copy;
/* Results: sums (channels) at out_plane, rows at out_row, `width` columns at out_step. Each adds up the band's values at offsets[0..taps) from its
 * own place, which moves by `row` from row to row and by 1 from column to column. */
typedef struct {
    const int64_t *offsets;
    int64_t taps, sums, width, row, out_plane, out_row, out_step, w_sum;  /* w_sum: from the weights of a sum to those of the next */
} tl_direct_sums;
/* By type: [0] float, [1] double. */
typedef struct {
    /* From slice d0 and row h0 of the source, both of which may lie outside. Borders beside the image are not written (but may be, with zeros):
     * the band starts as zeros and keeps them. Behind it a vector's worth of space. */
    void (*copy[2])(const tl_direct_copy *p, void *band, const void *src, int64_t d0, int64_t h0);
    void (*sums[2])(const tl_direct_sums *p, const void *band, const void *w, const void *bias, void *out, int64_t rows);
    void (*dots[2])(const tl_direct_sums *p, const void *band, const void *g, void *gw, int64_t rows); /* gw += g (out_step 1) by band */
} tl_direct_kernels;
TL_KERNELS(tl_direct_kernels, direct_kernels, tl_direct_k);

/* ---- winograd.inc.c, driven by winograd.c; float32. What the arrays hold is told in winograd.inc.c ---- */
enum {
    TL_WINO_TILE = 4,                        /* pixels across a tile of results; of the image it takes two more */
    TL_WINO_F = 36,                          /* frequencies: (4 + 2)^2 */
    TL_WINO_KC = 64                          /* channels whose products are summed before they join the others: part of the results */
};
#define TL_WINO_SUMS(lanes) (TL_WINO_F * (lanes) * (2 * (lanes) + 1)) /* floats of a piece of sums for the weights' gradient; see grad_products */
/* Images of `depths` slices, of h x w pixels; distances in elements. Number i of them is slice i % depths of member i / depths of the batch. */
typedef struct { int64_t depths, batch, channel, h, w, pad_y, pad_x; } tl_wino_image;
typedef struct { int64_t i0, i1, y0, y1, x0, x1; } tl_wino_block;      /* images, and rows and columns of their tiles */
typedef struct { int64_t out_step, in_step; bool flip; } tl_wino_weights; /* flip: each kernel runs backwards */
/* stride: from one frequency to the next. channels: that exist, of a group of `lanes`. work: the pixels of a block (image), `lanes` floats each. */
typedef struct {
    int lanes, unit;                         /* what follows counts tiles rounded up to units: their rows are zero */
    void (*image)(float *v, int64_t stride, const tl_wino_image *m, const float *x, int channels, const tl_wino_block *b, void *work);
    void (*grad)(float *v, int64_t stride, const tl_wino_image *m, const float *g, int channels, const tl_wino_block *b, void *work);
    void (*kernels)(float *u, int64_t stride, const tl_wino_weights *w, const float *x, int outs, int64_t ins, int64_t padded_ins);
    /* m [nv groups][tiles] = v [groups][tiles] times u [nv groups][groups * lanes], added to what is there if `add`; nv: 1 or 2, u_next from one
     * to the other. */
    void (*products)(int nv, float *m, int64_t m_stride, bool add, const float *v, int64_t v_stride, const float *u, int64_t u_stride,
                     int64_t u_next, int64_t groups, int64_t tiles);
    void (*result)(float *y, const tl_wino_image *image, const float *bias, int channels, const float *m, int64_t stride,
                   const tl_wino_block *b, void *work);
    /* m, TL_WINO_SUMS floats: sums over the tiles of v (one group) times g (nv groups, g_next apart), added to what is there if `add`. */
    void (*grad_products)(int nv, float *m, bool add, const float *v, int64_t v_stride, const float *g, int64_t g_stride, int64_t g_next,
                          int64_t tiles);
    /* gw (outs, ins, 9), `row` from one of outs to the next: from group 0 of m. m is the sum of `parts` arrays, `apart` from each other. */
    void (*grad_result)(float *gw, int64_t row, int outs, int ins, const float *m, int64_t parts, int64_t apart);
} tl_wino_kernels;
TL_KERNELS(tl_wino_kernels, wino_kernels, tl_wino_k);

/* conv.c, array level. x: (n, c, in), w: (k, c / groups, ker), bias: (k) or NULL, g: (n, k, out), of one to three dimensions; any strides. */
enum { TL_CONV_BITS = 21 };                   /* strides, paddings (in front and behind) and dilations are below 1 << this */
typedef struct { int64_t stride[3], front[3], back[3], dil[3], groups; } tl_conv_geometry;   /* unused dimensions: zero */
tl_tensor *arr_conv(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias, const tl_conv_geometry *given);
tl_tensor *arr_conv_grad_input(const tl_tensor *g, const tl_tensor *w, const int64_t *size, const tl_conv_geometry *given);  /* size: in */
tl_tensor *arr_conv_grad_weight(const tl_tensor *g, const tl_tensor *x, const int64_t *size, const tl_conv_geometry *given); /* size: ker */
tl_tensor *arr_conv_grad_bias(const tl_tensor *g);
void tl_conv_keep(tl_node *n, const tl_conv_geometry *g);                                                  /* in ints[0 .. 5) */
void tl_conv_kept(const tl_node *n, tl_conv_geometry *g);

/* ---- product.inc.c, driven by product.c ---- */
/* Images seen through taps. Column j of n * area is pixel p of the lattice `size` in image j / area; through tap t it sees the image at
 * p * step + off[t], zero outside. Rows of the view are (channel, tap). Images: (n, image elements), of it `plane` a channel. */
typedef struct {
    const void *src;                         /* the first channel of the group */
    int64_t in[3], size[3], step[3], plane, image, area, taps;
    const int64_t (*off)[3];
} tl_conv_view;
/* Of one group: C (rows, columns of the view) = A (rows, rows of the view) times the view, plus a bias a row. */
typedef struct {
    tl_conv_view view;
    const void *a, *bias;                    /* a: packed by `pack`; bias: or NULL */
    int64_t rows, depth;                     /* of A: depth = channels * taps */
    void *out;                               /* pixel p of image i, row r: out + i * image + r * plane + at + sum of p[d] * step[d] */
    struct { int64_t image, plane, at, step[3]; } place;
    bool flat;                               /* the pixels of an image lie side by side in out */
} tl_conv_multiply;
/* Element (row, channel, tap) of A is a[row * row_step + channel * channel_step + at[tap]]. */
typedef struct { const void *a; int64_t rows, channels, taps, row_step, channel_step; const int64_t *at; } tl_conv_weights;
/* Of one group: out (rows, view's rows) = G (rows, columns) times the view's transpose; G's row r of image i at g + i * image + r * area. */
typedef struct { tl_conv_view view; const void *g; int64_t rows, depth, columns, image, block; } tl_conv_correlate;
enum { TL_CONV_COLUMNS = 480 };              /* columns of a piece, at most: whole panels of every instruction set, and at least TL_MM_KC */
/* By type: [0] float, [1] double. */
typedef struct {
    void (*pack[2])(const tl_conv_weights *p, void *out, int64_t begin, int64_t end);   /* strips [begin, end) of the rows / tl_mm_k->mr, rounded up, of them */
    /* Strips [s0, s1) of rows, columns [j0, j1), where `flat` of one image.
     * work: tl_mm_block(depth) * (columns rounded up to nr) elements, and where not flat their rows * (the same) more. */
    void (*multiply[2])(const tl_conv_multiply *p, int64_t s0, int64_t s1, int64_t j0, int64_t j1, void *work);
    /* Columns [c0, c1) of out (ld elements from row to row), summed over blocks [b0, b1) of `block` <= TL_MM_KC columns of the view.
     * work: TL_MM_KC * (nr + c1 - c0 rounded up to nr) elements. */
    void (*correlate[2])(const tl_conv_correlate *p, int64_t c0, int64_t c1, int64_t b0, int64_t b1, void *out, int64_t ld, void *work);
    void (*add[2])(void *out, const void *x, int64_t n);                                /* out += x */
} tl_product_kernels;
TL_KERNELS(tl_product_kernels, product_kernels, tl_product_k);

/* ---- grid_type.inc.c, driven by grid.c: images of `pixels` elements in (D, H, W) order, read at points ---- */
enum { TL_GRID_BILINEAR, TL_GRID_NEAREST, TL_GRID_BICUBIC };
enum { TL_GRID_ZEROS, TL_GRID_BORDER, TL_GRID_REFLECTION };
/* A point (x, y) or (x, y, z) of the grid reads each^dims = taps elements. pixels < 2^31. */
typedef struct {
    const void *x, *grid, *g;  /* (images, c, pixels), (images, points, dims), (images, c, points) */
    void *out, *gx, *ggrid;    /* (images, c, points), and of the shapes of x and grid */
    int64_t c, pixels, points, size[3], each, taps;
    int dims, mode, padding;
    bool align;
} tl_grid_task;
/* By type: [0] float, [1] double. A slice is (pixels + 1, lanes): `lanes` channels of an image side by side, then a place of zeros. Slice s
 * holds those of image s / groups from s % groups * lanes on, groups of them to an image. */
typedef struct {
    int64_t lanes[2];
    void (*open[2])(const tl_grid_task *p, int64_t slice, int64_t from, int64_t to, void *made);              /* pixels of x into a slice */
    void (*close[2])(const tl_grid_task *p, int64_t slice, const void *made);                                 /* a slice into gx */
    void (*read[2])(const tl_grid_task *p, int64_t slice, int64_t from, int64_t to, const void *x);           /* points of out */
    void (*gradient[2])(const tl_grid_task *p, int64_t slice, const void *x, void *gx, void *ggrid);          /* gx, ggrid: NULL, or set: a slice; (images, points, dims), this slice's part of the sum */
    /* Without slices: points of out, channels of gx (which is zero before), points of ggrid. */
    void (*read_few[2])(const tl_grid_task *p, int64_t image, int64_t from, int64_t to);
    void (*spread_few[2])(const tl_grid_task *p, int64_t image, int64_t from, int64_t to);
    void (*slopes_few[2])(const tl_grid_task *p, int64_t image, int64_t from, int64_t to);
} tl_grid_kernels;
TL_KERNELS(tl_grid_kernels, grid_kernels, tl_grid_k);

/* ---- slide.inc.c, driven by slide.c ---- */
/* A copy of what a band of results sees of some channels, borders included, as zeros: (channel, slice, row phase, column phase, row, column). Row i
 * of phase p is row from[1] + p + i * step[1] of the source, and columns alike, so that positions `step` apart lie side by side. A sheet is the
 * rows of one pair of phases, and a vector; rows may share their borders (pitch < columns). */
typedef struct {
    int64_t in[3], from[3], step[3], phases[3];                /* the source; step[0] and phases[0] unused */
    int64_t slices, rows, columns, pitch, sheet, plane;        /* from row to row, sheet to sheet, channel to channel */
} tl_slide_copy;
/* Of one group: A (rows, depth = all channels * taps) times the copy, of which each (channel, tap) is a row: `positions` in order from
 * channel * plane + offsets[tap] on. Where the copy's rows have more columns than the results, those between are computed and dropped. */
typedef struct {
    const void *a;                           /* packed by tl_product_k->pack */
    const int64_t *offsets;
    int64_t taps, plane, rows, depth, positions, ld;
} tl_slide_sums;
/* Where results go: `lines` rows, `pitch` positions apart, of `width` columns each; column i from array i % fan, at i / fan there. */
typedef struct { int64_t lines, width, pitch, fan, apart, ld, out_row, out_line; } tl_slide_put;
/* Of one group, for the weights' gradient: sums (channels * taps, ld) += the copy times g's transpose, over `lines` rows of `width` positions. */
typedef struct { const int64_t *offsets; int64_t taps, plane, lines, width, pitch, columns, ld; } tl_slide_dots;
enum { TL_SLIDE_SLACK = 64 };                 /* elements behind the rows of a sheet that products read, at most */
/* By type: [0] float, [1] double. */
typedef struct {
    void (*copy[2])(const tl_slide_copy *p, void *band, const void *src, int64_t channels);
    /* Strips [s0, s1) of the rows (as `pack` cuts them), summed over the `channels` channels in band, which are those from c0 on; added to local
     * (rows, ld) where c0 > 0. Computes whole vectors: up to TL_SLIDE_SLACK elements behind the copy are read. */
    void (*multiply[2])(const tl_slide_sums *p, int64_t s0, int64_t s1, const void *band, int64_t c0, int64_t channels, void *local);
    void (*put[2])(const tl_slide_put *p, void *out, const void *local, const void *bias, int64_t rows);    /* bias: one a row, or NULL */
    /* `turn`: n positions of `columns` rows of g, `row` apart, to panels of `nr`, the last one of whole vectors. */
    void (*turn[2])(void *panels, const void *g, int64_t row, int64_t n, int64_t columns);
    void (*dots[2])(const tl_slide_dots *p, const void *band, const void *panels, int64_t channels, void *sums, bool add);
    void (*finish[2])(void *gw, int64_t row, const void *sums, int64_t ld, int64_t n, int64_t columns);     /* gw[j * row + i] = sums[i * ld + j] */
} tl_slide_kernels;
TL_KERNELS(tl_slide_kernels, slide_kernels, tl_slide_k);

/* ---- resample.inc.c, driven by resample.c ---- */
/* out (outer, m, inner) from x (outer, n, inner): see tl_resample. */
typedef struct {
    void *out;
    const void *x, *weight;
    const int64_t *starts, *index;
    int64_t n, m, inner;
} tl_resample_task;
typedef struct {
    tl_range_fn rows[2];     /* by type: [0] float, [1] double. inner is 1; tasks are rows */
    tl_range_fn across[2];   /* tasks are (outer, m) */
} tl_resample_kernels;
TL_KERNELS(tl_resample_kernels, resample_kernels, tl_resample_k);

/* ---- copy.inc.c, driven by copy.c ---- */
typedef struct {
    /* n contiguous elements; out and x do not overlap. From bool: as u8. NULL: composed of others by copy.c. */
    void (*cast[TL_N_DTYPES][TL_N_DTYPES])(void *restrict out, const void *restrict x, int64_t n);
    void (*stream)(char *out, const char *x, int64_t nbytes);   /* past the caches; out 64-byte aligned, nbytes a multiple of 64 */
    void (*f64_to_f32_odd)(void *restrict out, const void *restrict x, int64_t n);    /* for rounding again, to half precision */
} tl_copy_kernels;
TL_KERNELS(tl_copy_kernels, copy_kernels, tl_copy_k);
bool arr_fill_i64(tl_tensor *out, int64_t value);                                     /* arr_fill, for integers beyond 2^53 */
tl_tensor *arr_cat(const tl_tensor *const *xs, int n, int dim);                       /* n >= 1 of one dtype; fresh. Declines what does not fit */
tl_tensor *arr_arange(int dtype, int64_t n, double start, double step);               /* start + i * step, in double, then converted */
tl_tensor *arr_arange_i64(int dtype, int64_t n, int64_t start, int64_t step);         /* the same in int64, wrapping */
tl_tensor *arr_linspace(int dtype, int64_t n, double start, double end);              /* from both ends to the middle, so that `end` is exact */

/* ---- rows_type.inc.c, driven by rows.c. All arrays are contiguous; entries by type: [0] float, [1] double ---- */
enum {
    TL_ROWS_TILE = 64,       /* columns of one task where softmax runs along another dimension than the last */
    TL_ROWS_BLOCK = 64,      /* rows whose share of gweight and gbias is summed before it joins the others */
    TL_PAIR_BLOCK = 16384    /* elements of one task of a loss of pairs */
};
/* Each takes tasks [begin, end), so that it can be handed to tl_parallel_for: rows, except where noted. */
typedef struct { void *out; const void *x, *g; int64_t n, inner; bool log; } tl_softmax;  /* gradient: x is the result. (outer, n, inner) */
/* weight, bias: or NULL. mean NULL, here and in the gradient: nothing is subtracted (rms_norm). */
typedef struct { void *out, *mean, *rstd; const void *x, *weight, *bias; int64_t n; double eps; } tl_layer_norm_task;
/* parts: (tasks, 2, n), what each block of rows adds to gweight and gbias, or NULL; gx: or NULL. */
typedef struct { void *gx, *parts; const void *g, *x, *mean, *rstd, *weight; int64_t rows, n; } tl_layer_norm_grad;
/* Scores x (outer, n, inner), n classes. target (outer, inner): in [0, n) or ignore; where it is NULL, soft: probabilities of x's shape. */
typedef struct {
    void *loss, *out;        /* forward: (outer, inner); gradient: of x */
    void *saved;             /* (outer, 3, inner): the maximum m of a position's scores, log(sum(exp(x - m))), soft: the sum of what classes count */
    const void *x, *soft, *weight, *g;
    const int64_t *target;
    int64_t n, inner, ignore, g_step;
    double smoothing, weight_sum, scale; /* weight_sum: over classes. The gradient is scale * g[position * g_step] times that of the position's loss */
} tl_cross_entropy_task;
/* Losses that pair each element of an input x with one of a target y. KL_LOG: y is a logarithm. HUBER: quadratic up to `bound`. */
enum { TL_PAIR_SQUARED, TL_PAIR_ABSOLUTE, TL_PAIR_HUBER, TL_PAIR_KL, TL_PAIR_KL_LOG, TL_PAIR_BCE, TL_PAIR_BCE_LOGITS };
typedef struct {
    void *out;               /* each: the losses; gradient: of x, scale * g[i * g_step] times the slope */
    double *sums;            /* sum: of each block */
    const void *x, *y, *weight, *pos_weight, *g; /* both weights: or NULL */
    int64_t n, g_step;
    double bound, scale;
    int kind;
    _Atomic bool outside;    /* BCE, set: an element of x is no probability */
} tl_pair;
typedef struct {
    tl_range_fn softmax[2], softmax_grad[2];
    tl_range_fn softmax_across[2], softmax_across_grad[2];   /* tasks: tiles of columns, outer by outer */
    tl_range_fn layer_norm[2], layer_norm_grad[2];           /* gradient: tasks are blocks of rows */
    tl_range_fn cross_entropy[2], cross_entropy_grad[2], cross_entropy_soft[2], cross_entropy_soft_grad[2]; /* inner is 1 */
    tl_range_fn cross_entropy_across[2], cross_entropy_across_grad[2]; /* tasks: tiles of positions, outer by outer; soft too */
    tl_range_fn nll[2], nll_grad[2];                         /* tasks: outer indices; nothing saved */
    tl_range_fn pair_each[2], pair_sum[2], pair_grad[2];     /* tasks: blocks */
} tl_rows_kernels;
TL_KERNELS(tl_rows_kernels, rows_kernels, tl_rows_k);

/* ---- array level: reduce.c and rows.c, beside those in tl.h. Floats only; dtypes and shapes that do not fit decline ---- */
tl_tensor *arr_sumsq(const tl_tensor *x, uint32_t dim_mask, bool keepdim);
tl_tensor *arr_var(const tl_tensor *x, uint32_t dim_mask, double correction, bool keepdim);   /* two passes */
tl_tensor *arr_softmax(const tl_tensor *x, int dim);
tl_tensor *arr_log_softmax(const tl_tensor *x, int dim);
tl_tensor *arr_softmax_grad(const tl_tensor *out, const tl_tensor *g, int dim);
tl_tensor *arr_log_softmax_grad(const tl_tensor *out, const tl_tensor *g, int dim);
/* x is taken as (rows, cols); weight and bias of cols elements, or NULL. *mean and *rstd: fresh, (rows). mean NULL, here and in the gradient:
 * rms_norm. */
tl_tensor *arr_layer_norm(const tl_tensor *x, int64_t rows, int64_t cols, const tl_tensor *weight, const tl_tensor *bias, double eps,
                          tl_tensor **mean, tl_tensor **rstd);
/* Each of gx, gweight, gbias may be NULL: not wanted. gweight and gbias come in weight's shape, (cols) without one. */
bool arr_layer_norm_grad(const tl_tensor *g, const tl_tensor *x, const tl_tensor *mean, const tl_tensor *rstd, const tl_tensor *weight,
                         tl_tensor **gx, tl_tensor **gweight, tl_tensor **gbias);
enum { TL_REDUCE_NONE, TL_REDUCE_MEAN, TL_REDUCE_SUM };
/* logits (C), (N, C) or (N, C, d1, ...); target: integers, of logits' shape without C, or probabilities of logits' shape; weight (C) or NULL.
 * TL_RANGE (target, its position, C) where a target is neither in [0, C) nor ignore_index. *saved: fresh, for the gradient. */
tl_tensor *arr_cross_entropy(const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index, int reduction,
                             double smoothing, tl_tensor **saved);
tl_tensor *arr_cross_entropy_grad(const tl_tensor *g, const tl_tensor *logits, const tl_tensor *target, const tl_tensor *weight,
                                  const tl_tensor *saved, int64_t ignore_index, int reduction, double smoothing);
/* The same of logarithms of probabilities, integer targets only. *divisor: what a mean divides by. */
tl_tensor *arr_nll(const tl_tensor *logp, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index, int reduction, double *divisor);
tl_tensor *arr_nll_grad(const tl_tensor *g, const tl_meta *logp, const tl_tensor *target, const tl_tensor *weight, int64_t ignore_index,
                        int reduction, double divisor);
/* in: input, target of the same shape, weight and pos_weight that broadcast to it, or NULL. The loss of a pair is `factor` times the kind's.
 * Declines probabilities outside [0, 1]. */
tl_tensor *arr_pair(int kind, const tl_tensor *const in[4], double bound, double factor, int reduction);
/* The gradient of input; of target with negate (up to TL_PAIR_HUBER). */
tl_tensor *arr_pair_grad(int kind, const tl_tensor *g, const tl_tensor *const in[4], double bound, double factor, int reduction, bool negate);

/* ---- norm.inc.c, driven by norm.c: normalisation over channels. All arrays are contiguous ---- */
enum {
    TL_NORM_BOX = 4096,      /* elements that are summed in their own type; sums of boxes are joined in double */
    TL_NORM_ROWS = 128, TL_NORM_TILE = 64 /* where channels lie side by side: rows and columns of one task */
};
/* `cells` sets of elements share a mean and a variance. Cell i begins at element i * step: `rows` runs of `len` adjacent elements, `stride` apart, and
 * a run is `spans` channels of `span` elements (batch norm: a cell is a channel; group norm: rows is 1, a cell is a group of channels). */
typedef struct {
    int64_t cells, step, rows, stride, len, span, spans, channels;
    const void *x, *g, *weight, *bias; /* weight, bias: (channels), or NULL */
    void *out;                         /* of apply; grad_apply: the gradient of x */
    double *stats;                     /* (2, cells): mean, variance */
    double *parts;                     /* (boxes of all cells, 2): of moments: mean, squared distances from it; of grad_sums: sums of g, of g xhat */
    double *pull;                      /* (cells, 2): the means of h and of h xhat over the cell, where h = g weight */
    double eps;
    bool fixed;                        /* mean and variance were given: they do not depend on x */
} tl_norm;
/* Box i of `rows` runs of `len` elements: whole runs, or a part of one. Depends on nothing else. */
typedef struct { int64_t r0, r1, c0, c1; } tl_norm_box;
static inline int64_t tl_norm_boxes(int64_t rows, int64_t len)
{
    if (len >= TL_NORM_BOX) return rows * ((len + TL_NORM_BOX - 1) / TL_NORM_BOX);
    int64_t runs = TL_NORM_BOX / len;
    return (rows + runs - 1) / runs;
}
static inline tl_norm_box tl_norm_box_at(int64_t rows, int64_t len, int64_t i)
{
    if (len >= TL_NORM_BOX) {
        int64_t cuts = (len + TL_NORM_BOX - 1) / TL_NORM_BOX, r = i / cuts, c = i % cuts * TL_NORM_BOX;
        return (tl_norm_box){r, r + 1, c, len - c < TL_NORM_BOX ? len : c + TL_NORM_BOX};
    }
    int64_t runs = TL_NORM_BOX / len, r = i * runs;
    return (tl_norm_box){r, rows - r < runs ? rows : r + runs, 0, len};
}
static inline double tl_norm_rstd(const tl_norm *p, int64_t cell) { return 1 / __builtin_sqrt(p->stats[p->cells + cell] + p->eps); }
/* Channels side by side, or nearly: x is (rows, width), a channel some adjacent columns. parts: (blocks of rows, 2, width), as above, but xhat
 * is x - m. m, a, b, c: (width). */
typedef struct { int64_t rows, width; const void *x, *g; void *out, *m, *a, *b, *c; double *parts; } tl_norm_columns;
/* By type: [0] float, [1] double. Tasks: boxes, cell by cell (moments, apply: of all its runs; grad_*: channel by channel). */
typedef struct {
    tl_range_fn moments[2], apply[2], grad_sums[2], grad_apply[2];
    tl_range_fn columns_moments[2], columns_grad_sums[2];   /* tasks: tiles of columns, block of rows by block of rows */
    tl_range_fn columns_apply[2];                           /* tasks: rows. (x - m) a + c; with g: g a + (x - m) b + c */
} tl_norm_kernels;
TL_KERNELS(tl_norm_kernels, norm_kernels, tl_norm_k);
/* x: (N, C, ...), any strides. weight and bias: (C), or NULL. groups 0: each channel is normalised over the whole batch, else each of `groups` groups of
 * channels of each example. *stats: fresh, float64, (2, C or N groups): mean and variance. */
tl_tensor *arr_channel_norm(const tl_tensor *x, const tl_tensor *weight, const tl_tensor *bias, int64_t groups, double eps, tl_tensor **stats);
/* With a given mean and variance of each channel. */
tl_tensor *arr_fixed_norm(const tl_tensor *x, const tl_tensor *mean, const tl_tensor *variance, const tl_tensor *weight, const tl_tensor *bias,
                          double eps, tl_tensor **stats);
/* Of either (groups -1: of arr_fixed_norm). Each of gx, gweight, gbias may be NULL: not wanted. */
bool arr_channel_norm_grad(const tl_tensor *g, const tl_tensor *x, const tl_tensor *weight, const tl_tensor *stats, int64_t groups, double eps,
                           tl_tensor **gx, tl_tensor **gweight, tl_tensor **gbias);

/* ---- index.c: any strides, any dtype unless it sums; fresh results. Indices are int8 to int64. What does not fit declines; an index out
 * of range is TL_RANGE (detail: index, its place in the index tensor, size), before anything is written. Negative ones wrap only in
 * arr_index and arr_index_put. Repeated positions: the last one stays, sums run in order of position. ---- */
tl_tensor *arr_gather(const tl_tensor *x, int dim, const tl_tensor *index);
tl_tensor *arr_scatter(const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src);
tl_tensor *arr_scatter_add(const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src);   /* float32/64, uint8, int8 to int64 */
tl_tensor *arr_take(const tl_tensor *x, int dim, const tl_tensor *index);    /* x.dims[:dim] + index.shape + x.dims[dim + 1:] */
tl_tensor *arr_index_select(const tl_tensor *x, int dim, const tl_tensor *index);                        /* arr_take, index 1-d */
tl_tensor *arr_index_add(const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src);
tl_tensor *arr_embedding(const tl_tensor *weight, const tl_tensor *index);                               /* (V, D), (...) -> (..., D) */
tl_tensor *arr_embedding_grad(const tl_tensor *g, const tl_tensor *index, int64_t rows, int64_t padding);/* (V, D); padding < 0: none */
/* The same of n positions, where position i reads row source[i] of g, times scale[i] (of g's dtype; NULL: as it is). */
tl_tensor *arr_rows_added(const tl_tensor *g, int64_t n, const tl_tensor *index, int64_t rows, int64_t padding, const int64_t *source, const void *scale);
/* NumPy's x[..., index_0, index_1, ..., :, :]: k index tensors of one shape for the dimensions from first_dim on. values: of the shape that
 * arr_index returns, any strides (expand a scalar to it). */
tl_tensor *arr_index(const tl_tensor *x, int first_dim, int k, const tl_tensor *const *index);
bool arr_index_put(tl_tensor *x, int first_dim, int k, const tl_tensor *const *index, const tl_tensor *values, bool accumulate);

/* ---- mask.c ---- */
tl_tensor *arr_masked_fill(const tl_tensor *x, const tl_tensor *mask, double value); /* mask: bool, broadcasts to x */
tl_tensor *arr_masked_select(const tl_tensor *x, const tl_tensor *mask);             /* broadcast against each other -> (kept) */
tl_tensor *arr_nonzero(const tl_tensor *x);                                          /* -> (kept, x.ndim) int64 */

/* ---- pool_type.inc.c, driven by pool.c: pooling over the last three dimensions (the leading ones of size 1 where there are fewer) ---- */
/* One dimension. Window o begins at o * stride - pad, and tap k of it lies dil * k further; adaptive (stride 0): it covers [o n / out, that of
 * o + 1, rounded up). Taps outside [0, n) do not count, but every window has one inside. ker: the most taps of a window. */
typedef struct { int64_t n, out, ker, stride, pad, dil; } tl_pool_dim;
/* A tap's code is its number in the window, (d, h, w) in order over (ker, ker, ker). */
typedef struct {
    void *out;               /* forward: (planes, windows); gradient: (planes, elements) */
    void *where;             /* max: the code of each window's largest element, int32 where `wide`, else uint8 */
    const void *x;           /* forward: (planes, elements); gradient: that of the windows */
    tl_pool_dim d[3];
    bool wide, padded;       /* average: taps in the padding count as well */
    double divisor;          /* average: what every sum is divided by; 0: the number of taps */
} tl_pool_task;
/* By type: [0] float, [1] double; tasks are planes. The largest element: the first of equals, the last NaN. */
typedef struct { tl_range_fn max[2], max_grad[2], average[2], average_grad[2]; } tl_pool_kernels;
TL_KERNELS(tl_pool_kernels, pool_kernels, tl_pool_k);

/* ---- ctc.inc.c, driven by ctc.c: the loss of labels without places, in double throughout ---- */
/* Scratch of a sequence, in rows of tl_ctc_width(labels) + 8 doubles: TL_CTC_OWN rows, and four for every step and one more (without slopes: for two). */
enum { TL_CTC_OWN = 10 };
static inline int64_t tl_ctc_width(int64_t labels) { return labels / 8 * 8 + 8; }
/* Integers have been checked: steps and targets are in range, no target is the blank. */
typedef struct {
    double *losses;                  /* (batch) */
    void *slopes;                    /* (steps, batch, classes) of x's type: the gradient of losses * scale; NULL: not wanted */
    const void *x;                   /* (steps, batch, classes), strides in elements */
    int64_t strides[3], steps, batch, classes, longest, blank;
    const int64_t *targets, *inputs, *counts; /* (batch, longest), (batch), (batch) */
    const double *scale;             /* (batch) */
    bool is_double, zero_infinity;
} tl_ctc_task;
typedef struct { void (*sequence)(const tl_ctc_task *p, int64_t b, double *scratch); } tl_ctc_kernels;
TL_KERNELS(tl_ctc_kernels, ctc_kernels, tl_ctc_k);

/* ---- crf.inc.c, driven by crf.c: linear-chain random fields, in double throughout. Rows are tl_ctc_width(tags) doubles; a row of numbers is two ---- */
typedef struct {
    double *totals;                  /* (batch): written; with sums: read, the gradients of them */
    void *slopes;                    /* like x: the gradients of it; with sums alone */
    const void *x;                   /* (rows, tags), the rows of step 0 first */
    const int64_t *sizes, *starts;   /* of each step: its rows, and the first of them */
    double *ends, *ways, *back;      /* exp as numbers: of the start's scores and the end's; of the transitions (from, to); of these turned round */
    int64_t steps, tags;
    bool is_double;
} tl_crf_task;
/* scratch: TL_CRF_OWN rows, and two for every step (without sums: four at most). sums: NULL, or tags + 2 rows to add to: the gradients of the
 * start's scores, the end's, the transitions'. */
enum { TL_CRF_OWN = 4 };
typedef struct {
    void (*numbers)(double *row, int64_t tags); /* a row of scores, with another one's room behind it: numbers, of their exp */
    void (*sequence)(const tl_crf_task *p, int64_t b, double *scratch, double *sums);
} tl_crf_kernels;
TL_KERNELS(tl_crf_kernels, crf_kernels, tl_crf_k);

/* ---- scan.inc.c and sort_type.inc.c, driven by sort.c. Arrays are contiguous; by type: [0] float, [1] double, [2] int64 ---- */
enum { TL_SCAN_TILE = 512 };  /* columns of one task */
/* (outer, n, inner): out is the sum (product) of everything so far, element by element; float runs in double. reverse: from the end. */
typedef struct { void *out; const void *x; int64_t n, inner; bool product, reverse; } tl_scan_task;
typedef struct {
    tl_range_fn rows[3][2];    /* [1]: products. inner is 1; tasks are rows */
    tl_range_fn columns[3][2]; /* tasks: tiles of columns, outer by outer */
} tl_scan_kernels;
TL_KERNELS(tl_scan_kernels, scan_kernels, tl_scan_k);
/* The k first of each row in stable order, NaN the greatest. Task t takes an even share of the rows. scratch: 2 n items (8 bytes for float, else
 * 16) a task, scratch_each apart. */
typedef struct {
    void *values;              /* (rows, k), or NULL */
    int64_t *places;           /* (rows, k) */
    const void *x;             /* (rows, n), n < 2^32 */
    int64_t n, k, rows, tasks, scratch_each;
    char *scratch;
    bool descending;
} tl_sort_task;
typedef struct { tl_range_fn rows[3]; } tl_sort_kernels;
TL_KERNELS(tl_sort_kernels, sort_kernels, tl_sort_k);

/* ---- random.inc.c, driven by random.c ---- */
/* By type: [0] float32, [1] float64. w: the words, as many as the n elements read (normal: n even). */
typedef struct {
    void (*words)(uint32_t *out, uint64_t key, uint64_t block, int64_t n_blocks);
    void (*uniform[2])(void *out, const uint32_t *w, int64_t n, double low, double width, double top);
    void (*normal[2])(void *out, const uint32_t *w, int64_t n, double mean, double std);
    void (*dropout[2])(void *out, const void *x, const uint32_t *w, int64_t n, float p, double scale); /* 0 with probability p, else x * scale */
} tl_random_kernels;
TL_KERNELS(tl_random_kernels, random_kernels, tl_random_k);
enum {
    TL_RANDOM_WORDS,     /* int32: the words themselves */
    TL_RANDOM_UNIFORM,   /* float dtypes: in [a, b) */
    TL_RANDOM_NORMAL,    /* float dtypes: mean a, standard deviation b */
    TL_RANDOM_BERNOULLI, /* bool: true with probability a */
    TL_RANDOM_DROPOUT    /* arr_dropout's own */
};
/* Element i is a function of (key, counter, i): see random.c. Other dtypes decline. */
tl_tensor *arr_random(int kind, uint64_t key, uint64_t counter, int dtype, int ndim, const int64_t *dims, double a, double b);
tl_tensor *arr_randint(uint64_t key, uint64_t counter, int ndim, const int64_t *dims, int64_t low, int64_t high); /* int64 in [low, high) */
/* Element i is 0 where the i-th uniform float32 number is below p, else x / (1 - p). Of the gradient: its own gradient. */
tl_tensor *arr_dropout(const tl_tensor *x, double p, uint64_t key, uint64_t counter);

/* ---- optim.inc.c, driven by optim.c ---- */
typedef struct { double lr, momentum, dampening, weight_decay; bool nesterov, maximize; } tl_sgd_rule;
/* shrink: what decoupled weight decay multiplies the parameter with (1: none); root: sqrt(1 - beta2^t); step_size: lr / (1 - beta1^t).
 * look: of the gradient itself beside the average (NAdam); plain: not divided (RAdam's first steps); peak: `square` is Adamax's maximum. */
typedef struct { double shrink, weight_decay, beta1, beta2, root, eps, step_size, look; bool maximize, plain, peak; } tl_adam_rule;
/* square <- keep square + fresh grad^2, by whose root steps are divided; ratio: Adadelta. */
typedef struct { double keep, fresh, weight_decay, momentum, eps, lr; bool maximize, ratio; } tl_rms_rule;
typedef struct { double shrink, beta1, beta2, lr; bool maximize; } tl_lion_rule;
/* One step of n elements: all arrays contiguous, no two of them overlap; the rule is of the kernel's own type. */
typedef void (*tl_step_fn)(const void *rule, void *param, const void *grad, void *state0, void *state1, void *state2, int64_t n);
typedef struct {                             /* by type: [0] float32, [1] float64 */
    tl_step_fn sgd[2];                       /* state: momentum buffer (NULL: none) */
    tl_step_fn adam[2];                      /* average, square, largest square (NULL: no amsgrad) */
    tl_step_fn rms[2];                       /* square; mean, where centered, or Adadelta's squared steps, or NULL; momentum buffer (NULL: none) */
    tl_step_fn lion[2];                      /* average */
    void (*scale[2])(void *x, double factor, int64_t n);
    double (*sum_of_squares[2])(const void *x, int64_t n);
} tl_optim_kernels;
TL_KERNELS(tl_optim_kernels, optim_kernels, tl_optim_k);

#endif
