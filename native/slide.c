/* Convolution by sliding: implicit products for kernels of more than one tap. The kernels are in slide.inc.c.
 *
 * A piece of work copies what a band of results sees of some channels, borders included. In that copy each tap sees all results of the band as
 * one line at a fixed offset, which is the row of the right operand that a product wants: so a pixel is copied once for all taps, where
 * product.c packs it once for each. Strides split rows and columns into phases, so that a tap's pixels lie side by side.
 *
 * The gradient of the input is a sum of the same form over g for each residue of the position modulo the stride; the residues along a row are
 * computed from one copy, and stored interleaved. The gradient of the weights broadcasts pixels of the copy against panels of g, turned so that
 * its rows lie side by side: one turn for all channels and taps.
 *
 * An element is summed over (channel, tap), taps fastest, in blocks of whole channels; a weight's gradient over the pixels of a band, bands, and
 * parts of the bands in order: cut by shapes alone. Scratch: the packed weights, and for each thread a copy and the results of a band; the
 * sums of the weights' gradient. */
#include "kernels.h"
#include "slots.h"
#include "taps.h"

enum {
    POSITIONS = 480,           /* of a band, about: what a strip of weights is read for */
    DEPTH = TL_MM_KC,          /* (channel, tap) pairs of a block of channels, about */
    COPY_BYTES = 1 << 19,      /* of its copy, at most, where one channel takes less */
    CHANNEL = 1 << 16,         /* elements of the copy of one channel, at most */
    MAX_FAN = 4,               /* residues along a row */
    MAX_TAPS = 1 << 16,
    BIG = 1 << 18, MIN_PIECES = 8, MIN_ROWS = 56,
    DOT_POSITIONS = TL_MM_KC,  /* of a band of the weights' gradient, about */
    DOT_COLUMNS = 192,         /* rows of g that are turned at a time, about */
    MAX_PARTS = 8, PART_BANDS = 4, PART_ELEMENTS = 1 << 17 /* as in product.c */
};

/* ---- geometry: a lattice of results that sees a source ---- */
typedef struct {
    tl_slide_copy copy;        /* of a whole band; of a block of channels */
    int64_t size[3], step[3];  /* of the lattice; and what one step on it is in the source */
    int64_t low[3], high[3];   /* offsets of the taps */
    int64_t lines, width;      /* a band: rows of the lattice, or a part of one */
    int64_t line_blocks, width_blocks, channels, bands; /* channels: of a block. bands: in an image */
    size_t bytes;              /* of the copy, with what is read behind it */
} lattice;

static void bound(lattice *l, const taps *t)
{
    for (int d = 0; d < 3; d++) {
        l->low[d] = INT64_MAX, l->high[d] = INT64_MIN;
        for (int64_t i = 0; i < t->n; i++) {
            l->low[d] = least(l->low[d], t->off[i][d]);
            if (t->off[i][d] > l->high[d]) l->high[d] = t->off[i][d];
        }
    }
}

/* The copy for band number n of an image, where its lattice begins (in p), and how much of it there is. */
static tl_slide_copy band_at(const lattice *l, int64_t n, int64_t *p, int64_t *lines, int64_t *width)
{
    tl_slide_copy c = l->copy;
    p[2] = n % l->width_blocks * l->width;
    p[1] = n / l->width_blocks % l->line_blocks * l->lines;
    p[0] = n / l->width_blocks / l->line_blocks;
    *lines = least(l->lines, l->size[1] - p[1]);
    *width = least(l->width, l->size[2] - p[2]);
    for (int d = 0; d < 3; d++) c.from[d] = p[d] * l->step[d] + l->low[d];
    c.rows -= l->lines - *lines;
    c.columns -= l->width - *width;
    return c;
}

