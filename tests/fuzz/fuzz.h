/* fuzz.h: one call of the C interface as bytes describe it, and its arrays.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef CBN_FUZZ_H
#define CBN_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/internal.h"

#define CHECK(condition, ...)                                                                                         \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "failed: %s: ", #condition);                                                              \
            fprintf(stderr, __VA_ARGS__);                                                                             \
            fputc('\n', stderr);                                                                                      \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

enum operation { MOMENTS, FORWARD, INFERENCE, BACKWARD, DOUBLE_BACKWARD, IMAGES, UPDATE_RUNNING, SUM, OPERATIONS };
/* All up to POSITIONS are only read, unless the output is one of them. */
enum array {
    X, DY, ACTIVATED, RESIDUAL, DDX, WEIGHT, BIAS, DDWEIGHT, DDBIAS, GIVEN_MEAN, GIVEN_VAR, CENTER, FACTOR, OFFSET,
    POSITIONS, Y, OTHER, DRESIDUAL, DWEIGHT, DBIAS, MEAN, M2, INV_STD, ARRAYS
};
#define BIT(array) (1u << (array))

struct call {
    enum operation operation;
    enum cbn_dtype dtype, param_dtype, stat_dtype;
    ptrdiff_t outer, channels, inner;
    int threads, training, to_planes, rounding, flush, filling;
    enum cbn_activation activation;
    double slope, eps, divisor;
    size_t shift;      /* of Y, in elements */
    enum array output; /* Y, or the input that it takes the place of */
    unsigned uses, writes;
    const uint8_t *contents;
    size_t length;
};

/* The arrays of one run. */
struct arrays {
    void *rooms[ARRAYS], *at[ARRAYS];
};

struct call read_call(const uint8_t *data, size_t size);
struct arrays make_arrays(const struct call *call);
void discard(struct arrays *a);
/* Of one of its arrays: the type, how many elements, and how many bytes. */
enum cbn_dtype dtype_of(const struct call *call, int array);
size_t count_of(const struct call *call, int array);
size_t size_of(const struct call *call, int array);

#endif
