/* Convolution as implicit products: the path that serves every shape. The kernels are in product.inc.c.
 *
 * Forward, a group of an image's channels is (channels x taps) rows, of which a view (tl_conv_view) packs a panel at a time; the weights, as
 * they lie, are the left operand. The gradient of the input is the same for each residue of the input's position modulo the stride: those pixels
 * see the result's gradient through a part of the taps, at whole steps. The gradient of the weights is a product over (image, pixel).
 *
 * Scratch: the packed weights, and packing panels for each thread. */
#include "kernels.h"
#include "slots.h"
#include "taps.h"

enum {
    BIG = 1 << 18,          /* multiply-adds of a call that threads may share */
    MIN_PIECES = 8,         /* such a call is cut into about this many pieces at least */
    MIN_ROWS = 56,          /* of a piece, and */
    MIN_COLUMNS = 128,      /* its columns, where there are as many */
    MAX_PARTS = 8,          /* of the sum over images and pixels that makes a weight's gradient */
    PART_BLOCKS = 4,        /* blocks over the pixels in one of them, at least */
    PART_ELEMENTS = 1 << 17 /* of weights, up to which there are parts */
};

/* A kernel of one tap that moves nothing sees an image as one line. */
static tl_conv straightened(const tl_conv *given)
{
    tl_conv p = *given;
    for (int d = 0; d < 3; d++)
        if (p.ker[d] != 1 || p.stride[d] != 1 || p.pad[d] != 0 || p.in[d] != p.out[d]) return p;
    p.in[2] = p.out[2] = product(p.in);
    p.in[0] = p.in[1] = p.out[0] = p.out[1] = 1;
    return p;
}

static tl_conv_view view_of(const int64_t *in, int64_t channels, const int64_t *size, const int64_t *step, const taps *t)
{
    tl_conv_view v = {.plane = product(in), .image = channels * product(in), .area = product(size), .taps = t->n,
                      .off = (const int64_t (*)[3])t->off};
    for (int d = 0; d < 3; d++) v.in[d] = in[d], v.size[d] = size[d], v.step[d] = step[d];
    return v;
}

/* ---- weights times a view ---- */
typedef struct {
    tl_conv_multiply one;                    /* of the first group */
    tl_conv_weights weights;                 /* of the first group */
    const void *bias;
    void *packed;
    int64_t groups, n, channels;             /* a group's channels of the images seen */
    int64_t weight_group;                    /* elements from a group's weights to the next one's */
    int64_t strips, columns, row_blocks, image_blocks, column_blocks; /* how a group is cut: column blocks by image where flat */
    int type;
    tl_slots slots;
} multiply_job;

static int64_t strips_of(const multiply_job *j) { return ceil_div(j->one.rows, tl_mm_k->mr); }
static int64_t packed_group(const multiply_job *j) { return j->one.rows * j->one.depth; }

static void pack_weights(void *arg, int64_t begin, int64_t end)
{
    multiply_job *j = arg;
    int64_t strips = strips_of(j);
    for (int64_t u = begin; u < end; u++) {
        tl_conv_weights w = j->weights;
        w.a = at(w.a, j->type, u / strips * j->weight_group);
        tl_product_k->pack[j->type](&w, (char *)j->packed + u / strips * packed_group(j) * size_of(j->type), u % strips, u % strips + 1);
    }
}

static void multiply_pieces(void *arg, int64_t begin, int64_t end)
{
    multiply_job *j = arg;
    int64_t area = j->one.view.area;
    int slot = tl_slot_take(&j->slots);
    for (int64_t u = begin; u < end; u++) {
        int64_t row = u % j->row_blocks, column = u / j->row_blocks % j->column_blocks, rest = u / j->row_blocks / j->column_blocks;
        int64_t image = rest % j->image_blocks, group = rest / j->image_blocks;
        tl_conv_multiply p = j->one;
        p.view.src = at(p.view.src, j->type, group * j->channels * p.view.plane);
        p.a = at(j->packed, j->type, group * packed_group(j));
        p.bias = j->bias ? at(j->bias, j->type, group * p.rows) : NULL;
        p.out = (char *)p.out + group * p.rows * p.place.plane * size_of(j->type);
        int64_t most = p.flat ? area : j->n * area, j0 = column * j->columns, j1 = least(most, j0 + j->columns), s0 = row * j->strips;
        tl_product_k->multiply[j->type](&p, s0, least(strips_of(j), s0 + j->strips), image * area + j0, image * area + j1, tl_slot_data(&j->slots, slot));
    }
    tl_slot_give(&j->slots, slot);
}

