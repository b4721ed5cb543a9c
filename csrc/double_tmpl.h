/* double_tmpl.h: the gradients of the gradients, ddy and dx, and the sum of dweight; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * All in double, and rounded once; AVEC values at a time. `first` is the block's first channel, `at` the index of its
 * first value. */

/* AVEC values of x, ddx and dy, as doubles. */
struct FN(triple) {
    cbn_vec x[DOUBLES], ddx[DOUBLES], dy[DOUBLES];
};

static CBN_INLINE struct FN(triple) FN(triple_at)(const struct cbn_second *of, ptrdiff_t i)
{
    struct FN(triple) v;
    OF(cbn_read)(v.x, (const T *)of->x + i);
    OF(cbn_read)(v.ddx, (const T *)of->ddx + i);
    OF(cbn_read)(v.dy, (const T *)of->dy + i);
    return v;
}

/* --- the sum of (ddx - mean of ddx) * rest(dy), by channel --- */

static CBN_INLINE double FN(product)(const struct cbn_second *of, const struct cbn_numbers_one *n, ptrdiff_t i,
                                     int training)
{
    const T *x = of->x, *ddx = of->ddx, *dy = of->dy;
    return cbn_product_of_one((double)GET(x[i]), (double)GET(ddx[i]), (double)GET(dy[i]), n, training);
}

/* A part of a row of channel c, from zero and then onto its lanes. */
static CBN_INLINE void FN(add_products)(double *lanes, const struct cbn_second *of, ptrdiff_t c, ptrdiff_t at,
                                        ptrdiff_t length, int training)
{
    const struct cbn_numbers_one n = cbn_numbers_of(of, c);
    const struct cbn_numbers_vec numbers = cbn_numbers_along(of, c);
    double s[CBN_LANES];
    cbn_vec sums[CBN_VECS];
    ptrdiff_t i = 0;
    CBN_EACH_VEC
        sums[v] = (cbn_vec){0};
    for (; i + CBN_LANES <= length; i += CBN_LANES)
        CBN_UNROLL for (int v = 0; v < CBN_VECS; v += (int)DOUBLES) {
            const struct FN(triple) values = FN(triple_at)(of, at + i + v * CBN_VEC);
            CBN_UNROLL for (unsigned u = 0; u < DOUBLES; u++)
                sums[v + (int)u] += cbn_product_of_vec(values.x[u], values.ddx[u], values.dy[u], &numbers, training);
        }
    memcpy(s, sums, sizeof s);
    CBN_ROLLED for (int l = 0; i < length; l++, i++)
        s[l] += FN(product)(of, &n, at + i, training);
    CBN_ROLLED for (int l = 0; l < CBN_LANES; l++)
        lanes[l] += s[l];
}

/* Of each channel one value, onto its own sum. */
static CBN_INLINE void FN(add_products_across)(double *to, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                                               ptrdiff_t channels, int training)
{
    ptrdiff_t c = 0;
    for (; c + AVEC <= channels; c += AVEC) {
        const struct FN(triple) values = FN(triple_at)(of, at + c);
        CBN_UNROLL for (unsigned u = 0; u < DOUBLES; u++) {
            const struct cbn_numbers_vec n = cbn_numbers_across(of, first + c + u * CBN_VEC);
            CBN_LOAD(to + c, u) += cbn_product_of_vec(values.x[u], values.ddx[u], values.dy[u], &n, training);
        }
    }
    CBN_ROLLED for (; c < channels; c++) {
        const struct cbn_numbers_one n = cbn_numbers_of(of, first + c);
        to[c] += FN(product)(of, &n, at + c, training);
    }
}

