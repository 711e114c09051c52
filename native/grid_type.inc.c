/* The loops of grid.inc.c for one type: T, V its vector, I and VI the integers of its width, VN(name) a function of vec.h, GN(name) a name of
 * ours. Where a point's taps lie and what they weigh is found for a block of points at a time; then channels read them, a vector of
 * channels at once from a slice, or (..._few) one by one. */
#define LANES ((int64_t)(sizeof(V) / sizeof(T)))

typedef struct {
    I at[GRID_TAPS][GRID_BLOCK];       /* the tap's pixel; outside the image p->pixels, where a slice has zeros */
    T weight[GRID_TAPS][GRID_BLOCK];
    T slope[3][GRID_TAPS][GRID_BLOCK]; /* of the weight, by each coordinate of the grid (x, y, z) */
} GN(taps);

/* ---- along one dimension of n elements ---- */

/* x brought into the image as the padding asks; *turn, the slope of what came before, follows. */
TL_INLINE V GN(inside)(const tl_grid_task *p, int64_t n, V x, V *turn)
{
    V low = VN(splat)(p->align ? 0 : (T)-0.5), span = VN(splat)((T)(p->align ? n - 1 : n)), top = VN(splat)((T)(n - 1));
    if (p->padding == TL_GRID_ZEROS) return x;
    if (p->padding == TL_GRID_REFLECTION) {
        V off = VN(abs)(x - low), turns = VN(floor)(off / span), rest = off - turns * span, half = turns * (T)0.5;
        VI even = half == VN(floor)(half);
        *turn = v_select((x < low) ^ even, *turn, -*turn);
        x = v_select(even, rest + low, span - rest + low);
        if (p->align && n == 1) x = VN(splat)(0);
    }
    *turn = v_and((x > 0) & (x < top), *turn);
    return VN(min)(top, VN(max)(VN(splat)(0), x));
}

/* Keys' convolution with a = -0.75 at distances below 1, and from 1 to 2, and its slopes. */
TL_INLINE V GN(inner)(V d) { return ((T)1.25 * d - (T)2.25) * d * d + (T)1; }
TL_INLINE V GN(outer)(V d) { return (((T)-0.75 * d + (T)3.75) * d - (T)6) * d + (T)3; }
TL_INLINE V GN(inner_slope)(V d) { return ((T)3.75 * d - (T)4.5) * d; }
TL_INLINE V GN(outer_slope)(V d) { return ((T)-2.25 * d + (T)7.5) * d - (T)6; }

typedef struct {
    VI at[4], ok[4]; /* the index, 0 where not ok: outside */
    V weight[4], slope[4];
} GN(axis);

TL_INLINE void GN(set)(GN(axis) *a, int k, int64_t n, V place, V weight, V slope)
{
    a->ok[k] = (place >= 0) & (place <= (T)(n - 1));
    a->at[k] = __builtin_convertvector(v_and(a->ok[k], place), VI);
    a->weight[k] = weight, a->slope[k] = slope;
}
/* The taps of points at x in [-1, 1]. */
TL_INLINE void GN(find)(const tl_grid_task *p, int64_t n, V x, int mode, GN(axis) *a)
{
    T half = (T)(p->align ? n - 1 : n) / 2;
    V one = VN(splat)(1), turn = VN(splat)(half), none = turn, at = (x + one) * half;
    if (!p->align) at -= (T)0.5;
    if (mode == TL_GRID_BICUBIC) {
        V low = VN(floor)(at), t = at - low, u = one - t;
        GN(set)(a, 0, n, GN(inside)(p, n, low - one, &none), GN(outer)(t + one), GN(outer_slope)(t + one) * turn);
        GN(set)(a, 1, n, GN(inside)(p, n, low, &none), GN(inner)(t), GN(inner_slope)(t) * turn);
        GN(set)(a, 2, n, GN(inside)(p, n, low + one, &none), GN(inner)(u), -GN(inner_slope)(u) * turn);
        GN(set)(a, 3, n, GN(inside)(p, n, low + one + one, &none), GN(outer)(u + one), -GN(outer_slope)(u + one) * turn);
        return;
    }
    at = GN(inside)(p, n, at, &turn);
    if (mode == TL_GRID_NEAREST) {
        GN(set)(a, 0, n, VN(rint)(at), one, VN(splat)(0));
        return;
    }
    V low = VN(floor)(at);
    GN(set)(a, 0, n, low, low + one - at, -turn);
    GN(set)(a, 1, n, low + one, at - low, turn);
}

