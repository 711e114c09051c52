/* Reading and writing by index: gather and scatter, rows by number, NumPy's advanced indexing, masks.
 *
 * Elements are moved by size, whatever they mean; only sums look at the dtype. All positions of an index are checked before anything is
 * written. Where positions repeat, later ones win and sums run in the order of the positions: threads share out the parts of the result
 * that no two positions of one part can reach from another, never the positions themselves. */
#include "kernels.h"

enum { GET, PUT, ADD };
enum { BIG_BYTES = 1 << 17, CHUNK_BYTES = 1 << 16, COLUMNS = 128 /* of a row that is written in parts */ };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t chunk_of(int64_t bytes_each) { return bytes_each >= CHUNK_BYTES ? 1 : CHUNK_BYTES / (bytes_each + 1) + 1; }

/* ---- one line: n elements of a contiguous buffer against x[j * step + at[j] * stride] (at NULL: x[j * step]), strides in elements ---- */
typedef struct {
    int mode, dtype;
    int64_t step, stride;
} line_kind;

static inline __attribute__((always_inline)) void move(const size_t size, bool get, const line_kind *k, char *x, const int64_t *at, char *flat, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        char *p = x + (j * k->step + (at ? at[j] * k->stride : 0)) * (int64_t)size;
        if (get) memcpy(flat + j * (int64_t)size, p, size);
        else memcpy(p, flat + j * (int64_t)size, size);
    }
}

static void move_line(const line_kind *k, char *x, const int64_t *at, char *flat, int64_t n)
{
    size_t size = tl_itemsize[k->dtype];
    bool get = k->mode == GET;
    if (!at && k->step == 1) {
        memcpy(get ? flat : x, get ? x : flat, (size_t)n * size);
        return;
    }
    switch (size) {
    case 1: move(1, get, k, x, at, flat, n); break;
    case 2: move(2, get, k, x, at, flat, n); break;
    case 4: move(4, get, k, x, at, flat, n); break;
    case 8: move(8, get, k, x, at, flat, n); break;
    default: move(16, get, k, x, at, flat, n);
    }
}

static void add_line(const line_kind *k, char *x, const int64_t *at, const char *flat, int64_t n)
{
#define ADD_AS(type)                                                                  \
    {                                                                                 \
        type *p = (type *)x;                                                          \
        const type *v = (const type *)flat;                                           \
        if (at) for (int64_t j = 0; j < n; j++) p[j * k->step + at[j] * k->stride] += v[j]; \
        else if (k->step == 1) for (int64_t j = 0; j < n; j++) p[j] += v[j];          \
        else for (int64_t j = 0; j < n; j++) p[j * k->step] += v[j];                  \
        break;                                                                        \
    }
    switch (k->dtype) { /* integers wrap around: as unsigned */
    case TL_F32: ADD_AS(float)
    case TL_F64: ADD_AS(double)
    case TL_I64: ADD_AS(uint64_t)
    case TL_I32: ADD_AS(uint32_t)
    case TL_I16: ADD_AS(uint16_t)
    default: ADD_AS(uint8_t)
    }
#undef ADD_AS
}

static bool adds(int dtype) { return dtype == TL_F32 || dtype == TL_F64 || (dtype >= TL_U8 && dtype <= TL_I64); }

static void run_line(const line_kind *k, char *x, const int64_t *at, char *flat, int64_t n)
{
    if (k->mode == ADD) add_line(k, x, at, flat, n);
    else move_line(k, x, at, flat, n);
}

/* ---- geometry ---- */
typedef struct {
    int ndim;
    int64_t numel, dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
} box;

/* Dimensions that one stride can lead through become one; those of size 1 go. */
static box box_of(int ndim, const int64_t *dims, const int64_t *strides)
{
    box b = {.numel = 1};
    for (int d = 0; d < ndim; d++) {
        b.numel *= dims[d];
        if (dims[d] == 1) continue;
        if (b.ndim && b.strides[b.ndim - 1] == dims[d] * strides[d]) {
            b.dims[b.ndim - 1] *= dims[d];
            b.strides[b.ndim - 1] = strides[d];
        } else {
            b.dims[b.ndim] = dims[d];
            b.strides[b.ndim++] = strides[d];
        }
    }
    return b;
}

