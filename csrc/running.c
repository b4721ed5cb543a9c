/* running.c: the update of the running statistics.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "internal.h"

/* Out of line, so that no arithmetic moves across the switch of the rounding state. */
__attribute__((noinline)) static void update(void *running, const double *value, double divisor, double factor,
                                             enum cbn_dtype dtype, ptrdiff_t channels)
{
    for (ptrdiff_t c = 0; c < channels; c++) {
        const double old = cbn_load(running, dtype, c);
        cbn_store(running, dtype, c, (1 - factor) * old + factor * (value[c] / divisor));
    }
}

void cbn_update_running(void *running, const double *value, double divisor, double momentum,
                        enum cbn_dtype stat_dtype, ptrdiff_t channels)
{
    const unsigned long long saved = cbn_fp_enter();
    update(running, value, divisor, momentum, stat_dtype, channels);
    cbn_fp_leave(saved);
}
