/* kernels_tmpl.h: all arithmetic on elements, for one element type and one instruction set.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Included by kernels.h once for each element type, with T (the type), FN(name) (its suffix), WIDEN (a vector of T
 * to doubles), NARROW (and back, to memory), RAISE (keeps the largest values, for float) and T_IS_WIDE (T is double).
 * Everything is static.
 *
 * Same bits everywhere: a reduction is written as CBN_LANES independent sums, which any vector width computes in the
 * same way, and every other loop is elementwise. Nothing may be reassociated or contracted (-ffp-contract=off). */

#include "sums_tmpl.h"

#include "outputs_tmpl.h"

#include "affine_tmpl.h"

#include "grad_tmpl.h"

#include "grad_columns_tmpl.h"

static const struct cbn_ops FN(ops) = {
    .itemsize = sizeof(T),
    .far = T_IS_WIDE ? 2 : 1024, /* float32 results do not see the ten bits that a worse anchor costs */
    .anchors = FN(anchors),
    .sums = {FN(sums_rows), FN(sums_columns)},
    .affine = {FN(open_spans), FN(open_columns)},
    .input_grad = {FN(open_grad_spans), FN(open_grad_columns)},
};

#undef T
#undef FN
#undef WIDEN
#undef NARROW
#undef RAISE
#undef LINE
#undef TVEC
#undef T_IS_WIDE
