/* Images read at points, and both gradients. The channels of an image are cut into slices (kernels.h), in which a tap is one vector; with few
 * channels or few points the image is read as it lies. Which way depends on one image's shapes alone. A slice's gradient is summed in order
 * of points, the grid's over the slices in order. */
#include "api.h"
#include "kernels.h"
#include "operands.h"
#include "record.h"
#include "slots.h"

enum { FEW = 4, CHUNK = 1024, LARGE = 8192, WAVE = 1 << 20 }; /* channels; points or pixels of one task; from where the GIL is released; bytes of slices a thread */

typedef struct {
    tl_grid_task p;
    bool wide, few;
    int64_t images, groups, slices; /* slices: of all images */
    size_t slice_bytes;
    char *opened;                   /* forward: slices from `first` on */
    int64_t first;
    bool want_x, want_grid;         /* backward */
    char *parts;                    /* of ggrid: one a group */
    size_t part_bytes;
    tl_slots slots;
} grid_job;

/* False where the shapes do not fit. */
static bool job_for(grid_job *j, int dtype, int ndim, const int64_t *dims, const tl_tensor *grid, int mode, int padding, bool align)
{
    int k = ndim - 2;
    if (k < 2 || k > 3 || !tl_is_float(dtype) || grid->dtype != dtype || grid->ndim != ndim || grid->dims[0] != dims[0] || grid->dims[ndim - 1] != k) return false;
    if (mode < TL_GRID_BILINEAR || mode > TL_GRID_BICUBIC || padding < TL_GRID_ZEROS || padding > TL_GRID_REFLECTION || (mode == TL_GRID_BICUBIC && k == 3)) return false;
    *j = (grid_job){.p = {.c = dims[1], .pixels = 1, .points = 1, .size = {1, 1, 1}, .dims = k, .mode = mode, .padding = padding, .align = align},
                    .wide = dtype == TL_F64, .images = dims[0]};
    for (int d = 0; d < k; d++) {
        j->p.size[3 - k + d] = dims[2 + d];
        if (__builtin_mul_overflow(j->p.pixels, dims[2 + d], &j->p.pixels)) return false;
        j->p.points *= grid->dims[1 + d];
    }
    if (j->p.pixels < 1 || j->p.pixels >= INT32_MAX) return false;
    j->p.each = mode == TL_GRID_NEAREST ? 1 : mode == TL_GRID_BICUBIC ? 4 : 2;
    j->p.taps = k == 3 ? j->p.each * j->p.each * j->p.each : j->p.each * j->p.each;
    j->few = j->p.c <= FEW || j->p.points < j->p.pixels / (2 * j->p.taps);
    int64_t lanes = tl_grid_k->lanes[j->wide];
    j->groups = tl_blocks_of(j->p.c, lanes);
    j->slices = j->images * j->groups;
    j->slice_bytes = (size_t)((j->p.pixels + 1) * lanes) * tl_itemsize[dtype];
    return true;
}
static void run(tl_range_fn body, grid_job *j, int64_t tasks, int64_t grain)
{
    tl_parallel_for(body, j, tasks, grain < 1 ? 1 : grain);
}
static bool is_large(const grid_job *j) { return j->images * (j->p.points * (j->p.taps + j->p.c) + (j->few ? 0 : j->p.c * j->p.pixels)) >= LARGE; }

/* Task t of `chunks` to a unit: which unit, and its part of the n elements. */
typedef struct { int64_t unit, from, to; } part;
static part part_of(int64_t t, int64_t n)
{
    int64_t chunks = tl_blocks_of(n, CHUNK), from = t % chunks * CHUNK;
    return (part){t / chunks, from, n - from < CHUNK ? n : from + CHUNK};
}

