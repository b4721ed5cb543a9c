/* anchors_tmpl.h: what the sums of a channel are taken about; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* The mean of a channel's first values, taken as distances to the first one, so that the anchor of a constant channel
 * is that constant exactly. For float32, zero is as good an anchor unless the mean is large against the spread. */
static CBN_INLINE double FN(anchor_of)(double first, double sum, double squares, double n)
{
    const double anchor = first + sum / n, m2 = squares - sum * (sum / n);
    return !A_IS_DOUBLE && n * anchor * anchor <= 16 * m2 ? 0 : anchor;
}

/* from the first CBN_LANES values of the first sample */
static CBN_INLINE double FN(anchor_along)(const T *x)
{
    double sum[CBN_LANES], squares[CBN_LANES];
    cbn_vec first[CBN_VECS];
    FN(read_lanes)(first, x);
    CBN_EACH_VEC {
        const cbn_vec d = first[v] - (double)GET(x[0]);
        CBN_LOAD(sum, v) = d;
        CBN_LOAD(squares, v) = d * d;
    }
    return FN(anchor_of)((double)GET(x[0]), cbn_fold_lanes(sum), cbn_fold_lanes(squares), CBN_LANES);
}

/* From the first value of each of the first CBN_LANES samples: for one channel, or for CBN_LANES side by side. */
static CBN_INLINE double FN(anchor_down)(const T *x, ptrdiff_t samples, ptrdiff_t stride)
{
    double sum = 0, squares = 0;
    for (ptrdiff_t o = 1; o < samples; o++) {
        const double d = (double)GET(x[o * stride]) - (double)GET(x[0]);
        sum += d;
        squares += d * d;
    }
    return FN(anchor_of)((double)GET(x[0]), sum, squares, (double)samples);
}

static CBN_INLINE void FN(anchors_down)(double *anchor, const T *x, ptrdiff_t samples, ptrdiff_t stride)
{
    _Alignas(CBN_LINE_BYTES) double first[CBN_LANES], sum[CBN_LANES], squares[CBN_LANES];
    cbn_vec f[CBN_VECS], s[CBN_VECS], q[CBN_VECS];
    FN(read_lanes)(f, x);
    CBN_EACH_VEC
        s[v] = q[v] = (cbn_vec){0};
    for (ptrdiff_t o = 1; o < samples; o++) {
        cbn_vec values[CBN_VECS];
        FN(read_lanes)(values, x + o * stride);
        CBN_EACH_VEC {
            const cbn_vec d = values[v] - f[v];
            s[v] += d;
            q[v] += d * d;
        }
    }
    CBN_EACH_VEC {
        CBN_LOAD(first, v) = f[v];
        CBN_LOAD(sum, v) = s[v];
        CBN_LOAD(squares, v) = q[v];
    }
    CBN_ROLLED for (ptrdiff_t l = 0; l < CBN_LANES; l++)
        anchor[l] = FN(anchor_of)(first[l], sum[l], squares[l], (double)samples);
}

/* From the first values that count, of any places. */
static CBN_INLINE double FN(anchor_at)(const T *x, const struct cbn_first *first, int along)
{
    double sum[CBN_LANES] = {0}, squares[CBN_LANES] = {0};
    const double start = (double)GET(x[first->places[0]]);
    CBN_ROLLED for (int l = 0; l < first->count; l++) {
        const double d = (double)GET(x[first->places[l]]) - start;
        sum[along ? l : 0] += d;
        squares[along ? l : 0] += d * d;
    }
    return FN(anchor_of)(start, cbn_fold_lanes(sum), cbn_fold_lanes(squares), (double)first->count);
}

static void FN(anchors)(double *anchor, const void *x_, const struct cbn_block *b, const struct cbn_first *first)
{
    const T *x = x_;
    const ptrdiff_t samples = b->outer < CBN_LANES ? b->outer : CBN_LANES;
    ptrdiff_t c = 0;
    if (first) {
        for (; c < b->channels; c++)
            anchor[c] = FN(anchor_at)(x + c * b->inner, first, b->inner >= CBN_LANES);
        return;
    }
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