/* Of element i, counted row by row over the first ndim dimensions. */
static int64_t offset_of(int ndim, const int64_t *dims, const int64_t *strides, int64_t i)
{
    int64_t offset = 0;
    for (int d = ndim - 1; d > 0; i /= dims[d], d--) offset += i % dims[d] * strides[d];
    return ndim ? offset + i * strides[0] : 0;
}

/* ---- operands made simple ---- */
typedef struct {
    const tl_tensor *t;
    tl_tensor *made;                         /* t, where it had to be made: to be freed */
} operand;

static bool contiguous(operand *o, const tl_tensor *t, int dtype)
{
    o->made = t->dtype == dtype && tl_contiguous(t) ? NULL : arr_cast(t, dtype);
    o->t = o->made ? o->made : t;
    return o->made || (t->dtype == dtype && tl_contiguous(t));
}

static bool is_index(const tl_tensor *t) { return t->dtype >= TL_I8 && t->dtype <= TL_I64; }

/* Every v in [low, size)? Else the first that is not, with its place, is the error. */
static bool check_range(const int64_t *v, int64_t n, int64_t low, int64_t size)
{
    uint64_t bad = 0, span = (uint64_t)(size - low);
    for (int64_t i = 0; i < n; i++) bad |= (uint64_t)v[i] - (uint64_t)low >= span;
    if (!bad) return true;
    int64_t i = 0;
    while (v[i] >= low && v[i] < size) i++;
    tl_fail_with(TL_RANGE, v[i], i, size);
    return false;
}

/* ---- positions over a run of dimensions: x[..., index_0, index_1, ..., :, :] against a contiguous array ---- */
typedef struct {
    line_kind kind;
    char *x, *flat;
    int64_t n, size;                         /* positions; bytes of an element */
    int64_t *at, few[16];                    /* where each begins in x, in elements */
    size_t granted;                          /* of at, where it is not few */
    box outer, inner;                        /* dimensions of x before and behind the run */
    int64_t row, columns, parts;             /* inner's last dimension; how much of it a thread writes; how many such parts */
} positions;

static bool set_offsets(positions *p, const tl_tensor *x, int first, int k, const tl_tensor *const *index, bool wrap)
{
    int64_t n = p->n = index[0]->numel;
    p->granted = 0;
    p->at = p->few;
    if (n > 16 && !(p->at = tl_alloc((size_t)n * sizeof *p->at, &p->granted))) return false;
    for (int i = 0; i < k; i++) {
        operand o;
        if (!contiguous(&o, index[i], TL_I64)) return false;
        const int64_t *v = (const int64_t *)tl_data(o.t), size = x->dims[first + i], stride = x->strides[first + i];
        bool fits = check_range(v, n, wrap ? -size : 0, size);
        for (int64_t j = 0; fits && j < n; j++) p->at[j] = (i ? p->at[j] : 0) + (v[j] < 0 ? v[j] + size : v[j]) * stride;
        tl_free(o.made);
        if (!fits) return false;
    }
    return true;
}

static void free_offsets(positions *p)
{
    if (p->granted) tl_release(p->at, p->granted);
}

static void rows_of_position(const positions *p, char *x, char *flat, int64_t c0, int64_t c1)
{
    int lead = p->inner.ndim - 1;
    int64_t rows = p->inner.numel / p->row;
    for (int64_t r = 0; r < rows; r++) {
        int64_t offset = offset_of(lead, p->inner.dims, p->inner.strides, r) + c0 * p->kind.step;
        run_line(&p->kind, x + offset * p->size, NULL, flat + (r * p->row + c0) * p->size, c1 - c0);
    }
}

/* Positions [begin, end) of all, counted through outer: reading, where nothing collides. */
static void read_positions(void *arg, int64_t begin, int64_t end)
{
    const positions *p = arg;
    for (int64_t u = begin, stop; u < end; u = stop) {
        int64_t o = u / p->n, i = u % p->n;
        char *x = p->x + offset_of(p->outer.ndim, p->outer.dims, p->outer.strides, o) * p->size;
        stop = least(end, (o + 1) * p->n);
        if (p->inner.ndim == 0) run_line(&p->kind, x, p->at + i, p->flat + u * p->size, stop - u);
        else
            for (int64_t v = u; v < stop; v++, i++) {
                if (v + TL_AHEAD < stop) tl_fetch(x + p->at[i + TL_AHEAD] * p->size, p->row * p->size);
                rows_of_position(p, x + p->at[i] * p->size, p->flat + v * p->inner.numel * p->size, 0, p->row);
            }
    }
}

