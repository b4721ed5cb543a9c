/* version.c: which cbn this is.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "cbn.h"

const char *cbn_version(void)
{
    return CBN_VERSION;
}

int cbn_abi_version(void)
{
    return CBN_ABI_VERSION;
}
