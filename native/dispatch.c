/* The life of an operation, in C: check, compute, record. One function per arity; what it does not serve it declines, and Python takes
 * the slow path. Handles come from Python's own Tensor objects, so they are valid; everything else is checked here. */
#include "api.h"
#include "kernels.h"
#include "record.h"

static inline bool carries_gradient(const tl_tensor *t) { return t->dtype >= TL_F16; }

/* out, with op's node on it where recording is due */
static inline tl_tensor *recorded(int op, int n_in, tl_tensor *const *in, tl_tensor *out, int line)
{
    if (!out || !tl_grad_enabled || !carries_gradient(out) || tl_record(op, n_in, in, out, line, NULL)) return out;
    tl_free(out);
    return NULL;
}

_Thread_local int tl_autocast;

int tl_set_autocast(int dtype)
{
    int before = tl_autocast;
    tl_autocast = dtype;
    return before;
}

int tl_autocast_dtype(void) { return tl_autocast; }

tl_tensor *tl_unary(int op, tl_tensor *x, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    return recorded(op, 1, &x, arr_unary(op, x), line);
}

tl_tensor *tl_binary(int op, tl_tensor *a, tl_tensor *b, int line)
{
    if (a->dtype != b->dtype || tl_elsewhere(a) || tl_elsewhere(b)) return tl_fail(TL_DECLINE);
    tl_tensor *in[2] = {a, b};
    return recorded(op, 2, in, arr_binary(op, a, b), line);
}

/* how a Python number stands beside a tensor (ops/declare.py passes them): it comes first; it is a float */
enum { REVERSED = 1, REAL = 2 };

/* A Python number as a 0-d operand beside x: declined where it raises x's dtype, or x's dtype can not hold it (promotion is Python's). */
static tl_tensor *scalar_operand(const tl_tensor *x, double s, int how)
{
    if (!tl_is_float(x->dtype)) {
        if (how & REAL) return tl_fail(TL_DECLINE);
        static const double most[] = {[TL_U8] = 255, [TL_I8] = 127, [TL_I16] = 32767, [TL_I32] = 2147483647, [TL_I64] = 9007199254740992};
        if (x->dtype < TL_U8 || x->dtype > TL_I64 || s != (double)(int64_t)(s > 1e16 || s < -1e16 ? 0 : s)) return tl_fail(TL_DECLINE);
        if (s > most[x->dtype] || s < (x->dtype == TL_U8 ? 0 : -most[x->dtype])) return tl_fail(TL_DECLINE);
    }
    tl_tensor *t = tl_new(x->dtype, 0, NULL);
    if (!t) return NULL;
    switch (x->dtype) {
    case TL_F32: *(float *)tl_data(t) = (float)s; break;
    case TL_F64: *(double *)tl_data(t) = s; break;
    default: arr_fill(t, s);
    }
    t->flags |= TL_NUMBER;
    return t;
}

tl_tensor *tl_binary_scalar(int op, tl_tensor *x, double s, int how, int line)
{
    bool reversed = how & REVERSED;
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    if (op == TL_OP_pow && !reversed && (s == 2 || s == 0.5) && (tl_is_float(x->dtype) || !(how & REAL))) return tl_unary(s == 2 ? TL_OP_square : TL_OP_sqrt, x, line);
    tl_tensor *b = scalar_operand(x, s, how);
    if (!b) return NULL;
    tl_tensor *out = reversed ? tl_binary(op, b, x, line) : tl_binary(op, x, b, line);
    tl_free(b);
    return out;
}

tl_tensor *tl_ternary(int op, tl_tensor *a, tl_tensor *b, tl_tensor *c, int line)
{
    if (tl_elsewhere(a) || tl_elsewhere(b) || tl_elsewhere(c) || b->dtype != c->dtype) return tl_fail(TL_DECLINE);
    tl_tensor *in[3] = {a, b, c};
    return recorded(op, 3, in, arr_ternary(op, a, b, c), line);
}

tl_tensor *tl_reduce(int op, tl_tensor *x, uint32_t mask, bool keepdim, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    tl_tensor *out = arr_reduce(op, x, mask, keepdim);
    tl_node *node = NULL;
    if (out && tl_grad_enabled && carries_gradient(out)) {
        if (!tl_record(op, 1, &x, out, line, &node)) {
            tl_free(out);
            return NULL;
        }
        if (node) node->ints[0] = mask, node->ints[1] = keepdim;
    }
    return out;
}

tl_tensor *tl_cast(tl_tensor *x, int dtype, int line)
{
    bool to_complex = dtype >= TL_C64 && x->dtype < TL_C64; /* not differentiable: Python says so */
    if (tl_elsewhere(x) || (to_complex && tl_grad_enabled && tl_tracks(x))) return tl_fail(TL_DECLINE);
    return recorded(TL_OP_cast, 1, &x, arr_cast(x, dtype), line);
}

tl_tensor *tl_clone(tl_tensor *x, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    return recorded(TL_OP_clone, 1, &x, arr_cast(x, x->dtype), line);
}

