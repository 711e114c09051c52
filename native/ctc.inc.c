/* The loss of labels without places, and its slopes, for one instruction set. Contract in kernels.h, the driver in ctc.c; what the states are
 * stands at the head of tensorlib/ops/ctc.py, the definition.
 *
 * The chance of a path of many steps lies far below the smallest double, so a chance is held as m 2^e: no step takes a logarithm, and an
 * exponential is taken once a label. Vectors go over the states of one step, labels and the blanks before them (the last one behind the last
 * label) side by side:
 *
 *     blank[j] at t   (blank[j] + label[j-1]) at t - 1, times the blank's probability
 *     label[j] at t   (label[j] + blank[j] + label[j-1], unless that is the same label) at t - 1, times its probability
 *
 * Paths begin in label[-1], before step 0. Behind the last label lanes are as good as 0, and so is all that reads them. */

#define CTC_NEVER (-1e30) /* as good as the logarithm of 0 */
#define CTC_ZERO (-1e300) /* the exponent of what is 0 */

typedef struct { vd m, e; } ctc_number;      /* m 2^e: m in [1, 2), or 0 */
typedef struct { double *m, *e; } ctc_array;
typedef struct { ctc_array label, blank; } ctc_states;

TL_INLINE ctc_number ctc_load(ctc_array a, int64_t i) { return (ctc_number){vd_load(a.m + i), vd_load(a.e + i)}; }
TL_INLINE ctc_number ctc_all(ctc_array a, int64_t i) { return (ctc_number){vd_splat(a.m[i]), vd_splat(a.e[i])}; }
TL_INLINE void ctc_store(ctc_array a, int64_t i, ctc_number x) { vd_store(a.m + i, x.m), vd_store(a.e + i, x.e); }
TL_INLINE void ctc_put(ctc_array a, int64_t i, double m, double e) { a.m[i] = m, a.e[i] = e; }

/* m 2^d, 0 where that is no normal number; d integers below 1024 */
TL_INLINE vd ctc_scaled(vd m, vd d)
{
#if TL_VBYTES == 64
    return vd_scale(m, d);
#else
    return m * (vd)((vd_bits(vd_max(vd_splat(-1023), d)) + 1023) << 52);
#endif
}
TL_INLINE ctc_number ctc_sum(ctc_number a, ctc_number b)
{
    vd e = vd_max(a.e, b.e);
    return (ctc_number){ctc_scaled(a.m, a.e - e) + ctc_scaled(b.m, b.e - e), e};
}
TL_INLINE ctc_number ctc_sum3(ctc_number a, ctc_number b, ctc_number c)
{
    vd e = vd_max(vd_max(a.e, b.e), c.e);
    return (ctc_number){ctc_scaled(a.m, a.e - e) + ctc_scaled(b.m, b.e - e) + ctc_scaled(c.m, c.e - e), e};
}
TL_INLINE ctc_number ctc_product(ctc_number a, ctc_number b)
{
    vd m = a.m * b.m;
    v_u64 k = (v_u64)m >> 52;                 /* m >= 0; 0 and NaN stay what they are */
    vd n = (vd)(k + 0x4330000000000000u) - (0x1p52 + 1023);
    return (ctc_number){m * (vd)((2046 - k) << 52), a.e + b.e + n};
}
/* Of any size, to the accuracy that x has. */
TL_INLINE ctc_number ctc_exp(vd x)
{
    x = vd_max(vd_splat(CTC_NEVER), x);
    vd n = vd_exp_n(x), r = vd_max(vd_splat(-0.35), vd_min(vd_splat(0.35), vd_exp_r(x, n)));
    return (ctc_number){1 + vd_exp_p(r), n};
}

/* ---- one sequence ---- */
typedef struct {
    const tl_ctc_task *p;
    int64_t b, steps, labels, width, each;     /* width: of the vectors; each: the same with room for one more before, or behind */
    const int64_t *target;
    int64_t *first;                            /* of each label, the first place where it stands */
    double *skip;                              /* of each label, the exponent of the way past the blank before it: 0 or CTC_ZERO */
    double *logs, *chance, *rows;
    ctc_array emitted;                         /* in a step: each label's probability; the blank's, at `width` */
    ctc_states after;
} ctc_sequence;

