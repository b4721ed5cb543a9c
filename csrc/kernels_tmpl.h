/* kernels_tmpl.h: all arithmetic on elements, for one element type and one instruction set.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Included by kernels.h once for each element type, with T (the type), FN(name) (its suffix), WIDEN (a vector of T
 * to doubles), NARROW (and back, to memory) and T_IS_WIDE (T is double). Everything is static.
 *
 * Same bits everywhere: a reduction is written as CBN_LANES independent sums, which any vector width computes in the
 * same way, and every other loop is elementwise. Nothing may be reassociated or contracted (-ffp-contract=off). */

/* --- the two channel sums about an anchor: sum += g, dot += g * d, with d = x - anchor and g = dy, or d itself --- */

/* One step of CBN_LANES values. No anchor means zero: the product of two floats is exact in double, so that it does not
 * matter whether the addition is fused with it. */
static CBN_INLINE void FN(add_lanes)(cbn_vec *s, cbn_vec *q, const T *dy, const T *x, const cbn_vec *anchor)
{
    CBN_EACH_VEC {
        const cbn_vec d = anchor ? WIDEN(x + v * CBN_VEC) - anchor[v] : WIDEN(x + v * CBN_VEC);
        const cbn_vec g = dy ? WIDEN(dy + v * CBN_VEC) : d;
        s[v] += g;
        q[v] = anchor ? q[v] + g * d : cbn_fmadd(g, d, q[v]);
    }
}

/* A part of a row of one channel, with `before` values of the row before it, onto lanes that go on from part to part.
 * Each part is summed from zero and then added: short chains of additions round less than a long one. */
static CBN_INLINE void FN(add_row)(double *sum, double *dot, const T *dy, const T *x, double anchor, ptrdiff_t length,
                                   ptrdiff_t before, int centered, struct cbn_output *meanwhile)
{
    cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
    CBN_EACH_VEC {
        s[v] = q[v] = (cbn_vec){0};
        k[v] = (cbn_vec){0} + anchor;
    }
    ptrdiff_t i = 0;
    while (i + CBN_LANES <= length) {
        const ptrdiff_t start = i, end = length - i < CBN_CHUNK ? length : i + CBN_CHUNK;
        for (; i + CBN_LANES <= end; i += CBN_LANES) {
            cbn_prefetch(x + i + CBN_PREFETCH);
            if (dy)
                cbn_prefetch(dy + i + CBN_PREFETCH);
            FN(add_lanes)(s, q, dy ? dy + i : NULL, x + i, centered ? k : NULL);
        }
        cbn_advance(meanwhile, i - start);
    }
    if (i < length && i + before >= CBN_LANES) { /* the last lanes of the row, without those that were taken before */
        const double *mask = cbn_mask.lanes + (length - i);
        const ptrdiff_t at = length - CBN_LANES;
        CBN_EACH_VEC {
            const cbn_vec d = cbn_and(WIDEN(x + at + v * CBN_VEC) - k[v], CBN_LOAD(mask, v));
            const cbn_vec g = dy ? cbn_and(WIDEN(dy + at + v * CBN_VEC), CBN_LOAD(mask, v)) : d;
            s[v] += g;
            q[v] += g * d;
        }
    } else
        for (ptrdiff_t l = 0; i < length; i++, l++) {
            const double d = (double)x[i] - anchor, g = dy ? (double)dy[i] : d;
            sum[l] += g;
            dot[l] += g * d;
        }
    CBN_EACH_VEC {
        CBN_LOAD(sum, v) += s[v];
        CBN_LOAD(dot, v) += q[v];
    }
}

static CBN_INLINE void FN(sums_rows_of)(double *sum, double *dot, const T *dy, const T *x, const double *anchor,
                                        const struct cbn_block *b, struct cbn_output *meanwhile)
{
    _Alignas(CBN_LINE_BYTES) double s[CBN_MAX_LANED_CHANNELS][CBN_LANES], q[CBN_MAX_LANED_CHANNELS][CBN_LANES];
    memset(s, 0, (size_t)b->channels * sizeof *s);
    memset(q, 0, (size_t)b->channels * sizeof *q);
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const ptrdiff_t at = o * b->stride + c * b->inner;
            for (ptrdiff_t i = 0; i < b->length; i += CBN_PART) {
                const ptrdiff_t n = b->length - i < CBN_PART ? b->length - i : CBN_PART;
                if (T_IS_WIDE || anchor[c] != 0)
                    FN(add_row)(s[c], q[c], dy ? dy + at + i : NULL, x + at + i, anchor[c], n, i, 1, meanwhile);
                else
                    FN(add_row)(s[c], q[c], dy ? dy + at + i : NULL, x + at + i, 0, n, i, 0, meanwhile);
            }
        }
    for (ptrdiff_t c = 0; c < b->channels; c++) {
        sum[c] = cbn_fold_lanes(s[c]);
        dot[c] = cbn_fold_lanes(q[c]);
    }
}

