/* double_backward.c: the gradients of what backward.c computes, with respect to dy, x and weight.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * With x_hat = (x - mean) * inv_std, let the rest of v be what the statistics leave of it:
 *     rest(v) = v - sum(v) / n - x_hat * sum(v * x_hat) / n
 * Then dx of the backward pass is scale * rest(dy) with scale = weight * inv_std, and of the loss
 * sum(ddx * dx) + sum(ddweight * dweight) + sum(ddbias * dbias) the gradients are
 *     dweight = inv_std * sum(ddx * rest(dy))
 *     ddy = scale * rest(ddx) + ddweight * x_hat + ddbias
 *     dx = inv_std * ddweight * rest(dy) - scale * inv_std * (rest(ddx) * sum(dy * x_hat) / n
 *          + rest(dy) * sum(ddx * x_hat) / n) - scale * x_hat * dweight / n
 * Fixed statistics leave everything, and only the first term of dx is there. The sum of dweight is taken in a second
 * round, since sum(ddx * dy) less what the statistics take could be a small difference of large numbers; and of ddx
 * without its mean, which counts for nothing, since rests add up to 0. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* `job` is first, so that its address is that of the whole. Its sums are those of dy, those of `ddx` of ddx. */
struct task {
    struct cbn_job job, ddx;
    struct cbn_second second;
    const void *ddweight, *ddbias;
};

static void step_sums(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    cbn_step_sums(job, region, out);
    cbn_step_sums(&((struct task *)job)->ddx, region, out);
}

static void find_rest(double *center, double *slope, struct cbn_job *job, const struct cbn_region *region)
{
    const double *sum = job->sum, *dot = job->dot, *inv_std = job->inv_std, count = job->count;
    cbn_merge_parts(job, region);
    CBN_EACH_CHANNEL (region) {
        center[c] = sum[c] / count;
        slope[c] = dot[c] * inv_std[c] / count;
    }
}

static void step_rests(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    struct task *task = (struct task *)job;
    (void)out;
    find_rest(task->second.dy_center, task->second.dy_slope, job, region);
    find_rest(task->second.ddx_center, task->second.ddx_slope, &task->ddx, region);
}

static void step_products(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    struct cbn_block block;
    const ptrdiff_t at = cbn_block_of(&block, &job->plan, region);
    const ptrdiff_t part = region->piece * job->plan.channels + region->first;
    (void)out;
    memset(job->parts.sum + part, 0, (size_t)block.channels * sizeof(double)); /* merged with the other, but not used */
    job->ops->products[job->plan.layout](job->parts.dot + part, &((struct task *)job)->second, region->first, at,
                                         &block);
}

static void step_numbers(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    const struct task *task = (struct task *)job;
    const struct cbn_second *to = &task->second;
    const double *inv_std = job->inv_std, count = job->count;
    double *dweight = job->dot;
    (void)out;
    cbn_merge_parts(job, region);
    cbn_load_parameters(to->scale, job->weight, job->param_dtype, region, 1);
    cbn_load_parameters(to->ddweight, task->ddweight, job->param_dtype, region, 0);
    cbn_load_parameters(to->ddbias, task->ddbias, job->param_dtype, region, 0);
    CBN_EACH_CHANNEL (region) {
        dweight[c] *= inv_std[c];
        to->scale[c] *= inv_std[c];
        to->of_dy[c] = to->ddweight[c] * inv_std[c];
    }
    cbn_store_parameters(job->dweight, dweight, job->param_dtype, region);
    if (!job->training)
        return;
    CBN_EACH_CHANNEL (region) {
        const double scale = to->scale[c];
        to->of_dy[c] -= scale * inv_std[c] * to->ddx_slope[c];
        to->of_ddx[c] = -(scale * inv_std[c] * to->dy_slope[c]);
        to->of_x[c] = -(scale * dweight[c] / count);
    }
}

/* Written at once: nothing is left for the next sums to advance. */
static void step_second(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    struct cbn_block block;
    const ptrdiff_t at = cbn_block_of(&block, &job->plan, region);
    (void)out;
    job->ops->second(&((struct task *)job)->second, region->first, at, &block);
}

/* Both workspaces. The second sums go to arrays of their own; whatever else they need is there already. */
static int alloc(struct task *task)
{
    struct cbn_job *job = &task->job, *ddx = &task->ddx;
    struct cbn_second *to = &task->second;
    double **arrays[] = {&job->mean, &job->inv_std, &job->sum, &job->dot, &to->scale, &to->ddweight, &to->ddbias,
                         &to->of_dy, &to->dy_center, &to->dy_slope, &to->ddx_center, &to->ddx_slope, &to->of_ddx,
                         &to->of_x};
    double **sums[] = {&ddx->sum, &ddx->dot};
    const int parts = job->ops->is_double ? 2 : 4;
    if (cbn_job_alloc(job, arrays, sizeof arrays / sizeof *arrays, parts))
        return CBN_NO_MEMORY;
    *ddx = *job;
    if (cbn_job_alloc(ddx, sums, 2, parts) == CBN_OK)
        return CBN_OK;
    free(job->workspace);
    return CBN_NO_MEMORY;
}

static void set_statistics(struct task *task, const double *mean, const double *inv_std)
{
    struct cbn_job *job = &task->job;
    memcpy(job->mean, mean, (size_t)job->plan.channels * sizeof *mean);
    memcpy(job->inv_std, inv_std, (size_t)job->plan.channels * sizeof *inv_std);
    job->anchor = task->ddx.anchor = job->mean;
    task->second.mean = job->mean;
    task->second.inv_std = job->inv_std;
    task->ddx.dy = task->second.ddx;
}

int cbn_double_backward(void *ddy, void *dx, void *dweight, const void *ddx, const void *ddweight, const void *ddbias,
                        const void *dy, const void *x, const void *weight, const double *mean, const double *inv_std,
                        int training, enum cbn_dtype dtype, enum cbn_dtype param_dtype, ptrdiff_t outer,
                        ptrdiff_t channels, ptrdiff_t inner, int num_threads)
{
    static const struct cbn_step steps[] = {{step_sums, CBN_PER_PIECE, NULL},
                                            {step_rests, CBN_PER_CHANNEL, NULL},
                                            {step_products, CBN_PER_PIECE, NULL},
                                            {step_numbers, CBN_PER_CHANNEL, NULL},
                                            {step_second, CBN_OUTPUT, NULL}};
    const int skipped = training ? 0 : 2, all = sizeof steps / sizeof *steps;
    if (outer == 0 || channels == 0 || inner == 0) {
        memset(dweight, 0, (size_t)channels * cbn_itemsize(param_dtype));
        return CBN_OK;
    }
    struct task task = {.job = {.ops = cbn_ops(dtype), .x = x, .dy = dy, .weight = weight, .dweight = dweight,
                                .training = training, .dtype = dtype, .param_dtype = param_dtype},
                        .second = {.ddx = ddx, .dy = dy, .x = x, .ddy = ddy, .dx = dx, .training = training},
                        .ddweight = ddweight, .ddbias = ddbias};
    cbn_make_plan(&task.job.plan, outer, channels, inner);
    cbn_set_options(&task.job, NULL);
    if (alloc(&task))
        return CBN_NO_MEMORY;
    set_statistics(&task, mean, inv_std);
    cbn_run_steps(&task.job, steps + skipped, all - skipped, 3, num_threads);
    free(task.ddx.workspace);
    free(task.job.workspace);
    return CBN_OK;
}
