/* grad_tmpl.h: dx, value by value; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- dx = scale * ((g - center) - slope * (x - mean)), where shift is the center, and g is what of dy has passed the
 * activation --- */

/* In double whatever T is, because g may be nearly a line in x (a loss of y^2, say), and what is left of it would be
 * noise; or, in channels where nothing can cancel (`near`), in float32 as g * of_dy + (x * of_x + constant). */
static CBN_INLINE T FN(dx)(double g, double x, double mean, double scale, double center, double slope)
{
    return FROM_DOUBLE(scale * ((g - center) - (slope != 0 ? slope * (x - mean) : 0)));
}

/* slope * distance; 0 where the slope is, even if the distance is infinite: fixed statistics have dy for x. */
static CBN_INLINE cbn_vec FN(line_of)(cbn_vec slope, cbn_vec distance)
{
    return cbn_and(slope * distance, (cbn_vec)(slope != 0));
}

/* g, in the type that is computed in, and in double. */
static CBN_INLINE A FN(passed_one)(const struct FN(span) *span, ptrdiff_t i, int how)
{
    const A dy = GET(span->dy[i]);
    return how & CBN_FUSED && span->activated ? FN(bent_one)(dy, GET(span->activated[i]), span->bend) : dy;
}

static CBN_INLINE double FN(passed_double)(const struct FN(span) *span, ptrdiff_t i, int how)
{
    const double dy = (double)GET(span->dy[i]);
    return how & CBN_FUSED && span->activated ? cbn_bent_one(dy, (double)GET(span->activated[i]), span->bend) : dy;
}

static CBN_INLINE FN(avec) FN(passed)(const struct FN(span) *span, ptrdiff_t i, int how)
{
    const FN(avec) dy = OF(cbn_load)(span->dy + i);
    return how & CBN_FUSED && span->activated ? FN(bent)(dy, OF(cbn_load)(span->activated + i), span->bend) : dy;
}

/* AVEC values. */
static CBN_INLINE void FN(passed_doubles)(cbn_vec *g, const struct FN(span) *span, ptrdiff_t i, int how)
{
    OF(cbn_read)(g, span->dy + i);
    if (!(how & CBN_FUSED && span->activated))
        return;
    cbn_vec y[DOUBLES];
    OF(cbn_read)(y, span->activated + i);
    CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++)
        g[v] = cbn_bent(g[v], y[v], span->bend);
}

/* What goes to dresidual: before dx, which may overwrite dy. */
static CBN_INLINE void FN(pass_one)(const struct FN(span) *span, ptrdiff_t i, int how)
{
    if (how & CBN_FUSED && span->dresidual)
        span->dresidual[i] = SET(FN(passed_one)(span, i, how));
}

static CBN_INLINE void FN(pass_line)(const struct FN(span) *span, ptrdiff_t at, int streaming, int how)
{
    if (how & CBN_FUSED && span->dresidual)
        for (ptrdiff_t i = at; i < at + LINE; i += AVEC)
            OF(cbn_put)(span->dresidual + i, FN(passed)(span, i, how), streaming && span->aligned);
}

static CBN_INLINE void FN(prefetch_inputs)(const struct FN(span) *span, ptrdiff_t i, int how)
{
    cbn_prefetch(span->dy + i + CBN_PREFETCH / 2);
    cbn_prefetch(span->x + i + CBN_PREFETCH / 2);
    if (how & CBN_FUSED && span->activated)
        cbn_prefetch(span->activated + i + CBN_PREFETCH / 2);
}

/* The numbers of a near channel; those of one that is not, or of double, are not used. */
struct FN(near) {
    A of_dy, of_x, constant;
};

static CBN_INLINE struct FN(near) FN(make_near)(const struct cbn_output *out, ptrdiff_t c)
{
    const double scale = out->scale[c], slope = out->slope[c];
    return (struct FN(near)){(A)scale, (A)-(scale * slope), (A)(scale * (slope * out->mean[c] - out->shift[c]))};
}

static CBN_INLINE void FN(set_near)(struct cbn_output *out, ptrdiff_t j, struct FN(near) near)
{
    out->near_column[0][j] = (float)near.of_dy;
    out->near_column[1][j] = (float)near.of_x;
    out->near_column[2][j] = (float)near.constant;
}

static CBN_INLINE struct FN(near) FN(get_near)(const struct cbn_output *out, ptrdiff_t j)
{
    return (struct FN(near)){(A)out->near_column[0][j], (A)out->near_column[1][j], (A)out->near_column[2][j]};
}

/* --- spans: column has mean, scale, center and slope by channel, near_column the near numbers --- */

