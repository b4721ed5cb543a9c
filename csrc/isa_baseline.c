/* isa_baseline.c: kernels for the plainest CPU of the platform: SSE2 on x86-64, NEON on aarch64.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <string.h>

#define CBN_ISA baseline
#define CBN_VEC 2
typedef double cbn_vec __attribute__((vector_size(16)));
typedef float cbn_floats __attribute__((vector_size(16)));

static inline cbn_vec cbn_fmadd(cbn_vec a, cbn_vec b, cbn_vec c)
{
    return a * b + c;
}

#if defined(__x86_64__)
#include <emmintrin.h>
static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)));
}
static inline cbn_floats cbn_most_f32(cbn_floats most, const float *p)
{
    return _mm_max_ps(_mm_andnot_ps(_mm_set1_ps(-0.0f), _mm_loadu_ps(p)), most);
}
static inline void cbn_narrow_f32(float *to, cbn_vec v, int streaming)
{
    const long long pair = _mm_cvtsi128_si64(_mm_castps_si128(_mm_cvtpd_ps(v)));
    if (streaming)
        _mm_stream_si64((long long *)(void *)to, pair);
    else
        memcpy(to, &pair, sizeof pair);
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
static inline cbn_floats cbn_most_f32(cbn_floats most, const float *p)
{
    for (int l = 0; l < 4; l++)
        most[l] = fabsf(p[l]) > most[l] ? fabsf(p[l]) : most[l];
    return most;
}
static inline void cbn_narrow_f32(float *to, cbn_vec v, int streaming)
{
    (void)streaming;
    to[0] = (float)v[0];
    to[1] = (float)v[1];
}
static inline void cbn_stream(double *to, cbn_vec v)
{
    *(cbn_vec *)to = v;
}
#define CBN_STREAM_FENCE() (void)0
#endif

#include "kernels.h"
