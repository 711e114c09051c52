/* Pooling: the geometry, the drivers over planes, and the recorded operations with their gradients. A plane is what one channel of one image
 * has; its result depends on it alone. */
#include "api.h"
#include "kernels.h"
#include "record.h"

enum { TASK = 1 << 14, LARGE = 1 << 14, SPATIAL = 3, FIELD_BITS = 20 }; /* elements of one task; from where the GIL is released */

/* ---- geometry, as it stands in a node: ints[0..3]: kernel, stride, padding, dilation, each packed (adaptive: the output's size, 0, 0, 0);
 * ints[4]: how many dimensions, and FLAGs; ints[5]: what the average divides by, 0: the number of taps ---- */
enum { CEIL = 4, PADDED = 8 };

static int64_t field(int64_t packed, int i) { return packed >> (i * FIELD_BITS) & ((1 << FIELD_BITS) - 1); }

static bool pack(const int64_t *spec, int n, int64_t *packed)
{
    *packed = 0;
    for (int i = 0; i < n; i++) {
        if (spec[i] < 0 || spec[i] >> FIELD_BITS) return false;
        *packed |= spec[i] << (i * FIELD_BITS);
    }
    return true;
}
/* ints from kernel, stride, padding, dilation (n numbers each), ceil_mode, padded, divisor; or, adaptive, from the output's size. */
static bool pack_all(int64_t *ints, int n, const int64_t *spec, bool adaptive)
{
    if (n < 1 || n > SPATIAL) return false;
    memset(ints, 0, TL_NODE_INTS * sizeof *ints);
    ints[4] = n;
    if (adaptive) return pack(spec, n, &ints[0]);
    for (int i = 0; i < 4; i++)
        if (!pack(spec + i * n, n, &ints[i])) return false;
    ints[4] |= (spec[4 * n] ? CEIL : 0) | (spec[4 * n + 1] ? PADDED : 0);
    ints[5] = spec[4 * n + 2];
    return true;
}

static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The windows of one dimension; false where there are none, or one without an element. */
static bool fit_windows(tl_pool_dim *d, bool ceil)
{
    int64_t reach = (d->ker - 1) * d->dil + 1, room = d->n + 2 * d->pad - reach;
    if (d->ker < 1 || d->stride < 1 || d->dil < 1 || 2 * d->pad > reach || room < 0 || d->n < 1) return false;
    d->out = (ceil ? up(room, d->stride) : room / d->stride) + 1;
    if ((d->out - 1) * d->stride >= d->n + d->pad) d->out--;
    if (d->dil <= d->n || !d->pad) return true;
    for (int64_t o = 0; o < d->out; o++) { /* taps so far apart that they may step over the image */
        int64_t start = o * d->stride - d->pad;
        if (start < 0 && start + up(-start, d->dil) * d->dil >= d->n) return false;
    }
    return true;
}
static bool fit_adaptive(tl_pool_dim *d, int64_t out)
{
    d->out = out, d->dil = 1;
    if (d->n < 1 || out < 1) return false;
    d->ker = d->n % out == 0 ? d->n / out : d->n / out + 2;
    if (d->n % out == 0) d->stride = d->ker; /* equal windows */
    return true;
}
/* The task for x's dimensions: false where the geometry does not fit. */
static bool task_for(tl_pool_task *p, int ndim, const int64_t *dims, const int64_t *ints, bool adaptive)
{
    int n = ints[4] & 3;
    int64_t volume = 1;
    *p = (tl_pool_task){.padded = ints[4] & PADDED, .divisor = (double)ints[5]};
    if (n > ndim) return false;
    for (int i = 0; i < SPATIAL; i++) {
        tl_pool_dim *d = &p->d[i];
        int k = i - (SPATIAL - n);
        *d = (tl_pool_dim){.n = 1, .out = 1, .ker = 1, .stride = 1, .dil = 1};
        if (k < 0) continue;
        d->n = dims[ndim - n + k], d->ker = field(ints[0], k), d->stride = field(ints[1], k), d->pad = field(ints[2], k), d->dil = field(ints[3], k);
        if (!(adaptive ? fit_adaptive(d, field(ints[0], k)) : fit_windows(d, ints[4] & CEIL))) return false;
        volume *= d->ker;
        if (volume > INT32_MAX) return false;
    }
    p->wide = volume > 256;
    return true;
}

static tl_tensor *windows_of(const tl_pool_task *p, int dtype, int ndim, const int64_t *dims, int n)
{
    int64_t out[TL_MAX_DIMS];
    memcpy(out, dims, sizeof *out * (size_t)ndim);
    for (int i = 0; i < n; i++) out[ndim - n + i] = p->d[SPATIAL - n + i].out;
    return tl_new(dtype, ndim, out);
}

/* ---- running ---- */

