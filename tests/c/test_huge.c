/* test_huge.c: more values than 32 bits can count, in little memory: an array is one small file, mapped again and
 * again, and a last part of its own, which must have been read and written, too.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checks.h"

/* float16, and how many values the small file has */
enum { PERIOD = 1 << 20 };
static const enum cbn_dtype DTYPE = CBN_FLOAT16;
static const ptrdiff_t HUGE_COUNT = ((ptrdiff_t)1 << 31) + 17;

/* Sizes whose product is beyond 2^31. */
static const ptrdiff_t SHAPES[][3] = {
    {((ptrdiff_t)1 << 31) + 17, 1, 1}, /* outer */
    {1, 1, ((ptrdiff_t)1 << 31) + 17}, /* inner */
    {1, 65537, 1 << 15},               /* channels * inner */
    {((ptrdiff_t)1 << 29) + 5, 4, 1},  /* outer * channels */
    {3, 3, 1 << 28},                   /* all */
};

struct map {
    char *at;
    size_t size, item;
};

static void map_file(char *to, size_t size)
{
    const int file = memfd_create("cbn", 0);
    CHECK(file >= 0 && ftruncate(file, (off_t)size) == 0);
    CHECK(mmap(to, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == to);
    close(file);
}

/* `values` values: one file for all but the last part, another for that. */
static struct map make_map(ptrdiff_t values, size_t item)
{
    const size_t period = PERIOD * item, parts = ((size_t)values + PERIOD - 1) / PERIOD;
    struct map map = {.size = parts * period, .item = item};
    map.at = mmap(NULL, map.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(map.at != MAP_FAILED);
    map_file(map.at, period);
    for (size_t p = 1; p + 1 < parts; p++)
        CHECK(mremap(map.at, 0, period, MREMAP_MAYMOVE | MREMAP_FIXED, map.at + p * period) == map.at + p * period);
    map_file(map.at + (parts - 1) * period, period);
    return map;
}

/* A period of values near 3, and another near 5 for the last part. */
static struct map make_x(ptrdiff_t values)
{
    struct map x = make_map(values, cbn_itemsize(DTYPE));
    void *most = filled(DTYPE, PERIOD, 1, 3, 1), *last = filled(DTYPE, PERIOD, 2, 5, 1);
    memcpy(x.at, most, PERIOD * x.item);
    memcpy(x.at + x.size - PERIOD * x.item, last, PERIOD * x.item);
    free(most), free(last);
    return x;
}

static double value(const struct map *map, ptrdiff_t i)
{
    return cbn_load(map->at, DTYPE, i);
}

struct sums {
    long double count, sum, squares;
};

static void add(struct sums *to, double value, long double times)
{
    to->count += times, to->sum += times * value, to->squares += times * value * value;
}

/* Of the values first, first + step, ...: those of the period count as often as it is there. */
static struct sums sums_of(const struct map *x, ptrdiff_t first, ptrdiff_t end, ptrdiff_t step)
{
    struct sums sums = {0};
    const ptrdiff_t last = (ptrdiff_t)(x->size / x->item) - PERIOD; /* where the last part starts */
    const ptrdiff_t whole = end > last ? last : end, periods = (whole - first) / PERIOD;
    ptrdiff_t i = first;
    for (; periods > 0 && i < first + PERIOD; i += step)
        add(&sums, value(x, i), (long double)periods);
    for (i = first + periods * PERIOD; i < end; i += step)
        add(&sums, value(x, i), 1);
    return sums;
}

/* Of one channel. PERIOD must be a multiple of the channels where these lie side by side. */
static void check_moments(const struct map *x, const ptrdiff_t *n, ptrdiff_t c, double mean, double m2)
{
    struct sums all = {0};
    if (n[2] == 1)
        all = sums_of(x, c, n[0] * n[1], n[1]);
    else
        for (ptrdiff_t o = 0; o < n[0]; o++) {
            const ptrdiff_t first = (o * n[1] + c) * n[2];
            const struct sums run = sums_of(x, first, first + n[2], 1);
            all.count += run.count, all.sum += run.sum, all.squares += run.squares;
        }
    const long double exact = all.sum / all.count, expected = all.squares - all.sum * exact;
    CHECK(fabsl(mean - exact) <= 1e-12L * fabsl(exact));
    CHECK(fabsl(m2 - expected) <= 1e-10L * expected);
}

/* All channels, or a few of many. */
static void check_all_moments(const struct map *x, const ptrdiff_t *n, const double *mean, const double *m2)
{
    for (ptrdiff_t c = 0; c < n[1]; c += n[1] > 4 ? n[1] / 4 : 1)
        check_moments(x, n, c, mean[c], m2[c]);
    passed++;
}

/* The last part of y, or of dx: (x - mean) * inv_std, in float16. */
static void check_last(const struct map *y, const struct map *x, const ptrdiff_t *n, const double *mean,
                       const double *inv_std)
{
    const ptrdiff_t end = n[0] * n[1] * n[2];
    for (ptrdiff_t i = end - end % PERIOD; i < end; i++) {
        const ptrdiff_t c = i / n[2] % n[1];
        const double exact = (value(x, i) - mean[c]) * inv_std[c];
        CHECK(fabs(value(y, i) - exact) <= 0x1p-10 * fabs(exact) + 0x1p-20);
    }
    passed++;
}

static double *numbers(ptrdiff_t channels)
{
    double *all = malloc((size_t)channels * sizeof *all);
    CHECK(all);
    return all;
}

void check_huge(void)
{
    for (int s = 0; s < 3; s++) {
        const ptrdiff_t *n = SHAPES[s], total = n[0] * n[1] * n[2];
        struct map x = make_x(total);
        double *mean = numbers(n[1]), *m2 = numbers(n[1]);
        CHECK(total >= HUGE_COUNT);
        CHECK(!cbn_moments(mean, m2, x.at, NULL, DTYPE, n[0], n[1], n[2], 2));
        check_all_moments(&x, n, mean, m2);
        munmap(x.at, x.size), free(mean), free(m2);
    }
}

/* Training forward, and backward of dy = x: with fixed statistics dx = inv_std * x, which y of a mean of 0 is. */
static void check_passes(const ptrdiff_t *n, struct map *x, struct map *y)
{
    double *mean = numbers(n[1]), *m2 = numbers(n[1]), *inv_std = numbers(n[1]), *zeros = calloc((size_t)n[1], 8);
    float *dweight = malloc((size_t)n[1] * sizeof *dweight), *dbias = malloc((size_t)n[1] * sizeof *dbias);
    CHECK(zeros && dweight && dbias);
    CHECK(!cbn_forward(y->at, mean, m2, inv_std, x->at, NULL, NULL, 0, NULL, DTYPE, CBN_FLOAT32, n[0], n[1], n[2], 2));
    check_all_moments(x, n, mean, m2);
    check_last(y, x, n, mean, inv_std);
    memset(y->at, 0, PERIOD * y->item), memset(y->at + y->size - PERIOD * y->item, 0, PERIOD * y->item);
    CHECK(!cbn_backward(y->at, dweight, dbias, x->at, x->at, NULL, zeros, inv_std, 0, NULL, DTYPE, CBN_FLOAT32, n[0],
                        n[1], n[2], 2));
    check_last(y, x, n, zeros, inv_std);
    for (ptrdiff_t c = 0; c < n[1]; c += n[1] > 4 ? n[1] / 4 : 1) {
        const double count = (double)(n[0] * n[2]), expected = (m2[c] + mean[c] * mean[c] * count) * inv_std[c];
        CHECK(fabs(dbias[c] - mean[c] * count) <= 1e-6 * mean[c] * count);
        CHECK(fabs(dweight[c] - expected) <= 1e-6 * expected);
    }
    passed++;
    free(mean), free(m2), free(inv_std), free(zeros), free(dweight), free(dbias);
}

/* Pixels, which are 0 but for the last part, and the last part of their image. */
static void check_pixels(const ptrdiff_t *n, int to_planes)
{
    const ptrdiff_t total = n[0] * n[1] * n[2];
    struct map x = make_map(total, 1), y = make_map(total, sizeof(float));
    double *mean = calloc((size_t)n[1], 8), *scale = numbers(n[1]), *shift = numbers(n[1]);
    memset(x.at + x.size - PERIOD, 7, PERIOD);
    for (ptrdiff_t c = 0; c < n[1]; c++)
        scale[c] = 2, shift[c] = 1;
    cbn_normalize_images((float *)(void *)y.at, (uint8_t *)x.at, mean, scale, shift, to_planes, NULL, n[0], n[1], n[2],
                         2);
    const float *last = (float *)(void *)y.at + total - 1;
    CHECK(last[0] == 15 && (to_planes || last[-(total - 1) % PERIOD] == 15));
    munmap(x.at, x.size), munmap(y.at, y.size), free(mean), free(scale), free(shift);
    passed++;
}

void check_huge_outputs(void)
{
    for (int isa = 0; choose(isa, 0); isa++) {
        for (int s = 0; s < COUNT(SHAPES); s++) {
            const ptrdiff_t *n = SHAPES[s], total = n[0] * n[1] * n[2];
            struct map x = make_x(total), y = make_map(total, cbn_itemsize(DTYPE));
            check_passes(n, &x, &y);
            munmap(x.at, x.size), munmap(y.at, y.size);
        }
        check_pixels((ptrdiff_t[]){1, 3, 800000000}, 0);
        check_pixels((ptrdiff_t[]){1, 3, 800000000}, 1);
    }
}
