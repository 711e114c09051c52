/* Elementwise operations over arrays: finds the kernel, brings operands of any shape and strides to it in contiguous pieces, in threads.
 *
 * The kernels know two kinds of operand: contiguous, and one value for all. So:
 *   - all operands contiguous and of out's shape (or one element): the kernel runs on them as they lie;
 *   - otherwise an `ew_plan`: dimensions sorted by out's strides and merged where every operand allows, the innermost run in pieces, and an
 *     operand that is strided along it copied through a small buffer.
 * What an element comes out as depends on its inputs alone, so no split, thread or layout changes a bit. */
#include "kernels.h"

enum {
    GRAIN = 65536,              /* elements per chunk of a thread */
    PIECE = 512,                /* elements that go through the buffers at a time; also what a strided inner run is cut into: a tile of lines that stay in cache */
    MAX_OPERANDS = TL_EW_MAX_IN + 1
};
static const int64_t STREAM_BYTES = 48 << 20; /* results this large pass the caches by: nothing of them would still be there when read */

typedef struct {
    int arity;                  /* 0: no such row */
    bool test, select;          /* writes bool; reads bool first */
    uint8_t pass;               /* bit i: the gradient of input i is g itself */
} ew_row;
enum { FLOAT, WRAP, ORDERED, INTS, BITS, UNSIGNED, SELECT, FLOAT_TEST, ANY_TEST, ORDERED_TEST };
#define IS_TEST(family) ((family) >= FLOAT_TEST)
#define PASSES(grad, i) (sizeof #grad == sizeof "g") << (i) /* no other gradient is one letter */
static const ew_row rows[TL_N_EW] = {
#define EW1(name, dtypes, f, ga, saves, ulp) [TL_OP_##name] = {1, IS_TEST(dtypes), false, PASSES(ga, 0)},
#define EW2(name, dtypes, f, ga, gb, saves, ulp) [TL_OP_##name] = {2, IS_TEST(dtypes), false, PASSES(ga, 0) | PASSES(gb, 1)},
#define EW3(name, dtypes, f, ga, gb, gc, saves, ulp) \
    [TL_OP_##name] = {3, IS_TEST(dtypes), (dtypes) == SELECT, PASSES(ga, 0) | PASSES(gb, 1) | PASSES(gc, 2)},
#include "elementwise.def"
#undef EW1
#undef EW2
#undef EW3
};

/* ---- a kernel and what it runs over: 0 is out, then the inputs ---- */
typedef struct {
    tl_ew_fn fn;
    int n;                      /* operands */
    int64_t lanes;              /* fn takes multiples of this many elements */
    uint8_t size[MAX_OPERANDS]; /* bytes per element */
    uint8_t step[TL_EW_MAX_IN];
} ew_call;

static void make_call(ew_call *c, tl_ew_fn fn, const tl_tensor *const *operands, int n)
{
    unsigned sizes = 0; /* powers of two, each a bit: the widest is the highest */
    for (int k = 0; k < n; k++) sizes |= c->size[k] = tl_itemsize[operands[k]->dtype];
    c->fn = fn, c->n = n;
    c->lanes = tl_ew_k->vector_bytes >> (31 - __builtin_clz(sizes));
}

/* Fewer elements than a vector has: through copies of a whole one, so that no kernel carries code for them. */
static __attribute__((noinline)) void call_rest(const ew_call *c, char *out, const void *const *in, int64_t at, int64_t n)
{
    char last[MAX_OPERANDS][TL_ALIGN] __attribute__((aligned(TL_ALIGN))) = {{0}};
    const void *padded[TL_EW_MAX_IN];
    for (int k = 1; k < c->n; k++) {
        size_t size = c->size[k];
        bool one = !c->step[k - 1];
        memcpy(last[k], one ? in[k - 1] : (const char *)in[k - 1] + (size_t)at * size, one ? size : (size_t)n * size);
        padded[k - 1] = last[k];
    }
    c->fn(last[0], padded, c->lanes, c->step);
    memcpy(out + at * c->size[0], last[0], (size_t)(n * c->size[0]));
}

static void call(const ew_call *c, char *out, const void *const *in, int64_t n)
{
    int64_t rest = n & (c->lanes - 1);
    if (n > rest) c->fn(out, in, n - rest, c->step);
    if (rest) call_rest(c, out, in, n - rest, rest);
}

void arr_add_runs(int dtype, void *out, const void *a, const void *b, int64_t n)
{
    uint8_t size = tl_itemsize[dtype];
    ew_call c = {tl_ew_k->forward[TL_OP_add][dtype], 3, tl_ew_k->vector_bytes / size, {size, size, size}, {1, 1}};
    call(&c, out, (const void *[]){a, b}, n);
}

void arr_add_run(int dtype, void *sum, const void *x, int64_t n) { arr_add_runs(dtype, sum, sum, x, n); }

/* ---- contiguous ---- */
typedef struct {
    ew_call call;
    char *out;
    const void *in[TL_EW_MAX_IN];
    bool stream;
} ew_flat;

static void flat_skip(const ew_flat *f, const void **in, int64_t n)
{
    for (int k = 1; k < f->call.n; k++) in[k - 1] = (const char *)in[k - 1] + n * f->call.step[k - 1] * f->call.size[k];
}

static void flat_stream(const ew_flat *f, char *out, const void **in, int64_t n)
{
    char buffer[PIECE * 8] __attribute__((aligned(TL_ALIGN)));
    for (int64_t left = n; left > 0; left -= PIECE) {
        int64_t count = left < PIECE ? left : PIECE, nbytes = count * f->call.size[0], whole = nbytes & -TL_ALIGN;
        call(&f->call, buffer, in, count);
        tl_ew_k->stream(out, buffer, whole);
        memcpy(out + whole, buffer + whole, (size_t)(nbytes - whole));
        out += nbytes;
        flat_skip(f, in, count);
    }
}

static void flat_range(void *arg, int64_t begin, int64_t end)
{
    const ew_flat *f = arg;
    const void *in[TL_EW_MAX_IN];
    memcpy(in, f->in, sizeof in);
    flat_skip(f, in, begin);
    char *out = f->out + begin * f->call.size[0];
    if (f->stream)
        flat_stream(f, out, in, end - begin);
    else
        call(&f->call, out, in, end - begin);
}

static void run_flat(ew_flat *f, int64_t n)
{
    f->stream = n * f->call.size[0] >= STREAM_BYTES && (uintptr_t)f->out % TL_ALIGN == 0;
    for (int k = 0; k < f->call.n - 1; k++) f->stream &= f->in[k] != f->out; /* in place, out's lines are in the cache anyway */
    tl_parallel_for(flat_range, f, n, GRAIN);
}

/* ---- any strides ---- */
typedef struct {
    ew_call call;
    char *base[MAX_OPERANDS];
    uint8_t gather[MAX_OPERANDS]; /* strided along the innermost dimension: goes through a buffer */
    int ndim;                   /* dimensions, innermost first */
    int64_t dims[TL_MAX_DIMS];
    int64_t strides[MAX_OPERANDS][TL_MAX_DIMS]; /* bytes */
    int64_t outer, piece;       /* product of dims[1..]; elements of the innermost dimension per unit of work */
} ew_plan;

#define COPY_STRIDED(type)                                                                \
    for (int64_t i = 0; i < n; i++, d += d_stride, s += s_stride) memcpy(d, s, sizeof(type))
static void copy_strided(char *d, int64_t d_stride, const char *s, int64_t s_stride, int64_t n, int size)
{
    switch (size) {
    case 1: COPY_STRIDED(uint8_t); break;
    case 2: COPY_STRIDED(uint16_t); break;
    case 4: COPY_STRIDED(uint32_t); break;
    default: COPY_STRIDED(uint64_t); break;
    }
}
#undef COPY_STRIDED

/* One piece of the innermost dimension: p[k] is where operand k begins. */
static void plan_piece(const ew_plan *p, char *const *at, int64_t n)
{
    char buffers[MAX_OPERANDS][PIECE * 8] __attribute__((aligned(TL_ALIGN)));
    const void *in[TL_EW_MAX_IN];
    for (int k = 1; k < p->call.n; k++) {
        in[k - 1] = at[k];
        if (!p->gather[k]) continue;
        copy_strided(buffers[k], p->call.size[k], at[k], p->strides[k][0], n, p->call.size[k]);
        in[k - 1] = buffers[k];
    }
    call(&p->call, p->gather[0] ? buffers[0] : at[0], in, n);
    if (p->gather[0]) copy_strided(at[0], p->strides[0][0], buffers[0], p->call.size[0], n, p->call.size[0]);
}

/* Units [begin, end). Unit u is piece u / outer of row u % outer: rows inside, so that lines a strided operand has touched are used again. */
static void plan_range(void *arg, int64_t begin, int64_t end)
{
    const ew_plan *p = arg;
    int64_t index[TL_MAX_DIMS], row = begin % p->outer, first = begin / p->outer * p->piece;
    char *at[MAX_OPERANDS];
    for (int d = 1; d < p->ndim; d++) index[d] = row % p->dims[d], row /= p->dims[d];
    for (int k = 0; k < p->call.n; k++) {
        at[k] = p->base[k] + first * p->strides[k][0];
        for (int d = 1; d < p->ndim; d++) at[k] += index[d] * p->strides[k][d];
    }
    for (int64_t u = begin; u < end; u++) {
        int64_t left = p->dims[0] - first;
        plan_piece(p, at, left < p->piece ? left : p->piece);
        int d = 1;
        for (; d < p->ndim; d++) { /* the next row, as an odometer turns */
            for (int k = 0; k < p->call.n; k++) at[k] += p->strides[k][d];
            if (++index[d] < p->dims[d]) break;
            for (int k = 0; k < p->call.n; k++) at[k] -= p->dims[d] * p->strides[k][d];
            index[d] = 0;
        }
        if (d < p->ndim) continue;
        first += p->piece; /* all rows done: the next piece of the first row */
        for (int k = 0; k < p->call.n; k++) at[k] += p->piece * p->strides[k][0];
    }
}

static int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

/* Appends a dimension at the outer end, or merges it into the last one where every operand runs on. */
static void plan_add_dim(ew_plan *p, int64_t size, const int64_t *strides)
{
    if (size == 1) return;
    bool merges = p->ndim > 0;
    for (int k = 0; k < p->call.n && merges; k++) merges = strides[k] == p->strides[k][p->ndim - 1] * p->dims[p->ndim - 1];
    if (merges) {
        p->dims[p->ndim - 1] *= size;
        return;
    }
    for (int k = 0; k < p->call.n; k++) p->strides[k][p->ndim] = strides[k];
    p->dims[p->ndim++] = size;
}

/* operands[0] is out; the inputs' shapes broadcast to its shape. */
static void make_plan(ew_plan *p, tl_ew_fn fn, const tl_tensor *const *operands, int n)
{
    const tl_tensor *out = operands[0];
    int order[TL_MAX_DIMS];
    make_call(&p->call, fn, operands, n);
    p->ndim = 0;
    for (int k = 0; k < n; k++) p->base[k] = tl_data(operands[k]);
    for (int d = 0; d < out->ndim; d++) { /* innermost first: by out's strides, insertion keeps equal ones in order */
        int at = 0;
        while (at < d && magnitude(out->strides[order[at]]) < magnitude(out->strides[out->ndim - 1 - d])) at++;
        memmove(order + at + 1, order + at, sizeof *order * (size_t)(d - at));
        order[at] = out->ndim - 1 - d;
    }
    for (int i = 0; i < out->ndim; i++) {
        int64_t strides[MAX_OPERANDS];
        for (int k = 0; k < n; k++) {
            const tl_tensor *t = operands[k];
            int d = order[i] - (out->ndim - t->ndim);
            strides[k] = d < 0 || t->dims[d] == 1 ? 0 : t->strides[d] * p->call.size[k];
        }
        plan_add_dim(p, out->dims[order[i]], strides);
    }
    if (!p->ndim) { /* one element */
        p->dims[0] = 1, p->ndim = 1;
        for (int k = 0; k < n; k++) p->strides[k][0] = 0;
    }
    bool gathers = false;
    for (int k = 0; k < n; k++) {
        int64_t s = p->strides[k][0];
        p->gather[k] = s != p->call.size[k] && (k == 0 ? p->dims[0] > 1 : s != 0);
        if (k) p->call.step[k - 1] = s != 0;
        gathers |= p->gather[k];
    }
    p->outer = 1;
    for (int d = 1; d < p->ndim; d++) p->outer *= p->dims[d];
    p->piece = gathers ? PIECE : GRAIN;
}

static void run_plan(ew_plan *p)
{
    int64_t pieces = (p->dims[0] + p->piece - 1) / p->piece;
    int64_t per_unit = p->dims[0] < p->piece ? p->dims[0] : p->piece;
    tl_parallel_for(plan_range, p, pieces * p->outer, per_unit < GRAIN ? GRAIN / per_unit : 1);
}

/* ---- one call for all ---- */
/* operands[0] = out, of the broadcast shape. Inputs are read as fn wants them; NULL ones are not read. */
static void run(tl_ew_fn fn, const tl_tensor *const *operands, int n)
{
    const tl_tensor *out = operands[0];
    if (!out->numel) return;
    bool contiguous = tl_contiguous(out);
    for (int k = 1; k < n && contiguous; k++)
        contiguous = operands[k]->numel == 1 || (tl_contiguous(operands[k]) && operands[k]->numel == out->numel);
    tl_gil gil = tl_unlock(out->numel >= 16384);
    if (contiguous) { /* of a broadcast operand, equal numel means equal shape but for ones */
        ew_flat f;
        make_call(&f.call, fn, operands, n);
        f.out = tl_data(out);
        for (int k = 1; k < n; k++) {
            f.in[k - 1] = tl_data(operands[k]);
            f.call.step[k - 1] = operands[k]->numel != 1 || out->numel == 1;
        }
        if (out->numel <= GRAIN)
            call(&f.call, f.out, f.in, out->numel);
        else
            run_flat(&f, out->numel);
    } else {
        ew_plan p;
        make_plan(&p, fn, operands, n);
        run_plan(&p);
    }
    tl_relock(gil);
}

/* The kernel of op for operands of these dtypes; NULL: declined. in[0..arity) */
static tl_ew_fn find(int op, int arity, const tl_tensor *const *in)
{
    if (op < 0 || op >= TL_N_EW || rows[op].arity != arity) return NULL;
    bool select = rows[op].select;
    if (select && in[0]->dtype != TL_BOOL) return NULL;
    for (int i = select + 1; i < arity; i++)
        if (in[i]->dtype != in[select]->dtype) return NULL;
    return tl_ew_k->forward[op][in[select]->dtype];
}
static int result_dtype(int op, const tl_tensor *const *in) { return rows[op].test ? TL_BOOL : in[rows[op].select]->dtype; }

/* The common shape of the operands; false where they do not broadcast. */
static bool broadcast(int64_t *dims, int *ndim, const tl_tensor *const *in, int n)
{
    *ndim = 0;
    for (int k = 0; k < n; k++) *ndim = in[k]->ndim > *ndim ? in[k]->ndim : *ndim;
    for (int d = 0; d < *ndim; d++) dims[d] = 1;
    for (int k = 0; k < n; k++)
        for (int d = 0, at = *ndim - in[k]->ndim; d < in[k]->ndim; d++, at++) {
            if (in[k]->dims[d] == 1) continue;
            if (dims[at] != 1 && dims[at] != in[k]->dims[d]) return false;
            dims[at] = in[k]->dims[d];
        }
    return true;
}

static tl_tensor *apply(int op, int arity, const tl_tensor *const *in)
{
    tl_ew_fn fn = find(op, arity, in);
    if (!fn) return tl_fail(TL_DECLINE);
    const tl_tensor *operands[MAX_OPERANDS];
    bool same = true;
    for (int k = 0; k < arity; k++) {
        operands[k + 1] = in[k];
        same = same && tl_same_shape(in[0], in[k]);
    }
    int64_t dims[TL_MAX_DIMS];
    int ndim;
    if (!same && !broadcast(dims, &ndim, in, arity)) return tl_fail(TL_DECLINE);
    tl_tensor *out = same ? tl_new(result_dtype(op, in), in[0]->ndim, in[0]->dims) : tl_new(result_dtype(op, in), ndim, dims);
    if (!out) return NULL;
    operands[0] = out;
    run(fn, operands, arity + 1);
    return out;
}

tl_tensor *arr_unary(int op, const tl_tensor *x) { return apply(op, 1, (const tl_tensor *const[]){x}); }
tl_tensor *arr_binary(int op, const tl_tensor *a, const tl_tensor *b) { return apply(op, 2, (const tl_tensor *const[]){a, b}); }
tl_tensor *arr_ternary(int op, const tl_tensor *a, const tl_tensor *b, const tl_tensor *c)
{
    return apply(op, 3, (const tl_tensor *const[]){a, b, c});
}

/* ---- into an existing result ---- */
/* The bytes a view spans: [lo, hi) */
static void extent(const tl_tensor *t, const char **lo, const char **hi)
{
    int64_t low = 0, high = 1;
    for (int d = 0; d < t->ndim; d++) {
        int64_t reach = (t->dims[d] - 1) * t->strides[d];
        *(reach < 0 ? &low : &high) += reach;
    }
    *lo = tl_data(t) + low * tl_itemsize[t->dtype];
    *hi = tl_data(t) + high * tl_itemsize[t->dtype];
}

/* True where out can be written while `in` is read: apart, or element for element the same. */
static bool may_share(const tl_tensor *out, const tl_tensor *in)
{
    if (out->storage != in->storage || !out->numel || !in->numel) return true;
    if (out->offset == in->offset && out->dtype == in->dtype && tl_same_shape(out, in)) {
        bool same = true;
        for (int d = 0; d < out->ndim; d++) same = same && (out->strides[d] == in->strides[d] || out->dims[d] == 1);
        if (same) return true;
    }
    const char *a0, *a1, *b0, *b1;
    extent(out, &a0, &a1);
    extent(in, &b0, &b1);
    return a1 <= b0 || b1 <= a0;
}

static bool apply_into(int op, int arity, tl_tensor *out, const tl_tensor *const *in)
{
    tl_ew_fn fn = find(op, arity, in);
    if (!fn || out->dtype != result_dtype(op, in)) return tl_fail(TL_DECLINE);
    const tl_tensor *operands[MAX_OPERANDS] = {out};
    bool share = true;
    for (int k = 0; k < arity; k++) {
        operands[k + 1] = in[k];
        share = share && may_share(out, in[k]);
        if (tl_same_shape(out, in[k])) continue;
        int64_t dims[TL_MAX_DIMS];
        int ndim;
        if (!broadcast(dims, &ndim, (const tl_tensor *const[]){out, in[k]}, 2) || ndim != out->ndim) return tl_fail(TL_DECLINE);
        if (memcmp(dims, out->dims, sizeof *dims * (size_t)ndim)) return tl_fail(TL_DECLINE);
    }
    if (share) {
        run(fn, operands, arity + 1);
        return true;
    }
    tl_tensor *fresh = apply(op, arity, in);
    bool ok = fresh && arr_copy_into(out, fresh);
    tl_free(fresh);
    return ok;
}

bool arr_unary_into(int op, tl_tensor *out, const tl_tensor *x) { return apply_into(op, 1, out, (const tl_tensor *const[]){x}); }
bool arr_binary_into(int op, tl_tensor *out, const tl_tensor *a, const tl_tensor *b)
{
    return apply_into(op, 2, out, (const tl_tensor *const[]){a, b});
}

/* ---- with a scalar ---- */
/* s as a 0-d array of x's dtype, in a struct on the stack that nothing keeps. False where an integer dtype can not hold it. */
typedef struct { uint64_t value; tl_storage storage; tl_tensor tensor; } scalar_array;
static bool make_scalar(scalar_array *a, const tl_tensor *x, double s)
{
    memset(a, 0, sizeof *a);
    int size = tl_itemsize[x->dtype];
    if (x->dtype == TL_F32) {
        float f = (float)s;
        memcpy(&a->value, &f, sizeof f);
    } else if (x->dtype == TL_F64) {
        memcpy(&a->value, &s, sizeof s);
    } else if (x->dtype >= TL_U8 && x->dtype <= TL_I64) {
        bool is_signed = x->dtype != TL_U8;
        double limit = size == 8 ? 0x1p53 : (double)((int64_t)1 << (8 * size - is_signed)); /* past 2^53 a double is not what was meant */
        if (!(s >= (is_signed ? -limit : 0) && s < limit) || s != (double)(int64_t)s) return false;
        int64_t i = (int64_t)s;
        switch (size) { /* not by cutting bytes off i: that would depend on byte order */
        case 1: memcpy(&a->value, &(uint8_t){(uint8_t)i}, 1); break;
        case 2: memcpy(&a->value, &(uint16_t){(uint16_t)i}, 2); break;
        case 4: memcpy(&a->value, &(uint32_t){(uint32_t)i}, 4); break;
        default: memcpy(&a->value, &i, 8);
        }
    } else {
        return false;
    }
    a->storage.data = (char *)&a->value;
    a->tensor.storage = &a->storage;
    a->tensor.dtype = x->dtype;
    a->tensor.numel = 1;
    a->tensor.flags = TL_CONTIGUOUS;
    return true;
}

tl_tensor *arr_binary_scalar(int op, const tl_tensor *x, double s, bool reversed)
{
    scalar_array a;
    if (!make_scalar(&a, x, s)) return tl_fail(TL_DECLINE);
    return reversed ? arr_binary(op, &a.tensor, x) : arr_binary(op, x, &a.tensor);
}
bool arr_binary_scalar_into(int op, tl_tensor *out, const tl_tensor *x, double s, bool reversed)
{
    scalar_array a;
    if (!make_scalar(&a, x, s)) return tl_fail(TL_DECLINE);
    return reversed ? arr_binary_into(op, out, &a.tensor, x) : arr_binary_into(op, out, x, &a.tensor);
}

/* ---- gradients ---- */
static tl_tensor *gradient(int op, int arity, int which, const tl_tensor *const *in, const tl_tensor *out, const tl_tensor *g)
{
    if (op < 0 || op >= TL_N_EW || rows[op].arity != arity || !tl_is_float(g->dtype)) return tl_fail(TL_DECLINE);
    if (rows[op].pass >> which & 1) {
        tl_own((tl_tensor *)g);
        return (tl_tensor *)g;
    }
    tl_ew_fn fn = tl_ew_k->grad[op][which][g->dtype == TL_F64];
    if (!fn || (rows[op].select && which == 0)) return tl_fail(TL_DECLINE);
    /* What was not saved is not read either: g stands in. */
    const tl_tensor *operands[MAX_OPERANDS];
    int n = 1;
    for (int k = 0; k < arity; k++, n++) operands[n] = in[k] ? in[k] : g;
    operands[n++] = out ? out : g;
    operands[n++] = g;
    for (int k = 1; k < n; k++)
        if (operands[k]->dtype != g->dtype && !(k == 1 && rows[op].select && operands[k]->dtype == TL_BOOL)) return tl_fail(TL_DECLINE);
    tl_tensor *gin = tl_new(g->dtype, g->ndim, g->dims);
    if (!gin) return NULL;
    operands[0] = gin;
    run(fn, operands, n);
    return gin;
}

tl_tensor *arr_unary_grad(int op, const tl_tensor *x, const tl_tensor *out, const tl_tensor *g)
{
    return gradient(op, 1, 0, (const tl_tensor *const[]){x}, out, g);
}
tl_tensor *arr_binary_grad(int op, int which, const tl_tensor *a, const tl_tensor *b, const tl_tensor *out, const tl_tensor *g)
{
    return gradient(op, 2, which, (const tl_tensor *const[]){a, b}, out, g);
}
tl_tensor *arr_ternary_grad(int op, int which, const tl_tensor *a, const tl_tensor *b, const tl_tensor *c, const tl_tensor *out, const tl_tensor *g)
{
    return gradient(op, 3, which, (const tl_tensor *const[]){a, b, c}, out, g);
}

bool arr_has_kernel(int op, int dtype) { return op >= 0 && op < TL_N_EW && dtype >= 0 && dtype < TL_N_DTYPES && tl_ew_k->forward[op][dtype]; }
