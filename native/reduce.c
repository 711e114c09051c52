/* Reductions over any set of dimensions: arr_reduce, arr_var, arr_sumsq, arr_sum_to.
 *
 * Dimensions are split into kept and reduced ones, ordered by stride and merged. Then one of two ways:
 *   rows     the elements of one result are read together (in place where contiguous, else gathered block by block);
 *   columns  where the contiguous dimension is a kept one, whole rows are added to accumulators side by side.
 * The work falls into tasks of fixed size whose results join in a fixed tree, so the bits depend on neither the number of threads nor
 * on how many results there are. They may depend on which dimension is contiguous: a transposed copy is summed in another order.
 *
 * float32 and float64 are computed in themselves; bool and integers, and all questions about zeros, in int64. */
#include "kernels.h"
#include "ops.h"
#include "tl.h"
#include <math.h>

enum {
    BLOCK_BYTES = 32768,                /* joined by one kernel call; a multiple of TL_RED_LANE_BYTES */
    CHUNK_BLOCKS = 16,                  /* blocks of one task; a power of two */
    CHUNK = 65536,                      /* elements that are worth a thread: the grain of short rows */
    LARGE = 131072,                     /* elements from where the GIL is released */
    TILE_BYTES = 2048,                  /* columns side by side */
    TALL = 1024,                        /* rows of one columns task; a multiple of TL_RED_STREAMS */
    CONVERTED_ROWS = TL_RED_STREAMS     /* rows converted at a time */
};

typedef union { double f64; float f32; int64_t i64; } scalar;

typedef struct {
    const tl_reduce_type *k;
    int op, dtype, size;                /* of x; size: of an element of the computation */
    bool convert, nonzero;              /* x is not in the type of the computation | ask whether it is nonzero instead */
    bool ordered;                       /* the position matters: reduced dimensions stay in place */
    int nk, nr;
    const char *x;
    int64_t kdim[TL_MAX_DIMS + 1], kx[TL_MAX_DIMS + 1], ko[TL_MAX_DIMS + 1]; /* kept: size, strides in x and in the result */
    int64_t rdim[TL_MAX_DIMS + 1], rx[TL_MAX_DIMS + 1];
    int64_t n, nout;                    /* elements per result, results */
    char *out;
    const char *m;                      /* SQDEV: laid out as out */
    int64_t width;                      /* columns: the innermost kept dimension, taken out of kdim */
    int64_t width_o, tiles, tile;
    int64_t chunks, chunk;              /* per result, and their length */
    char *parts;                        /* chunks > 1: [result][chunk] or [outer][chunk][column] */
    int64_t *places;                    /* argmax, argmin: beside parts, or the result */
} plan;

/* ---- geometry ---- */

static int64_t magnitude(int64_t stride) { return stride < 0 ? -stride : stride; }

/* True where stride a belongs outside stride b: descending, but 0 first, so that the innermost dimension is the one to read along. */
static bool outside(int64_t a, int64_t b) { return b != 0 && (a == 0 || magnitude(a) > magnitude(b)); }

static void add_dim(int64_t *dims, int64_t *xs, int64_t *os, int *n, int64_t dim, int64_t x, int64_t o, bool sorted)
{
    int at = *n;
    while (sorted && at > 0 && outside(x, xs[at - 1])) {
        dims[at] = dims[at - 1];
        xs[at] = xs[at - 1];
        if (os) os[at] = os[at - 1];
        at--;
    }
    dims[at] = dim;
    xs[at] = x;
    if (os) os[at] = o;
    ++*n;
}

static void merge_dims(int64_t *dims, int64_t *xs, int64_t *os, int *n)
{
    int last = 0;
    for (int i = 1; i < *n; i++) {
        if (xs[last] == xs[i] * dims[i] && (!os || os[last] == os[i] * dims[i])) {
            dims[last] *= dims[i];
        } else {
            dims[++last] = dims[i];
        }
        xs[last] = xs[i];
        if (os) os[last] = os[i];
    }
    if (*n) *n = last + 1;
}

