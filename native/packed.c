/* Packed weights: right operands of products with few rows, kept in the layout of the kernels from one call to the next.
 *
 * A row times a matrix reads each element of the matrix once; turning the matrix first, as `x @ W.T` asks for, costs several times the product.
 * So the second product with the same view of the same storage packs it, and later ones find it here, until the storage is written (its version
 * rises), freed, or others need the room. One that served several products before it was written is packed again by the next product at once. Memory that somebody else may write without our knowing (adopted, or exported to NumPy) is left
 * alone. Everything here runs with the GIL; an entry in use is pinned, so that a product may run without it. */
#include "kernels.h"

enum { ENTRIES = 64, LEAST = 1 << 13, MOST_BYTES = 128 << 20, PANELS = 8 };

struct tl_mm_weight {
    const tl_storage *storage;               /* NULL: free */
    tl_mm_view view;
    int64_t version;
    const tl_mm_kernels *kernels;            /* it was packed by */
    void *data;                              /* NULL: seen once */
    size_t granted;
    uint64_t used;
    int pins, served;                        /* served: products, in this form */
};

static tl_mm_weight entries[ENTRIES];
static uint64_t clock_now;
static size_t total;

static void drop(tl_mm_weight *e)
{
    if (e->data) {
        tl_release(e->data, e->granted);
        total -= e->granted;
    }
    *e = (tl_mm_weight){0};
}

static tl_mm_weight *oldest(bool with_data)
{
    tl_mm_weight *found = NULL;
    for (tl_mm_weight *e = entries; e < entries + ENTRIES; e++)
        if (!e->pins && (e->data || !with_data) && (!found || e->used < found->used)) found = e;
    return found;
}

static tl_mm_weight *find(const tl_storage *s, const tl_mm_view *v)
{
    for (tl_mm_weight *e = entries; e < entries + ENTRIES; e++)
        if (e->storage == s && e->view.data == v->data && e->view.k == v->k && e->view.n == v->n && e->view.ks == v->ks && e->view.ns == v->ns &&
            e->view.dtype == v->dtype)
            return e;
    return NULL;
}

typedef struct { const tl_mm_view *view; char *out; int64_t step, wide, groups; } packing;

static void pack(void *arg, int64_t begin, int64_t end)
{
    const packing *p = arg;
    const tl_mm_view *v = p->view;
    int type = v->dtype == TL_F64;
    int64_t size = type ? 8 : 4, item = tl_itemsize[v->dtype], cols = PANELS * tl_mm_k->nr[type];
    bool half = v->dtype == TL_F16 || v->dtype == TL_BF16;
    void (*columns)(void *, const void *, int64_t, int64_t, int64_t, int64_t) =
        half ? tl_half_k->pack_columns[v->dtype == TL_BF16] : tl_mm_k->pack_columns[type];
    for (int64_t u = begin; u < end; u++) {
        int64_t k0 = u / p->groups * p->step, n0 = u % p->groups * cols, kc = v->k - k0 < p->step ? v->k - k0 : p->step;
        columns(p->out + (k0 * p->wide + n0 * kc) * size, v->data + (k0 * v->ks + n0 * v->ns) * item, v->n - n0 < cols ? v->n - n0 : cols, kc,
                v->ns, v->ks);
    }
}

static bool fill(tl_mm_weight *e)
{
    const tl_mm_view *v = &e->view;
    int type = v->dtype == TL_F64;
    int64_t nr = tl_mm_k->nr[type], step = tl_mm_block(v->k);
    packing p = {v, NULL, step, tl_mm_wide(v->n, type), (v->n + PANELS * nr - 1) / (PANELS * nr)};
    size_t nbytes = (size_t)(v->k * p.wide) * (type ? 8 : 4);
    while (total + nbytes > MOST_BYTES) {
        tl_mm_weight *old = oldest(true);
        if (!old) return false;
        drop(old);
    }
    if (!(e->data = p.out = tl_alloc(nbytes, &e->granted))) return false;
    total += e->granted;
    e->kernels = tl_mm_k;
    tl_parallel_for(pack, &p, (v->k + step - 1) / step * p.groups, 1); /* with the GIL: nobody sees it half filled */
    return true;
}

tl_mm_weight *tl_mm_weight_find(tl_storage *s, const tl_mm_view *v, const void **data)
{
    if (s->kind != TL_OWNED || s->exposed || v->k * v->n < LEAST || v->k * v->n > MOST_BYTES / 32) return NULL;
    tl_mm_weight *e = find(s, v);
    if (e && e->pins && (e->version != s->version || !e->data || e->kernels != tl_mm_k)) return NULL;
    bool often = e && e->served > 1;
    if (e && (e->version != s->version || (e->data && e->kernels != tl_mm_k))) drop(e), e = NULL;
    if (!e) {
        if ((e = oldest(false))) {
            drop(e);
            *e = (tl_mm_weight){.storage = s, .view = *v, .version = s->version, .used = ++clock_now};
            s->packed = true;
        }
        if (!e || !often) return NULL;
    }
    e->used = ++clock_now;
    if (!e->data && !fill(e)) return NULL;
    e->pins++;
    e->served++;
    *data = e->data;
    return e;
}

void tl_mm_weight_done(tl_mm_weight *e) { e->pins--; }

void tl_mm_forget(const tl_storage *s)
{
    for (tl_mm_weight *e = entries; e < entries + ENTRIES; e++)
        if (!e->pins && (!s || e->storage == s)) drop(e);
}
