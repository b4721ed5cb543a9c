/* running.c: the update of the running statistics.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "internal.h"

/* Out of line, so that no arithmetic moves across the switch of the rounding state. */
__attribute__((noinline)) static void update(void *running, const double *value, double factor, double divisor,
                                             enum cbn_dtype dtype, ptrdiff_t channels)
{
    for (ptrdiff_t c = 0; c < channels; c++) {
        const double old = cbn_load(running, dtype, c);
        cbn_store(running, dtype, c, (1 - factor) * old + factor * (value[c] / divisor));
    }
}

void cbn_update_running(void *running_mean, void *running_var, const double *mean, const double *m2, double momentum,
                        int64_t count, int unbiased, enum cbn_dtype param_dtype, ptrdiff_t channels)
{
    if (count == 0)
        return;
    const unsigned long long saved = cbn_fp_enter();
    update(running_mean, mean, momentum, 1, param_dtype, channels);
    update(running_var, m2, momentum, (double)(unbiased && count > 1 ? count - 1 : count), param_dtype, channels);
    cbn_fp_leave(saved);
}