static void split_dims(plan *p, const tl_tensor *x, uint32_t mask)
{
    p->n = p->nout = 1;
    for (int d = 0; d < x->ndim; d++) *(mask >> d & 1 ? &p->n : &p->nout) *= x->dims[d];
    int64_t o = p->nout;
    for (int d = 0; d < x->ndim; d++) {
        bool reduced = mask >> d & 1;
        if (!reduced) o /= x->dims[d];
        /* A single result whose neighbours would lie beside it stays: one column is summed as many are. */
        if (x->dims[d] == 1 && (reduced || x->strides[d] != 1)) continue;
        if (reduced) add_dim(p->rdim, p->rx, NULL, &p->nr, x->dims[d], x->strides[d], 0, !p->ordered);
        else add_dim(p->kdim, p->kx, p->ko, &p->nk, x->dims[d], x->strides[d], o, true);
    }
    merge_dims(p->rdim, p->rx, NULL, &p->nr);
    merge_dims(p->kdim, p->kx, p->ko, &p->nk);
    if (!p->nr) {
        p->rdim[p->nr] = 1;
        p->rx[p->nr++] = 1;
    }
}

/* Where the i-th result lies, in the order of kdim. */
static void locate(const plan *p, int64_t i, int64_t *x, int64_t *o)
{
    *x = *o = 0;
    for (int d = p->nk - 1; d >= 0 && i; d--) {
        int64_t c = i % p->kdim[d];
        i /= p->kdim[d];
        *x += c * p->kx[d];
        *o += c * p->ko[d];
    }
}

/* ---- reading elements that are not where or what the kernels want ---- */

static void to_i64(int64_t *out, const void *x, int dtype, int64_t n, int64_t step)
{
    switch (dtype) {
    case TL_BOOL: for (int64_t i = 0; i < n; i++) out[i] = ((const uint8_t *)x)[i * step] != 0; break;
    case TL_U8: for (int64_t i = 0; i < n; i++) out[i] = ((const uint8_t *)x)[i * step]; break;
    case TL_I8: for (int64_t i = 0; i < n; i++) out[i] = ((const int8_t *)x)[i * step]; break;
    case TL_I16: for (int64_t i = 0; i < n; i++) out[i] = ((const int16_t *)x)[i * step]; break;
    case TL_I32: for (int64_t i = 0; i < n; i++) out[i] = ((const int32_t *)x)[i * step]; break;
    default: for (int64_t i = 0; i < n; i++) out[i] = ((const int64_t *)x)[i * step]; break;
    }
}

static void is_nonzero(int64_t *out, const void *x, int dtype, int64_t n, int64_t step)
{
    switch (dtype) {
    case TL_F32: for (int64_t i = 0; i < n; i++) out[i] = ((const float *)x)[i * step] != 0; break;
    case TL_F64: for (int64_t i = 0; i < n; i++) out[i] = ((const double *)x)[i * step] != 0; break;
    default:
        to_i64(out, x, dtype, n, step);
        for (int64_t i = 0; i < n; i++) out[i] = out[i] != 0;
    }
}

static void read_run(const plan *p, void *out, const char *x, int64_t n, int64_t step)
{
    if (p->nonzero) is_nonzero(out, x, p->dtype, n, step);
    else if (p->convert) to_i64(out, x, p->dtype, n, step);
    else if (step == 1) memcpy(out, x, (size_t)(n * p->size));
    else if (p->size == 4) for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const int32_t *)(const void *)x)[i * step];
    else for (int64_t i = 0; i < n; i++) ((int64_t *)out)[i] = ((const int64_t *)(const void *)x)[i * step];
}

