/* Matrix products: shapes, batches and threads. The kernels are in matmul.inc.c.
 *
 * An element's bits depend on K, the dtype and, where the right operand is a single column, on whether A's rows are contiguous (then it
 * is a dot product); never on the other rows, the batch or the threads. All cuts below are made from shapes alone. */
#include "kernels.h"

typedef struct {
    const char *data;
    int64_t rows, cols, rs, cs;
    int nb;                                   /* batch dimensions in front */
    const int64_t *bdims, *bstrides;
    tl_storage *storage;
} matrix;

/* DIRECT   from where the operands lie: small products, few rows
 * PACKED   each piece packs what it needs into its thread's slot
 * DOTS     matrix times vector */
enum { DIRECT, PACKED, DOTS };
enum {
    BIG = 1 << 19,                            /* multiply-adds of a call that threads may share */
    CHUNK = 1 << 18,                          /* of a thread's piece of work, at least */
    PACK_FROM = 1 << 20,                      /* of one product from which packing A pays */
    BLOCK_BYTES = 480 << 10,                  /* of packed columns: they stay in the second-level cache while all rows pass by */
    BLOCK_STRIPS = 512,                       /* strips that pass by, at most */
    FEW_ROWS = 256,                           /* for which B is looked up among the packed weights (packed.c) */
    MAX_SLOTS = 64
};

