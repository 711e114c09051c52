/* The loops of resample.inc.c for one type: T, V its vector, VN(name) a function of vec.h, SN(name) a name of ours. */
#define LANES ((int64_t)(sizeof(V) / sizeof(T)))

/* Rows [begin, end), elements side by side. Two weights, the common number, have a path of their own. */
static void SN(resample_rows)(void *arg, int64_t begin, int64_t end)
{
    const tl_resample_task *p = arg;
    const int64_t *starts = p->starts, *index = p->index;
    const T *w = p->weight;
    for (int64_t r = begin; r < end; r++) {
        const T *x = (const T *)p->x + r * p->n;
        T *out = (T *)p->out + r * p->m;
        for (int64_t i = 0; i < p->m; i++) {
            int64_t t = starts[i], last = starts[i + 1];
            if (last - t == 2) {
                out[i] = w[t] * x[index[t]] + w[t + 1] * x[index[t + 1]];
                continue;
            }
            T sum = 0;
            for (; t < last; t++) sum += w[t] * x[index[t]];
            out[i] = sum;
        }
    }
}

/* One vector of results, of which `left` count: each tap adds as many elements from its own row. */
TL_INLINE void SN(resample_vector)(const tl_resample_task *p, T *out, const T *x, int64_t first, int64_t last, int64_t left)
{
    const T *w = p->weight;
    V sum = VN(splat)(0);
    for (int64_t t = first; t < last; t++) {
        const T *from = x + p->index[t] * p->inner;
        sum += VN(splat)(w[t]) * (left >= LANES ? VN(load)(from) : VN(load_part)(from, left, 0));
    }
    if (left >= LANES) VN(store)(out, sum);
    else VN(store_part)(out, sum, left);
}

/* Tasks are results (outer, m), each of `inner` elements side by side. */
static void SN(resample_across)(void *arg, int64_t begin, int64_t end)
{
    const tl_resample_task *p = arg;
    for (int64_t task = begin; task < end; task++) {
        int64_t i = task % p->m, first = p->starts[i], last = p->starts[i + 1];
        const T *x = (const T *)p->x + task / p->m * p->n * p->inner;
        T *out = (T *)p->out + task * p->inner;
        for (int64_t j = 0; j < p->inner; j += LANES) SN(resample_vector)(p, out + j, x + j, first, last, p->inner - j);
    }
}
#undef LANES
#undef T
#undef V
#undef VN
#undef SN