/* Parts [begin, end): all positions of one element of outer, in one block of columns. */
static void write_positions(void *arg, int64_t begin, int64_t end)
{
    const positions *p = arg;
    for (int64_t u = begin; u < end; u++) {
        int64_t o = u / p->parts, c0 = u % p->parts * p->columns;
        char *x = p->x + offset_of(p->outer.ndim, p->outer.dims, p->outer.strides, o) * p->size;
        char *flat = p->flat + o * p->n * p->inner.numel * p->size;
        if (p->inner.ndim == 0) run_line(&p->kind, x, p->at, flat, p->n);
        else
            for (int64_t i = 0; i < p->n; i++)
                rows_of_position(p, x + p->at[i] * p->size, flat + i * p->inner.numel * p->size, c0, least(p->row, c0 + p->columns));
    }
}

/* Moves or adds between x, at the offsets set before, and flat (contiguous: outer, positions, inner). */
static void run_positions(positions *p, int mode, const tl_tensor *x, int first, int k, const tl_tensor *flat)
{
    if (flat->numel == 0) return;
    p->outer = box_of(first, x->dims, x->strides);
    p->inner = box_of(x->ndim - first - k, x->dims + first + k, x->strides + first + k);
    p->x = tl_data(x);
    p->flat = tl_data(flat);
    p->size = tl_itemsize[x->dtype];
    bool single = p->inner.ndim == 0;
    p->kind = (line_kind){mode, x->dtype, single ? 0 : p->inner.strides[p->inner.ndim - 1], 1};
    p->row = single ? 1 : p->inner.dims[p->inner.ndim - 1];
    p->columns = p->outer.numel < 8 && !single ? COLUMNS : p->row;
    p->parts = (p->row + p->columns - 1) / p->columns;
    int64_t bytes = flat->numel * p->size;
    tl_gil gil = tl_unlock(bytes > BIG_BYTES);
    if (mode == GET) {
        int64_t units = p->outer.numel * p->n, grain = bytes > BIG_BYTES ? chunk_of(bytes / units) : units;
        if (grain >= units) read_positions(p, 0, units);
        else tl_parallel_for(read_positions, p, units, grain);
    } else {
        int64_t units = p->outer.numel * p->parts, grain = bytes > BIG_BYTES ? chunk_of(bytes / units) : units;
        if (grain >= units) write_positions(p, 0, units);
        else tl_parallel_for(write_positions, p, units, grain);
    }
    tl_relock(gil);
}

/* Index tensors all of one shape (the caller broadcasts), for dimensions first, first + 1, ... of x. */
static bool index_fits(const tl_tensor *x, int first, int k, const tl_tensor *const *index)
{
    if (k < 1 || first < 0 || first + k > x->ndim) return false;
    for (int i = 0; i < k; i++)
        if (!is_index(index[i]) || !tl_same_shape(index[i], index[0])) return false;
    return true;
}

static tl_tensor *read_at(const tl_tensor *x, int first, int k, const tl_tensor *const *index, bool wrap)
{
    int64_t dims[2 * TL_MAX_DIMS];
    positions p;
    int ndim = x->ndim - k + index[0]->ndim;
    if (!index_fits(x, first, k, index) || ndim > TL_MAX_DIMS) return tl_fail(TL_DECLINE);
    memcpy(dims, x->dims, (size_t)first * sizeof *dims);
    memcpy(dims + first, index[0]->dims, index[0]->ndim * sizeof *dims);
    memcpy(dims + first + index[0]->ndim, x->dims + first + k, (size_t)(x->ndim - first - k) * sizeof *dims);
    tl_tensor *out = NULL;
    if (set_offsets(&p, x, first, k, index, wrap) && (out = tl_new(x->dtype, ndim, dims))) run_positions(&p, GET, x, first, k, out);
    free_offsets(&p);
    return out;
}

