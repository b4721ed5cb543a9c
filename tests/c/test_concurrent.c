/* test_concurrent.c: several threads call the library at once, with teams of their own, on the same inputs.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>

#include "checks.h"

enum { CALLERS = 4 };

struct caller {
    const struct arrays *given;
    uint64_t *digests;
    int threads, rounds;
};

/* All operations, in the caller's own order of outputs; a fault ends the process, from whichever thread. */
static void *call(void *of)
{
    const struct caller *caller = of;
    for (int round = 0; round < caller->rounds; round++) {
        struct arrays a = with_outputs(caller->given, caller->threads);
        for (int o = 0; o < operation_count; o++) {
            CHECK(operations[o].run(&a) == CBN_OK);
            CHECK(digest(&a, operations[o].writes) == caller->digests[o]);
        }
        discard_outputs(&a);
    }
    return NULL;
}

static void check_shape(enum cbn_dtype dtype, const ptrdiff_t *shape)
{
    uint64_t digests[64];
    CHECK(operation_count <= COUNT(digests));
    struct arrays given = make_arrays(dtype, shape, 3, 1), a = with_outputs(&given, 1);
    for (int o = 0; o < operation_count; o++) {
        CHECK(operations[o].run(&a) == CBN_OK);
        digests[o] = digest(&a, operations[o].writes);
        bits = digest_of(bits, &digests[o], sizeof digests[o]);
    }
    discard_outputs(&a);
    pthread_t threads[CALLERS];
    struct caller callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){&given, digests, 1 + i % 3, small ? 1 : 5};
        CHECK(pthread_create(&threads[i], NULL, call, &callers[i]) == 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        passed += callers[i].rounds * operation_count;
    }
    discard_arrays(&given);
}

void check_concurrent(void)
{
    static const ptrdiff_t shapes[][3] = {{20, 3, 7}, {2, 3, 20000}, {2000, 40, 1}};
    for (int s = 0; s < COUNT(shapes); s++)
        for (int dtype = 0; dtype < 4; dtype++)
            check_shape((enum cbn_dtype)dtype, shapes[s]);
}
