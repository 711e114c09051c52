/* What Python needs beyond the operations: making, reading and letting go of handles. */
#include "api.h"
#include "kernels.h"

int tl_status(void) { return tl_last_error.code; }
void tl_clear_status(void) { tl_last_error.code = TL_OK; }
int64_t tl_detail(int i) { return tl_last_error.detail[i & 3]; }

static const char *const names[TL_N_OPS] = {
#define EW1(name, ...) #name,
#define EW2(name, ...) #name,
#define EW3(name, ...) #name,
#define REDUCE(name, ...) #name,
#define VIEW(name, ...) #name,
#define OP(name, ...) #name,
#include "elementwise.def"
#include "structured.def"
};

int tl_op_number(const char *name)
{
    for (int i = 0; i < TL_N_OPS; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

const char *tl_op_name(int op) { return op >= 0 && op < TL_N_OPS ? names[op] : ""; }

int64_t tl_dead_tokens(void);

int64_t tl_drop(tl_tensor *t)
{
    tl_free(t);
    return tl_dead_tokens();
}

tl_tensor *tl_new_filled(int dtype, int ndim, const int64_t *dims, double value)
{
    tl_tensor *t = tl_new(dtype, ndim, dims);
    if (t && !arr_fill(t, value)) {
        tl_free(t);
        return NULL;
    }
    return t;
}

tl_tensor *tl_adopt(uintptr_t data, int64_t nbytes, int kind, int64_t token, bool readonly, int dtype, int ndim, const int64_t *dims,
                    const int64_t *strides)
{
    tl_storage *s = tl_storage_adopt((void *)data, (size_t)nbytes, kind, token, readonly);
    tl_tensor *t = s ? tl_new_on(s, dtype, ndim, dims, strides, 0) : NULL;
    tl_storage_release(s);
    if (t && kind == TL_FOREIGN && tl_inference) t->flags |= TL_INFERENCE_TENSOR; /* a result, where an array module computes */
    return t;
}

/* ---- reading ---- */
int tl_dtype_of(tl_tensor *t) { return t->dtype; }
int tl_ndim(tl_tensor *t) { return t->ndim; }
int64_t tl_numel(tl_tensor *t) { return t->numel; }
const int64_t *tl_dims(tl_tensor *t) { return t->dims; }
const int64_t *tl_strides(tl_tensor *t) { return t->strides; }
int64_t tl_offset(tl_tensor *t) { return t->offset; }
bool tl_is_contiguous(tl_tensor *t) { return tl_contiguous(t); }
uintptr_t tl_address(tl_tensor *t)
{
    t->storage->exposed = true;
    if (tl_capture_open) tl_capture_touched(t->storage, false, 0);
    return (uintptr_t)tl_data(t);
}

/* The address for the library's own use: to read, or to fill a tensor that nobody has seen. Products go on keeping packed copies. */
uintptr_t tl_peek(tl_tensor *t) { return (uintptr_t)tl_data(t); }

uintptr_t tl_storage_address(tl_tensor *t) { return (uintptr_t)t->storage; }
int64_t tl_storage_bytes(tl_tensor *t) { return (int64_t)t->storage->nbytes; }
int tl_storage_kind(tl_tensor *t) { return t->storage->kind; }
int64_t tl_storage_token(tl_tensor *t)
{
    if (tl_capture_open) tl_capture_touched(t->storage, false, 0);
    return t->storage->token;
}
bool tl_readonly(tl_tensor *t) { return t->storage->readonly; }
int64_t tl_version(tl_tensor *t) { return t->storage->version; }
int tl_write_line(tl_tensor *t) { return t->storage->write_line; }

/* The one value of a bool, integer, float32 or float64 tensor on this machine; the caller has checked all that. */
double tl_item(tl_tensor *t)
{
    const char *p = tl_data(t);
    switch (t->dtype) {
    case TL_F32: return *(const float *)p;
    case TL_F64: return *(const double *)p;
    default: return (double)tl_item_int(t);
    }
}

int64_t tl_item_int(tl_tensor *t)
{
    const char *p = tl_data(t);
    switch (t->dtype) {
    case TL_BOOL:
    case TL_U8: return *(const uint8_t *)p;
    case TL_I8: return *(const int8_t *)p;
    case TL_I16: return *(const int16_t *)p;
    case TL_I32: return *(const int32_t *)p;
    default: return *(const int64_t *)p;
    }
}

/* ---- gradients and their flags ---- */
bool tl_requires_grad(tl_tensor *t) { return tl_tracks(t); }

void tl_set_requires_grad(tl_tensor *t, bool on)
{
    t->flags = (uint16_t)(on ? t->flags | TL_REQUIRES_GRAD : t->flags & ~TL_REQUIRES_GRAD);
}

bool tl_is_inference(tl_tensor *t) { return t->flags & TL_INFERENCE_TENSOR; }
bool tl_is_view_of(tl_tensor *t, tl_tensor *base) { return t->base == base; }

tl_tensor *tl_base(tl_tensor *t)
{
    if (t->base) tl_own(t->base);
    return t->base;
}

tl_tensor *tl_grad_of(tl_tensor *t)
{
    tl_make_grad(t);
    if (t->grad) tl_own(t->grad);
    return t->grad;
}

uintptr_t tl_grad_id(tl_tensor *t)
{
    tl_make_grad(t);
    return (uintptr_t)t->grad;
}

void tl_set_grad(tl_tensor *t, tl_tensor *g)
{
    if (g) tl_own(g);
    tl_forget_grad(t);
    t->grad = g;
}

/* Says that t stands for a Python number beside a tensor operand: a graph that keeps nothing else is not used up. */
void tl_mark_number(tl_tensor *t) { t->flags |= TL_NUMBER; }

/* Whether nobody but t's holder sees its memory, wherever that is, and it has an element for each of t's. */
bool tl_is_sole(const tl_tensor *t)
{
    return t->refs == 1 && t->storage->refs == 1 && tl_contiguous(t) && t->storage->kind != TL_ADOPTED;
}

/* What kernels are chosen by, of n tensors (NULL: none), written to `out`: dtype, kind of memory, the address modulo 16 and number of dimensions in one
 * number, then sizes and strides. Returns how many numbers, 0 where they are more than `room`. */
int tl_layout(int n, tl_tensor *const *ts, int64_t *out, int room)
{
    int at = 0;
    for (int i = 0; i < n; i++) {
        const tl_tensor *t = ts[i];
        int ndim = t ? t->ndim : 0;
        if (at + 1 + 2 * ndim > room) return 0;
        out[at++] = t ? ((int64_t)(uintptr_t)tl_data(t) & 15) << 24 | t->storage->kind << 16 | t->dtype << 8 | ndim : -1;
        if (!ndim) continue;
        memcpy(out + at, t->dims, (size_t)ndim * sizeof *out);
        memcpy(out + at + ndim, t->strides, (size_t)ndim * sizeof *out);
        at += 2 * ndim;
    }
    return at;
}

/* As the engine would: g stays the caller's. */
bool tl_accumulate_grad_copy(tl_tensor *leaf, tl_tensor *g)
{
    tl_own(g);
    return tl_accumulate_grad(leaf, g);
}

int tl_hooks(tl_tensor *t) { return t->hooks; }

void tl_set_hooks(tl_tensor *t, int key)
{
    t->hooks = key;
    t->flags |= TL_HAS_HOOKS;
}

void tl_show_grad(tl_tensor *leaf) { leaf->flags |= TL_SHOWS_GRAD; }

void tl_move_hooks(tl_tensor *to, tl_tensor *from)
{
    enum { HOOKS = TL_HAS_HOOKS | TL_SHOWS_GRAD };
    to->hooks = from->hooks;
    to->flags = (uint16_t)((to->flags & ~HOOKS) | (from->flags & HOOKS));
    from->hooks = 0;
    from->flags &= (uint16_t)~HOOKS;
}

bool tl_set_grad_enabled(bool on)
{
    bool before = tl_grad_enabled;
    tl_grad_enabled = on;
    return before;
}

bool tl_is_grad_enabled(void) { return tl_grad_enabled; }

bool tl_set_inference(bool on)
{
    bool before = tl_inference;
    tl_inference = on;
    return before;
}

bool tl_is_inference_mode(void) { return tl_inference; }

/* ---- nodes ---- */
tl_node *tl_node_of(tl_tensor *t) { return tl_tracks(t) ? t->node : NULL; }
int tl_out_nr(tl_tensor *t) { return t->out_nr; }
void tl_node_own(tl_node *n) { n->refs++; }
int tl_node_op(tl_node *n) { return n->op; }
int tl_node_line(tl_node *n) { return n->line; }
uint64_t tl_node_seq(tl_node *n) { return n->seq; }
int tl_node_inputs(tl_node *n) { return n->n_in; }
int tl_node_outputs(tl_node *n) { return n->n_out; }
int64_t tl_node_token(tl_node *n) { return n->token; }
int64_t tl_node_int(tl_node *n, int i) { return n->ints[i]; }
double tl_node_real(tl_node *n, int i) { return n->real[i]; }
int tl_node_hooks(tl_node *n) { return n->hooks; }
void tl_node_set_hooks(tl_node *n, int key) { n->hooks = key; }
tl_node *tl_node_parent(tl_node *n, int i) { return n->edges[i].leaf ? NULL : n->edges[i].to; }
int tl_node_parent_nr(tl_node *n, int i) { return n->edges[i].out_nr; }

tl_tensor *tl_node_leaf(tl_node *n, int i)
{
    if (!n->edges[i].leaf) return NULL;
    tl_own(n->edges[i].to);
    return n->edges[i].to;
}

const tl_meta *tl_node_meta(tl_node *n, int i) { return n->edges[i].meta; }
int tl_meta_dtype(const tl_meta *m) { return m->dtype; }
int tl_meta_ndim(const tl_meta *m) { return m->ndim; }
const int64_t *tl_meta_dims(const tl_meta *m) { return m->dims; }

/* A kept value with its place in the graph: an input behind the node's own edge, an output on the node itself. */
tl_tensor *tl_node_saved(tl_node *n, int kind, int index)
{
    const tl_tensor *kept = kind == TL_SAVED_INPUT ? tl_saved_input(n, index) : kind == TL_SAVED_OUTPUT ? tl_saved_output(n, index) : tl_saved_geometry(n);
    if (!kept) return tl_fail(TL_DECLINE);
    if (kind == TL_SAVED_INPUT && n->edges[index].leaf) { /* the leaf itself, so that its gradient lands there */
        tl_own(n->edges[index].to);
        return n->edges[index].to;
    }
    tl_tensor *t = tl_new_view(kept, kept->ndim, kept->dims, kept->strides, kept->offset);
    if (!t || kind == TL_SAVED_GEOMETRY) return t;
    if (kind == TL_SAVED_OUTPUT)
        tl_attach(t, index, n);
    else if (n->edges[index].to)
        tl_attach(t, n->edges[index].out_nr, n->edges[index].to);
    return t;
}

tl_node *tl_record_python(int op, int n_in, tl_tensor *const *inputs, int n_out, tl_tensor *const *outs, uint64_t needs, int64_t token, int line)
{
    tl_node *n = tl_record_many(op, n_in, inputs, n_out, outs, needs, line);
    if (n) n->token = token;
    return n;
}

int64_t tl_memory_figure(int i)
{
    tl_memory_figures f;
    tl_memory_stats(&f);
    const int64_t figures[] = {f.allocated, f.reserved, f.peak, f.cap, f.n_alloc, f.n_reused};
    return i >= 0 && i < 6 ? figures[i] : -1;
}
