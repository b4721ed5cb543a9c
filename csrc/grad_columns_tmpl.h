/* grad_columns_tmpl.h: dx by columns, in float32, in double, or both in one block; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- columns: the same numbers, by column; where some columns are near and others not, also a mask of ones for those
 * that are, and how many there are before each column --- */

static CBN_INLINE T FN(wide_one)(const struct FN(span) *span, ptrdiff_t j, int how)
{
    const struct cbn_output *out = span->out;
    return FN(dx)(FN(passed_double)(span, j, how), (double)GET(span->x[j]), out->column[0][j], out->column[1][j],
                  out->column[2][j], out->column[3][j]);
}

static CBN_INLINE FN(avec) FN(wide_values)(const struct FN(span) *span, ptrdiff_t j, int how)
{
    const double *mean = span->out->column[0] + j, *scale = span->out->column[1] + j;
    const double *center = span->out->column[2] + j, *slope = span->out->column[3] + j;
    cbn_vec dx[DOUBLES], g[DOUBLES], x[DOUBLES];
    FN(passed_doubles)(g, span, j, how);
    OF(cbn_read)(x, span->x + j);
    CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++) {
        const cbn_vec line = FN(line_of)(CBN_LOAD(slope, v), x[v] - CBN_LOAD(mean, v));
        dx[v] = CBN_LOAD(scale, v) * ((g[v] - CBN_LOAD(center, v)) - line);
    }
    return FN(rounded)(dx);
}

static CBN_INLINE T FN(near_one)(const struct FN(span) *span, ptrdiff_t j, int how)
{
    const struct FN(near) near = FN(get_near)(span->out, j);
    return SET(FN(passed_one)(span, j, how) * near.of_dy + (GET(span->x[j]) * near.of_x + near.constant));
}

static CBN_INLINE FN(avec) FN(near_values)(const struct FN(span) *span, ptrdiff_t j, int how)
{
    const A *of_dy = (const A *)span->out->near_column[0], *of_x = (const A *)span->out->near_column[1];
    const A *constant = (const A *)span->out->near_column[2];
    const FN(avec) line = OF(cbn_load)(span->x + j) * FN(numbers)(of_x + j) + FN(numbers)(constant + j);
    return FN(passed)(span, j, how) * FN(numbers)(of_dy + j) + line;
}

static CBN_APART void FN(grad_some)(const struct FN(span) *span, ptrdiff_t j, ptrdiff_t end, int how)
{
    for (ptrdiff_t i = j; i < end; i++) {
        const int near = how & CBN_MIXED ? span->out->near_column[3][i] != 0 : !(how & CBN_WIDE);
        const T dx = near ? FN(near_one)(span, i, how) : FN(wide_one)(span, i, how);
        FN(pass_one)(span, i, how);
        span->y[i] = dx;
    }
}

static CBN_INLINE void FN(grad_line)(T *to, const struct FN(span) *span, ptrdiff_t j, int streaming, int how)
{
    int near = how & CBN_WIDE ? 0 : LINE;
    if (how & CBN_MIXED)
        near = span->out->near_before[j + LINE] - span->out->near_before[j];
    FN(prefetch_inputs)(span, j, how);
    FN(pass_line)(span, j, streaming, how);
    for (ptrdiff_t i = j; i < j + LINE; i += AVEC, to += AVEC)
        if (near == LINE)
            OF(cbn_put)(to, FN(near_values)(span, i, how), streaming);
        else if (near == 0)
            OF(cbn_put)(to, FN(wide_values)(span, i, how), streaming);
        else {
            const FN(avec) mask = FN(numbers)((const A *)span->out->near_column[3] + i);
            OF(cbn_put)(to, FN(select)(FN(wide_values)(span, i, how), FN(near_values)(span, i, how), mask), streaming);
        }
}

ADVANCE_COLUMNS(near_grad, grad, CBN_PLAIN)
ADVANCE_COLUMNS(wide_grad, grad, CBN_WIDE)
ADVANCE_COLUMNS(mixed_grad, grad, CBN_MIXED)
ADVANCE_COLUMNS(fused_near_grad, grad, CBN_FUSED)
ADVANCE_COLUMNS(fused_wide_grad, grad, CBN_FUSED | CBN_WIDE)
ADVANCE_COLUMNS(fused_mixed_grad, grad, CBN_FUSED | CBN_MIXED)

/* The near numbers of every column. */
static CBN_INLINE void FN(spread_near)(struct cbn_output *out)
{
    const struct cbn_block *b = &out->block;
    const ptrdiff_t group = b->channels * b->inner;
    if (b->inner == 1)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            FN(set_near)(out, c, FN(make_near)(out, c));
    else
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const struct FN(near) near = FN(make_near)(out, c);
            for (ptrdiff_t i = 0; i < b->inner; i++)
                FN(set_near)(out, c * b->inner + i, near);
        }
    for (ptrdiff_t f = 1; f < b->fold; f++)
        for (int k = 0; k < 3; k++)
            memcpy(out->near_column[k] + f * group, out->near_column[k], (size_t)group * sizeof(float));
}

/* The mask and the counts of a block that is mixed. */
static CBN_INLINE void FN(mark_near)(struct cbn_output *out)
{
    const struct cbn_block *b = &out->block;
    ptrdiff_t j = 0;
    out->near_before[0] = 0;
    for (ptrdiff_t f = 0; f < b->fold; f++)
        for (ptrdiff_t c = 0; c < b->channels; c++) {
            const int near = out->near[c] != 0;
            for (ptrdiff_t i = 0; i < b->inner; i++, j++) {
                out->near_before[j + 1] = (uint16_t)(out->near_before[j] + near);
                memset(&out->near_column[3][j], near ? 0xff : 0, sizeof out->near_column[3][j]);
            }
        }
}
