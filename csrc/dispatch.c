/* dispatch.c: which instruction sets this CPU has, and the kernel table in use.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <string.h>

#include "internal.h"

extern const struct cbn_kernels cbn_kernels_baseline;
#if defined(__x86_64__)
#include <cpuid.h>
extern const struct cbn_kernels cbn_kernels_avx2, cbn_kernels_avx512;
#endif

static const struct cbn_kernels *selected;

#if defined(__x86_64__)
/* clang's __builtin_cpu_supports does not know this name. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}
#endif

/* The tables that run here, from the plainest to the widest. __builtin_cpu_supports asks the CPU and, for the wide
 * registers, whether the operating system saves them. */
static const struct cbn_kernels *supported(int index)
{
    const struct cbn_kernels *tables[3] = {&cbn_kernels_baseline};
    int count = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2)
        tables[count++] = &cbn_kernels_avx2;
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        tables[count++] = &cbn_kernels_avx512;
#endif
    return index >= 0 && index < count ? tables[index] : NULL;
}

/* When the library is loaded, so that no call ever has to ask. */
__attribute__((constructor)) static void select_widest(void)
{
    for (int i = 0; supported(i); i++)
        selected = supported(i);
}

const char *cbn_available_isa(int index)
{
    const struct cbn_kernels *kernels = supported(index);
    return kernels ? kernels->isa : NULL;
}

const char *cbn_isa(void)
{
    return selected->isa;
}

int cbn_select_isa(const char *name)
{
    for (int i = 0; supported(i); i++)
        if (strcmp(name, supported(i)->isa) == 0) {
            selected = supported(i);
            return 0;
        }
    return -1;
}

const struct cbn_ops *cbn_ops(enum cbn_dtype dtype)
{
    return selected->ops[dtype];
}