/* out[0..n) = the elements first, first + 1, ... of the result whose elements begin at x. */
static void gather(const plan *p, void *out, int64_t x, int64_t first, int64_t n)
{
    int64_t at[TL_MAX_DIMS], last = p->nr - 1, isize = tl_itemsize[p->dtype];
    char *to = out;
    for (int64_t d = last; d >= 0; d--) {
        at[d] = first % p->rdim[d];
        first /= p->rdim[d];
        x += at[d] * p->rx[d];
    }
    for (;;) {
        int64_t run = p->rdim[last] - at[last];
        if (run > n) run = n;
        read_run(p, to, p->x + x * isize, run, p->rx[last]);
        n -= run;
        if (!n) return;
        to += run * p->size;
        x -= at[last] * p->rx[last];
        at[last] = 0;
        for (int64_t d = last - 1; d >= 0; d--) {
            x += p->rx[d];
            if (++at[d] < p->rdim[d]) break;
            x -= at[d] * p->rx[d];
            at[d] = 0;
        }
    }
}

/* ---- rows ---- */

static bool in_place(const plan *p) { return !p->convert && p->nr == 1 && (p->rx[0] == 1 || p->n == 1); }

/* Elements [first, first + n) of one result, n <= chunk, into *out. */
static void reduce_chunk(const plan *p, int64_t x, int64_t first, int64_t n, char *out, const char *m)
{
    scalar parts[CHUNK_BLOCKS];
    int64_t block = BLOCK_BYTES / p->size, whole = n / block, blocks = (n + block - 1) / block;
    tl_reduce_rows a = {parts, 1, p->x + (x + first) * p->size, whole, block, block, m, 0};
    if (in_place(p)) {
        if (whole) p->k->rows(p->op, &a);
        if (blocks > whole) {
            tl_reduce_rows rest = {(char *)parts + whole * p->size, 1, (const char *)a.x + whole * block * p->size, 1, 0, n - whole * block, m, 0};
            p->k->rows(p->op, &rest);
        }
    } else {
        _Alignas(TL_ALIGN) char buffer[BLOCK_BYTES];
        for (int64_t b = 0; b < blocks; b++) {
            int64_t length = n - b * block < block ? n - b * block : block;
            gather(p, buffer, x, first + b * block, length);
            tl_reduce_rows one = {(char *)parts + b * p->size, 1, buffer, 1, 0, length, m, 0};
            p->k->rows(p->op, &one);
        }
    }
    if (blocks > 1) p->k->tree(p->op, &(tl_reduce_tree){parts, blocks, 1});
    memcpy(out, parts, (size_t)p->size);
}

static void rows_body(void *arg, int64_t begin, int64_t end)
{
    const plan *p = arg;
    int64_t inner = p->nk ? p->kdim[p->nk - 1] : 1, kx = p->nk ? p->kx[p->nk - 1] : 0, ko = p->nk ? p->ko[p->nk - 1] : 0;
    bool direct = in_place(p) && p->n <= BLOCK_BYTES / p->size;
    for (int64_t i = begin, run; i < end; i += run) {
        int64_t x, o;
        locate(p, i, &x, &o);
        run = inner - i % inner < end - i ? inner - i % inner : end - i;
        if (direct) {
            p->k->rows(p->op, &(tl_reduce_rows){p->out + o * p->size, ko, p->x + x * p->size, run, kx, p->n, p->m ? p->m + o * p->size : NULL, ko});
            continue;
        }
        for (int64_t r = 0; r < run; r++, x += kx, o += ko) reduce_chunk(p, x, 0, p->n, p->out + o * p->size, p->m ? p->m + o * p->size : NULL);
    }
}

/* Long rows: a task is one chunk of one result. */
static void chunks_body(void *arg, int64_t begin, int64_t end)
{
    const plan *p = arg;
    for (int64_t t = begin; t < end; t++) {
        int64_t x, o, first = t % p->chunks * p->chunk, n = p->n - first < p->chunk ? p->n - first : p->chunk;
        locate(p, t / p->chunks, &x, &o);
        reduce_chunk(p, x, first, n, p->parts + t * p->size, p->m ? p->m + o * p->size : NULL);
    }
}

static int64_t grain(int64_t elements_per_task) { return elements_per_task >= CHUNK ? 1 : CHUNK / (elements_per_task ? elements_per_task : 1); }