/* Cuts the lattice into bands of about `positions`, and `channels` into blocks for `count` taps of each. in, size, step, low and high are set. */
static void cut(lattice *l, int type, int64_t positions, int64_t channels, int64_t count)
{
    tl_slide_copy *c = &l->copy;
    int64_t extent[3];
    for (int d = 0; d < 3; d++) {
        extent[d] = l->high[d] - l->low[d];
        c->step[d] = l->step[d];
        c->phases[d] = least(l->step[d], extent[d] + 1);
    }
    l->width_blocks = ceil_div(l->size[2], positions);
    l->width = ceil_div(l->size[2], l->width_blocks);
    c->columns = l->width + extent[2] / l->step[2];
    c->pitch = c->columns;
    if (l->step[2] == 1 && l->width_blocks == 1) { /* a row's border behind is the next one's in front */
        int64_t front = -l->low[2], back = l->size[2] + l->high[2] - c->in[2], shared = least(front, back);
        c->pitch -= shared > 0 ? shared : 0;
    }
    l->lines = l->width_blocks > 1 ? 1 : least(l->size[1], 1 + (positions - l->width) / c->pitch);
    l->line_blocks = ceil_div(l->size[1], l->lines);
    l->lines = ceil_div(l->size[1], l->line_blocks);
    l->bands = l->size[0] * l->line_blocks * l->width_blocks;
    c->slices = extent[0] + 1;
    c->rows = l->lines + extent[1] / l->step[1];
    c->sheet = c->rows * c->pitch + c->columns - c->pitch + TL_ALIGN / size_of(type);
    c->plane = c->slices * c->phases[1] * c->phases[2] * c->sheet;
    int64_t fits = COPY_BYTES / (c->plane * size_of(type)), most = least(count < DEPTH ? DEPTH / count : 1, fits > 1 ? fits : 1);
    l->channels = ceil_div(channels, ceil_div(channels, most));
    l->bytes = (size_t)((l->channels * c->plane + 2 * TL_SLIDE_SLACK) * size_of(type));
}

static void offsets_of(const lattice *l, const taps *t, int64_t *offsets)
{
    const tl_slide_copy *c = &l->copy;
    for (int64_t i = 0; i < t->n; i++) {
        int64_t o[3], phase[3];
        for (int d = 0; d < 3; d++) {
            o[d] = t->off[i][d] - l->low[d];
            phase[d] = o[d] % l->step[d];
        }
        offsets[i] = ((o[0] * c->phases[1] + phase[1]) * c->phases[2] + phase[2]) * c->sheet + o[1] / l->step[1] * c->pitch + o[2] / l->step[2];
    }
}

static int64_t band_positions(const lattice *l, int64_t lines, int64_t width) { return (lines - 1) * l->copy.pitch + width; }

/* ---- weights times the source ---- */
typedef struct {
    lattice lattice;
    tl_slide_sums sums[MAX_FAN];
    tl_slide_put put;
    tl_conv_weights weights[MAX_FAN];        /* of the first group */
    const void *src, *bias;
    char *out, *packed;
    int64_t groups, n, channels, rows, fan;  /* channels of the source and rows of the result in a group */
    int64_t weight_group, packed_group;      /* elements from a group to the next one */
    int64_t out_image, out_plane, out_at, out_step[3], out_width; /* out_width: of a row of results */
    int64_t strips, row_blocks;              /* of a piece; and how many of them */
    int type;
    tl_slots slots;
} job;

static int64_t strips_of(const job *j) { return ceil_div(j->rows, tl_mm_k->mr); }

static void pack_weights(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int64_t strips = strips_of(j);
    for (int64_t u = begin; u < end; u++) {
        int64_t group = u / strips, s = u % strips;
        for (int64_t f = 0; f < j->fan; f++) {
            tl_conv_weights w = j->weights[f];
            w.a = at(w.a, j->type, group * j->weight_group);
            if (w.taps) tl_product_k->pack[j->type](&w, (char *)j->sums[f].a + group * j->packed_group * size_of(j->type), s, s + 1);
        }
    }
}

