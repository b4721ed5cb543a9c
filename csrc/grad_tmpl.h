/* grad_tmpl.h: dx, value by value; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- dx = scale * ((dy - center) - slope * (x - mean)), where shift is the center --- */

/* In double whatever T is: dy is often nearly a line in x (a loss of y^2, say), and what is left of it would be noise. */
static CBN_INLINE T FN(dx)(T dy, T x, double mean, double scale, double center, double slope)
{
    return (T)(scale * (((double)dy - center) - slope * ((double)x - mean)));
}

static CBN_INLINE void FN(prefetch_inputs)(const T *dy, const T *x)
{
    cbn_prefetch(dy + CBN_PREFETCH / 2);
    cbn_prefetch(x + CBN_PREFETCH / 2);
}

struct FN(grad) {
    const T *dy, *x;
    double mean, scale, center, slope;
};

static CBN_INLINE T FN(grad_one)(const void *run, ptrdiff_t j)
{
    const struct FN(grad) *r = run;
    return FN(dx)(r->dy[j], r->x[j], r->mean, r->scale, r->center, r->slope);
}

static CBN_INLINE void FN(grad_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad) *r = run;
    FN(prefetch_inputs)(r->dy + j, r->x + j);
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
    return FN(dx)(r->dy[j], r->x[j], r->mean[j], r->scale[j], r->center[j], r->slope[j]);
}

static CBN_INLINE void FN(grad_columns_line)(T *dx, const void *run, ptrdiff_t j, int streaming)
{
    const struct FN(grad_columns) *r = run;
    FN(prefetch_inputs)(r->dy + j, r->x + j);
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