static ctc_states ctc_states_at(double *at, int64_t each) { return (ctc_states){{at, at + each}, {at + 2 * each, at + 3 * each}}; }
/* Before step t, and at `steps` behind the last one; without slopes only the latest two are there. */
TL_INLINE ctc_states ctc_before(const ctc_sequence *s, int64_t t) { return ctc_states_at(s->rows + (s->p->slopes ? t : t & 1) * 4 * s->each + 8, s->each); }
static void ctc_clear(ctc_states to, int64_t from, int64_t n)
{
    for (int64_t i = from; i < n; i++) ctc_put(to.label, i, 0, CTC_ZERO), ctc_put(to.blank, i, 0, CTC_ZERO);
}

static ctc_sequence ctc_open(const tl_ctc_task *p, int64_t b, double *room)
{
    ctc_sequence s = {.p = p, .b = b, .steps = p->inputs[b], .labels = p->counts[b], .target = p->targets + b * p->longest};
    s.width = tl_ctc_width(s.labels);
    s.each = s.width + 8;
    s.first = (int64_t *)room;
    s.skip = room + s.each, s.logs = room + 2 * s.each, s.chance = room + 3 * s.each;
    s.emitted = (ctc_array){room + 4 * s.each, room + 5 * s.each};
    s.after = ctc_states_at(room + 6 * s.each, s.each);
    s.rows = room + TL_CTC_OWN * s.each;
    for (int64_t j = 0; j < s.each; j++) {
        bool again = j && j < s.labels && s.target[j] == s.target[j - 1];
        s.skip[j] = again ? CTC_ZERO : 0, s.logs[j] = CTC_NEVER;
    }
    return s;
}
static void ctc_find_first(const ctc_sequence *s)
{
    for (int64_t j = 0; j < s->labels; j++) {
        s->first[j] = 0;
        while (s->target[s->first[j]] != s->target[j]) s->first[j]++;
    }
}

/* The logarithms of step t, as numbers. */
static void ctc_emit(const ctc_sequence *s, int64_t t)
{
    const tl_ctc_task *p = s->p;
    int64_t at = t * p->strides[0] + s->b * p->strides[1], each = p->strides[2];
    if (p->is_double) {
        const double *x = (const double *)p->x + at;
        for (int64_t j = 0; j < s->labels; j++) s->logs[j] = x[s->target[j] * each];
        s->logs[s->width] = x[p->blank * each];
    } else {
        const float *x = (const float *)p->x + at;
        for (int64_t j = 0; j < s->labels; j++) s->logs[j] = (double)x[s->target[j] * each];
        s->logs[s->width] = (double)x[p->blank * each];
    }
    for (int64_t j = 0; j <= s->width; j += VD_LANES) ctc_store(s->emitted, j, ctc_exp(vd_load(s->logs + j)));
}

/* All steps; the logarithm of the sum over all whole paths, and that sum itself. */
static double ctc_forward(const ctc_sequence *s, double *m, double *e)
{
    ctc_states from = ctc_before(s, 0), to = from;
    ctc_clear(from, -1, s->width);
    ctc_put(from.label, -1, 1, 0);
    for (int64_t t = 0; t < s->steps; t++, from = to) {
        to = ctc_before(s, t + 1);
        ctc_emit(s, t);
        ctc_number out = ctc_all(s->emitted, s->width);
        ctc_put(to.label, -1, 0, CTC_ZERO);
        for (int64_t j = 0; j < s->width; j += VD_LANES) {
            ctc_number label = ctc_load(from.label, j), blank = ctc_load(from.blank, j), last = ctc_load(from.label, j - 1);
            ctc_store(to.blank, j, ctc_product(ctc_sum(blank, last), out));
            last.e += vd_load(s->skip + j);
            ctc_store(to.label, j, ctc_product(ctc_sum3(label, blank, last), ctc_load(s->emitted, j)));
        }
    }
    ctc_number sum = ctc_sum(ctc_all(from.label, s->labels - 1), ctc_all(from.blank, s->labels));
    *m = sum.m[0], *e = sum.e[0];
    return log(*m) + *e * 0.693147180559945309;
}

/* ---- slopes ---- */