typedef struct {
    tl_mm mm;                                 /* of the first matrix of the batch */
    int64_t m, n, batch;
    int type, path, nb;
    tl_tensor *narrow;                        /* the operands are of its dtype, half precision; it takes the results from C; or NULL */
    int64_t rows, cols, row_blocks, col_blocks;  /* how one product is cut */
    int64_t bdims[TL_MAX_DIMS], as[TL_MAX_DIMS], bs[TL_MAX_DIMS], added[TL_MAX_DIMS]; /* batch; strides in bytes, 0 where broadcast */
    char *work;                               /* packing space: one slot per thread */
    int64_t slot;
    _Atomic uint64_t free_slots;
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t item(const job *j) { return j->type ? 8 : 4; }
static int64_t item_in(const job *j) { return j->narrow ? 2 : item(j); }

/* ---- pieces ---- */
static int take_slot(job *j)
{
    uint64_t free = atomic_load(&j->free_slots);
    while (free && !atomic_compare_exchange_weak(&j->free_slots, &free, free & (free - 1))) {}
    return free ? __builtin_ctzll(free) : -1;
}

/* The operands of product u of the batch. */
static tl_mm product_of_batch(const job *j, int64_t u)
{
    tl_mm p = j->mm;
    int64_t a = 0, b = 0, added = 0, c = u * j->m * j->n * item(j), rest = u;
    for (int64_t d = j->nb - 1; d >= 0; rest /= j->bdims[d], d--) {
        a += rest % j->bdims[d] * j->as[d];
        b += rest % j->bdims[d] * j->bs[d];
        added += rest % j->bdims[d] * j->added[d];
    }
    p.a = (const char *)p.a + a;
    p.b = (const char *)p.b + b;
    p.c = (char *)p.c + c;
    if (p.finish.added) p.finish.added = (const char *)p.finish.added + added;
    if (p.finish.out) p.finish.out = (char *)p.finish.out + c;
    return p;
}

/* The results lie side by side: they are finished as a row. */
static void run_dots(int type, const tl_mm *p, int64_t m0, int64_t m1)
{
    tl_mm_k->dots[type](p, m0, m1);
    if (!p->finishes) return;
    tl_mm row = *p;
    row.finish.added_ns = p->finish.added_ms;
    tl_mm_k->finish[type](&row, 0, 1, m0, m1);
}

static void run_half(const job *j, const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work)
{
    int64_t first = (const float *)p->c - (const float *)j->mm.c;
    tl_half_k->packed[j->narrow->dtype == TL_BF16](p, m0, m1, n0, n1, work, (uint16_t *)tl_data(j->narrow) + first);
}

static void run_pieces(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int64_t pieces = j->row_blocks * j->col_blocks;
    int slot = j->work ? take_slot(j) : -1;   /* none left, which threads.c does not let happen: the direct path has the same bits */
    while (slot < 0 && j->work && j->narrow) slot = take_slot(j); /* which has no direct path */
    for (int64_t u = begin; u < end; u++) {
        tl_mm p = product_of_batch(j, u / pieces);
        int64_t piece = u % pieces, m0 = piece / j->col_blocks * j->rows, n0 = piece % j->col_blocks * j->cols;
        int64_t m1 = least(j->m, m0 + j->rows), n1 = least(j->n, n0 + j->cols);
        if (j->path == DOTS) run_dots(j->type, &p, m0, m1);
        else if (j->narrow) run_half(j, &p, m0, m1, n0, n1, slot >= 0 ? j->work + slot * j->slot : NULL);
        else if (p.packed || slot >= 0) tl_mm_k->packed[j->type](&p, m0, m1, n0, n1, slot >= 0 ? j->work + slot * j->slot : NULL);
        else tl_mm_k->direct[j->type](&p, m0, m1, n0, n1);
    }
    if (slot >= 0) atomic_fetch_or(&j->free_slots, UINT64_C(1) << slot);
}

/* What a piece of r strips times c panels takes, in tiles: turning or copying a strip of A, packing a panel of B. */
static double piece_cost(int64_t r, int64_t c) { return (double)r * (double)c + 0.1 * (double)r + 3. * (double)c; }

/* Cuts one product of the batch into pieces that keep all threads busy and pack as little as they can. Where an element is computed does not
 * matter to its bits, so this may depend on the number of threads. */
static void cut_packed(job *j)
{
    int64_t mr = tl_mm_k->mr, nr = tl_mm_k->nr[j->type], strips = ceil_div(j->m, mr), panels = ceil_div(j->n, nr), threads = tl_get_num_threads();
    int64_t most = BLOCK_BYTES / (tl_mm_block(j->mm.k) * nr * item(j)), fewest = ceil_div(panels, most < 1 ? 1 : most);
    int64_t best_r = 1, best_c = 1;
    double best = 0;
    for (int64_t c = fewest; c <= panels && c <= fewest + 2 * threads; c++)
        for (int64_t r = ceil_div(strips, BLOCK_STRIPS), limit = r + 2 * threads; r <= strips && r <= limit; r++) {
            double rounds = (double)ceil_div(c * r * j->batch, threads), cost = rounds * piece_cost(ceil_div(strips, r), ceil_div(panels, c));
            if (best == 0 || cost < best) best = cost, best_r = r, best_c = c;
        }
    j->rows = ceil_div(strips, best_r) * mr;
    j->cols = ceil_div(panels, best_c) * nr;
}

/* Panels of a packed B in a piece: few pieces, since each packs the rows of A for itself, but the panels stay in the second-level cache. */
static int64_t packed_panels(const job *j, int64_t k)
{
    int64_t nr = tl_mm_k->nr[j->type], most = BLOCK_BYTES / (tl_mm_block(k) * nr * item(j)), fewest = ceil_div(ceil_div(CHUNK, j->m * k), nr);
    int64_t share = least(most, ceil_div(ceil_div(j->n, nr), 2 * tl_get_num_threads()));
    return share > fewest ? share : fewest;
}

/* How one product is cut into pieces. */
static void cut(job *j)
{
    int64_t nr = tl_mm_k->nr[j->type], k = j->mm.k ? j->mm.k : 1;
    j->rows = j->m;
    j->cols = j->n;
    if (j->mm.packed) j->cols = least(j->n, packed_panels(j, k) * nr);
    else if (j->path == PACKED) cut_packed(j);
    else if (j->path == DOTS) j->rows = least(j->m, ceil_div(CHUNK / 8, k)); /* the matrix is read once: bytes are what counts */
    else j->cols = least(j->n, ceil_div(ceil_div(CHUNK, j->m * k), nr) * nr);
    j->row_blocks = ceil_div(j->m, j->rows);
    j->col_blocks = ceil_div(j->n, j->cols);
}

/* False where memory ended and there is no direct path. */
static bool run_big(job *j, double each)
{
    if (j->path == DIRECT && j->m >= tl_mm_k->mr && j->mm.k && each >= PACK_FROM) j->path = PACKED;
    cut(j);
    int64_t units = j->batch * j->row_blocks * j->col_blocks, nr = tl_mm_k->nr[j->type];
    double cost = each / (double)(j->row_blocks * j->col_blocks);
    size_t granted = 0;
    if (j->path == PACKED && !j->mm.packed) {
        int64_t slots = least(least(units, tl_get_num_threads()), MAX_SLOTS);
        j->slot = tl_mm_block(j->mm.k) * ceil_div(j->cols, nr) * nr * item(j);
        j->work = tl_alloc((size_t)(slots * j->slot), &granted); /* none: the direct path has the same bits */
        atomic_init(&j->free_slots, ~UINT64_C(0) >> (64 - slots));
        if (!j->work && j->narrow) return false;
    }
    tl_gil gil = tl_unlock(true);
    tl_parallel_for(run_pieces, j, units, cost >= CHUNK ? 1 : (int64_t)(CHUNK / cost));
    tl_relock(gil);
    if (j->work) tl_release(j->work, granted);
    return true;
}

/* ---- one product: out (contiguous: the batch, a.rows, b.cols) = a b, finished ---- */
static void set_batch(job *j, const matrix *a, const matrix *b, int nb, const int64_t *bdims)
{
    int64_t size = item_in(j);
    j->nb = nb;
    j->batch = 1;
    for (int d = 0; d < nb; d++) {
        int da = d - (nb - a->nb), db = d - (nb - b->nb);
        j->bdims[d] = bdims[d];
        j->as[d] = da >= 0 && a->bdims[da] != 1 ? a->bstrides[da] * size : 0;
        j->bs[d] = db >= 0 && b->bdims[db] != 1 ? b->bstrides[db] * size : 0;
        j->batch *= bdims[d];
    }
}

static matrix transposed(matrix x)
{
    return (matrix){x.data, x.cols, x.rows, x.cs, x.rs, x.nb, x.bdims, x.bstrides, x.storage};
}

/* What becomes of the sums, see tl_mm_finish. added: NULL, or of the batch's dimensions (none: one matrix for all), strides 0 where it is spread.
 * results: NULL, or of out's shape. */
typedef struct { const matrix *added; double beta, alpha; int act; const tl_tensor *results; bool adds; } after;
static const after as_it_is = {.alpha = 1, .act = TL_MM_AS_IT_IS};

static void set_finish(job *j, const after *f)
{
    const matrix *x = f->added;
    j->mm.adds = f->adds;
    j->mm.finishes = x || f->results || f->alpha != 1 || f->act != TL_MM_AS_IT_IS;
    j->mm.finish = (tl_mm_finish){.out = f->results ? tl_data(f->results) : NULL, .alpha = f->alpha, .beta = f->beta, .act = f->act};
    if (x) j->mm.finish.added = x->data, j->mm.finish.added_ms = x->rs, j->mm.finish.added_ns = x->cs;
    for (int d = 0; d < j->nb; d++) j->added[d] = x && x->nb ? x->bstrides[d] * item(j) : 0;
}

static bool is_half(const tl_tensor *t) { return t->dtype == TL_F16 || t->dtype == TL_BF16; }

/* Weights met before (packed.c), in the job's path; NULL: none. */
static tl_mm_weight *find_weight(job *j, const matrix *b, int dtype)
{
    if (j->path == DOTS || j->nb || j->m > FEW_ROWS || !b->storage) return NULL;
    tl_mm_weight *found = tl_mm_weight_find(b->storage, &(tl_mm_view){b->data, b->rows, b->cols, b->rs, b->cs, dtype}, &j->mm.packed);
    if (found) j->path = PACKED, j->mm.packed_wide = tl_mm_wide(j->n, j->type);
    return found;
}

/* The same of half precision, without a copy of the operands; declines where that does not pay, or they lie too scattered. */
static tl_tensor *half_product(tl_tensor *out, const matrix *a, const matrix *b, int nb, const int64_t *bdims, const after *f)
{
    bool lines = (a->cs == 1 || a->rs == 1) && (b->cs == 1 || b->rs == 1);
    if (b->cols == 1 || a->cols == 0 || !lines) return tl_free(out), tl_fail(TL_DECLINE);
    job j = {.narrow = out, .path = PACKED, .m = a->rows, .n = b->cols, .rows = a->rows, .cols = b->cols, .row_blocks = 1, .col_blocks = 1};
    j.mm = (tl_mm){.a = a->data, .b = b->data, .k = a->cols, .ams = a->rs, .aks = a->cs, .bks = b->rs, .bns = b->cs, .ldc = b->cols};
    set_batch(&j, a, b, nb, bdims);
    tl_mm_weight *weight = find_weight(&j, b, out->dtype);
    double each = (double)j.m * (double)j.n * (double)j.mm.k;
    if (!weight && (j.m < tl_mm_k->mr || each < PACK_FROM)) return tl_free(out), tl_fail(TL_DECLINE);
    tl_tensor *sums = tl_new(TL_F32, out->ndim, out->dims);
    bool done = false;
    if (sums) {
        j.mm.c = tl_data(sums);
        set_finish(&j, f);
        done = run_big(&j, each);
    }
    if (weight) tl_mm_weight_done(weight);
    tl_free(sums);
    if (done) return out;
    tl_free(out);
    return NULL;
}

static tl_tensor *product(tl_tensor *out, const matrix *a, const matrix *b, int nb, const int64_t *bdims, const after *f)
{
    if (!out || out->numel == 0) return out;
    if (is_half(out)) return half_product(out, a, b, nb, bdims, f);
    bool dots = b->cols == 1 && (a->cs == 1 || a->cols <= 1);
    if (b->cols == 1 && !dots && a->rows > 1) { /* A stands upright: turned around, there are vectors to work on */
        matrix at = transposed(*a), bt = transposed(*b), added;
        after turned = *f;
        if (f->added) added = transposed(*f->added), turned.added = &added;
        return product(out, &bt, &at, nb, bdims, &turned);
    }
    job j;
    j.narrow = NULL;
    j.type = out->dtype == TL_F64;
    j.path = dots ? DOTS : DIRECT;
    j.work = NULL;
    j.mm = (tl_mm){.a = a->data, .b = b->data, .c = tl_data(out), .k = a->cols, .ams = a->rs, .aks = a->cs, .bks = b->rs, .bns = b->cs,
                   .ldc = b->cols};
    j.rows = j.m = a->rows;
    j.cols = j.n = b->cols;
    j.row_blocks = j.col_blocks = 1;
    set_batch(&j, a, b, nb, bdims);
    set_finish(&j, f);
    tl_mm_weight *weight = find_weight(&j, b, out->dtype);
    double work = (double)out->numel * (double)(a->cols + 1);
    if (work >= BIG) run_big(&j, work / (double)j.batch);
    else run_pieces(&j, 0, j.batch);
    if (weight) tl_mm_weight_done(weight);
    return out;
}

/* ---- operands ---- */
/* The last two dimensions as a matrix, the others as its batch. */
static matrix as_matrix(const tl_tensor *t)
{
    int n = t->ndim;
    return (matrix){tl_data(t), t->dims[n - 2], t->dims[n - 1], t->strides[n - 2], t->strides[n - 1], n - 2, t->dims, t->strides, t->storage};
}

/* All dimensions but the last as the rows of one matrix. False where no single stride leads from row to row. */
static bool fold_rows(const tl_tensor *t, matrix *out)
{
    int last = t->ndim - 1;
    int64_t rows = 1, rs = 0;
    for (int d = last - 1; d >= 0; d--) {
        if (t->dims[d] == 1) continue;
        if (rows != 1 && t->strides[d] != rs * rows) return false;
        if (rows == 1) rs = t->strides[d];
        rows *= t->dims[d];
    }
    *out = (matrix){tl_data(t), rows, t->dims[last], rs, t->strides[last], 0, NULL, NULL, t->storage};
    return true;
}

static bool broadcast_batch(const matrix *a, const matrix *b, int *nb, int64_t *dims)
{
    *nb = a->nb > b->nb ? a->nb : b->nb;
    for (int d = 0; d < *nb; d++) {
        int da = d - (*nb - a->nb), db = d - (*nb - b->nb);
        int64_t na = da >= 0 ? a->bdims[da] : 1, nbb = db >= 0 ? b->bdims[db] : 1;
        if (na != nbb && na != 1 && nbb != 1) return false;
        dims[d] = na == 1 ? nbb : na;
    }
    return true;
}

/* x (..., K) times one matrix (K, N), finished with something that all rows share -> (..., N) */
static tl_tensor *rows_product(const tl_tensor *x, const matrix *b, const after *f)
{
    int64_t dims[TL_MAX_DIMS];
    matrix a;
    memcpy(dims, x->dims, x->ndim * sizeof *dims);
    dims[x->ndim - 1] = b->cols;
    if (fold_rows(x, &a)) return product(tl_new(x->dtype, x->ndim, dims), &a, b, 0, NULL, f);
    a = as_matrix(x);
    return product(tl_new(x->dtype, x->ndim, dims), &a, b, a.nb, a.bdims, f);
}

/* The strides of x as it broadcasts to these dimensions; false where it does not. */
static bool spread_strides(const tl_tensor *x, int ndim, const int64_t *dims, int64_t *strides)
{
    int skipped = ndim - x->ndim;
    for (int d = 0; d < ndim; d++) {
        bool one = d < skipped || x->dims[d - skipped] == 1;
        if (!one && x->dims[d - skipped] != dims[d]) return false;
        strides[d] = one ? 0 : x->strides[d - skipped];
    }
    return skipped >= 0;
}

static bool multiplies(const tl_tensor *a, const tl_tensor *b)
{
    return a->dtype == b->dtype && (tl_is_float(a->dtype) || is_half(a)) && a->ndim && b->ndim;
}

/* ---- half precision where half_product declines: computed in float32 all the same, the result rounded once ---- */
static bool copies(const tl_tensor *out, const tl_tensor *a, const tl_tensor *b) { return !out && is_half(a) && a->dtype == b->dtype && tl_last_error.code != TL_NOMEM; }

/* f of the operands, which are of one dtype, in float32; b and c may be NULL. */
static tl_tensor *in_single(tl_tensor *(*f)(const tl_tensor *, const tl_tensor *, const tl_tensor *), const tl_tensor *a, const tl_tensor *b,
                            const tl_tensor *c)
{
    const tl_tensor *in[3] = {a, b, c};
    tl_tensor *wide[3] = {NULL}, *sum = NULL, *out = NULL;
    for (int i = 0; i < 3; i++)
        if (in[i] && !(wide[i] = arr_cast(in[i], TL_F32))) goto done;
    if ((sum = f(wide[0], wide[1], wide[2]))) out = arr_cast(sum, a->dtype);
done:
    for (int i = 0; i < 3; i++) tl_free(wide[i]);
    tl_free(sum);
    return out;
}

static tl_tensor *matmul_of(const tl_tensor *a, const tl_tensor *b, const tl_tensor *none) { (void)none; return arr_matmul(a, b); }
static tl_tensor *grad_input_of(const tl_tensor *g, const tl_tensor *w, const tl_tensor *none) { (void)none; return arr_linear_grad_input(g, w); }
static tl_tensor *grad_weight_of(const tl_tensor *g, const tl_tensor *x, const tl_tensor *none) { (void)none; return arr_linear_grad_weight(g, x); }
static tl_tensor *grad_bias_of(const tl_tensor *g, const tl_tensor *no, const tl_tensor *none) { (void)no, (void)none; return arr_linear_grad_bias(g); }

/* ---- the operations ---- */
/* alpha a b as arr_matmul has it, plus beta x where there is x. */
static tl_tensor *matmul(const tl_tensor *a, const tl_tensor *b, const tl_tensor *x, double beta, double alpha)
{
    int64_t dims[TL_MAX_DIMS + 2], strides[TL_MAX_DIMS + 2];
    int nb;
    if (!multiplies(a, b)) return tl_fail(TL_DECLINE);
    matrix mb = b->ndim > 1 ? as_matrix(b) : (matrix){tl_data(b), b->dims[0], 1, b->strides[0], 1, 0, NULL, NULL, b->storage};
    if (a->dims[a->ndim - 1] != mb.rows) return tl_fail(TL_DECLINE);
    after f = {.alpha = alpha, .beta = beta, .act = TL_MM_AS_IT_IS};
    if (b->ndim == 2 && !x) return rows_product(a, &mb, &f);
    matrix ma = a->ndim > 1 ? as_matrix(a) : (matrix){tl_data(a), 1, a->dims[0], 0, a->strides[0], 0, NULL, NULL, a->storage};
    if (!broadcast_batch(&ma, &mb, &nb, dims)) return tl_fail(TL_DECLINE);
    int ndim = nb;
    if (a->ndim > 1) dims[ndim++] = ma.rows;
    if (b->ndim > 1) dims[ndim++] = mb.cols;
    matrix added = {.nb = nb, .bstrides = strides};
    if (x) {
        if (x->dtype != a->dtype || !spread_strides(x, ndim, dims, strides)) return tl_fail(TL_DECLINE);
        added.data = tl_data(x);
        if (a->ndim > 1) added.rs = strides[nb];
        if (b->ndim > 1) added.cs = strides[ndim - 1];
        f.added = &added;
    }
    return product(tl_new(a->dtype, ndim, dims), &ma, &mb, nb, dims, &f);
}

tl_tensor *arr_matmul(const tl_tensor *a, const tl_tensor *b)
{
    tl_tensor *out = matmul(a, b, NULL, 0, 1);
    return copies(out, a, b) ? in_single(matmul_of, a, b, NULL) : out;
}

tl_tensor *arr_scaled_product(const tl_tensor *x, const tl_tensor *a, const tl_tensor *b, double beta, double alpha)
{
    if (!tl_is_float(a->dtype)) return tl_fail(TL_DECLINE);
    return matmul(a, b, beta == 0 ? NULL : x, beta, alpha);
}

tl_tensor *arr_scaled_sum(const tl_tensor *x, const tl_tensor *a, const tl_tensor *b, double beta, double alpha)
{
    if (beta == 0) x = NULL;
    if (!tl_is_float(a->dtype) || !multiplies(a, b) || a->ndim != 3 || b->ndim != 3 || (x && x->dtype != a->dtype)) return tl_fail(TL_DECLINE);
    int64_t n = a->dims[0], dims[2] = {a->dims[1], b->dims[2]}, strides[2];
    if (n == 0 || dims[1] == 1 || b->dims[0] != n || b->dims[1] != a->dims[2]) return tl_fail(TL_DECLINE);
    if (x && !spread_strides(x, 2, dims, strides)) return tl_fail(TL_DECLINE);
    matrix ma = as_matrix(a), mb = as_matrix(b), added = {0};
    if (x) added = (matrix){.data = tl_data(x), .rs = strides[0], .cs = strides[1]};
    ma.nb = mb.nb = 0;
    mb.storage = NULL; /* each is met once: none to keep packed */
    tl_tensor *out = tl_new(a->dtype, 2, dims);
    after f = as_it_is;
    for (int64_t i = 0; out && i < n; i++, f.adds = true) {
        if (i == n - 1) f.added = x ? &added : NULL, f.beta = beta, f.alpha = alpha;
        product(out, &ma, &mb, 0, NULL, &f);
        ma.data += a->strides[0] * tl_itemsize[a->dtype];
        mb.data += b->strides[0] * tl_itemsize[b->dtype];
    }
    return out;
}

tl_tensor *arr_turned(const tl_tensor *t)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    memcpy(dims, t->dims, sizeof *dims * t->ndim);
    memcpy(strides, t->strides, sizeof *strides * t->ndim);
    int i = t->ndim - 1, j = t->ndim - 2;
    dims[i] = t->dims[j], dims[j] = t->dims[i];
    strides[i] = t->strides[j], strides[j] = t->strides[i];
    return tl_new_view(t, t->ndim, dims, strides, t->offset);
}

