/* affine_tmpl.h: y = (x - mean) * scale + shift, value by value; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* One channel's line. In float32 the mean is split: its nearest float is subtracted from x, the rest goes into the
 * shift, so that a mean of a million deviations costs nothing. Where float32 could over- or underflow on the way the
 * line is `wide`: computed in double. */
static CBN_INLINE struct cbn_line FN(make_line)(double mean, double scale, double bias)
{
    const double near = (double)(T)mean, shift = T_IS_WIDE ? bias : bias - (mean - near) * scale, size = fabs(scale);
    const int64_t fits = (fabs(mean) <= 0x1p100) & (fabs(shift) <= 0x1p100) &
                         (((size >= 0x1p-100) & (size <= 0x1p100)) | (size == 0));
    return (struct cbn_line){near, scale, shift, T_IS_WIDE ? 0 : fits ^ 1};
}

/* The lines of all channels of a block, for lines that are not wide; 1 if any is. */
static CBN_INLINE int FN(make_lines)(struct cbn_output *out)
{
    const double *mean = out->mean, *scale = out->scale, *shift = out->shift;
    const ptrdiff_t channels = out->block.channels;
    T *near = (T *)out->column[0], *of_x = (T *)out->column[1], *rest = (T *)out->column[2];
    int64_t wide = 0; /* as wide as the doubles, for vectors */
    CBN_IVDEP
    for (ptrdiff_t c = 0; c < channels; c++) {
        const struct cbn_line line = FN(make_line)(mean[c], scale[c], shift[c]);
        near[c] = (T)line.mean;
        of_x[c] = (T)line.scale;
        rest[c] = (T)line.shift;
        wide |= line.wide;
    }
    return wide != 0;
}

static CBN_INLINE T FN(wide)(T x, double mean, double scale, double shift)
{
    return (T)(((double)x - mean) * scale + shift);
}

static CBN_INLINE T FN(narrow)(T x, T mean, T scale, T shift)
{
    return (x - mean) * scale + shift;
}

static CBN_INLINE T FN(narrow_of)(const struct cbn_output *out, ptrdiff_t c, T x)
{
    const T *mean = (const T *)out->column[0], *scale = (const T *)out->column[1], *shift = (const T *)out->column[2];
    return FN(narrow)(x, mean[c], scale[c], shift[c]);
}

static CBN_INLINE void FN(affine_ones)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    CBN_IVDEP
    for (ptrdiff_t i = at; i < end; i++)
        span.y[i] = FN(narrow_of)(span.out, c, span.x[i]);
}

static CBN_INLINE void FN(affine_lines)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming)
{
    const T mean = ((const T *)span.out->column[0])[c], scale = ((const T *)span.out->column[1])[c];
    const T shift = ((const T *)span.out->column[2])[c];
    for (ptrdiff_t i = at; i < end; i += TVEC)
        FN(put)(span.y + i, (FN(load)(span.x + i) - mean) * scale + shift, streaming);
}

static CBN_INLINE void FN(affine_seam)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming)
{
    const T *mask = (const T *)(cbn_mask.bits + CBN_LANES) - left, *mean = (const T *)span.out->column[0] + c;
    const T *scale = (const T *)span.out->column[1] + c, *shift = (const T *)span.out->column[2] + c;
    for (ptrdiff_t i = 0; i < LINE; i += TVEC) {
        const FN(tvec) distance = FN(load)(span.x + at + i) - FN(blend)(mean, mask + i);
        FN(put)(span.y + at + i, distance * FN(blend)(scale, mask + i) + FN(blend)(shift, mask + i), streaming);
    }
}

static void FN(advance_affine_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(affine_ones), FN(affine_lines), FN(affine_seam));
}

/* With a wide channel among others, which get the bits that they always get. Rare, so not as fast. */
static void FN(mixed_ones)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    const double mean = span.out->mean[c], scale = span.out->scale[c], shift = span.out->shift[c];
    const int64_t wide = FN(make_line)(mean, scale, shift).wide;
    for (ptrdiff_t i = at; i < end; i++)
        span.y[i] = wide ? FN(wide)(span.x[i], mean, scale, shift)
                         : FN(narrow_of)(span.out, c, span.x[i]);
}

static void FN(mixed_lines)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming)
{
    (void)streaming;
    FN(mixed_ones)(span, c, at, end);
}

static void FN(mixed_seam)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming)
{
    (void)streaming;
    FN(mixed_ones)(span, c, at, at + left);
    FN(mixed_ones)(span, c + 1, at + left, at + LINE);
}

static void FN(advance_mixed_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(mixed_ones), FN(mixed_lines), FN(mixed_seam));
}

static void FN(open_spans)(struct cbn_output *out)
{
    const int wide = FN(make_lines)(out);
    cbn_open(out, wide ? FN(advance_mixed_spans) : FN(advance_affine_spans));
}

/* Across columns, with one number per column. */
struct FN(columns) {
    const T *x, *mean, *scale, *shift;
};

static CBN_INLINE T FN(columns_one)(const void *run, ptrdiff_t j)
{
    const struct FN(columns) *r = run;
    return FN(narrow)(r->x[j], r->mean[j], r->scale[j], r->shift[j]);
}

static CBN_INLINE void FN(columns_line)(T *y, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(columns) *r = run;
    for (ptrdiff_t i = j; i < j + LINE; i += TVEC, y += TVEC)
        FN(put)(y, (FN(load)(r->x + i) - FN(load)(r->mean + i)) * FN(load)(r->scale + i) + FN(load)(r->shift + i),
                streaming);
}

static CBN_INLINE void FN(write_columns)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(columns) columns = {(const T *)out->x + at, (const T *)out->column[0],
                                        (const T *)out->column[1], (const T *)out->column[2]};
    FN(emit)((T *)out->y + at, FN(columns_one), FN(columns_line), &columns, j, end, out->block.streaming);
}

static CBN_INLINE void FN(write_mixed)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end)
{
    const struct cbn_block *b = &out->block;
    const T *x = (const T *)out->x + at;
    T *y = (T *)out->y + at;
    for (; j < end; j++) {
        const ptrdiff_t c = j / b->inner % b->channels;
        const double mean = out->mean[c], scale = out->scale[c], shift = out->shift[c];
        const struct cbn_line line = FN(make_line)(mean, scale, shift);
        y[j] = line.wide ? FN(wide)(x[j], mean, scale, shift)
                         : FN(narrow)(x[j], (T)line.mean, (T)line.scale, (T)line.shift);
    }
}

static void FN(advance_affine)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_columns));
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
    for (int k = 0; k < 3; k++) {
        T *numbers = (T *)out->column[k];
        if (b->inner > 1) /* from the last on, since they stand before their places */
            for (ptrdiff_t c = b->channels - 1; c >= 0; c--)
                for (ptrdiff_t i = b->inner - 1; i >= 0; i--)
                    numbers[c * b->inner + i] = numbers[c];
        for (ptrdiff_t f = 1; f < b->fold; f++)
            memcpy(numbers + f * group, numbers, (size_t)group * sizeof *numbers);
    }
    cbn_open(out, wide ? FN(advance_mixed) : FN(advance_affine));
}
