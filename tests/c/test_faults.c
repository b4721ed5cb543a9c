/* test_faults.c: each allocation of each operation fails in turn: CBN_NO_MEMORY, nothing written, nothing leaked, and
 * the next call works. Without the memory, or the threads, that only a team needs, the call is made without a team.
 * Linked with the linker's --wrap for each function that gives or takes memory or starts threads.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>

#include "checks.h"

void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t);
void __real_free(void *);
void *__wrap_malloc(size_t), *__wrap_calloc(size_t, size_t), *__wrap_realloc(void *, size_t);
void *__wrap_aligned_alloc(size_t, size_t);
int __wrap_posix_memalign(void **, size_t, size_t);
void __wrap_free(void *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* While `counting`: what has been asked for, what of that has not come back, and which request fails. */
static int counting;
static long asked, held, fails;
static int without_threads;

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

#ifndef _WIN32 /* which has no such function */
void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return may_have() ? __real_aligned_alloc(alignment, size) : NULL;
}
#endif

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
    if (counting && memory)
        held--;
    __real_free(memory);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data)
{
    return counting && without_threads ? EAGAIN : __real_pthread_create(thread, attributes, start, data);
}

struct run {
    const struct operation *operation;
    struct arrays *arrays;
    int status;
};

static void *run_here(void *of)
{
    struct run *run = of;
    counting = 1;
    run->status = run->operation->run(run->arrays);
    counting = 0;
    return NULL;
}

/* In a thread of its own, which has had no team so far. */
static int run(const struct operation *operation, struct arrays *a, long which)
{
    struct run run = {operation, a, -1};
    pthread_t thread;
    asked = held = 0, fails = which;
    CHECK(pthread_create(&thread, NULL, run_here, &run) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(held == 0);
    return run.status;
}

/* `a` and `sound` are alike, and stay so. With `refused`, it is the threads of a team that cannot be had, instead of
 * the memory to try for them. Returns how many faults were made. */
static int check_operation(const struct operation *operation, struct arrays *a, struct arrays *sound, int refused)
{
    const unsigned all = BIT(ARRAYS) - 1;
    const int team = a->threads > 1 && a->outer * a->channels * a->inner >= CBN_LEAST_PARALLEL;
    CHECK(run(operation, sound, 0) == CBN_OK);
    const long requests = asked;
    const uint64_t before = digest(a, all);
    int status = CBN_NO_MEMORY;
    for (long k = 1; k <= requests - refused && status == CBN_NO_MEMORY; k++) {
        status = run(operation, a, k);
        CHECK(status == CBN_NO_MEMORY ? digest(a, all) == before : status == CBN_OK && team);
    }
    without_threads = refused;
    if (status == CBN_NO_MEMORY)
        CHECK(run(operation, a, 0) == CBN_OK);
    without_threads = 0;
    CHECK(digest(a, all) == digest(sound, all));
    return (int)requests;
}

static int check_shape(enum cbn_dtype dtype, const ptrdiff_t *shape, int refused)
{
    struct arrays given = make_arrays(dtype, shape, 3, 1);
    struct arrays a = with_outputs(&given, 2), sound = with_outputs(&given, 2);
    int faults = 0;
    for (int o = 0; o < operation_count; o++)
        faults += check_operation(&operations[o], &a, &sound, refused);
    discard_outputs(&a), discard_outputs(&sound), discard_arrays(&given);
    return faults;
}

void check_faults(void)
{
    static const ptrdiff_t shapes[][3] = {{3, 5, 1}, {2, 3, 100}, {300, 7, 1}}, of_team[] = {2, 1, 33000};
    int faults = 0;
    for (int isa = 0; choose(isa, isa); isa++) {
        for (int s = 0; s < COUNT(shapes); s++)
            for (int dtype = 0; dtype < 4; dtype++)
                faults += check_shape((enum cbn_dtype)dtype, shapes[s], 0);
        for (int refused = 0; refused < 2; refused++)
            faults += check_shape(CBN_FLOAT32, of_team, refused);
    }
    CHECK(faults > 0);
    printf("%d faults injected\n", faults);
    passed += faults;
}
