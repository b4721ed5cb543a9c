/* job.c: the workspace of an operation, its parameters as doubles, and what its outputs need.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "internal.h"

int cbn_job_alloc(struct cbn_job *job, double **arrays[], int count, int parts)
{
    const size_t channels = (size_t)job->plan.channels, part = channels * (size_t)job->plan.pieces;
    double *next = malloc((channels * (size_t)count + part * (size_t)parts + 1) * sizeof(double));
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
    const ptrdiff_t at = cbn_block_of(&out->block, &job->plan, region) * (ptrdiff_t)job->ops->itemsize;
    out->x = (const char *)job->x + at;
    out->dy = job->dy ? (const char *)job->dy + at : NULL;
    out->y = (char *)job->y + at;
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
