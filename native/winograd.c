/* Convolution with 3x3 kernels by Winograd's F(4x4, 3x3), one of the paths of conv.c. The kernels are in winograd.inc.c.
 *
 * A tile of 4x4 results of one pair of channels takes 6x6 pixels and 144 multiplications. Transformed to 36 frequencies (values of polynomials
 * at 6 x 6 points) it takes 36, and sums over channels are taken there:
 *
 *     V = transformed tiles of x     [36][channels of x][tiles]
 *     U = transformed kernels        [36][channels of x][channels of out]
 *     M = V^T U, by frequency        [36][tiles][channels of out], transformed back to 4x4 results each
 *
 * The gradient of x is the same with g for x, kernels that run backwards, channels exchanged and padding 2 - pad. The gradient of the weights
 * takes g's 4x4 tiles as kernels on the same 6x6 tiles of x: for each frequency the sum over tiles of V times transformed g, transformed
 * back to 3x3 once at the end.
 *
 * Work is cut into blocks of tiles, and within a block into panels of two groups of channels of the result. Where there are many blocks,
 * threads take blocks, else the groups and panels within. An element is summed over the channels in one order wherever its tile lies; the
 * weights' gradient is summed over tiles block by block. Memory: U, and V and M of a block for each thread.
 *
 * A NaN or an infinity reaches every result of the tiles that read it, as NaN. */
#include "kernels.h"
#include "slots.h"

