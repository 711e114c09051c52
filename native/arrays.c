/* Storage and views: who owns what is at the top of tl.h. Everything here runs under the GIL. */
#include "tl.h"
#include <stdlib.h>

const uint8_t tl_itemsize[TL_N_DTYPES] = {1, 1, 1, 2, 4, 8, 2, 2, 4, 8, 8, 16};

_Thread_local tl_error tl_last_error;

void *tl_fail(int code) { return tl_fail_with(code, 0, 0, 0); }

void *tl_fail_with(int code, int64_t d0, int64_t d1, int64_t d2)
{
    tl_last_error = (tl_error){code, {d0, d1, d2, 0}};
    return NULL;
}

/* ---- free lists: structs of up to CLASS_DIMS dimensions are recycled, so a small operation never calls malloc ---- */
enum { CLASS_DIMS = 4, MAX_FREE = 4096, NO_CLASS = 0xffff };
typedef struct free_item { struct free_item *next; } free_item;
static free_item *free_tensors[CLASS_DIMS + 1], *free_storages;
static int n_free_tensors[CLASS_DIMS + 1], n_free_storages;

static tl_tensor *tensor_struct(int ndim)
{
    tl_tensor *t;
    if (ndim <= CLASS_DIMS && free_tensors[ndim]) {
        free_item *item = free_tensors[ndim];
        free_tensors[ndim] = item->next;
        n_free_tensors[ndim]--;
        t = (tl_tensor *)item;
    } else {
        t = malloc(sizeof *t + 2 * (size_t)ndim * sizeof(int64_t));
        if (!t) return tl_fail(TL_NOMEM);
    }
    memset(t, 0, sizeof *t);
    t->refs = t->owners = 1;
    t->ndim = (uint8_t)ndim;
    t->cls = ndim <= CLASS_DIMS ? (uint16_t)ndim : NO_CLASS;
    t->strides = t->dims + ndim;
    return t;
}

static void recycle_tensor(tl_tensor *t)
{
    int cls = t->cls;
    if (cls == NO_CLASS || n_free_tensors[cls] >= MAX_FREE) {
        free(t);
        return;
    }
    free_item *item = (free_item *)t;
    item->next = free_tensors[cls];
    free_tensors[cls] = item;
    n_free_tensors[cls]++;
}

static tl_storage *storage_struct(void)
{
    tl_storage *s;
    if (free_storages) {
        s = (tl_storage *)free_storages;
        free_storages = free_storages->next;
        n_free_storages--;
    } else {
        s = malloc(sizeof *s);
        if (!s) return tl_fail(TL_NOMEM);
    }
    memset(s, 0, sizeof *s);
    atomic_init(&s->refs, 1);
    return s;
}

static void recycle_storage(tl_storage *s)
{
    if (n_free_storages >= MAX_FREE) {
        free(s);
        return;
    }
    free_item *item = (free_item *)s;
    item->next = free_storages;
    free_storages = item;
    n_free_storages++;
}

void tl_storage_release(tl_storage *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1) return;
    if (s->packed) tl_mm_forget(s);
    if (tl_capture_open) tl_capture_died(s);
    if (s->kind == TL_OWNED) tl_release(s->data, s->granted);
    if (s->token) tl_token_died(s->token);
    recycle_storage(s);
}

tl_storage *tl_storage_new(size_t nbytes)
{
    tl_storage *s = storage_struct();
    if (!s) return NULL;
    s->nbytes = nbytes;
    s->data = tl_alloc(nbytes, &s->granted);
    if (!s->data) {
        recycle_storage(s);
        return tl_fail(TL_NOMEM);
    }
    if (tl_capture_open) tl_capture_made(s);
    return s;
}

tl_storage *tl_storage_adopt(void *data, size_t nbytes, int kind, int64_t token, bool readonly)
{
    tl_storage *s = storage_struct();
    if (!s) return NULL;
    s->data = data;
    s->nbytes = nbytes;
    s->kind = (uint8_t)kind;
    s->token = token;
    s->readonly = readonly;
    if (tl_capture_open) tl_capture_made(s);
    return s;
}

