/* test_cbn.c: the C interface on exactly sized buffers, for the sanitizers; every ISA and several thread counts
 * against a plain long double loop and, bit by bit, against each other.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/internal.h"

#define CHECK(condition)                                                                                              \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                   \
            exit(1);                                                                                                  \
        }                                                                                                             \
    } while (0)

static const ptrdiff_t SHAPES[][3] = {
    {2, 1, 1},    {3, 17, 1},   {65, 3, 1},   {40, 1025, 1}, {700, 255, 1}, {9000, 5, 1},  {5, 3, 8},
    {2, 70, 15},  {7, 2, 16},   {1, 3, 49},   {6, 33, 49},   {4, 5, 64},    {2, 3, 2145},  {1, 2, 90300},
    {30, 2, 4900}, {2, 130, 65}, {1, 1, 2},    {33, 1, 1},    {1, 9, 8},     {3, 5, 360600},
    {10, 11, 16384}, {8, 3, 70000},
};
/* around one line of memory, what is taken apart at once, and the channels of that */
static const ptrdiff_t IMAGES[][3] = {
    {1, 3, 1},    {2, 2, 15},     {70, 3, 16},      {9, 4, 33},  {5, 3, 1000},  {2, 3, 10912},
    {3, 3, 10922}, {2, 4, 100000}, {1, 20, 9000}, {3, 129, 50}, {2, 1000, 300}, {3, 1, 70000},
};
/* second-level caches, so that small arrays, too, are cut in every way */
static const ptrdiff_t CACHES[] = {1 << 21, 1 << 16, 1 << 12};
#ifdef __SANITIZE_ADDRESS__ /* some ten times slower: less of what differs in bits only */
static const int THREADS[] = {1, 3, 16};
#else
static const int THREADS[] = {1, 2, 3, 5, 7, 16};
#endif
/* of other dtypes than float32, which are cut in the same ways */
static const ptrdiff_t MOST_VALUES = 400000;

static int passed;

static double get(const void *array, enum cbn_dtype dtype, ptrdiff_t i)
{
    return cbn_load(array, dtype, i);
}

static void *filled(enum cbn_dtype dtype, ptrdiff_t count, unsigned seed, double offset)
{
    void *array = malloc((size_t)count * cbn_itemsize(dtype));
    CHECK(array);
    for (ptrdiff_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        cbn_store(array, dtype, i, (double)(seed >> 8) / (1 << 24) + offset);
    }
    return array;
}

/* 1, with every third position masked and a few of other weights */
static double *filled_weights(ptrdiff_t positions)
{
    double *weights = malloc((size_t)positions * sizeof *weights);
    CHECK(weights);
    for (ptrdiff_t i = 0; i < positions; i++)
        weights[i] = i % 3 == 1 ? -1 : i % 7 == 2 ? 0.75 : i % 11 == 3 ? 0 : 1;
    return weights;
}

/* The first values of the first channel are no sample of it, so that large channels are summed twice. */
static void *filled_x(enum cbn_dtype dtype, const ptrdiff_t *n)
{
    void *x = filled(dtype, n[0] * n[1] * n[2], 1, 3);
    for (ptrdiff_t i = 0; i < n[2] && i < 16; i++)
        cbn_store(x, dtype, i, get(x, dtype, i) + 1000);
    return x;
}

/* All outputs of all functions for one shape, one after the other in one buffer of bytes. */
struct outputs {
    unsigned char *bytes;
    size_t size;
};

static void keep(struct outputs *outputs, const void *array, size_t size)
{
    outputs->bytes = realloc(outputs->bytes, outputs->size + size);
    CHECK(outputs->bytes);
    memcpy(outputs->bytes + outputs->size, array, size);
    outputs->size += size;
}

/* The arrays of one shape, each exactly as large as C may read or write; y one element off an aligned address for some
 * numbers of threads, where a vector store must not be. */
