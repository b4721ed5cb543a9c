/* checks.h: what the C tests share: arrays of one shape, the operations on them, and how results are compared.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef CBN_CHECKS_H
#define CBN_CHECKS_H

#include <stdint.h>
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
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* The arrays of one shape, each exactly as large as C may read or write. All up to SHIFT are only read. */
enum array {
    X, DY, RESIDUAL, POSITIONS, WEIGHT, BIAS, PIXELS, SCALE, SHIFT,
    MEAN, M2, INV_STD, MOST, Y, DX, DDY, DRESIDUAL, DWEIGHT, DBIAS, RUNNING_MEAN, RUNNING_VAR, IMAGE, ARRAYS
};
#define BIT(array) (1u << (array))

struct arrays {
    enum cbn_dtype dtype;
    ptrdiff_t outer, channels, inner;
    int threads;
    size_t sizes[ARRAYS];
    void *at[ARRAYS];
    void *y_room; /* y may start one element into it */
};

/* Values near `offset`, times `size`; where the offset is not 0, with a few outliers. */
struct arrays make_arrays(enum cbn_dtype dtype, const ptrdiff_t *shape, double offset, double size);
/* The same inputs, and outputs of its own; y one element off an aligned address for some numbers of threads, where a
 * vector store must not be. */
struct arrays with_outputs(const struct arrays *of, int threads);
void discard_outputs(struct arrays *a);
void discard_arrays(struct arrays *a);
void *filled(enum cbn_dtype dtype, ptrdiff_t count, unsigned seed, double offset, double size);

/* A number of all bits of some memory; and of those arrays of which `which` has the bits. */
uint64_t digest_of(uint64_t digest, const void *memory, size_t size);
uint64_t digest(const struct arrays *a, unsigned which);

/* One call of the public interface. Some read what those before them wrote. */
struct operation {
    const char *name;
    int (*run)(struct arrays *a);
    unsigned writes;
};
extern const struct operation operations[];
extern const int operation_count;

/* The parts of the test: each adds what it has compared to `passed`, and the results that every machine must have to
 * `bits`. `small` leaves out what a slow machine, such as an emulated one, has no time for. */
extern int passed, small;
extern uint64_t bits;
void check_bits(void), check_images(void), check_edges(void), check_faults(void), check_state(void);
void check_concurrent(void), check_fork(void), check_huge(void), check_huge_outputs(void);

/* second-level caches, so that small arrays, too, are cut in every way */
static const ptrdiff_t CACHES[] = {1 << 21, 1 << 16, 1 << 12};

/* Selects the instruction set, if there are so many, and one of the caches. */
static inline int choose(int isa, int cache)
{
    cbn_cache_bytes = CACHES[cache % COUNT(CACHES)];
    return cbn_available_isa(isa) != NULL && cbn_select_isa(cbn_available_isa(isa)) == 0;
}

#endif
