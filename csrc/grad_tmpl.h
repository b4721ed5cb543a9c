/* grad_tmpl.h: dx, value by value; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- dx = scale * ((dy - center) - slope * (x - mean)), where shift is the center --- */

/* In double whatever T is, because dy may be nearly a line in x (a loss of y^2, say), and what is left of it would be
 * noise; or, in channels where nothing can cancel (`near`), in float32 as dy * of_dy + (x * of_x + constant). */
static CBN_INLINE T FN(dx)(T dy, T x, double mean, double scale, double center, double slope)
{
    return (T)(scale * (((double)dy - center) - slope * ((double)x - mean)));
}

static CBN_INLINE void FN(prefetch_inputs)(const T *dy, const T *x)
{
    cbn_prefetch(dy + CBN_PREFETCH / 2);
    cbn_prefetch(x + CBN_PREFETCH / 2);
}

/* The numbers of a near channel; those of one that is not, or of double, are not used. */
struct FN(near) {
    T of_dy, of_x, constant;
};

static CBN_INLINE struct FN(near) FN(make_near)(const struct cbn_output *out, ptrdiff_t c)
{
    const double scale = out->scale[c], slope = out->slope[c];
    return (struct FN(near)){(T)scale, (T)-(scale * slope), (T)(scale * (slope * out->mean[c] - out->shift[c]))};
}

static CBN_INLINE void FN(set_near)(struct cbn_output *out, ptrdiff_t j, struct FN(near) near)
{
    out->near_column[0][j] = (float)near.of_dy;
    out->near_column[1][j] = (float)near.of_x;
    out->near_column[2][j] = (float)near.constant;
}

static CBN_INLINE struct FN(near) FN(get_near)(const struct cbn_output *out, ptrdiff_t j)
{
    return (struct FN(near)){(T)out->near_column[0][j], (T)out->near_column[1][j], (T)out->near_column[2][j]};
}

/* --- spans: column has mean, scale, center and slope by channel, near_column the near numbers --- */

static CBN_INLINE void FN(grad_ones)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    const struct cbn_output *out = span.out;
    if (!T_IS_WIDE && out->near[c] != 0) {
        const struct FN(near) near = FN(get_near)(out, c);
        CBN_IVDEP
        for (ptrdiff_t i = at; i < end; i++)
            span.y[i] = span.dy[i] * near.of_dy + (span.x[i] * near.of_x + near.constant);
        return;
    }
    CBN_IVDEP
    for (ptrdiff_t i = at; i < end; i++)
        span.y[i] = FN(dx)(span.dy[i], span.x[i], out->column[0][c], out->column[1][c], out->column[2][c],
                           out->column[3][c]);
}

static CBN_INLINE void FN(near_lines)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming)
{
    const struct FN(near) near = FN(get_near)(span.out, c);
    for (; at < end; at += LINE) {
        FN(prefetch_inputs)(span.dy + at, span.x + at);
        for (ptrdiff_t i = 0; i < LINE; i += TVEC) {
            const FN(tvec) line = FN(load)(span.x + at + i) * near.of_x + near.constant;
            FN(put)(span.y + at + i, FN(load)(span.dy + at + i) * near.of_dy + line, streaming);
        }
    }
}

static CBN_INLINE void FN(wide_lines)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming)
{
    const double mean = span.out->column[0][c], scale = span.out->column[1][c];
    const double center = span.out->column[2][c], slope = span.out->column[3][c];
    for (; at < end; at += LINE) {
        FN(prefetch_inputs)(span.dy + at, span.x + at);
        for (ptrdiff_t i = 0; i < LINE; i += CBN_VEC) {
            const cbn_vec rest = WIDEN(span.dy + at + i) - center, line = slope * (WIDEN(span.x + at + i) - mean);
            NARROW(span.y + at + i, scale * (rest - line), streaming);
        }
    }
}

static CBN_INLINE void FN(grad_lines)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming)
{
    if (!T_IS_WIDE && span.out->near[c] != 0)
        FN(near_lines)(span, c, at, end, streaming);
    else
        FN(wide_lines)(span, c, at, end, streaming);
}

static CBN_INLINE void FN(near_seam)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming)
{
    const T *mask = (const T *)(cbn_mask.bits + CBN_LANES) - left, *of_dy = (const T *)span.out->near_column[0] + c;
    const T *of_x = (const T *)span.out->near_column[1] + c, *constant = (const T *)span.out->near_column[2] + c;
    for (ptrdiff_t i = 0; i < LINE; i += TVEC) {
        const T *m = mask + i;
        const FN(tvec) line = FN(load)(span.x + at + i) * FN(blend)(of_x, m) + FN(blend)(constant, m);
        FN(put)(span.y + at + i, FN(load)(span.dy + at + i) * FN(blend)(of_dy, m) + line, streaming);
    }
}

static CBN_INLINE void FN(wide_seam)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming)
{
    const struct cbn_output *out = span.out;
    const double *mask = cbn_mask.lanes + CBN_LANES - left;
    for (ptrdiff_t i = 0; i < LINE; i += CBN_VEC) {
        const cbn_vec m = CBN_LOAD(mask + i, 0);
        const cbn_vec rest = WIDEN(span.dy + at + i) - cbn_blend(&out->column[2][c], m);
        const cbn_vec distance = WIDEN(span.x + at + i) - cbn_blend(&out->column[0][c], m);
        const cbn_vec line = cbn_blend(&out->column[3][c], m) * distance;
        NARROW(span.y + at + i, cbn_blend(&out->column[1][c], m) * (rest - line), streaming);
    }
}

static CBN_INLINE void FN(grad_seam)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming)
{
    const double *near = span.out->near + c;
    FN(prefetch_inputs)(span.dy + at, span.x + at);
    if (T_IS_WIDE || (near[0] == 0 && near[1] == 0))
        FN(wide_seam)(span, c, at, left, streaming);
    else if (near[0] != 0 && near[1] != 0)
        FN(near_seam)(span, c, at, left, streaming);
    else {
        FN(grad_ones)(span, c, at, at + left);
        FN(grad_ones)(span, c + 1, at + left, at + LINE);
    }
}

static void FN(advance_grad_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(grad_ones), FN(grad_lines), FN(grad_seam));
}

static void FN(open_grad_spans)(struct cbn_output *out)
{
    for (ptrdiff_t c = 0; c < out->block.channels; c++) {
        out->column[0][c] = out->mean[c];
        out->column[1][c] = out->scale[c];
        out->column[2][c] = out->shift[c];
        out->column[3][c] = out->slope[c];
        if (!T_IS_WIDE)
            FN(set_near)(out, c, FN(make_near)(out, c));
    }
    cbn_open(out, FN(advance_grad_spans));
}
