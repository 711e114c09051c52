/* Linear-chain random fields for one instruction set: the sum over all sequences of tags, and its slopes. Contract in kernels.h, the driver in
 * crf.c. Chances are numbers m 2^e as in ctc.inc.c, before this file; vectors go over the tags that follow, or (towards the end) that were. */

typedef struct {
    const tl_crf_task *p;
    int64_t b, steps, width;   /* width: of a row */
    ctc_array emitted, after;  /* of one step; paths to the end, without the step's own score and then with it */
    double *before;            /* (steps, 2, width): paths from the start, each with its step's score */
} crf_sequence;

TL_INLINE ctc_array crf_row(double *at, int64_t row, int64_t width) { return (ctc_array){at + 2 * row * width, at + (2 * row + 1) * width}; }
TL_INLINE ctc_array crf_before(const crf_sequence *s, int64_t t) { return crf_row(s->before, t, s->width); }

/* A row of scores becomes one of numbers: of their exp. */
static void crf_numbers(double *row, int64_t tags)
{
    int64_t width = tl_ctc_width(tags);
    for (int64_t j = tags; j < width; j++) row[j] = CTC_NEVER;
    for (int64_t j = 0; j < width; j += VD_LANES) ctc_store(crf_row(row, 0, width), j, ctc_exp(vd_load(row + j)));
}
static void crf_emit(const crf_sequence *s, int64_t t)
{
    const tl_crf_task *p = s->p;
    int64_t at = (p->starts[t] + s->b) * p->tags;
    for (int64_t j = 0; j < p->tags; j++) s->emitted.m[j] = p->is_double ? ((const double *)p->x)[at + j] : (double)((const float *)p->x)[at + j];
    crf_numbers(s->emitted.m, p->tags);
}

/* The sum over i of from[i] times the number at (i, j) of `way`, for a vector of j. */
TL_INLINE ctc_number crf_join(ctc_array from, double *way, int64_t n, int64_t j, int64_t width)
{
    vd e = vd_splat(CTC_ZERO), m = vd_splat(0);
    for (int64_t i = 0; i < n; i++) e = vd_max(e, from.e[i] + vd_load(crf_row(way, i, width).e + j));
    for (int64_t i = 0; i < n; i++) {
        ctc_number x = ctc_load(crf_row(way, i, width), j);
        m += ctc_scaled(from.m[i] * x.m, from.e[i] + x.e - e);
    }
    return (ctc_number){m, e};
}

/* The logarithm of the sum, and the sum itself. */
static double crf_forward(const crf_sequence *s, bool keeps, double *m, double *e)
{
    const tl_crf_task *p = s->p;
    ctc_array now = crf_before(s, 0);
    for (int64_t t = 0; t < s->steps; t++) {
        ctc_array from = now;
        now = crf_before(s, keeps ? t : t & 1);
        crf_emit(s, t);
        for (int64_t j = 0; j < s->width; j += VD_LANES) {
            ctc_number came = t ? crf_join(from, p->ways, p->tags, j, s->width) : ctc_load(crf_row(p->ends, 0, s->width), j);
            ctc_store(now, j, ctc_product(came, ctc_load(s->emitted, j)));
        }
    }
    ctc_number sum = {vd_splat(0), vd_splat(CTC_ZERO)};
    for (int64_t j = 0; j < p->tags; j++) sum = ctc_sum(sum, ctc_product(ctc_all(now, j), ctc_all(crf_row(p->ends, 1, s->width), j)));
    *m = sum.m[0], *e = sum.e[0];
    double found = log(*m) + *e * 0.693147180559945309;
    return found < CTC_NEVER / 2 ? -(double)INFINITY : found;
}

/* g times the chance of each tag at step t: its slopes; also added to those of its start and of its end (NULL: it is neither). */
static void crf_tags(const crf_sequence *s, int64_t t, double g, double m, double e, double *start, double *end)
{
    const tl_crf_task *p = s->p;
    int64_t at = (p->starts[t] + s->b) * p->tags;
    double *chance = s->emitted.m; /* no longer needed */
    for (int64_t j = 0; j < s->width; j += VD_LANES)
        vd_store(chance + j, g * ctc_chance(ctc_load(crf_before(s, t), j), ctc_load(s->after, j), m, e));
    for (int64_t j = 0; j < p->tags; j++) {
        if (p->is_double) ((double *)p->slopes)[at + j] = chance[j];
        else ((float *)p->slopes)[at + j] = (float)chance[j];
        if (start) start[j] += chance[j];
        if (end) end[j] += chance[j];
    }
}

/* sums: those of the starts, of the ends, then of the ways. */
static void crf_backward(const crf_sequence *s, double g, double m, double e, double *sums)
{
    const tl_crf_task *p = s->p;
    int64_t width = s->width;
    for (int64_t j = 0; j < width; j += VD_LANES) ctc_store(s->after, j, ctc_load(crf_row(p->ends, 1, width), j));
    for (int64_t t = s->steps - 1; t >= 0; t--) {
        crf_tags(s, t, g, m, e, t ? NULL : sums, t < s->steps - 1 ? NULL : sums + width);
        if (!t) break;
        crf_emit(s, t);
        for (int64_t j = 0; j < width; j += VD_LANES) ctc_store(s->after, j, ctc_product(ctc_load(s->after, j), ctc_load(s->emitted, j)));
        ctc_array from = crf_before(s, t - 1);
        for (int64_t i = 0; i < p->tags; i++)
            for (int64_t j = 0; j < width; j += VD_LANES) {
                ctc_number way = ctc_load(crf_row(p->ways, i, width), j);
                vd chance = ctc_chance((ctc_number){from.m[i] * way.m, from.e[i] + way.e}, ctc_load(s->after, j), m, e);
                vd_store(sums + (2 + i) * width + j, vd_load(sums + (2 + i) * width + j) + g * chance);
            }
        for (int64_t j = 0; j < width; j += VD_LANES) ctc_store(s->emitted, j, crf_join(s->after, p->back, p->tags, j, width));
        memcpy(s->after.m, s->emitted.m, 2 * (size_t)width * sizeof(double));
    }
}

static void crf_run(const tl_crf_task *p, int64_t b, double *scratch, double *sums)
{
    crf_sequence s = {.p = p, .b = b, .width = tl_ctc_width(p->tags)};
    while (s.steps < p->steps && p->sizes[s.steps] > b) s.steps++;
    s.emitted = crf_row(scratch, 0, s.width), s.after = crf_row(scratch, 1, s.width), s.before = scratch + 4 * s.width;
    double m, e, found = s.steps ? crf_forward(&s, sums, &m, &e) : 0;
    if (!sums) p->totals[b] = found;
    else if (s.steps) crf_backward(&s, p->totals[b], found < CTC_NEVER / 2 ? (double)NAN : m, e, sums);
}

const tl_crf_kernels TL_NAME(crf_kernels) = {.numbers = crf_numbers, .sequence = crf_run};
