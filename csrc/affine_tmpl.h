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

/* The lines of all channels of a block, for lines that are not wide; 1 if any is. Where a residual will add one rounding
 * more, another one is made up for: column 3 has what the scale lost. */
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
    if (out->residual) {
        A *lost = (A *)out->column[3];
        CBN_IVDEP
        for (ptrdiff_t c = 0; c < channels; c++)
            lost[c] = (A)(scale[c] - (double)(A)scale[c]);
    }
    return wide != 0;
}

/* The numbers of one channel, or of AVEC columns; `lost` is used with a residual only. */
struct FN(line) {
    A mean, scale, shift, lost;
};
struct FN(line_vec) {
    FN(avec) mean, scale, shift, lost;
};

static CBN_INLINE struct FN(line) FN(line_at)(const struct cbn_output *out, ptrdiff_t j)
{
    const A *mean = (const A *)out->column[0], *scale = (const A *)out->column[1], *shift = (const A *)out->column[2];
    return (struct FN(line)){mean[j], scale[j], shift[j], out->residual ? ((const A *)out->column[3])[j] : 0};
}

/* One value: its line, and what follows that if it is `fused`. */
static CBN_INLINE T FN(affine_one)(const struct FN(span) *span, ptrdiff_t i, struct FN(line) line, int fused)
{
    const A d = GET_X(span->x[i]) - line.mean;
    if (!fused)
        return SET(d * line.scale + line.shift);
    A v = d * line.scale;
    if (span->residual)
        v = v + (d * line.lost + line.shift) + GET(span->residual[i]);
    else
        v += line.shift;
    return SET(FN(bent_one)(v, v, span->bend));
}

/* AVEC values. */
static CBN_INLINE FN(avec) FN(affine)(const struct FN(span) *span, ptrdiff_t i, struct FN(line_vec) line, int fused)
{
    const FN(avec) d = LOAD_X(span->x + i) - line.mean;
    if (!fused)
        return d * line.scale + line.shift;
    FN(avec) v = d * line.scale;
    if (span->residual)
        v = v + (d * line.lost + line.shift) + OF(cbn_load)(span->residual + i);
    else
        v += line.shift;
    return FN(bent)(v, v, span->bend);
}

/* In double, for a line that is wide; with all that may follow it. */
static CBN_INLINE T FN(affine_wide)(const struct FN(span) *span, ptrdiff_t i, double mean, double scale, double shift)
{
    double v = ((double)GET_X(span->x[i]) - mean) * scale + shift;
    if (span->residual)
        v += (double)GET(span->residual[i]);
    return FROM_DOUBLE(v <= 0 ? (span->bend.keep ? v * span->bend.slope : 0) : v);
}

/* --- spans --- */

static CBN_APART void FN(affine_ones_of)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                         int fused)
{
    const struct FN(line) line = FN(line_at)(span->out, c);
    CBN_IVDEP
    for (ptrdiff_t i = at; i < end; i++)
        span->y[i] = FN(affine_one)(span, i, line, fused);
}

static CBN_INLINE void FN(affine_lines_of)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                           int streaming, int fused)
{
    const struct FN(line) line = FN(line_at)(span->out, c);
    const struct FN(line_vec) lines = {FN(splat)(line.mean), FN(splat)(line.scale), FN(splat)(line.shift),
                                       FN(splat)(line.lost)};
    for (ptrdiff_t i = at; i < end; i += AVEC)
        OF(cbn_put)(span->y + i, FN(affine)(span, i, lines, fused), streaming);
}