/* ---- of a block of points ---- */

/* One vector of points, from i on: the taps of the three dimensions together, the last one fastest. */
TL_INLINE void GN(combine)(const tl_grid_task *p, const GN(axis) axis[3], int64_t i, int dims, int64_t each, bool slopes, GN(taps) *out)
{
    VI outside = (I)p->pixels - (VI){0};
    int64_t t = 0;
    for (int64_t z = 0; z < (dims == 3 ? each : 1); z++)
        for (int64_t y = 0; y < each; y++) {
            VI row = axis[1].at[y] * (I)p->size[2], row_ok = axis[1].ok[y];
            V weight = axis[1].weight[y], slope = axis[1].slope[y];
            if (dims == 3) {
                row += axis[0].at[z] * (I)(p->size[1] * p->size[2]), row_ok &= axis[0].ok[z];
                weight *= axis[0].weight[z], slope *= axis[0].weight[z];
            }
            for (int64_t x = 0; x < each; x++, t++) {
                VI ok = row_ok & axis[2].ok[x], at = v_select(ok, row + axis[2].at[x], outside);
                memcpy(&out->at[t][i], &at, sizeof at);
                VN(store)(&out->weight[t][i], weight * axis[2].weight[x]);
                if (!slopes) continue;
                VN(store)(&out->slope[0][t][i], weight * axis[2].slope[x]);
                VN(store)(&out->slope[1][t][i], slope * axis[2].weight[x]);
                if (dims == 3) VN(store)(&out->slope[2][t][i], axis[0].slope[z] * axis[1].weight[y] * axis[2].weight[x]);
            }
        }
}
/* The coordinates of a vector of points, of which `left` count: given[2] the first ones, x. */
TL_INLINE void GN(coordinates)(const T *grid, int64_t left, int dims, V given[3])
{
    if (dims == 2 && left >= LANES) {
        V low = VN(load)(grid), high = VN(load)(grid + LANES);
        given[2] = VN(even)(low, high), given[1] = VN(odd)(low, high);
        return;
    }
    T each[3][sizeof(V) / sizeof(T)] = {{0}};
    for (int64_t q = 0; q < left && q < LANES; q++)
        for (int64_t d = 0; d < dims; d++) each[2 - d][q] = grid[q * dims + d];
    memcpy(given, each, sizeof each);
}
TL_INLINE void GN(locate_as)(const tl_grid_task *p, int64_t image, int64_t i, int64_t n, int dims, int mode, int64_t each, bool slopes, GN(taps) *out)
{
    const T *grid = (const T *)p->grid + (image * p->points + i) * dims;
    for (int64_t q = 0; q < n; q += LANES) {
        V given[3];
        GN(axis) axis[3];
        GN(coordinates)(grid + q * dims, n - q, dims, given);
        for (int64_t d = 3 - dims; d < 3; d++) GN(find)(p, p->size[d], given[d], mode, &axis[d]);
        GN(combine)(p, axis, q, dims, each, slopes, out);
    }
}
/* Points [i, i + n), n <= GRID_BLOCK, of an image; whole vectors are written. The common case is compiled for itself. */
static void GN(locate)(const tl_grid_task *p, int64_t image, int64_t i, int64_t n, bool slopes, GN(taps) *out)
{
    bool common = p->dims == 2 && p->mode == TL_GRID_BILINEAR;
    if (common && slopes) GN(locate_as)(p, image, i, n, 2, TL_GRID_BILINEAR, 2, true, out);
    else if (common) GN(locate_as)(p, image, i, n, 2, TL_GRID_BILINEAR, 2, false, out);
    else GN(locate_as)(p, image, i, n, p->dims, p->mode, p->each, slopes, out);
}