static void run_rows(plan *p)
{
    if (p->chunks == 1) {
        tl_parallel_for(rows_body, p, p->nout, grain(p->n));
        return;
    }
    tl_parallel_for(chunks_body, p, p->nout * p->chunks, 1);
    for (int64_t i = 0; i < p->nout; i++) {
        int64_t x, o;
        char *parts = p->parts + i * p->chunks * p->size;
        locate(p, i, &x, &o);
        p->k->tree(p->op, &(tl_reduce_tree){parts, p->chunks, 1});
        memcpy(p->out + o * p->size, parts, (size_t)p->size);
    }
}

/* ---- columns ---- */

/* offsets[r] = where row first + r begins. */
static void row_offsets(const plan *p, int64_t *offsets, int64_t first, int64_t n)
{
    for (int64_t r = 0; r < n; r++) {
        int64_t i = first + r, x = 0;
        for (int d = p->nr - 1; d >= 0 && i; d--) {
            x += i % p->rdim[d] * p->rx[d];
            i /= p->rdim[d];
        }
        offsets[r] = x;
    }
}

static void add_converted(const plan *p, void *acc, const char *x, const int64_t *offsets, int64_t rows, int64_t width)
{
    int64_t buffer[CONVERTED_ROWS * TILE_BYTES / sizeof(int64_t)], isize = tl_itemsize[p->dtype];
    for (int64_t r = 0; r < rows; r += CONVERTED_ROWS) {
        int64_t n = rows - r < CONVERTED_ROWS ? rows - r : CONVERTED_ROWS;
        for (int64_t j = 0; j < n; j++) read_run(p, buffer + j * width, x + offsets[r + j] * isize, width, 1);
        p->k->columns(p->op, &(tl_reduce_columns){acc, buffer, NULL, width, n, width, NULL});
    }
}

static void scatter(const plan *p, char *out, const char *x, int64_t n)
{
    if (p->width_o == 1) memcpy(out, x, (size_t)(n * p->size));
    else for (int64_t i = 0; i < n; i++) memcpy(out + i * p->width_o * p->size, x + i * p->size, (size_t)p->size);
}

static void column_means(const plan *p, char *m, int64_t o, int64_t width)
{
    if (!p->m) memset(m, 0, (size_t)(width * p->size));
    for (int64_t c = 0; p->m && c < width; c++) memcpy(m + c * p->size, p->m + (o + c * p->width_o) * p->size, (size_t)p->size);
}

static void columns_body(void *arg, int64_t begin, int64_t end)
{
    const plan *p = arg;
    _Alignas(TL_ALIGN) char acc[TL_RED_STREAMS * TILE_BYTES], m[TILE_BYTES];
    int64_t offsets[TALL], isize = tl_itemsize[p->dtype];
    for (int64_t t = begin; t < end; t++) {
        int64_t chunk = t % p->chunks, tile = t / p->chunks % p->tiles, outer = t / p->chunks / p->tiles, x, o;
        int64_t column = tile * p->tile, width = p->width - column < p->tile ? p->width - column : p->tile;
        int64_t first = chunk * TALL, rows = p->n - first < TALL ? p->n - first : TALL, used = rows < TL_RED_STREAMS ? rows : TL_RED_STREAMS;
        bool even = p->nr == 1 && !p->convert; /* rows lie at one distance: no need for offsets */
        locate(p, outer, &x, &o);
        o += column * p->width_o;
        const char *data = p->x + (x + column + (even ? first * p->rx[0] : 0)) * isize;
        if (!even) row_offsets(p, offsets, first, rows);
        if (p->op == TL_RED_SQDEV) column_means(p, m, o, width);
        p->k->fill(p->op, acc, used * width);
        if (p->convert) add_converted(p, acc, data, offsets, rows, width);
        else p->k->columns(p->op, &(tl_reduce_columns){acc, data, even ? NULL : offsets, even ? p->rx[0] : 0, rows, width, m});
        p->k->tree(p->op, &(tl_reduce_tree){acc, used, width});
        if (p->chunks == 1) scatter(p, p->out + o * p->size, acc, width);
        else memcpy(p->parts + ((outer * p->chunks + chunk) * p->width + column) * p->size, acc, (size_t)(width * p->size));
    }
}

