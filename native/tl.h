/* tensorlib native core: the data structures, and what each file offers the others.
 *
 *   Python shell ──owns──> tl_tensor ──owns──> tl_storage           bytes, shared by views
 *                             │ owns
 *                             v
 *                          tl_node ──edges──> parent tl_node        (interior value)
 *                             │      └──────> leaf tl_tensor        (a parameter: gradient lands in leaf->grad)
 *                             └──saved──> tl_tensor                 (data only: a saved value never owns a node)
 *
 * Counts. `refs` keeps the tl_tensor struct and its storage alive; `owners` (a part of refs) additionally keeps its node alive.
 * Saved values hold refs only: the consumer's own edges already lead to where the value came from, so saving a value can not close
 * a cycle, whatever happens to that value later. All counts are plain integers, changed under the GIL; only storage's is atomic.
 *
 * Nothing here knows a Python object: Python passes integer tokens and receives freed ones back (tl_drain_tokens). */
#ifndef TL_H
#define TL_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TL_MAX_DIMS 16
#define TL_ALIGN 64

/* ---- dtypes: the order is part of the interface (tensorlib/dtypes.py lists them in the same order; a test compares) ---- */
typedef enum {
    TL_BOOL, TL_U8, TL_I8, TL_I16, TL_I32, TL_I64, TL_F16, TL_BF16, TL_F32, TL_F64, TL_C64, TL_C128, TL_N_DTYPES
} tl_dtype;
extern const uint8_t tl_itemsize[TL_N_DTYPES];
static inline bool tl_is_float(int dt) { return dt == TL_F32 || dt == TL_F64; } /* floats that kernels compute in */

/* ---- status: why a call returned 0 / NULL. Set by tl_fail; Python reads it with tl_status() ---- */
typedef enum {
    TL_OK = 0,
    TL_DECLINE,    /* "not mine": Python takes the slow path, which also words every error about shapes and dtypes */
    TL_NOMEM,      /* allocation failed, the cap was reached, or a size overflows 63 bits */
    TL_SPENT,      /* backward a second time through a freed graph */
    TL_STALE,      /* a saved value was overwritten in place */
    TL_LEAF,       /* in-place write to a leaf (or a view of one) that requires a gradient */
    TL_RANGE,      /* an index or a target out of range; detail = the offending value */
    TL_INFERENCE   /* an inference tensor was used where autograd needs it */
} tl_status_code;
/* Thread-local. detail[] carries numbers for the message (offending index, node line, write line ...). */
typedef struct { int code; int64_t detail[4]; } tl_error;
extern _Thread_local tl_error tl_last_error;
void *tl_fail(int code);                                    /* sets the code, returns NULL */
void *tl_fail_with(int code, int64_t d0, int64_t d1, int64_t d2);

/* ---- alloc.c: caching allocator. Blocks are 64-byte aligned; big ones sit on huge pages where the system gives them ---- */
void *tl_alloc(size_t nbytes, size_t *granted);             /* NULL (status TL_NOMEM) on failure or past the cap; nbytes may be 0 */
void tl_release(void *data, size_t granted);
typedef struct { int64_t allocated, reserved, peak, cap, n_alloc, n_reused; } tl_memory_figures; /* bytes, except the last two */
void tl_memory_stats(tl_memory_figures *out);
void tl_memory_reset_peak(void);
void tl_memory_set_cap(int64_t bytes);                      /* <= 0: no cap */
void tl_empty_cache(void);

/* ---- threads.c ---- */
/* Runs body(arg, begin, end) over [0, n) in chunks of `grain` (the last one shorter). WHICH thread runs a chunk is free, the chunk
 * boundaries are not: they depend on n and grain alone, so results never depend on the number of threads. A busy or re-entered pool
 * runs in the caller. Bodies never touch the tape or a count. */
typedef void (*tl_range_fn)(void *arg, int64_t begin, int64_t end);
void tl_parallel_for(tl_range_fn body, void *arg, int64_t n, int64_t grain);
int tl_get_num_threads(void);
void tl_set_num_threads(int n);
uint64_t tl_shared_loops(void); /* how many loops were shared with workers so far */
bool tl_set_flush_denormal(bool on); /* for this thread and the loops that it runs; false: not possible here */
/* Call around work above about 20 us. Between the pair nothing touches a count or the tape. Hooks are set by the binding. */
extern void *(*tl_gil_save)(void);
extern void (*tl_gil_restore)(void *);
typedef struct { void *state; } tl_gil;
static inline tl_gil tl_unlock(bool big) { return (tl_gil){big && tl_gil_save ? tl_gil_save() : NULL}; }
static inline void tl_relock(tl_gil g) { if (g.state) tl_gil_restore(g.state); }