static void multiply_piece(const job *j, int64_t u, char *band)
{
    const lattice *l = &j->lattice;
    int64_t block = u % j->row_blocks, n = u / j->row_blocks % l->bands, rest = u / j->row_blocks / l->bands, group = rest % j->groups;
    int64_t image = rest / j->groups, s0 = block * j->strips, s1 = least(strips_of(j), s0 + j->strips), strips = strips_of(j);
    int64_t m0 = s0 * j->rows / strips, m1 = s1 * j->rows / strips, p[3], size = size_of(j->type), lines, width;
    char *local = band + l->bytes;
    tl_slide_copy copy = band_at(l, n, p, &lines, &width);
    tl_slide_put put = j->put;
    for (int64_t c = 0; c < j->channels; c += l->channels) {
        int64_t some = least(l->channels, j->channels - c), plane = (image * j->groups + group) * j->channels + c;
        tl_slide_k->copy[j->type](&copy, band, at(j->src, j->type, plane * product(copy.in)), some);
        for (int64_t f = 0; f < j->fan; f++) {
            tl_slide_sums sums = j->sums[f];
            sums.a = at(sums.a, j->type, group * j->packed_group);
            sums.positions = band_positions(l, lines, width);
            tl_slide_k->multiply[j->type](&sums, s0, s1, band, c, some, local + f * put.apart * size);
        }
    }
    put.lines = lines;
    put.width = least(width * j->fan, j->out_width - p[2] * j->fan);
    int64_t row = group * j->rows + m0;
    int64_t to = image * j->out_image + row * j->out_plane + j->out_at + p[0] * j->out_step[0] + p[1] * j->out_step[1] + p[2] * j->out_step[2];
    tl_slide_k->put[j->type](&put, j->out + to * size, local, j->bias ? at(j->bias, j->type, row) : NULL, m1 - m0);
}

static void multiply_pieces(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    int slot = tl_slot_take(&j->slots);
    char *work = tl_slot_data(&j->slots, slot);
    for (int64_t u = begin; u < end; u++) multiply_piece(j, u, work);
    tl_slot_give(&j->slots, slot);
}

/* j's geometry, weights and places are set; of sums the offsets. */
static bool run(job *j, const taps *t)
{
    lattice *l = &j->lattice;
    int64_t mr = tl_mm_k->mr, size = size_of(j->type), all = 0, most = 1;
    for (int64_t f = 0; f < j->fan; f++) {
        all += j->weights[f].taps;
        if (j->weights[f].taps > most) most = j->weights[f].taps;
    }
    bound(l, t);
    cut(l, j->type, POSITIONS, j->channels, most);
    int64_t lanes = TL_ALIGN / size, ld = (band_positions(l, l->lines, l->width) / lanes / 2 * 2 + 5) * lanes; /* an odd number of lines */
    double work = (double)j->n * (double)product(l->size) * (double)j->groups * (double)j->rows * (double)j->channels * (double)all;
    j->strips = strips_of(j);
    while (work >= BIG && j->n * j->groups * l->bands * ceil_div(strips_of(j), j->strips) < MIN_PIECES && j->strips * mr >= 2 * MIN_ROWS)
        j->strips = (j->strips + 1) / 2;
    j->row_blocks = ceil_div(strips_of(j), j->strips);
    j->packed_group = j->rows * j->channels * all;
    int64_t pieces = j->n * j->groups * l->bands * j->row_blocks, apart = j->strips * mr * ld;
    j->put = (tl_slide_put){.pitch = l->copy.pitch, .fan = j->fan, .apart = apart, .ld = ld, .out_row = j->out_plane, .out_line = j->out_step[1]};
    size_t granted;
    int64_t offset_bytes = round_up(t->n * 8, TL_ALIGN);
    char *memory = tl_alloc((size_t)(offset_bytes + j->groups * j->packed_group * size), &granted);
    if (!memory) return false;
    int64_t *offsets = (int64_t *)memory, packed = 0;
    offsets_of(l, t, offsets);
    for (int64_t f = 0; f < j->fan; f++) {
        int64_t count = j->weights[f].taps;
        j->sums[f] = (tl_slide_sums){.a = at(memory + offset_bytes, j->type, packed), .offsets = offsets, .taps = count, .plane = l->copy.plane,
                                     .rows = j->rows, .depth = j->channels * count, .ld = ld};
        packed += j->rows * j->channels * count;
        offsets += count;
    }
    bool ok = tl_slots_new(&j->slots, pieces, l->bytes + (size_t)(j->fan * apart * size));
    if (ok) {
        for_pieces(pack_weights, j, j->groups * strips_of(j), (double)j->groups * (double)j->packed_group);
        for_pieces(multiply_pieces, j, pieces, work);
        tl_slots_free(&j->slots);
    }
    tl_release(memory, granted);
    return ok;
}

