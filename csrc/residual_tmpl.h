/* residual_tmpl.h: y in double, with a residual, and of lines that are wide; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* In double: for a line that is wide; and with a residual, because the sum of three may be much less than that of two,
 * whose rounding would show. */
static CBN_INLINE T FN(affine_wide)(const struct FN(span) *span, ptrdiff_t i, double mean, double scale, double shift)
{
    double v = ((double)GET_X(span->x[i]) - mean) * scale + shift;
    if (span->residual)
        v += (double)GET(span->residual[i]);
    return FROM_DOUBLE(v <= 0 ? (span->bend.keep ? v * span->bend.slope : 0) : v);
}

/* CBN_VEC values, with a residual. */
static CBN_INLINE cbn_vec FN(affine_doubles)(const struct FN(span) *span, ptrdiff_t i, cbn_vec mean, cbn_vec scale,
                                             cbn_vec shift)
{
    const cbn_vec v = (WIDEN_X(span->x + i) - mean) * scale + shift + OF(cbn_widen)(span->residual + i);
    return cbn_bent(v, v, span->bend);
}

/* --- spans --- */

/* With a residual. */
static CBN_APART void FN(wide_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    const double mean = span->out->mean[c], scale = span->out->scale[c], shift = span->out->shift[c];
    for (ptrdiff_t i = at; i < end; i++)
        span->y[i] = FN(affine_wide)(span, i, mean, scale, shift);
}

static CBN_INLINE void FN(residual_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                          int streaming)
{
    const cbn_vec mean = cbn_splat(span->out->mean[c]), scale = cbn_splat(span->out->scale[c]);
    const cbn_vec shift = cbn_splat(span->out->shift[c]);
    for (ptrdiff_t i = at; i < end; i += AVEC) {
        cbn_vec y[DOUBLES];
        cbn_prefetch(span->x + i + CBN_PREFETCH);
        cbn_prefetch(span->residual + i + CBN_PREFETCH);
        for (ptrdiff_t v = 0; v < AVEC; v += CBN_VEC)
            y[v / CBN_VEC] = FN(affine_doubles)(span, i + v, mean, scale, shift);
        OF(cbn_put)(span->y + i, FN(rounded)(y), streaming);
    }
}

static CBN_INLINE void FN(residual_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                         int streaming)
{
    const struct cbn_output *out = span->out;
    const double *mask = cbn_mask.lanes + CBN_LANES - left;
    for (ptrdiff_t i = 0; i < LINE; i += AVEC) {
        cbn_vec y[DOUBLES];
        for (ptrdiff_t v = 0; v < AVEC; v += CBN_VEC) {
            const cbn_vec m = CBN_LOAD(mask + i + v, 0);
            y[v / CBN_VEC] = FN(affine_doubles)(span, at + i + v, cbn_blend(out->mean + c, m),
                                                cbn_blend(out->scale + c, m), cbn_blend(out->shift + c, m));
        }
        OF(cbn_put)(span->y + at + i, FN(rounded)(y), streaming);
    }
}

/* --- columns --- */

/* With a residual the numbers of the columns are doubles. */
static CBN_APART void FN(residual_some)(const struct FN(span) *span, ptrdiff_t j, ptrdiff_t end, int how)
{
    const struct cbn_output *out = span->out;
    (void)how;
    for (ptrdiff_t i = j; i < end; i++)
        span->y[i] = FN(affine_wide)(span, i, out->column[0][i], out->column[1][i], out->column[2][i]);
}

static CBN_INLINE void FN(residual_line)(T *to, const struct FN(span) *span, ptrdiff_t j, int streaming, int how)
{
    const double *mean = span->out->column[0], *scale = span->out->column[1], *shift = span->out->column[2];
    (void)how;
    for (ptrdiff_t i = j; i < j + LINE; i += AVEC, to += AVEC) {
        cbn_vec y[DOUBLES];
        for (ptrdiff_t v = i; v < i + AVEC; v += CBN_VEC)
            y[(v - i) / CBN_VEC] =
                FN(affine_doubles)(span, v, CBN_LOAD(mean + v, 0), CBN_LOAD(scale + v, 0), CBN_LOAD(shift + v, 0));
        OF(cbn_put)(to, FN(rounded)(y), streaming);
    }
}