/* ---- squares of LANES vectors ---- */

TL_INLINE void GN(transpose)(V r[])
{
    for (int64_t stage = 1; stage < LANES; stage *= 2) {
        V t[sizeof(V) / sizeof(T)];
        for (int64_t i = 0; i < LANES / 2; i++) t[2 * i] = VN(zip_low)(r[i], r[i + LANES / 2]), t[2 * i + 1] = VN(zip_high)(r[i], r[i + LANES / 2]);
        memcpy(r, t, sizeof t);
    }
}
/* The sum over the lanes of each, as one vector. */
TL_INLINE V GN(totals)(V r[])
{
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) r[i] = VN(zip_low)(r[i], r[i + half]) + VN(zip_high)(r[i], r[i + half]);
    return r[0];
}
/* r[q]: `channels` rows of x, `step` apart, at place q; zero lanes beyond them. `left` places count. */
TL_INLINE void GN(take)(const T *x, int64_t step, int64_t channels, int64_t left, V r[])
{
    for (int64_t c = 0; c < LANES; c++)
        r[c] = c >= channels ? VN(splat)(0) : left >= LANES ? VN(load)(x + c * step) : VN(load_part)(x + c * step, left, 0);
    GN(transpose)(r);
}
/* The opposite. */
TL_INLINE void GN(give)(T *x, int64_t step, int64_t channels, int64_t left, V r[])
{
    GN(transpose)(r);
    for (int64_t c = 0; c < channels; c++) {
        if (left >= LANES) VN(store)(x + c * step, r[c]);
        else VN(store_part)(x + c * step, r[c], left);
    }
}

/* ---- slices ---- */

typedef struct { int64_t image, row, channels; } GN(where); /* the slice's image, its first channel among all images', how many it has */
TL_INLINE GN(where) GN(slice)(const tl_grid_task *p, int64_t slice)
{
    int64_t groups = (p->c + LANES - 1) / LANES, image = slice / groups, c = slice % groups * LANES;
    return (GN(where)){image, image * p->c + c, p->c - c < LANES ? p->c - c : LANES};
}
static void GN(open)(const tl_grid_task *p, int64_t slice, int64_t from, int64_t to, void *made)
{
    GN(where) s = GN(slice)(p, slice);
    const T *x = (const T *)p->x + s.row * p->pixels;
    T *out = made;
    for (int64_t i = from; i < to; i += LANES) {
        V r[sizeof(V) / sizeof(T)];
        GN(take)(x + i, p->pixels, s.channels, to - i, r);
        for (int64_t q = 0; q < LANES && q < to - i; q++) VN(store)(out + (i + q) * LANES, r[q]);
    }
    if (to == p->pixels) VN(store)(out + to * LANES, VN(splat)(0));
}
static void GN(close)(const tl_grid_task *p, int64_t slice, const void *made)
{
    GN(where) s = GN(slice)(p, slice);
    T *gx = (T *)p->gx + s.row * p->pixels;
    const T *in = made;
    for (int64_t i = 0; i < p->pixels; i += LANES) {
        V r[sizeof(V) / sizeof(T)];
        for (int64_t q = 0; q < LANES; q++) r[q] = VN(load)(in + (i + q < p->pixels ? i + q : i) * LANES);
        GN(give)(gx + i, p->pixels, s.channels, p->pixels - i, r);
    }
}

TL_INLINE V GN(sum)(const I *at, const T *weight, const T *x, int64_t taps)
{
    V sum = VN(splat)(0);
    for (int64_t t = 0; t < taps; t++) sum = v_fma(VN(splat)(weight[t * GRID_BLOCK]), VN(load)(x + at[t * GRID_BLOCK] * LANES), sum);
    return sum;
}
TL_INLINE void GN(read_block)(const tl_grid_task *p, const GN(taps) *a, int64_t n, const T *x, T *out, int64_t channels, int64_t taps)
{
    for (int64_t i = 0; i < n; i += LANES) {
        V r[sizeof(V) / sizeof(T)];
        for (int64_t q = 0; q < LANES; q++) r[q] = GN(sum)(&a->at[0][i + q], &a->weight[0][i + q], x, taps);
        GN(give)(out + i, p->points, channels, n - i, r);
    }
}
static void GN(read)(const tl_grid_task *p, int64_t slice, int64_t from, int64_t to, const void *x)
{
    GN(where) s = GN(slice)(p, slice);
    GN(taps) a;
    for (int64_t i = from; i < to; i += GRID_BLOCK) {
        int64_t n = to - i < GRID_BLOCK ? to - i : GRID_BLOCK;
        T *out = (T *)p->out + s.row * p->points + i;
        GN(locate)(p, s.image, i, n, false, &a);
        if (p->taps == 4) GN(read_block)(p, &a, n, x, out, s.channels, 4);
        else GN(read_block)(p, &a, n, x, out, s.channels, p->taps);
    }
}

