/* test_edges.c: empty arrays, batches of which nothing counts, channels of one value, and names that are unknown.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>

#include "checks.h"

static void check_empty(void)
{
    double mean[3] = {1, 1, 1}, m2[3] = {1, 1, 1}, inv_std[3];
    float dweight[3] = {1, 1, 1}, dbias[3] = {1, 1, 1};
    CHECK(!cbn_forward(NULL, mean, m2, inv_std, NULL, NULL, NULL, 0.25, NULL, CBN_FLOAT32, CBN_FLOAT32, 0, 3, 4, 2));
    CHECK(mean[2] == 0 && m2[2] == 0 && inv_std[2] == 2);
    mean[2] = m2[2] = 1;
    CHECK(!cbn_moments(mean, m2, NULL, NULL, CBN_FLOAT32, 5, 3, 0, 2));
    CHECK(mean[2] == 0 && m2[2] == 0);
    CHECK(!cbn_inference(NULL, NULL, NULL, NULL, dweight, dbias, 0, NULL, CBN_FLOAT32, CBN_FLOAT32, CBN_FLOAT32, 0, 3,
                         4, 2));
    cbn_normalize_images(NULL, NULL, mean, mean, mean, 1, NULL, 0, 3, 4, 2);
    CHECK(!cbn_backward(NULL, dweight, dbias, NULL, NULL, NULL, mean, inv_std, 1, NULL, CBN_FLOAT32, CBN_FLOAT32, 2,
                        3, 0, 2));
    CHECK(dweight[2] == 0 && dbias[2] == 0);
    dweight[2] = 1;
    CHECK(!cbn_double_backward(NULL, NULL, dweight, NULL, NULL, NULL, NULL, NULL, NULL, mean, inv_std, 1, CBN_FLOAT32,
                               CBN_FLOAT32, 0, 3, 4, 2));
    CHECK(dweight[2] == 0);
    CHECK(cbn_count(NULL, 0) == 0);
    passed += 6;
}

/* no channels: nothing is written, whatever the other sizes */
static void check_no_channels(void)
{
    CHECK(!cbn_forward(NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, NULL, CBN_FLOAT32, CBN_FLOAT32, 4, 0, 4, 2));
    CHECK(!cbn_inference(NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, CBN_FLOAT32, CBN_FLOAT32, CBN_FLOAT32, 4, 0, 4,
                         2));
    cbn_update_running(NULL, NULL, 1, 0.5, CBN_FLOAT32, 0);
    passed += 3;
}

/* more channels than a workspace can have: nothing is read, and nothing written */
static void check_absurd(void)
{
    static const ptrdiff_t many = PTRDIFF_MAX / 16;
    static const enum cbn_dtype f32 = CBN_FLOAT32;
    double mean = 1, m2 = 1, inv_std = 1;
    for (int threads = 1; threads <= 3; threads += 2) {
        CHECK(cbn_moments(&mean, &m2, NULL, NULL, f32, 1, many, 1, threads) == CBN_NO_MEMORY);
        CHECK(cbn_forward(NULL, &mean, &m2, &inv_std, NULL, NULL, NULL, 1, NULL, f32, f32, 1, many, 1, threads) ==
              CBN_NO_MEMORY);
        CHECK(mean == 1 && m2 == 1 && inv_std == 1);
        CHECK(cbn_inference(NULL, NULL, NULL, NULL, NULL, NULL, 1, NULL, f32, f32, f32, 1, many, 1, threads) ==
              CBN_NO_MEMORY);
        CHECK(cbn_backward(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, NULL, f32, f32, 1, many, 1, threads) ==
              CBN_NO_MEMORY);
        CHECK(cbn_double_backward(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, f32, f32, 1,
                                  many, 1, threads) == CBN_NO_MEMORY);
        passed += 5;
    }
}

