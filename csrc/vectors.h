/* vectors.h: vectors of every element type, and sums of lanes; a part of kernels.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <string.h>

#include "internal.h"

/* loops over the few vectors that stay in registers */
#if defined(__clang__)
#define CBN_UNROLL _Pragma("unroll")
#else
#define CBN_UNROLL _Pragma("GCC unroll 16")
#endif
/* loops that are not worth the code of their turns one by one */
#if defined(__clang__)
#define CBN_ROLLED _Pragma("nounroll")
#else
#define CBN_ROLLED _Pragma("GCC unroll 1")
#endif
#define CBN_INLINE inline __attribute__((always_inline))
/* what is done once for a block, or for a few values at the ends of a run: once in the code */
#define CBN_APART __attribute__((noinline))
#define CBN_LANES 16
#define CBN_VECS (CBN_LANES / CBN_VEC)
#define CBN_EACH_VEC CBN_UNROLL for (int v = 0; v < CBN_VECS; v++)
#define CBN_LOAD(p, v) (((cbn_vec_unaligned *)(p))[v])
/* the largest sizes of CBN_LANES floats, in vectors */
#define CBN_FLOATS (CBN_LANES / 2 / CBN_VEC)
struct cbn_most {
    cbn_floats x[CBN_FLOATS], dy[CBN_FLOATS];
};
/* additions in one chain: rows of columns, and values of a row */
#define CBN_ROWS_AT_ONCE 8
#define CBN_PART 4096
/* values that are read before an output is written on: a few dozen lines of memory, which a CPU overlaps */
#define CBN_CHUNK 256
/* values between one that is read and the one that is asked for, along a row; and the most between rows */
#define CBN_PREFETCH 256
#define CBN_PREFETCH_MOST 4096
#define CBN_LINE_BYTES 64

typedef double cbn_vec_unaligned __attribute__((vector_size(8 * CBN_VEC), aligned(4), may_alias));
typedef float cbn_floats_unaligned __attribute__((vector_size(8 * CBN_VEC), aligned(4), may_alias));

/* --- vectors of each type, in the type that the kernels compute in --- */

static CBN_INLINE cbn_vec cbn_load_f64(const double *p)
{
    return *(const cbn_vec_unaligned *)p;
}

static CBN_INLINE void cbn_put_f64(double *to, cbn_vec v, int streaming)
{
    if (streaming)
        cbn_stream(to, v);
    else
        *(cbn_vec_unaligned *)to = v;
}

static CBN_INLINE cbn_floats cbn_load_f32(const float *p)
{
    return *(const cbn_floats_unaligned *)p;
}

static CBN_INLINE void cbn_put_f32(float *to, cbn_floats v, int streaming)
{
    if (streaming)
        cbn_stream((double *)(void *)to, (cbn_vec)v);
    else
        *(cbn_floats_unaligned *)to = v;
}

static CBN_INLINE void cbn_put_halves(void *to, cbn_halves v, int streaming)
{
    if (streaming)
        cbn_stream_halves(to, v);
    else
        *(cbn_halves_unaligned *)to = v;
}

static CBN_INLINE void cbn_put_f16(cbn_f16 *to, cbn_floats v, int streaming)
{
    cbn_put_halves(to, cbn_from_floats_f16(v), streaming);
}

static CBN_INLINE void cbn_put_bf16(cbn_bf16 *to, cbn_floats v, int streaming)
{
    cbn_put_halves(to, cbn_from_floats_bf16(v), streaming);
}

/* --- the values of one such vector, as doubles: one vector of float64, two of the other types --- */

static CBN_INLINE void cbn_read_f64(cbn_vec *to, const double *p)
{
    to[0] = cbn_load_f64(p);
}

static CBN_INLINE void cbn_read_f32(cbn_vec *to, const float *p)
{
    to[0] = cbn_widen_f32(p);
    to[1] = cbn_widen_f32(p + CBN_VEC);
}

static CBN_INLINE void cbn_read_f16(cbn_vec *to, const cbn_f16 *p)
{
    const cbn_floats v = cbn_load_f16(p);
    to[0] = cbn_low(v);
    to[1] = cbn_high(v);
}

static CBN_INLINE void cbn_read_bf16(cbn_vec *to, const cbn_bf16 *p)
{
    const cbn_floats v = cbn_load_bf16(p);
    to[0] = cbn_low(v);
    to[1] = cbn_high(v);
}

static CBN_INLINE void cbn_read_u8(cbn_vec *to, const uint8_t *p)
{
    const cbn_floats v = cbn_load_u8(p);
    to[0] = cbn_low(v);
    to[1] = cbn_high(v);
}

