/* kernels_tmpl.h: all arithmetic on elements, for one element type and one instruction set.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Included by kernels.h once for each element type, with T (the type), FN(name) (its suffix), WIDEN (a vector of T
 * to doubles) and T_IS_WIDE (T is double). Everything is static.
 *
 * Same bits everywhere: a reduction is written as CBN_LANES independent sums, which any vector width computes in the
 * same way, and every other loop is elementwise. Nothing may be reassociated or contracted (-ffp-contract=off). */

/* --- the two channel sums about an anchor: sum += g, dot += g * d, with d = x - anchor and g = dy, or d itself --- */

/* one step of CBN_LANES values */
static CBN_INLINE void FN(add_lanes)(cbn_vec *s, cbn_vec *q, const T *dy, const T *x, const cbn_vec *anchor)
{
    CBN_EACH_VEC {
        const cbn_vec d = WIDEN(x + v * CBN_VEC) - anchor[v];
        const cbn_vec g = dy ? WIDEN(dy + v * CBN_VEC) : d;
        s[v] += g;
        q[v] += g * d;
    }
}

/* A part of a row of one channel, onto lanes that go on from part to part. Each part is summed from zero and then added:
 * short chains of additions round less than a long one. */
static CBN_INLINE void FN(add_row)(double *sum, double *dot, const T *dy, const T *x, double anchor, ptrdiff_t length)
{
    cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
    CBN_EACH_VEC {
        s[v] = q[v] = (cbn_vec){0};
        k[v] = (cbn_vec){0} + anchor;
    }
    ptrdiff_t i = 0;
    for (; i + CBN_LANES <= length; i += CBN_LANES) {
        cbn_prefetch(x + i);
        if (dy)
            cbn_prefetch(dy + i);
        FN(add_lanes)(s, q, dy ? dy + i : NULL, x + i, k);
    }
    if (i < length) { /* the rest, filled up with zeros, which add nothing */
        double d[CBN_LANES] = {0}, g[CBN_LANES] = {0};
        for (ptrdiff_t l = 0; l < length - i; l++) {
            d[l] = (double)x[i + l] - anchor;
            g[l] = dy ? (double)dy[i + l] : d[l];
        }
        CBN_EACH_VEC {
            s[v] += CBN_LOAD(g, v);
            q[v] += CBN_LOAD(g, v) * CBN_LOAD(d, v);
        }
    }
    CBN_EACH_VEC {
        CBN_LOAD(sum, v) += s[v];
        CBN_LOAD(dot, v) += q[v];
    }
}

static CBN_INLINE void FN(sums_rows_of)(double *sum, double *dot, const T *dy, const T *x, const double *anchor,
                                        const struct cbn_block *b)
{
    double s[CBN_MAX_LANED_CHANNELS][CBN_LANES], q[CBN_MAX_LANED_CHANNELS][CBN_LANES];
    memset(s, 0, (size_t)b->channels * sizeof *s);
    memset(q, 0, (size_t)b->channels * sizeof *q);
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const ptrdiff_t at = o * b->stride + c * b->inner;
            for (ptrdiff_t i = 0; i < b->length; i += CBN_PART) {
                const ptrdiff_t n = b->length - i < CBN_PART ? b->length - i : CBN_PART;
                FN(add_row)(s[c], q[c], dy ? dy + at + i : NULL, x + at + i, anchor[c], n);
            }
        }
    for (ptrdiff_t c = 0; c < b->channels; c++) {
        sum[c] = cbn_fold_lanes(s[c]);
        dot[c] = cbn_fold_lanes(q[c]);
    }
}