enum {
    BLOCK_BYTES = 512 * 1024,                 /* of V and one panel of M that a block aims at: they stay in the second-level cache */
    MIN_TILES = 24, MAX_TILES = 96,           /* a block, about: fewer do not pay for reading U */
    MIN_TILES_BIG = 128, U_CACHED = 1 << 20,  /* where U takes more bytes than that */
    MAX_ACROSS = 32,                          /* tiles */
    GRAD_TILES = 64,                          /* a block of the weights' gradient, about */
    GRAD_FEW = 8,                             /* tiles in all that do not pay for bringing back 36 sums for 9 weights */
    MIN_PARTS = 4, MAX_PARTS = 8, PARTS_BYTES = 1 << 22, /* the weights' gradient: separate sums over blocks, or one */
    SMALL = 1 << 18                           /* products of pixels and pairs of channels */
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* ---- blocks ---- */
typedef struct {
    int64_t images, ty, tx;                   /* in all */
    int64_t bi, by, bx, ni, ny, nx;           /* a block, and how many of them */
    int64_t tiles;                            /* of the largest, in whole units */
} grid;

/* Blocks of about `tiles` tiles. */
static grid cut(int64_t images, int64_t h, int64_t w, int64_t tiles)
{
    grid c = {.images = images, .ty = ceil_div(h, TL_WINO_TILE), .tx = ceil_div(w, TL_WINO_TILE)};
    c.nx = ceil_div(c.tx, MAX_ACROSS);
    c.bx = ceil_div(c.tx, c.nx);
    c.ny = ceil_div(c.ty, most(1, least(c.ty, tiles / c.bx)));
    c.by = ceil_div(c.ty, c.ny);
    c.ny = ceil_div(c.ty, c.by);
    c.bi = c.ny > 1 || c.nx > 1 ? 1 : least(images, most(1, tiles / (c.by * c.bx)));
    c.ni = ceil_div(images, c.bi);
    c.tiles = round_up(c.bi * c.by * c.bx, tl_wino_k->unit);
    return c;
}

static int64_t blocks_of(const grid *c) { return c->ni * c->ny * c->nx; }

static tl_wino_block block_at(const grid *c, int64_t n)
{
    int64_t i = n / (c->ny * c->nx) * c->bi, y = n / c->nx % c->ny * c->by, x = n % c->nx * c->bx;
    return (tl_wino_block){i, least(i + c->bi, c->images), y, least(y + c->by, c->ty), x, least(x + c->bx, c->tx)};
}

static int64_t tiles_of(const tl_wino_block *b) { return (b->i1 - b->i0) * (b->y1 - b->y0) * (b->x1 - b->x0); }
/* Floats between frequencies: some more than needed, so that they do not meet in the same sets of a cache. */
static int64_t stride_for(int64_t floats) { return floats + tl_wino_k->lanes; }
static int64_t strip_floats(const grid *c) { return (c->by * TL_WINO_TILE + 2) * (c->bx * TL_WINO_TILE + 2) * tl_wino_k->lanes; }

static tl_wino_image image_of(int64_t channels, const int64_t dims[3], int64_t pad_y, int64_t pad_x)
{
    int64_t channel = dims[0] * dims[1] * dims[2];
    return (tl_wino_image){dims[0], channels * channel, channel, dims[1], dims[2], pad_y, pad_x};
}

/* ---- forward, and the gradient of x ---- */
typedef struct {
    tl_wino_image in, out;
    tl_wino_weights kernels;
    int64_t c, k, in_groups, out_groups;      /* channels, and groups of lanes of them */
    const float *x, *w, *bias;
    float *y, *u;                             /* u NULL: one block only, and every panel transforms its own kernels */
    int64_t u_stride;
    grid grid;
    int64_t grain;
    tl_slots blocks, threads;                 /* V; what a thread needs besides */
} job;
typedef struct {
    job *j;
    tl_wino_block block;
    int64_t tiles, v_stride;
    float *v;
} block;

static int64_t panels_of(int64_t groups) { return ceil_div(groups, 2); }

/* Of loops over pieces: 1, or all of them where threads would cost more than they bring. */
static int64_t grain_for(int64_t images, const tl_wino_image *m, int64_t pairs)
{
    return (double)images * (double)(m->h * m->w) * (double)pairs < SMALL ? INT64_MAX : 1;
}

static int some(int64_t channels, int64_t group) { return (int)least(channels - group * tl_wino_k->lanes, tl_wino_k->lanes); }

/* The kernels of group k of the result and `groups` groups of x from c on. */
static void some_kernels(const job *j, float *u, int64_t stride, int64_t k, int64_t c, int64_t groups)
{
    int64_t lanes = tl_wino_k->lanes;
    tl_wino_k->kernels(u, stride, &j->kernels, j->w + k * lanes * j->kernels.out_step + c * lanes * j->kernels.in_step, some(j->k, k),
                       j->c - c * lanes, groups * lanes);
}

static void transform_kernels(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    for (int64_t k = begin; k < end; k++)
        some_kernels(j, j->u + k * j->in_groups * tl_wino_k->lanes * tl_wino_k->lanes, j->u_stride, k, 0, j->in_groups);
}

static void transform_image(void *arg, int64_t begin, int64_t end)
{
    block *b = arg;
    job *j = b->j;
    int slot = tl_slot_take(&j->threads);
    float *work = tl_slot_data(&j->threads, slot);
    for (int64_t g = begin, lanes = tl_wino_k->lanes; g < end; g++)
        tl_wino_k->image(b->v + g * b->tiles * lanes, b->v_stride, &j->in, j->x + g * lanes * j->in.channel, some(j->c, g), &b->block, work);
    tl_slot_give(&j->threads, slot);
}

/* A panel of the result: TL_WINO_KC channels of x after the other, their kernels first where nobody did them; and back. */
static void multiply(void *arg, int64_t begin, int64_t end)
{
    block *b = arg;
    job *j = b->j;
    int64_t lanes = tl_wino_k->lanes, step = TL_WINO_KC / lanes, square = lanes * lanes, m_stride = stride_for(2 * b->tiles * lanes);
    int slot = tl_slot_take(&j->threads);
    float *work = tl_slot_data(&j->threads, slot), *m = work + strip_floats(&j->grid), *own = m + TL_WINO_F * m_stride;
    for (int64_t g = 2 * begin; g < 2 * end && g < j->out_groups; g += 2) {
        int nv = j->out_groups - g < 2 ? 1 : 2;
        for (int64_t c = 0; c < j->in_groups; c += step) {
            int64_t groups = least(step, j->in_groups - c), u_next = (j->u ? j->in_groups : groups) * square;
            int64_t u_stride = j->u ? j->u_stride : stride_for(2 * step * square);
            if (!j->u)
                for (int i = 0; i < nv; i++) some_kernels(j, own + i * u_next, u_stride, g + i, c, groups);
            tl_wino_k->products(nv, m, m_stride, c > 0, b->v + c * b->tiles * lanes, b->v_stride, j->u ? j->u + (g * j->in_groups + c) * square : own,
                                u_stride, u_next, groups, b->tiles);
        }
        for (int i = 0; i < nv; i++)
            tl_wino_k->result(j->y + (g + i) * lanes * j->out.channel, &j->out, j->bias ? j->bias + (g + i) * lanes : NULL, some(j->k, g + i),
                              m + i * b->tiles * lanes, m_stride, &b->block, work);
    }
    tl_slot_give(&j->threads, slot);
}

static void run_blocks(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int slot = tl_slot_take(&j->blocks);
    block b = {.j = j, .v = tl_slot_data(&j->blocks, slot)};
    for (int64_t n = begin; n < end; n++) {
        b.block = block_at(&j->grid, n);
        b.tiles = round_up(tiles_of(&b.block), tl_wino_k->unit);
        b.v_stride = stride_for(j->in_groups * b.tiles * tl_wino_k->lanes);
        tl_parallel_for(transform_image, &b, j->in_groups, j->grain);
        tl_parallel_for(multiply, &b, panels_of(j->out_groups), j->grain);
    }
    tl_slot_give(&j->blocks, slot);
}

/* All convolution groups, one after the other. `whole`: threads take blocks, else what is in them; that leaves the bits as they are. */
static void convolve_groups(job *j, int64_t conv_groups, bool whole)
{
    for (int64_t g = 0, n = blocks_of(&j->grid); g < conv_groups; g++) {
        if (j->u) tl_parallel_for(transform_kernels, j, j->out_groups, j->grain);
        if (whole) tl_parallel_for(run_blocks, j, n, j->grain);
        else run_blocks(j, 0, n);
        j->x += j->c * j->in.channel;
        j->y += j->k * j->out.channel;
        j->w += j->c * j->k * 9;
        if (j->bias) j->bias += j->k;
    }
}

static bool convolve(job *j, int64_t images, int64_t conv_groups)
{
    int64_t lanes = tl_wino_k->lanes;
    j->in_groups = ceil_div(j->c, lanes);
    j->out_groups = ceil_div(j->k, lanes);
    j->grain = grain_for(images, &j->out, j->c * j->k);
    int64_t u_floats = j->in_groups * lanes * lanes, tile_bytes = TL_WINO_F * (j->in_groups + 2) * lanes * (int64_t)sizeof(float);
    j->u_stride = stride_for(j->out_groups * u_floats);
    bool cached = TL_WINO_F * j->u_stride * (int64_t)sizeof(float) <= U_CACHED;
    j->grid = cut(images, j->out.h, j->out.w, most(cached ? MIN_TILES : MIN_TILES_BIG, least(BLOCK_BYTES / tile_bytes, MAX_TILES)));
    int64_t n = blocks_of(&j->grid), v = TL_WINO_F * stride_for(j->in_groups * j->grid.tiles * lanes);
    int64_t m = TL_WINO_F * stride_for(2 * j->grid.tiles * lanes), own = n > 1 ? 0 : TL_WINO_F * stride_for(2 * TL_WINO_KC * lanes);
    bool whole = n >= 2 * tl_get_num_threads() || n >= panels_of(j->out_groups);
    size_t granted;
    bool ok = tl_slots_new(&j->blocks, whole ? n : 1, (size_t)v * sizeof(float)) &&
              tl_slots_new(&j->threads, INT64_MAX, (size_t)(strip_floats(&j->grid) + m + own) * sizeof(float)) &&
              (n == 1 || (j->u = tl_alloc((size_t)(TL_WINO_F * j->u_stride) * sizeof(float), &granted)));
    if (ok) {
        tl_gil gil = tl_unlock(j->grain == 1);
        convolve_groups(j, conv_groups, whole);
        tl_relock(gil);
    }
    if (j->u) tl_release(j->u, granted);
    tl_slots_free(&j->threads);
    tl_slots_free(&j->blocks);
    return ok;
}

static bool forward(int type, const tl_conv *p, const void *x, const void *w, const void *bias, void *out)
{
    (void)type;
    int64_t c = p->c / p->groups, k = p->k / p->groups;
    job j = {.in = image_of(p->c, p->in, p->pad[1], p->pad[2]), .out = image_of(p->k, p->out, 0, 0), .kernels = {c * 9, 9, false},
             .c = c, .k = k, .x = x, .w = w, .bias = bias, .y = out};
    return convolve(&j, p->n * p->in[0], p->groups);
}

static bool grad_input(int type, const tl_conv *p, const void *g, const void *w, void *gx)
{
    (void)type;
    int64_t c = p->c / p->groups, k = p->k / p->groups;
    job j = {.in = image_of(p->k, p->out, 2 - p->pad[1], 2 - p->pad[2]), .out = image_of(p->c, p->in, 0, 0), .kernels = {9, c * 9, true},
             .c = k, .k = c, .x = g, .w = w, .y = gx};
    return convolve(&j, p->n * p->in[0], p->groups);
}

/* ---- the gradient of the weights ---- */
typedef struct {
    tl_wino_image in, out;
    int64_t c, k, in_groups, out_groups, parts, sums_apart;
    const float *x, *g;
    float *gw, *sums;                         /* [parts][panel][group of x]; NULL: one block only */
    grid grid;
    int64_t grain;
    tl_slots blocks, threads;
} grad_job;
typedef struct {
    grad_job *j;
    tl_wino_block block;
    int64_t tiles, v_stride, g_stride;
    float *v, *g, *sums;                      /* sums: of this part */
    bool add;
} grad_block;

static void transform_both(void *arg, int64_t begin, int64_t end)
{
    grad_block *b = arg;
    grad_job *j = b->j;
    int slot = tl_slot_take(&j->threads);
    float *work = tl_slot_data(&j->threads, slot);
    for (int64_t n = begin, lanes = tl_wino_k->lanes; n < end; n++) {
        int64_t g = n - j->in_groups;
        if (g < 0)
            tl_wino_k->image(b->v + n * b->tiles * lanes, b->v_stride, &j->in, j->x + n * lanes * j->in.channel, some(j->c, n), &b->block, work);
        else
            tl_wino_k->grad(b->g + g * b->tiles * lanes, b->g_stride, &j->out, j->g + g * lanes * j->out.channel, some(j->k, g), &b->block, work);
    }
    tl_slot_give(&j->threads, slot);
}

/* Piece n of the sums, transformed back: of group n % in_groups of x and of panel n / in_groups of g. */
static void finish_piece(const grad_job *j, int64_t n, const float *sums, int64_t parts)
{
    int64_t lanes = tl_wino_k->lanes, c = n % j->in_groups, k = n / j->in_groups * 2;
    for (int64_t i = 0; i < 2 && k + i < j->out_groups; i++)
        tl_wino_k->grad_result(j->gw + ((k + i) * j->c + c) * lanes * 9, j->c * 9, some(j->k, k + i), some(j->c, c), sums + i * lanes * lanes, parts,
                               j->sums_apart);
}

static void finish(void *arg, int64_t begin, int64_t end)
{
    const grad_job *j = arg;
    for (int64_t n = begin; n < end; n++) finish_piece(j, n, j->sums + n * TL_WINO_SUMS(tl_wino_k->lanes), j->parts);
}

static void sum_pieces(void *arg, int64_t begin, int64_t end)
{
    grad_block *b = arg;
    grad_job *j = b->j;
    int64_t lanes = tl_wino_k->lanes;
    int slot = tl_slot_take(&j->threads);
    float *own = b->sums ? NULL : tl_slot_data(&j->threads, slot);
    for (int64_t n = begin; n < end; n++) {
        int64_t c = n % j->in_groups, k = n / j->in_groups * 2;
        float *sums = own ? own : b->sums + n * TL_WINO_SUMS(lanes);
        tl_wino_k->grad_products(j->out_groups - k < 2 ? 1 : 2, sums, b->add, b->v + c * b->tiles * lanes, b->v_stride,
                                 b->g + k * b->tiles * lanes, b->g_stride, b->tiles * lanes, b->tiles);
        if (own) finish_piece(j, n, sums, 1);
    }
    tl_slot_give(&j->threads, slot);
}

static int64_t pieces_of(const grad_job *j) { return panels_of(j->out_groups) * j->in_groups; }

static void run_parts(void *arg, int64_t begin, int64_t end)
{
    grad_job *j = arg;
    int64_t lanes = tl_wino_k->lanes, n = blocks_of(&j->grid), pieces = pieces_of(j);
    int slot = tl_slot_take(&j->blocks);
    grad_block b = {.j = j, .v = tl_slot_data(&j->blocks, slot)};
    for (int64_t part = begin; part < end; part++) {
        b.sums = j->sums ? j->sums + part * j->sums_apart : NULL;
        b.add = false;
        for (int64_t i = part * n / j->parts; i < (part + 1) * n / j->parts; i++, b.add = true) {
            b.block = block_at(&j->grid, i);
            b.tiles = round_up(tiles_of(&b.block), tl_wino_k->unit);
            b.v_stride = stride_for(j->in_groups * b.tiles * lanes);
            b.g_stride = stride_for(j->out_groups * b.tiles * lanes);
            b.g = b.v + TL_WINO_F * b.v_stride;
            tl_parallel_for(transform_both, &b, j->in_groups + j->out_groups, j->grain);
            tl_parallel_for(sum_pieces, &b, pieces, j->grain);
        }
    }
    tl_slot_give(&j->blocks, slot);
}

static void sum_groups(grad_job *j, int64_t conv_groups)
{
    for (int64_t g = 0; g < conv_groups; g++) {
        tl_parallel_for(run_parts, j, j->parts, j->grain);
        if (j->sums) tl_parallel_for(finish, j, pieces_of(j), j->grain);
        j->x += j->c * j->in.channel;
        j->g += j->k * j->out.channel;
        j->gw += j->c * j->k * 9;
    }
}

static bool grad_weight(int type, const tl_conv *p, const void *g, const void *x, void *gw)
{
    int64_t lanes = tl_wino_k->lanes, images = p->n * p->in[0], sums = TL_WINO_SUMS(lanes);
    grad_job j = {.in = image_of(p->c, p->in, p->pad[1], p->pad[2]), .out = image_of(p->k, p->out, 0, 0), .c = p->c / p->groups,
                  .k = p->k / p->groups, .x = x, .g = g, .gw = gw, .grid = cut(images, p->out[1], p->out[2], GRAD_TILES)};
    if (images * j.grid.ty * j.grid.tx < GRAD_FEW) return tl_conv_product.grad_weight(type, p, g, x, gw);
    j.in_groups = ceil_div(j.c, lanes);
    j.out_groups = ceil_div(j.k, lanes);
    j.grain = grain_for(images, &j.out, j.c * j.k);
    j.sums_apart = pieces_of(&j) * sums;
    int64_t n = blocks_of(&j.grid), parts = least(least(n, MAX_PARTS), PARTS_BYTES / (j.sums_apart * (int64_t)sizeof(float)));
    j.parts = parts < MIN_PARTS ? 1 : parts;
    int64_t vg = TL_WINO_F * (stride_for(j.in_groups * j.grid.tiles * lanes) + stride_for(j.out_groups * j.grid.tiles * lanes));
    size_t granted;
    bool ok = tl_slots_new(&j.blocks, j.parts, (size_t)vg * sizeof(float)) &&
              tl_slots_new(&j.threads, INT64_MAX, (size_t)most(strip_floats(&j.grid), sums) * sizeof(float)) &&
              (n == 1 || (j.sums = tl_alloc((size_t)(j.parts * j.sums_apart) * sizeof(float), &granted)));
    if (ok) {
        tl_gil gil = tl_unlock(j.grain == 1);
        sum_groups(&j, p->groups);
        tl_relock(gil);
    }
    if (j.sums) tl_release(j.sums, granted);
    tl_slots_free(&j.threads);
    tl_slots_free(&j.blocks);
    return ok;
}

static bool fits(int type, const tl_conv *p)
{
    enum { FEW = 12 };
    if (type != 0 || p->ker[0] != 1 || p->ker[1] != 3 || p->ker[2] != 3 || p->pad[0] != 0 || p->in[0] != p->out[0]) return false;
    for (int d = 0; d < 3; d++)
        if (p->stride[d] != 1 || (d && p->dil[d] != 1) || p->pad[d] > 2) return false;
    if (p->c / p->groups < FEW || p->k / p->groups < FEW) return false;
    /* Tiles that hang over: worth it while they leave half of the multiplications. */
    return 2 * TL_WINO_F * ceil_div(p->out[1], TL_WINO_TILE) * ceil_div(p->out[2], TL_WINO_TILE) <= 9 * p->out[1] * p->out[2];
}

const tl_conv_path tl_conv_winograd = {fits, forward, grad_input, grad_weight};
