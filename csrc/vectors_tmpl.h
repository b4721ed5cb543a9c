/* vectors_tmpl.h: vectors of the type that is computed in; a part of kernels_tmpl.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */

/* values that are written together: a line of memory, or half of one of 16-bit values */
#define LINE ((ptrdiff_t)(CBN_LINE_BYTES / sizeof(A)))
#define AVEC ((ptrdiff_t)(sizeof(cbn_vec) / sizeof(A)))
#define DOUBLES (sizeof(double) / sizeof(A)) /* vectors of doubles for AVEC values */
typedef A FN(avec) __attribute__((vector_size(sizeof(cbn_vec)), aligned(sizeof(A)), may_alias));

static CBN_INLINE FN(avec) FN(numbers)(const A *p)
{
    return *(const FN(avec) *)p;
}

static CBN_INLINE FN(avec) FN(splat)(A value)
{
    return value - (FN(avec)){0};
}

/* `b` where the mask has ones, else `a` */
static CBN_INLINE FN(avec) FN(select)(FN(avec) a, FN(avec) b, FN(avec) mask)
{
    return (FN(avec))(((cbn_bits)a & ~(cbn_bits)mask) | ((cbn_bits)b & (cbn_bits)mask));
}

/* numbers[0], and numbers[1] where the mask has ones */
static CBN_INLINE FN(avec) FN(blend)(const A *numbers, const A *mask)
{
    return FN(select)(FN(splat)(numbers[0]), FN(splat)(numbers[1]), FN(numbers)(mask));
}

/* AVEC doubles, ready to be put: rounded here or there, but not twice. */
static CBN_INLINE FN(avec) FN(rounded)(const cbn_vec *v)
{
    if (A_IS_DOUBLE)
        return (FN(avec))v[0];
    if (IS_HALF)
        return (FN(avec))cbn_join(cbn_odd(v[0]), cbn_odd(v[1]));
    return (FN(avec))cbn_join(v[0], v[1]);
}

/* AVEC values as doubles. */
static CBN_INLINE void FN(widened)(cbn_vec *to, FN(avec) v)
{
    if (A_IS_DOUBLE)
        to[0] = (cbn_vec)v;
    else {
        to[0] = cbn_low((cbn_floats)v);
        to[1] = cbn_high((cbn_floats)v);
    }
}

/* CBN_LANES values as doubles. */
static CBN_INLINE void FN(read_lanes)(cbn_vec *to, const T *p)
{
    CBN_UNROLL for (int v = 0; v < CBN_VECS; v += (int)DOUBLES)
        OF(cbn_read)(to + v, p + v * CBN_VEC);
}

/* --- activations --- */

static CBN_INLINE A FN(bent_one)(A v, A by, struct cbn_bend bend)
{
    return by <= 0 ? (bend.keep ? v * (A)bend.slope : 0) : v;
}

static CBN_INLINE FN(avec) FN(bent)(FN(avec) v, FN(avec) by, struct cbn_bend bend)
{
    if (A_IS_DOUBLE)
        return (FN(avec))cbn_bent((cbn_vec)v, (cbn_vec)by, bend);
    return (FN(avec))cbn_bent_floats((cbn_floats)v, (cbn_floats)by, bend);
}
