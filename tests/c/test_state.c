/* test_state.c: rounding mode, flush-to-zero, masks and flags of exceptions, and errno are after each call as they were
 * before, in the threads of a team, too; and no result depends on them, denormal numbers included.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fenv.h>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#include "checks.h"

static const int ROUNDINGS[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
/* Bits of the state that are set and cleared besides. Flush-to-zero, denormals-are-zero, the flags of all exceptions,
 * and the masks without which an exception would end the test. */
static const struct extra {
    uint64_t set, clear;
} EXTRAS[] = {
#if defined(__SSE2__)
    {0, 0}, {0x8000 | 0x0040, 0}, {0x003f, 0}, {0, 0x1f80}, {0x8000 | 0x0040 | 0x003f, 0x1f80},
#elif defined(__aarch64__) /* FZ, then DN, too; the flags, with QC; the traps */
    {0, 0}, {1 << 24, 0}, {0x0800009full << 32, 0}, {0x9f00, 0}, {(0x0800009full << 32) | 0x3009f00, 0},
#else
    {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0},
#endif
};

#if defined(__SSE2__)
static const uint64_t FLAGS = 0x3f;

static uint64_t get_state(void)
{
    return _mm_getcsr();
}

static void set_state(uint64_t state)
{
    _mm_setcsr((unsigned)state);
}
#elif defined(__aarch64__)
static const uint64_t FLAGS = 0xffffffffull << 32;

static uint64_t get_state(void)
{
    uint64_t control, status;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status));
    return status << 32 | control;
}

static void set_state(uint64_t state)
{
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(state & 0xffffffff), "r"(state >> 32));
}
#else
static const uint64_t FLAGS = FE_ALL_EXCEPT;

static uint64_t get_state(void)
{
    return (uint64_t)fetestexcept(FE_ALL_EXCEPT);
}

static void set_state(uint64_t state)
{
    (void)state;
}
#endif

/* A number of the states of the threads that a team of the caller's would have now. Of one thread there is none, for
 * which LLVM's runtime would clear the flags. */
static uint64_t of_team(int threads)
{
    uint64_t all = 0;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads) reduction(+ : all)
        all += get_state() * (uint64_t)(omp_get_thread_num() + 1);
    }
#else
    (void)threads;
#endif
    return all;
}

static int run_in(const struct operation *operation, struct arrays *a, int rounding, const struct extra *extra)
{
    const uint64_t before = get_state();
    CHECK(fesetround(rounding) == 0);
    set_state((get_state() & ~FLAGS & ~extra->clear) | extra->set);
    const uint64_t state = get_state();
    errno = 4711;
    const int status = operation->run(a);
    const int error = errno, mode = fegetround();
    const uint64_t after = get_state();
    fesetround(FE_TONEAREST);
    set_state(before); /* which fesetenv does not restore on Windows */
    CHECK(error == 4711);
    CHECK(mode == rounding && after == state);
    return status;
}

/* The first results are those of the standard state. Where there is a team, fewer states: each thread has its own. */
static void check_arrays(const struct arrays *given, int threads, uint64_t *digests, int is_first)
{
    const uint64_t team = of_team(threads);
    for (int r = 0; r < COUNT(ROUNDINGS); r++)
        for (int e = threads > 1 && r % 2 ? COUNT(EXTRAS) - 1 : 0; e < COUNT(EXTRAS); e += threads > 1 ? 4 : 1) {
            struct arrays a = with_outputs(given, threads);
            for (int o = 0; o < operation_count; o++) {
                CHECK(run_in(&operations[o], &a, ROUNDINGS[r], &EXTRAS[e]) == CBN_OK);
                const uint64_t result = digest(&a, operations[o].writes);
                if (is_first && r == 0 && e == 0)
                    digests[o] = result, bits = digest_of(bits, &result, sizeof result);
                if (result != digests[o]) {
                    fprintf(stderr, "%s: other bits: dtype %d, %s, %d threads, rounding %d, state %d\n",
                            operations[o].name, (int)a.dtype, cbn_isa(), threads, r, e);
                    exit(1);
                }
                passed++;
            }
            discard_outputs(&a);
        }
    CHECK(of_team(threads) == team);
}

void check_state(void)
{
    static const ptrdiff_t shapes[][3] = {{3, 5, 40}, {90, 7, 1}, {2, 1, 33000}};
    static const double denormal[] = {1e-40, 1e-310, 1e-6, 1e-40}; /* by dtype */
    for (int s = 0; s < COUNT(shapes) - small; s++)
        for (int dtype = 0; dtype < 4; dtype++)
            for (int is_denormal = 0; is_denormal < 2; is_denormal++) {
                uint64_t digests[64];
                CHECK(operation_count <= COUNT(digests));
                struct arrays given = make_arrays((enum cbn_dtype)dtype, shapes[s], is_denormal ? 0 : 3,
                                                  is_denormal ? denormal[dtype] : 1);
                double *positions = given.at[POSITIONS]; /* the count is denormal, too */
                for (ptrdiff_t i = 0; is_denormal && i < given.outer * given.inner; i++)
                    positions[i] = positions[i] > 0 ? 0x1p-1040 : positions[i];
                const int threads = s == 2 ? 2 : 1;
                for (int isa = 0; choose(isa, isa); isa++)
                    check_arrays(&given, threads, digests, isa == 0);
                discard_arrays(&given);
            }
}
