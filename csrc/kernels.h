/* kernels.h: what one instruction set's kernels are made of; the template, once for each element type.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Included by an isa_*.c, which defines CBN_ISA (its name), CBN_VEC (doubles in a vector), cbn_vec (that vector),
 * cbn_widen_f32 and cbn_narrow_f32 (CBN_VEC floats to doubles and back), cbn_floats and cbn_most_f32 (a vector of
 * floats, and of two the larger in size), cbn_fmadd (with one rounding or with two), cbn_stream and CBN_STREAM_FENCE
 * (stores past the cache). Vectors are those of GNU C (gcc, clang). */
#include <math.h>
#include <string.h>

#include "internal.h"

#define CBN_INLINE inline __attribute__((always_inline))
#define CBN_LANES 16
#define CBN_VECS (CBN_LANES / CBN_VEC)
#define CBN_EACH_VEC for (int v = 0; v < CBN_VECS; v++)
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

static CBN_INLINE void cbn_raise_f32(struct cbn_most *most, const float *dy, const float *x)
{
    for (int v = 0; v < CBN_FLOATS; v++) {
        most->x[v] = cbn_most_f32(most->x[v], x + v * 2 * CBN_VEC);
        most->dy[v] = cbn_most_f32(most->dy[v], dy + v * 2 * CBN_VEC);
    }
}

static CBN_INLINE void cbn_raise_f64(struct cbn_most *most, const double *dy, const double *x)
{
    (void)most, (void)dy, (void)x;
}

static CBN_INLINE cbn_vec cbn_widen_f64(const double *p)
{
    return *(const cbn_vec_unaligned *)p;
}

static CBN_INLINE void cbn_narrow_f64(double *to, cbn_vec v, int streaming)
{
    if (streaming)
        cbn_stream(to, v);
    else
        *(cbn_vec_unaligned *)to = v;
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

/* --- outputs --- */

static CBN_INLINE void cbn_open(struct cbn_output *out, void (*advance)(struct cbn_output *, ptrdiff_t))
{
    out->advance = advance;
    out->chunk = out->sample = (out->block.outer - 1) / out->block.chunk * out->block.chunk;
    out->channel = out->at = 0;
}

static CBN_INLINE void cbn_next_sample(struct cbn_output *out)
{
    const ptrdiff_t chunk_end = out->chunk + out->block.chunk;
    out->sample += out->block.fold;
    if (out->sample < chunk_end && out->sample < out->block.outer)
        return;
    out->chunk = out->sample = out->chunk - out->block.chunk;
    if (out->chunk >= 0)
        return;
    out->advance = NULL;
    if (out->block.streaming)
        CBN_STREAM_FENCE();
}

/* One channel's y = (x - mean) * scale + shift, in double if `wide`. */
struct cbn_line {
    double mean, scale, shift;
    int64_t wide;
};

/* one value per channel to one per column */
static CBN_INLINE void cbn_spread(double *column, const double *channel, const struct cbn_block *b)
{
    const ptrdiff_t group = b->channels * b->inner;
    if (b->inner == 1)
        memcpy(column, channel, (size_t)group * sizeof *column);
    else
        for (ptrdiff_t c = 0; c < b->channels; c++)
            for (ptrdiff_t i = 0; i < b->inner; i++)
                column[c * b->inner + i] = channel[c];
    for (ptrdiff_t f = 1; f < b->fold; f++)
        memcpy(column + f * group, column, (size_t)group * sizeof *column);
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

/* One sum per column to one per channel, by way of halves and lanes: short chains of additions. Spoils the columns. */
static CBN_INLINE void cbn_gather(double *channel, double *column, const struct cbn_block *b)
{
    const ptrdiff_t group = b->channels * b->inner;
    for (ptrdiff_t f = b->fold; f > 1; f = (f + 1) / 2)
        for (ptrdiff_t j = 0; j < f / 2 * group; j++)
            column[j] += column[(f + 1) / 2 * group + j];
    if (b->inner == 1) {
        memcpy(channel, column, (size_t)group * sizeof *channel);
        return;
    }
    for (ptrdiff_t c = 0; c < b->channels; c++)
        channel[c] = cbn_sum_of(column + c * b->inner, b->inner);
}

/* The same for the largest values. */
static CBN_INLINE void cbn_gather_most(double *channel, float *column, const struct cbn_block *b)
{
    const ptrdiff_t group = b->channels * b->inner;
    for (ptrdiff_t f = 1; f < b->fold; f++)
        for (ptrdiff_t j = 0; j < group; j++)
            column[j] = column[f * group + j] > column[j] ? column[f * group + j] : column[j];
    if (b->inner == 1)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            channel[c] = (double)column[c];
    else
        for (ptrdiff_t c = 0; c < b->channels; c++)
            channel[c] = cbn_most_of(column + c * b->inner, b->inner);
}

#define T float
#define FN(name) name##_f32
#define WIDEN cbn_widen_f32
#define NARROW cbn_narrow_f32
#define RAISE cbn_raise_f32
#define T_IS_WIDE 0
#include "kernels_tmpl.h"

#define T double
#define FN(name) name##_f64
#define WIDEN cbn_widen_f64
#define NARROW cbn_narrow_f64
#define RAISE cbn_raise_f64
#define T_IS_WIDE 1
#include "kernels_tmpl.h"

#define CBN_JOIN_(a, b) a##b
#define CBN_JOIN(a, b) CBN_JOIN_(a, b)
#define CBN_STRING_(a) #a
#define CBN_STRING(a) CBN_STRING_(a)

/* the only symbol of this file that others see; the runtime's choice is made in dispatch.c */
const struct cbn_kernels CBN_JOIN(cbn_kernels_, CBN_ISA) = {CBN_STRING(CBN_ISA), {&ops_f32, &ops_f64}};
