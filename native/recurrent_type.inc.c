/* The gates of recurrent layers in one type: T the type, VN(name) its vectors' functions, RT(name) a name of its own.
 *
 * Every unit of every row stands for itself, so each kind is written as what happens to one vector of units of one row; `walk_` leads it over
 * all of them, the last vector of a row as long as there are units left. */
typedef __typeof__(VN(splat)(0)) RT(vec);

/* One vector of units of one row: where it lies in each operand, and how many lanes of it exist. */
typedef struct { const tl_recurrent_step *s; int64_t row, unit; int lanes; } RT(place);

/* The first lanes from element `at` on, zeros where there is no array. */
TL_INLINE RT(vec) RT(get)(int lanes, const void *base, int64_t at)
{
    if (!base) return VN(splat)(0);
    const T *from = (const T *)base + at;
    return lanes == RT(LANES) ? VN(load)(from) : VN(load_part)(from, lanes, 0);
}
TL_INLINE void RT(put)(int lanes, void *base, int64_t at, RT(vec) v)
{
    T *to = (T *)base + at;
    if (lanes == RT(LANES)) VN(store)(to, v);
    else VN(store_part)(to, v, lanes);
}
TL_INLINE RT(vec) RT(rd)(const RT(place) *p, const void *base, int64_t at) { return RT(get)(p->lanes, base, at); }
TL_INLINE void RT(wr)(const RT(place) *p, void *base, int64_t at, RT(vec) v) { RT(put)(p->lanes, base, at, v); }

/* Offsets of this place: in a row of h values, of all gates (gate k), of the results, of what came before. */
TL_INLINE int64_t RT(state)(const RT(place) *p) { return p->row * p->s->h + p->unit; }
TL_INLINE int64_t RT(gate)(const RT(place) *p, int k) { return (p->row * p->s->gates + k) * p->s->h + p->unit; }
TL_INLINE int64_t RT(result)(const RT(place) *p) { return p->row * p->s->out_step + p->unit; }
TL_INLINE int64_t RT(before)(const RT(place) *p) { return p->row * p->s->before_step + p->unit; }

/* The part of gate k that comes from the state before: its product and the bias. */
TL_INLINE RT(vec) RT(from_state)(const RT(place) *p, int k) { return RT(rd)(p, p->s->product, RT(gate)(p, k)) + RT(rd)(p, p->s->bias, k * p->s->h + p->unit); }
TL_INLINE RT(vec) RT(sum)(const RT(place) *p, int k) { return RT(rd)(p, p->s->act, RT(gate)(p, k)) + RT(from_state)(p, k); }
TL_INLINE void RT(keep)(const RT(place) *p, int k, RT(vec) v) { RT(wr)(p, p->s->act, RT(gate)(p, k), v); }
TL_INLINE RT(vec) RT(kept)(const RT(place) *p, int k) { return RT(rd)(p, p->s->act, RT(gate)(p, k)); }
/* The gradient of the state: from what reads the result, and from the step after. */
TL_INLINE RT(vec) RT(incoming)(const RT(place) *p)
{
    return RT(rd)(p, p->s->g_out, RT(result)(p)) + RT(rd)(p, p->s->carry, RT(state)(p)) + RT(rd)(p, p->s->back, RT(state)(p));
}

/* ---- forward: act holds W x + b of each gate and takes what the gate makes of it ---- */
TL_INLINE void RT(tanh_unit)(const RT(place) *p) { RT(wr)(p, p->s->out, RT(result)(p), v_tanh(RT(sum)(p, 0))); }
TL_INLINE void RT(relu_unit)(const RT(place) *p) { RT(vec) s = RT(sum)(p, 0); RT(wr)(p, p->s->out, RT(result)(p), v_and(~(s < 0), s)); }

TL_INLINE void RT(lstm_unit)(const RT(place) *p)
{
    RT(vec) i = v_sigmoid(RT(sum)(p, 0)), f = v_sigmoid(RT(sum)(p, 1)), g = v_tanh(RT(sum)(p, 2)), o = v_sigmoid(RT(sum)(p, 3));
    RT(vec) c = v_fma(f, RT(rd)(p, p->s->c_before, RT(state)(p)), i * g);
    RT(keep)(p, 0, i), RT(keep)(p, 1, f), RT(keep)(p, 2, g), RT(keep)(p, 3, o);
    RT(wr)(p, p->s->extra, RT(state)(p), c);
    RT(wr)(p, p->s->out, RT(result)(p), o * v_tanh(c));
}