/* `rows` rows of `width` columns, each column from zero and then onto its own sum */
static CBN_INLINE void FN(add_columns)(double *sum, double *dot, const T *dy, const T *x, const double *anchor,
                                       ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t width, int centered,
                                       struct cbn_output *meanwhile)
{
    /* the next rows, if they find room next to these */
    const ptrdiff_t ahead = rows * stride <= CBN_PREFETCH_MOST ? rows * stride : 0;
    ptrdiff_t j = 0;
    for (; j + CBN_LANES <= width; j += CBN_LANES) {
        cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
        CBN_EACH_VEC {
            s[v] = q[v] = (cbn_vec){0};
            k[v] = CBN_LOAD(anchor + j, v);
        }
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t at = r * stride + j;
            if (ahead) {
                cbn_prefetch(x + at + ahead);
                if (dy)
                    cbn_prefetch(dy + at + ahead);
            }
            FN(add_lanes)(s, q, dy ? dy + at : NULL, x + at, centered ? k : NULL);
        }
        CBN_EACH_VEC {
            CBN_LOAD(sum + j, v) += s[v];
            CBN_LOAD(dot + j, v) += q[v];
        }
        cbn_advance(meanwhile, rows * CBN_LANES);
    }
    for (; j < width; j++) {
        double s = 0, q = 0;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const double d = (double)x[r * stride + j] - anchor[j];
            const double g = dy ? (double)dy[r * stride + j] : d;
            s += g;
            q += g * d;
        }
        sum[j] += s;
        dot[j] += q;
    }
}

static CBN_INLINE void FN(sums_columns_of)(double *sum, double *dot, const T *dy, const T *x, const double *anchor,
                                           const struct cbn_block *b, struct cbn_output *meanwhile)
{
    _Alignas(CBN_LINE_BYTES) double s[CBN_MAX_WIDTH], q[CBN_MAX_WIDTH], k[CBN_MAX_WIDTH];
    const ptrdiff_t group = b->channels * b->inner, width = b->fold * group, stride = b->fold * b->stride;
    const ptrdiff_t rows = b->outer / b->fold, rest = b->outer % b->fold;
    int centered = T_IS_WIDE;
    for (ptrdiff_t c = 0; c < b->channels; c++)
        centered |= anchor[c] != 0;
    memset(s, 0, (size_t)width * sizeof *s);
    memset(q, 0, (size_t)width * sizeof *q);
    cbn_spread(k, anchor, b);
    /* a few rows at a time: long runs through memory, short chains of additions */
    for (ptrdiff_t r = 0; r < rows; r += CBN_ROWS_AT_ONCE) {
        const ptrdiff_t at = r * stride, some = rows - r < CBN_ROWS_AT_ONCE ? rows - r : CBN_ROWS_AT_ONCE;
        if (centered)
            FN(add_columns)(s, q, dy ? dy + at : NULL, x + at, k, some, stride, width, 1, meanwhile);
        else
            FN(add_columns)(s, q, dy ? dy + at : NULL, x + at, k, some, stride, width, 0, meanwhile);
    }
    if (rest)
        FN(add_columns)(s, q, dy ? dy + rows * stride : NULL, x + rows * stride, k, 1, stride, rest * group, 1, meanwhile);
    cbn_gather(sum, s, b);
    cbn_gather(dot, q, b);
}

static void FN(sums_rows)(double *sum, double *dot, const void *dy, const void *x, const double *anchor,
                          const struct cbn_block *b, struct cbn_output *meanwhile)
{
    if (dy)
        FN(sums_rows_of)(sum, dot, dy, x, anchor, b, meanwhile);
    else
        FN(sums_rows_of)(sum, dot, NULL, x, anchor, b, meanwhile);
}

