/* fuzz_cbn.c: bytes as one call of the C interface, on exactly sized buffers: no fault, nothing written but outputs,
 * the caller's floating-point state kept, and the same bits in every instruction set, on one thread and on several.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * For libFuzzer; replay.c runs it on files. The first bytes are choices, in the order of `read_call` in fuzz_call.c;
 * what is left is the contents of arrays. */
#include <errno.h>
#include <fenv.h>
#include <math.h>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#include "fuzz.h"

static struct cbn_options options_of(const struct call *call, const struct arrays *a)
{
    return (struct cbn_options){.activation = call->activation, .negative_slope = call->slope,
                                .residual = a->at[RESIDUAL], .y = a->at[ACTIVATED], .dresidual = a->at[DRESIDUAL],
                                .weights = a->at[POSITIONS]};
}

/* Out of line, since compilers move arithmetic across a change of the rounding mode. */
__attribute__((noinline)) static int make_call(const struct call *k, struct arrays *a, int threads)
{
    const struct cbn_options options = options_of(k, a);
    const ptrdiff_t o = k->outer, c = k->channels, i = k->inner;
    void **at = a->at, *out = at[k->output];
    switch (k->operation) {
    case MOMENTS:
        return cbn_moments(at[MEAN], at[M2], at[X], &options, k->dtype, o, c, i, threads);
    case FORWARD:
        return cbn_forward(out, at[MEAN], at[M2], at[INV_STD], at[X], at[WEIGHT], at[BIAS], k->eps, &options,
                           k->dtype, k->param_dtype, o, c, i, threads);
    case INFERENCE:
        return cbn_inference(out, at[X], at[WEIGHT], at[BIAS], at[GIVEN_MEAN], at[GIVEN_VAR], k->eps, &options,
                             k->dtype, k->param_dtype, k->stat_dtype, o, c, i, threads);
    case BACKWARD:
        return cbn_backward(out, at[DWEIGHT], at[DBIAS], at[DY], at[X], at[WEIGHT], at[CENTER], at[FACTOR],
                            k->training, &options, k->dtype, k->param_dtype, o, c, i, threads);
    case DOUBLE_BACKWARD:
        return cbn_double_backward(out, at[OTHER], at[DWEIGHT], at[DDX], at[DDWEIGHT], at[DDBIAS], at[DY], at[X],
                                   at[WEIGHT], at[CENTER], at[FACTOR], k->training, k->dtype, k->param_dtype, o, c, i,
                                   threads);
    case IMAGES:
        cbn_normalize_images(out, at[X], at[CENTER], at[FACTOR], at[OFFSET], k->to_planes, &options, o, c, i, threads);
        return CBN_OK;
    case UPDATE_RUNNING:
        cbn_update_running(at[GIVEN_MEAN], at[CENTER], k->divisor, k->eps, k->stat_dtype, c);
        return CBN_OK;
    default:
        *(double *)at[MEAN] = cbn_count(at[POSITIONS], o * i);
        return CBN_OK;
    }
}

/* The call, in the floating-point state that was asked for, which must be there afterwards. */
static void run(const struct call *call, struct arrays *a, int threads)
{
    static const int roundings[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    fesetround(roundings[call->rounding]);
#ifdef __SSE2__
    const unsigned state = (_mm_getcsr() & ~0x3fu) | (call->flush ? 0x8040 : 0);
    _mm_setcsr(state);
#endif
    errno = 4711;
    const int status = make_call(call, a, threads), error = errno;
#ifdef __SSE2__
    const unsigned after = _mm_getcsr();
    _mm_setcsr(0x1f80);
    CHECK(after == state, "%x instead of %x", after, state);
#endif
    fesetround(FE_TONEAREST);
    CHECK(status == CBN_OK && error == 4711, "status %d, errno %d", status, error);
}

/* The first element that differs, or -1. Of a NaN the sign and the payload may be others. */
static ptrdiff_t first_difference(const struct call *call, int array, const void *a, const void *b)
{
    const enum cbn_dtype dtype = dtype_of(call, array);
    const size_t item = cbn_itemsize(dtype);
    if (!memcmp(a, b, size_of(call, array)))
        return -1;
    for (ptrdiff_t i = 0; i < (ptrdiff_t)count_of(call, array); i++) {
        if (!memcmp((const char *)a + (size_t)i * item, (const char *)b + (size_t)i * item, item))
            continue;
        if (dtype == CBN_UINT8 || !isnan(cbn_load(a, dtype, i)) || !isnan(cbn_load(b, dtype, i)))
            return i;
    }
    return -1;
}

/* LLVM's OpenMP computes something when it starts, and leaves the flag of inexact results set. */
__attribute__((constructor)) static void start_openmp(void)
{
    (void)cbn_openmp_max_threads();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct call call = read_call(data, size);
    const struct arrays given = make_arrays(&call);
    struct arrays first = {{0}, {0}};
    for (int isa = 0; cbn_available_isa(isa); isa++)
        for (int threads = 1; threads <= call.threads; threads += call.threads > 1 ? call.threads - 1 : 1) {
            struct arrays a = make_arrays(&call);
            CHECK(cbn_select_isa(cbn_available_isa(isa)) == 0, "%s", cbn_available_isa(isa));
            run(&call, &a, threads);
            const int is_first = isa == 0 && threads == 1;
            if (is_first)
                first = a;
            for (int i = 0; i < ARRAYS; i++) {
                const struct arrays *expected = call.writes & BIT(i) ? &first : &given;
                const ptrdiff_t at = call.uses & BIT(i) ? first_difference(&call, i, a.at[i], expected->at[i]) : -1;
                CHECK(at < 0,
                      "operation %d, dtype %d, array %d, shape (%td, %td, %td), %s, %d threads, at %td: %g, not %g",
                      (int)call.operation, (int)call.dtype, i, call.outer, call.channels, call.inner, cbn_isa(),
                      threads, at, cbn_load(a.at[i], dtype_of(&call, i), at),
                      cbn_load(expected->at[i], dtype_of(&call, i), at));
            }
            if (!is_first)
                discard(&a);
        }
    discard(&first);
    discard((struct arrays *)&given);
    return 0;
}
