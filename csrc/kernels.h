/* kernels.h: what one instruction set's kernels are made of; the template, once for each element type.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Included by an isa_*.c, which defines CBN_ISA (its name), CBN_VEC (doubles in a vector), cbn_vec and cbn_floats (that
 * vector, and one of floats), cbn_widen_f32 (CBN_VEC floats to doubles), cbn_low and cbn_high (the halves of a vector
 * of floats, as doubles), cbn_join (two vectors of doubles to one of floats), for the 16-bit types cbn_load_<type> and
 * cbn_from_floats_<type> (2 * CBN_VEC values to floats and back), cbn_load_u8 (as many bytes to floats), cbn_most (of
 * two vectors the larger in size), cbn_swap and cbn_swap_floats (v, or where y <= 0 those bits of `less` that `keep`
 * has), cbn_fmadd (with one rounding or with two), cbn_stream, cbn_stream_halves and CBN_STREAM_FENCE (stores past the
 * cache). Vectors are those of GNU C (gcc, clang). */
#include "vectors.h"

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

/* How a pass over an output is compiled: FUSED with an activation (and a residual of 16 bits). For dx: WIDE in double,
 * MIXED where some channels need that, else in float32; in spans each channel is looked at. For y: WIDE with a residual
 * of float32 or float64, MIXED where a line is wide. */
enum cbn_how { CBN_PLAIN = 0, CBN_FUSED = 1, CBN_WIDE = 2, CBN_MIXED = 4 };

/* What sums are compiled for: of x, or of dy; after an activation, which may be leaky; with weights. The largest values
 * are of use only where dx may be computed in float32. */
enum cbn_kind { CBN_BACKWARD = 1, CBN_ACTIVATED = 2, CBN_LEAKY = 4, CBN_WEIGHTED = 8 };
/* Sums that are always taken about an anchor: about zero is faster where products are exact in double, and takes code. */
#ifdef __OPTIMIZE_SIZE__
#define CBN_CENTERED(kind) 1
#else
#define CBN_CENTERED(kind) ((kind) & (CBN_LEAKY | CBN_WEIGHTED))
#endif
#define CBN_RAISES(kind) (((kind) & (CBN_BACKWARD | CBN_WEIGHTED)) == CBN_BACKWARD)

static CBN_INLINE void cbn_raise_most(struct cbn_most *most, const struct cbn_most *by)
{
    CBN_UNROLL for (int v = 0; v < CBN_FLOATS; v++) {
        most->x[v] = cbn_most(most->x[v], by->x[v]);
        most->dy[v] = cbn_most(most->dy[v], by->dy[v]);
    }
}

static CBN_INLINE int cbn_is_fused(const struct cbn_output *out)
{
    return out->residual || out->activated || out->dresidual || out->bend.slope != 1 || !out->bend.keep;
}

/* One channel's y = (x - mean) * scale + shift, in double if `wide`. */
struct cbn_line {
    double mean, scale, shift;
    int64_t wide;
};

/* one value per channel to one per column */
static CBN_APART void cbn_spread(double *column, const double *channel, const struct cbn_block *b)
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

/* For each column, which of the positions that its row covers it has. */
static CBN_APART void cbn_number_positions(uint16_t *position, const struct cbn_block *b)
{
    for (ptrdiff_t f = 0; f < b->fold; f++)
        for (ptrdiff_t c = 0; c < b->channels; c++)
            for (ptrdiff_t i = 0; i < b->inner; i++)
                *position++ = (uint16_t)(f * b->inner + i);
}

/* One sum per column to one per channel, by way of halves and lanes: short chains of additions. Spoils the columns. */
static CBN_APART void cbn_gather(double *channel, double *column, const struct cbn_block *b)
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
static CBN_APART void cbn_gather_most(double *channel, float *column, const struct cbn_block *b)
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

/* --- gradients of gradients --- */