static void FN(sums_columns)(double *sum, double *dot, const void *dy, const void *x, const double *anchor,
                             const struct cbn_block *b, struct cbn_output *meanwhile)
{
    if (dy)
        FN(sums_columns_of)(sum, dot, dy, x, anchor, b, meanwhile);
    else
        FN(sums_columns_of)(sum, dot, NULL, x, anchor, b, meanwhile);
}

/* The mean of a channel's first values, taken as distances to the first one, so that the anchor of a constant channel is
 * that constant exactly. For float32, zero is as good an anchor unless the mean is large against the spread. */
static CBN_INLINE double FN(anchor_of)(double first, double sum, double squares, double n)
{
    const double anchor = first + sum / n, m2 = squares - sum * (sum / n);
    return !T_IS_WIDE && n * anchor * anchor <= 16 * m2 ? 0 : anchor;
}

/* from the first CBN_LANES values of the first sample */
static CBN_INLINE double FN(anchor_along)(const T *x)
{
    double sum[CBN_LANES], squares[CBN_LANES];
    CBN_EACH_VEC {
        const cbn_vec d = WIDEN(x + v * CBN_VEC) - (double)x[0];
        CBN_LOAD(sum, v) = d;
        CBN_LOAD(squares, v) = d * d;
    }
    return FN(anchor_of)((double)x[0], cbn_fold_lanes(sum), cbn_fold_lanes(squares), CBN_LANES);
}

/* from the first value of each of the first CBN_LANES samples; `step` between channels, of at most CBN_LANES */
static CBN_INLINE void FN(anchors_down)(double *anchor, const T *x, ptrdiff_t channels, ptrdiff_t step,
                                        const struct cbn_block *b)
{
    const ptrdiff_t n = b->outer < CBN_LANES ? b->outer : CBN_LANES;
    double sum[CBN_LANES] = {0}, squares[CBN_LANES] = {0};
    for (ptrdiff_t o = 1; o < n; o++)
        for (ptrdiff_t c = 0; c < channels; c++) {
            const double d = (double)x[o * b->stride + c * step] - (double)x[c * step];
            sum[c] += d;
            squares[c] += d * d;
        }
    for (ptrdiff_t c = 0; c < channels; c++)
        anchor[c] = FN(anchor_of)((double)x[c * step], sum[c], squares[c], (double)n);
}

static void FN(anchors)(double *anchor, const void *x_, const struct cbn_block *b)
{
    const T *x = x_;
    ptrdiff_t c = 0;
    if (b->inner >= CBN_LANES) {
        for (; c < b->channels; c++)
            anchor[c] = FN(anchor_along)(x + c * b->inner);
        return;
    }
    if (b->inner == 1)
        for (; c + CBN_LANES <= b->channels; c += CBN_LANES)
            FN(anchors_down)(anchor + c, x + c, CBN_LANES, 1, b);
    for (; c < b->channels; c++)
        FN(anchors_down)(anchor + c, x + c * b->inner, 1, 1, b);
}

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

struct FN(row) {
    const T *x;
    T mean, scale, shift;
};

