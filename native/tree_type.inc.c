/* The gates of tree cells in one type, included after recurrent_type.inc.c: one vector of units of one row stands for itself. */
typedef struct { const tl_tree_gates *p; int64_t row, unit; int lanes; } RT(tree_place);

/* Where gate k of these many lies, in an array whose rows hold nothing else. */
TL_INLINE int64_t RT(tree_gate)(const RT(tree_place) *t, int k, int gates) { return (t->row * gates + k) * t->p->h + t->unit; }
TL_INLINE int64_t RT(tree_state)(const RT(tree_place) *t) { return t->row * t->p->h + t->unit; }
TL_INLINE int RT(tree_part_gates)(const tl_tree_gates *p) { return p->shared ? 4 : 3 + p->places; }

TL_INLINE RT(vec) RT(tree_own)(const RT(tree_place) *t, int k) { return RT(get)(t->lanes, t->p->own, t->row * t->p->own_step + k * t->p->h + t->unit); }
TL_INLINE RT(vec) RT(tree_part)(const RT(tree_place) *t, int part, int k)
{
    return RT(get)(t->lanes, t->p->part[part], RT(tree_gate)(t, k, RT(tree_part_gates)(t->p)));
}
/* The sum of i (0), g (2) or o (3): of the input's part and all others. */
TL_INLINE RT(vec) RT(tree_sum)(const RT(tree_place) *t, int k)
{
    RT(vec) sum = RT(tree_own)(t, k);
    for (int part = 0; part < t->p->parts; part++) sum += RT(tree_part)(t, part, k ? RT(tree_part_gates)(t->p) - 4 + k : 0);
    return sum;
}
TL_INLINE RT(vec) RT(tree_act)(const RT(tree_place) *t, int k) { return RT(get)(t->lanes, t->p->act, RT(tree_gate)(t, k, 3 + t->p->places)); }
TL_INLINE void RT(tree_keep)(const RT(tree_place) *t, int k, RT(vec) v) { RT(put)(t->lanes, t->p->act, RT(tree_gate)(t, k, 3 + t->p->places), v); }

TL_INLINE void RT(tree_unit)(const RT(tree_place) *t)
{
    const tl_tree_gates *p = t->p;
    RT(vec) i = v_sigmoid(RT(tree_sum)(t, 0)), g = v_tanh(RT(tree_sum)(t, 2)), o = v_sigmoid(RT(tree_sum)(t, 3)), c = i * g;
    for (int k = 0; k < p->places; k++) {
        if (!p->cell[k]) continue;
        RT(vec) f = v_sigmoid(RT(tree_own)(t, 1) + (p->shared ? RT(tree_part)(t, k, 1) : RT(tree_part)(t, 0, 1 + k)));
        c = v_fma(f, RT(get)(t->lanes, p->cell[k], RT(tree_state)(t)), c);
        RT(tree_keep)(t, 1 + k, f);
    }
    RT(tree_keep)(t, 0, i), RT(tree_keep)(t, 1 + p->places, g), RT(tree_keep)(t, 2 + p->places, o);
    RT(put)(t->lanes, p->c, RT(tree_state)(t), c);
    RT(put)(t->lanes, p->out, RT(tree_state)(t), o * v_tanh(c));
}

/* i, f (of what the array has one for), g and o of one gradient. */
TL_INLINE void RT(tree_give)(const RT(tree_place) *t, void *to, int gates, RT(vec) i, RT(vec) g, RT(vec) o)
{
    RT(put)(t->lanes, to, RT(tree_gate)(t, 0, gates), i);
    RT(put)(t->lanes, to, RT(tree_gate)(t, gates - 2, gates), g);
    RT(put)(t->lanes, to, RT(tree_gate)(t, gates - 1, gates), o);
}

TL_INLINE void RT(tree_unit_back)(const RT(tree_place) *t)
{
    const tl_tree_gates *p = t->p;
    int gates = RT(tree_part_gates)(p);
    int64_t at = RT(tree_state)(t);
    RT(vec) i = RT(tree_act)(t, 0), g = RT(tree_act)(t, 1 + p->places), o = RT(tree_act)(t, 2 + p->places);
    RT(vec) tc = v_tanh(RT(get)(t->lanes, p->c, at)), dh = RT(get)(t->lanes, p->g_out, at);
    RT(vec) dc = v_fma(dh * o, 1 - tc * tc, RT(get)(t->lanes, p->g_c, at)), f_sum = VN(splat)(0);
    RT(vec) di = dc * g * (i * (1 - i)), dg = dc * i * (1 - g * g), d_o = dh * tc * (o * (1 - o));
    for (int k = 0; k < p->places; k++) {
        RT(vec) df = VN(splat)(0);
        if (p->cell[k]) {
            RT(vec) f = RT(tree_act)(t, 1 + k);
            df = dc * RT(get)(t->lanes, p->cell[k], at) * (f * (1 - f));
            if (p->g_cell[k]) RT(put)(t->lanes, p->g_cell[k], at, dc * f);
        }
        void *part = p->g_part[p->shared ? k : 0];
        if (part) RT(put)(t->lanes, part, RT(tree_gate)(t, p->shared ? 1 : 1 + k, gates), df);
        f_sum += df;
    }
    for (int part = 0; part < p->parts; part++)
        if (p->g_part[part]) RT(tree_give)(t, p->g_part[part], gates, di, dg, d_o);
    if (!p->g_own) return;
    RT(put)(t->lanes, p->g_own, RT(tree_gate)(t, 1, 4), f_sum);
    RT(tree_give)(t, p->g_own, 4, di, dg, d_o);
}

TL_INLINE void RT(tree_walk)(const tl_tree_gates *p, int64_t begin, int64_t end, void (*const unit)(const RT(tree_place) *))
{
    for (int64_t row = begin; row < end; row++) {
        RT(tree_place) t = {p, row, 0, RT(LANES)};
        for (; t.unit + RT(LANES) <= p->h; t.unit += RT(LANES)) unit(&t);
        t.lanes = (int)(p->h - t.unit);
        if (t.lanes) unit(&t);
    }
}
static void RT(tree_forward)(void *arg, int64_t begin, int64_t end) { RT(tree_walk)(arg, begin, end, RT(tree_unit)); }
static void RT(tree_backward)(void *arg, int64_t begin, int64_t end) { RT(tree_walk)(arg, begin, end, RT(tree_unit_back)); }