static bool forward(int type, const tl_conv *p, const void *x, const void *w, const void *bias, void *out)
{
    int64_t channels = p->c / p->groups, rows = p->k / p->groups, ker = product(p->ker);
    taps t;
    if (!new_taps(&t, p)) return false;
    find_taps(&t, p, NULL);
    job j = {.type = type, .groups = p->groups, .n = p->n, .channels = channels, .rows = rows, .fan = 1, .src = x, .bias = bias, .out = out,
             .weight_group = rows * channels * ker, .out_plane = product(p->out), .out_width = p->out[2]};
    j.weights[0] = (tl_conv_weights){w, rows, channels, ker, channels * ker, ker, t.at};
    for (int d = 0; d < 3; d++) j.lattice.copy.in[d] = p->in[d], j.lattice.size[d] = p->out[d], j.lattice.step[d] = p->stride[d];
    j.out_image = p->k * j.out_plane;
    j.out_step[0] = p->out[1] * p->out[2], j.out_step[1] = p->out[2], j.out_step[2] = 1;
    bool ok = run(&j, &t);
    tl_release(t.off, t.granted);
    return ok;
}

/* The rows of gx at `from`, from + stride, ... of the first two dimensions. */
static bool grad_residue(int type, const tl_conv *p, const void *g, const void *w, void *gx, taps *t, int64_t *from)
{
    int64_t channels = p->k / p->groups, rows = p->c / p->groups, ker = product(p->ker), s = p->stride[2];
    job j = {.type = type, .groups = p->groups, .n = p->n, .channels = channels, .rows = rows, .fan = s, .src = g, .out = gx,
             .weight_group = rows * channels * ker, .out_plane = product(p->in), .out_width = p->in[2]};
    t->n = 0;
    for (from[2] = 0; from[2] < s; from[2]++) {
        int64_t first = t->n;
        find_taps(t, p, from);
        j.weights[from[2]] = (tl_conv_weights){w, rows, channels, t->n - first, ker, rows * ker, t->at + first};
    }
    if (!t->n) return true;
    from[2] = 0;
    for (int d = 0; d < 3; d++)
        j.lattice.copy.in[d] = p->out[d], j.lattice.size[d] = ceil_div(p->in[d] - from[d], p->stride[d]), j.lattice.step[d] = 1;
    j.out_image = p->c * j.out_plane;
    j.out_at = (from[0] * p->in[1] + from[1]) * p->in[2];
    j.out_step[0] = p->in[1] * p->in[2] * p->stride[0], j.out_step[1] = p->in[2] * p->stride[1], j.out_step[2] = s;
    return run(&j, t);
}

