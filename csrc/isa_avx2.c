/* isa_avx2.c: kernels for x86-64 CPUs with AVX2 (compiled with -mavx2).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <immintrin.h>

#define CBN_ISA avx2
#define CBN_VEC 4
typedef double cbn_vec __attribute__((vector_size(32)));

static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

static inline void cbn_stream(double *to, cbn_vec v)
{
    _mm256_stream_pd(to, v);
}
#define CBN_STREAM_FENCE() _mm_sfence()

#include "kernels.h"