static CBN_INLINE void FN(products_rows_of)(double *dot, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                                            const struct cbn_block *b, int training)
{
    double lanes[CBN_MAX_LANED_CHANNELS][CBN_LANES];
    memset(lanes, 0, (size_t)b->channels * sizeof *lanes);
    for (ptrdiff_t o = 0; o < b->outer; o++)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const ptrdiff_t row = at + o * b->stride + c * b->inner;
            for (ptrdiff_t i = 0; i < b->length; i += CBN_PART) {
                const ptrdiff_t rest = b->length - i;
                FN(add_products)(lanes[c], of, first + c, row + i, rest < CBN_PART ? rest : CBN_PART, training);
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
        if (inner == 1) {
            FN(add_products_across)(to, of, first, row, channels, training);
            continue;
        }
        for (ptrdiff_t c = 0; c < channels; c++) {
            const struct cbn_numbers_one n = cbn_numbers_of(of, first + c);
            const struct cbn_numbers_vec numbers = cbn_numbers_along(of, first + c);
            ptrdiff_t j = c * inner;
            for (; j + AVEC <= (c + 1) * inner; j += AVEC) {
                const struct FN(triple) values = FN(triple_at)(of, row + j);
                CBN_UNROLL for (unsigned u = 0; u < DOUBLES; u++)
                    CBN_LOAD(to + j, u) += cbn_product_of_vec(values.x[u], values.ddx[u], values.dy[u], &numbers, training);
            }
            CBN_ROLLED for (; j < (c + 1) * inner; j++)
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

static CBN_INLINE void FN(second_one)(const struct cbn_second *of, const struct cbn_numbers_one *n, ptrdiff_t i)
{
    const T *ddx = of->ddx, *dy = of->dy;
    double x = (double)GET(((const T *)of->x)[i]);
    const double ddy = cbn_second_of_one(&x, (double)GET(ddx[i]), (double)GET(dy[i]), n, of->training);
    ((T *)of->ddy)[i] = FROM_DOUBLE(ddy);
    ((T *)of->dx)[i] = FROM_DOUBLE(x);
}

/* AVEC values from index i on. */
static CBN_INLINE void FN(second_values)(const struct cbn_second *of, const struct cbn_numbers_vec *n, ptrdiff_t i)
{
    struct FN(triple) values = FN(triple_at)(of, i);
    cbn_vec ddy[DOUBLES];
    CBN_UNROLL for (unsigned u = 0; u < DOUBLES; u++)
        ddy[u] = cbn_second_of_vec(&values.x[u], values.ddx[u], values.dy[u], n + u, of->training);
    OF(cbn_put)((T *)of->ddy + i, FN(rounded)(ddy), 0);
    OF(cbn_put)((T *)of->dx + i, FN(rounded)(values.x), 0);
}

/* Of channel c `length` values from index i on. */
static CBN_APART void FN(second_along)(const struct cbn_second *of, ptrdiff_t c, ptrdiff_t i, ptrdiff_t length)
{
    const struct cbn_numbers_one n = cbn_numbers_of(of, c);
    const struct cbn_numbers_vec numbers[2] = {cbn_numbers_along(of, c), cbn_numbers_along(of, c)};
    const ptrdiff_t end = i + length;
    for (; i + AVEC <= end; i += AVEC)
        FN(second_values)(of, numbers, i);
    for (; i < end; i++)
        FN(second_one)(of, &n, i);
}

/* Of each of the channels [c, end) one value, from index i on. */
static CBN_APART void FN(second_across)(const struct cbn_second *of, ptrdiff_t c, ptrdiff_t i, ptrdiff_t end)
{
    for (; c + AVEC <= end; c += AVEC, i += AVEC) {
        const struct cbn_numbers_vec numbers[2] = {cbn_numbers_across(of, c),
                                               cbn_numbers_across(of, c + (A_IS_DOUBLE ? 0 : CBN_VEC))};
        FN(second_values)(of, numbers, i);
    }
    for (; c < end; c++, i++) {
        const struct cbn_numbers_one n = cbn_numbers_of(of, c);
        FN(second_one)(of, &n, i);
    }
}

/* Along the values of each channel, or across the channels where each has one value. */
static void FN(second)(const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at, const struct cbn_block *b)
{
    for (ptrdiff_t o = 0; o < b->outer; o++) {
        const ptrdiff_t row = at + o * b->stride;
        if (b->inner == 1)
            FN(second_across)(of, first, row, first + b->channels);
        else
            for (ptrdiff_t c = 0; c < b->channels; c++)
                FN(second_along)(of, first + c, row + c * b->inner, b->length);
    }
}
