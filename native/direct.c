/* Convolution straight from the image, where a matrix product would be thin: depthwise, first layers, few results from many channels.
 *
 * One form serves the forward pass and the input's gradient. A task copies the rows that a band of results needs, borders included, into a
 * buffer of its own; every result is then a sum over the same `taps` of that copy, each at a fixed offset from the result's place, and a row
 * of results is a few vectors. For the input's gradient with strides, positions fall into phases (i % stride) that need different taps: each
 * phase is a sum of that form, over the same copy of g. The weight's gradient is the product of rows of g with the copy, summed per image.
 *
 * An element's sum runs over its taps in order; the weight's gradient over the rows of a band, bands, the images of a block, and a tree over
 * blocks: fixed by the shapes alone. */
#include "kernels.h"

enum {
    FEW = 7,                     /* results of a group, from as many channels as there are; or channels of one, where also */
    THIN = 39,                   /* (channel, tap) pairs are no more than that: else Winograd and products win */
    MAX_TAPS = 1 << 16,
    BAND_BYTES = 1 << 16,        /* of the copy, for sums and for a weight's gradient, */
    DOT_BAND_BYTES = 1 << 17,
    MAX_BAND_BYTES = 1 << 20,    /* and where already one row of results needs more */
    SUM_BLOCKS = 16,             /* blocks of images whose weight gradients are joined, at most */
    SUM_NUMBERS = 1 << 21,       /* in all of those gradients, at most */
    LARGE = 1 << 19              /* multiply-adds from which threads may share the work */
};

typedef struct {
    tl_direct_sums sums;         /* of one group */
    int64_t len[3], at[3];       /* how many positions, and the first in the result */
    const char *w;               /* (groups, sums, taps) */
} phase;