/* ints[0]: whether an operand is a vector */
tl_tensor *tl_matmul(tl_tensor *a, tl_tensor *b, int line)
{
    if (a->dtype != b->dtype || tl_elsewhere(a) || tl_elsewhere(b) || tl_lowers(a)) return tl_fail(TL_DECLINE);
    tl_tensor *in[2] = {a, b};
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_matmul, 2, in, arr_matmul(a, b), line, &node);
    if (node) node->ints[0] = a->ndim < 2 || b->ndim < 2;
    return out;
}

tl_tensor *tl_linear(tl_tensor *x, tl_tensor *w, tl_tensor *b, int line)
{
    if (x->dtype != w->dtype || (b && b->dtype != w->dtype) || tl_elsewhere(x) || tl_elsewhere(w) || tl_elsewhere(b) || tl_lowers(x))
        return tl_fail(TL_DECLINE);
    tl_tensor *in[3] = {x, w, b};
    return recorded(TL_OP_linear, b ? 3 : 2, in, arr_linear(x, w, b), line);
}

/* softmax, log_softmax. ints[0]: dim */
tl_tensor *tl_row(int op, tl_tensor *x, int64_t dim, int line)
{
    if (tl_elsewhere(x) || !tl_is_float(x->dtype) || dim < 0 || dim >= x->ndim) return tl_fail(TL_DECLINE);
    tl_tensor *out = op == TL_OP_softmax ? arr_softmax(x, (int)dim) : op == TL_OP_log_softmax ? arr_log_softmax(x, (int)dim) : tl_fail(TL_DECLINE);
    tl_node *node = NULL;
    if (out && !tl_record(op, 1, &x, out, line, &node)) {
        tl_free(out);
        return NULL;
    }
    if (node) node->ints[0] = dim;
    return out;
}

/* mask: bool or added to the scores, or NULL. ints: causal, grouped, seed, counter; real: scale, dropout; extra: the kernel's own */
tl_tensor *tl_attend(tl_tensor *q, tl_tensor *k, tl_tensor *v, tl_tensor *mask, double scale, bool causal, bool grouped, double dropout, uint64_t seed, uint64_t counter, int line)
{
    if (tl_elsewhere(q) || tl_elsewhere(k) || tl_elsewhere(v) || tl_elsewhere(mask) || tl_tracks(mask) || tl_lowers(q)) return tl_fail(TL_DECLINE);
    tl_attention how = {scale, dropout, seed, counter, causal, grouped};
    tl_tensor *in[4] = {q, k, v, mask}, *stats = NULL;
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_scaled_dot_product_attention, 4, in, arr_attention(q, k, v, mask, &how, &stats), line, &node);
    if (node) {
        node->ints[0] = causal, node->ints[1] = grouped, node->ints[2] = (int64_t)seed, node->ints[3] = (int64_t)counter;
        node->real[0] = scale, node->real[1] = dropout;
        tl_keep_extra(node, 0, stats);
    }
    tl_free(stats);
    return out;
}

/* ints: padding, how the gradient comes: 0 C's, 1 sparse, 2 scaled by frequency */
tl_tensor *tl_embedding(tl_tensor *w, tl_tensor *index, int64_t padding, int how, int line)
{
    if (tl_elsewhere(w) || tl_elsewhere(index)) return tl_fail(TL_DECLINE);
    tl_tensor *in[2] = {w, index};
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_embedding, 2, in, arr_embedding(w, index), line, &node);
    if (node) node->ints[0] = padding, node->ints[1] = how;
    return out;
}

/* ints: key, counter; real[0]: p */
tl_tensor *tl_dropout(tl_tensor *x, double p, uint64_t key, uint64_t counter, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_dropout, 1, &x, arr_dropout(x, p, key, counter), line, &node);
    if (node) node->ints[0] = (int64_t)key, node->ints[1] = (int64_t)counter, node->real[0] = p;
    return out;
}

/* kind: 0 uniform, 1 normal, 2 integers in [a, b), 3 bernoulli (1 with probability a) in `dtype` */
tl_tensor *tl_random(int kind, uint64_t key, uint64_t counter, int dtype, int ndim, const int64_t *dims, double a, double b)
{
    switch (kind) {
    case 0: return arr_random(TL_RANDOM_UNIFORM, key, counter, dtype, ndim, dims, a, b);
    case 1: return arr_random(TL_RANDOM_NORMAL, key, counter, dtype, ndim, dims, a, b);
    case 2: return dtype == TL_I64 ? arr_randint(key, counter, ndim, dims, (int64_t)a, (int64_t)b) : tl_fail(TL_DECLINE);
    default: break;
    }
    tl_tensor *mask = arr_random(TL_RANDOM_BERNOULLI, key, counter, TL_BOOL, ndim, dims, a, b);
    tl_tensor *out = mask ? arr_cast(mask, dtype) : NULL;
    tl_free(mask);
    return out;
}

