/* sums_tmpl.h: the two sums per channel and their anchors; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- the two channel sums about an anchor: sum += g, dot += g * d, with d = x - anchor and g = dy, or d itself --- */

/* One step of CBN_LANES values. No anchor means zero: the product of two floats is exact in double, so that it does not
 * matter whether the addition is fused with it. */
static CBN_INLINE void FN(add_lanes)(cbn_vec *s, cbn_vec *q, struct cbn_most *most, const T *dy, const T *x,
                                     const cbn_vec *anchor)
{
    if (dy)
        RAISE(most, dy, x);
    CBN_EACH_VEC {
        const cbn_vec d = anchor ? WIDEN(x + v * CBN_VEC) - anchor[v] : WIDEN(x + v * CBN_VEC);
        const cbn_vec g = dy ? WIDEN(dy + v * CBN_VEC) : d;
        s[v] += g;
        q[v] = anchor ? q[v] + g * d : cbn_fmadd(g, d, q[v]);
    }
}

static CBN_INLINE void FN(raise_one)(float *most_dy, float *most_x, T dy, T x)
{
    if (T_IS_WIDE)
        return;
    const float size_dy = fabsf((float)dy), size_x = fabsf((float)x);
    *most_dy = size_dy > *most_dy ? size_dy : *most_dy;
    *most_x = size_x > *most_x ? size_x : *most_x;
}

/* A part of a row of one channel, with `before` values of the row before it, onto lanes that go on from part to part.
 * Each part is summed from zero and then added: short chains of additions round less than a long one. */
static CBN_INLINE void FN(add_row)(double *sum, double *dot, struct cbn_most *most, const T *dy, const T *x,
                                   double anchor, ptrdiff_t length, ptrdiff_t before, int centered,
                                   struct cbn_output *meanwhile)
{
    struct cbn_most m = {{{0}}, {{0}}};
    cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
    CBN_EACH_VEC {
        s[v] = q[v] = (cbn_vec){0};
        k[v] = cbn_splat(anchor);
    }
    const ptrdiff_t chunk = dy ? CBN_CHUNK / 2 : CBN_CHUNK;
    ptrdiff_t i = 0;
    while (i + CBN_LANES <= length) {
        const ptrdiff_t start = i, end = length - i < chunk + chunk / 2 ? length : i + chunk;
        for (; i + CBN_LANES <= end; i += CBN_LANES) {
            cbn_prefetch(x + i + CBN_PREFETCH);
            if (dy)
                cbn_prefetch(dy + i + CBN_PREFETCH);
            FN(add_lanes)(s, q, &m, dy ? dy + i : NULL, x + i, centered ? k : NULL);
        }
        cbn_advance(meanwhile, i - start);
    }
    if (i < length && i + before >= CBN_LANES) { /* the last lanes of the row, without those that were taken before */
        const double *mask = cbn_mask.lanes + (length - i);
        const ptrdiff_t at = length - CBN_LANES;
        if (dy)
            RAISE(&m, dy + at, x + at);
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
            if (dy)
                FN(raise_one)((float *)most->dy + l, (float *)most->x + l, dy[i], x[i]);
        }
    CBN_EACH_VEC {
        CBN_LOAD(sum, v) += s[v];
        CBN_LOAD(dot, v) += q[v];
    }
    if (dy && !T_IS_WIDE)
        cbn_raise_f32(most, (const float *)m.dy, (const float *)m.x);
}

static CBN_INLINE void FN(sums_rows_of)(const struct cbn_sums *to, const T *dy, const T *x, const double *anchor,
                                        const struct cbn_block *b, struct cbn_output *meanwhile)
{
    struct cbn_most most[CBN_MAX_LANED_CHANNELS];
    _Alignas(CBN_LINE_BYTES) double s[CBN_MAX_LANED_CHANNELS][CBN_LANES], q[CBN_MAX_LANED_CHANNELS][CBN_LANES];
    memset(s, 0, (size_t)b->channels * sizeof *s);
    memset(q, 0, (size_t)b->channels * sizeof *q);
    if (dy && !T_IS_WIDE)
        memset(most, 0, (size_t)b->channels * sizeof *most);
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const ptrdiff_t at = o * b->stride + c * b->inner;
            for (ptrdiff_t i = 0; i < b->length; i += CBN_PART) {
                const ptrdiff_t n = b->length - i < CBN_PART ? b->length - i : CBN_PART;
                const T *g = dy ? dy + at + i : NULL;
                if (T_IS_WIDE || anchor[c] != 0)
                    FN(add_row)(s[c], q[c], most + c, g, x + at + i, anchor[c], n, i, 1, meanwhile);
                else
                    FN(add_row)(s[c], q[c], most + c, g, x + at + i, 0, n, i, 0, meanwhile);
            }
        }
    for (ptrdiff_t c = 0; c < b->channels; c++) {
        to->sum[c] = cbn_fold_lanes(s[c]);
        to->dot[c] = cbn_fold_lanes(q[c]);
        if (dy && !T_IS_WIDE) {
            to->most_x[c] = cbn_most_of((const float *)most[c].x, CBN_LANES);
            to->most_dy[c] = cbn_most_of((const float *)most[c].dy, CBN_LANES);
        }
    }
}

