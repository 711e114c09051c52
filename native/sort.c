/* Sorting and running sums: drivers, recorded operations and their gradients. Rows are independent, so that neither their number nor the number
 * of threads shows in a result. */
#include "api.h"
#include "kernels.h"
#include "record.h"

enum { LARGE = 1 << 12, TASK = 1 << 14 }; /* elements: from where the GIL is released; of one task */

static int type_of(int dtype) { return dtype == TL_F32 ? 0 : dtype == TL_F64 ? 1 : dtype == TL_I64 ? 2 : -1; }

/* t with dimension `dim` moved to the end, or back from there. */
static tl_tensor *moved(const tl_tensor *t, int dim, bool back)
{
    int64_t dims[TL_MAX_DIMS], strides[TL_MAX_DIMS];
    for (int d = 0, k = 0; d < t->ndim; d++) {
        int from = back ? (d == dim ? t->ndim - 1 : k++) : d == t->ndim - 1 ? dim : d < dim ? d : d + 1;
        dims[d] = t->dims[from], strides[d] = t->strides[from];
    }
    return tl_new_view(t, t->ndim, dims, strides, t->offset);
}
static tl_tensor *as_rows(const tl_tensor *x, int dim)
{
    tl_tensor *view = moved(x, dim, false), *rows = !view || tl_contiguous(view) ? view : arr_cast(view, view->dtype);
    if (view != rows) tl_free(view);
    return rows;
}
/* Rows back as dimension `dim`; consumes t. */
static tl_tensor *from_rows(tl_tensor *t, int dim)
{
    if (!t || dim == t->ndim - 1) return t;
    tl_tensor *view = moved(t, dim, true), *out = view ? arr_cast(view, t->dtype) : NULL;
    tl_free(view);
    tl_free(t);
    return out;
}

static bool sort_rows(tl_sort_task *p, int type)
{
    static const int64_t item[] = {8, 16, 16};
    size_t granted;
    int64_t threads = p->rows * p->n < LARGE ? 1 : tl_get_num_threads();
    p->tasks = p->rows < threads ? p->rows : threads;
    p->scratch_each = (2 * p->n * item[type] + TL_ALIGN - 1) / TL_ALIGN * TL_ALIGN;
    p->scratch = tl_alloc((size_t)(p->scratch_each * p->tasks), &granted);
    if (!p->scratch) return false;
    tl_gil gil = tl_unlock(p->rows * p->n >= LARGE);
    tl_parallel_for(tl_sort_k->rows[type], p, p->tasks, 1);
    tl_relock(gil);
    tl_release(p->scratch, granted);
    return true;
}
/* The k first along dim: their places, and their values where `values` is given. */
static bool sorted(const tl_tensor *x, int dim, int64_t k, bool descending, tl_tensor **values, tl_tensor **places)
{
    int type = type_of(x->dtype);
    if (type < 0 || dim < 0 || dim >= x->ndim || k < 0 || k > x->dims[dim] || x->dims[dim] > UINT32_MAX) return tl_fail(TL_DECLINE);
    tl_tensor *rows = as_rows(x, dim);
    if (!rows) return false;
    int64_t dims[TL_MAX_DIMS];
    memcpy(dims, rows->dims, sizeof *dims * rows->ndim);
    dims[rows->ndim - 1] = k;
    tl_tensor *v = values ? tl_new(x->dtype, x->ndim, dims) : NULL, *i = tl_new(TL_I64, x->ndim, dims);
    bool ok = i && (v || !values);
    if (ok && i->numel) {
        tl_sort_task p = {.values = v ? tl_data(v) : NULL, .places = (int64_t *)(void *)tl_data(i), .x = tl_data(rows), .n = x->dims[dim], .k = k,
                          .rows = i->numel / k, .descending = descending};
        ok = sort_rows(&p, type);
    }
    tl_free(rows);
    if (!ok) tl_free(v), tl_free(i), v = i = NULL;
    *places = from_rows(i, dim);
    if (values) *values = from_rows(v, dim);
    if (*places && (!values || *values)) return true;
    tl_free(*places);
    if (values) tl_free(*values);
    return false;
}