/* `rows` rows of `width` columns, each column from zero and then onto its own sum */
static CBN_INLINE void FN(add_columns)(double *sum, double *dot, const T *dy, const T *x, const double *anchor,
                                       ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t width)
{
    ptrdiff_t j = 0;
    for (; j + CBN_LANES <= width; j += CBN_LANES) {
        cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
        CBN_EACH_VEC {
            s[v] = q[v] = (cbn_vec){0};
            k[v] = CBN_LOAD(anchor + j, v);
        }
        for (ptrdiff_t r = 0; r < rows; r++)
            FN(add_lanes)(s, q, dy ? dy + r * stride + j : NULL, x + r * stride + j, k);
        CBN_EACH_VEC {
            CBN_LOAD(sum + j, v) += s[v];
            CBN_LOAD(dot + j, v) += q[v];
        }
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
                                           const struct cbn_block *b)
{
    double s[CBN_MAX_WIDTH] = {0}, q[CBN_MAX_WIDTH] = {0}, k[CBN_MAX_WIDTH];
    const ptrdiff_t group = b->channels * b->inner, width = b->fold * group, stride = b->fold * b->stride;
    const ptrdiff_t rows = b->outer / b->fold, rest = b->outer % b->fold;
    cbn_spread(k, anchor, b);
    /* a few rows at a time: long runs through memory, short chains of additions */
    for (ptrdiff_t r = 0; r < rows; r += CBN_ROWS_AT_ONCE) {
        const ptrdiff_t at = r * stride, some = rows - r < CBN_ROWS_AT_ONCE ? rows - r : CBN_ROWS_AT_ONCE;
        FN(add_columns)(s, q, dy ? dy + at : NULL, x + at, k, some, stride, width);
    }
    if (rest)
        FN(add_columns)(s, q, dy ? dy + rows * stride : NULL, x + rows * stride, k, 1, stride, rest * group);
    cbn_gather(sum, s, b);
    cbn_gather(dot, q, b);
}

static void FN(sums_rows)(double *sum, double *dot, const void *dy, const void *x, const double *anchor,
                          const struct cbn_block *b)
{
    if (dy)
        FN(sums_rows_of)(sum, dot, dy, x, anchor, b);
    else
        FN(sums_rows_of)(sum, dot, NULL, x, anchor, b);
}

static void FN(sums_columns)(double *sum, double *dot, const void *dy, const void *x, const double *anchor,
                             const struct cbn_block *b)
{
    if (dy)
        FN(sums_columns_of)(sum, dot, dy, x, anchor, b);
    else
        FN(sums_columns_of)(sum, dot, NULL, x, anchor, b);
}

/* The first value plus the mean distance to it, so that the anchor of a constant channel is that constant exactly. */
static void FN(anchors)(double *anchor, const void *x_, const struct cbn_block *b)
{
    const ptrdiff_t count = b->outer < CBN_LANES ? b->outer * b->inner : CBN_LANES * b->inner;
    const ptrdiff_t n = count < CBN_LANES ? count : CBN_LANES;
    for (ptrdiff_t c = 0; c < b->channels; c++) {
        const T *x = (const T *)x_ + c * b->inner;
        double d[CBN_LANES] = {0};
        for (ptrdiff_t l = 0; l < n; l++)
            d[l] = (double)x[l / b->inner * b->stride + l % b->inner] - (double)x[0];
        anchor[c] = (double)x[0] + cbn_fold_lanes(d) / (double)n;
    }
}

/* --- outputs: elementwise, so that any cut of a run into parts gives the same bits --- */

/* Computes `length` outputs to y for the inputs at index `at`: of channel c, or of the columns from i on. */
typedef void FN(part_fn)(T *y, const void *context, ptrdiff_t at, ptrdiff_t c, ptrdiff_t i, ptrdiff_t length);

/* A run of outputs that belongs at y + at: directly, or by way of the writer. */
static CBN_INLINE void FN(emit)(struct cbn_writer *w, T *y, FN(part_fn) *part, const void *context, ptrdiff_t at,
                                ptrdiff_t c, ptrdiff_t length)
{
    if (w == NULL) {
        part(y + at, context, at, c, 0, length);
        return;
    }
    cbn_writer_seek(w, y + at);
    for (ptrdiff_t i = 0; i < length;) {
        const ptrdiff_t room = (ptrdiff_t)((w->room - w->fill) / sizeof(T));
        const ptrdiff_t n = length - i < room ? length - i : room;
        part((T *)(void *)(w->buffer + w->fill), context, at + i, c, i, n);
        w->fill += (size_t)n * sizeof(T);
        i += n;
        if (w->fill == w->room)
            cbn_writer_flush(w);
    }
}

static CBN_INLINE void FN(emit_rows)(T *y, FN(part_fn) *part, const void *context, const struct cbn_block *b)
{
    struct cbn_writer writer, *w = b->streaming ? cbn_writer_open(&writer, y) : NULL;
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            FN(emit)(w, y, part, context, o * b->stride + c * b->inner, c, b->length);
    cbn_writer_close(w);
}

static CBN_INLINE void FN(emit_columns)(T *y, FN(part_fn) *part, const void *context, const struct cbn_block *b)
{
    struct cbn_writer writer, *w = b->streaming ? cbn_writer_open(&writer, y) : NULL;
    for (ptrdiff_t o = 0; o < b->outer; o += b->fold) {
        const ptrdiff_t samples = b->outer - o < b->fold ? b->outer - o : b->fold;
        FN(emit)(w, y, part, context, o * b->stride, 0, samples * b->channels * b->inner);
    }
    cbn_writer_close(w);
}

/* --- y = (x - mean) * scale + bias --- */

/* One channel's line. In float32 the mean is split: its nearest float is subtracted from x, the rest goes into the
 * shift, so that a mean of a million deviations costs nothing. Where float32 could over- or underflow on the way the
 * line is `wide`: computed in double. */
struct FN(line) {
    T mean, scale, shift;
    int wide;
};

struct FN(affine) {
    const T *x;
    const double *mean, *scale, *bias; /* by channel */
    struct FN(line) *line;             /* by channel */
    T *m, *a, *s;                      /* by column */
    ptrdiff_t inner, group;
};

static CBN_INLINE struct FN(line) FN(make_line)(double mean, double scale, double bias)
{
    struct FN(line) line = {.mean = (T)mean, .scale = (T)scale};
    const double shift = T_IS_WIDE ? bias : bias - (mean - (double)line.mean) * scale;
    const double size = fabs(scale);
    line.shift = (T)shift;
    line.wide = !T_IS_WIDE && !(fabs(mean) <= 0x1p100 && fabs(shift) <= 0x1p100 &&
                                ((size >= 0x1p-100 && size <= 0x1p100) || size == 0));
    return line;
}

static CBN_INLINE T FN(affine_wide)(const struct FN(affine) *f, T x, ptrdiff_t c)
{
    return (T)(((double)x - f->mean[c]) * f->scale[c] + f->bias[c]);
}

static CBN_INLINE void FN(affine_row)(T *y, const void *context, ptrdiff_t at, ptrdiff_t c, ptrdiff_t i,
                                      ptrdiff_t length)
{
    (void)i;
    const struct FN(affine) *f = context;
    const struct FN(line) line = f->line[c];
    const T *x = f->x + at;
    if (line.wide)
        for (ptrdiff_t j = 0; j < length; j++)
            y[j] = FN(affine_wide)(f, x[j], c);
    else
        CBN_IVDEP
        for (ptrdiff_t j = 0; j < length; j++)
            y[j] = (x[j] - line.mean) * line.scale + line.shift;
}

static CBN_INLINE void FN(affine_part)(T *y, const void *context, ptrdiff_t at, ptrdiff_t c, ptrdiff_t i,
                                       ptrdiff_t length)
{
    (void)c;
    const struct FN(affine) *f = context;
    const T *x = f->x + at, *m = f->m + i, *a = f->a + i, *s = f->s + i;
    CBN_IVDEP
    for (ptrdiff_t j = 0; j < length; j++)
        y[j] = (x[j] - m[j]) * a[j] + s[j];
}

/* For blocks with a wide channel among others, which get the bits that they always get. Rare, so not fast. */
static CBN_INLINE void FN(affine_mixed)(T *y, const void *context, ptrdiff_t at, ptrdiff_t c, ptrdiff_t i,
                                        ptrdiff_t length)
{
    const struct FN(affine) *f = context;
    for (ptrdiff_t j = 0; j < length; j++) {
        c = (i + j) % f->group / f->inner;
        const T x = f->x[at + j];
        const struct FN(line) line = f->line[c];
        y[j] = line.wide ? FN(affine_wide)(f, x, c) : (x - line.mean) * line.scale + line.shift;
    }
}

static void FN(affine_rows)(void *y, const void *x, const double *mean, const double *scale, const double *bias,
                            const struct cbn_block *b)
{
    struct FN(line) line[CBN_MAX_LANED_CHANNELS];
    for (ptrdiff_t c = 0; c < b->channels; c++)
        line[c] = FN(make_line)(mean[c], scale[c], bias[c]);
    const struct FN(affine) f = {.x = x, .mean = mean, .scale = scale, .bias = bias, .line = line};
    FN(emit_rows)(y, FN(affine_row), &f, b);
}

static void FN(affine_columns)(void *y, const void *x, const double *mean, const double *scale, const double *bias,
                               const struct cbn_block *b)
{
    struct FN(line) line[CBN_MAX_WIDTH];
    T m[CBN_MAX_WIDTH], a[CBN_MAX_WIDTH], s[CBN_MAX_WIDTH];
    int wide = 0;
    for (ptrdiff_t c = 0; c < b->channels; c++) {
        line[c] = FN(make_line)(mean[c], scale[c], bias[c]);
        wide |= line[c].wide;
    }
    for (ptrdiff_t f = 0, j = 0; f < b->fold; f++)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            for (ptrdiff_t i = 0; i < b->inner; i++, j++) {
                m[j] = line[c].mean;
                a[j] = line[c].scale;
                s[j] = line[c].shift;
            }
    const struct FN(affine) f = {.x = x, .mean = mean, .scale = scale, .bias = bias, .line = line, .m = m, .a = a,
                                 .s = s, .inner = b->inner, .group = b->channels * b->inner};
    if (wide)
        FN(emit_columns)(y, FN(affine_mixed), &f, b);
    else
        FN(emit_columns)(y, FN(affine_part), &f, b);
}

/* --- dx = scale * ((dy - center) - slope * (x - mean)) --- */

struct FN(grad) {
    const T *dy, *x;
    const double *mean, *scale, *center, *slope; /* by channel (rows) or by column */
};

/* In double whatever T is: dy is often nearly a line in x (a loss of y^2, say), and what is left of it would be noise. */
static CBN_INLINE T FN(grad)(T dy, T x, double mean, double scale, double center, double slope)
{
    return (T)(scale * (((double)dy - center) - slope * ((double)x - mean)));
}

static CBN_INLINE void FN(grad_row)(T *dx, const void *context, ptrdiff_t at, ptrdiff_t c, ptrdiff_t i,
                                    ptrdiff_t length)
{
    (void)i;
    const struct FN(grad) *g = context;
    const T *dy = g->dy + at, *x = g->x + at;
    const double m = g->mean[c], a = g->scale[c], z = g->center[c], k = g->slope[c];
    CBN_IVDEP
    for (ptrdiff_t j = 0; j < length; j++)
        dx[j] = FN(grad)(dy[j], x[j], m, a, z, k);
}

static CBN_INLINE void FN(grad_part)(T *dx, const void *context, ptrdiff_t at, ptrdiff_t c, ptrdiff_t i,
                                     ptrdiff_t length)
{
    (void)c;
    const struct FN(grad) *g = context;
    const T *dy = g->dy + at, *x = g->x + at;
    const double *m = g->mean + i, *a = g->scale + i, *z = g->center + i, *k = g->slope + i;
    CBN_IVDEP
    for (ptrdiff_t j = 0; j < length; j++)
        dx[j] = FN(grad)(dy[j], x[j], m[j], a[j], z[j], k[j]);
}

static void FN(grad_rows)(void *dx, const void *dy, const void *x, const double *mean, const double *scale,
                          const double *center, const double *slope, const struct cbn_block *b)
{
    const struct FN(grad) g = {dy, x, mean, scale, center, slope};
    FN(emit_rows)(dx, FN(grad_row), &g, b);
}

static void FN(grad_columns)(void *dx, const void *dy, const void *x, const double *mean, const double *scale,
                             const double *center, const double *slope, const struct cbn_block *b)
{
    double m[CBN_MAX_WIDTH], a[CBN_MAX_WIDTH], z[CBN_MAX_WIDTH], k[CBN_MAX_WIDTH];
    cbn_spread(m, mean, b);
    cbn_spread(a, scale, b);
    cbn_spread(z, center, b);
    cbn_spread(k, slope, b);
    const struct FN(grad) g = {dy, x, m, a, z, k};
    FN(emit_columns)(dx, FN(grad_part), &g, b);
}

static const struct cbn_ops FN(ops) = {
    .itemsize = sizeof(T),
    .far = T_IS_WIDE ? 2 : 1024, /* float32 results do not see the ten bits that a worse anchor costs */
    .anchors = FN(anchors),
    .sums = {FN(sums_rows), FN(sums_columns)},
    .affine = {FN(affine_rows), FN(affine_columns)},
    .input_grad = {FN(grad_rows), FN(grad_columns)},
};

#undef T
#undef FN
#undef WIDEN
#undef T_IS_WIDE
