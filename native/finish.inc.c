/* What becomes of finished sums (tl_mm_finish in kernels.h), while they lie in the nearest cache: included by matmul.inc.c, once per type. */

TL_TEMPLATE MM(v) MM(mm_activated)(const int act, MM(v) x)
{
    switch (act) { /* as in elementwise.def: the same bits */
    case TL_OP_gelu: return v_gelu(x);
    case TL_OP_gelu_tanh: return v_gelu_tanh(x);
    case TL_OP_relu: return v_and(~(x < 0), x);
    case TL_OP_sigmoid: return v_sigmoid(x);
    case TL_OP_silu: return v_silu(x);
    case TL_OP_tanh: return v_tanh(x);
    default: return x;
    }
}

/* Lane i of `left`: p[i * step]. */
TL_INLINE MM(v) MM(mm_load_apart)(const MM_REAL *p, int64_t step, int left)
{
    if (step == 1) return MM(mm_load_upto)(p, left);
    if (step == 0) return MM_V(splat)(*p);
    MM(v) v = MM_V(splat)(0);
    for (int i = 0; i < MM_LANES && i < left; i++) v[i] = p[i * step];
    return v;
}

/* A row of n sums; added may be NULL. Where results go elsewhere, the sums become what act is taken of. */
TL_TEMPLATE void MM(mm_finish_row)(const tl_mm_finish *f, const int act, int64_t n, MM_REAL *sums, const MM_REAL *added, MM_REAL *out)
{
    const MM(v) alpha = MM_V(splat)((MM_REAL)f->alpha), beta = MM_V(splat)((MM_REAL)f->beta);
    const int64_t step = f->added_ns;
    int64_t j = 0;
    for (; j + MM_LANES <= n; j += MM_LANES) {
        MM(v) v = MM_V(load)(sums + j) * alpha;
        if (added) v = MM(mm_load_apart)(added + j * step, step, MM_LANES) * beta + v;
        if (out != sums) MM_V(store)(sums + j, v);
        MM_V(store)(out + j, MM(mm_activated)(act, v));
    }
    if (j == n) return;
    int left = (int)(n - j);
    MM(v) v = MM(mm_load_upto)(sums + j, left) * alpha;
    if (added) v = MM(mm_load_apart)(added + j * step, step, left) * beta + v;
    if (out != sums) MM(mm_store_upto)(sums + j, v, left);
    MM(mm_store_upto)(out + j, MM(mm_activated)(act, v), left);
}

TL_TEMPLATE void MM(mm_finish_by)(const int act, const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1)
{
    const tl_mm_finish *f = &p->finish;
    for (int64_t m = m0; m < m1; m++) {
        int64_t at = m * p->ldc + n0;
        const MM_REAL *added = f->added ? (const MM_REAL *)f->added + m * f->added_ms + n0 * f->added_ns : NULL;
        MM(mm_finish_row)(f, act, n1 - n0, (MM_REAL *)p->c + at, added, (MM_REAL *)(f->out ? f->out : p->c) + at);
    }
}

static void MM(mm_finish)(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1)
{
    switch (p->finish.act) {
#define MM_ACT(act) case act: MM(mm_finish_by)(act, p, m0, m1, n0, n1); return;
    MM_ACT(TL_OP_gelu) MM_ACT(TL_OP_gelu_tanh) MM_ACT(TL_OP_relu) MM_ACT(TL_OP_sigmoid) MM_ACT(TL_OP_silu) MM_ACT(TL_OP_tanh)
#undef MM_ACT
    default: MM(mm_finish_by)(TL_MM_AS_IT_IS, p, m0, m1, n0, n1);
    }
}