static bool grad_input(int type, const tl_conv *p, const void *g, const void *w, void *gx)
{
    if (p->stride[2] > MAX_FAN) return tl_conv_product.grad_input(type, p, g, w, gx);
    taps t;
    if (!new_taps(&t, p)) return false;
    bool ok = true;
    if (!reaches_all(p)) memset(gx, 0, (size_t)(p->n * p->c * product(p->in) * size_of(type)));
    int64_t from[3];
    for (from[0] = 0; ok && from[0] < least(p->stride[0], p->in[0]); from[0]++)
        for (from[1] = 0; ok && from[1] < least(p->stride[1], p->in[1]); from[1]++) ok = grad_residue(type, p, g, w, gx, &t, from);
    tl_release(t.off, t.granted);
    return ok;
}

/* ---- the gradient of the weights ---- */
typedef struct {
    lattice lattice;
    tl_slide_dots dots;
    const void *x, *g;
    char *gw, *sums;                         /* sums: (parts, column blocks of all groups, channels * taps, columns in whole vectors) */
    int64_t groups, n, channels, rows;       /* of a group: channels of x, rows of g */
    int64_t columns, column_blocks;          /* rows of g in a piece */
    int64_t channel_blocks, channel_parts, parts, ld, apart;
    size_t panel_bytes;
    int type;
    tl_slots slots;
} dots_job;

static int64_t sums_of(const dots_job *j) { return j->channels * j->dots.taps * j->ld; } /* of a block of columns */

static void dots_piece(const dots_job *j, int64_t u, char *band)
{
    const lattice *l = &j->lattice;
    int64_t some = u % j->channel_parts, block = u / j->channel_parts % (j->column_blocks * j->groups), part = u / j->channel_parts / (j->column_blocks * j->groups);
    int64_t group = block / j->column_blocks, k0 = block % j->column_blocks * j->columns, size = size_of(j->type), area = product(l->size);
    int64_t all = j->n * l->bands, c0 = some * j->channel_blocks / j->channel_parts, c1 = (some + 1) * j->channel_blocks / j->channel_parts;
    char *panels = band + l->bytes, *sums = j->sums + (part * j->apart + block * sums_of(j)) * size;
    tl_slide_dots dots = j->dots;
    dots.columns = least(j->columns, j->rows - k0);
    for (int64_t b = part * all / j->parts, first = b; b < (part + 1) * all / j->parts; b++) {
        int64_t image = b / l->bands, p[3];
        tl_slide_copy copy = band_at(l, b % l->bands, p, &dots.lines, &dots.width);
        int64_t row = (image * j->groups + group) * j->rows + k0, at_g = row * area + (p[0] * l->size[1] + p[1]) * l->size[2] + p[2];
        tl_slide_k->turn[j->type](panels, at(j->g, j->type, at_g), area, dots.lines * dots.width, dots.columns);
        for (int64_t c = c0 * l->channels; c < least(c1 * l->channels, j->channels); c += l->channels) {
            int64_t channels = least(l->channels, j->channels - c), plane = (image * j->groups + group) * j->channels + c;
            tl_slide_k->copy[j->type](&copy, band, at(j->x, j->type, plane * product(copy.in)), channels);
            tl_slide_k->dots[j->type](&dots, band, panels, channels, sums + c * dots.taps * j->ld * size, b > first);
        }
    }
}

static void dots_pieces(void *arg, int64_t begin, int64_t end)
{
    dots_job *j = arg;
    int slot = tl_slot_take(&j->slots);
    char *work = tl_slot_data(&j->slots, slot);
    for (int64_t u = begin; u < end; u++) dots_piece(j, u, work);
    tl_slot_give(&j->slots, slot);
}

/* The parts joined, and turned back: of one channel in one block of columns. */
static void finish_pieces(void *arg, int64_t begin, int64_t end)
{
    dots_job *j = arg;
    int64_t size = size_of(j->type), taps = j->dots.taps, depth = j->channels * taps;
    for (int64_t u = begin; u < end; u++) {
        int64_t c = u % j->channels, block = u / j->channels, group = block / j->column_blocks, k0 = block % j->column_blocks * j->columns;
        char *sums = j->sums + (block * sums_of(j) + c * taps * j->ld) * size;
        for (int64_t part = 1; part < j->parts; part++) tl_product_k->add[j->type](sums, sums + part * j->apart * size, taps * j->ld);
        tl_slide_k->finish[j->type](j->gw + ((group * j->rows + k0) * depth + c * taps) * size, depth, sums, j->ld, taps, least(j->columns, j->rows - k0));
    }
}

