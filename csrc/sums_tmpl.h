/* sums_tmpl.h: the two sums per channel; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- the two channel sums about an anchor: sum += g, dot += g * d, with d = x - anchor. Forward g = d, backward
 * g = dy, or what of it passes the activation. With weights, forward g = w * d, and backward masked positions are left
 * out --- */

/* What the sums are taken of, at some value; `w` is NULL, or the weight of the first of CBN_LANES values. */
struct FN(terms) {
    const T *x, *dy, *activated;
    const double *w;
    struct cbn_bend bend;
};

/* `i` values and `position` positions on */
static CBN_INLINE struct FN(terms) FN(terms_at)(struct FN(terms) from, ptrdiff_t i, ptrdiff_t position, int kind)
{
    from.x += i;
    if (kind & CBN_BACKWARD)
        from.dy += i;
    if (kind & CBN_ACTIVATED && from.activated)
        from.activated += i;
    if (kind & CBN_WEIGHTED)
        from.w += position;
    return from;
}

/* One value: g and d. */
static CBN_INLINE void FN(term_of)(double *g, double *d, const struct FN(terms) *at, double anchor, double w, int kind)
{
    *g = *d = (double)GET(*at->x) - anchor;
    if (kind & CBN_BACKWARD)
        *g = (double)GET(*at->dy);
    if (kind & CBN_ACTIVATED && at->activated)
        *g = cbn_bent_one(*g, (double)GET(*at->activated), at->bend);
    if (!(kind & CBN_WEIGHTED))
        return;
    const int counts = kind & CBN_BACKWARD ? w >= 0 : w > 0;
    *d = counts ? *d : 0;
    *g = kind & CBN_BACKWARD ? (counts ? *g : 0) : w * *d;
}

/* The largest |x| and |g| of one value, in the type that is computed in. */
static CBN_INLINE void FN(raise_one)(float *most_dy, float *most_x, const struct FN(terms) *at, int kind)
{
    if (A_IS_DOUBLE)
        return;
    const A dy = GET(*at->dy), g = kind & CBN_ACTIVATED ? FN(bent_one)(dy, GET(*at->activated), at->bend) : dy;
    const float size_dy = fabsf((float)g), size_x = fabsf((float)GET(*at->x));
    *most_dy = size_dy > *most_dy ? size_dy : *most_dy;
    *most_x = size_x > *most_x ? size_x : *most_x;
}

/* AVEC values of CBN_LANES; `step` counts them. */
static CBN_INLINE void FN(raise)(struct cbn_most *most, int step, FN(avec) x, FN(avec) g)
{
    if (A_IS_DOUBLE)
        return;
    most->x[step] = cbn_most(most->x[step], (cbn_floats)x);
    most->dy[step] = cbn_most(most->dy[step], (cbn_floats)g);
}

/* AVEC values of dy in double, or what passes of them: of relu all or nothing, which float can tell; of leaky_relu the
 * product in double. */
static CBN_INLINE void FN(read_g)(cbn_vec *g, struct cbn_most *most, const struct FN(terms) *at, int i, int kind)
{
    const int step = i / (int)AVEC;
    const FN(avec) dy = OF(cbn_load)(at->dy + i);
    if (!(kind & CBN_ACTIVATED && at->activated)) {
        OF(cbn_read)(g, at->dy + i);
        if (CBN_RAISES(kind))
            FN(raise)(most, step, OF(cbn_load)(at->x + i), dy);
        return;
    }
    const FN(avec) y = OF(cbn_load)(at->activated + i), none = {0};
    const struct cbn_bend relu = {0};
    if (CBN_RAISES(kind))
        FN(raise)(most, step, OF(cbn_load)(at->x + i), FN(bent)(dy, y, kind & CBN_LEAKY ? at->bend : relu));
    FN(widened)(g, FN(bent)(dy, y, relu));
    if (kind & CBN_LEAKY) {
        const cbn_bits below = (cbn_bits)(y <= none) & (at->bend.keep - (cbn_bits){0});
        cbn_vec rest[DOUBLES];
        FN(widened)(rest, (FN(avec))((cbn_bits)dy & below));
        CBN_UNROLL for (unsigned u = 0; u < DOUBLES; u++)
            g[u] += rest[u] * at->bend.slope;
    }
}

