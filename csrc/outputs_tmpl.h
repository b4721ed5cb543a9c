/* outputs_tmpl.h: how outputs are written, and y, value by value; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- outputs: elementwise, so that any cut of a run into parts gives the same bits --- */

#define LINE ((ptrdiff_t)(CBN_LINE_BYTES / sizeof(T)))
#define TVEC ((ptrdiff_t)(sizeof(cbn_vec) / sizeof(T)))
typedef T FN(tvec) __attribute__((vector_size(sizeof(cbn_vec)), aligned(sizeof(T)), may_alias));

static CBN_INLINE FN(tvec) FN(load)(const T *p)
{
    return *(const FN(tvec) *)p;
}

static CBN_INLINE void FN(put)(T *y, FN(tvec) v, int streaming)
{
    if (streaming)
        cbn_stream((double *)(void *)y, (cbn_vec)v);
    else
        *(FN(tvec) *)y = v;
}

/* Value j of a run; the LINE values from j on, to y. */
typedef T FN(one_fn)(const void *run, ptrdiff_t j);
typedef void FN(line_fn)(T *y, const void *run, ptrdiff_t j, int streaming);

/* Writes the values [j, end) of a run to y. Streaming stores write whole lines of memory, and so start at the first. */
static CBN_INLINE void FN(emit)(T *y, FN(one_fn) *one, FN(line_fn) *line, const void *run, ptrdiff_t j, ptrdiff_t end,
                                int streaming)
{
    if (streaming) {
        const ptrdiff_t head = j + (ptrdiff_t)(-(uintptr_t)(y + j) % CBN_LINE_BYTES / sizeof(T));
        const ptrdiff_t first = head < end ? head : end;
        CBN_IVDEP
        for (ptrdiff_t h = j; h < first; h++)
            y[h] = one(run, h);
        j = first;
        for (; j + LINE <= end; j += LINE)
            line(y + j, run, j, 1);
    } else
        for (; j + LINE <= end; j += LINE)
            line(y + j, run, j, 0);
    CBN_IVDEP
    for (ptrdiff_t t = j; t < end; t++)
        y[t] = one(run, t);
}

/* Writes the values [j, end) of the run that starts at index `at`. */
typedef void FN(write_fn)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end);

/* Writes about `values` of the current run of `length`, up to where a line of memory ends; 1 at the run's end. */
static CBN_INLINE int FN(write_part)(struct cbn_output *out, FN(write_fn) *write, ptrdiff_t at, ptrdiff_t length,
                                     ptrdiff_t *values)
{
    const ptrdiff_t start = out->at, part = *values > 4 * LINE ? *values : 4 * LINE;
    ptrdiff_t end = length;
    if (length - start - LINE > part) {
        end = start + part;
        end -= (ptrdiff_t)((uintptr_t)((const T *)out->y + at + end) % CBN_LINE_BYTES / sizeof(T));
    }
    write(out, at, start, end);
    *values -= end - start;
    out->at = end < length ? end : 0;
    return end == length;
}

static CBN_INLINE void FN(advance_rows)(struct cbn_output *out, ptrdiff_t values, FN(write_fn) *write)
{
    const struct cbn_block *b = &out->block;
    while (values > 0 && out->advance) {
        const ptrdiff_t at = out->sample * b->stride + out->channel * b->inner;
        if (!FN(write_part)(out, write, at, b->length, &values))
            continue;
        if (++out->channel < b->channels)
            continue;
        out->channel = 0;
        cbn_next_sample(out);
    }
}

static CBN_INLINE void FN(advance_columns)(struct cbn_output *out, ptrdiff_t values, FN(write_fn) *write)
{
    const struct cbn_block *b = &out->block;
    while (values > 0 && out->advance) {
        const ptrdiff_t samples = b->outer - out->sample < b->fold ? b->outer - out->sample : b->fold;
        if (FN(write_part)(out, write, out->sample * b->stride, samples * b->channels * b->inner, &values))
            cbn_next_sample(out);
    }
}

/* --- y = (x - mean) * scale + shift --- */

/* One channel's line. In float32 the mean is split: its nearest float is subtracted from x, the rest goes into the
 * shift, so that a mean of a million deviations costs nothing. Where float32 could over- or underflow on the way the
 * line is `wide`: computed in double. */
