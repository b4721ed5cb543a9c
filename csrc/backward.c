/* backward.c: the gradients of batch normalization with respect to x, weight and bias.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Two sums per channel, sum(dy) and sum(dy * (x - mean)), then one line per channel:
 *     dx = scale * ((dy - center) - slope * (x - mean))
 *     scale = weight * inv_std    center = dbias / n    slope = dweight / n * inv_std
 * With fixed statistics dx = scale * dy, the affine map of the forward pass. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* The sums are taken about the mean; or, where float32 has a mean of at most 32 deviations, about zero, which is
 * faster, and moved to the mean afterwards. Not where the first value is the mean: in a constant channel nothing but
 * zeros are added, and dweight is exactly 0. */
static void step_centers(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    CBN_EACH_CHANNEL (region) {
        const double mean = job->mean[c], offset = mean * job->inv_std[c];
        const double first = cbn_load(job->x, job->dtype, c * job->plan.inner);
        const int about_zero = !job->ops->is_double && !job->weights && offset * offset <= job->ops->far &&
                               first != mean;
        job->anchor[c] = about_zero ? 0 : mean;
    }
}

static void keep_most(double *restrict to, const double *restrict part, const struct cbn_region *region)
{
    CBN_EACH_CHANNEL (region)
        to[c] = part[c] > to[c] ? part[c] : to[c];
}

static void merge_most(struct cbn_job *job, const struct cbn_region *region)
{
    double *most_x = job->parts.most_x, *most_dy = job->parts.most_dy;
    for (ptrdiff_t piece = 1; piece < job->plan.pieces; piece++) {
        keep_most(most_x, most_x + piece * job->plan.channels, region);
        keep_most(most_dy, most_dy + piece * job->plan.channels, region);
    }
}

/* Whether dx = scale * dy - scale * slope * x + constant may be computed in float32. With D the largest |dy|, S the
 * most that what is taken off dy can be, and M >= |scale| (D - S) the largest |dx|: the roundings of the three numbers
 * and of the four operations add up to at most 2^-24 |scale| (3 D + 5 S), which for S <= D / 2 is 6.6e-7 M. Nothing may
 * over- or underflow on the way: neither the numbers, nor the products. */
static void find_near(struct cbn_job *job, const struct cbn_region *region)
{
    const double *mean = job->mean, *scale = job->scale, *center = job->shift, *slope = job->slope;
    const double *most_x = job->parts.most_x, *most_dy = job->parts.most_dy;
    double *near = job->near;
    CBN_EACH_CHANNEL (region) {
        const double x = most_x[c], dy = most_dy[c], size = fabs(scale[c]);
        const double of_x = size * fabs(slope[c]);
        const double taken = fabs(center[c]) + fabs(slope[c]) * (x + fabs(mean[c]));
        const int64_t fits = (taken <= dy / 2) & (dy >= 0x1p-60) & (dy <= 0x1p60) & (size >= 0x1p-60) &
                             (size <= 0x1p60) & (of_x <= 0x1p100) & (x * 0x1p-119 <= size * dy);
        near[c] = fits ? 1 : 0;
    }
}

/* dbias and dweight, from the merged sums; and the bounds that `find_near` needs. */
static void step_parameters(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    const double *mean = job->mean, *inv_std = job->inv_std, *anchor = job->anchor;
    double *dbias = job->sum, *dweight = job->dot;
    cbn_merge_parts(job, region);
    if (job->near)
        merge_most(job, region);
    CBN_EACH_CHANNEL (region) {
        const double offset = mean[c] - anchor[c], dot = offset != 0 ? dweight[c] - offset * dbias[c] : dweight[c];
        dweight[c] = dot * inv_std[c];
    }
    cbn_store_parameters(job->dbias, dbias, job->param_dtype, region);
    cbn_store_parameters(job->dweight, dweight, job->param_dtype, region);
}

/* The line of each channel, from dbias and dweight. */
static void step_lines(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    const double count = job->count, training = job->training && count != 0 ? 1 : 0;
    const double *inv_std = job->inv_std, *dbias = job->sum, *dweight = job->dot;
    double *scale = job->scale, *center = job->shift, *slope = job->slope;
    cbn_load_parameters(scale, job->weight, job->param_dtype, region, 1);
    CBN_EACH_CHANNEL (region) {
        scale[c] *= inv_std[c];
        center[c] = training != 0 ? dbias[c] / count : 0;
        slope[c] = training != 0 ? dweight[c] / count * inv_std[c] : 0;
    }
    if (job->near && job->training)
        find_near(job, region);
    else if (job->near)
        memset(job->near + region->first, 0, (size_t)(region->last - region->first) * sizeof *job->near);
}

/* With fixed statistics that is a line in dy alone, which the affine map is, too; not after an activation. */
static void step_input_grad(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    const int is_line = !job->activated && !job->dresidual && !job->weights;
    cbn_set_output(out, job, region);
    if (!job->training) {
        out->x = out->dy; /* slope is 0, center is 0 */
        out->mean = out->slope;
    }
    if (job->training || !is_line) {
        job->ops->input_grad[job->plan.output_layout](out);
        return;
    }
    out->bend = (struct cbn_bend){1, -1};
    job->ops->affine[job->plan.output_layout](out);
}

