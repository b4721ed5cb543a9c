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
/* second-level caches, so that small arrays, too, are cut in every way */
static const ptrdiff_t CACHES[] = {1 << 21, 1 << 16, 1 << 12};
static const int THREADS[] = {1, 2, 3, 5, 7, 16};

static int passed;

static size_t itemsize(enum cbn_dtype dtype)
{
    return dtype == CBN_FLOAT32 ? sizeof(float) : sizeof(double);
}

static double get(const void *array, enum cbn_dtype dtype, ptrdiff_t i)
{
    return dtype == CBN_FLOAT32 ? (double)((const float *)array)[i] : ((const double *)array)[i];
}

static void *filled(enum cbn_dtype dtype, ptrdiff_t count, unsigned seed, double offset)
{
    void *array = malloc((size_t)count * itemsize(dtype));
    CHECK(array);
    for (ptrdiff_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        const double value = (double)(seed >> 8) / (1 << 24) + offset;
        if (dtype == CBN_FLOAT32)
            ((float *)array)[i] = (float)value;
        else
            ((double *)array)[i] = value;
    }
    return array;
}

/* The first values of the first channel are no sample of it, so that large channels are summed twice. */
static void *filled_x(enum cbn_dtype dtype, const ptrdiff_t *n)
{
    void *x = filled(dtype, n[0] * n[1] * n[2], 1, 3);
    for (ptrdiff_t i = 0; i < n[2] && i < 16; i++)
        if (dtype == CBN_FLOAT32)
            ((float *)x)[i] += 1000;
        else
            ((double *)x)[i] += 1000;
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

static struct outputs run(enum cbn_dtype dtype, const ptrdiff_t *n, int threads)
{
    const ptrdiff_t outer = n[0], channels = n[1], inner = n[2], size = outer * channels * inner;
    const size_t bytes = (size_t)size * itemsize(dtype), doubles = (size_t)channels * sizeof(double);
    const size_t params = (size_t)channels * itemsize(dtype);
    void *x = filled_x(dtype, n), *dy = filled(dtype, size, 2, -0.5);
    /* one element off an aligned address, where a vector store must not be */
    unsigned char *room = malloc(bytes + itemsize(dtype)), *y = room + itemsize(dtype) * (size_t)(threads % 3 == 0);
    void *weight = filled(dtype, channels, 3, 0), *bias = filled(dtype, channels, 4, 0);
    void *dweight = malloc(params), *dbias = malloc(params);
    void *running_mean = filled(dtype, channels, 5, 0), *running_var = filled(dtype, channels, 6, 1);
    double *mean = malloc(doubles), *m2 = malloc(doubles), *inv_std = malloc(doubles);
    struct outputs out = {0};

    CHECK(!cbn_forward(y, mean, m2, inv_std, x, weight, bias, 1e-5, dtype, dtype, outer, channels, inner, threads));
    keep(&out, mean, doubles), keep(&out, m2, doubles), keep(&out, inv_std, doubles), keep(&out, y, bytes);
    for (int training = 0; training < 2; training++) {
        CHECK(!cbn_backward(y, dweight, dbias, dy, x, weight, mean, inv_std, training, dtype, dtype, outer, channels,
                            inner, threads));
        keep(&out, y, bytes), keep(&out, dweight, params), keep(&out, dbias, params);
    }
    cbn_update_running(running_mean, running_var, mean, m2, 0.1, outer * inner, 1, dtype, channels);
    keep(&out, running_mean, params), keep(&out, running_var, params);
    CHECK(!cbn_inference(x, x, weight, NULL, running_mean, running_var, 0, dtype, dtype, outer, channels, inner, threads));
    keep(&out, x, bytes);
    CHECK(!cbn_moments(mean, m2, dy, dtype, outer, channels, inner, threads));
    keep(&out, mean, doubles), keep(&out, m2, doubles);
    void *all[] = {x, dy, room, weight, bias, dweight, dbias, running_mean, running_var, mean, m2, inv_std};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
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

static void check_empty(void)
{
    double mean[3] = {1, 1, 1}, m2[3], inv_std[3];
    float dweight[3] = {1, 1, 1}, dbias[3] = {1, 1, 1};
    CHECK(!cbn_forward(NULL, mean, m2, inv_std, NULL, NULL, NULL, 0.25, CBN_FLOAT32, CBN_FLOAT32, 0, 3, 4, 2));
    CHECK(mean[2] == 0 && m2[2] == 0 && inv_std[2] == 2);
    CHECK(!cbn_backward(NULL, dweight, dbias, NULL, NULL, NULL, mean, inv_std, 1, CBN_FLOAT32, CBN_FLOAT32, 2, 3, 0, 2));
    CHECK(dweight[2] == 0 && dbias[2] == 0);
    CHECK(cbn_select_isa("none") == -1);
    passed++;
}

int main(void)
{
    check_empty();
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int dtype = 0; dtype < 2; dtype++)
            check_shape((enum cbn_dtype)dtype, SHAPES[i]);
    printf("%d passed, 0 failed\n", passed);
    return 0;
}