/* wide: the bias in the type of the sums, or NULL where it is of that */
static tl_tensor *linear(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias, const tl_tensor *wide, int act, const tl_tensor *results)
{
    if (!multiplies(x, w) || w->ndim != 2 || x->dims[x->ndim - 1] != w->dims[1]) return tl_fail(TL_DECLINE);
    if (bias && (bias->dtype != x->dtype || bias->ndim != 1 || bias->dims[0] != w->dims[0])) return tl_fail(TL_DECLINE);
    matrix b = transposed(as_matrix(w)), added;
    if (bias && !wide) wide = bias;
    if (wide) added = (matrix){.data = tl_data(wide), .cs = wide->strides[0]};
    return rows_product(x, &b, &(after){bias ? &added : NULL, 1, 1, act, results, false});
}

tl_tensor *arr_linear(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias)
{
    tl_tensor *wide = bias && is_half(bias) ? arr_cast(bias, TL_F32) : NULL;
    if (bias && is_half(bias) && !wide) return NULL;
    tl_tensor *out = linear(x, w, bias, wide, TL_MM_AS_IT_IS, NULL);
    tl_free(wide);
    return copies(out, x, w) && (!bias || bias->dtype == x->dtype) ? in_single(arr_linear, x, w, bias) : out;
}