static void run(const tl_range_fn by_type[2], int dtype, tl_pool_task *p, int64_t elements, int64_t windows)
{
    int64_t plane = 1, each = 1, taps = 1;
    for (int i = 0; i < SPATIAL; i++) plane *= p->d[i].n, each *= p->d[i].out, taps *= p->d[i].ker;
    int64_t planes = plane ? elements / plane : 0, work = each * taps > plane ? each * taps : plane;
    bool large = elements >= LARGE || windows >= LARGE || planes * work >= 4 * LARGE;
    tl_gil gil = tl_unlock(large);
    tl_parallel_for(by_type[dtype == TL_F64], p, planes, large ? up(TASK, work) : planes);
    tl_relock(gil);
}
static bool contiguous(const tl_tensor *t, tl_tensor **made)
{
    *made = tl_contiguous(t) ? NULL : arr_cast(t, t->dtype);
    return *made || tl_contiguous(t);
}

/* max: *where receives the codes. */
static tl_tensor *forward(const tl_tensor *x, const int64_t *ints, bool adaptive, tl_tensor **where)
{
    tl_pool_task p;
    tl_tensor *made;
    if (!tl_is_float(x->dtype) || !task_for(&p, x->ndim, x->dims, ints, adaptive)) return tl_fail(TL_DECLINE);
    int n = ints[4] & 3;
    tl_tensor *out = windows_of(&p, x->dtype, x->ndim, x->dims, n);
    tl_tensor *codes = out && where ? windows_of(&p, p.wide ? TL_I32 : TL_U8, x->ndim, x->dims, n) : NULL;
    if (!out || (where && !codes) || !contiguous(x, &made)) {
        tl_free(out);
        tl_free(codes);
        return NULL;
    }
    p.out = tl_data(out), p.x = tl_data(made ? made : x), p.where = codes ? tl_data(codes) : NULL;
    run(where ? tl_pool_k->max : tl_pool_k->average, x->dtype, &p, x->numel, out->numel);
    tl_free(made);
    if (where) *where = codes;
    return out;
}

static bool gradient(const tl_node *n, const tl_tensor *g, tl_tensor **gin, bool adaptive, bool max)
{
    tl_pool_task p;
    tl_tensor *made;
    const tl_meta *m = n->edges[0].meta;
    const tl_tensor *where = max ? tl_saved_output(n, 1) : NULL;
    if (!m || !task_for(&p, m->ndim, m->dims, n->ints, adaptive) || (max && !where)) return tl_fail(TL_DECLINE);
    tl_tensor *gx = tl_new(g->dtype, m->ndim, m->dims);
    if (!gx || !contiguous(g, &made)) {
        tl_free(gx);
        return false;
    }
    p.out = tl_data(gx), p.x = tl_data(made ? made : g), p.where = where ? tl_data(where) : NULL;
    run(max ? tl_pool_k->max_grad : tl_pool_k->average_grad, g->dtype, &p, gx->numel, g->numel);
    tl_free(made);
    gin[0] = gx;
    return true;
}
bool tl_grad_max_pool(const tl_node *n, const tl_tensor *g, tl_tensor **gin) { return gradient(n, g, gin, false, true); }
bool tl_grad_avg_pool(const tl_node *n, const tl_tensor *g, tl_tensor **gin) { return gradient(n, g, gin, false, false); }
bool tl_grad_adaptive_max_pool(const tl_node *n, const tl_tensor *g, tl_tensor **gin) { return gradient(n, g, gin, true, true); }
bool tl_grad_adaptive_avg_pool(const tl_node *n, const tl_tensor *g, tl_tensor **gin) { return gradient(n, g, gin, true, false); }

/* ---- recorded ---- */

/* spec: see pack_all. The maximum's codes go to *where, owned (0 for averages). */
tl_tensor *tl_pool(int op, tl_tensor *x, int n, const int64_t *spec, int line, uintptr_t *where)
{
    bool adaptive = op == TL_OP_adaptive_max_pool || op == TL_OP_adaptive_avg_pool, max = op == TL_OP_max_pool || op == TL_OP_adaptive_max_pool;
    int64_t ints[TL_NODE_INTS];
    *where = 0;
    if (tl_elsewhere(x) || !pack_all(ints, n, spec, adaptive)) return tl_fail(TL_DECLINE);
    tl_tensor *outs[2] = {NULL, NULL};
    outs[0] = forward(x, ints, adaptive, max ? &outs[1] : NULL);
    if (outs[0] && tl_grad_enabled && tl_tracks(x)) {
        tl_node *node = tl_record_many(op, 1, &x, max ? 2 : 1, outs, max ? TL_OUT(1) : 0, line);
        if (!node) {
            tl_free(outs[0]);
            tl_free(outs[1]);
            return NULL;
        }
        memcpy(node->ints, ints, sizeof ints);
    }
    *where = (uintptr_t)outs[1];
    return outs[0];
}
