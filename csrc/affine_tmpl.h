/* affine_tmpl.h: y = activation((x - mean) * scale + shift + residual), value by value; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* One channel's line. In float32 the mean is split: its nearest float is subtracted from x, the rest goes into the
 * shift, so that a mean of a million deviations costs nothing. Where float32 could over- or underflow on the way the
 * line is `wide`: computed in double. */
static CBN_INLINE struct cbn_line FN(make_line)(double mean, double scale, double bias)
{
    const double near = (double)(A)mean, shift = A_IS_DOUBLE ? bias : bias - (mean - near) * scale, size = fabs(scale);
    const int64_t fits = (fabs(mean) <= 0x1p100) & (fabs(shift) <= 0x1p100) &
                         (((size >= 0x1p-100) & (size <= 0x1p100)) | (size == 0));
    return (struct cbn_line){near, scale, shift, A_IS_DOUBLE ? 0 : fits ^ 1};
}

/* The lines of all channels of a block, for lines that are not wide; 1 if any is. */
static CBN_INLINE int FN(make_lines)(struct cbn_output *out)
{
    const double *mean = out->mean, *scale = out->scale, *shift = out->shift;
    const ptrdiff_t channels = out->block.channels;
    A *near = (A *)out->column[0], *of_x = (A *)out->column[1], *rest = (A *)out->column[2];
    int64_t wide = 0; /* as wide as the doubles, for vectors */
    CBN_IVDEP
    for (ptrdiff_t c = 0; c < channels; c++) {
        const struct cbn_line line = FN(make_line)(mean[c], scale[c], shift[c]);
        near[c] = (A)line.mean;
        of_x[c] = (A)line.scale;
        rest[c] = (A)line.shift;
        wide |= line.wide;
    }
    return wide != 0;
}

/* One value: its line, and an activation if it is `fused`. */
static CBN_INLINE T FN(affine_one)(const struct FN(span) *span, ptrdiff_t i, A mean, A scale, A shift, int fused)
{
    const A v = (GET_X(span->x[i]) - mean) * scale + shift;
    return SET(fused ? FN(bent_one)(v, v, span->bend) : v);
}

/* AVEC values. */
static CBN_INLINE FN(avec) FN(affine)(const struct FN(span) *span, ptrdiff_t i, FN(avec) mean, FN(avec) scale,
                                      FN(avec) shift, int fused)
{
    const FN(avec) v = (LOAD_X(span->x + i) - mean) * scale + shift;
    return fused ? FN(bent)(v, v, span->bend) : v;
}

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

static CBN_APART void FN(affine_ones_of)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                         int fused)
{
    const A mean = ((const A *)span->out->column[0])[c], scale = ((const A *)span->out->column[1])[c];
    const A shift = ((const A *)span->out->column[2])[c];
    CBN_IVDEP
    for (ptrdiff_t i = at; i < end; i++)
        span->y[i] = FN(affine_one)(span, i, mean, scale, shift, fused);
}

static CBN_INLINE void FN(affine_lines_of)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                           int streaming, int fused)
{
    const FN(avec) mean = FN(splat)(((const A *)span->out->column[0])[c]);
    const FN(avec) scale = FN(splat)(((const A *)span->out->column[1])[c]);
    const FN(avec) shift = FN(splat)(((const A *)span->out->column[2])[c]);
    for (ptrdiff_t i = at; i < end; i += AVEC)
        OF(cbn_put)(span->y + i, FN(affine)(span, i, mean, scale, shift, fused), streaming);
}

static CBN_INLINE void FN(affine_seam_of)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                          int streaming, int fused)
{
    const A *mask = (const A *)(cbn_mask.bits + CBN_LANES) - left, *mean = (const A *)span->out->column[0] + c;
    const A *scale = (const A *)span->out->column[1] + c, *shift = (const A *)span->out->column[2] + c;
    for (ptrdiff_t i = 0; i < LINE; i += AVEC) {
        const A *m = mask + i;
        const FN(avec) v = FN(affine)(span, at + i, FN(blend)(mean, m), FN(blend)(scale, m), FN(blend)(shift, m), fused);
        OF(cbn_put)(span->y + at + i, v, streaming);
    }
}

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

/* With a wide channel among others, which get the bits that they always get. Rare, so not as fast. */
static CBN_INLINE void FN(mixed_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    if (FN(make_line)(span->out->mean[c], span->out->scale[c], span->out->shift[c]).wide)
        FN(wide_ones)(span, c, at, end);
    else
        FN(affine_ones_of)(span, c, at, end, 1);
}

static CBN_INLINE void FN(affine_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int how)
{
    if (how == CBN_WIDE)
        FN(wide_ones)(span, c, at, end);
    else if (how == CBN_MIXED)
        FN(mixed_ones)(span, c, at, end);
    else
        FN(affine_ones_of)(span, c, at, end, how);
}