/* A batch of which every position is masked: statistics as of an empty batch, y = bias. */
static void check_masked(void)
{
    static const ptrdiff_t shape[] = {4, 3, 20};
    struct arrays given = make_arrays(CBN_FLOAT32, shape, 3, 1), a = with_outputs(&given, 1);
    double *weights = given.at[POSITIONS], *mean = a.at[MEAN], *m2 = a.at[M2];
    for (ptrdiff_t i = 0; i < 80; i++)
        weights[i] = -1;
    const struct cbn_options options = {.weights = weights};
    mean[0] = m2[0] = 1;
    CHECK(!cbn_moments(mean, m2, a.at[X], &options, CBN_FLOAT32, 4, 3, 20, 1));
    CHECK(mean[0] == 0 && m2[0] == 0);
    mean[1] = m2[1] = 1;
    CHECK(!cbn_forward(a.at[Y], mean, m2, a.at[INV_STD], a.at[X], a.at[WEIGHT], a.at[BIAS], 1, &options, CBN_FLOAT32,
                       CBN_FLOAT32, 4, 3, 20, 1));
    CHECK(mean[1] == 0 && m2[1] == 0 && ((double *)a.at[INV_STD])[1] == 1);
    discard_outputs(&a), discard_arrays(&given);
    passed += 2;
}

/* A constant channel is its bias to the bit, with eps 0, too. */
static void check_constant(void)
{
    float x[40], y[40], bias[] = {2};
    double mean, m2, inv_std;
    for (int i = 0; i < 40; i++)
        x[i] = 1e8f;
    CHECK(!cbn_forward(y, &mean, &m2, &inv_std, x, NULL, bias, 0, NULL, CBN_FLOAT32, CBN_FLOAT32, 40, 1, 1, 1));
    CHECK(mean == 1e8 && m2 == 0 && inv_std == 0 && y[0] == 2 && y[39] == 2);
    passed++;
}

/* What is not finite stays in its channel, in all dtypes. */
static void check_not_finite(void)
{
    static const double values[] = {INFINITY, -INFINITY, NAN};
    static const ptrdiff_t shapes[][3] = {{1, 2, 30}, {30, 2, 1}};
    for (int v = 0; v < COUNT(values) * 4 * COUNT(shapes); v++) {
        const enum cbn_dtype dtype = (enum cbn_dtype)(v % 4);
        const ptrdiff_t *n = shapes[v / 4 % 2];
        struct arrays given = make_arrays(dtype, n, 3, 1), a = with_outputs(&given, 1);
        cbn_store(given.at[X], dtype, n[2] == 1 ? 28 : 14, values[v / 8]);
        CHECK(!cbn_forward(a.at[Y], a.at[MEAN], a.at[M2], a.at[INV_STD], a.at[X], NULL, NULL, 0, NULL, dtype, dtype,
                           n[0], n[1], n[2], 1));
        CHECK(!cbn_backward(a.at[DX], a.at[DWEIGHT], a.at[DBIAS], a.at[DY], a.at[X], NULL, a.at[MEAN], a.at[INV_STD],
                            1, NULL, dtype, dtype, n[0], n[1], n[2], 1));
        for (ptrdiff_t at = 0; at < 60; at++) {
            const ptrdiff_t c = at / n[2] % 2;
            CHECK(!isfinite(cbn_load(a.at[Y], dtype, at)) == !c && !isfinite(cbn_load(a.at[DX], dtype, at)) == !c);
        }
        CHECK(isnan(cbn_load(a.at[DWEIGHT], dtype, 0)) && isfinite(cbn_load(a.at[DWEIGHT], dtype, 1)));
        discard_outputs(&a), discard_arrays(&given);
        passed++;
    }
}

void check_edges(void)
{
    CHECK(cbn_select_isa("none") == -1);
    CHECK(cbn_available_isa(-1) == NULL && cbn_available_isa(99) == NULL);
    CHECK(cbn_openmp_max_threads() >= 1 && cbn_openmp_num_procs() >= 1);
    CHECK(cbn_openmp_thread_limit() >= 1 && cbn_openmp_version() >= 0);
    check_empty();
    check_no_channels();
    check_absurd();
    for (int isa = 0; choose(isa, 0); isa++) {
        CHECK(strcmp(cbn_isa(), cbn_available_isa(isa)) == 0);
        check_masked();
        check_constant();
        check_not_finite();
    }
}