static CBN_INLINE void FN(affine_seam_of)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                          int streaming, int fused)
{
    const A *mask = (const A *)(cbn_mask.bits + CBN_LANES) - left, *mean = (const A *)span->out->column[0] + c;
    const A *scale = (const A *)span->out->column[1] + c, *shift = (const A *)span->out->column[2] + c;
    const A *lost = fused && span->residual ? (const A *)span->out->column[3] + c : shift;
    for (ptrdiff_t i = 0; i < LINE; i += AVEC) {
        const A *m = mask + i;
        const struct FN(line_vec) line = {FN(blend)(mean, m), FN(blend)(scale, m), FN(blend)(shift, m),
                                          FN(blend)(lost, m)};
        OF(cbn_put)(span->y + at + i, FN(affine)(span, at + i, line, fused), streaming);
    }
}

/* With a wide channel among others, which get the bits that they always get. Rare, so not as fast. */
static CBN_APART void FN(mixed_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    const double mean = span->out->mean[c], scale = span->out->scale[c], shift = span->out->shift[c];
    if (!FN(make_line)(mean, scale, shift).wide) {
        FN(affine_ones_of)(span, c, at, end, 1);
        return;
    }
    for (ptrdiff_t i = at; i < end; i++)
        span->y[i] = FN(affine_wide)(span, i, mean, scale, shift);
}

static CBN_INLINE void FN(affine_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int how)
{
    if (how == CBN_MIXED)
        FN(mixed_ones)(span, c, at, end);
    else
        FN(affine_ones_of)(span, c, at, end, how);
}

static CBN_INLINE void FN(affine_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                        int streaming, int how)
{
    if (how == CBN_MIXED)
        FN(mixed_ones)(span, c, at, end);
    else
        FN(affine_lines_of)(span, c, at, end, streaming, how);
}

static CBN_INLINE void FN(affine_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                       int streaming, int how)
{
    if (how == CBN_MIXED) {
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

static void FN(open_spans)(struct cbn_output *out)
{
    const int wide = FN(make_lines)(out);
    cbn_open(out, wide ? FN(advance_mixed_spans) : cbn_is_fused(out) ? FN(advance_fused_spans) : FN(advance_plain_spans));
}

/* --- columns, with one number per column --- */

static CBN_APART void FN(columns_some)(const struct FN(span) *span, ptrdiff_t j, ptrdiff_t end, int how)
{
    CBN_IVDEP
    for (ptrdiff_t i = j; i < end; i++)
        span->y[i] = FN(affine_one)(span, i, FN(line_at)(span->out, i), how);
}

static CBN_INLINE void FN(columns_line)(T *y, const struct FN(span) *span, ptrdiff_t j, int streaming, int how)
{
    const A *mean = (const A *)span->out->column[0], *scale = (const A *)span->out->column[1];
    const A *shift = (const A *)span->out->column[2];
    const A *lost = how && span->residual ? (const A *)span->out->column[3] : shift;
    for (ptrdiff_t i = j; i < j + LINE; i += AVEC, y += AVEC) {
        const struct FN(line_vec) line = {FN(numbers)(mean + i), FN(numbers)(scale + i), FN(numbers)(shift + i),
                                          FN(numbers)(lost + i)};
        OF(cbn_put)(y, FN(affine)(span, i, line, how), streaming);
    }
}

static CBN_APART void FN(write_mixed)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    for (; j < end; j++) {
        const ptrdiff_t c = j / out->block.inner % out->block.channels;
        const double mean = out->mean[c], scale = out->scale[c], shift = out->shift[c];
        const struct cbn_line line = FN(make_line)(mean, scale, shift);
        const A lost = (A)(scale - (double)(A)scale);
        span.y[j] = line.wide ? FN(affine_wide)(&span, j, mean, scale, shift)
                              : FN(affine_one)(&span, j, (struct FN(line)){(A)line.mean, (A)line.scale, (A)line.shift,
                                                                           lost}, 1);
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

static void FN(open_columns)(struct cbn_output *out)
{
    const struct cbn_block *b = &out->block;
    const ptrdiff_t group = b->channels * b->inner;
    const int wide = FN(make_lines)(out);
    for (int k = 0; k < (out->residual ? 4 : 3); k++) {
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
