/* open_grad_tmpl.h: dx where positions have weights, and which way dx is written; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* --- dx = scale * ((g - w * center) - w * (slope * (x - mean))), always in double; 0 where w < 0. Nothing of x where w
 * is 0: it may be NaN there --- */

/* The numbers of a channel, or of CBN_VEC columns; `counts` has ones where w > 0 and the slope is not 0. */
struct FN(weighted) {
    cbn_vec mean, scale, center, slope, w, counts;
};

static CBN_INLINE void FN(weighted_pass)(const struct FN(span) *span, ptrdiff_t i, double w)
{
    if (span->dresidual)
        span->dresidual[i] = SET(w < 0 ? 0 : FN(passed_one)(span, i, CBN_FUSED));
}

static CBN_INLINE void FN(weighted_one)(const struct FN(span) *span, ptrdiff_t i, ptrdiff_t c, double w)
{
    const struct cbn_output *out = span->out;
    const double g = FN(passed_double)(span, i, CBN_FUSED);
    const double line = out->slope[c] * ((double)GET(span->x[i]) - out->mean[c]) * w;
    const double dx = out->scale[c] * ((g - out->shift[c] * w) - (w > 0 && out->slope[c] != 0 ? line : 0));
    FN(weighted_pass)(span, i, w);
    span->y[i] = FROM_DOUBLE(w < 0 ? 0 : dx);
}

/* dx of CBN_VEC values; not 0 where masked. */
static CBN_INLINE cbn_vec FN(weighted_dx)(cbn_vec g, cbn_vec x, struct FN(weighted) at)
{
    const cbn_vec line = at.slope * (x - at.mean) * at.w;
    return at.scale * ((g - at.center * at.w) - cbn_and(line, at.counts));
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

static CBN_INLINE void FN(weighted_lines)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t end,
                                          int streaming, int how)
{
    const struct cbn_output *out = span->out;
    const double *w = FN(weights_of)(out, c);
    struct FN(weighted) numbers = {.mean = cbn_splat(out->mean[c]), .scale = cbn_splat(out->scale[c]),
                                   .center = cbn_splat(out->shift[c]), .slope = cbn_splat(out->slope[c])};
    const cbn_vec used = CBN_LOAD(cbn_mask.lanes + (out->slope[c] != 0 ? CBN_LANES : 0), 0);
    for (; at < end; at += AVEC) {
        cbn_vec dx[DOUBLES], g[DOUBLES], x[DOUBLES];
        FN(prefetch_inputs)(span, at, how);
        for (ptrdiff_t i = at; span->dresidual && i < at + AVEC; i++)
            FN(weighted_pass)(span, i, w[i]);
        FN(passed_doubles)(g, span, at, how);
        OF(cbn_read)(x, span->x + at);
        CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++) {
            numbers.w = CBN_LOAD(w + at, v);
            numbers.counts = cbn_and((cbn_vec)(numbers.w > 0), used);
            dx[v] = cbn_and(FN(weighted_dx)(g[v], x[v], numbers), (cbn_vec)(numbers.w >= 0));
        }
        OF(cbn_put)(span->y + at, FN(rounded)(dx), streaming);
    }
}

static CBN_INLINE void FN(weighted_seam)(const struct FN(span) *span, ptrdiff_t c, ptrdiff_t at, ptrdiff_t left,
                                         int streaming, int how)
{
    (void)streaming;
    FN(weighted_ones)(span, c, at, at + left, how);
    FN(weighted_ones)(span, c + 1, at + left, at + LINE, how);
}

ADVANCE_SPANS(weighted, weighted, CBN_FUSED)

/* --- columns: channels side by side have one weight for each sample --- */

static CBN_APART void FN(weighted_some)(const struct FN(span) *span, ptrdiff_t j, ptrdiff_t end, int how)
{
    const ptrdiff_t inner = span->out->block.inner, channels = span->out->block.channels;
    (void)how;
    for (; j < end; j++) {
        const ptrdiff_t position = j / (channels * inner) * inner + j % inner;
        FN(weighted_one)(span, j, j / inner % channels, span->out->weights[span->out->sample * inner + position]);
    }
}

static CBN_INLINE void FN(weighted_line)(T *to, const struct FN(span) *span, ptrdiff_t j, int streaming, int how)
{
    const struct cbn_output *out = span->out;
    const double w = out->weights[out->sample + j / out->block.channels]; /* not masked */
    const cbn_vec counts = CBN_LOAD(cbn_mask.lanes + (w > 0 ? CBN_LANES : 0), 0);
    const double *mean = out->column[0], *scale = out->column[1], *center = out->column[2], *slope = out->column[3];
    FN(prefetch_inputs)(span, j, how);
    for (ptrdiff_t i = j; span->dresidual && i < j + LINE; i++)
        FN(weighted_pass)(span, i, w);
    for (ptrdiff_t i = j; i < j + LINE; i += AVEC, to += AVEC) {
        cbn_vec dx[DOUBLES], g[DOUBLES], x[DOUBLES];
        FN(passed_doubles)(g, span, i, how);
        OF(cbn_read)(x, span->x + i);
        CBN_UNROLL for (unsigned v = 0; v < DOUBLES; v++) {
            const cbn_vec s = CBN_LOAD(slope + i, v), used = cbn_and(counts, (cbn_vec)(s != 0));
            dx[v] = FN(weighted_dx)(g[v], x[v], (struct FN(weighted)){CBN_LOAD(mean + i, v), CBN_LOAD(scale + i, v),
                                                                      CBN_LOAD(center + i, v), s, cbn_splat(w), used});
        }
        OF(cbn_put)(to, FN(rounded)(dx), streaming);
    }
}

/* A sample at a time; what is masked is not read at all. */
static CBN_INLINE void FN(write_weighted)(const struct cbn_output *out, ptrdiff_t first, ptrdiff_t j, ptrdiff_t end)
{
    const struct FN(span) span = FN(span_from)(out, first);
    const ptrdiff_t channels = out->block.channels;
    if (out->block.inner > 1) {
        FN(weighted_some)(&span, j, end, CBN_FUSED);
        return;
    }
    while (j < end) {
        const ptrdiff_t sample = j / channels, past = (sample + 1) * channels, stop = past < end ? past : end;
        if (out->weights[out->sample + sample] < 0) {
            memset(span.y + j, 0, (size_t)(stop - j) * sizeof(T));
            if (span.dresidual)
                memset(span.dresidual + j, 0, (size_t)(stop - j) * sizeof(T));
        } else
            FN(emit)(&span, j, stop, FN(weighted_some), FN(weighted_line), CBN_FUSED);
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
    cbn_open(out, out->weights        ? FN(advance_weighted_spans)
                  : cbn_is_fused(out) ? FN(advance_fused_grad_spans)
                                      : FN(advance_grad_spans));
}

/* By how many channels are near: all, none, some; and by whether there is an activation. */
static void FN(open_grad_columns)(struct cbn_output *out)
{
    static void (*const advance[2][3])(struct cbn_output *, ptrdiff_t) = {
        {FN(advance_near_grad_columns), FN(advance_wide_grad_columns), FN(advance_mixed_grad_columns)},
        {FN(advance_fused_near_grad_columns), FN(advance_fused_wide_grad_columns),
         FN(advance_fused_mixed_grad_columns)},
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