/* Writes a step: minus the chance of each class, times scale. The chances of one label's places join, in order, at the first of them. */
static void ctc_write(const ctc_sequence *s, int64_t t, double blank, double scale)
{
    const tl_ctc_task *p = s->p;
    int64_t at = (t * p->batch + s->b) * p->classes;
    double *chance = s->chance;
    for (int64_t j = 0; j < s->labels; j++)
        if (s->first[j] < j) chance[s->first[j]] += chance[j];
    if (p->is_double) {
        double *to = (double *)p->slopes + at;
        memset(to, 0, (size_t)p->classes * sizeof *to);
        for (int64_t j = s->labels - 1; j >= 0; j--) to[s->target[j]] = -scale * chance[j];
        to[p->blank] = -scale * blank;
    } else {
        float *to = (float *)p->slopes + at;
        memset(to, 0, (size_t)p->classes * sizeof *to);
        for (int64_t j = s->labels - 1; j >= 0; j--) to[s->target[j]] = (float)(-scale * chance[j]);
        to[p->blank] = (float)(-scale * blank);
    }
}

/* The chance that a whole path (their sum: m 2^e) is in this state at step t. */
TL_INLINE vd ctc_chance(ctc_number before, ctc_number after, double m, double e)
{
    return ctc_scaled(before.m * after.m * (1 / m), vd_min(vd_splat(1023), before.e + after.e - e));
}

/* From the end: `after` holds the paths from each state to the end, without its own step and then with it. */
static void ctc_backward(const ctc_sequence *s, double m, double e, double scale)
{
    ctc_states after = s->after;
    ctc_clear(after, 0, s->each);
    ctc_put(after.blank, s->labels, 1, 0);
    if (s->labels) ctc_put(after.label, s->labels - 1, 1, 0);
    for (int64_t t = s->steps - 1; t >= 0; t--) {
        ctc_states before = ctc_before(s, t + 1);
        ctc_emit(s, t);
        ctc_number out = ctc_all(s->emitted, s->width);
        vd blanks = vd_splat(0);
        for (int64_t j = 0; j < s->width; j += VD_LANES) {
            ctc_number label = ctc_load(after.label, j), blank = ctc_load(after.blank, j);
            vd_store(s->chance + j, ctc_chance(ctc_load(before.label, j), label, m, e));
            blanks += ctc_chance(ctc_load(before.blank, j), blank, m, e);
            ctc_store(after.label, j, ctc_product(label, ctc_load(s->emitted, j)));
            ctc_store(after.blank, j, ctc_product(blank, out));
        }
        for (int64_t j = 0; j < s->width; j += VD_LANES) {
            ctc_number label = ctc_load(after.label, j), blank = ctc_load(after.blank, j);
            ctc_number next = ctc_load(after.label, j + 1), next_blank = ctc_load(after.blank, j + 1);
            next.e += vd_load(s->skip + j + 1);
            ctc_store(after.label, j, ctc_sum3(label, next_blank, next));
            ctc_store(after.blank, j, ctc_sum(blank, label));
        }
        double sum = 0;
        for (int i = 0; i < VD_LANES; i++) sum += blanks[i];
        ctc_write(s, t, sum, scale);
    }
}

static void ctc_clear_steps(const ctc_sequence *s, int64_t from)
{
    const tl_ctc_task *p = s->p;
    size_t bytes = (size_t)p->classes * (p->is_double ? sizeof(double) : sizeof(float));
    for (int64_t t = from; t < p->steps; t++) memset((char *)p->slopes + (size_t)(t * p->batch + s->b) * bytes, 0, bytes);
}

static void ctc_run(const tl_ctc_task *p, int64_t b, double *scratch)
{
    ctc_sequence s = ctc_open(p, b, scratch);
    double m, e, log_sum = ctc_forward(&s, &m, &e);
    bool never = log_sum < CTC_NEVER / 2, zero = never && p->zero_infinity;
    p->losses[b] = zero ? 0 : never ? (double)INFINITY : -log_sum;
    if (!p->slopes) return;
    ctc_find_first(&s);
    if (!zero) ctc_backward(&s, never ? (double)NAN : m, e, p->scale[b]);
    ctc_clear_steps(&s, zero ? 0 : s.steps);
}

const tl_ctc_kernels TL_NAME(ctc_kernels) = {.sequence = ctc_run};