/* ---- forward ---- */
static void read_few(void *arg, int64_t begin, int64_t end)
{
    grid_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        part c = part_of(t, j->p.points);
        tl_grid_k->read_few[j->wide](&j->p, c.unit, c.from, c.to);
    }
}
static void open_slices(void *arg, int64_t begin, int64_t end)
{
    grid_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        part c = part_of(t, j->p.pixels);
        tl_grid_k->open[j->wide](&j->p, j->first + c.unit, c.from, c.to, j->opened + (size_t)c.unit * j->slice_bytes);
    }
}
static void read_slices(void *arg, int64_t begin, int64_t end)
{
    grid_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        part c = part_of(t, j->p.points);
        tl_grid_k->read[j->wide](&j->p, j->first + c.unit, c.from, c.to, j->opened + (size_t)c.unit * j->slice_bytes);
    }
}
/* As many slices at a time as `room` holds. */
static void read_in_waves(grid_job *j, int64_t room)
{
    for (j->first = 0; j->first < j->slices; j->first += room) {
        int64_t n = j->slices - j->first < room ? j->slices - j->first : room;
        run(open_slices, j, n * tl_blocks_of(j->p.pixels, CHUNK), 1);
        run(read_slices, j, n * tl_blocks_of(j->p.points, CHUNK), 1);
    }
}
static bool forward(grid_job *j)
{
    int64_t room = (int64_t)((size_t)WAVE * (size_t)tl_get_num_threads() / j->slice_bytes);
    size_t granted = 0;
    room = room < 1 ? 1 : room < j->slices ? room : j->slices;
    if (!j->few && !(j->opened = tl_alloc((size_t)room * j->slice_bytes, &granted))) return false;
    tl_gil gil = tl_unlock(is_large(j));
    if (j->few) run(read_few, j, j->images * tl_blocks_of(j->p.points, CHUNK), 1);
    else read_in_waves(j, room);
    tl_relock(gil);
    if (j->opened) tl_release(j->opened, granted);
    return true;
}

static tl_tensor *sample(const tl_tensor *x, const tl_tensor *grid, int mode, int padding, bool align)
{
    grid_job j;
    int64_t dims[5];
    if (x->ndim > 5 || !job_for(&j, x->dtype, x->ndim, x->dims, grid, mode, padding, align)) return tl_fail(TL_DECLINE);
    const tl_tensor *in[2] = {x, grid};
    if (!tl_make_contiguous(in, 2)) return NULL;
    memcpy(dims, x->dims, 2 * sizeof *dims);
    memcpy(dims + 2, grid->dims + 1, (size_t)(x->ndim - 2) * sizeof *dims);
    tl_tensor *out = tl_new(x->dtype, x->ndim, dims);
    if (out && out->numel) {
        j.p.x = tl_data(in[0]), j.p.grid = tl_data(in[1]), j.p.out = tl_data(out);
        if (!forward(&j)) {
            tl_free(out);
            out = NULL;
        }
    }
    tl_drop_all(in, 2);
    return out;
}