typedef struct {
    int type, n_phases;
    tl_direct_copy copy;
    int64_t in_step[3], front[3], extent[3];  /* per dimension of the copy: step between results, zeros in front, largest offset of a tap */
    int64_t out_step[3], dims[3], len[3];     /* of the results: step within a phase, size, positions of the longest phase */
    int64_t images, groups, taps;             /* taps: of all phases together */
    int64_t band, bands;                      /* rows of results of one task */
    phase phases[TL_CONV_PHASES];
    const char *src, *bias;                   /* src: what is copied */
    char *dst;                                /* the results; of the weight's gradient one per block of images */
    const char *g;                            /* for the weight's gradient only: g, images of a block, parts of a group's channels */
    int64_t block, parts;
    char *buffers;                            /* one per worker */
    int64_t buffer, tasks;
    _Atomic int64_t next;
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t volume(const int64_t *d) { return d[0] * d[1] * d[2]; }
static int64_t size_of(const job *j) { return j->type ? 8 : 4; }
static int64_t lanes_of(const job *j) { return TL_ALIGN / size_of(j); } /* of the widest vector: buffers have one shape on all instruction sets */

/* ---- geometry ---- */

/* The layout of the copy for `rows` rows of results; its size in bytes, which may be beyond any integer. */
static double lay_out(job *j, int64_t rows)
{
    tl_direct_copy *c = &j->copy;
    int64_t lanes = lanes_of(j), step = j->in_step[2];
    c->slices = j->extent[0] + 1;
    c->rows = (rows - 1) * j->in_step[1] + j->extent[1] + 1;
    c->step = step;
    c->pitch = ceil_div(j->len[2], lanes) * lanes + j->extent[2] / step + 1;
    c->front = j->front[2];
    c->columns = (j->len[2] - 1) * step + j->extent[2] + 1;
    return ((double)c->planes * (double)c->slices * (double)c->rows * (double)(step * c->pitch) + (double)lanes) * (double)size_of(j);
}

/* How many rows of results a task takes: what fits in `enough` bytes, or two. False where the copy for a single one is too large. */
static bool cut(job *j, int64_t enough)
{
    if (!(lay_out(j, 1) <= MAX_BAND_BYTES)) return false;
    int64_t one = (int64_t)lay_out(j, 1), more = j->len[1] > 1 ? (int64_t)lay_out(j, 2) - one : 1, bytes = 2 * one > enough ? 2 * one : enough;
    j->band = least(j->len[1], 1 + (bytes - one) / more);
    j->bands = ceil_div(j->len[1], j->band);
    j->band = ceil_div(j->len[1], j->bands);
    j->buffer = ceil_div((int64_t)lay_out(j, j->band), TL_ALIGN) * TL_ALIGN;
    return true;
}

/* Where (plane, d, h, w), counted from a result's place, lies in the copy. */
static int64_t offset_of(const job *j, int64_t plane, int64_t d, int64_t h, int64_t w)
{
    const tl_direct_copy *c = &j->copy;
    return (((plane * c->slices + d) * c->rows + h) * c->step + w % c->step) * c->pitch + w / c->step;
}

/* For the first `planes` channels of a group. */
static bool plan_forward(job *j, int type, const tl_conv *p, int64_t planes, int64_t enough)
{
    *j = (job){.type = type, .n_phases = 1, .images = p->n, .groups = p->groups};
    j->copy = (tl_direct_copy){.planes = planes, .depth = p->in[0], .height = p->in[1], .width = p->in[2]};
    for (int d = 0; d < 3; d++) {
        j->in_step[d] = p->stride[d];
        j->front[d] = p->pad[d];
        j->extent[d] = (p->ker[d] - 1) * p->dil[d];
        j->out_step[d] = 1;
        j->dims[d] = j->len[d] = j->phases[0].len[d] = p->out[d];
    }
    j->taps = j->copy.planes * volume(p->ker);
    j->phases[0].sums = (tl_direct_sums){.taps = j->taps, .sums = p->k / p->groups, .w_sum = p->c / p->groups * volume(p->ker)};
    return cut(j, enough);
}

/* gx[i] takes g[(i + pad - r * dil) / stride] where that is whole. With i = q * stride + phase that is g[q - shift(r)], for the taps r that
 * belong to the phase. */
static int64_t phase_of(const tl_conv *p, int d, int64_t r)
{
    int64_t m = (r * p->dil[d] - p->pad[d]) % p->stride[d];
    return m < 0 ? m + p->stride[d] : m;
}
static int64_t shift_of(const tl_conv *p, int d, int64_t r) { return (r * p->dil[d] - p->pad[d] - phase_of(p, d, r)) / p->stride[d]; }

static bool plan_grad_input(job *j, int type, const tl_conv *p)
{
    *j = (job){.type = type, .images = p->n, .groups = p->groups};
    j->copy = (tl_direct_copy){.planes = p->k / p->groups, .depth = p->out[0], .height = p->out[1], .width = p->out[2]};
    for (int d = 0; d < 3; d++) { /* shift_of rises with r, but for the phases' rounding: by one at most */
        int64_t low = shift_of(p, d, 0), high = low;
        for (int64_t r = 1; r < p->ker[d]; r++) {
            int64_t s = shift_of(p, d, r);
            low = s < low ? s : low;
            high = s > high ? s : high;
        }
        j->in_step[d] = 1;
        j->front[d] = high;
        j->extent[d] = high - low;
        j->out_step[d] = p->stride[d];
        j->dims[d] = p->in[d];
        j->len[d] = ceil_div(p->in[d], p->stride[d]);
    }
    j->taps = j->copy.planes * volume(p->ker);
    for (int64_t i = 0; i < volume(p->stride); i++) {
        phase *f = &j->phases[j->n_phases];
        f->at[0] = i / (p->stride[1] * p->stride[2]), f->at[1] = i / p->stride[2] % p->stride[1], f->at[2] = i % p->stride[2];
        bool some = true;
        f->sums = (tl_direct_sums){.taps = j->copy.planes, .sums = p->c / p->groups};
        for (int d = 0; d < 3; d++) {
            int64_t taps = 0;
            for (int64_t r = 0; r < p->ker[d]; r++) taps += phase_of(p, d, r) == f->at[d];
            f->sums.taps *= taps;
            f->len[d] = p->in[d] > f->at[d] ? ceil_div(p->in[d] - f->at[d], p->stride[d]) : 0;
            some = some && f->len[d];
        }
        f->sums.w_sum = f->sums.taps;
        j->n_phases += some;
    }
    return cut(j, BAND_BYTES);
}

/* What follows from the layout of the copy. */
static void finish(phase *f, const job *j, const int64_t *offsets)
{
    f->sums.offsets = offsets;
    f->sums.width = f->len[2];
    f->sums.row = j->in_step[1] * j->copy.step * j->copy.pitch;
    f->sums.out_plane = volume(j->dims);
    f->sums.out_row = j->out_step[1] * j->dims[2];
    f->sums.out_step = j->out_step[2];
}

static void finish_forward(job *j, const tl_conv *p, int64_t *offsets, const char *w)
{
    phase *f = j->phases;
    finish(f, j, offsets);
    f->w = w;
    for (int64_t c = 0; c < j->copy.planes; c++)
        for (int64_t d = 0; d < p->ker[0]; d++)
            for (int64_t h = 0; h < p->ker[1]; h++)
                for (int64_t v = 0; v < p->ker[2]; v++) *offsets++ = offset_of(j, c, d * p->dil[0], h * p->dil[1], v * p->dil[2]);
}

/* Offsets and weights of each phase: w (k, c / groups, ker) becomes (groups, c / groups, k / groups and the phase's taps). */
static void finish_grad_input(job *j, const tl_conv *p, int64_t *offsets, const char *w, char *turned)
{
    int64_t size = size_of(j), kernel = volume(p->ker), sums = p->c / p->groups;
    for (phase *f = j->phases; f < j->phases + j->n_phases; f++) {
        finish(f, j, offsets);
        f->w = turned;
        int64_t t = 0, taps = f->sums.taps;
        for (int64_t k = 0; k < j->copy.planes; k++)
            for (int64_t r = 0; r < kernel; r++) {
                int64_t at[3] = {r / (p->ker[1] * p->ker[2]), r / p->ker[2] % p->ker[1], r % p->ker[2]}, o[3];
                bool ours = true;
                for (int d = 0; d < 3; d++) {
                    ours = ours && phase_of(p, d, at[d]) == f->at[d];
                    o[d] = j->front[d] - shift_of(p, d, at[d]);
                }
                if (!ours) continue;
                offsets[t] = offset_of(j, k, o[0], o[1], o[2]);
                for (int64_t g = 0; g < p->groups; g++)
                    for (int64_t c = 0; c < sums; c++)
                        memcpy(turned + ((g * sums + c) * taps + t) * size, w + (((g * j->copy.planes + k) * sums + c) * kernel + r) * size, (size_t)size);
                t++;
            }
        offsets += taps;
        turned += p->groups * sums * taps * size;
    }
}

/* ---- running ---- */

/* *i becomes *i / n, and what is left of it returned. Tasks can be small: most of their dimensions are 1, and a division is slow. */
static int64_t split(int64_t *i, int64_t n)
{
    int64_t whole = n == 1 ? *i : *i / n, rest = *i - whole * n;
    *i = whole;
    return rest;
}

/* `first`: the first plane, among all of the source. */
static void copy_band(const job *j, char *buffer, int64_t first, int64_t depth, int64_t row)
{
    const tl_direct_copy *c = &j->copy;
    const char *src = j->src + first * c->depth * c->height * c->width * size_of(j);
    tl_direct_k->copy[j->type](c, buffer, src, depth * j->in_step[0] - j->front[0], row * j->in_step[1] - j->front[1]);
}

static void run_sums(const job *j, char *buffer, int64_t task)
{
    int64_t row = split(&task, j->bands) * j->band, depth = split(&task, j->len[0]), ig = task, g = split(&task, j->groups);
    copy_band(j, buffer, ig * j->copy.planes, depth, row);
    for (const phase *f = j->phases; f < j->phases + j->n_phases; f++) {
        int64_t rows = least(j->band, f->len[1] - row), sums = f->sums.sums;
        if (depth >= f->len[0] || rows <= 0) continue;
        int64_t d = f->at[0] + depth * j->out_step[0], h = f->at[1] + row * j->out_step[1];
        char *out = j->dst + (ig * sums * f->sums.out_plane + (d * j->dims[1] + h) * j->dims[2] + f->at[2]) * size_of(j);
        tl_direct_k->sums[j->type](&f->sums, buffer, f->w + g * sums * f->sums.taps * size_of(j), j->bias ? j->bias + g * sums * size_of(j) : NULL,
                                   out, rows);
    }
}

/* The weight's gradient from one block of images, for one part of the channels of a group. */
static void run_dots(const job *j, char *buffer, int64_t task)
{
    const tl_direct_sums *p = &j->phases[0].sums;
    int64_t part = split(&task, j->parts), group = split(&task, j->groups), block = task;
    int64_t last = least(j->images, (block + 1) * j->block);
    char *gw = j->dst + ((block * j->groups + group) * p->sums * p->w_sum + part * p->taps) * size_of(j);
    for (int64_t k = 0; k < p->sums; k++) memset(gw + k * p->w_sum * size_of(j), 0, (size_t)(p->taps * size_of(j)));
    for (int64_t image = block * j->block; image < last; image++)
        for (int64_t depth = 0; depth < j->len[0]; depth++)
            for (int64_t row = 0; row < j->len[1]; row += j->band) {
                int64_t ig = image * j->groups + group;
                copy_band(j, buffer, (ig * j->parts + part) * j->copy.planes, depth, row);
                const char *g = j->g + (ig * p->sums * p->out_plane + (depth * j->dims[1] + row) * j->dims[2]) * size_of(j);
                tl_direct_k->dots[j->type](p, buffer, g, gw, least(j->band, j->len[1] - row));
            }
}

/* Workers [begin, end): each has its own buffer and takes tasks until none is left. */
static void work(void *arg, int64_t begin, int64_t end)
{
    job *j = arg;
    for (int64_t worker = begin; worker < end; worker++) {
        char *buffer = j->buffers + worker * j->buffer;
        int64_t task = atomic_fetch_add(&j->next, 1);
        if (task < j->tasks) memset(buffer, 0, (size_t)j->buffer);
        for (; task < j->tasks; task = atomic_fetch_add(&j->next, 1)) (j->g ? run_dots : run_sums)(j, buffer, task);
    }
}

/* Takes one piece of memory for `numbers` numbers, the offsets and the workers' buffers. NULL: no memory. */
static char *take(job *j, int64_t numbers, int64_t workers, int64_t **offsets, size_t *granted)
{
    int64_t offset_bytes = ceil_div(j->taps * 8, TL_ALIGN) * TL_ALIGN, number_bytes = ceil_div(numbers * size_of(j), TL_ALIGN) * TL_ALIGN;
    char *memory = tl_alloc((size_t)(offset_bytes + number_bytes + workers * j->buffer), granted);
    *offsets = (int64_t *)memory;
    j->buffers = memory + offset_bytes + number_bytes;
    return memory ? memory + offset_bytes : NULL;
}

static double cost(const tl_conv *p) { return (double)p->n * (double)p->k * (double)volume(p->out) * (double)(p->c / p->groups * volume(p->ker)); }
static int64_t workers_for(const tl_conv *p, int64_t tasks) { return cost(p) < LARGE ? 1 : least(tl_get_num_threads(), tasks); }

static void run(job *j, const tl_conv *p, int64_t workers)
{
    bool large = cost(p) >= LARGE;
    tl_gil gil = tl_unlock(large);
    atomic_init(&j->next, 0);
    if (large) tl_parallel_for(work, j, workers, 1);
    else work(j, 0, 1);
    tl_relock(gil);
}

/* ---- the path ---- */

static bool direct_fits(int type, const tl_conv *p)
{
    job j;
    int64_t cs = p->c / p->groups, ks = p->k / p->groups, kernel = volume(p->ker);
    bool few = kernel == 1 ? cs <= FEW : ks <= FEW || (cs <= FEW && cs * kernel <= THIN);
    if (!few || volume(p->stride) > TL_CONV_PHASES || kernel > MAX_TAPS || (cs > ks ? cs : ks) > MAX_TAPS / kernel) return false;
    return plan_forward(&j, type, p, cs, BAND_BYTES) && plan_grad_input(&j, type, p);
}

static bool direct_forward(int type, const tl_conv *p, const void *x, const void *w, const void *bias, void *out)
{
    job j;
    int64_t *offsets;
    size_t granted;
    plan_forward(&j, type, p, p->c / p->groups, BAND_BYTES);
    j.tasks = j.images * j.groups * j.len[0] * j.bands;
    int64_t workers = workers_for(p, j.tasks);
    if (!take(&j, 0, workers, &offsets, &granted)) return false;
    finish_forward(&j, p, offsets, w);
    j.src = x, j.bias = bias, j.dst = out;
    run(&j, p, workers);
    tl_release(offsets, granted);
    return true;
}

static bool direct_grad_input(int type, const tl_conv *p, const void *g, const void *w, void *gx)
{
    job j;
    int64_t *offsets;
    size_t granted;
    plan_grad_input(&j, type, p);
    j.tasks = j.images * j.groups * j.len[0] * j.bands;
    int64_t workers = workers_for(p, j.tasks);
    char *turned = take(&j, p->groups * j.taps * (p->c / p->groups), workers, &offsets, &granted);
    if (!turned) return false;
    finish_grad_input(&j, p, offsets, w, turned);
    j.src = g, j.dst = gx;
    run(&j, p, workers);
    tl_release(offsets, granted);
    return true;
}

static bool direct_grad_weight(int type, const tl_conv *p, const void *g, const void *x, void *gw)
{
    job j;
    int64_t *offsets, numbers = p->k * (p->c / p->groups) * volume(p->ker);
    size_t granted;
    int64_t planes = FEW;        /* channels of a group that a task takes, in equal parts */
    while (p->c / p->groups % planes) planes--;
    plan_forward(&j, type, p, planes, DOT_BAND_BYTES);
    j.parts = p->c / p->groups / planes;
    int64_t blocks = least(p->n, least(SUM_BLOCKS, 1 + SUM_NUMBERS / numbers));
    j.block = ceil_div(p->n, blocks);
    blocks = ceil_div(p->n, j.block);
    j.tasks = blocks * j.groups * j.parts;
    int64_t workers = workers_for(p, j.tasks);
    char *sums = take(&j, blocks * numbers, workers, &offsets, &granted);
    if (!sums) return false;
    finish_forward(&j, p, offsets, NULL);
    j.src = x, j.g = g, j.dst = sums;
    run(&j, p, workers);
    (type ? tl_reduce_k->f64 : tl_reduce_k->f32).tree(TL_RED_SUM, &(tl_reduce_tree){sums, blocks, numbers});
    memcpy(gw, sums, (size_t)(numbers * size_of(&j)));
    tl_release(offsets, granted);
    return true;
}

const tl_conv_path tl_conv_direct = {direct_fits, direct_forward, direct_grad_input, direct_grad_weight};