tl_tensor *arr_index(const tl_tensor *x, int first_dim, int k, const tl_tensor *const *index) { return read_at(x, first_dim, k, index, true); }

tl_tensor *arr_take(const tl_tensor *x, int dim, const tl_tensor *index) { return read_at(x, dim, 1, &index, false); }

tl_tensor *arr_index_select(const tl_tensor *x, int dim, const tl_tensor *index)
{
    return index->ndim == 1 ? arr_take(x, dim, index) : tl_fail(TL_DECLINE);
}

tl_tensor *arr_embedding(const tl_tensor *weight, const tl_tensor *index)
{
    return weight->ndim == 2 ? arr_take(weight, 0, index) : tl_fail(TL_DECLINE);
}

bool arr_index_put(tl_tensor *x, int first_dim, int k, const tl_tensor *const *index, const tl_tensor *values, bool accumulate)
{
    positions p;
    operand v;
    if (!index_fits(x, first_dim, k, index) || values->dtype != x->dtype || (accumulate && !adds(x->dtype))) return tl_fail(TL_DECLINE);
    int ni = index[0]->ndim, behind = x->ndim - first_dim - k;
    if (values->ndim != first_dim + ni + behind || memcmp(values->dims, x->dims, (size_t)first_dim * sizeof *x->dims) ||
        memcmp(values->dims + first_dim, index[0]->dims, (size_t)ni * sizeof *x->dims) ||
        memcmp(values->dims + first_dim + ni, x->dims + first_dim + k, (size_t)behind * sizeof *x->dims))
        return tl_fail(TL_DECLINE);
    bool done = false;
    if (set_offsets(&p, x, first_dim, k, index, true)) {
        if (values->storage == x->storage) v.t = v.made = arr_cast(values, values->dtype);
        else contiguous(&v, values, values->dtype);
        if ((done = v.t && (v.made || tl_contiguous(values)))) run_positions(&p, accumulate ? ADD : PUT, x, first_dim, k, v.t);
        tl_free(v.made);
    }
    free_offsets(&p);
    return done;
}

/* x += src at the rows of dim that index (1-d) names. */
static bool add_rows(tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src)
{
    positions p;
    operand s = {NULL, NULL};
    bool done = set_offsets(&p, x, dim, 1, &index, false) && contiguous(&s, src, x->dtype);
    if (done) run_positions(&p, ADD, x, dim, 1, s.t);
    tl_free(s.made);
    free_offsets(&p);
    return done;
}

/* Frees a result that could not be finished. */
static tl_tensor *if_done(bool done, tl_tensor *out)
{
    if (done) return out;
    tl_free(out);
    return NULL;
}

tl_tensor *arr_index_add(const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src)
{
    if (!index_fits(x, dim, 1, &index) || index->ndim != 1 || src->dtype != x->dtype || !adds(x->dtype) || src->ndim != x->ndim)
        return tl_fail(TL_DECLINE);
    for (int d = 0; d < x->ndim; d++)
        if (src->dims[d] != (d == dim ? index->numel : x->dims[d])) return tl_fail(TL_DECLINE);
    tl_tensor *out = arr_cast(x, x->dtype);
    return out ? if_done(add_rows(out, dim, index, src), out) : NULL;
}

/* ---- sums of rows by number: out[index[i]] += g[i], blocks of out's rows apart ----
 *
 * Positions are sorted by blocks of rows, each block's in their order; a task zeroes one block and adds to it. So threads never meet, a row's
 * sum runs in order of position, and the block stays in the cache between the two. */
typedef struct {
    line_kind kind;
    char *out, *g;
    const int64_t *index, *order, *first;    /* order: positions by block; first (blocks + 1): where each block's begin in it */
    int64_t rows, width, block, padding, size;
    const int64_t *source;                   /* the row of g that a position reads; NULL: its own */
    const void *scale;                       /* what it is multiplied by, of g's dtype; NULL: nothing */
} row_sums;

static void add_row(const row_sums *p, char *x, int64_t at)
{
    char *g = p->g + (p->source ? p->source[at] : at) * p->width * p->size;
    if (!p->scale) add_line(&p->kind, x, NULL, g, p->width);
    else if (p->kind.dtype == TL_F32)
        for (int64_t j = 0; j < p->width; j++) ((float *)x)[j] += ((const float *)p->scale)[at] * ((float *)g)[j];
    else
        for (int64_t j = 0; j < p->width; j++) ((double *)x)[j] += ((const double *)p->scale)[at] * ((double *)g)[j];
}

