/* images.c: y = (x - mean) * scale + shift of images, whose channels are taken apart on the way.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "internal.h"

/* x lies as y does */
static void step_same(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    cbn_set_output(out, job, region);
    job->ops->affine[job->plan.output_layout](out);
}

/* y of a part of one sample, from planes of that size */
static void write_planes(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out,
                         const uint8_t *planes)
{
    cbn_set_output(out, job, region);
    out->x = planes;
    job->ops->affine[CBN_ROWS](out);
    cbn_advance(out, PTRDIFF_MAX);
}

/* One piece: through planes in the nearest cache to those of y. Whole planes follow each other in y, too, and are
 * written at once if they are not too small for the kernel. */
static void step_split(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out)
{
    _Alignas(64) uint8_t planes[CBN_IMAGE_BYTES];
    const ptrdiff_t inner = job->plan.inner, stride = job->plan.channels, length = region->length;
    const ptrdiff_t at_once = length == inner && length >= CBN_LEAST_SPAN ? region->last - region->first : 1;
    struct cbn_region part = *region;
    part.samples = 1;
    for (ptrdiff_t s = 0; s < region->samples; s++) {
        part.sample = region->sample + s;
        const uint8_t *from = (const uint8_t *)job->x + (part.sample * inner + region->at) * stride + region->first;
        job->ops->split(planes, from, stride, region->last - region->first, length);
        for (ptrdiff_t c = region->first; c < region->last; c += at_once) {
            part.first = c, part.last = c + at_once;
            write_planes(job, &part, out, planes + (c - region->first) * length);
        }
    }
}

void cbn_normalize_images(float *y, const uint8_t *x, const double *mean, const double *scale, const double *shift,
                          int to_planes, const struct cbn_options *options, ptrdiff_t outer, ptrdiff_t channels,
                          ptrdiff_t inner, int num_threads)
{
    static const struct cbn_step same = {step_same, CBN_OUTPUT, NULL}, split = {step_split, CBN_PER_PIECE, NULL};
    if (outer == 0 || channels == 0 || inner == 0)
        return;
    /* no step writes the numbers */
    struct cbn_job job = {.ops = cbn_ops(CBN_UINT8), .x = x, .y = y, .mean = (double *)mean, .scale = (double *)scale,
                          .shift = (double *)shift};
    to_planes = to_planes && channels > 1 && inner > 1;
    if (to_planes)
        cbn_make_image_plan(&job.plan, outer, channels, inner);
    else
        cbn_make_plan(&job.plan, outer, channels, inner);
    cbn_set_options(&job, options);
    cbn_run_steps(&job, to_planes ? &split : &same, 1, 0, num_threads);
}
