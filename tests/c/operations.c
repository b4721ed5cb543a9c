/* operations.c: every function of the public interface that computes, with and without its options.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "checks.h"

#define SIZES a->outer, a->channels, a->inner, a->threads
static const double EPS = 1e-5, MOMENTUM = 0.1;

/* leaky relu of the sum with the residual; or y and the weights of positions besides */
static struct cbn_options fused(struct arrays *a, int backward, int weighted)
{
    struct cbn_options options = {.activation = CBN_LEAKY_RELU, .negative_slope = 0.1};
    if (backward)
        options.y = a->at[Y], options.dresidual = a->at[DRESIDUAL];
    else
        options.residual = a->at[RESIDUAL];
    options.weights = weighted ? a->at[POSITIONS] : NULL;
    return options;
}

static int moments(struct arrays *a)
{
    return cbn_moments(a->at[MEAN], a->at[M2], a->at[DY], NULL, a->dtype, SIZES);
}

static int moments_weighted(struct arrays *a)
{
    const struct cbn_options options = {.weights = a->at[POSITIONS]};
    return cbn_moments(a->at[MEAN], a->at[M2], a->at[X], &options, a->dtype, SIZES);
}

static int any_forward(struct arrays *a, const struct cbn_options *options)
{
    return cbn_forward(a->at[Y], a->at[MEAN], a->at[M2], a->at[INV_STD], a->at[X], a->at[WEIGHT], a->at[BIAS], EPS,
                       options, a->dtype, a->dtype, SIZES);
}

static int forward(struct arrays *a)
{
    return any_forward(a, NULL);
}

static int forward_fused(struct arrays *a)
{
    const struct cbn_options options = fused(a, 0, 0);
    return any_forward(a, &options);
}

static int forward_weighted(struct arrays *a)
{
    const struct cbn_options options = fused(a, 0, 1);
    return any_forward(a, &options);
}

static int any_backward(struct arrays *a, void *dx, const void *dy, int training, const struct cbn_options *options)
{
    return cbn_backward(dx, a->at[DWEIGHT], a->at[DBIAS], dy, a->at[X], a->at[WEIGHT], a->at[MEAN], a->at[INV_STD],
                        training, options, a->dtype, a->dtype, SIZES);
}

static int backward(struct arrays *a)
{
    return any_backward(a, a->at[DX], a->at[DY], 1, NULL);
}

static int backward_fixed(struct arrays *a)
{
    return any_backward(a, a->at[DX], a->at[DY], 0, NULL);
}

static int backward_in_place(struct arrays *a)
{
    return any_backward(a, a->at[DX], a->at[DX], 1, NULL);
}

static int backward_fused(struct arrays *a)
{
    const struct cbn_options options = fused(a, 1, 0);
    return any_backward(a, a->at[DX], a->at[DY], 1, &options);
}

static int backward_fused_fixed(struct arrays *a)
{
    const struct cbn_options options = fused(a, 1, 0);
    return any_backward(a, a->at[DX], a->at[DY], 0, &options);
}

static int backward_weighted(struct arrays *a)
{
    const struct cbn_options options = fused(a, 1, 1);
    return any_backward(a, a->at[DX], a->at[DY], 1, &options);
}

static int backward_weighted_fixed(struct arrays *a)
{
    const struct cbn_options options = fused(a, 1, 1);
    return any_backward(a, a->at[DX], a->at[DY], 0, &options);
}

/* Of ddx the residual, of ddweight the bias; ddbias is NULL. */
static int any_double_backward(struct arrays *a, int training)
{
    return cbn_double_backward(a->at[DDY], a->at[DX], a->at[DWEIGHT], a->at[RESIDUAL], a->at[BIAS], NULL, a->at[DY],
                               a->at[X], a->at[WEIGHT], a->at[MEAN], a->at[INV_STD], training, a->dtype, a->dtype,
                               SIZES);
}

static int double_backward(struct arrays *a)
{
    return any_double_backward(a, 1);
}

static int double_backward_fixed(struct arrays *a)
{
    return any_double_backward(a, 0);
}

static int update_running(struct arrays *a)
{
    const double divisor = (double)(a->outer * a->inner);
    cbn_update_running(a->at[RUNNING_MEAN], a->at[MEAN], 1, MOMENTUM, a->dtype, a->channels);
    cbn_update_running(a->at[RUNNING_VAR], a->at[M2], divisor, MOMENTUM, a->dtype, a->channels);
    return CBN_OK;
}

static int any_inference(struct arrays *a, const void *x, const struct cbn_options *options)
{
    return cbn_inference(a->at[Y], x, a->at[WEIGHT], NULL, a->at[RUNNING_MEAN], a->at[RUNNING_VAR], 0, options,
                         a->dtype, a->dtype, a->dtype, SIZES);
}

static int inference_fused(struct arrays *a)
{
    const struct cbn_options options = {.activation = CBN_RELU, .residual = a->at[RESIDUAL]};
    return any_inference(a, a->at[X], &options);
}

static int inference_in_place(struct arrays *a)
{
    return any_inference(a, a->at[Y], NULL);
}