bool arr_linear_add(tl_tensor *out, const tl_tensor *x, const tl_tensor *w)
{
    matrix a;
    if (!tl_is_float(x->dtype) || !multiplies(x, w) || x->ndim > 2 || w->ndim != 2 || x->dims[x->ndim - 1] != w->dims[1]) return tl_fail(TL_DECLINE);
    if (out->dtype != x->dtype || !tl_contiguous(out) || !fold_rows(x, &a) || out->numel != a.rows * w->dims[0]) return tl_fail(TL_DECLINE);
    matrix b = transposed(as_matrix(w));
    return product(out, &a, &b, 0, NULL, &(after){.alpha = 1, .act = TL_MM_AS_IT_IS, .adds = true});
}

tl_tensor *arr_linear_act(const tl_tensor *x, const tl_tensor *w, const tl_tensor *bias, int act, bool keeps_sums, tl_tensor **sums)
{
    if (!tl_is_float(x->dtype)) return tl_fail(TL_DECLINE);
    if (!keeps_sums) return linear(x, w, bias, NULL, act, NULL);
    int64_t dims[TL_MAX_DIMS];
    if (!multiplies(x, w) || w->ndim != 2) return tl_fail(TL_DECLINE);
    memcpy(dims, x->dims, x->ndim * sizeof *dims);
    dims[x->ndim - 1] = w->dims[0];
    tl_tensor *out = tl_new(x->dtype, x->ndim, dims);
    if (!out || (*sums = linear(x, w, bias, NULL, act, out))) return out;
    tl_free(out);
    return NULL;
}

