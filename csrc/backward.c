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
    for (ptrdiff_t c = region->first; c < region->last; c++) {
        const double mean = job->mean[c], offset = mean * job->inv_std[c];
        const int about_zero = job->ops->itemsize == sizeof(float) && offset * offset <= job->ops->far &&
                               (double)((const float *)job->x)[c * job->plan.inner] != mean;
        job->anchor[c] = about_zero ? 0 : mean;
    }
}

/* Whether dx = scale * dy - scale * slope * x + constant may be computed in float32. With D the largest |dy|, S the
 * most that what is taken off dy can be, and M >= |scale| (D - S) the largest |dx|: the roundings of the three numbers
 * and of the four operations add up to at most 2^-24 |scale| (3 D + 5 S), which for S <= D / 2 is 6.6e-7 M. Nothing may
 * over- or underflow on the way. */
static int is_near(const struct cbn_job *job, ptrdiff_t c)
{
    double x = 0, dy = 0;
    if (job->ops->itemsize != sizeof(float))
        return 0;
    for (ptrdiff_t part = c; part < job->plan.pieces * job->plan.channels; part += job->plan.channels) {
        x = fmax(x, job->parts.most_x[part]);
        dy = fmax(dy, job->parts.most_dy[part]);
    }
    const double scale = fabs(job->scale[c]);
    return fabs(job->shift[c]) + fabs(job->slope[c]) * (x + fabs(job->mean[c])) <= dy / 2 && dy >= 0x1p-60 &&
           dy <= 0x1p60 && scale >= 0x1p-60 && scale <= 0x1p60 && x * 0x1p-119 <= scale * dy;
}

static void step_gradients(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    const double count = (double)(job->plan.outer * job->plan.inner);
    for (ptrdiff_t c = region->first; c < region->last; c++) {
        cbn_merge_parts(job, c);
        const double dbias = job->sum[c], offset = job->mean[c] - job->anchor[c];
        const double dot = offset != 0 ? job->dot[c] - offset * dbias : job->dot[c];
        const double dweight = dot * job->inv_std[c];
        job->scale[c] = cbn_load(job->weight, job->param_dtype, c, 1) * job->inv_std[c];
        cbn_store(job->dbias, job->param_dtype, c, dbias);
        cbn_store(job->dweight, job->param_dtype, c, dweight);
        job->shift[c] = job->training ? dbias / count : 0;
        job->slope[c] = job->training ? dweight / count * job->inv_std[c] : 0;
        job->near[c] = is_near(job, c);
    }
}

static void step_input_grad(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    cbn_set_output(out, job, region);
    if (job->training) {
        job->ops->input_grad[job->plan.output_layout](out);
        return;
    }
    out->x = out->dy; /* dx = scale * dy, as shift and slope are zeros */
    out->mean = out->slope;
    job->ops->affine[job->plan.output_layout](out);
}

int cbn_backward(void *dx, void *dweight, void *dbias, const void *dy, const void *x, const void *weight,
                 const double *mean, const double *inv_std, int training, enum cbn_dtype dtype,
                 enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads)
{
    if (outer == 0 || channels == 0 || inner == 0) {
        const size_t bytes = (size_t)channels * (param_dtype == CBN_FLOAT32 ? sizeof(float) : sizeof(double));
        memset(dweight, 0, bytes);
        memset(dbias, 0, bytes);
        return CBN_OK;
    }
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .dy = dy, .y = dx, .weight = weight, .dweight = dweight,
                          .dbias = dbias, .training = training, .param_dtype = param_dtype};
    cbn_make_plan(&job.plan, outer, channels, inner);
    double **arrays[] = {&job.mean, &job.inv_std, &job.sum, &job.dot, &job.scale, &job.shift, &job.slope,
                         &job.anchor, &job.near};
    if (cbn_job_alloc(&job, arrays, 9, 4))
        return CBN_NO_MEMORY;
    memcpy(job.mean, mean, (size_t)channels * sizeof *mean);
    memcpy(job.inv_std, inv_std, (size_t)channels * sizeof *inv_std);
    static const struct cbn_step steps[] = {{step_centers, CBN_PER_CHANNEL, NULL},
                                            {cbn_step_sums, CBN_PER_PIECE, NULL},
                                            {step_gradients, CBN_PER_CHANNEL, NULL},
                                            {step_input_grad, CBN_OUTPUT, NULL}};
    cbn_run_steps(&job, steps, sizeof steps / sizeof *steps, 2, num_threads);
    free(job.workspace);
    return CBN_OK;
}