struct arrays {
    enum cbn_dtype dtype;
    ptrdiff_t outer, channels, inner;
    int threads;
    size_t bytes, params, doubles;
    void *x, *dy, *residual, *room, *weight, *bias, *dweight, *dbias, *running_mean, *running_var, *dresidual;
    unsigned char *y;
    double *mean, *m2, *inv_std, *weights;
};

static struct arrays make(enum cbn_dtype dtype, const ptrdiff_t *n, int threads)
{
    const ptrdiff_t channels = n[1], size = n[0] * channels * n[2];
    struct arrays a = {dtype, n[0], channels, n[2], threads, .bytes = (size_t)size * cbn_itemsize(dtype),
                       .params = (size_t)channels * cbn_itemsize(dtype),
                       .doubles = (size_t)channels * sizeof(double)};
    a.x = filled_x(dtype, n), a.dy = filled(dtype, size, 2, -0.5), a.residual = filled(dtype, size, 7, -0.5);
    a.room = malloc(a.bytes + cbn_itemsize(dtype));
    CHECK(a.room);
    a.y = (unsigned char *)a.room + cbn_itemsize(dtype) * (size_t)(threads % 3 == 0);
    a.weight = filled(dtype, channels, 3, 0), a.bias = filled(dtype, channels, 4, 0);
    a.running_mean = filled(dtype, channels, 5, 0), a.running_var = filled(dtype, channels, 6, 1);
    a.dweight = malloc(a.params), a.dbias = malloc(a.params), a.dresidual = malloc(a.bytes);
    a.mean = malloc(a.doubles), a.m2 = malloc(a.doubles), a.inv_std = malloc(a.doubles);
    a.weights = filled_weights(n[0] * n[2]);
    return a;
}