tl_tensor *arr_linear_grad_input(const tl_tensor *g, const tl_tensor *w)
{
    if (!multiplies(g, w) || w->ndim != 2 || g->dims[g->ndim - 1] != w->dims[0]) return tl_fail(TL_DECLINE);
    matrix b = as_matrix(w);
    tl_tensor *out = rows_product(g, &b, &as_it_is);
    return copies(out, g, w) ? in_single(grad_input_of, g, w, NULL) : out;
}

/* out NULL: fresh. Consumes it. */
static tl_tensor *grad_weight(tl_tensor *out, const tl_tensor *g, const tl_tensor *x)
{
    tl_tensor *gc = NULL, *xc = NULL;
    matrix mg, mx;
    bool ok = fold_rows(g, &mg) || ((gc = arr_cast(g, g->dtype)) && fold_rows(gc, &mg));
    ok = ok && (fold_rows(x, &mx) || ((xc = arr_cast(x, x->dtype)) && fold_rows(xc, &mx)));
    if (ok) {
        mg = transposed(mg);
        out = product(out ? out : tl_new(g->dtype, 2, (int64_t[]){mg.rows, mx.cols}), &mg, &mx, 0, NULL, &as_it_is);
    } else {
        tl_free(out);
    }
    tl_free(gc);
    tl_free(xc);
    return ok ? out : NULL;
}