static CBN_INLINE void FN(affine_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                        int streaming, int how)
{
    if (how == CBN_WIDE)
        FN(residual_lines)(span, c, at, end, streaming);
    else if (how == CBN_MIXED)
        FN(mixed_ones)(span, c, at, end);
    else
        FN(affine_lines_of)(span, c, at, end, streaming, how);
}

static CBN_INLINE void FN(affine_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                       int streaming, int how)
{
    if (how == CBN_WIDE)
        FN(residual_seam)(span, c, at, left, streaming);
    else if (how == CBN_MIXED) {
        FN(mixed_ones)(span, c, at, at + left);
        FN(mixed_ones)(span, c + 1, at + left, at + LINE);
    } else
        FN(affine_seam_of)(span, c, at, left, streaming, how);
}

static void FN(advance_plain_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(affine_ones), FN(affine_lines), FN(affine_seam), CBN_PLAIN);
}

static void FN(advance_fused_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(affine_ones), FN(affine_lines), FN(affine_seam), CBN_FUSED);
}

static void FN(advance_mixed_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(affine_ones), FN(affine_lines), FN(affine_seam), CBN_MIXED);
}

static void FN(advance_residual_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(affine_ones), FN(affine_lines), FN(affine_seam), CBN_WIDE);
}

static void FN(open_spans)(struct cbn_output *out)
{
    const int wide = FN(make_lines)(out);
    cbn_open(out, out->residual       ? FN(advance_residual_spans)
                  : wide              ? FN(advance_mixed_spans)
                  : cbn_is_fused(out) ? FN(advance_fused_spans)
                                      : FN(advance_plain_spans));
}

/* --- columns, with one number per column --- */

static CBN_APART void FN(columns_some)(const struct FN(span) *span, ptrdiff_t j, ptrdiff_t end, int how)
{
    const A *mean = (const A *)span->out->column[0], *scale = (const A *)span->out->column[1];
    const A *shift = (const A *)span->out->column[2];
    CBN_IVDEP
    for (ptrdiff_t i = j; i < end; i++)
        span->y[i] = FN(affine_one)(span, i, mean[i], scale[i], shift[i], how);
}

static CBN_INLINE void FN(columns_line)(T *y, const struct FN(span) *span, ptrdiff_t j, int streaming, int how)
{
    const A *mean = (const A *)span->out->column[0], *scale = (const A *)span->out->column[1];
    const A *shift = (const A *)span->out->column[2];
    for (ptrdiff_t i = j; i < j + LINE; i += AVEC, y += AVEC) {
        const FN(avec) v = FN(affine)(span, i, FN(numbers)(mean + i), FN(numbers)(scale + i), FN(numbers)(shift + i), how);
        OF(cbn_put)(y, v, streaming);
    }
}

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

static CBN_APART void FN(write_mixed)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    for (; j < end; j++) {
        const ptrdiff_t c = j / out->block.inner % out->block.channels;
        const double mean = out->mean[c], scale = out->scale[c], shift = out->shift[c];
        const struct cbn_line line = FN(make_line)(mean, scale, shift);
        span.y[j] = line.wide ? FN(affine_wide)(&span, j, mean, scale, shift)
                              : FN(affine_one)(&span, j, (A)line.mean, (A)line.scale, (A)line.shift, 1);
    }
}

static CBN_INLINE void FN(write_plain)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    FN(emit)(&span, j, end, FN(columns_some), FN(columns_line), CBN_PLAIN);
}

static CBN_INLINE void FN(write_fused)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    FN(emit)(&span, j, end, FN(columns_some), FN(columns_line), CBN_FUSED);
}

static CBN_INLINE void FN(write_residual)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    FN(emit)(&span, j, end, FN(residual_some), FN(residual_line), CBN_WIDE);
}

static void FN(advance_plain)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_plain));
}

static void FN(advance_fused)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_fused));
}

static void FN(advance_mixed)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_mixed));
}

static void FN(advance_residual)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_residual));
}

static void FN(open_columns)(struct cbn_output *out)
{
    const struct cbn_block *b = &out->block;
    const ptrdiff_t group = b->channels * b->inner;
    if (out->residual) {
        cbn_spread(out->column[0], out->mean, b);
        cbn_spread(out->column[1], out->scale, b);
        cbn_spread(out->column[2], out->shift, b);
        cbn_open(out, FN(advance_residual));
        return;
    }
    const int wide = FN(make_lines)(out);
    for (int k = 0; k < 3; k++) {
        A *numbers = (A *)out->column[k];
        if (b->inner > 1) /* from the last on, since they stand before their places */
            for (ptrdiff_t c = b->channels - 1; c >= 0; c--)
                for (ptrdiff_t i = b->inner - 1; i >= 0; i--)
                    numbers[c * b->inner + i] = numbers[c];
        for (ptrdiff_t f = 1; f < b->fold; f++)
            memcpy(numbers + f * group, numbers, (size_t)group * sizeof *numbers);
    }
    cbn_open(out, wide ? FN(advance_mixed) : cbn_is_fused(out) ? FN(advance_fused) : FN(advance_plain));
}