static int inference_of_pixels(struct arrays *a)
{
    return cbn_inference(a->at[IMAGE], a->at[PIXELS], a->at[WEIGHT], a->at[BIAS], a->at[RUNNING_MEAN],
                         a->at[RUNNING_VAR], EPS, NULL, CBN_UINT8, a->dtype, a->dtype, SIZES);
}

static int any_images(struct arrays *a, int to_planes)
{
    cbn_normalize_images(a->at[IMAGE], a->at[PIXELS], a->at[MEAN], a->at[SCALE], a->at[SHIFT], to_planes, NULL, SIZES);
    return CBN_OK;
}

static int images(struct arrays *a)
{
    return any_images(a, 0);
}

static int images_to_planes(struct arrays *a)
{
    return any_images(a, 1);
}

/* The rest of the mean takes the place of inv_std. */
static int any_part_moments(struct arrays *a, const struct cbn_options *options)
{
    return cbn_part_moments(a->at[MEAN], a->at[INV_STD], a->at[M2], a->at[X], options, a->dtype, SIZES);
}

static int part_moments(struct arrays *a)
{
    return any_part_moments(a, NULL);
}

static int part_moments_weighted(struct arrays *a)
{
    const struct cbn_options options = {.weights = a->at[POSITIONS]};
    return any_part_moments(a, &options);
}

/* The sums take the places of m2 and inv_std, and of inv_std there is the scale. */
static int any_backward_sums(struct arrays *a, const struct cbn_options *options)
{
    return cbn_backward_sums(a->at[M2], a->at[INV_STD], a->at[MOST], a->at[DY], a->at[X], a->at[MEAN], a->at[SCALE],
                             options, a->dtype, SIZES);
}

static int backward_sums(struct arrays *a)
{
    return any_backward_sums(a, NULL);
}

static int backward_sums_weighted(struct arrays *a)
{
    const struct cbn_options options = fused(a, 1, 1);
    return any_backward_sums(a, &options);
}

/* With a batch of three such parts. */
static int any_backward_input(struct arrays *a, const struct cbn_options *options)
{
    return cbn_backward_input(a->at[DX], a->at[DY], a->at[X], a->at[WEIGHT], a->at[MEAN], a->at[SCALE], a->at[M2],
                              a->at[INV_STD], 3.0 * (double)(a->outer * a->inner), a->at[MOST], options, a->dtype,
                              a->dtype, SIZES);
}

static int backward_input(struct arrays *a)
{
    return any_backward_input(a, NULL);
}

static int backward_input_weighted(struct arrays *a)
{
    const struct cbn_options options = fused(a, 1, 1);
    return any_backward_input(a, &options);
}

/* The sum takes the place of the first mean, to be compared as all results are. */
static int count(struct arrays *a)
{
    const double sum = cbn_count(a->at[POSITIONS], a->outer * a->inner);
    memcpy(a->at[MEAN], &sum, sizeof sum);
    return CBN_OK;
}

#define STATISTICS (BIT(MEAN) | BIT(M2))
#define FORWARD (STATISTICS | BIT(INV_STD) | BIT(Y))
#define BACKWARD (BIT(DX) | BIT(DWEIGHT) | BIT(DBIAS))

const struct operation operations[] = {
    {"forward", forward, FORWARD},
    {"backward", backward, BACKWARD},
    {"backward with fixed statistics", backward_fixed, BACKWARD},
    {"backward in place", backward_in_place, BACKWARD},
    {"double backward", double_backward, BIT(DDY) | BIT(DX) | BIT(DWEIGHT)},
    {"double backward with fixed statistics", double_backward_fixed, BIT(DDY) | BIT(DX) | BIT(DWEIGHT)},
    {"fused forward", forward_fused, FORWARD},
    {"fused backward", backward_fused, BACKWARD | BIT(DRESIDUAL)},
    {"fused backward with fixed statistics", backward_fused_fixed, BACKWARD | BIT(DRESIDUAL)},
    {"weighted forward", forward_weighted, FORWARD},
    {"weighted backward", backward_weighted, BACKWARD | BIT(DRESIDUAL)},
    {"weighted backward with fixed statistics", backward_weighted_fixed, BACKWARD | BIT(DRESIDUAL)},
    {"update of running statistics", update_running, BIT(RUNNING_MEAN) | BIT(RUNNING_VAR)},
    {"fused inference", inference_fused, BIT(Y)},
    {"inference in place", inference_in_place, BIT(Y)},
    {"inference of pixels", inference_of_pixels, BIT(IMAGE)},
    {"images", images, BIT(IMAGE)},
    {"images to planes", images_to_planes, BIT(IMAGE)},
    {"moments", moments, STATISTICS},
    {"weighted moments", moments_weighted, STATISTICS},
    {"count", count, BIT(MEAN)},
    {"weighted moments of a part", part_moments_weighted, STATISTICS | BIT(INV_STD)},
    {"moments of a part", part_moments, STATISTICS | BIT(INV_STD)},
    {"sums of backward", backward_sums, BIT(M2) | BIT(INV_STD) | BIT(MOST)},
    {"backward from sums", backward_input, BIT(DX)},
    {"weighted sums of backward", backward_sums_weighted, BIT(M2) | BIT(INV_STD) | BIT(MOST)},
    {"weighted backward from sums", backward_input_weighted, BIT(DX) | BIT(DRESIDUAL)},
};
const int operation_count = COUNT(operations);
