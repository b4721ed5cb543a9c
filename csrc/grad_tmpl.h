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

static CBN_INLINE void FN(grad_ones)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end)
{
    const struct cbn_output *out = span.out;
    CBN_IVDEP
    for (ptrdiff_t i = at; i < end; i++)
        span.y[i] = FN(dx)(span.dy[i], span.x[i], out->column[0][c], out->column[1][c], out->column[2][c],
                           out->column[3][c]);
}

static CBN_INLINE void FN(grad_lines)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int streaming)
{
    const double mean = span.out->column[0][c], scale = span.out->column[1][c];
    const double center = span.out->column[2][c], slope = span.out->column[3][c];
    for (; at < end; at += LINE) {
        FN(prefetch_inputs)(span.dy + at, span.x + at);
        for (ptrdiff_t i = 0; i < LINE; i += CBN_VEC) {
            const cbn_vec rest = WIDEN(span.dy + at + i) - center, line = slope * (WIDEN(span.x + at + i) - mean);
            NARROW(span.y + at + i, scale * (rest - line), streaming);
        }
    }
}

static CBN_INLINE void FN(grad_seam)(struct FN(span) span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, int streaming)
{
    const struct cbn_output *out = span.out;
    const double *mask = cbn_mask.lanes + CBN_LANES - left;
    FN(prefetch_inputs)(span.dy + at, span.x + at);
    for (ptrdiff_t i = 0; i < LINE; i += CBN_VEC) {
        const cbn_vec m = CBN_LOAD(mask + i, 0);
        const cbn_vec rest = WIDEN(span.dy + at + i) - cbn_blend(&out->column[2][c], m);
        const cbn_vec distance = WIDEN(span.x + at + i) - cbn_blend(&out->column[0][c], m);
        const cbn_vec line = cbn_blend(&out->column[3][c], m) * distance;
        NARROW(span.y + at + i, cbn_blend(&out->column[1][c], m) * (rest - line), streaming);
    }
}

static void FN(advance_grad_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(grad_ones), FN(grad_lines), FN(grad_seam));
}

static void FN(open_grad_spans)(struct cbn_output *out)
{
    const size_t bytes = (size_t)out->block.channels * sizeof(double);
    memcpy(out->column[0], out->mean, bytes);
    memcpy(out->column[1], out->scale, bytes);
    memcpy(out->column[2], out->shift, bytes);
    memcpy(out->column[3], out->slope, bytes);
    cbn_open(out, FN(advance_grad_spans));
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