TL_INLINE void RT(gru_unit)(const RT(place) *p)
{
    RT(vec) r = v_sigmoid(RT(sum)(p, 0)), z = v_sigmoid(RT(sum)(p, 1)), hn = RT(from_state)(p, 2);
    RT(vec) n = v_tanh(v_fma(r, hn, RT(kept)(p, 2))), h = RT(rd)(p, p->s->before, RT(before)(p));
    RT(keep)(p, 0, r), RT(keep)(p, 1, z), RT(keep)(p, 2, n);
    RT(wr)(p, p->s->extra, RT(state)(p), hn);
    RT(wr)(p, p->s->out, RT(result)(p), v_fma(z, h - n, n));
}

/* ---- backward: the gradients of the gates' sums, and what flows on to the step before ---- */
TL_INLINE void RT(tanh_unit_back)(const RT(place) *p)
{
    RT(vec) y = RT(rd)(p, p->s->out, RT(result)(p));
    RT(wr)(p, p->s->g_act, RT(gate)(p, 0), RT(incoming)(p) * (1 - y * y));
    RT(wr)(p, p->s->carry, RT(state)(p), VN(splat)(0));
}

TL_INLINE void RT(relu_unit_back)(const RT(place) *p)
{
    RT(vec) y = RT(rd)(p, p->s->out, RT(result)(p)), g = RT(incoming)(p);
    RT(wr)(p, p->s->g_act, RT(gate)(p, 0), v_and(~(y <= 0), g));
    RT(wr)(p, p->s->carry, RT(state)(p), VN(splat)(0));
}

TL_INLINE void RT(lstm_unit_back)(const RT(place) *p)
{
    RT(vec) i = RT(kept)(p, 0), f = RT(kept)(p, 1), g = RT(kept)(p, 2), o = RT(kept)(p, 3), dh = RT(incoming)(p);
    RT(vec) tc = v_tanh(RT(rd)(p, p->s->extra, RT(state)(p))), before = RT(rd)(p, p->s->c_before, RT(state)(p));
    RT(vec) dc = v_fma(dh * o, 1 - tc * tc, RT(rd)(p, p->s->c_carry, RT(state)(p)));
    RT(wr)(p, p->s->g_act, RT(gate)(p, 0), dc * g * (i * (1 - i)));
    RT(wr)(p, p->s->g_act, RT(gate)(p, 1), dc * before * (f * (1 - f)));
    RT(wr)(p, p->s->g_act, RT(gate)(p, 2), dc * i * (1 - g * g));
    RT(wr)(p, p->s->g_act, RT(gate)(p, 3), dh * tc * (o * (1 - o)));
    RT(wr)(p, p->s->c_carry, RT(state)(p), dc * f);
    RT(wr)(p, p->s->carry, RT(state)(p), VN(splat)(0));
}

TL_INLINE void RT(gru_unit_back)(const RT(place) *p)
{
    RT(vec) r = RT(kept)(p, 0), z = RT(kept)(p, 1), n = RT(kept)(p, 2), dh = RT(incoming)(p);
    RT(vec) h = RT(rd)(p, p->s->before, RT(before)(p)), hn = RT(rd)(p, p->s->extra, RT(state)(p));
    RT(vec) dn = dh * (1 - z) * (1 - n * n), dr = dn * hn * (r * (1 - r)), dz = dh * (h - n) * (z * (1 - z));
    RT(wr)(p, p->s->g_act, RT(gate)(p, 0), dr);
    RT(wr)(p, p->s->g_act, RT(gate)(p, 1), dz);
    RT(wr)(p, p->s->g_act, RT(gate)(p, 2), dn);
    RT(wr)(p, p->s->g_product, RT(gate)(p, 0), dr);
    RT(wr)(p, p->s->g_product, RT(gate)(p, 1), dz);
    RT(wr)(p, p->s->g_product, RT(gate)(p, 2), dn * r);
    RT(wr)(p, p->s->carry, RT(state)(p), dh * z);
}

/* ---- over all units ---- */
TL_INLINE void RT(walk)(const tl_recurrent_step *s, void (*const unit)(const RT(place) *))
{
    for (int64_t row = 0; row < s->rows; row++) {
        RT(place) p = {s, row, s->first, RT(LANES)};
        for (; p.unit + RT(LANES) <= s->end; p.unit += RT(LANES)) unit(&p);
        p.lanes = (int)(s->end - p.unit);
        if (p.lanes) unit(&p);
    }
}
#define RT_KIND(name, unit) static void RT(name)(const tl_recurrent_step *s) { RT(walk)(s, RT(unit)); }
RT_KIND(tanh_forward, tanh_unit) RT_KIND(relu_forward, relu_unit) RT_KIND(lstm_forward, lstm_unit) RT_KIND(gru_forward, gru_unit)
RT_KIND(tanh_backward, tanh_unit_back) RT_KIND(relu_backward, relu_unit_back) RT_KIND(lstm_backward, lstm_unit_back) RT_KIND(gru_backward, gru_unit_back)
#undef RT_KIND
