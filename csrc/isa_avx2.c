/* isa_avx2.c: kernels for x86-64 CPUs with AVX2 and FMA (compiled with those flags).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <immintrin.h>

#define CBN_ISA avx2
#define CBN_VEC 4
typedef double cbn_vec __attribute__((vector_size(32)));
typedef float cbn_floats __attribute__((vector_size(32)));

static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

static inline cbn_vec cbn_fmadd(cbn_vec a, cbn_vec b, cbn_vec c)
{
    return _mm256_fmadd_pd(a, b, c);
}

static inline cbn_floats cbn_most_f32(cbn_floats most, const float *p)
{
    return _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(p)), most);
}

static inline void cbn_narrow_f32(float *to, cbn_vec v, int streaming)
{
    if (streaming)
        _mm_stream_ps(to, _mm256_cvtpd_ps(v));
    else
        _mm_storeu_ps(to, _mm256_cvtpd_ps(v));
}

static inline void cbn_stream(double *to, cbn_vec v)
{
    _mm256_stream_pd(to, v);
}
#define CBN_STREAM_FENCE() _mm_sfence()

#include "kernels.h"