static void discard(struct arrays *a)
{
    void *all[] = {a->x, a->dy, a->residual, a->room, a->weight, a->bias, a->dweight, a->dbias, a->running_mean,
                   a->running_var, a->dresidual, a->mean, a->m2, a->inv_std, a->weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void keep_forward(struct outputs *out, struct arrays *a, const struct cbn_options *options)
{
    CHECK(!cbn_forward(a->y, a->mean, a->m2, a->inv_std, a->x, a->weight, a->bias, 1e-5, options, a->dtype, a->dtype,
                       a->outer, a->channels, a->inner, a->threads));
    keep(out, a->mean, a->doubles), keep(out, a->m2, a->doubles), keep(out, a->inv_std, a->doubles);
    keep(out, a->y, a->bytes);
}

static void keep_backward(struct outputs *out, struct arrays *a, void *dx, const struct cbn_options *options)
{
    for (int training = 0; training < 2; training++) {
        CHECK(!cbn_backward(dx, a->dweight, a->dbias, a->dy, a->x, a->weight, a->mean, a->inv_std, training, options,
                            a->dtype, a->dtype, a->outer, a->channels, a->inner, a->threads));
        keep(out, dx, a->bytes), keep(out, a->dweight, a->params), keep(out, a->dbias, a->params);
        if (options && options->dresidual)
            keep(out, options->dresidual, a->bytes);
    }
}

/* Of ddx the residual, of ddweight the bias; ddbias is NULL. */
static void keep_double_backward(struct outputs *out, struct arrays *a)
{
    void *dx = malloc(a->bytes);
    CHECK(dx);
    for (int training = 0; training < 2; training++) {
        CHECK(!cbn_double_backward(a->y, dx, a->dweight, a->residual, a->bias, NULL, a->dy, a->x, a->weight, a->mean,
                                   a->inv_std, training, a->dtype, a->dtype, a->outer, a->channels, a->inner,
                                   a->threads));
        keep(out, a->y, a->bytes), keep(out, dx, a->bytes), keep(out, a->dweight, a->params);
    }
    free(dx);
}

/* Plain, with residual and activation, and with weights besides. */
static struct outputs run(enum cbn_dtype dtype, const ptrdiff_t *n, int threads)
{
    struct outputs out = {0};
    struct arrays a = make(dtype, n, threads);
    struct cbn_options fused = {.activation = CBN_LEAKY_RELU, .negative_slope = 0.1, .residual = a.residual};
    const double count = (double)(n[0] * n[2]);
    keep_forward(&out, &a, NULL);
    keep_backward(&out, &a, a.y, NULL);
    keep_double_backward(&out, &a);
    for (int weighted = 0; weighted < 2; weighted++) {
        fused.weights = weighted ? a.weights : NULL;
        keep_forward(&out, &a, &fused);
        struct cbn_options back = fused;
        back.y = a.y, back.dresidual = a.dresidual;
        void *dx = malloc(a.bytes);
        keep_backward(&out, &a, dx, &back);
        free(dx);
    }
    cbn_update_running(a.running_mean, a.mean, 1, 0.1, dtype, n[1]);
    cbn_update_running(a.running_var, a.m2, count, 0.1, dtype, n[1]);
    keep(&out, a.running_mean, a.params), keep(&out, a.running_var, a.params);
    fused.activation = CBN_RELU;
    CHECK(!cbn_inference(a.y, a.x, a.weight, NULL, a.running_mean, a.running_var, 0, &fused, dtype, dtype, dtype, n[0],
                         n[1], n[2], threads));
    keep(&out, a.y, a.bytes);
    CHECK(!cbn_inference(a.x, a.x, a.weight, NULL, a.running_mean, a.running_var, 0, NULL, dtype, dtype, dtype, n[0],
                         n[1], n[2], threads));
    keep(&out, a.x, a.bytes);
    CHECK(!cbn_moments(a.mean, a.m2, a.dy, NULL, dtype, n[0], n[1], n[2], threads));
    keep(&out, a.mean, a.doubles), keep(&out, a.m2, a.doubles);
    discard(&a);
    return out;
}

/* mean and m2 of the first output against a plain loop */
static void check_moments(enum cbn_dtype dtype, const ptrdiff_t *n, const double *mean, const double *m2)
{
    void *x = filled_x(dtype, n);
    for (ptrdiff_t c = 0; c < n[1]; c++) {
        long double sum = 0, squares = 0;
        for (int pass = 0; pass < 2; pass++)
            for (ptrdiff_t o = 0; o < n[0]; o++)
                for (ptrdiff_t i = 0; i < n[2]; i++) {
                    const long double v = get(x, dtype, (o * n[1] + c) * n[2] + i);
                    if (pass == 0)
                        sum += v / (long double)(n[0] * n[2]);
                    else
                        squares += (v - sum) * (v - sum);
                }
        CHECK(fabsl(mean[c] - sum) < 1e-13L);
        CHECK(fabsl(m2[c] - squares) <= 1e-12L * squares);
    }
    free(x);
}

static void check_shape(enum cbn_dtype dtype, const ptrdiff_t *n)
{
    struct outputs first = {0};
    for (int isa = 0; cbn_available_isa(isa); isa++)
        for (size_t t = 0; t < sizeof THREADS / sizeof *THREADS; t++) {
            CHECK(cbn_select_isa(cbn_available_isa(isa)) == 0);
            cbn_cache_bytes = CACHES[((size_t)isa + t) % (sizeof CACHES / sizeof *CACHES)];
            struct outputs out = run(dtype, n, THREADS[t]);
            if (first.bytes == NULL) {
                first = out;
                check_moments(dtype, n, (double *)out.bytes, (double *)out.bytes + n[1]);
                continue;
            }
            CHECK(out.size == first.size && memcmp(out.bytes, first.bytes, out.size) == 0);
            free(out.bytes);
            passed++;
        }
    free(first.bytes);
}

/* Images in x, and what y must be: the channels of a pixel side by side in x if `to_planes`. */
static void check_image_values(const float *y, const uint8_t *x, const float *residual, const ptrdiff_t *n,
                               const double *mean, int to_planes)
{
    const ptrdiff_t channels = n[1], inner = n[2];
    for (ptrdiff_t at = 0; at < n[0] * channels * inner; at++) {
        const ptrdiff_t i = at % inner, c = at / inner % channels, o = at / inner / channels;
        const double line = (x[to_planes ? (o * inner + i) * channels + c : at] - mean[c]) * 0.25 + 1;
        const double sum = line + (residual ? (double)residual[at] : 0), expected = sum > 0 ? sum : 0.5 * sum;
        CHECK(fabs((double)y[at] - expected) <= 1e-6 * (fabs(line) + 3));
    }
}

static void check_images(const ptrdiff_t *n, int to_planes)
{
    const ptrdiff_t size = n[0] * n[1] * n[2];
    uint8_t *x = malloc((size_t)size);
    float *y = malloc((size_t)size * sizeof *y), *residual = filled(CBN_FLOAT32, size, 7, -0.5), *first = NULL;
    double *mean = filled(CBN_FLOAT64, n[1], 3, 100), *scale = malloc((size_t)n[1] * sizeof *scale);
    double *shift = malloc((size_t)n[1] * sizeof *shift);
    CHECK(x && y && scale && shift);
    for (ptrdiff_t i = 0; i < size; i++)
        x[i] = (uint8_t)(i * 2654435761u >> 13);
    for (ptrdiff_t c = 0; c < n[1]; c++)
        scale[c] = 0.25, shift[c] = 1;
    struct cbn_options options = {.activation = CBN_LEAKY_RELU, .negative_slope = 0.5, .residual = residual};
    for (int isa = 0; cbn_available_isa(isa); isa++)
        for (size_t t = 0; t < sizeof THREADS / sizeof *THREADS; t++) {
            CHECK(cbn_select_isa(cbn_available_isa(isa)) == 0);
            cbn_cache_bytes = CACHES[((size_t)isa + t) % (sizeof CACHES / sizeof *CACHES)];
            float *out = first ? y : (first = malloc((size_t)size * sizeof *first));
            cbn_normalize_images(out, x, mean, scale, shift, to_planes, &options, n[0], n[1], n[2], THREADS[t]);
            CHECK(memcmp(out, first, (size_t)size * sizeof *first) == 0);
            passed++;
        }
    check_image_values(first, x, residual, n, mean, to_planes);
    free(x), free(y), free(residual), free(first), free(mean), free(scale), free(shift);
}

static void check_empty(void)
{
    double mean[3] = {1, 1, 1}, m2[3], inv_std[3];
    float dweight[3] = {1, 1, 1}, dbias[3] = {1, 1, 1};
    CHECK(!cbn_forward(NULL, mean, m2, inv_std, NULL, NULL, NULL, 0.25, NULL, CBN_FLOAT32, CBN_FLOAT32, 0, 3, 4, 2));
    CHECK(mean[2] == 0 && m2[2] == 0 && inv_std[2] == 2);
    CHECK(!cbn_backward(NULL, dweight, dbias, NULL, NULL, NULL, mean, inv_std, 1, NULL, CBN_FLOAT32, CBN_FLOAT32, 2,
                        3, 0, 2));
    CHECK(dweight[2] == 0 && dbias[2] == 0);
    dweight[2] = 1;
    CHECK(!cbn_double_backward(NULL, NULL, dweight, NULL, NULL, NULL, NULL, NULL, NULL, mean, inv_std, 1, CBN_FLOAT32,
                               CBN_FLOAT32, 0, 3, 4, 2));
    CHECK(dweight[2] == 0);
    CHECK(cbn_select_isa("none") == -1);
    passed++;
}

int main(void)
{
    check_empty();
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int dtype = 0; dtype < 4; dtype++)
            if (dtype == CBN_FLOAT32 || SHAPES[i][0] * SHAPES[i][1] * SHAPES[i][2] <= MOST_VALUES)
                check_shape((enum cbn_dtype)dtype, SHAPES[i]);
    for (size_t i = 0; i < sizeof IMAGES / sizeof *IMAGES; i++)
        for (int to_planes = 0; to_planes < 2; to_planes++)
            check_images(IMAGES[i], to_planes);
    printf("%d passed, 0 failed\n", passed);
    return 0;
}