/* ---- arrays.c: storage and views ---- */
enum { TL_OWNED, TL_ADOPTED, TL_FOREIGN };                  /* our allocator | Python owns the bytes (token) | bytes elsewhere (token) */
typedef struct tl_storage {
    _Atomic int64_t refs;
    char *data;
    size_t nbytes, granted;
    int64_t version;                                        /* rises with every in-place write */
    int32_t write_line;                                     /* line of the last one */
    uint8_t kind, readonly;
    bool exposed, packed;                                   /* others were given its address | products keep a packed copy (packed.c) */
    int32_t captured;                                       /* number of the last capture that touched it; negative: made it (capture.c) */
    int64_t token;                                          /* 0, or the key of the Python object that owns the bytes */
} tl_storage;
/* capture.c: a thread captures a CUDA graph; only then the others may be called. */
extern bool tl_capture_open;
void tl_capture_made(tl_storage *s);
void tl_capture_touched(tl_storage *s, bool write, int line);
void tl_capture_died(tl_storage *s);

enum {
    TL_REQUIRES_GRAD = 1,
    TL_CONTIGUOUS = 2,
    TL_IS_VIEW = 4,                                         /* `base` is set: in-place writes rebase the base's history */
    TL_RETAIN_GRAD = 8,
    TL_HAS_HOOKS = 16,                                      /* leaf with hooks: the engine reports it (NEED_PYTHON) once its gradient is complete */
    TL_INFERENCE_TENSOR = 32,
    TL_NUMBER = 64,                                         /* a Python number beside a tensor operand; nobody else holds it */
    TL_SHOWS_GRAD = 128                                     /* leaf with hooks that see its gradient before it is accumulated, and may replace it */
};
typedef struct tl_node tl_node;
typedef struct tl_tensor {
    int32_t refs, owners;
    tl_storage *storage;
    int64_t offset;                                         /* elements */
    uint8_t dtype, ndim;
    uint16_t flags;
    uint16_t out_nr;                                        /* which output of node */
    uint16_t cls;                                           /* free-list class */
    int32_t hooks;                                          /* key of Python's hook list, 0: none */
    int64_t numel;
    tl_node *node;                                          /* NULL: leaf */
    struct tl_tensor *grad;                                 /* leaf (or retain_grad): owned */
    struct tl_grad_place *place;                            /* leaf: where its gradient is to lie (leaf.c): owned */
    struct tl_tensor *base;                                 /* TL_IS_VIEW: owned */
    int64_t rebased;                                        /* base: how often its history was rewritten; view: at which count node was made */
    int64_t *strides;                                       /* elements; dims + ndim */
    int64_t dims[];
} tl_tensor;

tl_storage *tl_storage_new(size_t nbytes);
void tl_mm_forget(const tl_storage *s);                     /* packed.c: drops packed copies of s, or of all (NULL) */
tl_storage *tl_storage_adopt(void *data, size_t nbytes, int kind, int64_t token, bool readonly);
void tl_storage_release(tl_storage *s);
void tl_token_died(int64_t token);                          /* puts a Python object's key on the list that Python drains */
static inline char *tl_data(const tl_tensor *t) { return t->storage->data + t->offset * tl_itemsize[t->dtype]; }
static inline bool tl_contiguous(const tl_tensor *t) { return t->flags & TL_CONTIGUOUS; }
/* Fresh, uninitialised, contiguous. NULL with TL_NOMEM where the product overflows or memory ends. owners = refs = 1. */
tl_tensor *tl_new(int dtype, int ndim, const int64_t *dims);
/* Another view of src's storage, no autograd links. strides NULL: contiguous. */
tl_tensor *tl_new_view(const tl_tensor *src, int ndim, const int64_t *dims, const int64_t *strides, int64_t offset);
tl_tensor *tl_new_on(tl_storage *s, int dtype, int ndim, const int64_t *dims, const int64_t *strides, int64_t offset);
void tl_own(tl_tensor *t);                                  /* owners++ and refs++ */
void tl_free(tl_tensor *t);                                 /* undoes tl_own / tl_new; NULL is fine */
static inline void tl_keep(tl_tensor *t) { t->refs++; }     /* data only */
void tl_unkeep(tl_tensor *t);
bool tl_same_shape(const tl_tensor *a, const tl_tensor *b);
bool tl_numel_checked(int ndim, const int64_t *dims, int itemsize, int64_t *numel, int64_t *nbytes); /* false: overflow or negative */