static void run_columns(plan *p)
{
    int64_t outer = p->nout / p->width;
    int64_t task = (p->n < TALL ? p->n : TALL) * (p->width < p->tile ? p->width : p->tile);
    tl_parallel_for(columns_body, p, outer * p->tiles * p->chunks, grain(task));
    for (int64_t i = 0; i < outer && p->chunks > 1; i++) {
        int64_t x, o;
        char *parts = p->parts + i * p->chunks * p->width * p->size;
        locate(p, i, &x, &o);
        p->k->tree(p->op, &(tl_reduce_tree){parts, p->chunks, p->width});
        scatter(p, p->out + o * p->size, parts, p->width);
    }
}

/* ---- the way chosen ---- */

static bool by_columns(const plan *p)
{
    if (p->ordered || !p->nk || p->kx[p->nk - 1] != 1) return false;
    return magnitude(p->rx[p->nr - 1]) > 1 || p->rx[p->nr - 1] == 0;
}

static const tl_reduce_type *kernels_of(int dtype)
{
    return dtype == TL_F32 ? &tl_reduce_k->f32 : dtype == TL_F64 ? &tl_reduce_k->f64 : &tl_reduce_k->i64;
}

/* Writes the reduction of x to p->out; p->op, nonzero, dtype of the result and m are set. False: no memory. */
static bool reduce_run(plan *p, const tl_tensor *x, uint32_t mask)
{
    split_dims(p, x, mask);
    p->x = tl_data(x);
    bool columns = by_columns(p);
    if (columns) {
        p->nk--;
        p->width = p->kdim[p->nk];
        p->width_o = p->ko[p->nk];
        p->tile = TILE_BYTES / p->size;
        p->tiles = (p->width + p->tile - 1) / p->tile;
    }
    p->chunk = columns ? TALL : CHUNK_BLOCKS * BLOCK_BYTES / p->size;
    p->chunks = (p->n + p->chunk - 1) / p->chunk;
    size_t granted = 0;
    if (p->chunks > 1 && !(p->parts = tl_alloc((size_t)(p->nout * p->chunks * p->size), &granted))) return tl_fail(TL_NOMEM);
    tl_gil gil = tl_unlock(x->numel >= LARGE);
    if (columns) run_columns(p);
    else run_rows(p);
    tl_relock(gil);
    if (p->parts) tl_release(p->parts, granted);
    return true;
}

/* ---- argmax, argmin ---- */

static void arg_body(void *arg, int64_t begin, int64_t end)
{
    const plan *p = arg;
    _Alignas(TL_ALIGN) char buffer[BLOCK_BYTES];
    int64_t block = BLOCK_BYTES / p->size;
    for (int64_t t = begin; t < end; t++) {
        int64_t x, o, first = t % p->chunks * p->chunk, n = p->n - first < p->chunk ? p->n - first : p->chunk, place = -1;
        scalar best;
        locate(p, t / p->chunks, &x, &o);
        if (in_place(p)) p->k->arg(p->op, p->x + (x + first) * p->size, n, &best, &place, first);
        else
            for (int64_t b = 0; b < n; b += block) {
                int64_t length = n - b < block ? n - b : block;
                gather(p, buffer, x, first + b, length);
                p->k->arg(p->op, buffer, length, &best, &place, first + b);
            }
        if (p->chunks == 1) {
            p->places[o] = place;
        } else {
            p->places[t] = place;
            memcpy(p->parts + t * p->size, &best, (size_t)p->size);
        }
    }
}