static void cut_multiply(multiply_job *j, double work)
{
    int64_t mr = tl_mm_k->mr, nr = tl_mm_k->nr[j->type], area = j->one.view.area, strips = strips_of(j), row_strips = strips;
    j->one.flat = j->one.flat && (area >= TL_CONV_COLUMNS / 2 || j->n == 1);
    j->image_blocks = j->one.flat ? j->n : 1;
    int64_t columns = j->one.flat ? area : j->n * area;
    j->column_blocks = ceil_div(columns, TL_CONV_COLUMNS);
    j->columns = round_up(ceil_div(columns, j->column_blocks), nr);
    if (work >= BIG) {
        while (j->groups * j->image_blocks * j->column_blocks * ceil_div(strips, row_strips) < MIN_PIECES) {
            if (row_strips * mr >= 2 * MIN_ROWS) row_strips = (row_strips + 1) / 2;
            else if (j->columns >= 2 * MIN_COLUMNS) j->columns = round_up(j->columns / 2, nr), j->column_blocks = ceil_div(columns, j->columns);
            else break;
        }
    }
    j->column_blocks = ceil_div(columns, j->columns);
    j->strips = row_strips;
    j->row_blocks = ceil_div(strips, row_strips);
}

static bool run_multiply(multiply_job *j)
{
    tl_conv_multiply *p = &j->one;
    p->depth = j->weights.channels * j->weights.taps;
    double work = (double)j->groups * (double)p->rows * (double)p->depth * (double)(j->n * p->view.area);
    cut_multiply(j, work);
    size_t granted = 0;
    j->packed = tl_alloc((size_t)(j->groups * packed_group(j) * size_of(j->type)), &granted);
    if (!j->packed) return false;
    int64_t pieces = j->groups * j->image_blocks * j->column_blocks * j->row_blocks;
    int64_t each = j->columns * (tl_mm_block(p->depth) + (p->flat ? 0 : j->strips * tl_mm_k->mr));
    bool ok = tl_slots_new(&j->slots, pieces, (size_t)(each * size_of(j->type)));
    if (ok) {
        for_pieces(pack_weights, j, j->groups * strips_of(j), (double)j->groups * (double)packed_group(j));
        for_pieces(multiply_pieces, j, pieces, work);
        tl_slots_free(&j->slots);
    }
    tl_release(j->packed, granted);
    return ok;
}

static bool forward(int type, const tl_conv *given, const void *x, const void *w, const void *bias, void *out)
{
    tl_conv p = straightened(given);
    int64_t channels = p.c / p.groups, rows = p.k / p.groups, ker = product(p.ker), area = product(p.out);
    taps t;
    if (!new_taps(&t, &p)) return false;
    find_taps(&t, &p, NULL);
    multiply_job j = {.type = type, .groups = p.groups, .n = p.n, .channels = channels, .bias = bias, .weight_group = rows * channels * ker};
    j.weights = (tl_conv_weights){w, rows, channels, ker, channels * ker, ker, t.at};
    j.one = (tl_conv_multiply){.view = view_of(p.in, p.c, p.out, p.stride, &t), .rows = rows, .out = out, .flat = true};
    j.one.view.src = x;
    j.one.place.image = p.k * area;
    j.one.place.plane = area;
    j.one.place.step[0] = p.out[1] * p.out[2];
    j.one.place.step[1] = p.out[2];
    j.one.place.step[2] = 1;
    bool ok = run_multiply(&j);
    tl_release(t.off, t.granted);
    return ok;
}

/* The pixels of gx at `from`, from + stride, ...: a product like forward's, over the channels of g. */
static bool grad_residue(int type, const tl_conv *p, const void *g, const void *w, void *gx, taps *t, const int64_t *from)
{
    static const int64_t one[3] = {1, 1, 1};
    int64_t rows = p->c / p->groups, channels = p->k / p->groups, ker = product(p->ker), size[3];
    t->n = 0;
    find_taps(t, p, from);
    if (!t->n) return true;
    for (int d = 0; d < 3; d++) size[d] = ceil_div(p->in[d] - from[d], p->stride[d]);
    multiply_job j = {.type = type, .groups = p->groups, .n = p->n, .channels = channels, .weight_group = rows * channels * ker};
    j.weights = (tl_conv_weights){w, rows, channels, t->n, ker, rows * ker, t->at};
    j.one = (tl_conv_multiply){.view = view_of(p->out, p->k, size, one, t), .rows = rows, .out = gx};
    j.one.view.src = g;
    j.one.flat = p->stride[0] == 1 && p->stride[1] == 1 && p->stride[2] == 1;
    j.one.place.image = p->c * product(p->in);
    j.one.place.plane = product(p->in);
    j.one.place.at = (from[0] * p->in[1] + from[1]) * p->in[2] + from[2];
    j.one.place.step[0] = p->in[1] * p->in[2] * p->stride[0];
    j.one.place.step[1] = p->in[2] * p->stride[1];
    j.one.place.step[2] = p->stride[2];
    return run_multiply(&j);
}