/* ---- geometry ---- */
bool tl_numel_checked(int ndim, const int64_t *dims, int itemsize, int64_t *numel, int64_t *nbytes)
{
    int64_t n = 1, span = itemsize; /* span: bytes with zero dims taken as one, so that strides can not overflow either */
    for (int i = 0; i < ndim; i++) {
        if (dims[i] < 0 || __builtin_mul_overflow(span, dims[i] ? dims[i] : 1, &span)) return false;
        n *= dims[i]; /* can not overflow: span >= n */
    }
    *numel = n;
    *nbytes = n * itemsize;
    return true;
}

static void set_contiguous(tl_tensor *t, const int64_t *dims)
{
    int64_t stride = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        t->dims[i] = dims[i];
        t->strides[i] = stride;
        stride *= dims[i] ? dims[i] : 1;
    }
    t->flags |= TL_CONTIGUOUS;
}

static bool is_contiguous(int ndim, const int64_t *dims, const int64_t *strides)
{
    int64_t expected = 1;
    bool contiguous = true;
    for (int i = ndim - 1; i >= 0; i--) {
        if (dims[i] == 0) return true;
        if (dims[i] != 1 && strides[i] != expected) contiguous = false;
        expected *= dims[i];
    }
    return contiguous;
}

tl_tensor *tl_new(int dtype, int ndim, const int64_t *dims)
{
    int64_t numel, nbytes;
    if (ndim > TL_MAX_DIMS || !tl_numel_checked(ndim, dims, tl_itemsize[dtype], &numel, &nbytes)) return tl_fail(TL_NOMEM);
    tl_tensor *t = tensor_struct(ndim);
    if (!t) return NULL;
    t->dtype = (uint8_t)dtype;
    t->numel = numel;
    if (tl_inference) t->flags |= TL_INFERENCE_TENSOR;
    set_contiguous(t, dims);
    t->storage = tl_storage_new((size_t)nbytes);
    if (!t->storage) {
        recycle_tensor(t);
        return NULL;
    }
    return t;
}

tl_tensor *tl_new_on(tl_storage *s, int dtype, int ndim, const int64_t *dims, const int64_t *strides, int64_t offset)
{
    int64_t numel, nbytes;
    if (ndim > TL_MAX_DIMS || !tl_numel_checked(ndim, dims, tl_itemsize[dtype], &numel, &nbytes)) return tl_fail(TL_NOMEM);
    tl_tensor *t = tensor_struct(ndim);
    if (!t) return NULL;
    t->dtype = (uint8_t)dtype;
    t->numel = numel;
    t->offset = offset;
    if (!strides) {
        set_contiguous(t, dims);
    } else {
        memcpy(t->dims, dims, (size_t)ndim * sizeof *dims);
        memcpy(t->strides, strides, (size_t)ndim * sizeof *strides);
        if (is_contiguous(ndim, dims, strides)) t->flags |= TL_CONTIGUOUS;
    }
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    t->storage = s;
    return t;
}

tl_tensor *tl_new_view(const tl_tensor *src, int ndim, const int64_t *dims, const int64_t *strides, int64_t offset)
{
    tl_tensor *t = tl_new_on(src->storage, src->dtype, ndim, dims, strides, offset);
    if (t) t->flags |= src->flags & TL_INFERENCE_TENSOR;
    return t;
}

bool tl_same_shape(const tl_tensor *a, const tl_tensor *b)
{
    return a->ndim == b->ndim && memcmp(a->dims, b->dims, a->ndim * sizeof(int64_t)) == 0;
}

/* ---- counts ---- */
void tl_unkeep(tl_tensor *t)
{
    if (--t->refs > 0) return;
    tl_storage_release(t->storage);
    recycle_tensor(t);
}

void tl_own(tl_tensor *t)
{
    t->owners++;
    t->refs++;
}

/* The last owner lets go of everything that leads elsewhere; the struct stays while saved values still read its data. */
void tl_free(tl_tensor *t)
{
    while (t) {
        tl_tensor *grad = NULL;
        if (--t->owners == 0) {
            tl_node *node = t->node;
            tl_tensor *base = t->base;
            struct tl_grad_place *place = t->place;
            grad = t->grad;
            t->node = NULL;
            t->grad = t->base = NULL;
            t->place = NULL;
            if (t->hooks) tl_token_died(t->hooks);
            t->hooks = 0;
            if (node) tl_node_free(node);
            tl_free(base);  /* a base is never a view: one level deep */
            tl_place_free(place); /* nor has a place anything that leads elsewhere */
        }
        tl_unkeep(t);
        t = grad; /* in a loop: gradients may have gradients of their own, to any depth */
    }
}