/* ---- array-level operations: no autograd. Each returns a fresh tensor or NULL (TL_DECLINE / TL_NOMEM / TL_RANGE).
 * All take any strides and 0-d and zero-size operands; FOREIGN storage is declined by the caller before. ---- */
tl_tensor *arr_unary(int op, const tl_tensor *x);
tl_tensor *arr_binary(int op, const tl_tensor *a, const tl_tensor *b);                 /* same dtype, broadcasting */
tl_tensor *arr_ternary(int op, const tl_tensor *a, const tl_tensor *b, const tl_tensor *c);
bool arr_unary_into(int op, tl_tensor *out, const tl_tensor *x);                       /* out of the result shape; may alias an operand exactly */
bool arr_binary_into(int op, tl_tensor *out, const tl_tensor *a, const tl_tensor *b);
tl_tensor *arr_reduce(int op, const tl_tensor *x, uint32_t dim_mask, bool keepdim);
bool arr_copy_into(tl_tensor *out, const tl_tensor *x);                                /* casts, broadcasts x to out */
bool arr_fill(tl_tensor *out, double value);
tl_tensor *arr_cast(const tl_tensor *x, int dtype);                                    /* always fresh and contiguous */
tl_tensor *arr_sum_to(tl_tensor *g, int dtype, int ndim, const int64_t *dims);         /* undo broadcasting; consumes g */
tl_tensor *arr_matmul(const tl_tensor *a, const tl_tensor *b);                         /* 1-d, 2-d, batched with broadcasting; float dtypes */

/* ---- tape.c: nodes ---- */
typedef struct { uint8_t dtype, ndim; int32_t refs; int64_t dims[]; } tl_meta;  /* the shape and dtype a gradient must come out in */
typedef struct {
    void *to;                                               /* tl_node * (leaf false) or leaf tl_tensor * (leaf true); NULL: no gradient */
    tl_meta *meta;                                          /* NULL: the gradient already has the input's shape and dtype */
    uint16_t out_nr;
    bool leaf;
} tl_edge;
enum { TL_SAVED_NONE, TL_SAVED_INPUT, TL_SAVED_OUTPUT, TL_SAVED_GEOMETRY, TL_SAVED_EXTRA }; /* GEOMETRY: only shape and strides are read. EXTRA: what the kernel computed for its gradient, seen by nobody else */
typedef struct {
    tl_tensor *value;                                       /* kept: data only */
    int64_t version;
    uint8_t kind;
    uint8_t index;                                          /* which input or output */
} tl_saved;
#define TL_NODE_INTS 6
struct tl_node {
    int32_t refs;
    uint16_t op;                                            /* < TL_N_OPS: named in ops.h; else an entry that only Python knows */
    uint16_t flags;
    uint64_t seq;                                           /* newest first: a consumer always has a higher number than what it consumed */
    int32_t line;
    int32_t n_in;
    uint16_t n_out, n_saved, cls;
    int32_t busy;                                           /* runs inside its gradient right now: saved values stay until the last leaves */
    int32_t hooks;                                          /* key of Python's hook list, 0: none */
    int64_t token;                                          /* Python object with the attributes of a Python-recorded node */
    int64_t ints[TL_NODE_INTS];                             /* small attributes: meaning by op, see the comment beside its gradient */
    double real[2];
    tl_node *next;                                          /* only while it waits to be freed */
    tl_saved *saved;                                        /* both arrays lie behind the struct */
    tl_edge edges[];
};
enum { TL_NODE_SPENT = 1, TL_NODE_RETAIN = 2 };             /* saved values released | an output asked for retain_grad */

extern _Thread_local bool tl_grad_enabled, tl_inference;
void tl_view_refresh(tl_tensor *v);                      /* views.c: the base's history was rewritten, so derive the view's anew */
/* True when an operation on t must be recorded. */
static inline bool tl_tracks(tl_tensor *t)
{
    if (!t) return false;
    if (__builtin_expect(t->flags & TL_IS_VIEW, 0) && t->rebased != t->base->rebased) tl_view_refresh(t);
    return t->flags & TL_REQUIRES_GRAD;
}

/* What a gradient reads, as a mask: the data of an input or an output, or only the shape of an input. */
#define TL_IN(i) (UINT64_C(1) << (i))             /* i < 24 */
#define TL_OUT(j) (UINT64_C(1) << (24 + (j)))     /* j < 8 */
#define TL_SHAPE(i) (UINT64_C(1) << (32 + (i)))
/* Forward keeps, for every input that needs a gradient, the union of what its C gradient reads (the .def tables) and what its Python
 * rule names (registered once, at import). */
