/* half.h: the 16-bit floating-point types: four values to and from float, in integer operations that every CPU has.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Values are exact in one direction and rounded to nearest, ties to even, in the other: the same bits as a CPU's own
 * conversion gives. They need the default rounding and denormal handling (cbn_fp_enter). */
#ifndef CBN_HALF_H
#define CBN_HALF_H

#include <stdint.h>
#include <string.h>

/* structs, so that no arithmetic can be done by mistake */
typedef struct {
    uint16_t bits;
} cbn_f16;
typedef struct {
    uint16_t bits;
} cbn_bf16;

typedef float cbn_floats4 __attribute__((vector_size(16)));
typedef uint32_t cbn_words4 __attribute__((vector_size(16)));

/* `b` where the mask has ones, else `a` */
static inline cbn_words4 cbn_choose4(cbn_words4 a, cbn_words4 b, cbn_words4 mask)
{
    return (a & ~mask) | (b & mask);
}

static inline cbn_floats4 cbn_f16_to_floats4(cbn_words4 h)
{
    const cbn_words4 size = (h & 0x7fff) << 13, sign = (h & 0x8000) << 16;
    const cbn_words4 finite = (cbn_words4)((cbn_floats4)size * 0x1p112f); /* subnormals too */
    return (cbn_floats4)(cbn_choose4(finite, size | 0x7f800000, (cbn_words4)(size >= 0x0f800000)) | sign);
}

static inline cbn_words4 cbn_floats4_to_f16(cbn_floats4 v)
{
    const cbn_words4 size = (cbn_words4)v & 0x7fffffff, sign = ((cbn_words4)v & 0x80000000) >> 16;
    const cbn_words4 normal = (size - 0x38000000 + 0xfff + ((size >> 13) & 1)) >> 13;
    const cbn_words4 small = (cbn_words4)((cbn_floats4)size + 0.5f) - 0x3f000000; /* a spacing of 2^-24 near 0.5 */
    cbn_words4 h = cbn_choose4(normal, small, (cbn_words4)(size < 0x38800000));
    h = cbn_choose4(h, h * 0 + 0x7c00, (cbn_words4)(size >= 0x47800000));
    return cbn_choose4(h, h * 0 + 0x7e00, (cbn_words4)(size > 0x7f800000)) | sign;
}

static inline float cbn_f16_to_float(cbn_f16 h)
{
    return cbn_f16_to_floats4((cbn_words4){h.bits})[0];
}

static inline cbn_f16 cbn_float_to_f16(float v)
{
    return (cbn_f16){(uint16_t)cbn_floats4_to_f16((cbn_floats4){v})[0]};
}

static inline float cbn_bf16_to_float(cbn_bf16 h)
{
    const uint32_t bits = (uint32_t)h.bits << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline cbn_bf16 cbn_float_to_bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (v != v)
        return (cbn_bf16){(uint16_t)(bits >> 16 | 0x40)};
    return (cbn_bf16){(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

/* A double cut to the digits of a float, the last one odd if anything was cut off: rounding that once more, to fewer
 * digits, is as good as rounding the double. (Not where the float is subnormal and has fewer digits itself.) */
static inline float cbn_odd_float(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits = (bits & ~(uint64_t)0x1fffffff) | (bits & 0x1fffffff ? 0x20000000 : 0);
    memcpy(&v, &bits, sizeof v);
    return (float)v;
}

#endif
