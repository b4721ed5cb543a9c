/* residual_tmpl.h: y in double: with a residual, and of lines that are wide; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* In double: for a line that is wide; and with a residual, because the sum of three may be much less than that of two,
 * whose rounding would show (not in 16 bits). */
static CBN_INLINE T FN(affine_wide)(const struct FN(span) *span, ptrdiff_t i, double mean, double scale, double shift)
{
    double v = ((double)GET_X(span->x[i]) - mean) * scale + shift;
    if (span->residual)
        v += (double)GET(span->residual[i]);
    return FROM_DOUBLE(cbn_bent_one(v, v, span->bend));
}

/* The numbers of a channel, or of CBN_VEC columns. */
struct FN(doubles) {
    cbn_vec mean, scale, shift;
};

/* AVEC values with a residual, rounded. */
static CBN_INLINE FN(avec) FN(affine_doubles)(const struct FN(span) *span, ptrdiff_t i,
                                              const struct FN(doubles) *n)
{
    cbn_vec x[DOUBLES], residual[DOUBLES];
    READ_X(x, span->x + i);
    OF(cbn_read)(residual, span->residual + i);
    CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++) {
        x[v] = (x[v] - n[v].mean) * n[v].scale + n[v].shift + residual[v];
        x[v] = cbn_bent(x[v], x[v], span->bend);
    }
    return FN(rounded)(x);
}

/* --- spans --- */

static CBN_APART void FN(wide_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    const double mean = span->out->mean[c], scale = span->out->scale[c], shift = span->out->shift[c];
    for (ptrdiff_t i = at; i < end; i++)
        span->y[i] = FN(affine_wide)(span, i, mean, scale, shift);
}

static CBN_INLINE void FN(residual_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                          int streaming)
{
    const struct FN(doubles) numbers = {cbn_splat(span->out->mean[c]), cbn_splat(span->out->scale[c]),
                                        cbn_splat(span->out->shift[c])};
    const struct FN(doubles) same[2] = {numbers, numbers};
    for (ptrdiff_t i = at; i < end; i += AVEC) {
        cbn_prefetch(span->x + i + CBN_PREFETCH);
        cbn_prefetch(span->residual + i + CBN_PREFETCH);
        OF(cbn_put)(span->y + i, FN(affine_doubles)(span, i, same), streaming);
    }
}

static CBN_INLINE void FN(residual_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                         int streaming)
{
    const struct cbn_output *out = span->out;
    const double *mask = cbn_mask.lanes + CBN_LANES - left;
    for (ptrdiff_t i = 0; i < LINE; i += AVEC) {
        struct FN(doubles) numbers[DOUBLES];
        CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++) {
            const cbn_vec m = CBN_LOAD(mask + i, v);
            numbers[v] = (struct FN(doubles)){cbn_blend(out->mean + c, m), cbn_blend(out->scale + c, m),
                                              cbn_blend(out->shift + c, m)};
        }
        OF(cbn_put)(span->y + at + i, FN(affine_doubles)(span, at + i, numbers), streaming);
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
        struct FN(doubles) numbers[DOUBLES];
        CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++)
            numbers[v] = (struct FN(doubles)){CBN_LOAD(mean + i, v), CBN_LOAD(scale + i, v), CBN_LOAD(shift + i, v)};
        OF(cbn_put)(to, FN(affine_doubles)(span, i, numbers), streaming);
    }
}