/* sort, topk: the values, and *second receives their places. argsort: the places. ints[0]: dim */
tl_tensor *tl_sort(int op, tl_tensor *x, int64_t dim, int64_t k, bool descending, int line, uintptr_t *second)
{
    tl_tensor *outs[2];
    *second = 0;
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    if (op == TL_OP_argsort) return sorted(x, (int)dim, k, descending, NULL, &outs[1]) ? outs[1] : NULL;
    if (!sorted(x, (int)dim, k, descending, &outs[0], &outs[1])) return NULL;
    if (tl_grad_enabled && tl_tracks(x)) {
        tl_node *node = tl_record_many(op, 1, &x, 2, outs, TL_OUT(1), line);
        if (!node) {
            tl_free(outs[0]);
            tl_free(outs[1]);
            return NULL;
        }
        node->ints[0] = dim;
    }
    *second = (uintptr_t)outs[1];
    return outs[0];
}

/* Each value's gradient goes back to its place. */
bool tl_grad_sort(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_meta *m = n->edges[0].meta;
    const tl_tensor *places = tl_saved_output(n, 1);
    tl_tensor *zeros = m && places ? tl_new(g->dtype, m->ndim, m->dims) : tl_fail(TL_DECLINE);
    if (zeros && arr_fill(zeros, 0)) gin[0] = arr_scatter_add(zeros, (int)n->ints[0], places, g);
    tl_free(zeros);
    return gin[0];
}

/* ---- cumsum, cumprod ---- */

static tl_tensor *scan(const tl_tensor *x, int64_t dim, bool product, bool reverse)
{
    int type = type_of(x->dtype);
    if (type < 0 || dim < 0 || (dim && dim >= x->ndim)) return tl_fail(TL_DECLINE);
    tl_tensor *made = tl_contiguous(x) ? NULL : arr_cast(x, x->dtype), *out = NULL;
    if (!made && !tl_contiguous(x)) return NULL;
    out = tl_new(x->dtype, x->ndim, x->dims);
    if (out && out->numel) {
        tl_scan_task p = {.out = tl_data(out), .x = tl_data(made ? made : x), .n = x->ndim ? x->dims[dim] : 1, .inner = 1, .product = product,
                          .reverse = reverse};
        for (int d = (int)dim + 1; d < x->ndim; d++) p.inner *= x->dims[d];
        int64_t outer = out->numel / (p.n * p.inner), tiles = (p.inner + TL_SCAN_TILE - 1) / TL_SCAN_TILE;
        int64_t tasks = p.inner == 1 ? outer : outer * tiles, each = out->numel / tasks;
        tl_gil gil = tl_unlock(out->numel >= LARGE);
        tl_parallel_for((p.inner == 1 ? tl_scan_k->rows : tl_scan_k->columns)[type][product], &p, tasks, each < TASK ? TASK / each : 1);
        tl_relock(gil);
    }
    tl_free(made);
    return out;
}
/* ints[0]: dim */
tl_tensor *tl_scan(int op, tl_tensor *x, int64_t dim, int line)
{
    if (tl_elsewhere(x)) return tl_fail(TL_DECLINE);
    tl_tensor *out = scan(x, dim, op == TL_OP_cumprod, false);
    tl_node *node = NULL;
    if (out && tl_is_float(out->dtype) && !tl_record(op, 1, &x, out, line, &node)) {
        tl_free(out);
        return NULL;
    }
    if (node) node->ints[0] = dim;
    return out;
}
bool tl_grad_cumsum(const tl_node *n, const tl_tensor *g, tl_tensor **gin) { return (gin[0] = scan(g, n->ints[0], false, true)); }
