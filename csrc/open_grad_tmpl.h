/* open_grad_tmpl.h: dx where positions have weights, and which way dx is written; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- dx = scale * ((g - w * center) - w * (slope * (x - mean))), always in double; 0 where w < 0 --- */

/* Nothing of x where w is 0: it may be NaN there. */
static CBN_INLINE void FN(weighted_one)(const struct FN(span) *span, ptrdiff_t i, ptrdiff_t c, double w)
{
    const struct cbn_output *out = span->out;
    const double g = FN(passed_double)(span, i, CBN_FUSED);
    const double line = out->slope[c] * ((double)GET(span->x[i]) - out->mean[c]) * w;
    const double dx = out->scale[c] * ((g - out->shift[c] * w) - (w > 0 && out->slope[c] != 0 ? line : 0));
    if (span->dresidual)
        span->dresidual[i] = SET(w < 0 ? 0 : FN(passed_one)(span, i, CBN_FUSED));
    span->y[i] = FROM_DOUBLE(w < 0 ? 0 : dx);
}

static CBN_INLINE void FN(clear)(const struct FN(span) *span, ptrdiff_t at, ptrdiff_t end)
{
    memset(span->y + at, 0, (size_t)(end - at) * sizeof(T));
    if (span->dresidual)
        memset(span->dresidual + at, 0, (size_t)(end - at) * sizeof(T));
}

/* --- spans --- */

/* Weights, so that [i] is that of value i of the run, in channel c. */
static CBN_INLINE const double *FN(weights_of)(const struct cbn_output *out, ptrdiff_t c)
{
    const ptrdiff_t inner = out->block.inner;
    return out->weights + out->sample * inner - (out->block.length == inner ? c * inner : 0);
}

static CBN_APART void FN(weighted_ones)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end, int how)
{
    const double *w = FN(weights_of)(span->out, c);
    (void)how;
    for (ptrdiff_t i = at; i < end; i++)
        FN(weighted_one)(span, i, c, w[i]);
}

/* Most lines are all there or all masked. */
static CBN_INLINE void FN(weighted_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                          int streaming, int how)
{
    const double *w = FN(weights_of)(span->out, c);
    for (; at < end; at += LINE) {
        ptrdiff_t ones = 0, masked = 0;
        for (ptrdiff_t i = at; i < at + LINE; i++) {
            ones += w[i] == 1;
            masked += w[i] < 0;
        }
        if (ones == LINE)
            FN(wide_lines)(span, c, at, at + LINE, streaming, CBN_FUSED);
        else if (masked == LINE)
            FN(clear)(span, at, at + LINE);
        else
            FN(weighted_ones)(span, c, at, at + LINE, how);
    }
}

static CBN_INLINE void FN(weighted_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                         int streaming, int how)
{
    (void)streaming;
    FN(weighted_ones)(span, c, at, at + left, how);
    FN(weighted_ones)(span, c + 1, at + left, at + LINE, how);
}

static void FN(advance_weighted_spans)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_spans)(out, values, FN(weighted_ones), FN(weighted_lines), FN(weighted_seam), CBN_FUSED);
}

/* --- columns --- */

static CBN_APART void FN(weighted_across)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t j, ptrdiff_t end, double w)
{
    for (ptrdiff_t i = j; i < end; i++)
        FN(weighted_one)(span, i, c + i - j, w);
}

/* Channels side by side: a sample at a time, with one weight. */
static CBN_INLINE void FN(write_weighted)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    const ptrdiff_t inner = out->block.inner, channels = out->block.channels;
    while (j < end) {
        const ptrdiff_t sample = j / (channels * inner), c = j / inner % channels, i = j % inner;
        const double w = out->weights[(out->sample + sample) * inner + i];
        const ptrdiff_t past = (sample + 1) * channels, stop = inner > 1 ? j + 1 : past < end ? past : end;
        if (w < 0)
            FN(clear)(&span, j, stop);
        else if (w == 1 && stop - j >= LINE)
            FN(emit)(out, first, j, stop, FN(grad_some), FN(grad_line), CBN_FUSED | CBN_WIDE);
        else
            FN(weighted_across)(&span, c, j, stop, w);
        j = stop;
    }
}

static void FN(advance_weighted_columns)(struct cbn_output *out, ptrdiff_t values)
{
    FN(advance_columns)(out, values, FN(write_weighted));
}

/* --- which way --- */

static void FN(open_grad_spans)(struct cbn_output *out)
{
    for (ptrdiff_t c = 0; c < out->block.channels; c++) {
        out->column[0][c] = out->mean[c];
        out->column[1][c] = out->scale[c];
        out->column[2][c] = out->shift[c];
        out->column[3][c] = out->slope[c];
        if (!A_IS_DOUBLE)
            FN(set_near)(out, c, FN(make_near)(out, c));
    }
    cbn_open(out, out->weights          ? FN(advance_weighted_spans)
                  : cbn_is_fused(out) ? FN(advance_fused_grad_spans) : FN(advance_grad_spans));
}

/* By how many channels are near: all, none, some; and by whether there is an activation. */
static void FN(open_grad_columns)(struct cbn_output *out)
{
    static void (*const advance[2][3])(struct cbn_output *, ptrdiff_t) = {
        {FN(advance_near_grad), FN(advance_wide_grad), FN(advance_mixed_grad)},
        {FN(advance_fused_near_grad), FN(advance_fused_wide_grad), FN(advance_fused_mixed_grad)},
    };
    const struct cbn_block *b = &out->block;
    ptrdiff_t near = 0;
    if (!A_IS_DOUBLE && !out->weights)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            near += out->near[c] != 0;
    if (near > 0)
        FN(spread_near)(out);
    if (near < b->channels) {
        cbn_spread(out->column[0], out->mean, b);
        cbn_spread(out->column[1], out->scale, b);
        cbn_spread(out->column[2], out->shift, b);
        cbn_spread(out->column[3], out->slope, b);
    }
    if (near > 0 && near < b->channels)
        FN(mark_near)(out);
    cbn_open(out, out->weights ? FN(advance_weighted_columns)
                               : advance[cbn_is_fused(out)][near == b->channels ? 0 : near == 0 ? 1 : 2]);
}