static void add_blocks(void *arg, int64_t begin, int64_t end)
{
    const row_sums *p = arg;
    int64_t bytes = p->width * p->size, top = least(p->rows, end * p->block);
    for (int64_t b = begin; b < end; b++) {
        memset(p->out + b * p->block * bytes, 0, (size_t)((least(top, (b + 1) * p->block) - b * p->block) * bytes));
        for (int64_t i = p->first[b]; i < p->first[b + 1]; i++) {
            int64_t at = p->order[i], row = p->index[at];
            if (row != p->padding) add_row(p, p->out + row * bytes, at);
        }
    }
}

/* order and first from the index; first is zeroed before */
static void sort_by_block(const int64_t *index, int64_t n, int64_t block, int64_t blocks, int64_t *order, int64_t *first)
{
    for (int64_t i = 0; i < n; i++) first[index[i] / block]++;
    for (int64_t b = 0, sum = 0; b <= blocks; b++) {
        int64_t here = first[b];
        first[b] = sum;
        sum += here;
    }
    for (int64_t i = 0; i < n; i++) order[first[index[i] / block]++] = i;
    memmove(first + 1, first, (size_t)blocks * sizeof *first); /* each has come to where the next begins */
    first[0] = 0;
}

tl_tensor *arr_rows_added(const tl_tensor *g, int64_t n, const tl_tensor *index, int64_t rows, int64_t padding, const int64_t *source, const void *scale)
{
    int64_t width = g->dims[g->ndim - 1], size = tl_itemsize[g->dtype];
    int64_t block = CHUNK_BYTES / (width * size + 1) + 1, blocks = (rows + block - 1) / block;
    operand at = {NULL, NULL}, from = {NULL, NULL};
    size_t granted = 0;
    tl_tensor *out = tl_new(g->dtype, 2, (int64_t[]){rows, width});
    int64_t *scratch = NULL;
    bool done = out && contiguous(&at, index, TL_I64) && contiguous(&from, g, g->dtype) && check_range((const int64_t *)tl_data(at.t), n, 0, rows) &&
                (scratch = tl_alloc((size_t)(n + blocks + 1) * sizeof *scratch, &granted));
    if (done) {
        row_sums p = {{ADD, g->dtype, 1, 0}, tl_data(out), tl_data(from.t), (const int64_t *)tl_data(at.t), scratch, scratch + n, rows, width, block,
                      padding, size, source, scale};
        bool big = (rows + n) * width * size > BIG_BYTES;
        tl_gil gil = tl_unlock(big);
        memset(scratch + n, 0, (size_t)(blocks + 1) * sizeof *scratch);
        sort_by_block(p.index, n, block, blocks, scratch, scratch + n);
        if (big) tl_parallel_for(add_blocks, &p, blocks, 1);
        else add_blocks(&p, 0, blocks);
        tl_relock(gil);
        tl_release(scratch, granted);
    }
    tl_free(at.made);
    tl_free(from.made);
    return if_done(done, out);
}

tl_tensor *arr_embedding_grad(const tl_tensor *g, const tl_tensor *index, int64_t rows, int64_t padding)
{
    if (!is_index(index) || !adds(g->dtype) || g->ndim != index->ndim + 1 || memcmp(g->dims, index->dims, index->ndim * sizeof *g->dims) || rows < 0)
        return tl_fail(TL_DECLINE);
    return arr_rows_added(g, index->numel, index, rows, padding, NULL, NULL);
}

/* ---- gather and scatter: out[i, j, k] = x[i, index[i, j, k], k] for dim 1, and the reverse ---- */
typedef struct {
    line_kind kind;
    char *x, *flat;                          /* flat: contiguous, of the index's shape */
    const int64_t *at;
    int dim, ndim;                           /* ndim >= 1 */
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS]; /* of the index; of x, 0 at dim */
    int64_t size, row, columns, parts, lines;/* last dimension of the index; its part for a thread; parts; lines that go together */
} along;

