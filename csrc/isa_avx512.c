/* isa_avx512.c: kernels for x86-64 CPUs with AVX-512 F, DQ, BW and VL (compiled with those flags).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <immintrin.h>

#define CBN_ISA avx512
#define CBN_VEC 8
typedef double cbn_vec __attribute__((vector_size(64)));
typedef float cbn_floats __attribute__((vector_size(64)));

static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

static inline cbn_vec cbn_fmadd(cbn_vec a, cbn_vec b, cbn_vec c)
{
    return _mm512_fmadd_pd(a, b, c);
}

static inline cbn_floats cbn_most_f32(cbn_floats most, const float *p)
{
    return _mm512_range_ps(most, _mm512_loadu_ps(p), 0x0b); /* the larger in size, without its sign */
}

static inline void cbn_narrow_f32(float *to, cbn_vec v, int streaming)
{
    if (streaming)
        _mm256_stream_ps(to, _mm512_cvtpd_ps(v));
    else
        _mm256_storeu_ps(to, _mm512_cvtpd_ps(v));
}

static inline void cbn_stream(double *to, cbn_vec v)
{
    _mm512_stream_pd(to, v);
}
#define CBN_STREAM_FENCE() _mm_sfence()

#include "kernels.h"
