/* arrays.c: the arrays of one shape, and numbers that stand for all their bits.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "checks.h"

void *filled(enum cbn_dtype dtype, ptrdiff_t count, unsigned seed, double offset, double size)
{
    void *array = malloc((size_t)count * cbn_itemsize(dtype));
    CHECK(array);
    for (ptrdiff_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        cbn_store(array, dtype, i, ((double)(seed >> 8) / (1 << 24) + offset) * size);
    }
    return array;
}

/* 1, with every third position masked and a few of other weights, one of them too small for a normal number */
static double *filled_positions(ptrdiff_t positions)
{
    double *weights = malloc((size_t)positions * sizeof *weights);
    CHECK(weights);
    for (ptrdiff_t i = 0; i < positions; i++)
        weights[i] = i % 3 == 1 ? -1 : i % 7 == 2 ? 0.75 : i % 11 == 3 ? 0 : i % 13 == 0 ? 0x1p-1060 : 1;
    return weights;
}

static uint8_t *filled_pixels(ptrdiff_t count)
{
    uint8_t *pixels = malloc((size_t)count);
    CHECK(pixels);
    for (ptrdiff_t i = 0; i < count; i++)
        pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    return pixels;
}

static void set_sizes(struct arrays *a)
{
    const size_t values = (size_t)(a->outer * a->channels * a->inner), channels = (size_t)a->channels;
    const size_t item = cbn_itemsize(a->dtype);
    static const enum array all_values[] = {X, DY, RESIDUAL, Y, DX, DDY, DRESIDUAL};
    static const enum array parameters[] = {WEIGHT, BIAS, DWEIGHT, DBIAS, RUNNING_MEAN, RUNNING_VAR};
    static const enum array doubles[] = {SCALE, SHIFT, MEAN, M2, INV_STD};
    for (int i = 0; i < COUNT(all_values); i++)
        a->sizes[all_values[i]] = values * item;
    for (int i = 0; i < COUNT(parameters); i++)
        a->sizes[parameters[i]] = channels * item;
    for (int i = 0; i < COUNT(doubles); i++)
        a->sizes[doubles[i]] = channels * sizeof(double);
    a->sizes[MOST] = 2 * channels * sizeof(double);
    a->sizes[POSITIONS] = (size_t)(a->outer * a->inner) * sizeof(double);
    a->sizes[PIXELS] = values;
    a->sizes[IMAGE] = values * sizeof(float);
}

struct arrays make_arrays(enum cbn_dtype dtype, const ptrdiff_t *shape, double offset, double size)
{
    struct arrays a = {.dtype = dtype, .outer = shape[0], .channels = shape[1], .inner = shape[2]};
    const ptrdiff_t channels = a.channels, values = a.outer * channels * a.inner;
    set_sizes(&a);
    a.at[X] = filled(dtype, values, 1, offset, size);
    /* the first values of the first channel are no sample of it, so that large channels are summed twice */
    for (ptrdiff_t i = 0; offset != 0 && i < a.inner && i < 16; i++)
        cbn_store(a.at[X], dtype, i, cbn_load(a.at[X], dtype, i) + 1000 * size);
    a.at[DY] = filled(dtype, values, 2, -0.5, size), a.at[RESIDUAL] = filled(dtype, values, 7, -0.5, size);
    a.at[POSITIONS] = filled_positions(a.outer * a.inner);
    a.at[WEIGHT] = filled(dtype, channels, 3, 0, 1), a.at[BIAS] = filled(dtype, channels, 4, 0, size);
    a.at[PIXELS] = filled_pixels(values);
    a.at[SCALE] = filled(CBN_FLOAT64, channels, 8, 0, 1), a.at[SHIFT] = filled(CBN_FLOAT64, channels, 9, -0.5, 1);
    return a;
}

struct arrays with_outputs(const struct arrays *of, int threads)
{
    struct arrays a = *of;
    const size_t item = cbn_itemsize(a.dtype);
    a.threads = threads;
    for (int i = SHIFT + 1; i < ARRAYS; i++)
        if (i != Y && i != RUNNING_MEAN && i != RUNNING_VAR) {
            a.at[i] = malloc(a.sizes[i]);
            CHECK(a.at[i]);
            memset(a.at[i], 0x5a, a.sizes[i]);
        }
    a.at[RUNNING_MEAN] = filled(a.dtype, a.channels, 5, 0, 1);
    a.at[RUNNING_VAR] = filled(a.dtype, a.channels, 6, 1, 1);
    a.y_room = malloc(a.sizes[Y] + item);
    CHECK(a.y_room);
    a.at[Y] = (char *)a.y_room + (threads % 3 == 0 ? item : 0);
    memset(a.at[Y], 0x5a, a.sizes[Y]);
    return a;
}

void discard_outputs(struct arrays *a)
{
    for (int i = SHIFT + 1; i < ARRAYS; i++)
        free(i == Y ? a->y_room : a->at[i]);
}

void discard_arrays(struct arrays *a)
{
    for (int i = 0; i <= SHIFT; i++)
        free(a->at[i]);
}

uint64_t digest_of(uint64_t digest, const void *memory, size_t size)
{
    const unsigned char *bytes = memory;
    for (; size >= sizeof digest; bytes += sizeof digest, size -= sizeof digest) {
        uint64_t word;
        memcpy(&word, bytes, sizeof word);
        digest = (digest ^ word) * 0x9e3779b97f4a7c15u;
        digest ^= digest >> 29;
    }
    for (; size; bytes++, size--)
        digest = (digest ^ *bytes) * 0x100000001b3u;
    return digest;
}

uint64_t digest(const struct arrays *a, unsigned which)
{
    uint64_t all = 0;
    for (int i = 0; i < ARRAYS; i++)
        if (which & BIT(i))
            all = digest_of(all, a->at[i], a->sizes[i]);
    return all;
}