/* Parts [begin, end): `lines` lines each, in one block of columns. */
static void run_along(void *arg, int64_t begin, int64_t end)
{
    const along *g = arg;
    for (int64_t u = begin; u < end; u++) {
        int64_t c0 = u % g->parts * g->columns, n = least(g->columns, g->row - c0);
        for (int64_t line = u / g->parts * g->lines, last = line + g->lines; line < last; line++) {
            char *x = g->x + (offset_of(g->ndim - 1, g->dims, g->strides, line) + c0 * g->kind.step) * g->size;
            run_line(&g->kind, x, g->at + line * g->row + c0, g->flat + (line * g->row + c0) * g->size, n);
        }
    }
}

static bool move_along(int mode, const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *flat)
{
    operand at;
    if (!contiguous(&at, index, TL_I64)) return false;
    bool fits = check_range((const int64_t *)tl_data(at.t), index->numel, 0, x->ndim ? x->dims[dim] : 1);
    if (fits && index->numel) {
        int last = x->ndim ? x->ndim - 1 : 0;
        along g = {.x = tl_data(x), .flat = tl_data(flat), .at = (const int64_t *)tl_data(at.t), .dim = dim, .ndim = last + 1,
                   .size = tl_itemsize[x->dtype], .lines = 1, .dims = {1}};
        for (int d = 0; d < x->ndim; d++) {
            g.dims[d] = index->dims[d];
            g.strides[d] = d == dim ? 0 : x->strides[d];
        }
        g.kind = (line_kind){mode, x->dtype, g.strides[last], x->ndim ? x->strides[dim] : 0};
        g.row = g.columns = g.dims[last];
        int64_t units = index->numel / g.row, bytes = index->numel * (g.size + 8);
        if (mode != GET && dim < last) { /* lines that share an element of x stay together */
            for (int d = dim; d < last; d++) g.lines *= g.dims[d];
            units /= g.lines;
            if (units < 8) g.columns = least(g.row, COLUMNS);
        }
        g.parts = (g.row + g.columns - 1) / g.columns;
        units *= g.parts;
        tl_gil gil = tl_unlock(bytes > BIG_BYTES);
        if (bytes > BIG_BYTES) tl_parallel_for(run_along, &g, units, chunk_of(bytes / units));
        else run_along(&g, 0, units);
        tl_relock(gil);
    }
    tl_free(at.made);
    return fits;
}

/* index and x of the same number of dimensions, the index nowhere larger but along dim. */
static bool along_fits(const tl_tensor *x, int dim, const tl_tensor *index)
{
    if (!is_index(index) || index->ndim != x->ndim || dim < 0 || dim > (x->ndim ? x->ndim - 1 : 0)) return false;
    for (int d = 0; d < x->ndim; d++)
        if (d != dim && index->dims[d] > x->dims[d]) return false;
    return true;
}

tl_tensor *arr_gather(const tl_tensor *x, int dim, const tl_tensor *index)
{
    if (!along_fits(x, dim, index)) return tl_fail(TL_DECLINE);
    tl_tensor *out = tl_new(x->dtype, index->ndim, index->dims);
    return out ? if_done(move_along(GET, x, dim, index, out), out) : NULL;
}

static tl_tensor *scattered(int mode, const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src)
{
    if (!along_fits(x, dim, index) || src->dtype != x->dtype || src->ndim != x->ndim) return tl_fail(TL_DECLINE);
    for (int d = 0; d < x->ndim; d++)
        if (index->dims[d] > src->dims[d]) return tl_fail(TL_DECLINE);
    tl_tensor *out = arr_cast(x, x->dtype), *part = NULL;
    operand flat = {NULL, NULL};
    bool done = out && (part = tl_new_view(src, src->ndim, index->dims, src->strides, src->offset)) && contiguous(&flat, part, x->dtype) &&
                move_along(mode, out, dim, index, flat.t);
    tl_free(flat.made);
    tl_free(part);
    return if_done(done, out);
}

tl_tensor *arr_scatter(const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src) { return scattered(PUT, x, dim, index, src); }

tl_tensor *arr_scatter_add(const tl_tensor *x, int dim, const tl_tensor *index, const tl_tensor *src)
{
    return adds(x->dtype) ? scattered(ADD, x, dim, index, src) : tl_fail(TL_DECLINE);
}