static CBN_INLINE T FN(row_one)(const void *run, ptrdiff_t j)
{
    const struct FN(row) *r = run;
    return (r->x[j] - r->mean) * r->scale + r->shift;
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
    return (r->x[j] - r->mean[j]) * r->scale[j] + r->shift[j];
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
    for (; j < end; j++) {
        const T narrow = (x[j] - (T)mean[j]) * (T)scale[j] + (T)shift[j];
        y[j] = wide[j] != 0 ? FN(wide)(x[j], mean[j], scale[j], shift[j]) : narrow;
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
    const ptrdiff_t width = b->fold * b->channels * b->inner;
    T *mean = (T *)out->column[0], *scale = (T *)out->column[1], *shift = (T *)out->column[2];
    int wide = 0;
    for (ptrdiff_t j = 0; j < width && !wide;)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const struct cbn_line line = FN(make_line)(out->mean[c], out->scale[c], out->shift[c]);
            wide |= line.wide;
            for (ptrdiff_t i = 0; i < b->inner; i++, j++) {
                mean[j] = (T)line.mean;
                scale[j] = (T)line.scale;
                shift[j] = (T)line.shift;
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

/* --- dx = scale * ((dy - center) - slope * (x - mean)), where shift is the center --- */

/* In double whatever T is: dy is often nearly a line in x (a loss of y^2, say), and what is left of it would be noise. */
struct FN(grad) {
    const T *dy, *x;
    double mean, scale, center, slope;
};

static CBN_INLINE T FN(grad_one)(const void *run, ptrdiff_t j)
{
    const struct FN(grad) *r = run;
    return (T)(r->scale * (((double)r->dy[j] - r->center) - r->slope * ((double)r->x[j] - r->mean)));
}

static CBN_INLINE void FN(grad_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad) *r = run;
    cbn_prefetch(r->dy + j + CBN_PREFETCH / 2);
    cbn_prefetch(r->x + j + CBN_PREFETCH / 2);
    for (ptrdiff_t i = j; i < j + LINE; i += CBN_VEC, dx += CBN_VEC)
        NARROW(dx, r->scale * ((WIDEN(r->dy + i) - r->center) - r->slope * (WIDEN(r->x + i) - r->mean)), streaming);
}

static CBN_INLINE void FN(write_grad)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end)
{
    const ptrdiff_t c = out->channel;
    const struct FN(grad) run = {(const T *)out->dy + at, (const T *)out->x + at, out->mean[c], out->scale[c],
                                 out->shift[c], out->slope[c]};
    FN(emit)((T *)out->y + at, FN(grad_one), FN(grad_line), &run, j, end, out->block.streaming);
}

static void FN(advance_grad)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_rows)(out, values, FN(write_grad));
}

static void FN(open_grad_rows)(struct cbn_output *out)
{
    cbn_open(out, FN(advance_grad));
}

struct FN(grad_columns) {
    const T *dy, *x;
    const double *mean, *scale, *center, *slope;
};

static CBN_INLINE T FN(grad_columns_one)(const void *run, ptrdiff_t j)
{
    const struct FN(grad_columns) *r = run;
    return (T)(r->scale[j] * (((double)r->dy[j] - r->center[j]) - r->slope[j] * ((double)r->x[j] - r->mean[j])));
}

static CBN_INLINE void FN(grad_columns_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad_columns) *r = run;
    cbn_prefetch(r->dy + j + CBN_PREFETCH / 2);
    cbn_prefetch(r->x + j + CBN_PREFETCH / 2);
    for (ptrdiff_t i = j; i < j + LINE; i += CBN_VEC, dx += CBN_VEC) {
        const cbn_vec rest = WIDEN(r->dy + i) - CBN_LOAD(r->center + i, 0);
        const cbn_vec line = CBN_LOAD(r->slope + i, 0) * (WIDEN(r->x + i) - CBN_LOAD(r->mean + i, 0));
        NARROW(dx, CBN_LOAD(r->scale + i, 0) * (rest - line), streaming);
    }
}

static CBN_INLINE void FN(write_grad_columns)(const struct cbn_output *out, ptrdiff_t at, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(grad_columns) run = {(const T *)out->dy + at, (const T *)out->x + at, out->column[0],
                                         out->column[1], out->column[2], out->column[3]};
    FN(emit)((T *)out->y + at, FN(grad_columns_one), FN(grad_columns_line), &run, j, end, out->block.streaming);
}

static void FN(advance_grad_columns)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_grad_columns));
}

static void FN(open_grad_columns)(struct cbn_output *out)
{
    cbn_spread(out->column[0], out->mean, &out->block);
    cbn_spread(out->column[1], out->scale, &out->block);
    cbn_spread(out->column[2], out->shift, &out->block);
    cbn_spread(out->column[3], out->slope, &out->block);
    cbn_open(out, FN(advance_grad_columns));
}

static const struct cbn_ops FN(ops) = {
    .itemsize = sizeof(T),
    .far = T_IS_WIDE ? 2 : 1024, /* float32 results do not see the ten bits that a worse anchor costs */
    .anchors = FN(anchors),
    .sums = {FN(sums_rows), FN(sums_columns)},
    .affine = {FN(open_rows), FN(open_columns)},
    .input_grad = {FN(open_grad_rows), FN(open_grad_columns)},
};

#undef T
#undef FN
#undef WIDEN
#undef NARROW
#undef LINE
#undef TVEC
#undef T_IS_WIDE