TL_INLINE void GN(gradient_block)(const tl_grid_task *p, const GN(taps) *a, int64_t n, const T *g, int64_t channels, const T *x, T *gx, T *ggrid, int64_t taps)
{
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t left = n - i < LANES ? n - i : LANES;
        V r[sizeof(V) / sizeof(T)];
        GN(take)(g + i, p->points, channels, left, r);
        for (int64_t q = 0; gx && q < left; q++)
            for (int64_t t = 0; t < taps; t++) {
                T *to = gx + a->at[t][i + q] * LANES;
                VN(store)(to, v_fma(VN(splat)(a->weight[t][i + q]), r[q], VN(load)(to)));
            }
        for (int64_t d = 0; ggrid && d < p->dims; d++) {
            V s[sizeof(V) / sizeof(T)];
            T each[sizeof(V) / sizeof(T)];
            for (int64_t q = 0; q < LANES; q++) s[q] = r[q] * GN(sum)(&a->at[0][i + q], &a->slope[d][0][i + q], x, taps);
            VN(store)(each, GN(totals)(s));
            for (int64_t q = 0; q < left; q++) ggrid[(i + q) * p->dims + d] = each[q];
        }
    }
}
static void GN(gradient)(const tl_grid_task *p, int64_t slice, const void *x, void *gx, void *ggrid)
{
    GN(where) s = GN(slice)(p, slice);
    GN(taps) a;
    if (gx) memset(gx, 0, (size_t)((p->pixels + 1) * LANES) * sizeof(T));
    for (int64_t i = 0; i < p->points; i += GRID_BLOCK) {
        int64_t n = p->points - i < GRID_BLOCK ? p->points - i : GRID_BLOCK;
        const T *g = (const T *)p->g + s.row * p->points + i;
        T *slopes = ggrid ? (T *)ggrid + (s.image * p->points + i) * p->dims : NULL;
        GN(locate)(p, s.image, i, n, ggrid, &a);
        if (p->taps == 4) GN(gradient_block)(p, &a, n, g, s.channels, x, gx, slopes, 4);
        else GN(gradient_block)(p, &a, n, g, s.channels, x, gx, slopes, p->taps);
    }
}

/* ---- few channels, or few points: straight from the image ---- */

