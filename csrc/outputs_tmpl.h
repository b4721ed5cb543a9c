/* outputs_tmpl.h: how outputs are written; a part of kernels_tmpl.h.
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

/* `b` where the mask has ones, else `a` */
static CBN_INLINE FN(tvec) FN(select)(FN(tvec) a, FN(tvec) b, FN(tvec) mask)
{
    typedef int8_t bytes __attribute__((vector_size(sizeof(cbn_vec))));
    return (FN(tvec))(((bytes)a & ~(bytes)mask) | ((bytes)b & (bytes)mask));
}

/* numbers[0], and numbers[1] where the mask has ones */
static CBN_INLINE FN(tvec) FN(blend)(const T *numbers, const T *mask)
{
    return FN(select)(numbers[0] - (FN(tvec)){0}, numbers[1] - (FN(tvec)){0}, FN(load)(mask));
}

/* The first place from j on where y has a line of memory begin, or `end`: streaming stores write whole lines. */
static CBN_INLINE ptrdiff_t FN(line_start)(const T *y, ptrdiff_t j, ptrdiff_t end)
{
    const ptrdiff_t start = j + (ptrdiff_t)(-(uintptr_t)(y + j) % CBN_LINE_BYTES / sizeof(T));
    return start < end ? start : end;
}

/* Where a part of about `values` from j on ends: with a line of memory, or with the run. */
static CBN_INLINE ptrdiff_t FN(part_end)(const T *y, ptrdiff_t j, ptrdiff_t run, ptrdiff_t values)
{
    const ptrdiff_t part = values > 4 * LINE ? values : 4 * LINE;
    if (run - j - LINE <= part)
        return run;
    return j + part - (ptrdiff_t)((uintptr_t)(y + j + part) % CBN_LINE_BYTES / sizeof(T));
}

/* --- spans: each channel with its numbers in registers; planes of at least CBN_LANES values, so that a line of memory
 * holds at most two channels --- */

/* A run, and numbers of its channels in the columns of `out`. */
struct FN(span) {
    const T *x, *dy;
    T *y;
    const struct cbn_output *out;
};

/* Writes the values [at, end) of channel c; or so many whole lines; or one line, whose first `left` values are the last
 * of channel c. */
typedef void FN(ones_fn)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end);
typedef void FN(lines_fn)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming);
typedef void FN(seam_fn)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming);

/* Writes the run that starts at index `first` from out->at to `end`. */
static CBN_INLINE void FN(write_span)(struct cbn_output *out, ptrdiff_t first, ptrdiff_t end, FN(ones_fn) *ones,
                                      FN(lines_fn) *lines, FN(seam_fn) *seam, int streaming)
{
    const struct FN(span) span = {(const T *)out->x + first, out->dy ? (const T *)out->dy + first : NULL,
                                  (T *)out->y + first, out};
    const ptrdiff_t length = out->block.length;
    ptrdiff_t c = out->channel, j = out->at, limit = length == out->block.inner ? (c + 1) * length : length;
    ptrdiff_t lone = streaming ? FN(line_start)(span.y, j, end) : j;
    for (;; lone = end) { /* what comes before the first whole line, then lines, then the rest */
        while (j < lone) {
            const ptrdiff_t stop = limit < lone ? limit : lone;
            ones(span, c, j, stop);
            j = stop;
            if (j == limit)
                c++, limit += length;
        }
        if (j == end)
            break;
        while (j + LINE <= end) {
            const ptrdiff_t stop = j + (((limit < end ? limit : end) - j) & -LINE);
            lines(span, c, j, stop, streaming);
            j = stop;
            if (limit - j >= LINE || j + LINE > end)
                continue;
            if (limit > j) {
                seam(span, c, j, limit - j, streaming);
                j += LINE;
            }
            c++, limit += length;
        }
    }
    out->channel = length == out->block.inner ? c : out->channel;
}

/* A run is all channels of a sample; or, of planes that are cut, the part of one channel. */
static CBN_INLINE void FN(advance_spans)(struct cbn_output *out, ptrdiff_t values, FN(ones_fn) *ones,
                                         FN(lines_fn) *lines, FN(seam_fn) *seam)
{
    const struct cbn_block *b = &out->block;
    const int whole = b->length == b->inner;
    const ptrdiff_t run = whole ? b->channels * b->inner : b->length;
    while (values > 0 && out->advance) {
        const ptrdiff_t first = out->sample * b->stride + (whole ? 0 : out->channel * b->inner);
        const ptrdiff_t end = FN(part_end)((const T *)out->y + first, out->at, run, values);
        if (b->streaming)
            FN(write_span)(out, first, end, ones, lines, seam, 1);
        else
            FN(write_span)(out, first, end, ones, lines, seam, 0);
        values -= end - out->at;
        out->at = end;
        if (end < run)
            continue;
        out->at = 0;
        if (!whole && ++out->channel < b->channels)
            continue;
        out->channel = 0;
        cbn_next_sample(out);
    }
}

/* --- columns: numbers that are laid out as the values are, for samples side by side --- */

/* Value j of a run; the LINE values from j on, to y. */
typedef T FN(one_fn)(const void *run, ptrdiff_t j);
typedef void FN(line_fn)(T *y, const void *run, ptrdiff_t j, int streaming);

/* Writes the values [j, end) of a run to y. */
static CBN_INLINE void FN(emit)(T *y, FN(one_fn) *one, FN(line_fn) *line, const void *run, ptrdiff_t j, ptrdiff_t end,
                                int streaming)
{
    if (streaming) {
        const ptrdiff_t start = FN(line_start)(y, j, end);
        CBN_IVDEP
        for (ptrdiff_t h = j; h < start; h++)
            y[h] = one(run, h);
        for (j = start; j + LINE <= end; j += LINE)
            line(y + j, run, j, 1);
    } else
        for (; j + LINE <= end; j += LINE)
            line(y + j, run, j, 0);
    CBN_IVDEP
    for (ptrdiff_t t = j; t < end; t++)
        y[t] = one(run, t);
}

/* Writes the values [j, end) of the run that starts at index `first`. */
typedef void FN(write_fn)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end);

static CBN_INLINE void FN(advance_columns)(struct cbn_output *out, ptrdiff_t values, FN(write_fn) *write)
{
    const struct cbn_block *b = &out->block;
    while (values > 0 && out->advance) {
        const ptrdiff_t samples = b->outer - out->sample < b->fold ? b->outer - out->sample : b->fold;
        const ptrdiff_t first = out->sample * b->stride, run = samples * b->channels * b->inner;
        const ptrdiff_t end = FN(part_end)((const T *)out->y + first, out->at, run, values);
        write(out, first, out->at, end);
        values -= end - out->at;
        out->at = end;
        if (end < run)
            continue;
        out->at = 0;
        cbn_next_sample(out);
    }
}
