/* grad_columns_tmpl.h: dx by columns, in float32, in double, or both in one block; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- columns: the same numbers, by column; where some columns are near and others not, also a mask of ones for those
 * that are, and how many there are before each column --- */

struct FN(grad) {
    const T *dy, *x;
    const double *mean, *scale, *center, *slope;
    const T *of_dy, *of_x, *constant, *mask;
    const uint16_t *near_before;
};

static CBN_INLINE T FN(wide_one)(const void *run, ptrdiff_t j)
{
    const struct FN(grad) *r = run;
    return FN(dx)(r->dy[j], r->x[j], r->mean[j], r->scale[j], r->center[j], r->slope[j]);
}

static CBN_INLINE void FN(wide_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad) *r = run;
    FN(prefetch_inputs)(r->dy + j, r->x + j);
    for (ptrdiff_t i = j; i < j + LINE; i += CBN_VEC, dx += CBN_VEC) {
        const cbn_vec rest = WIDEN(r->dy + i) - CBN_LOAD(r->center + i, 0);
        const cbn_vec line = CBN_LOAD(r->slope + i, 0) * (WIDEN(r->x + i) - CBN_LOAD(r->mean + i, 0));
        NARROW(dx, CBN_LOAD(r->scale + i, 0) * (rest - line), streaming);
    }
}

static CBN_INLINE T FN(near_one)(const void *run, ptrdiff_t j)
{
    const struct FN(grad) *r = run;
    return r->dy[j] * r->of_dy[j] + (r->x[j] * r->of_x[j] + r->constant[j]);
}

static CBN_INLINE FN(tvec) FN(near_values)(const struct FN(grad) *r, ptrdiff_t j)
{
    const FN(tvec) line = FN(load)(r->x + j) * FN(load)(r->of_x + j) + FN(load)(r->constant + j);
    return FN(load)(r->dy + j) * FN(load)(r->of_dy + j) + line;
}

static CBN_INLINE void FN(near_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad) *r = run;
    FN(prefetch_inputs)(r->dy + j, r->x + j);
    for (ptrdiff_t i = j; i < j + LINE; i += TVEC, dx += TVEC)
        FN(put)(dx, FN(near_values)(r, i), streaming);
}

static CBN_INLINE T FN(mixed_one)(const void *run, ptrdiff_t j)
{
    const struct FN(grad) *r = run;
    return r->mask[j] != 0 ? FN(near_one)(run, j) : FN(wide_one)(run, j);
}

static CBN_INLINE void FN(mixed_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad) *r = run;
    const int near = r->near_before[j + LINE] - r->near_before[j];
    if (near == LINE) {
        FN(near_line)(dx, run, j, streaming);
        return;
    }
    if (near == 0) {
        FN(wide_line)(dx, run, j, streaming);
        return;
    }
    T wide[CBN_LINE_BYTES / sizeof(T)];
    FN(wide_line)(wide, run, j, 0);
    for (ptrdiff_t i = 0; i < LINE; i += TVEC)
        FN(put)(dx + i, FN(select)(FN(load)(wide + i), FN(near_values)(r, j + i), FN(load)(r->mask + j + i)),
                streaming);
}

static CBN_INLINE struct FN(grad) FN(grad_run)(const struct cbn_output *out, ptrdiff_t first)
{
    return (struct FN(grad)){
        (const T *)out->dy + first,     (const T *)out->x + first,      out->column[0],
        out->column[1],                 out->column[2],                 out->column[3],
        (const T *)out->near_column[0], (const T *)out->near_column[1], (const T *)out->near_column[2],
        (const T *)out->near_column[3], out->near_before,
    };
}

static CBN_INLINE void FN(write_wide_grad)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(grad) run = FN(grad_run)(out, first);
    FN(emit)((T *)out->y + first, FN(wide_one), FN(wide_line), &run, j, end, out->block.streaming);
}

static CBN_INLINE void FN(write_near_grad)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(grad) run = FN(grad_run)(out, first);
    FN(emit)((T *)out->y + first, FN(near_one), FN(near_line), &run, j, end, out->block.streaming);
}

static CBN_INLINE void FN(write_mixed_grad)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(grad) run = FN(grad_run)(out, first);
    FN(emit)((T *)out->y + first, FN(mixed_one), FN(mixed_line), &run, j, end, out->block.streaming);
}

static void FN(advance_wide_grad)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_wide_grad));
}

static void FN(advance_near_grad)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_near_grad));
}

static void FN(advance_mixed_grad)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_mixed_grad));
}

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

static void FN(open_grad_columns)(struct cbn_output *out)
{
    const struct cbn_block *b = &out->block;
    ptrdiff_t near = 0;
    if (!T_IS_WIDE)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            near += out->near[c] != 0;
    if (near > 0)
        FN(spread_near)(out);
    if (near == b->channels) {
        cbn_open(out, FN(advance_near_grad));
        return;
    }
    cbn_spread(out->column[0], out->mean, b);
    cbn_spread(out->column[1], out->scale, b);
    cbn_spread(out->column[2], out->shift, b);
    cbn_spread(out->column[3], out->slope, b);
    if (near > 0)
        FN(mark_near)(out);
    cbn_open(out, near > 0 ? FN(advance_mixed_grad) : FN(advance_wide_grad));
}