static bool grad_input(int type, const tl_conv *given, const void *g, const void *w, void *gx)
{
    tl_conv p = straightened(given);
    taps t;
    if (!new_taps(&t, &p)) return false;
    bool ok = true;
    if (!reaches_all(&p)) memset(gx, 0, (size_t)(p.n * p.c * product(p.in) * size_of(type)));
    int64_t end[3], from[3];
    for (int d = 0; d < 3; d++) end[d] = least(p.stride[d], p.in[d]);
    for (from[0] = 0; ok && from[0] < end[0]; from[0]++)
        for (from[1] = 0; ok && from[1] < end[1]; from[1]++)
            for (from[2] = 0; ok && from[2] < end[2]; from[2]++) ok = grad_residue(type, &p, g, w, gx, &t, from);
    tl_release(t.off, t.granted);
    return ok;
}

/* ---- the gradient of the weights ---- */
typedef struct {
    tl_conv_correlate one;                   /* of the first group */
    int64_t groups, channels, part_blocks, parts, columns, column_blocks;
    void *out, *others;                      /* part 0, the other parts of the sum */
    int type;
    tl_slots slots;
} correlate_job;

static int64_t weights_of(const correlate_job *j) { return j->groups * j->one.rows * j->one.depth; }

static void correlate_pieces(void *arg, int64_t begin, int64_t end)
{
    correlate_job *j = arg;
    int slot = tl_slot_take(&j->slots);
    for (int64_t u = begin; u < end; u++) {
        int64_t column = u % j->column_blocks, part = u / j->column_blocks % j->parts, group = u / j->column_blocks / j->parts;
        tl_conv_correlate p = j->one;
        p.view.src = at(p.view.src, j->type, group * j->channels * p.view.plane);
        p.g = at(p.g, j->type, group * p.rows * p.view.area);
        int64_t c0 = column * j->columns, b0 = part * j->part_blocks, weights = weights_of(j);
        char *out = part ? (char *)j->others + (part - 1) * weights * size_of(j->type) : j->out;
        tl_product_k->correlate[j->type](&p, c0, least(p.depth, c0 + j->columns), b0, least(ceil_div(p.columns, p.block), b0 + j->part_blocks),
                                         out + group * p.rows * p.depth * size_of(j->type), p.depth, tl_slot_data(&j->slots, slot));
    }
    tl_slot_give(&j->slots, slot);
}

/* From shapes alone: the parts, and the blocks in them, are part of the result. */
static void cut_correlate(correlate_job *j)
{
    tl_conv_correlate *p = &j->one;
    int64_t nr = tl_mm_k->nr[j->type], blocks = ceil_div(p->columns, TL_MM_KC);
    p->block = ceil_div(p->columns, blocks);
    blocks = ceil_div(p->columns, p->block);
    j->column_blocks = ceil_div(p->depth, TL_CONV_COLUMNS);
    if (j->groups * j->column_blocks < MIN_PIECES) j->column_blocks = least(ceil_div(MIN_PIECES, j->groups), ceil_div(p->depth, MIN_COLUMNS));
    j->columns = round_up(ceil_div(p->depth, j->column_blocks), nr);
    j->column_blocks = ceil_div(p->depth, j->columns);
    j->parts = weights_of(j) > PART_ELEMENTS ? 1 : least(MAX_PARTS, ceil_div(blocks, PART_BLOCKS));
    j->part_blocks = ceil_div(blocks, j->parts);
    j->parts = ceil_div(blocks, j->part_blocks);
}

static bool run_correlate(correlate_job *j)
{
    int64_t size = size_of(j->type), weights = weights_of(j), nr = tl_mm_k->nr[j->type];
    size_t granted = 0;
    cut_correlate(j);
    j->others = NULL;
    if (j->parts > 1 && !(j->others = tl_alloc((size_t)((j->parts - 1) * weights * size), &granted))) return false;
    int64_t pieces = j->groups * j->parts * j->column_blocks;
    bool ok = tl_slots_new(&j->slots, pieces, (size_t)(TL_MM_KC * (nr + j->columns) * size));
    if (ok) {
        for_pieces(correlate_pieces, j, pieces, (double)weights * (double)j->one.columns);
        for (int64_t part = 1; part < j->parts; part++)
            tl_product_k->add[j->type](j->out, (char *)j->others + (part - 1) * weights * size, weights);
        tl_slots_free(&j->slots);
    }
    if (j->others) tl_release(j->others, granted);
    return ok;
}

static bool grad_weight(int type, const tl_conv *given, const void *g, const void *x, void *gw)
{
    tl_conv p = straightened(given);
    taps t;
    if (!new_taps(&t, &p)) return false;
    find_taps(&t, &p, NULL);
    int64_t area = product(p.out), channels = p.c / p.groups;
    correlate_job j = {.type = type, .groups = p.groups, .channels = channels, .out = gw};
    j.one = (tl_conv_correlate){.view = view_of(p.in, p.c, p.out, p.stride, &t), .g = g, .rows = p.k / p.groups, .depth = channels * t.n,
                                .columns = p.n * area, .image = p.k * area};
    j.one.view.src = x;
    bool ok = run_correlate(&j);
    tl_release(t.off, t.granted);
    return ok;
}

static bool fits(int type, const tl_conv *p)
{
    (void)type, (void)p;
    return true;
}

const tl_conv_path tl_conv_product = {fits, forward, grad_input, grad_weight};