/* What belongs to each column. */
struct FN(accumulators) {
    double *sum, *dot;
    float *most_x, *most_dy;
    const double *anchor;
};

/* `rows` rows of `width` columns, each column from zero and then onto its own sum */
static CBN_INLINE void FN(add_columns)(struct FN(accumulators) to, const T *dy, const T *x, ptrdiff_t rows,
                                       ptrdiff_t stride, ptrdiff_t width, int centered, struct cbn_output *meanwhile)
{
    /* the next rows, if they find room next to these */
    const ptrdiff_t ahead = rows * stride <= CBN_PREFETCH_MOST ? rows * stride : 0;
    ptrdiff_t j = 0, due = 0;
    for (; j + CBN_LANES <= width; j += CBN_LANES) {
        cbn_vec s[CBN_VECS], q[CBN_VECS], k[CBN_VECS];
        struct cbn_most m = {{{0}}, {{0}}};
        CBN_EACH_VEC {
            s[v] = q[v] = (cbn_vec){0};
            k[v] = CBN_LOAD(to.anchor + j, v);
        }
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t at = r * stride + j;
            if (ahead) {
                cbn_prefetch(x + at + ahead);
                if (dy)
                    cbn_prefetch(dy + at + ahead);
            }
            FN(add_lanes)(s, q, &m, dy ? dy + at : NULL, x + at, centered ? k : NULL);
        }
        CBN_EACH_VEC {
            CBN_LOAD(to.sum + j, v) += s[v];
            CBN_LOAD(to.dot + j, v) += q[v];
        }
        if (dy && !T_IS_WIDE) {
            cbn_raise_f32(&m, to.most_dy + j, to.most_x + j);
            memcpy(to.most_dy + j, m.dy, sizeof m.dy);
            memcpy(to.most_x + j, m.x, sizeof m.x);
        }
        due += rows * CBN_LANES;
        if (due >= (dy ? CBN_CHUNK / 2 : CBN_CHUNK) || j + 2 * CBN_LANES > width) {
            cbn_advance(meanwhile, due);
            due = 0;
        }
    }
    for (; j < width; j++) {
        double s = 0, q = 0;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const double d = (double)x[r * stride + j] - to.anchor[j];
            const double g = dy ? (double)dy[r * stride + j] : d;
            s += g;
            q += g * d;
            if (dy)
                FN(raise_one)(to.most_dy + j, to.most_x + j, dy[r * stride + j], x[r * stride + j]);
        }
        to.sum[j] += s;
        to.dot[j] += q;
    }
}

static CBN_INLINE void FN(sums_columns_of)(const struct cbn_sums *to, const T *dy, const T *x, const double *anchor,
                                           const struct cbn_block *b, struct cbn_output *meanwhile)
{
    _Alignas(CBN_LINE_BYTES) float most_x[CBN_MAX_WIDTH], most_dy[CBN_MAX_WIDTH];
    _Alignas(CBN_LINE_BYTES) double s[CBN_MAX_WIDTH], q[CBN_MAX_WIDTH], k[CBN_MAX_WIDTH];
    const ptrdiff_t group = b->channels * b->inner, width = b->fold * group, stride = b->fold * b->stride;
    const ptrdiff_t rows = b->outer / b->fold, rest = b->outer % b->fold;
    int centered = T_IS_WIDE;
    for (ptrdiff_t c = 0; c < b->channels; c++)
        centered |= anchor[c] != 0;
    memset(s, 0, (size_t)width * sizeof *s);
    memset(q, 0, (size_t)width * sizeof *q);
    if (dy && !T_IS_WIDE) {
        memset(most_x, 0, (size_t)width * sizeof *most_x);
        memset(most_dy, 0, (size_t)width * sizeof *most_dy);
    }
    cbn_spread(k, anchor, b);
    const struct FN(accumulators) columns = {s, q, most_x, most_dy, k};
    /* a few rows at a time: long runs through memory, short chains of additions */
    for (ptrdiff_t r = 0; r < rows; r += CBN_ROWS_AT_ONCE) {
        const ptrdiff_t at = r * stride, some = rows - r < CBN_ROWS_AT_ONCE ? rows - r : CBN_ROWS_AT_ONCE;
        if (centered)
            FN(add_columns)(columns, dy ? dy + at : NULL, x + at, some, stride, width, 1, meanwhile);
        else
            FN(add_columns)(columns, dy ? dy + at : NULL, x + at, some, stride, width, 0, meanwhile);
    }
    if (rest)
        FN(add_columns)(columns, dy ? dy + rows * stride : NULL, x + rows * stride, 1, stride, rest * group, 1,
                        meanwhile);
    cbn_gather(to->sum, s, b);
    cbn_gather(to->dot, q, b);
    if (dy && !T_IS_WIDE) {
        cbn_gather_most(to->most_x, most_x, b);
        cbn_gather_most(to->most_dy, most_dy, b);
    }
}