void tl_register_rule(int op, int input, uint64_t needs);

/* Records `out = op(inputs...)` when recording is on and an input requires a gradient. Returns false only where memory ended
 * (out is unchanged then). *made, if not NULL, receives the node (borrowed; NULL where nothing was recorded), for its attributes. */
bool tl_record(int op, int n_in, tl_tensor *const *inputs, tl_tensor *out, int line, tl_node **made);
/* The same for any number of inputs and outputs, with an explicit mask and every input's shape kept. */
tl_node *tl_record_many(int op, int n_in, tl_tensor *const *inputs, int n_out, tl_tensor *const *outs, uint64_t needs, int line);
tl_node *tl_node_new(int op, int n_in, int n_saved, int line);   /* edges and saved zeroed; refs = 1 */
tl_edge tl_edge_to(tl_tensor *t);                        /* owned; `to` NULL where t needs no gradient */
bool tl_edge_shape(tl_edge *e, const tl_tensor *t);      /* keep t's shape in the edge; false where memory ended */
void tl_attach(tl_tensor *out, int out_nr, tl_node *n);  /* out := output out_nr of n (takes its own reference) */
void tl_detach_inplace(tl_tensor *t);
void tl_node_free(tl_node *n);
void tl_node_release_saved(tl_node *n);
void tl_saved_set(tl_node *n, int slot, tl_tensor *t, int kind, int index);
int64_t tl_saved_stale(const tl_node *n);                /* slot whose value was overwritten since, or -1 */

/* ---- views.c ---- */
bool tl_shows_part(const tl_node *n);                   /* a slice, a selection or a diagonal of its input */
bool tl_add_part(const tl_node *n, tl_tensor *whole, const tl_tensor *g); /* g of such a node onto its place in the input's gradient */
bool tl_overwritable(const tl_tensor *x);            /* its memory may be written, and every element has a place of its own there */
/* x will be overwritten: NULL if that is forbidden (status says why), else x. */
tl_tensor *tl_writable(tl_tensor *x);
void tl_written(tl_tensor *x, int line);             /* version and line of the write */
bool tl_rewrites_history(tl_tensor *x, tl_tensor *r); /* whether writing r (NULL: a constant) into x has to be recorded */
bool tl_history_fits(tl_tensor *x, tl_tensor *r);    /* false, with the status set, where it would have to be and can not: ask before writing */
/* x was overwritten with the value of r (same shape and dtype; r may need a gradient): x takes r's place in the graph, and where x is a
 * view, its base and all other views of it follow. False where memory ended. */
bool tl_rewrite_history(tl_tensor *x, tl_tensor *r, int line);

/* Input i / output j as kept by the node, for C gradients: NULL where it was not kept. */
const tl_tensor *tl_saved_input(const tl_node *n, int i);
const tl_tensor *tl_saved_output(const tl_node *n, int j);
const tl_tensor *tl_saved_geometry(const tl_node *n);
const tl_tensor *tl_saved_extra(const tl_node *n, int i);
/* A C gradient: g is the gradient of output 0 (borrowed); writes an owned tensor to gin[i] for every edge with to != NULL.
 * Returns false to decline (gin untouched): Python's rule runs instead. Broadcast sizes need not be undone (edges carry meta). */
typedef bool (*tl_grad_fn)(const tl_node *n, const tl_tensor *g, tl_tensor **gin);
extern const tl_grad_fn tl_gradients[];                     /* by op; NULL: none */
/* The same for operations with several floating outputs: g by output, NULL where nothing flows back. */
typedef bool (*tl_grads_fn)(const tl_node *n, tl_tensor *const *g, tl_tensor **gin);
extern const tl_grads_fn tl_gradients_of_many[];

/* ---- leaf.c ---- */
bool tl_exclusive(const tl_tensor *g);
bool tl_accumulate_grad(tl_tensor *leaf, tl_tensor *g);  /* leaf->grad += g; consumes g */
tl_tensor *tl_free_place(const tl_tensor *leaf, int dtype); /* where the first gradient of that dtype may be written: yours to free, or NULL */
bool tl_put_off(tl_tensor *leaf, const tl_tensor *g, const tl_tensor *x); /* whether g^T x, its first gradient, is kept as these factors */
void tl_make_grad(tl_tensor *leaf);                      /* multiplies factors that are kept, so that leaf->grad is what it should be */
void tl_forget_grad(tl_tensor *leaf);
void tl_place_free(struct tl_grad_place *p);             /* NULL is fine */
#endif
