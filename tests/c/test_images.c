/* test_images.c: images against their formula, and bit by bit in every instruction set and on several threads.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>

#include "checks.h"

/* around one line of memory, what is taken apart at once, and the channels of that */
static const ptrdiff_t IMAGES[][3] = {
    {1, 3, 1},     {2, 2, 15},     {70, 3, 16},   {9, 4, 33},   {5, 3, 1000},   {2, 3, 10912},
    {3, 129, 50},  {3, 1, 70000},  {3, 3, 10922}, {1, 20, 9000}, {2, 1000, 300}, {2, 4, 100000},
};
static const int THREADS[] = {1, 3, 7};

/* What y must be: the channels of a pixel side by side in x if `to_planes`. */
static void check_values(const float *y, const struct arrays *a, const double *mean, int to_planes)
{
    const ptrdiff_t channels = a->channels, inner = a->inner;
    const uint8_t *x = a->at[PIXELS];
    for (ptrdiff_t at = 0; at < a->outer * channels * inner; at++) {
        const ptrdiff_t i = at % inner, c = at / inner % channels, o = at / inner / channels;
        const double line = (x[to_planes ? (o * inner + i) * channels + c : at] - mean[c]) * 0.25 + 1;
        const double sum = line + cbn_load(a->at[RESIDUAL], CBN_FLOAT32, at), expected = sum > 0 ? sum : 0.5 * sum;
        CHECK(fabs((double)y[at] - expected) <= 1e-6 * (fabs(line) + 3));
    }
}

static void check_shape(const ptrdiff_t *shape, int to_planes)
{
    struct arrays given = make_arrays(CBN_FLOAT32, shape, 3, 1);
    double *mean = filled(CBN_FLOAT64, shape[1], 3, 100, 1), *scale = filled(CBN_FLOAT64, shape[1], 0, 0.25, 0);
    double *shift = filled(CBN_FLOAT64, shape[1], 0, 0, 0);
    for (ptrdiff_t c = 0; c < shape[1]; c++)
        scale[c] = 0.25, shift[c] = 1;
    const struct cbn_options options = {.activation = CBN_LEAKY_RELU, .negative_slope = 0.5,
                                        .residual = given.at[RESIDUAL]};
    uint64_t first = 0;
    for (int isa = 0; cbn_available_isa(isa); isa++)
        for (int t = 0; t < (small ? 2 : COUNT(THREADS)); t++) {
            struct arrays a = with_outputs(&given, THREADS[t]);
            CHECK(choose(isa, isa + t));
            cbn_normalize_images(a.at[IMAGE], a.at[PIXELS], mean, scale, shift, to_planes, &options, a.outer,
                                 a.channels, a.inner, a.threads);
            if (isa == 0 && t == 0) {
                first = digest(&a, BIT(IMAGE));
                check_values(a.at[IMAGE], &a, mean, to_planes);
            }
            CHECK(digest(&a, BIT(IMAGE)) == first);
            discard_outputs(&a);
            passed++;
        }
    bits = digest_of(bits, &first, sizeof first);
    discard_arrays(&given), free(mean), free(scale), free(shift);
}

void check_images(void)
{
    for (int i = 0; i < COUNT(IMAGES) - 4 * small; i++)
        for (int to_planes = 0; to_planes < 2; to_planes++)
            check_shape(IMAGES[i], to_planes);
}