#define V double
#define OF_V(name) cbn_##name##_one
#include "second_tmpl.h"

#define V cbn_vec
#define OF_V(name) cbn_##name##_vec
#include "second_tmpl.h"

#define CBN_NUMBERS(of, c, GET)                                                                                       \
    {GET((of)->mean, c),      GET((of)->inv_std, c),    GET((of)->scale, c),     GET((of)->ddweight, c),                \
     GET((of)->ddbias, c),    GET((of)->of_dy, c),      GET((of)->ddx_center, c), GET((of)->ddx_slope, c),              \
     GET((of)->dy_center, c), GET((of)->dy_slope, c),   GET((of)->of_ddx, c),    GET((of)->of_x, c)}

/* Those of channel c. */
static CBN_INLINE struct cbn_numbers_one cbn_numbers_of(const struct cbn_second *of, ptrdiff_t c)
{
#define AT(array, c) (array)[c]
    return (struct cbn_numbers_one)CBN_NUMBERS(of, c, AT);
#undef AT
}

/* Those of channel c for each value of a vector. */
static CBN_INLINE struct cbn_numbers_vec cbn_numbers_along(const struct cbn_second *of, ptrdiff_t c)
{
#define SPLAT(array, c) cbn_splat((array)[c])
    return (struct cbn_numbers_vec)CBN_NUMBERS(of, c, SPLAT);
#undef SPLAT
}

/* Those of the channels from c on, one for each. */
static CBN_INLINE struct cbn_numbers_vec cbn_numbers_across(const struct cbn_second *of, ptrdiff_t c)
{
#define LOAD(array, c) CBN_LOAD((array) + (c), 0)
    return (struct cbn_numbers_vec)CBN_NUMBERS(of, c, LOAD);
#undef LOAD
}

#define T float
#define A float
#define FN(name) name##_f32
#define OF(name) name##_f32
#define GET(value) (value)
#define SET(value) (value)
#define FROM_DOUBLE(value) ((float)(value))
#include "kernels_tmpl.h"

#define T double
#define A double
#define FN(name) name##_f64
#define OF(name) name##_f64
#define GET(value) (value)
#define SET(value) (value)
#define FROM_DOUBLE(value) (value)
#include "kernels_tmpl.h"

#define T cbn_f16
#define A float
#define FN(name) name##_f16
#define OF(name) name##_f16
#define GET(value) cbn_f16_to_float(value)
#define SET(value) cbn_float_to_f16(value)
#define FROM_DOUBLE(value) cbn_float_to_f16(cbn_odd_float(value))
#include "kernels_tmpl.h"

#define T cbn_bf16
#define A float
#define FN(name) name##_bf16
#define OF(name) name##_bf16
#define GET(value) cbn_bf16_to_float(value)
#define SET(value) cbn_float_to_bf16(value)
#define FROM_DOUBLE(value) cbn_float_to_bf16(cbn_odd_float(value))
#include "kernels_tmpl.h"

#include "planes.h"

/* images: only y */
#define X uint8_t
#define T float
#define A float
#define FN(name) name##_u8
#define OF(name) name##_f32
#define LOAD_X cbn_load_u8
#define READ_X cbn_read_u8
#define GET_X(value) ((float)(value))
#define GET(value) (value)
#define SET(value) (value)
#define FROM_DOUBLE(value) ((float)(value))
#include "kernels_tmpl.h"

#define CBN_JOIN_(a, b) a##b
#define CBN_JOIN(a, b) CBN_JOIN_(a, b)
#define CBN_STRING_(a) #a
#define CBN_STRING(a) CBN_STRING_(a)

/* the only symbol of this file that others see; the runtime's choice is made in dispatch.c */
const struct cbn_kernels CBN_JOIN(cbn_kernels_, CBN_ISA) = {
    CBN_STRING(CBN_ISA), {&ops_f32, &ops_f64, &ops_f16, &ops_bf16, &ops_u8}};