/* One step of CBN_LANES values, or of those that the mask has ones for. No anchor means zero: the product of two floats
 * is exact in double, so that it does not matter whether the addition is fused with it. */
static CBN_INLINE void FN(add_lanes)(cbn_vec *s, cbn_vec *q, struct cbn_most *most, const struct FN(terms) *at,
                                     const cbn_vec *anchor, const double *mask, int kind)
{
    CBN_UNROLL for (int v = 0; v < CBN_VECS; v += (int)DOUBLES) {
        cbn_vec x[DOUBLES], g[DOUBLES];
        OF(cbn_read)(x, at->x + v * CBN_VEC);
        if (kind & CBN_BACKWARD)
            FN(read_g)(g, most, at, v * CBN_VEC, kind);
        CBN_UNROLL for (int u = 0; u < (int)DOUBLES; u++) {
            cbn_vec d = anchor ? x[u] - anchor[v + u] : x[u], term = kind & CBN_BACKWARD ? g[u] : d;
            if (kind & CBN_WEIGHTED) {
                const cbn_vec w = CBN_LOAD(at->w, v + u), counts = (cbn_vec)(kind & CBN_BACKWARD ? w >= 0 : w > 0);
                d = cbn_and(d, counts);
                term = kind & CBN_BACKWARD ? cbn_and(term, counts) : w * d;
            }
            if (mask) {
                d = cbn_and(d, CBN_LOAD(mask, v + u));
                term = cbn_and(term, CBN_LOAD(mask, v + u));
            }
            s[v + u] += term;
            q[v + u] = anchor ? q[v + u] + term * d : cbn_fmadd(term, d, q[v + u]);
        }
    }
}

static CBN_INLINE void FN(prefetch_terms)(const struct FN(terms) *at, ptrdiff_t ahead, int kind)
{
    cbn_prefetch(at->x + ahead);
    if (kind & CBN_BACKWARD)
        cbn_prefetch(at->dy + ahead);
    if (kind & CBN_ACTIVATED && at->activated)
        cbn_prefetch(at->activated + ahead);
}

/* Fewer than CBN_LANES values, each onto a lane of its own. */
static CBN_APART void FN(add_few)(double *sum, double *dot, struct cbn_most *most, struct FN(terms) from,
                                  double anchor, ptrdiff_t length, int kind)
{
    for (ptrdiff_t l = 0; l < length; l++) {
        const struct FN(terms) at = FN(terms_at)(from, l, l, kind);
        double g, d;
        FN(term_of)(&g, &d, &at, anchor, kind & CBN_WEIGHTED ? *at.w : 0, kind);
        sum[l] += g;
        dot[l] += g * d;
        if (CBN_RAISES(kind))
            FN(raise_one)((float *)most->dy + l, (float *)most->x + l, &at, kind);
    }
}

/* A part of a row of one channel, with `before` values of the row before it, onto lanes that go on from part to part.
 * Each part is summed from zero and then added: short chains of additions round less than a long one. */
static CBN_INLINE void FN(add_row)(double *sum, double *dot, struct cbn_most *most, struct FN(terms) from,
                                   double anchor, ptrdiff_t length, ptrdiff_t before, int centered, int kind,
                                   struct cbn_output *meanwhile)
{
    struct cbn_most m = {{{0}}, {{0}}};
    cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
    CBN_EACH_VEC {
        s[v] = q[v] = (cbn_vec){0};
        k[v] = cbn_splat(anchor);
    }
    const ptrdiff_t chunk = kind & CBN_BACKWARD ? CBN_CHUNK / 2 : CBN_CHUNK;
    ptrdiff_t i = 0;
    while (i + CBN_LANES <= length) {
        const ptrdiff_t start = i, end = length - i < chunk + chunk / 2 ? length : i + chunk;
        for (; i + CBN_LANES <= end; i += CBN_LANES) {
            const struct FN(terms) at = FN(terms_at)(from, i, i, kind);
            FN(prefetch_terms)(&at, CBN_PREFETCH, kind);
            FN(add_lanes)(s, q, &m, &at, centered ? k : NULL, NULL, kind);
        }
        cbn_advance(meanwhile, i - start);
    }
    if (i < length && i + before >= CBN_LANES) { /* the last lanes of the row, without those that were taken before */
        const struct FN(terms) at = FN(terms_at)(from, length - CBN_LANES, length - CBN_LANES, kind);
        FN(add_lanes)(s, q, &m, &at, k, cbn_mask.lanes + (length - i), kind);
    } else if (i < length)
        FN(add_few)(sum, dot, most, FN(terms_at)(from, i, i, kind), anchor, length - i, kind);
    CBN_EACH_VEC {
        CBN_LOAD(sum, v) += s[v];
        CBN_LOAD(dot, v) += q[v];
    }
    if (CBN_RAISES(kind) && !A_IS_DOUBLE)
        cbn_raise_most(most, &m);
}

