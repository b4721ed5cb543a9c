/* test_bits.c: all operations in every instruction set and on several numbers of threads: the same bits, nothing
 * written but the outputs; and the moments against a plain long double loop.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <float.h>
#include <math.h>

#include "checks.h"

static const ptrdiff_t SHAPES[][3] = {
    {2, 1, 1},    {3, 17, 1},   {65, 3, 1},   {5, 3, 8},     {2, 70, 15},  {7, 2, 16},      {1, 3, 49},
    {6, 33, 49},  {4, 5, 64},   {2, 130, 65}, {1, 1, 2},     {33, 1, 1},   {1, 9, 8},       {40, 1025, 1},
    {9000, 5, 1}, {2, 3, 2145}, {1, 2, 90300}, {700, 255, 1}, {30, 2, 4900}, {8, 3, 70000},   {10, 11, 16384},
    {3, 5, 360600},
};
/* the least for which a team has more threads than an output has rows */
static const ptrdiff_t FEW_ROWS[] = {17, 580, 60};
/* of other dtypes than float32, which are cut in the same ways; and of an emulated machine */
static const ptrdiff_t MOST_VALUES = 400000, MOST_SMALL = 200000;
/* beyond this many values the oldest operations only: the others take the same ways through plan.c */
static const ptrdiff_t MOST_FOR_ALL = 1000000;
#if defined(__SANITIZE_ADDRESS__) /* some ten times slower: less of what differs in bits only */
static const int THREADS[] = {1, 3, 18};
#else
static const int THREADS[] = {1, 2, 3, 5, 7, 18};
#endif

/* mean and m2 of x against a plain loop; not under valgrind, whose long double is a double */
static void check_moments(const struct arrays *a, double size)
{
    const double *mean = a->at[MEAN], *m2 = a->at[M2];
    volatile long double one = 1;
    if (one + LDBL_EPSILON == one)
        return;
    for (ptrdiff_t c = 0; c < a->channels; c++) {
        long double sum = 0, squares = 0;
        for (int pass = 0; pass < 2; pass++)
            for (ptrdiff_t o = 0; o < a->outer; o++)
                for (ptrdiff_t i = 0; i < a->inner; i++) {
                    const long double v = cbn_load(a->at[X], a->dtype, (o * a->channels + c) * a->inner + i);
                    if (pass == 0)
                        sum += v / (long double)(a->outer * a->inner);
                    else
                        squares += (v - sum) * (v - sum);
                }
        CHECK(fabsl(mean[c] - sum) < 1e-13L * size);
        CHECK(fabsl(m2[c] - squares) <= 1e-12L * squares);
    }
}

/* What all operations in turn give, one number each; `first` is what they gave before, if they did. */
static void run_all(const struct arrays *given, double size, int threads, uint64_t *digests, int is_first)
{
    struct arrays a = with_outputs(given, threads);
    const unsigned all = BIT(ARRAYS) - 1;
    const ptrdiff_t values = a.outer * a.channels * a.inner;
    const int is_tiny = values < 20000, some = values > MOST_FOR_ALL ? 12 : operation_count;
    for (int o = 0; o < some; o++) {
        const uint64_t others = is_tiny ? digest(&a, all & ~operations[o].writes) : 0;
        CHECK(operations[o].run(&a) == CBN_OK);
        CHECK(!is_tiny || others == digest(&a, all & ~operations[o].writes));
        const uint64_t result = digest(&a, operations[o].writes);
        if (is_first)
            digests[o] = result, bits = digest_of(bits, &result, sizeof result);
        if (is_first && o == 0)
            check_moments(&a, size);
        if (result != digests[o]) {
            fprintf(stderr, "%s: other bits: dtype %d, shape (%td, %td, %td), %s, %d threads\n", operations[o].name,
                    (int)a.dtype, a.outer, a.channels, a.inner, cbn_isa(), threads);
            exit(1);
        }
        passed += !is_first;
    }
    discard_outputs(&a);
}

static void check_shape(enum cbn_dtype dtype, const ptrdiff_t *shape, double offset, double size)
{
    uint64_t digests[64];
    CHECK(operation_count <= COUNT(digests));
    struct arrays given = make_arrays(dtype, shape, offset, size);
    for (int isa = 0; cbn_available_isa(isa); isa++)
        for (int t = 0; t < COUNT(THREADS); t += small ? COUNT(THREADS) - 1 : 1) {
            CHECK(choose(isa, isa + t));
            run_all(&given, size, THREADS[t], digests, isa == 0 && t == 0);
        }
    discard_arrays(&given);
}

void check_bits(void)
{
    for (int i = 0; i < COUNT(SHAPES); i++)
        for (int dtype = 0; dtype < 4; dtype++) {
            const ptrdiff_t values = SHAPES[i][0] * SHAPES[i][1] * SHAPES[i][2];
            if ((dtype == CBN_FLOAT32 || values <= MOST_VALUES) && (!small || values <= MOST_SMALL))
                check_shape((enum cbn_dtype)dtype, SHAPES[i], 3, 1);
        }
    check_shape(CBN_FLOAT32, FEW_ROWS, 3, 1);
    for (int i = 0; i < 9; i++) { /* values with which float32 arithmetic would overflow, and small ones */
        check_shape(CBN_FLOAT32, SHAPES[i], 3, 1e35);
        check_shape(CBN_BFLOAT16, SHAPES[i], 3, 1e35);
        check_shape(CBN_FLOAT32, SHAPES[i], 0, 1);
    }
}