/* Gives the job its arrays, with what the caller knows of each channel; `near` and the parts for it if they may be of
 * use. */
static int prepare(struct cbn_job *job, const struct cbn_options *options, const double *mean, const double *inv_std,
                   ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int parts)
{
    cbn_make_plan(&job->plan, outer, channels, inner);
    cbn_set_options(job, options);
    double **arrays[] = {&job->mean, &job->inv_std, &job->sum, &job->dot, &job->scale, &job->shift, &job->slope,
                         &job->anchor, &job->near};
    const int may_be_near = !job->ops->is_double && !job->weights;
    if (cbn_job_alloc(job, arrays, may_be_near ? 9 : 8, may_be_near ? 2 * parts : parts))
        return CBN_NO_MEMORY;
    memcpy(job->mean, mean, (size_t)channels * sizeof *mean);
    memcpy(job->inv_std, inv_std, (size_t)channels * sizeof *inv_std);
    return CBN_OK;
}

static void set_zero(void *dweight, void *dbias, enum cbn_dtype dtype, ptrdiff_t channels)
{
    memset(dweight, 0, (size_t)channels * cbn_itemsize(dtype));
    memset(dbias, 0, (size_t)channels * cbn_itemsize(dtype));
}

int cbn_backward(void *dx, void *dweight, void *dbias, const void *dy, const void *x, const void *weight,
                 const double *mean, const double *inv_std, int training, const struct cbn_options *options,
                 enum cbn_dtype dtype, enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels,
                 ptrdiff_t inner, int num_threads)
{
    if (outer == 0 || channels == 0 || inner == 0) {
        set_zero(dweight, dbias, param_dtype, channels);
        return CBN_OK;
    }
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .dy = dy, .y = dx, .weight = weight, .dweight = dweight,
                          .dbias = dbias, .training = training, .dtype = dtype, .param_dtype = param_dtype};
    if (prepare(&job, options, mean, inv_std, outer, channels, inner, 2))
        return CBN_NO_MEMORY;
    static const struct cbn_step steps[] = {{step_centers, CBN_PER_CHANNEL, NULL},
                                            {cbn_step_sums, CBN_PER_PIECE, NULL},
                                            {step_parameters, CBN_PER_CHANNEL, NULL},
                                            {step_lines, CBN_PER_CHANNEL, NULL},
                                            {step_input_grad, CBN_OUTPUT, NULL}};
    cbn_run_steps(&job, steps, sizeof steps / sizeof *steps, job.activated ? 3 : 2, num_threads);
    free(job.workspace);
    return CBN_OK;
}

int cbn_backward_sums(double *dweight, double *dbias, double *most, const void *dy, const void *x,
                      const double *mean, const double *inv_std, const struct cbn_options *options,
                      enum cbn_dtype dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads)
{
    const size_t bytes = (size_t)channels * sizeof(double);
    if (outer == 0 || channels == 0 || inner == 0) {
        set_zero(dweight, dbias, CBN_FLOAT64, channels);
        memset(most, 0, 2 * bytes);
        return CBN_OK;
    }
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .dy = dy, .dweight = dweight, .dbias = dbias,
                          .dtype = dtype, .param_dtype = CBN_FLOAT64};
    if (prepare(&job, options, mean, inv_std, outer, channels, inner, 2))
        return CBN_NO_MEMORY;
    static const struct cbn_step steps[] = {{step_centers, CBN_PER_CHANNEL, NULL},
                                            {cbn_step_sums, CBN_PER_PIECE, NULL},
                                            {step_parameters, CBN_PER_CHANNEL, NULL}};
    cbn_run_steps(&job, steps, sizeof steps / sizeof *steps, 0, num_threads);
    memset(most, 0, 2 * bytes); /* with which no channel is near */
    if (job.near) {
        memcpy(most, job.parts.most_x, bytes);
        memcpy(most + channels, job.parts.most_dy, bytes);
    }
    free(job.workspace);
    return CBN_OK;
}

int cbn_backward_input(void *dx, const void *dy, const void *x, const void *weight, const double *mean,
                       const double *inv_std, const double *dweight, const double *dbias, double count,
                       const double *most, const struct cbn_options *options, enum cbn_dtype dtype,
                       enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner,
                       int num_threads)
{
    if (outer == 0 || channels == 0 || inner == 0)
        return CBN_OK;
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .dy = dy, .y = dx, .weight = weight, .training = 1,
                          .dtype = dtype, .param_dtype = param_dtype};
    if (prepare(&job, options, mean, inv_std, outer, channels, inner, 0))
        return CBN_NO_MEMORY;
    job.count = count;
    job.parts.most_x = (double *)most; /* which is only read */
    job.parts.most_dy = (double *)most + channels;
    memcpy(job.dot, dweight, (size_t)channels * sizeof *dweight);
    memcpy(job.sum, dbias, (size_t)channels * sizeof *dbias);
    static const struct cbn_step steps[] = {{step_lines, CBN_PER_CHANNEL, NULL}, {step_input_grad, CBN_OUTPUT, NULL}};
    cbn_run_steps(&job, steps, sizeof steps / sizeof *steps, 0, num_threads);
    free(job.workspace);
    return CBN_OK;
}