static CBN_APART void FN(grad_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int how)
{
    const struct cbn_output *out = span->out;
    if (!A_IS_DOUBLE && out->near[c] != 0) {
        const struct FN(near) near = FN(get_near)(out, c);
        CBN_IVDEP
        for (ptrdiff_t i = at; i < end; i++) {
            const A g = FN(passed_one)(span, i, how);
            FN(pass_one)(span, i, how);
            span->y[i] = SET(g * near.of_dy + (GET(span->x[i]) * near.of_x + near.constant));
        }
        return;
    }
    const double mean = out->column[0][c], scale = out->column[1][c];
    const double center = out->column[2][c], slope = out->column[3][c];
    CBN_IVDEP
    for (ptrdiff_t i = at; i < end; i++) {
        const double g = FN(passed_double)(span, i, how);
        FN(pass_one)(span, i, how);
        span->y[i] = FN(dx)(g, (double)GET(span->x[i]), mean, scale, center, slope);
    }
}

static CBN_INLINE void FN(near_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                      int streaming, int how)
{
    const struct FN(near) near = FN(get_near)(span->out, c);
    for (; at < end; at += LINE) {
        FN(prefetch_inputs)(span, at, how);
        FN(pass_line)(span, at, streaming, how);
        for (ptrdiff_t i = at; i < at + LINE; i += AVEC) {
            const FN(avec) line = OF(cbn_load)(span->x + i) * near.of_x + near.constant;
            OF(cbn_put)(span->y + i, FN(passed)(span, i, how) * near.of_dy + line, streaming);
        }
    }
}

static CBN_INLINE void FN(wide_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                      int streaming, int how)
{
    const double mean = span->out->column[0][c], scale = span->out->column[1][c];
    const double center = span->out->column[2][c], slope = span->out->column[3][c];
    const cbn_vec used = CBN_LOAD(cbn_mask.lanes + (slope != 0 ? CBN_LANES : 0), 0);
    for (; at < end; at += LINE) {
        FN(prefetch_inputs)(span, at, how);
        FN(pass_line)(span, at, streaming, how);
        for (ptrdiff_t i = at; i < at + LINE; i += AVEC) {
            cbn_vec dx[DOUBLES], g[DOUBLES], x[DOUBLES];
            FN(passed_doubles)(g, span, i, how);
            OF(cbn_read)(x, span->x + i);
            CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++)
                dx[v] = scale * ((g[v] - center) - cbn_and(slope * (x[v] - mean), used));
            OF(cbn_put)(span->y + i, FN(rounded)(dx), streaming);
        }
    }
}

static CBN_INLINE void FN(grad_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                      int streaming, int how)
{
    if (!A_IS_DOUBLE && span->out->near[c] != 0)
        FN(near_lines)(span, c, at, end, streaming, how);
    else
        FN(wide_lines)(span, c, at, end, streaming, how);
}

static CBN_INLINE void FN(near_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                     int streaming, int how)
{
    const A *mask = (const A *)(cbn_mask.bits + CBN_LANES) - left, *of_dy = (const A *)span->out->near_column[0] + c;
    const A *of_x = (const A *)span->out->near_column[1] + c, *constant = (const A *)span->out->near_column[2] + c;
    for (ptrdiff_t i = 0; i < LINE; i += AVEC) {
        const A *m = mask + i;
        const FN(avec) line = OF(cbn_load)(span->x + at + i) * FN(blend)(of_x, m) + FN(blend)(constant, m);
        OF(cbn_put)(span->y + at + i, FN(passed)(span, at + i, how) * FN(blend)(of_dy, m) + line, streaming);
    }
}

static CBN_INLINE void FN(wide_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                     int streaming, int how)
{
    const struct cbn_output *out = span->out;
    const double *mask = cbn_mask.lanes + CBN_LANES - left;
    for (ptrdiff_t i = 0; i < LINE; i += AVEC) {
        cbn_vec dx[DOUBLES], g[DOUBLES], x[DOUBLES];
        FN(passed_doubles)(g, span, at + i, how);
        OF(cbn_read)(x, span->x + at + i);
        CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++) {
            const cbn_vec m = CBN_LOAD(mask + i, v), distance = x[v] - cbn_blend(&out->column[0][c], m);
            const cbn_vec line = FN(line_of)(cbn_blend(&out->column[3][c], m), distance);
            dx[v] = cbn_blend(&out->column[1][c], m) * ((g[v] - cbn_blend(&out->column[2][c], m)) - line);
        }
        OF(cbn_put)(span->y + at + i, FN(rounded)(dx), streaming);
    }
}

static CBN_INLINE void FN(grad_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                     int streaming, int how)
{
    const double *near = span->out->near + c;
    FN(prefetch_inputs)(span, at, how);
    if (!A_IS_DOUBLE && (near[0] != 0) != (near[1] != 0)) {
        FN(grad_ones)(span, c, at, at + left, how);
        FN(grad_ones)(span, c + 1, at + left, at + LINE, how);
        return;
    }
    FN(pass_line)(span, at, streaming, how);
    if (A_IS_DOUBLE || near[0] == 0)
        FN(wide_seam)(span, c, at, left, streaming, how);
    else
        FN(near_seam)(span, c, at, left, streaming, how);
}

ADVANCE_SPANS(grad, grad, CBN_PLAIN)
ADVANCE_SPANS(fused_grad, grad, CBN_FUSED)