static void FN(sums_rows)(const struct cbn_sums *to, const void *dy, const void *x, const double *anchor,
                          const struct cbn_block *b, struct cbn_output *meanwhile)
{
    if (dy)
        FN(sums_rows_of)(to, dy, x, anchor, b, meanwhile);
    else
        FN(sums_rows_of)(to, NULL, x, anchor, b, meanwhile);
}

static void FN(sums_columns)(const struct cbn_sums *to, const void *dy, const void *x, const double *anchor,
                             const struct cbn_block *b, struct cbn_output *meanwhile)
{
    if (dy)
        FN(sums_columns_of)(to, dy, x, anchor, b, meanwhile);
    else
        FN(sums_columns_of)(to, NULL, x, anchor, b, meanwhile);
}

/* The mean of a channel's first values, taken as distances to the first one, so that the anchor of a constant channel
 * is that constant exactly. For float32, zero is as good an anchor unless the mean is large against the spread. */
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

/* From the first value of each of the first CBN_LANES samples: for one channel, or for CBN_LANES side by side. */
static CBN_INLINE double FN(anchor_down)(const T *x, ptrdiff_t samples, ptrdiff_t stride)
{
    double sum = 0, squares = 0;
    for (ptrdiff_t o = 1; o < samples; o++) {
        const double d = (double)x[o * stride] - (double)x[0];
        sum += d;
        squares += d * d;
    }
    return FN(anchor_of)((double)x[0], sum, squares, (double)samples);
}

static CBN_INLINE void FN(anchors_down)(double *anchor, const T *x, ptrdiff_t samples, ptrdiff_t stride)
{
    _Alignas(CBN_LINE_BYTES) double first[CBN_LANES], sum[CBN_LANES], squares[CBN_LANES];
    cbn_vec f[CBN_VECS], s[CBN_VECS], q[CBN_VECS];
    CBN_EACH_VEC {
        f[v] = WIDEN(x + v * CBN_VEC);
        s[v] = q[v] = (cbn_vec){0};
    }
    for (ptrdiff_t o = 1; o < samples; o++)
        CBN_EACH_VEC {
            const cbn_vec d = WIDEN(x + o * stride + v * CBN_VEC) - f[v];
            s[v] += d;
            q[v] += d * d;
        }
    CBN_EACH_VEC {
        CBN_LOAD(first, v) = f[v];
        CBN_LOAD(sum, v) = s[v];
        CBN_LOAD(squares, v) = q[v];
    }
    CBN_IVDEP
    for (ptrdiff_t l = 0; l < CBN_LANES; l++)
        anchor[l] = FN(anchor_of)(first[l], sum[l], squares[l], (double)samples);
}

static void FN(anchors)(double *anchor, const void *x_, const struct cbn_block *b)
{
    const T *x = x_;
    const ptrdiff_t samples = b->outer < CBN_LANES ? b->outer : CBN_LANES;
    ptrdiff_t c = 0;
    if (b->inner >= CBN_LANES) {
        for (; c < b->channels; c++)
            anchor[c] = FN(anchor_along)(x + c * b->inner);
        return;
    }
    if (b->inner == 1)
        for (; c + CBN_LANES <= b->channels; c += CBN_LANES)
            FN(anchors_down)(anchor + c, x + c, samples, b->stride);
    for (; c < b->channels; c++)
        anchor[c] = FN(anchor_down)(x + c * b->inner, samples, b->stride);
}