static CBN_INLINE void FN(sums_rows_of)(const struct cbn_sums *to, const struct cbn_source *source,
                                        const double *anchor, const struct cbn_block *b, int kind,
                                        struct cbn_output *meanwhile)
{
    struct cbn_most most[CBN_MAX_LANED_CHANNELS];
    _Alignas(CBN_LINE_BYTES) double s[CBN_MAX_LANED_CHANNELS][CBN_LANES], q[CBN_MAX_LANED_CHANNELS][CBN_LANES];
    const struct FN(terms) from = {source->x, source->dy, source->activated, source->weights, source->bend};
    memset(s, 0, (size_t)b->channels * sizeof *s);
    memset(q, 0, (size_t)b->channels * sizeof *q);
    if (CBN_RAISES(kind) && !A_IS_DOUBLE)
        memset(most, 0, (size_t)b->channels * sizeof *most);
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            for (ptrdiff_t i = 0; i < b->length; i += CBN_PART) {
                const ptrdiff_t n = b->length - i < CBN_PART ? b->length - i : CBN_PART;
                const ptrdiff_t value = o * b->stride + c * b->inner + i;
                const struct FN(terms) at = FN(terms_at)(from, value, o * b->inner + i, kind);
                if (A_IS_DOUBLE || CBN_CENTERED(kind) || anchor[c] != 0)
                    FN(add_row)(s[c], q[c], most + c, at, anchor[c], n, i, 1, kind, meanwhile);
                else
                    FN(add_row)(s[c], q[c], most + c, at, 0, n, i, 0, kind, meanwhile);
            }
    for (ptrdiff_t c = 0; c < b->channels; c++) {
        to->sum[c] = cbn_fold_lanes(s[c]);
        to->dot[c] = cbn_fold_lanes(q[c]);
        if (CBN_RAISES(kind) && !A_IS_DOUBLE) {
            to->most_x[c] = cbn_most_of((const float *)most[c].x, CBN_LANES);
            to->most_dy[c] = cbn_most_of((const float *)most[c].dy, CBN_LANES);
        }
    }
}

/* <name>, which chooses among the ways that <name>_of is compiled for. */
#define CHOOSE_SUMS(name)                                                                                       \
    static void FN(name)(const struct cbn_sums *to, const struct cbn_source *from, const double *anchor,        \
                         const struct cbn_block *b, struct cbn_output *meanwhile)                               \
    {                                                                                                           \
        const int activated = CBN_BACKWARD | CBN_ACTIVATED, leaky = activated | CBN_LEAKY;                      \
        if (from->weights && from->dy)                                                                          \
            FN(name##_of)(to, from, anchor, b, leaky | CBN_WEIGHTED, meanwhile);                                \
        else if (from->weights)                                                                                 \
            FN(name##_of)(to, from, anchor, b, CBN_WEIGHTED, meanwhile);                                        \
        else if (from->activated && from->bend.keep)                                                            \
            FN(name##_of)(to, from, anchor, b, leaky, meanwhile);                                               \
        else if (from->activated)                                                                               \
            FN(name##_of)(to, from, anchor, b, activated, meanwhile);                                           \
        else if (from->dy)                                                                                      \
            FN(name##_of)(to, from, anchor, b, CBN_BACKWARD, meanwhile);                                        \
        else                                                                                                    \
            FN(name##_of)(to, from, anchor, b, 0, meanwhile);                                                   \
    }

CHOOSE_SUMS(sums_rows)
