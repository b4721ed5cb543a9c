/* moments.c: the statistics of a batch: anchors, two sums about them, mean and m2.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * With K an anchor near the channel's mean, s = sum(x - K) and q = sum((x - K)^2), all in double:
 *     mean = K + s / n        m2 = q - s * (s / n)
 * Little cancels as long as K is near (for float32 it may be 0, a few deviations away): where s^2 / n > far * m2 the
 * first values were no sample of the channel, and its sums are taken again about the mean just found. Parts of a
 * channel simply add. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

void cbn_step_anchors(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    struct cbn_block block;
    const size_t at = (size_t)cbn_block_of(&block, &job->plan, region) * job->ops->itemsize;
    job->ops->anchors(job->anchor + region->first, (const char *)job->x + at, &block,
                      job->weights ? &job->first : NULL);
}

void cbn_step_sums(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    struct cbn_block block;
    const size_t at = (size_t)cbn_block_of(&block, &job->plan, region) * job->ops->itemsize;
    const ptrdiff_t part = region->piece * job->plan.channels + region->first;
    struct cbn_sums to = {job->parts.sum + part, job->parts.dot + part, NULL, NULL};
    if (job->parts.most_x) {
        to.most_x = job->parts.most_x + part;
        to.most_dy = job->parts.most_dy + part;
    }
    const struct cbn_source from = {
        .x = (const char *)job->x + at,
        .dy = job->dy ? (const char *)job->dy + at : NULL,
        .activated = job->activated ? (const char *)job->activated + at : NULL,
        .weights = job->weights ? job->weights + region->sample * job->plan.inner + region->at : NULL,
        .bend = job->bend,
    };
    job->ops->sums[job->plan.layout](&to, &from, job->anchor + region->first, &block, out);
}

static void add(double *restrict to, const double *restrict part, const struct cbn_region *region)
{
    CBN_EACH_CHANNEL (region)
        to[c] += part[c];
}

void cbn_merge_parts(struct cbn_job *job, const struct cbn_region *region)
{
    const size_t bytes = (size_t)(region->last - region->first) * sizeof(double);
    memset(job->sum + region->first, 0, bytes);
    memset(job->dot + region->first, 0, bytes);
    for (ptrdiff_t piece = 0; piece < job->plan.pieces; piece++) {
        add(job->sum, job->parts.sum + piece * job->plan.channels, region);
        add(job->dot, job->parts.dot + piece * job->plan.channels, region);
    }
}

/* Mean and m2 from the merged sums. */
static void finish(struct cbn_job *job, const struct cbn_region *region)
{
    const double *sum = job->sum, *dot = job->dot, *anchor = job->anchor, count = job->count;
    double *mean = job->mean, *m2 = job->m2;
    cbn_merge_parts(job, region);
    CBN_EACH_CHANNEL (region) {
        const double step = sum[c] / count, rest = dot[c] - sum[c] * step, at = anchor[c] + step;
        mean[c] = isnan(rest) ? rest : at; /* an infinite value, wherever it stands */
        m2[c] = rest < 0 ? 0 : rest;
    }
    if (job->mean_rest) {
        double *mean_rest = job->mean_rest;
        CBN_EACH_CHANNEL (region) { /* what the addition above has rounded off, exactly (Knuth's two-sum) */
            const double step = sum[c] / count, at = anchor[c] + step, taken = at - anchor[c];
            const double lost = (anchor[c] - (at - taken)) + (step - taken);
            mean_rest[c] = isfinite(lost) ? lost : 0;
        }
    }
}

void cbn_step_moments(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    const double *sum = job->sum, *dot = job->dot, *mean = job->mean, count = job->count, limit = job->ops->far;
    double *far = job->far, *anchor = job->anchor;
    finish(job, region);
    CBN_EACH_CHANNEL (region) {
        const double step = sum[c] / count, at = mean[c], before = anchor[c];
        const int is_far = sum[c] * step > limit * (dot[c] - sum[c] * step);
        far[c] = is_far ? 1 : 0;
        anchor[c] = is_far ? at : before;
    }
}

/* Then the sums of these channels are taken again: rare, and never worse than a second pass. */
int cbn_any_far(const struct cbn_job *job, const struct cbn_region *region)
{
    CBN_EACH_CHANNEL (region)
        if (job->far[c])
            return 1;
    return 0;
}

void cbn_step_remoments(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    finish(job, region); /* the channels that were not far get what they had */
}

int cbn_moments(double *mean, double *m2, const void *x, const struct cbn_options *options, enum cbn_dtype dtype,
                ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads)
{
    return cbn_part_moments(mean, NULL, m2, x, options, dtype, outer, channels, inner, num_threads);
}

int cbn_part_moments(double *mean, double *mean_rest, double *m2, const void *x, const struct cbn_options *options,
                     enum cbn_dtype dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads)
{
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .mean = mean, .mean_rest = mean_rest, .m2 = m2};
    const int is_empty = outer == 0 || channels == 0 || inner == 0;
    if (!is_empty) {
        cbn_make_plan(&job.plan, outer, channels, inner);
        cbn_set_options(&job, options);
    }
    if (is_empty || cbn_none_counts(&job)) {
        memset(mean, 0, (size_t)channels * sizeof *mean);
        memset(m2, 0, (size_t)channels * sizeof *m2);
        if (mean_rest)
            memset(mean_rest, 0, (size_t)channels * sizeof *mean_rest);
        return CBN_OK;
    }
    double **arrays[] = {&job.anchor, &job.sum, &job.dot, &job.far};
    if (cbn_job_alloc(&job, arrays, 4, 2))
        return CBN_NO_MEMORY;
    static const struct cbn_step steps[] = {CBN_MOMENTS_STEPS};
    cbn_run_steps(&job, steps, sizeof steps / sizeof *steps, 0, num_threads);
    free(job.workspace);
    return CBN_OK;
}
