/* isa_baseline.c: kernels for the plainest CPU of the platform: SSE2 on x86-64, NEON on aarch64.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#define CBN_ISA baseline
#define CBN_VEC 2
typedef double cbn_vec __attribute__((vector_size(16)));

#if defined(__SSE2__)
#include <emmintrin.h>
static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)));
}
static inline void cbn_stream(double *to, cbn_vec v)
{
    _mm_stream_pd(to, v);
}
#define CBN_STREAM_FENCE() _mm_sfence()
#else
static inline cbn_vec cbn_widen_f32(const float *p)
{
    return (cbn_vec){p[0], p[1]};
}
static inline void cbn_stream(double *to, cbn_vec v)
{
    *(cbn_vec *)to = v;
}
#define CBN_STREAM_FENCE() (void)0
#endif

#include "kernels.h"