/* ---- backward ---- */
static void spread_few(void *arg, int64_t begin, int64_t end)
{
    grid_job *j = arg;
    int64_t blocks = tl_blocks_of(j->p.c, FEW);
    for (int64_t t = begin; t < end; t++) {
        int64_t from = t % blocks * FEW;
        tl_grid_k->spread_few[j->wide](&j->p, t / blocks, from, j->p.c - from < FEW ? j->p.c : from + FEW);
    }
}
static void slopes_few(void *arg, int64_t begin, int64_t end)
{
    grid_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        part c = part_of(t, j->p.points);
        tl_grid_k->slopes_few[j->wide](&j->p, c.unit, c.from, c.to);
    }
}
static void slice_gradients(void *arg, int64_t begin, int64_t end)
{
    grid_job *j = arg;
    int slot = tl_slot_take(&j->slots);
    char *gx = tl_slot_data(&j->slots, slot), *x = j->want_x ? gx + j->slice_bytes : gx;
    for (int64_t t = begin; t < end; t++) {
        if (j->want_grid) tl_grid_k->open[j->wide](&j->p, t, 0, j->p.pixels, x);
        tl_grid_k->gradient[j->wide](&j->p, t, x, j->want_x ? gx : NULL, j->want_grid ? j->parts + (size_t)(t % j->groups) * j->part_bytes : NULL);
        if (j->want_x) tl_grid_k->close[j->wide](&j->p, t, gx);
    }
    tl_slot_give(&j->slots, slot);
}
static bool backward_few(grid_job *j, tl_tensor *gx)
{
    if (gx && !arr_fill(gx, 0)) return false; /* channels of it are summed up in place */
    tl_gil gil = tl_unlock(is_large(j));
    if (j->want_x) run(spread_few, j, j->images * tl_blocks_of(j->p.c, FEW), LARGE / (FEW * j->p.taps * j->p.points + 1));
    if (j->want_grid) run(slopes_few, j, j->images * tl_blocks_of(j->p.points, CHUNK), 1);
    tl_relock(gil);
    return true;
}
static bool backward(grid_job *j, int dtype, int64_t coordinates)
{
    size_t granted = 0, nbytes = (size_t)coordinates * tl_itemsize[dtype];
    char *more = NULL; /* the parts of ggrid but the first */
    if (!j->want_x && !j->want_grid) return true;
    if (!tl_slots_new(&j->slots, j->slices, ((size_t)j->want_x + j->want_grid) * j->slice_bytes)) return false;
    j->parts = j->p.ggrid, j->part_bytes = nbytes;
    if (j->want_grid && j->groups > 1 && !(more = j->parts = tl_alloc((size_t)j->groups * nbytes, &granted))) {
        tl_slots_free(&j->slots);
        return false;
    }
    tl_gil gil = tl_unlock(is_large(j));
    run(slice_gradients, j, j->slices, 1);
    if (more) {
        memcpy(j->p.ggrid, more, nbytes);
        for (int64_t k = 1; k < j->groups; k++) tl_product_k->add[j->wide](j->p.ggrid, more + (size_t)k * nbytes, coordinates);
    }
    tl_relock(gil);
    if (more) tl_release(more, granted);
    tl_slots_free(&j->slots);
    return true;
}

/* ints: mode, padding, align */
bool tl_grad_grid_sample(const tl_node *n, const tl_tensor *g, tl_tensor **gin)
{
    const tl_tensor *grid = tl_saved_input(n, 1), *x = tl_saved_input(n, 0), *in[3] = {g, grid, n->edges[1].to ? x : NULL};
    const tl_meta *m = n->edges[0].meta;
    grid_job j;
    int ndim = m ? m->ndim : x->ndim;
    const int64_t *dims = m ? m->dims : x->dims;
    if (!job_for(&j, g->dtype, ndim, dims, grid, (int)n->ints[0], (int)n->ints[1], n->ints[2]) || !tl_make_contiguous(in, 3)) return tl_fail(TL_DECLINE);
    bool flat = n->ints[0] == TL_GRID_NEAREST; /* in the grid: steps */
    j.want_x = n->edges[0].to, j.want_grid = n->edges[1].to && !flat;
    bool ok = (!j.want_x || (gin[0] = tl_new(g->dtype, ndim, dims))) && (!n->edges[1].to || (gin[1] = tl_new(g->dtype, ndim, grid->dims)));
    if (ok && gin[1] && flat) ok = arr_fill(gin[1], 0);
    if (ok) {
        j.p.g = tl_data(in[0]), j.p.grid = tl_data(in[1]), j.p.x = tl_data_or_null(in[2]);
        j.p.gx = tl_data_or_null(gin[0]), j.p.ggrid = tl_data_or_null(gin[1]);
        ok = j.few || !g->numel ? backward_few(&j, gin[0]) : backward(&j, g->dtype, grid->numel);
    }
    tl_drop_all(in, 3);
    for (int i = 0; i < 2 && !ok; i++) {
        tl_free(gin[i]);
        gin[i] = NULL;
    }
    return ok;
}

/* ---- recorded ---- */
tl_tensor *tl_grid_sample(tl_tensor *x, tl_tensor *grid, int mode, int padding, bool align, int line)
{
    if (x->dtype != grid->dtype || tl_elsewhere(x) || tl_elsewhere(grid)) return tl_fail(TL_DECLINE);
    tl_tensor *in[2] = {x, grid};
    tl_node *node;
    tl_tensor *out = tl_recorded_with(TL_OP_grid_sample, 2, in, sample(x, grid, mode, padding, align), line, &node);
    if (node) node->ints[0] = mode, node->ints[1] = padding, node->ints[2] = align;
    return out;
}