static bool run_dots(dots_job *j, const taps *t)
{
    lattice *l = &j->lattice;
    int64_t size = size_of(j->type), lanes = TL_ALIGN / size, ker = t->n;
    bound(l, t);
    cut(l, j->type, DOT_POSITIONS, j->channels, ker);
    j->channel_blocks = ceil_div(j->channels, l->channels);
    j->column_blocks = ceil_div(j->rows, DOT_COLUMNS);
    j->columns = round_up(ceil_div(j->rows, j->column_blocks), lanes);
    j->column_blocks = ceil_div(j->rows, j->columns);
    j->ld = round_up(j->columns, lanes);
    int64_t all = j->n * l->bands, blocks = j->groups * j->column_blocks;
    j->apart = blocks * j->channels * ker * j->ld;
    j->parts = j->apart > PART_ELEMENTS ? 1 : least(MAX_PARTS, ceil_div(all, PART_BANDS));
    j->channel_parts = least(j->channel_blocks, ceil_div(MIN_PIECES, blocks * j->parts));
    int64_t pieces = j->parts * blocks * j->channel_parts, offset_bytes = round_up(ker * 8, TL_ALIGN);
    size_t granted;
    char *memory = tl_alloc((size_t)(offset_bytes + j->parts * j->apart * size), &granted);
    if (!memory) return false;
    offsets_of(l, t, (int64_t *)memory);
    j->sums = memory + offset_bytes;
    j->dots = (tl_slide_dots){.offsets = (int64_t *)memory, .taps = ker, .plane = l->copy.plane, .pitch = l->copy.pitch, .ld = j->ld};
    bool ok = tl_slots_new(&j->slots, pieces, l->bytes + (size_t)(j->ld * l->lines * l->width * size));
    if (ok) {
        double work = (double)j->apart * (double)j->n * (double)product(l->size);
        for_pieces(dots_pieces, j, pieces, work);
        for_pieces(finish_pieces, j, blocks * j->channels, (double)j->parts * (double)j->apart);
        tl_slots_free(&j->slots);
    }
    tl_release(memory, granted);
    return ok;
}

static bool grad_weight(int type, const tl_conv *p, const void *g, const void *x, void *gw)
{
    taps t;
    if (!new_taps(&t, p)) return false;
    find_taps(&t, p, NULL);
    dots_job j = {.type = type, .groups = p->groups, .n = p->n, .channels = p->c / p->groups, .rows = p->k / p->groups, .x = x, .g = g, .gw = gw};
    for (int d = 0; d < 3; d++) j.lattice.copy.in[d] = p->in[d], j.lattice.size[d] = p->out[d], j.lattice.step[d] = p->stride[d];
    bool ok = run_dots(&j, &t);
    tl_release(t.off, t.granted);
    return ok;
}

/* Where the copy of one channel, for a single row of results, is no larger than it should be. */
static bool fits(int type, const tl_conv *p)
{
    (void)type;
    double ker = 1, copy = 1;
    for (int d = 0; d < 3; d++) {
        ker *= (double)p->ker[d];
        copy *= (double)(d == 2 ? least(p->out[2], POSITIONS) * p->stride[2] : p->stride[d]) + (double)(p->ker[d] - 1) * (double)p->dil[d];
    }
    return ker > 1 && ker <= MAX_TAPS && copy <= CHANNEL;
}

const tl_conv_path tl_conv_slide = {fits, forward, grad_input, grad_weight};