static bool arg_run(plan *p, const tl_tensor *x, uint32_t mask, int64_t *out)
{
    size_t granted = 0, granted_places = 0;
    split_dims(p, x, mask);
    p->x = tl_data(x);
    p->chunk = CHUNK_BLOCKS * BLOCK_BYTES / p->size;
    p->chunks = (p->n + p->chunk - 1) / p->chunk;
    p->places = out;
    if (p->chunks > 1) {
        int64_t tasks = p->nout * p->chunks;
        p->parts = tl_alloc((size_t)(tasks * p->size), &granted);
        p->places = p->parts ? tl_alloc((size_t)tasks * sizeof *out, &granted_places) : NULL;
        if (!p->places) {
            if (p->parts) tl_release(p->parts, granted);
            return tl_fail(TL_NOMEM);
        }
    }
    tl_gil gil = tl_unlock(x->numel >= LARGE);
    tl_parallel_for(arg_body, p, p->nout * p->chunks, grain(p->chunks > 1 ? p->chunk : p->n));
    tl_relock(gil);
    if (p->chunks == 1) return true;
    for (int64_t i = 0; i < p->nout; i++) { /* chunks in order, so that the first of equals wins */
        int64_t x_at, o, place = -1;
        scalar best;
        locate(p, i, &x_at, &o);
        for (int64_t c = i * p->chunks; c < (i + 1) * p->chunks; c++) p->k->arg(p->op, p->parts + c * p->size, 1, &best, &place, p->places[c]);
        out[o] = place;
    }
    tl_release(p->parts, granted);
    tl_release(p->places, granted_places);
    return true;
}

/* ---- what the operations are ---- */

static tl_tensor *new_result(const tl_tensor *x, uint32_t mask, bool keepdim, int dtype)
{
    int64_t dims[TL_MAX_DIMS];
    int ndim = 0;
    for (int d = 0; d < x->ndim; d++)
        if (!(mask >> d & 1)) dims[ndim++] = x->dims[d];
        else if (keepdim) dims[ndim++] = 1;
    return tl_new(dtype, ndim, dims);
}

static bool reduces_nothing(const tl_tensor *x, uint32_t mask)
{
    for (int d = 0; d < x->ndim; d++)
        if (mask >> d & 1 && x->dims[d] == 0) return true;
    return false;
}

static plan plan_of(int op, const tl_tensor *x, bool nonzero)
{
    bool floats = tl_is_float(x->dtype) && !nonzero;
    plan p = {.op = op, .dtype = x->dtype, .nonzero = nonzero};
    p.k = kernels_of(floats ? x->dtype : TL_I64);
    p.size = floats ? tl_itemsize[x->dtype] : 8;
    p.convert = nonzero || (!floats && x->dtype != TL_I64);
    return p;
}

static void divide(tl_tensor *t, double by)
{
    if (t->dtype == TL_F32) for (int64_t i = 0; i < t->numel; i++) ((float *)(void *)tl_data(t))[i] /= (float)by;
    else for (int64_t i = 0; i < t->numel; i++) ((double *)(void *)tl_data(t))[i] /= by;
}

/* The reduction by a kernel operation into a fresh result, in the type of the computation. */
static tl_tensor *reduce_new(int op, bool nonzero, const tl_tensor *x, uint32_t mask, bool keepdim, const tl_tensor *m)
{
    plan p = plan_of(op, x, nonzero);
    tl_tensor *out = new_result(x, mask, keepdim, p.size == 4 ? TL_F32 : tl_is_float(x->dtype) && !nonzero ? TL_F64 : TL_I64);
    if (!out) return NULL;
    p.out = tl_data(out);
    p.m = m ? tl_data(m) : NULL;
    if (x->numel == 0) {
        p.k->fill(op, p.out, out->numel);
    } else if (!nonzero && !p.convert && !m && out->numel == 1 && tl_contiguous(x) && x->numel <= BLOCK_BYTES / p.size) {
        p.k->rows(op, &(tl_reduce_rows){p.out, 1, tl_data(x), 1, 0, x->numel, NULL, 0}); /* small and contiguous: straight to the kernel */
    } else if (!reduce_run(&p, x, mask)) {
        tl_free(out);
        return NULL;
    }
    return out;
}

static tl_tensor *arg_new(int op, const tl_tensor *x, uint32_t mask, bool keepdim)
{
    plan p = plan_of(op, x, false);
    p.ordered = true;
    tl_tensor *out = new_result(x, mask, keepdim, TL_I64);
    if (out && out->numel && !arg_run(&p, x, mask, (int64_t *)(void *)tl_data(out))) {
        tl_free(out);
        return NULL;
    }
    return out;
}