static CBN_INLINE struct cbn_line FN(make_line)(double mean, double scale, double bias)
{
    const double near = (double)(T)mean, shift = T_IS_WIDE ? bias : bias - (mean - near) * scale, size = fabs(scale);
    if (T_IS_WIDE || (fabs(mean) <= 0x1p100 && fabs(shift) <= 0x1p100 &&
                      ((size >= 0x1p-100 && size <= 0x1p100) || size == 0)))
        return (struct cbn_line){near, scale, shift, 0};
    return (struct cbn_line){mean, scale, bias, 1};
}

static CBN_INLINE T FN(wide)(T x, double mean, double scale, double shift)
{
    return (T)(((double)x - mean) * scale + shift);
}

static CBN_INLINE T FN(narrow)(T x, T mean, T scale, T shift)
{
    return (x - mean) * scale + shift;
}

struct FN(row) {
    const T *x;
    T mean, scale, shift;
};

static CBN_INLINE T FN(row_one)(const void *run, ptrdiff_t j)
{
    const struct FN(row) *r = run;
    return FN(narrow)(r->x[j], r->mean, r->scale, r->shift);
}

static CBN_INLINE void FN(row_line)(T *y, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(row) *r = run;
    for (ptrdiff_t i = 0; i < LINE; i += TVEC)
        FN(put)(y + i, (FN(load)(r->x + j + i) - r->mean) * r->scale + r->shift, streaming);
}

static CBN_INLINE void FN(write_row)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end)
{
    const struct cbn_line l = out->line[out->channel];
    const struct FN(row) row = {(const T *)out->x + at, (T)l.mean, (T)l.scale, (T)l.shift};
    T *y = (T *)out->y + at;
    if (l.wide)
        for (; j < end; j++)
            y[j] = FN(wide)(row.x[j], l.mean, l.scale, l.shift);
    else
        FN(emit)(y, FN(row_one), FN(row_line), &row, j, end, out->block.streaming);
}

static void FN(advance_row)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_rows)(out, values, FN(write_row));
}

static void FN(open_rows)(struct cbn_output *out)
{
    for (ptrdiff_t c = 0; c < out->block.channels; c++)
        out->line[c] = FN(make_line)(out->mean[c], out->scale[c], out->shift[c]);
    cbn_open(out, FN(advance_row));
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

/* With a wide channel among others, which get the bits that they always get. Rare, so not as fast. */
static CBN_INLINE void FN(write_mixed)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end)
{
    const double *mean = out->column[0], *scale = out->column[1], *shift = out->column[2], *wide = out->column[3];
    const T *x = (const T *)out->x + at;
    T *y = (T *)out->y + at;
    for (; j < end; j++)
        y[j] = wide[j] != 0 ? FN(wide)(x[j], mean[j], scale[j], shift[j])
                            : FN(narrow)(x[j], (T)mean[j], (T)scale[j], (T)shift[j]);
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
    const ptrdiff_t width = b->fold * b->channels * b->inner;
    T *mean = (T *)out->column[0], *scale = (T *)out->column[1], *shift = (T *)out->column[2];
    int wide = 0;
    for (ptrdiff_t f = 0; f < b->fold && !wide; f++)
        for (ptrdiff_t c = 0; c < b->channels; c++, mean += b->inner, scale += b->inner, shift += b->inner) {
            const struct cbn_line line = FN(make_line)(out->mean[c], out->scale[c], out->shift[c]);
            const T m = (T)line.mean, a = (T)line.scale, s = (T)line.shift;
            wide |= line.wide;
            for (ptrdiff_t i = 0; i < b->inner; i++) {
                mean[i] = m;
                scale[i] = a;
                shift[i] = s;
            }
        }
    cbn_open(out, FN(advance_affine));
    if (!wide)
        return;
    for (ptrdiff_t j = 0; j < width; j++) {
        const ptrdiff_t c = j / b->inner % b->channels;
        const struct cbn_line line = FN(make_line)(out->mean[c], out->scale[c], out->shift[c]);
        out->column[0][j] = line.mean;
        out->column[1][j] = line.scale;
        out->column[2][j] = line.shift;
        out->column[3][j] = line.wide;
    }
    out->advance = FN(advance_mixed);
}
