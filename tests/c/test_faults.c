/* test_faults.c: each allocation of each operation fails in turn: CBN_NO_MEMORY, nothing written, nothing leaked, and
 * the next call works. Linked with the linker's --wrap for each function that gives or takes memory.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "checks.h"

void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t);
void __real_free(void *);
void *__wrap_malloc(size_t), *__wrap_calloc(size_t, size_t), *__wrap_realloc(void *, size_t);
void *__wrap_aligned_alloc(size_t, size_t);
int __wrap_posix_memalign(void **, size_t, size_t);
void __wrap_free(void *);

/* While `counting`: what has been asked for, what of that has not come back, and which request fails. */
static int counting;
static long asked, held, fails;

static int may_have(void)
{
    if (!counting)
        return 1;
    if (++asked == fails) {
        errno = ENOMEM;
        return 0;
    }
    held++;
    return 1;
}

void *__wrap_malloc(size_t size)
{
    return may_have() ? __real_malloc(size) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return may_have() ? __real_calloc(count, size) : NULL;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return may_have() ? __real_aligned_alloc(alignment, size) : NULL;
}

void *__wrap_realloc(void *from, size_t size)
{
    CHECK(!counting); /* what it would hold is not counted */
    return __real_realloc(from, size);
}

int __wrap_posix_memalign(void **to, size_t alignment, size_t size)
{
    (void)to, (void)alignment, (void)size;
    CHECK(!"none has used it so far");
    return ENOMEM;
}

void __wrap_free(void *memory)
{
    held -= counting && memory;
    __real_free(memory);
}

static int run(const struct operation *operation, struct arrays *a, long which)
{
    counting = 1, asked = held = 0, fails = which;
    const int status = operation->run(a);
    counting = 0;
    CHECK(held == 0);
    return status;
}

/* `a` and `sound` are alike, and stay so. Returns how many faults were made. */
static int check_operation(const struct operation *operation, struct arrays *a, struct arrays *sound)
{
    const unsigned all = BIT(ARRAYS) - 1;
    CHECK(run(operation, sound, 0) == CBN_OK);
    const long requests = asked;
    const uint64_t before = digest(a, all);
    for (long k = 1; k <= requests; k++) {
        CHECK(run(operation, a, k) == CBN_NO_MEMORY);
        CHECK(digest(a, all) == before);
    }
    CHECK(run(operation, a, 0) == CBN_OK);
    CHECK(digest(a, all) == digest(sound, all));
    return (int)requests;
}

void check_faults(void)
{
    static const ptrdiff_t shapes[][3] = {{3, 5, 1}, {2, 3, 100}, {300, 7, 1}, {2, 1, 33000}};
    int faults = 0;
    for (int isa = 0; choose(isa, isa); isa++)
        for (int s = 0; s < COUNT(shapes); s++) /* the last: a team */
            for (int dtype = 0; dtype < (s == 3 ? 1 : 4); dtype++) {
                struct arrays given = make_arrays((enum cbn_dtype)dtype, shapes[s], 3, 1);
                struct arrays a = with_outputs(&given, 2), sound = with_outputs(&given, 2);
                for (int o = 0; o < operation_count; o++)
                    faults += check_operation(&operations[o], &a, &sound);
                discard_outputs(&a), discard_outputs(&sound), discard_arrays(&given);
            }
    CHECK(faults > 0);
    printf("%d faults injected\n", faults);
    passed += faults;
}
