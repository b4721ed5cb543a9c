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
    job->ops->anchors(job->anchor + region->first, (const char *)job->x + at, &block);
}

void cbn_step_sums(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    struct cbn_block block;
    const size_t at = (size_t)cbn_block_of(&block, &job->plan, region) * job->ops->itemsize;
    const ptrdiff_t part = region->piece * job->plan.channels + region->first;
    const struct cbn_sums to = {job->parts.sum + part, job->parts.dot + part, job->dy ? job->parts.most_x + part : NULL,
                                job->dy ? job->parts.most_dy + part : NULL};
    job->ops->sums[job->plan.layout](&to, job->dy ? (const char *)job->dy + at : NULL, (const char *)job->x + at,
                                     job->anchor + region->first, &block, out);
}

void cbn_merge_parts(struct cbn_job *job, ptrdiff_t c)
{
    double sum = 0, dot = 0;
    for (ptrdiff_t piece = 0; piece < job->plan.pieces; piece++) {
        sum += job->parts.sum[piece * job->plan.channels + c];
        dot += job->parts.dot[piece * job->plan.channels + c];
    }
    job->sum[c] = sum;
    job->dot[c] = dot;
}

static double count_of(const struct cbn_job *job)
{
    return (double)(job->plan.outer * job->plan.inner);
}

static int is_far(const struct cbn_job *job, ptrdiff_t c)
{
    const double step = job->sum[c] / count_of(job);
    return job->sum[c] * step > job->ops->far * (job->dot[c] - job->sum[c] * step);
}

static void finish(struct cbn_job *job, ptrdiff_t c)
{
    const double step = job->sum[c] / count_of(job), m2 = job->dot[c] - job->sum[c] * step;
    job->mean[c] = isnan(m2) ? m2 : job->anchor[c] + step; /* an infinite value, wherever it stands */
    job->m2[c] = m2 < 0 ? 0 : m2;
}

void cbn_step_moments(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    for (ptrdiff_t c = region->first; c < region->last; c++) {
        cbn_merge_parts(job, c);
        finish(job, c);
        job->far[c] = is_far(job, c);
    }
    for (ptrdiff_t c = region->first; c < region->last; c++)
        if (job->far[c])
            job->anchor[c] = job->mean[c];
}

/* Then the sums of these channels are taken again: rare, and never worse than a second pass. */
int cbn_any_far(const struct cbn_job *job, const struct cbn_region *region)
{
    for (ptrdiff_t c = region->first; c < region->last; c++)
        if (job->far[c])
            return 1;
    return 0;
}

void cbn_step_remoments(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    for (ptrdiff_t c = region->first; c < region->last; c++)
        if (job->far[c]) {
            cbn_merge_parts(job, c);
            finish(job, c);
        }
}

int cbn_moments(double *mean, double *m2, const void *x, enum cbn_dtype dtype, ptrdiff_t outer, ptrdiff_t channels,
                ptrdiff_t inner, int num_threads)
{
    memset(mean, 0, (size_t)channels * sizeof *mean);
    memset(m2, 0, (size_t)channels * sizeof *m2);
    if (outer == 0 || channels == 0 || inner == 0)
        return CBN_OK;
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .mean = mean, .m2 = m2};
    cbn_make_plan(&job.plan, outer, channels, inner);
    double **arrays[] = {&job.anchor, &job.sum, &job.dot, &job.far};
    if (cbn_job_alloc(&job, arrays, 4, 2))
        return CBN_NO_MEMORY;
    static const struct cbn_step steps[] = {CBN_MOMENTS_STEPS};
    cbn_run_steps(&job, steps, sizeof steps / sizeof *steps, 0, num_threads);
    free(job.workspace);
    return CBN_OK;
}
