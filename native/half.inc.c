/* Products of half-precision operands: widened while they are packed, so that a product reads half the memory and passes over nothing twice.
 * Sums run in float, in matmul.inc.c's order and by its tiles. Each function is made for bfloat16 (`brain`) and for float16. */
TL_INLINE vf hp_load(const bool brain, const uint16_t *p, int64_t left)
{
    v_half h = {0};
    if (left >= VF_LANES) memcpy(&h, p, sizeof h);
    else if (left > 0) tl_copy_small(&h, p, (size_t)left * sizeof *p);
    return brain ? vf_from_bf16(h) : vf_from_f16(h);
}

/* n elements that lie side by side; whole vectors of dst are written. */
TL_INLINE void hp_run(const bool brain, float *dst, const uint16_t *src, int64_t n)
{
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(dst + i, hp_load(brain, src + i, VF_LANES));
    if (i < n) vf_store(dst + i, hp_load(brain, src + i, n - i));
}

/* As mm_pack_columns; ns or ks is 1. */
TL_INLINE void hp_pack_columns(const bool brain, float *dst, const uint16_t *src, int64_t n, int64_t kc, int64_t ns, int64_t ks)
{
    enum { NR = MM_PACKED_NV * VF_LANES };
    float rows[NR * MM_ROW] __attribute__((aligned(64)));
    for (; n > 0; n -= NR, dst += NR * kc, src += NR * ns) {
        int used = (int)least(n, NR);
        if (ns == 1) {
            for (int64_t k = 0; k < kc; k++)
                for (int j = 0; j < NR; j += VF_LANES) vf_store(dst + k * NR + j, hp_load(brain, src + k * ks + j, used - j));
        } else {
            for (int j = 0; j < used; j++) hp_run(brain, rows + j * MM_ROW, src + j * ns, kc);
            mm_pack_f32(dst, NR, used, kc, rows, MM_ROW, 1);
        }
    }
}

/* As mm_pack_strip; ams or aks is 1. */
TL_INLINE void hp_pack_strip(const bool brain, float *strip, bool keeps_rows, int rows, int64_t kc, const uint16_t *a, int64_t ams, int64_t aks)
{
    float kept[MM_PACKED_MR * MM_ROW] __attribute__((aligned(64))), *to = keeps_rows ? strip : kept;
    if (aks == 1) {
        for (int i = 0; i < rows; i++) hp_run(brain, to + i * MM_ROW, a + i * ams, kc);
        if (!keeps_rows) mm_pack_f32(strip, rows, rows, kc, kept, MM_ROW, 1);
        return;
    }
    for (int64_t k = 0; k < kc; k++) { /* what is read and written too much is the next k's */
        bool more = k + 1 < kc && aks >= VF_LANES;
        vf_store(strip + k * rows, hp_load(brain, a + k * aks, more ? VF_LANES : rows));
    }
}

TL_INLINE void hp_packed_of(const bool brain, const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work, uint16_t *out)
{
    float strip[MM_ROW * MM_PACKED_MR] __attribute__((aligned(64)));
    int64_t step = tl_mm_block(p->k), strips = ceil_div(m1 - m0, MM_PACKED_MR);
    for (int64_t k0 = 0, kc; k0 < p->k; k0 += kc) {
        kc = least(step, p->k - k0);
        const uint16_t *a = (const uint16_t *)p->a + k0 * p->aks, *b = (const uint16_t *)p->b + k0 * p->bks;
        const float *panels = work;
        if (p->packed) panels = (const float *)p->packed + k0 * p->packed_wide + n0 * kc;
        else hp_pack_columns(brain, work, b + n0 * p->bns, n1 - n0, kc, p->bns, p->bks);
        for (int64_t s = 0, m = m0, end; s < strips; s++, m = end) {
            end = m0 + (s + 1) * (m1 - m0) / strips;
            int rows = (int)(end - m);
            bool keeps_rows = p->aks == 1 && rows >= MM_PACKED_MR - 1;
            hp_pack_strip(brain, strip, keeps_rows, rows, kc, a + m * p->ams, p->ams, p->aks);
            mm_join_f32 join = {(float *)p->c + m * p->ldc + n0, p->ldc, 0, k0 > 0};
            int64_t run = p->aks == 1 ? kc : rows, lines = run * (int64_t)sizeof *a / MM_LINE + 1;
            mm_fetch fetch = {(const char *)((uintptr_t)a + (uintptr_t)(end * p->ams) * sizeof *a), lines, lines,
                              (p->aks == 1 ? p->ams : p->aks) * (int64_t)sizeof *a - lines * MM_LINE};
            mm_any_strip_f32(rows, keeps_rows, kc, strip, panels, &join, n1 - n0, &fetch);
            if (k0 + kc < p->k) continue;
            if (p->finishes) mm_finish_f32(p, m, end, n0, n1);
            for (int64_t i = m; i < end; i++)
                tl_copy_k->cast[TL_F32][brain ? TL_BF16 : TL_F16](out + i * p->ldc + n0, (const float *)p->c + i * p->ldc + n0, n1 - n0);
        }
    }
}

static void hp_packed_bf16(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work, void *out)
{
    hp_packed_of(true, p, m0, m1, n0, n1, work, out);
}
static void hp_packed_f16(const tl_mm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, void *work, void *out)
{
    hp_packed_of(false, p, m0, m1, n0, n1, work, out);
}
static void hp_columns_bf16(void *dst, const void *src, int64_t n, int64_t kc, int64_t ns, int64_t ks) { hp_pack_columns(true, dst, src, n, kc, ns, ks); }
static void hp_columns_f16(void *dst, const void *src, int64_t n, int64_t kc, int64_t ns, int64_t ks) { hp_pack_columns(false, dst, src, n, kc, ns, ks); }

const tl_half_kernels TL_NAME(half_kernels) = {.packed = {hp_packed_f16, hp_packed_bf16}, .pack_columns = {hp_columns_f16, hp_columns_bf16}};
