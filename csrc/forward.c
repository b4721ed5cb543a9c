/* forward.c: y = (x - mean) * scale + bias, with the batch's statistics (training) or given ones (inference).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* 1 / sqrt(var + eps); 0 where that is a division by zero, so that a constant channel gives its bias even then */
static double inverse_std(double var, double eps)
{
    const double square = var + eps;
    return square == 0 ? 0 : 1 / sqrt(square);
}

/* scale = weight * inv_std, shift = bias; inv_std may be shift. */
static void set_lines(struct cbn_job *job, const double *inv_std, const struct cbn_region *region)
{
    double *scale = job->scale;
    cbn_load_parameters(scale, job->weight, job->param_dtype, region, 1);
    CBN_EACH_CHANNEL (region)
        scale[c] *= inv_std[c];
    cbn_load_parameters(job->shift, job->bias, job->param_dtype, region, 0);
}

static void step_batch_line(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    const double count = job->count != 0 ? job->count : 1, eps = job->eps, *m2 = job->m2;
    double *inv_std = job->inv_std;
    CBN_EACH_CHANNEL (region)
        inv_std[c] = inverse_std(m2[c] / count, eps);
    set_lines(job, inv_std, region);
}

static void step_running_line(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    (void)out;
    const double eps = job->eps;
    double *inv_std = job->shift;
    cbn_load_parameters(job->mean, job->running_mean, job->stat_dtype, region, 0);
    cbn_load_parameters(inv_std, job->running_var, job->stat_dtype, region, 1);
    CBN_EACH_CHANNEL (region)
        inv_std[c] = inverse_std(inv_std[c], eps);
    set_lines(job, inv_std, region);
}

static void step_affine(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    cbn_set_output(out, job, region);
    job->ops->affine[job->plan.output_layout](out);
}

/* An empty batch: mean 0, m2 0. Out of line, as `update` in running.c. */
__attribute__((noinline)) static void set_empty(double *mean, double *m2, double *inv_std, double eps,
                                                ptrdiff_t channels)
{
    for (ptrdiff_t c = 0; c < channels; c++) {
        mean[c] = m2[c] = 0;
        inv_std[c] = inverse_std(0, eps);
    }
}

/* A batch of which nothing counts is normalized with a mean of 0 and a variance of 0. */
static void run_forward(struct cbn_job *job, int num_threads)
{
    static const struct cbn_step steps[] = {CBN_MOMENTS_STEPS,
                                            {step_batch_line, CBN_PER_CHANNEL, NULL},
                                            {step_affine, CBN_OUTPUT, NULL}};
    const int all = sizeof steps / sizeof *steps, skipped = cbn_none_counts(job) ? all - 2 : 0;
    if (skipped) {
        memset(job->mean, 0, (size_t)job->plan.channels * sizeof(double));
        memset(job->m2, 0, (size_t)job->plan.channels * sizeof(double));
    }
    cbn_run_steps(job, steps + skipped, all - skipped, skipped ? 0 : 1, num_threads);
}

int cbn_forward(void *y, double *mean, double *m2, double *inv_std, const void *x, const void *weight,
                const void *bias, double eps, const struct cbn_options *options, enum cbn_dtype dtype,
                enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads)
{
    if (outer == 0 || channels == 0 || inner == 0) {
        const unsigned long long saved = cbn_fp_enter();
        set_empty(mean, m2, inv_std, eps, channels);
        cbn_fp_leave(saved);
        return CBN_OK;
    }
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .y = y, .weight = weight, .bias = bias, .mean = mean,
                          .m2 = m2, .inv_std = inv_std, .eps = eps, .param_dtype = param_dtype};
    cbn_make_plan(&job.plan, outer, channels, inner);
    cbn_set_options(&job, options);
    double **arrays[] = {&job.anchor, &job.sum, &job.dot, &job.far, &job.scale, &job.shift};
    if (cbn_job_alloc(&job, arrays, 6, 2))
        return CBN_NO_MEMORY;
    run_forward(&job, num_threads);
    free(job.workspace);
    return CBN_OK;
}

int cbn_inference(void *y, const void *x, const void *weight, const void *bias, const void *running_mean,
                  const void *running_var, double eps, const struct cbn_options *options, enum cbn_dtype dtype,
                  enum cbn_dtype param_dtype, enum cbn_dtype stat_dtype, ptrdiff_t outer, ptrdiff_t channels,
                  ptrdiff_t inner, int num_threads)
{
    if (outer == 0 || channels == 0 || inner == 0)
        return CBN_OK;
    struct cbn_job job = {.ops = cbn_ops(dtype), .x = x, .y = y, .weight = weight, .bias = bias,
                          .running_mean = running_mean, .running_var = running_var, .eps = eps,
                          .param_dtype = param_dtype, .stat_dtype = stat_dtype};
    cbn_make_plan(&job.plan, outer, channels, inner);
    cbn_set_options(&job, options);
    double **arrays[] = {&job.mean, &job.scale, &job.shift};
    if (cbn_job_alloc(&job, arrays, 3, 0))
        return CBN_NO_MEMORY;
    static const struct cbn_step steps[] = {{step_running_line, CBN_PER_CHANNEL, NULL},
                                            {step_affine, CBN_OUTPUT, NULL}};
    cbn_run_steps(&job, steps, 2, 0, num_threads);
    free(job.workspace);
    return CBN_OK;
}
