/* Drivers of the kernels that work row by row: the softmax family and layer_norm. What each takes and gives is said in
 * kernels.h. A row's result depends on that row alone; sums over rows join in an order that the number of rows fixes. */
#include "kernels.h"
#include "operands.h"

/* ---- softmax and log_softmax ---- */

/* Forward with g NULL; gradient with x the result. */
static tl_tensor *softmax_run(const tl_tensor *x, const tl_tensor *g, int dim, bool log)
{
    const tl_rows_kernels *k = tl_rows_k;
    const tl_tensor *in[] = {x, g};
    if (!tl_alike(x, g) || (g && !tl_same_shape(x, g))) return tl_fail(TL_DECLINE);
    tl_tensor *out = tl_new(x->dtype, x->ndim, x->dims);
    if (!out || !out->numel) return out;
    if (!tl_make_contiguous(in, 2)) return tl_free(out), NULL;
    tl_softmax p = {tl_data(out), tl_data_or_null(in[0]), tl_data_or_null(in[1]), out->ndim ? out->dims[dim] : 1, out->ndim ? out->strides[dim] : 1, log};
    int64_t outer = out->numel / (p.n * p.inner), width = p.inner < TL_ROWS_TILE ? p.inner : TL_ROWS_TILE;
    if (p.inner == 1) tl_run_tasks(g ? k->softmax_grad : k->softmax, out->dtype, &p, outer, p.n);
    else tl_run_tasks(g ? k->softmax_across_grad : k->softmax_across, out->dtype, &p, outer * tl_blocks_of(p.inner, TL_ROWS_TILE), p.n * width);
    tl_drop_all(in, 2);
    return out;
}
tl_tensor *arr_softmax(const tl_tensor *x, int dim) { return softmax_run(x, NULL, dim, false); }
tl_tensor *arr_log_softmax(const tl_tensor *x, int dim) { return softmax_run(x, NULL, dim, true); }
tl_tensor *arr_softmax_grad(const tl_tensor *out, const tl_tensor *g, int dim) { return softmax_run(out, g, dim, false); }
tl_tensor *arr_log_softmax_grad(const tl_tensor *out, const tl_tensor *g, int dim) { return softmax_run(out, g, dim, true); }

/* ---- layer_norm ---- */

tl_tensor *arr_layer_norm(const tl_tensor *x, int64_t rows, int64_t cols, const tl_tensor *weight, const tl_tensor *bias, double eps,
                          tl_tensor **mean, tl_tensor **rstd)
{
    const tl_tensor *in[] = {x, weight, bias};
    if (!tl_alike_of(x, weight, cols) || !tl_alike_of(x, bias, cols) || x->numel != rows * cols) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 3)) return NULL;
    tl_tensor *out = tl_new(x->dtype, x->ndim, x->dims), *m = mean ? tl_new(x->dtype, 1, &rows) : NULL, *r = tl_new(x->dtype, 1, &rows);
    if (!out || (mean && !m) || !r) {
        tl_free(out);
        tl_free(m);
        tl_free(r);
        out = NULL;
    } else {
        tl_layer_norm_task p = {tl_data(out), tl_data_or_null(m), tl_data(r), tl_data_or_null(in[0]), tl_data_or_null(in[1]), tl_data_or_null(in[2]), cols, eps};
        tl_run_tasks(tl_rows_k->layer_norm, x->dtype, &p, rows, cols ? cols : 1);
        if (mean) *mean = m;
        *rstd = r;
    }
    tl_drop_all(in, 3);
    return out;
}

/* Joins parts (blocks, 2, cols) into gweight and gbias. */
static void join_parts(int dtype, void *parts, int64_t blocks, int64_t cols, tl_tensor *gweight, tl_tensor *gbias)
{
    const tl_reduce_type *k = dtype == TL_F32 ? &tl_reduce_k->f32 : &tl_reduce_k->f64;
    int64_t nbytes = cols * tl_itemsize[dtype];
    if (blocks) k->tree(TL_RED_SUM, &(tl_reduce_tree){parts, blocks, 2 * cols});
    else memset(parts, 0, (size_t)(2 * nbytes));
    if (gweight) memcpy(tl_data(gweight), parts, (size_t)nbytes);
    if (gbias) memcpy(tl_data(gbias), (char *)parts + nbytes, (size_t)nbytes);
}

bool arr_layer_norm_grad(const tl_tensor *g, const tl_tensor *x, const tl_tensor *mean, const tl_tensor *rstd, const tl_tensor *weight,
                         tl_tensor **gx, tl_tensor **gweight, tl_tensor **gbias)
{
    const tl_tensor *in[] = {g, x, mean, rstd, weight};
    int64_t rows = rstd->numel, blocks = tl_blocks_of(rows, TL_ROWS_BLOCK);
    int64_t cols = weight ? weight->numel : rows ? x->numel / rows : x->dims[x->ndim - 1];
    bool parts = gweight || gbias;
    if (!tl_alike_of(x, g, x->numel) || !tl_alike_of(x, mean, rows) || !tl_alike_of(x, rstd, rows) || !tl_alike_of(x, weight, cols)) return tl_fail(TL_DECLINE);
    if (!tl_make_contiguous(in, 5)) return false;
    int wdim = weight ? weight->ndim : 1;
    const int64_t *wdims = weight ? weight->dims : &cols, pdims[] = {blocks ? blocks : 1, 2, cols};
    tl_tensor *made[4] = {
        gx ? tl_new(x->dtype, x->ndim, x->dims) : NULL,
        gweight ? tl_new(x->dtype, wdim, wdims) : NULL,
        gbias ? tl_new(x->dtype, wdim, wdims) : NULL,
        parts ? tl_new(x->dtype, 3, pdims) : NULL,
    };
    bool ok = (!gx || made[0]) && (!gweight || made[1]) && (!gbias || made[2]) && (!parts || made[3]);
    if (ok) {
        tl_layer_norm_grad p = {tl_data_or_null(made[0]), tl_data_or_null(made[3]), tl_data_or_null(in[0]), tl_data_or_null(in[1]), tl_data_or_null(in[2]), tl_data_or_null(in[3]),
                                tl_data_or_null(in[4]), rows, cols};
        tl_run_tasks(tl_rows_k->layer_norm_grad, x->dtype, &p, blocks, TL_ROWS_BLOCK * (cols ? cols : 1));
        if (parts) join_parts(x->dtype, p.parts, blocks, cols, made[1], made[2]);
        if (gx) *gx = made[0];
        if (gweight) *gweight = made[1];
        if (gbias) *gbias = made[2];
    }
    for (int i = ok ? 3 : 0; i < 4; i++) tl_free(made[i]);
    tl_drop_all(in, 5);
    return ok;
}
