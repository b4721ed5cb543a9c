/* job.c: the workspace of an operation, its parameters as doubles, and what its outputs need.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "internal.h"

/* Of at most COUNTED weights, in short chains of additions. */
enum { COUNTED = 256, CHAINS = 16 };
static double sum_of_few(const double *weights, ptrdiff_t positions)
{
    double sums[CHAINS] = {0};
    for (ptrdiff_t i = 0; i < positions; i++)
        sums[i % CHAINS] += weights[i] > 0 ? weights[i] : 0;
    for (int half = CHAINS / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            sums[k] += sums[k + half];
    return sums[0];
}

/* With what each addition loses taken into the next: variances are known no better than the count. Out of line, so that
 * no arithmetic moves across the switch of the rounding state. */
__attribute__((noinline)) static double sum_of_positive(const double *weights, ptrdiff_t positions)
{
    double sum = 0, lost = 0;
    for (ptrdiff_t i = 0; i < positions; i += COUNTED) {
        const double part = sum_of_few(weights + i, positions - i < COUNTED ? positions - i : COUNTED) - lost;
        const double next = sum + part;
        lost = (next - sum) - part;
        sum = next;
    }
    return sum;
}

double cbn_count(const double *weights, ptrdiff_t positions)
{
    const unsigned long long saved = cbn_fp_enter();
    const double count = sum_of_positive(weights, positions);
    cbn_fp_leave(saved);
    return count;
}

/* The places of the first values that count: along the first samples, or, where planes are small, one of each sample;
 * these are the places that the kernels take without weights. */
__attribute__((noinline)) static void find_first(struct cbn_job *job)
{
    const struct cbn_plan *plan = &job->plan;
    const int lanes = sizeof job->first.places / sizeof *job->first.places;
    struct cbn_first *first = &job->first;
    first->count = 0;
    for (ptrdiff_t o = 0; o < plan->outer; o++)
        for (ptrdiff_t i = 0; i < plan->inner; i++) {
            if (!(job->weights[o * plan->inner + i] > 0))
                continue;
            first->places[first->count++] = o * plan->channels * plan->inner + i;
            if (first->count == lanes)
                return;
            if (plan->inner < lanes)
                break;
        }
}

void cbn_set_options(struct cbn_job *job, const struct cbn_options *options)
{
    static const struct cbn_options none = {0};
    const ptrdiff_t positions = job->plan.outer * job->plan.inner;
    options = options ? options : &none;
    job->bend = (struct cbn_bend){1, -1};
    if (options->activation == CBN_LEAKY_RELU)
        job->bend.slope = options->negative_slope;
    else if (options->activation == CBN_RELU)
        job->bend = (struct cbn_bend){0, 0};
    job->residual = options->residual;
    job->activated = options->activation == CBN_IDENTITY ? NULL : options->y;
    job->dresidual = options->dresidual;
    job->weights = options->weights;
    job->count = (double)positions;
    if (job->weights) {
        const unsigned long long saved = cbn_fp_enter();
        job->count = sum_of_positive(job->weights, positions);
        find_first(job);
        cbn_fp_leave(saved);
    }
}

int cbn_job_alloc(struct cbn_job *job, double **arrays[], int count, int parts)
{
    const ptrdiff_t channels = job->plan.channels;
    ptrdiff_t part, all_parts, doubles, bytes;
    if (__builtin_mul_overflow(channels, job->plan.pieces, &part) || __builtin_mul_overflow(part, parts, &all_parts) ||
        __builtin_mul_overflow(channels, count, &doubles) || __builtin_add_overflow(doubles, all_parts, &doubles) ||
        __builtin_mul_overflow(doubles, (ptrdiff_t)sizeof(double), &bytes))
        return CBN_NO_MEMORY;
    double *next = malloc(bytes > 0 ? (size_t)bytes : 1);
    if (next == NULL)
        return CBN_NO_MEMORY;
    job->workspace = next;
    for (int i = 0; i < count; i++, next += channels)
        *arrays[i] = next;
    double **const all[] = {&job->parts.sum, &job->parts.dot, &job->parts.most_x, &job->parts.most_dy};
    for (int i = 0; i < parts; i++, next += part)
        *all[i] = next;
    return CBN_OK;
}

void cbn_set_output(struct cbn_output *out, const struct cbn_job *job, const struct cbn_region *region)
{
    const ptrdiff_t at = cbn_block_of(&out->block, &job->plan, region), from = at * (ptrdiff_t)job->ops->itemsize;
    const ptrdiff_t to = at * (ptrdiff_t)job->ops->output_itemsize;
    out->x = (const char *)job->x + from;
    out->dy = job->dy ? (const char *)job->dy + from : NULL;
    out->activated = job->activated ? (const char *)job->activated + from : NULL;
    out->residual = job->residual ? (const char *)job->residual + to : NULL;
    out->y = (char *)job->y + to;
    out->dresidual = job->dresidual ? (char *)job->dresidual + to : NULL;
    out->weights = job->weights ? job->weights + region->sample * job->plan.inner + region->at : NULL;
    out->bend = job->bend;
    out->mean = job->mean + region->first;
    out->scale = job->scale + region->first;
    out->shift = job->shift + region->first;
    out->slope = job->slope ? job->slope + region->first : NULL;
    out->near = job->near ? job->near + region->first : NULL;
}

void cbn_load_parameters(double *to, const void *from, enum cbn_dtype dtype, const struct cbn_region *region,
                         double missing)
{
    if (from == NULL)
        CBN_EACH_CHANNEL (region)
            to[c] = missing;
    else {
        CBN_EACH_CHANNEL (region)
            to[c] = cbn_load(from, dtype, c);
    }
}

void cbn_store_parameters(void *to, const double *from, enum cbn_dtype dtype, const struct cbn_region *region)
{
    CBN_EACH_CHANNEL (region)
        cbn_store(to, dtype, c, from[c]);
}