static bool rows_agree(const tl_tensor *g, const tl_tensor *x)
{
    return multiplies(g, x) && g->ndim == x->ndim && !memcmp(g->dims, x->dims, (g->ndim - 1u) * sizeof *g->dims);
}

tl_tensor *arr_linear_grad_weight(const tl_tensor *g, const tl_tensor *x)
{
    if (!rows_agree(g, x)) return tl_fail(TL_DECLINE);
    tl_tensor *out = grad_weight(NULL, g, x);
    return copies(out, g, x) ? in_single(grad_weight_of, g, x, NULL) : out;
}

tl_tensor *arr_linear_grad_weight_into(tl_tensor *out, const tl_tensor *g, const tl_tensor *x)
{
    int64_t dims[] = {g->dims[g->ndim - 1], x->dims[x->ndim - 1]};
    if (rows_agree(g, x) && tl_is_float(g->dtype) && out->ndim == 2 && !memcmp(out->dims, dims, sizeof dims)) return grad_weight(out, g, x);
    tl_free(out);
    return arr_linear_grad_weight(g, x);
}

tl_tensor *arr_linear_grad_bias(const tl_tensor *g)
{
    if (is_half(g)) return in_single(grad_bias_of, g, NULL, NULL);
    if (!tl_is_float(g->dtype) || !g->ndim) return tl_fail(TL_DECLINE);
    if (g->ndim == 1) return arr_cast(g, g->dtype);
    return arr_reduce(TL_OP_sum, g, (UINT32_C(1) << (g->ndim - 1)) - 1, false);
}
