/* isa_avx512.c: kernels for x86-64 CPUs with AVX-512 F, DQ, BW and VL (compiled with those flags).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <immintrin.h>

#define CBN_ISA avx512
#define CBN_VEC 8
typedef double cbn_vec __attribute__((vector_size(64)));

static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

static inline void cbn_stream(double *to, cbn_vec v)
{
    _mm512_stream_pd(to, v);
}
#define CBN_STREAM_FENCE() _mm_sfence()

#include "kernels.h"