/* x at a vector of taps, 0 where they lie outside. */
TL_INLINE V GN(seen)(const tl_grid_task *p, const I *at, const T *x)
{
    VI i;
    memcpy(&i, at, sizeof i);
    VI ok = i < (I)p->pixels;
    return v_and(ok, VN(gather)(x, i & ok));
}
static void GN(read_few)(const tl_grid_task *p, int64_t image, int64_t from, int64_t to)
{
    GN(taps) a;
    for (int64_t i = from; i < to; i += GRID_BLOCK) {
        int64_t n = to - i < GRID_BLOCK ? to - i : GRID_BLOCK;
        GN(locate)(p, image, i, n, false, &a);
        for (int64_t c = image * p->c; c < (image + 1) * p->c; c++) {
            const T *x = (const T *)p->x + c * p->pixels;
            T *out = (T *)p->out + c * p->points + i;
            for (int64_t q = 0; q < n; q += LANES) {
                V sum = VN(splat)(0);
                for (int64_t t = 0; t < p->taps; t++) sum = v_fma(VN(load)(&a.weight[t][q]), GN(seen)(p, &a.at[t][q], x), sum);
                if (n - q >= LANES) VN(store)(out + q, sum);
                else VN(store_part)(out + q, sum, n - q);
            }
        }
    }
}
/* gx += weight * g at a vector of taps, of which n count; outside, 0 is added to some element. */
TL_INLINE void GN(spread)(const tl_grid_task *p, const I *at, const T *weight, V g, int64_t n, T *gx)
{
    I to[sizeof(V) / sizeof(T)];
    T add[sizeof(V) / sizeof(T)];
    VI i;
    memcpy(&i, at, sizeof i);
    VI ok = i < (I)p->pixels;
    i &= ok;
    memcpy(to, &i, sizeof i);
    VN(store)(add, v_and(ok, VN(load)(weight) * g));
    for (int64_t q = 0; q < n; q++) gx[to[q]] += add[q];
}
static void GN(spread_few)(const tl_grid_task *p, int64_t image, int64_t from, int64_t to)
{
    GN(taps) a;
    for (int64_t i = 0; i < p->points; i += GRID_BLOCK) {
        int64_t n = p->points - i < GRID_BLOCK ? p->points - i : GRID_BLOCK;
        GN(locate)(p, image, i, n, false, &a);
        for (int64_t c = image * p->c + from; c < image * p->c + to; c++) {
            const T *g = (const T *)p->g + c * p->points + i;
            T *gx = (T *)p->gx + c * p->pixels;
            for (int64_t q = 0; q < n; q += LANES) {
                int64_t left = n - q < LANES ? n - q : LANES;
                V given = left == LANES ? VN(load)(g + q) : VN(load_part)(g + q, left, 0);
                for (int64_t t = 0; t < p->taps; t++) GN(spread)(p, &a.at[t][q], &a.weight[t][q], given, left, gx);
            }
        }
    }
}
/* ggrid (left, dims) of a vector of points, of which `left` count, whose taps begin at place q. */
TL_INLINE void GN(slopes_of)(const tl_grid_task *p, const GN(taps) *a, int64_t q, int64_t left, const T *g, const T *x, int dims, T *out)
{
    V sum[3] = {{0}};
    for (int64_t c = 0; c < p->c; c++, g += p->points, x += p->pixels) {
        V given = left >= LANES ? VN(load)(g) : VN(load_part)(g, left, 0);
        for (int64_t t = 0; t < p->taps; t++) {
            V value = given * GN(seen)(p, &a->at[t][q], x);
            for (int64_t d = 0; d < dims; d++) sum[d] = v_fma(VN(load)(&a->slope[d][t][q]), value, sum[d]);
        }
    }
    if (dims == 2 && left >= LANES) {
        VN(store)(out, VN(zip_low)(sum[0], sum[1]));
        VN(store)(out + LANES, VN(zip_high)(sum[0], sum[1]));
        return;
    }
    T each[3][sizeof(V) / sizeof(T)];
    memcpy(each, sum, sizeof each);
    for (int64_t k = 0; k < left && k < LANES; k++)
        for (int64_t d = 0; d < dims; d++) out[k * dims + d] = each[d][k];
}
static void GN(slopes_few)(const tl_grid_task *p, int64_t image, int64_t from, int64_t to)
{
    GN(taps) a;
    for (int64_t i = from; i < to; i += GRID_BLOCK) {
        int64_t n = to - i < GRID_BLOCK ? to - i : GRID_BLOCK;
        const T *g = (const T *)p->g + image * p->c * p->points + i, *x = (const T *)p->x + image * p->c * p->pixels;
        T *out = (T *)p->ggrid + (image * p->points + i) * p->dims;
        GN(locate)(p, image, i, n, true, &a);
        for (int64_t q = 0; q < n; q += LANES) {
            if (p->dims == 2) GN(slopes_of)(p, &a, q, n - q, g + q, x, 2, out + q * 2);
            else GN(slopes_of)(p, &a, q, n - q, g + q, x, 3, out + q * 3);
        }
    }
}
#undef LANES
#undef T
#undef V
#undef I
#undef VI
#undef VN
#undef GN
