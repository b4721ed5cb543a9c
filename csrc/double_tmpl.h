/* double_tmpl.h: the gradients of the gradients, ddy and dx, and the sum of dweight; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * All in double, and rounded once. Plain loops: they are short of arithmetic, not of memory, and compilers find the
 * vectors. `first` is the block's first channel, `at` the index of its first value. */

/* Value i; the statistics take nothing of it if they are fixed. */
static CBN_INLINE struct cbn_rests FN(rests)(const struct cbn_second *of, const struct cbn_numbers *n, ptrdiff_t i,
                                             int training)
{
    struct cbn_rests r;
    r.x_hat = ((double)GET(((const T *)of->x)[i]) - n->mean) * n->inv_std;
    r.centred_ddx = r.ddx = (double)GET(((const T *)of->ddx)[i]);
    r.dy = (double)GET(((const T *)of->dy)[i]);
    if (training) {
        r.centred_ddx = r.ddx - n->ddx_center;
        r.ddx = r.centred_ddx - r.x_hat * n->ddx_slope;
        r.dy = (r.dy - n->dy_center) - r.x_hat * n->dy_slope;
    }
    return r;
}

/* --- the sum of (ddx - mean of ddx) * rest(dy), by channel --- */

static CBN_INLINE double FN(product)(const struct cbn_second *of, const struct cbn_numbers *n, ptrdiff_t i, int training)
{
    const struct cbn_rests r = FN(rests)(of, n, i, training);
    return r.centred_ddx * r.dy;
}

/* A part of a row of one channel, from zero and then onto its lanes. */
static CBN_INLINE void FN(add_products)(double *lanes, const struct cbn_second *of, const struct cbn_numbers *n,
                                        ptrdiff_t at, ptrdiff_t length, int training)
{
    double s[CBN_LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + CBN_LANES <= length; i += CBN_LANES)
        for (int l = 0; l < CBN_LANES; l++)
            s[l] += FN(product)(of, n, at + i + l, training);
    for (int l = 0; i < length; l++, i++)
        s[l] += FN(product)(of, n, at + i, training);
    for (int l = 0; l < CBN_LANES; l++)
        lanes[l] += s[l];
}

static CBN_INLINE void FN(products_rows_of)(double *dot, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                                            const struct cbn_block *b, int training)
{
    double lanes[CBN_MAX_LANED_CHANNELS][CBN_LANES];
    memset(lanes, 0, (size_t)b->channels * sizeof *lanes);
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const struct cbn_numbers n = cbn_numbers_of(of, first + c);
            const ptrdiff_t row = at + o * b->stride + c * b->inner;
            for (ptrdiff_t i = 0; i < b->length; i += CBN_PART) {
                const ptrdiff_t rest = b->length - i;
                FN(add_products)(lanes[c], of, &n, row + i, rest < CBN_PART ? rest : CBN_PART, training);
            }
        }
    for (ptrdiff_t c = 0; c < b->channels; c++)
        dot[c] = cbn_fold_lanes(lanes[c]);
}

static void FN(products_rows)(double *dot, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                              const struct cbn_block *b)
{
    if (of->training)
        FN(products_rows_of)(dot, of, first, at, b, 1);
    else
        FN(products_rows_of)(dot, of, first, at, b, 0);
}

/* Samples that stand side by side in a row have columns of their own: short chains of additions. */
static CBN_INLINE void FN(products_columns_of)(double *dot, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                                               const struct cbn_block *b, int training)
{
    double columns[CBN_MAX_WIDTH];
    const ptrdiff_t channels = b->channels, inner = b->inner, group = channels * inner;
    memset(columns, 0, (size_t)(b->fold * group) * sizeof *columns);
    for (ptrdiff_t o = 0; o < b->outer; o++) {
        double *to = columns + o % b->fold * group;
        const ptrdiff_t row = at + o * b->stride;
        if (inner == 1)
            for (ptrdiff_t c = 0; c < channels; c++) {
                const struct cbn_numbers n = cbn_numbers_of(of, first + c);
                to[c] += FN(product)(of, &n, row + c, training);
            }
        else
            for (ptrdiff_t c = 0; c < channels; c++) {
                const struct cbn_numbers n = cbn_numbers_of(of, first + c);
                for (ptrdiff_t j = c * inner; j < (c + 1) * inner; j++)
                    to[j] += FN(product)(of, &n, row + j, training);
            }
    }
    cbn_gather(dot, columns, b);
}

static void FN(products_columns)(double *dot, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                                 const struct cbn_block *b)
{
    if (of->training)
        FN(products_columns_of)(dot, of, first, at, b, 1);
    else
        FN(products_columns_of)(dot, of, first, at, b, 0);
}

/* --- outputs --- */

static CBN_INLINE void FN(second_one)(const struct cbn_second *of, const struct cbn_numbers *n, ptrdiff_t i, int training)
{
    const struct cbn_rests r = FN(rests)(of, n, i, training);
    const double ddy = (n->scale * r.ddx + n->ddweight * r.x_hat) + n->ddbias, of_dy = n->of_dy * r.dy;
    const double dx = training ? (n->of_ddx * r.ddx + of_dy) + n->of_x * r.x_hat : of_dy;
    ((T *)of->ddy)[i] = FROM_DOUBLE(ddy);
    ((T *)of->dx)[i] = FROM_DOUBLE(dx);
}

/* Along the values of each channel, or across the channels where each has one value. */
static CBN_INLINE void FN(second_of)(const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                                     const struct cbn_block *b, int training)
{
    for (ptrdiff_t o = 0; o < b->outer; o++) {
        const ptrdiff_t row = at + o * b->stride;
        if (b->inner == 1) {
            CBN_IVDEP
            for (ptrdiff_t c = 0; c < b->channels; c++) {
                const struct cbn_numbers n = cbn_numbers_of(of, first + c);
                FN(second_one)(of, &n, row + c, training);
            }
            continue;
        }
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const struct cbn_numbers n = cbn_numbers_of(of, first + c);
            const ptrdiff_t start = row + c * b->inner, end = start + b->length;
            CBN_IVDEP
            for (ptrdiff_t i = start; i < end; i++)
                FN(second_one)(of, &n, i, training);
        }
    }
}

static void FN(second)(const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at, const struct cbn_block *b)
{
    if (of->training)
        FN(second_of)(of, first, at, b, 1);
    else
        FN(second_of)(of, first, at, b, 0);
}