/* ints[0]: dim; every input's shape stays with its edge */
tl_tensor *tl_cat(tl_tensor *const *xs, int n, int dim, int line)
{
    bool tracked = false;
    for (int i = 0; i < n; i++) {
        if (tl_elsewhere(xs[i]) || xs[i]->dtype != xs[0]->dtype) return tl_fail(TL_DECLINE);
        tracked |= tl_tracks(xs[i]);
    }
    tl_tensor *out = arr_cat((const tl_tensor *const *)xs, n, dim);
    if (!out || !tracked || !tl_grad_enabled || !carries_gradient(out)) return out;
    tl_node *node = tl_record_many(TL_OP_cat, n, xs, 1, &out, 0, line);
    if (!node) {
        tl_free(out);
        return NULL;
    }
    node->ints[0] = dim;
    return out;
}

/* ---- writing in place ---- */
static bool fits_in_place(const tl_tensor *x, const tl_tensor *r)
{
    return r->dtype == x->dtype && tl_same_shape(r, x);
}

/* x will be overwritten with r, and r's gradient reads x as it was: then it reads a copy, `given` or made here. Only x itself: other tensors
 * over the same memory that were saved stay stale, as in PyTorch. */
static bool rescue_saved(tl_node *n, const tl_tensor *x, tl_tensor *given)
{
    for (int i = 0; n && i < n->n_saved; i++) {
        tl_saved *s = &n->saved[i];
        if (s->value != x || s->kind == TL_SAVED_GEOMETRY) continue;
        tl_tensor *copy = given ? given : arr_cast(x, x->dtype);
        if (!copy) return false;
        if (given) tl_keep(given);
        tl_unkeep(s->value);
        s->value = copy;
        s->version = copy->storage->version;
    }
    return true;
}

/* x := r, values and history; r has x's shape and dtype. False: nothing changed (status says why). */
bool tl_assign(tl_tensor *x, tl_tensor *r, int line)
{
    if (!fits_in_place(x, r)) return tl_fail(TL_DECLINE);
    if (!tl_writable(x)) return false;
    if (tl_elsewhere(x) || tl_elsewhere(r)) return tl_fail(TL_DECLINE);
    if (!tl_history_fits(x, r)) return false;
    if (tl_grad_enabled && tl_tracks(r) && !rescue_saved(r->node, x, NULL)) return false;
    if (!arr_copy_into(x, r)) return false;
    tl_written(x, line);
    return tl_rewrite_history(x, r, line);
}

/* The same questions before x := r is written by Python, elsewhere: what r's gradient reads of x then lies in `copy`. r NULL: a number. */
bool tl_assigning(tl_tensor *x, tl_tensor *r, tl_tensor *copy)
{
    return tl_writable(x) && tl_history_fits(x, r) && (!r || !tl_grad_enabled || !tl_tracks(r) || rescue_saved(r->node, x, copy));
}

bool tl_binary_inplace(int op, tl_tensor *x, tl_tensor *b, int line)
{
    if (x->dtype != b->dtype || tl_elsewhere(x) || tl_elsewhere(b)) return tl_fail(TL_DECLINE);
    if (!tl_writable(x)) return false;
    if (tl_rewrites_history(x, b)) {
        tl_tensor *r = tl_binary(op, x, b, line);
        bool ok = r && tl_assign(x, r, line);
        tl_free(r);
        return ok;
    }
    if (!arr_binary_into(op, x, x, b)) return false;
    tl_written(x, line);
    return true;
}

bool tl_binary_scalar_inplace(int op, tl_tensor *x, double s, int how, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    tl_tensor *b = scalar_operand(x, s, how);
    bool ok = b && tl_binary_inplace(op, x, b, line);
    tl_free(b);
    return ok;
}

bool tl_unary_inplace(int op, tl_tensor *x, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    if (!tl_writable(x)) return false;
    if (tl_rewrites_history(x, NULL)) {
        tl_tensor *r = tl_unary(op, x, line);
        bool ok = r && tl_assign(x, r, line);
        tl_free(r);
        return ok;
    }
    if (!arr_unary_into(op, x, x)) return false;
    tl_written(x, line);
    return true;
}

/* x := src, broadcast and cast */
bool tl_copy(tl_tensor *x, tl_tensor *src, int line)
{
    if (tl_elsewhere(x) || tl_elsewhere(src)) return tl_fail(TL_DECLINE);
    if (!tl_writable(x)) return false;
    if (tl_rewrites_history(x, src)) {
        tl_tensor *cast = src->dtype == x->dtype ? src : tl_cast(src, x->dtype, line);
        tl_tensor *wide = cast ? tl_expand(cast, x->ndim, x->dims, line) : NULL;
        bool ok = wide && tl_assign(x, wide, line);
        tl_free(wide);
        if (cast != src) tl_free(cast);
        return ok;
    }
    if (!arr_copy_into(x, src)) return false;
    tl_written(x, line);
    return true;
}

bool tl_fill(tl_tensor *x, double value, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    if (!tl_writable(x) || !tl_history_fits(x, NULL) || !arr_fill(x, value)) return false;
    tl_written(x, line);
    return tl_rewrite_history(x, NULL, line);
}
