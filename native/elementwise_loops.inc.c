/* The loops of elementwise.inc.c for one element type TY (u8 ... f64), which the including file defines. `f` is a constant at every call, so it is
 * inlined; so are n_in and the inputs it does not count. */
#define S TL_PASTE(s, TY)
#define V TL_PASTE(v, TY)
#define FN(name) TL_PASTE(ew_##name, TY)
enum { FN(LANES) = TL_VBYTES / sizeof(S) };
#define L FN(LANES)

typedef __typeof__((V){0} == (V){0}) FN(mask);
typedef int8_t FN(bytes) __attribute__((vector_size(FN(LANES))));

TL_INLINE V FN(load)(const S *p) { V v; memcpy(&v, p, sizeof v); return v; }
TL_INLINE V FN(splat)(const S *p) { return *p - (V){0}; }
/* mask <-> bool */
TL_INLINE FN(bytes) FN(pack)(FN(mask) m) { return __builtin_convertvector(m, FN(bytes)) & 1; }
TL_INLINE FN(mask) FN(unpack)(FN(bytes) b) { return __builtin_convertvector((FN(bytes))(b != 0), FN(mask)); }

/* An input: where it is read next, and by how many elements that moves per vector (0: it reads *splat, which is kept apart so that the
 * pointer stays in a register). */
typedef struct { const S *p; int64_t move; } FN(input);
TL_INLINE FN(input) FN(open)(const void *const *in, const uint8_t *step, int k, int n_in, V *splat)
{
    if (k >= n_in) return (FN(input)){0};
    if (step[k]) return (FN(input)){in[k], L};
    *splat = FN(splat)(in[k]);
    return (FN(input)){(const S *)splat, 0};
}

#define EACH_INPUT(DO) DO(0) DO(1) DO(2) DO(3) DO(4)
#define OPEN(k) FN(input) x##k = FN(open)(in, step, k, n_in, &splats[k]);
#define NEXT(k) if (k < n_in) x##k.p += x##k.move;
#define ARG(k) (k < n_in ? FN(load)(x##k.p) : (V){0})

TL_INLINE void FN(map)(void *out, const void *const *in, int64_t n, const uint8_t *step, int n_in, V (*f)(V, V, V, V, V))
{
    S *o = out;
    V splats[TL_EW_MAX_IN];
    EACH_INPUT(OPEN)
    for (; n > 0; n -= L, o += L) {
        V v = f(ARG(0), ARG(1), ARG(2), ARG(3), ARG(4));
        memcpy(o, &v, sizeof v);
        EACH_INPUT(NEXT)
    }
}

/* out is bool */
TL_INLINE void FN(test)(void *out, const void *const *in, int64_t n, const uint8_t *step, int n_in, FN(mask) (*f)(V, V, V, V, V))
{
    uint8_t *o = out;
    V splats[TL_EW_MAX_IN];
    EACH_INPUT(OPEN)
    for (; n > 0; n -= L, o += L) {
        FN(bytes) b = FN(pack)(f(ARG(0), ARG(1), ARG(2), ARG(3), ARG(4)));
        memcpy(o, &b, sizeof b);
        EACH_INPUT(NEXT)
    }
}

/* in[0] is bool */
TL_INLINE void FN(choose)(void *out, const void *const *in, int64_t n, const uint8_t *step, int n_in, V (*f)(FN(mask), V, V, V, V))
{
    S *o = out;
    const uint8_t *c = in[0];
    FN(bytes) b = (FN(bytes)){0} + (int8_t)*c;
    V splats[TL_EW_MAX_IN];
    OPEN(1) OPEN(2) OPEN(3) OPEN(4)
    for (; n > 0; n -= L, o += L) {
        if (step[0]) memcpy(&b, c, sizeof b), c += L;
        V v = f(FN(unpack)(b), ARG(1), ARG(2), ARG(3), ARG(4));
        memcpy(o, &v, sizeof v);
        NEXT(1) NEXT(2) NEXT(3) NEXT(4)
    }
}

#undef ARG
#undef NEXT
#undef OPEN
#undef EACH_INPUT
#undef L
#undef FN
#undef V
#undef S
#undef TY