/* CBN_LANES values from lanes + n on: bits of ones in the last n of them */
static const union {
    int64_t bits[2 * CBN_LANES];
    double lanes[2 * CBN_LANES];
} cbn_mask = {{0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
               -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}};

typedef int64_t cbn_bits __attribute__((vector_size(8 * CBN_VEC)));

static CBN_INLINE cbn_vec cbn_and(cbn_vec a, cbn_vec mask)
{
    return (cbn_vec)((cbn_bits)a & (cbn_bits)mask);
}

/* cbn_odd_float, before the last step */
static CBN_INLINE cbn_vec cbn_odd(cbn_vec v)
{
    const cbn_bits bits = (cbn_bits)v, rest = (cbn_bits){0} + 0x1fffffff;
    return (cbn_vec)((bits & ~rest) | (((bits & rest) != 0) & ((cbn_bits){0} + 0x20000000)));
}

static CBN_INLINE cbn_vec cbn_splat(double value)
{
    return value - (cbn_vec){0}; /* unlike an addition, this leaves every value as it is, and costs nothing */
}

/* numbers[0], and numbers[1] where the mask has ones */
static CBN_INLINE cbn_vec cbn_blend(const double *numbers, cbn_vec mask)
{
    const cbn_bits m = (cbn_bits)mask;
    return (cbn_vec)(((cbn_bits)cbn_splat(numbers[0]) & ~m) | ((cbn_bits)cbn_splat(numbers[1]) & m));
}

/* the sum of CBN_LANES lanes, as a tree */
static CBN_INLINE double cbn_fold_lanes(const double *lanes)
{
    double t[CBN_LANES / 2];
    for (int l = 0; l < CBN_LANES / 2; l++)
        t[l] = lanes[l] + lanes[l + CBN_LANES / 2];
    for (int n = CBN_LANES / 4; n; n /= 2)
        for (int l = 0; l < n; l++)
            t[l] += t[l + n];
    return t[0];
}

/* Asks for a line that will soon be read: the sums are slow enough per line that the hardware's own prefetcher, which
 * stops at every page, leaves memory idle. Harmless past the end of an array. */
static CBN_INLINE void cbn_prefetch(const void *p)
{
    __builtin_prefetch(p, 0, 3);
}

/* v where y > 0 (or is NaN), else what the other side of the activation lets through; of vectors of doubles and of
 * floats, and of one value. */
static CBN_INLINE cbn_vec cbn_bent(cbn_vec v, cbn_vec y, struct cbn_bend bend)
{
    return cbn_swap(v, y, v * bend.slope, (cbn_vec)(bend.keep - (cbn_bits){0}));
}

static CBN_INLINE cbn_floats cbn_bent_floats(cbn_floats v, cbn_floats y, struct cbn_bend bend)
{
    return cbn_swap_floats(v, y, v * (float)bend.slope, (cbn_floats)(bend.keep - (cbn_bits){0}));
}

static CBN_INLINE double cbn_bent_one(double v, double y, struct cbn_bend bend)
{
    return y <= 0 ? (bend.keep ? v * bend.slope : 0) : v;
}

/* The sum of n values, by way of lanes; the last lanes without the values that were taken before. */
static CBN_INLINE double cbn_sum_of(const double *values, ptrdiff_t n)
{
    _Alignas(CBN_LINE_BYTES) double lanes[CBN_LANES] = {0};
    if (n < CBN_LANES) {
        memcpy(lanes, values, (size_t)n * sizeof *values);
        return cbn_fold_lanes(lanes);
    }
    cbn_vec s[CBN_VECS] = {{0}};
    const double *last = values + n - CBN_LANES, *mask = cbn_mask.lanes + n % CBN_LANES;
    for (; values <= last; values += CBN_LANES)
        CBN_EACH_VEC
            s[v] += CBN_LOAD(values, v);
    CBN_EACH_VEC
        CBN_LOAD(lanes, v) = s[v] + cbn_and(CBN_LOAD(last, v), CBN_LOAD(mask, v));
    return cbn_fold_lanes(lanes);
}

/* The largest of n values, none of which is negative: their bits are in the same order, and compilers find the largest
 * integer with vectors. */
static CBN_INLINE double cbn_most_of(const float *values, ptrdiff_t n)
{
    uint32_t most = 0;
    float value;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        most = bits > most ? bits : most;
    }
    memcpy(&value, &most, sizeof value);
    return value;
}
