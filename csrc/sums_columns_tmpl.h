/* sums_columns_tmpl.h: the two sums per channel, down columns; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* What belongs to each column; `position` is that of its value among those of the samples side by side. */
struct FN(accumulators) {
    double *sum, *dot;
    float *most_x, *most_dy;
    const double *anchor;
    const uint16_t *position;
};

/* The weights of CBN_LANES columns. */
static CBN_INLINE void FN(lane_weights)(double *to, const double *w, const uint16_t *position)
{
    CBN_UNROLL for (int l = 0; l < CBN_LANES; l++)
        to[l] = w[position[l]];
}

/* The columns [j, width), fewer than CBN_LANES, of `rows` rows; as add_columns. */
static CBN_APART void FN(add_few_columns)(struct FN(accumulators) to, struct FN(terms) from, ptrdiff_t j,
                                          ptrdiff_t width, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t positions,
                                          int kind)
{
    for (; j < width; j++) {
        double s = 0, q = 0;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const struct FN(terms) at = FN(terms_at)(from, r * stride + j, 0, kind);
            double g, d;
            FN(term_of)(&g, &d, &at, to.anchor[j], kind & CBN_WEIGHTED ? from.w[r * positions + to.position[j]] : 0,
                        kind);
            s += g;
            q += g * d;
            if (CBN_RAISES(kind))
                FN(raise_one)(to.most_dy + j, to.most_x + j, &at, kind);
        }
        to.sum[j] += s;
        to.dot[j] += q;
    }
}

/* `rows` rows of `width` columns, each column from zero and then onto its own sum; the weights of a row's positions
 * follow those of the row before at `positions` */
static CBN_INLINE void FN(add_columns)(struct FN(accumulators) to, struct FN(terms) from, ptrdiff_t rows,
                                       ptrdiff_t stride, ptrdiff_t width, ptrdiff_t positions, int centered, int kind,
                                       struct cbn_output *meanwhile)
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
            struct FN(terms) at = FN(terms_at)(from, r * stride + j, 0, kind);
            double weights[CBN_LANES];
            if (kind & CBN_WEIGHTED) {
                FN(lane_weights)(weights, from.w + r * positions, to.position + j);
                at.w = weights;
            }
            if (ahead)
                FN(prefetch_terms)(&at, ahead, kind);
            FN(add_lanes)(s, q, &m, &at, centered ? k : NULL, NULL, kind);
        }
        CBN_EACH_VEC {
            CBN_LOAD(to.sum + j, v) += s[v];
            CBN_LOAD(to.dot + j, v) += q[v];
        }
        if (CBN_RAISES(kind) && !A_IS_DOUBLE) {
            struct cbn_most before;
            memcpy(before.dy, to.most_dy + j, sizeof before.dy);
            memcpy(before.x, to.most_x + j, sizeof before.x);
            cbn_raise_most(&m, &before);
            memcpy(to.most_dy + j, m.dy, sizeof m.dy);
            memcpy(to.most_x + j, m.x, sizeof m.x);
        }
        due += rows * CBN_LANES;
        if (due >= (kind & CBN_BACKWARD ? CBN_CHUNK / 2 : CBN_CHUNK) || j + 2 * CBN_LANES > width) {
            cbn_advance(meanwhile, due);
            due = 0;
        }
    }
    if (j < width)
        FN(add_few_columns)(to, from, j, width, rows, stride, positions, kind);
}

static CBN_INLINE void FN(sums_columns_of)(const struct cbn_sums *to, const struct cbn_source *source,
                                           const double *anchor, const struct cbn_block *b, int kind,
                                           struct cbn_output *meanwhile)
{
    _Alignas(CBN_LINE_BYTES) float most_x[CBN_MAX_WIDTH], most_dy[CBN_MAX_WIDTH];
    _Alignas(CBN_LINE_BYTES) double s[CBN_MAX_WIDTH], q[CBN_MAX_WIDTH], k[CBN_MAX_WIDTH];
    uint16_t position[CBN_MAX_WIDTH] = {0};
    const ptrdiff_t group = b->channels * b->inner, width = b->fold * group, stride = b->fold * b->stride;
    const ptrdiff_t rows = b->outer / b->fold, rest = b->outer % b->fold, positions = b->fold * b->inner;
    const int raises = CBN_RAISES(kind) && !A_IS_DOUBLE;
    const int always = A_IS_DOUBLE || CBN_CENTERED(kind);
    int centered = always;
    for (ptrdiff_t c = 0; c < b->channels; c++)
        centered |= anchor[c] != 0;
    memset(s, 0, (size_t)width * sizeof *s);
    memset(q, 0, (size_t)width * sizeof *q);
    if (raises) {
        memset(most_x, 0, (size_t)width * sizeof *most_x);
        memset(most_dy, 0, (size_t)width * sizeof *most_dy);
    }
    if (kind & CBN_WEIGHTED)
        cbn_number_positions(position, b);
    cbn_spread(k, anchor, b);
    const struct FN(accumulators) columns = {s, q, most_x, most_dy, k, position};
    const struct FN(terms) from = {source->x, source->dy, source->activated, source->weights, source->bend};
    /* a few rows at a time: long runs through memory, short chains of additions; and then the row that is not full */
    for (ptrdiff_t r = 0, some; r < rows + (rest > 0); r += some) {
        some = rows - r < CBN_ROWS_AT_ONCE ? rows - r : CBN_ROWS_AT_ONCE;
        ptrdiff_t filled = width;
        if (r == rows) {
            some = 1;
            filled = rest * group;
        }
        const struct FN(terms) at = FN(terms_at)(from, r * stride, r * positions, kind);
        if (always || centered)
            FN(add_columns)(columns, at, some, stride, filled, positions, 1, kind, meanwhile);
        else
            FN(add_columns)(columns, at, some, stride, filled, positions, 0, kind, meanwhile);
    }
    cbn_gather(to->sum, s, b);
    cbn_gather(to->dot, q, b);
    if (raises) {
        cbn_gather_most(to->most_x, most_x, b);
        cbn_gather_most(to->most_dy, most_dy, b);
    }
}

CHOOSE_SUMS(sums_columns)