static tl_tensor *cast_result(tl_tensor *t, int dtype)
{
    if (!t || t->dtype == dtype) return t;
    tl_tensor *out = arr_cast(t, dtype);
    tl_free(t);
    return out;
}

static int64_t count_reduced(const tl_tensor *x, uint32_t mask)
{
    int64_t n = 1;
    for (int d = 0; d < x->ndim; d++)
        if (mask >> d & 1) n *= x->dims[d];
    return n;
}

tl_tensor *arr_reduce(int op, const tl_tensor *x, uint32_t mask, bool keepdim)
{
    int dtype = x->dtype;
    if (dtype > TL_I64 && !tl_is_float(dtype)) return tl_fail(TL_DECLINE);
    switch (op) {
    case TL_OP_sum: return reduce_new(TL_RED_SUM, false, x, mask, keepdim, NULL);
    case TL_OP_prod: return reduce_new(TL_RED_PROD, false, x, mask, keepdim, NULL);
    case TL_OP_mean: {
        if (!tl_is_float(dtype)) return tl_fail(TL_DECLINE);
        tl_tensor *out = reduce_new(TL_RED_SUM, false, x, mask, keepdim, NULL);
        if (out) divide(out, (double)count_reduced(x, mask));
        return out;
    }
    case TL_OP_all: return cast_result(reduce_new(TL_RED_MIN, true, x, mask, keepdim, NULL), TL_BOOL);
    case TL_OP_any: return cast_result(reduce_new(TL_RED_SUM, true, x, mask, keepdim, NULL), TL_BOOL);
    case TL_OP_count_nonzero: return reduce_new(TL_RED_SUM, true, x, mask, keepdim, NULL);
    case TL_OP_amax:
    case TL_OP_amin:
        if (reduces_nothing(x, mask)) return tl_fail(TL_DECLINE);
        return cast_result(reduce_new(op == TL_OP_amax ? TL_RED_MAX : TL_RED_MIN, false, x, mask, keepdim, NULL), dtype);
    case TL_OP_argmax:
    case TL_OP_argmin:
        if (reduces_nothing(x, mask) || dtype == TL_BOOL) return tl_fail(TL_DECLINE);
        return arg_new(op == TL_OP_argmax ? TL_RED_MAX : TL_RED_MIN, x, mask, keepdim);
    default: return tl_fail(TL_DECLINE);
    }
}

tl_tensor *arr_sumsq(const tl_tensor *x, uint32_t mask, bool keepdim)
{
    return tl_is_float(x->dtype) ? reduce_new(TL_RED_SQDEV, false, x, mask, keepdim, NULL) : tl_fail(TL_DECLINE);
}

tl_tensor *arr_var(const tl_tensor *x, uint32_t mask, double correction, bool keepdim)
{
    if (!tl_is_float(x->dtype)) return tl_fail(TL_DECLINE);
    tl_tensor *mean = arr_reduce(TL_OP_mean, x, mask, keepdim);
    if (!mean) return NULL;
    tl_tensor *out = reduce_new(TL_RED_SQDEV, false, x, mask, keepdim, mean);
    double left = (double)count_reduced(x, mask) - correction;
    if (out) divide(out, left > 0 ? left : 0);
    tl_free(mean);
    return out;
}

tl_tensor *arr_sum_to(tl_tensor *g, int dtype, int ndim, const int64_t *dims)
{
    int lead = g->ndim - ndim;
    uint32_t mask = (1u << lead) - 1;
    for (int d = 0; d < ndim; d++)
        if (dims[d] == 1 && g->dims[lead + d] != 1) mask |= 1u << (lead + d);
    if (!mask) return cast_result(g, dtype);
    bool only_lead = !(mask >> lead);
    tl_tensor *out = arr_reduce(TL_OP_sum, g, mask, !only_lead);
    tl_free(g);
    if (out && lead && !only_lead) { /* drop the leading ones */
        tl_tensor *sum = out;
        out = tl_new_view(sum, ndim, dims, NULL, sum->offset);
        tl_free(sum);
    }
    return cast_result(out, dtype);
}
