/* isa_baseline.c: kernels for the plainest CPU of the platform: SSE2 on x86-64, NEON on aarch64.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <string.h>

#include "half.h"

#define CBN_ISA baseline
#define CBN_VEC 2
typedef double cbn_vec __attribute__((vector_size(16)));
typedef float cbn_floats __attribute__((vector_size(16)));
typedef uint16_t cbn_halves __attribute__((vector_size(8)));
typedef uint16_t cbn_halves_unaligned __attribute__((vector_size(8), aligned(2), may_alias));

#if defined(__x86_64__)
#include <emmintrin.h>
static inline cbn_vec cbn_widen_f32(const float *p)
{
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)));
}
static inline cbn_vec cbn_low(cbn_floats v)
{
    return _mm_cvtps_pd(v);
}
static inline cbn_vec cbn_high(cbn_floats v)
{
    return _mm_cvtps_pd(_mm_movehl_ps(v, v));
}
static inline cbn_floats cbn_load_u8(const uint8_t *p)
{
    const __m128i zero = _mm_setzero_si128();
    int bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero), zero));
}
static inline cbn_floats cbn_most(cbn_floats most, cbn_floats v)
{
    return _mm_max_ps(_mm_andnot_ps(_mm_set1_ps(-0.0f), v), most);
}
static inline cbn_floats cbn_join(cbn_vec low, cbn_vec high)
{
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}
static inline void cbn_stream(double *to, cbn_vec v)
{
    _mm_stream_pd(to, v);
}
static inline void cbn_stream_halves(void *to, cbn_halves v)
{
    _mm_stream_si64((long long *)to, (long long)v);
}
#define CBN_STREAM_FENCE() _mm_sfence()
#elif defined(__aarch64__)
/* which gcc does not find by itself: it takes the lanes one by one */
#include <arm_neon.h>
static inline cbn_vec cbn_widen_f32(const float *p)
{
    return (cbn_vec)vcvt_f64_f32(vld1_f32(p));
}
static inline cbn_vec cbn_low(cbn_floats v)
{
    return (cbn_vec)vcvt_f64_f32(vget_low_f32((float32x4_t)v));
}
static inline cbn_vec cbn_high(cbn_floats v)
{
    return (cbn_vec)vcvt_high_f64_f32((float32x4_t)v);
}
static inline cbn_words4 cbn_load_words(const void *p)
{
    return (cbn_words4)vmovl_u16((uint16x4_t)*(const cbn_halves_unaligned *)p);
}
static inline cbn_floats cbn_load_u8(const uint8_t *p)
{
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    const uint16x8_t halves = vmovl_u8((uint8x8_t)vdup_n_u32(bytes));
    return (cbn_floats)vcvtq_f32_u32(vmovl_u16(vget_low_u16(halves)));
}
static inline cbn_floats cbn_most(cbn_floats most, cbn_floats v)
{
    const float32x4_t size = vabsq_f32((float32x4_t)v);
    return (cbn_floats)vbslq_f32(vcgtq_f32(size, (float32x4_t)most), size, (float32x4_t)most);
}
static inline cbn_floats cbn_join(cbn_vec low, cbn_vec high)
{
    return (cbn_floats)vcvt_high_f32_f64(vcvt_f32_f64((float64x2_t)low), (float64x2_t)high);
}
#else
static inline cbn_vec cbn_widen_f32(const float *p)
{
    return (cbn_vec){p[0], p[1]};
}
static inline cbn_vec cbn_low(cbn_floats v)
{
    return (cbn_vec){v[0], v[1]};
}
static inline cbn_vec cbn_high(cbn_floats v)
{
    return (cbn_vec){v[2], v[3]};
}
static inline cbn_floats cbn_load_u8(const uint8_t *p)
{
    return (cbn_floats){p[0], p[1], p[2], p[3]};
}
static inline cbn_floats cbn_most(cbn_floats most, cbn_floats v)
{
    for (int l = 0; l < 4; l++)
        most[l] = fabsf(v[l]) > most[l] ? fabsf(v[l]) : most[l];
    return most;
}
static inline cbn_floats cbn_join(cbn_vec low, cbn_vec high)
{
    return (cbn_floats){(float)low[0], (float)low[1], (float)high[0], (float)high[1]};
}
#endif

#ifndef __aarch64__
static inline cbn_words4 cbn_load_words(const void *p)
{
    return __builtin_convertvector(*(const cbn_halves_unaligned *)p, cbn_words4);
}
#endif

#ifndef CBN_STREAM_FENCE
static inline void cbn_stream(double *to, cbn_vec v)
{
    *(cbn_vec *)to = v;
}
static inline void cbn_stream_halves(void *to, cbn_halves v)
{
    *(cbn_halves *)to = v;
}
#define CBN_STREAM_FENCE() (void)0
#endif

static inline cbn_vec cbn_fmadd(cbn_vec a, cbn_vec b, cbn_vec c)
{
    return a * b + c;
}

typedef int64_t cbn_pair __attribute__((vector_size(16)));

static inline cbn_vec cbn_swap(cbn_vec v, cbn_vec y, cbn_vec less, cbn_vec keep)
{
    const cbn_pair below = (cbn_pair)(y <= 0);
    return (cbn_vec)(((cbn_pair)v & ~below) | ((cbn_pair)less & (cbn_pair)keep & below));
}

static inline cbn_floats cbn_swap_floats(cbn_floats v, cbn_floats y, cbn_floats less, cbn_floats keep)
{
    const cbn_pair below = (cbn_pair)(y <= 0);
    return (cbn_floats)(((cbn_pair)v & ~below) | ((cbn_pair)less & (cbn_pair)keep & below));
}

static inline cbn_floats cbn_load_f16(const cbn_f16 *p)
{
    return cbn_f16_to_floats4(cbn_load_words(p));
}

static inline cbn_halves cbn_from_floats_f16(cbn_floats v)
{
    return __builtin_convertvector(cbn_floats4_to_f16(v), cbn_halves);
}

static inline cbn_floats cbn_load_bf16(const cbn_bf16 *p)
{
    return (cbn_floats)(cbn_load_words(p) << 16);
}

static inline cbn_halves cbn_from_floats_bf16(cbn_floats v)
{
    const cbn_words4 bits = (cbn_words4)v, rounded = bits + 0x7fff + (bits >> 16 & 1);
    return __builtin_convertvector(cbn_choose4(rounded, bits | 0x400000, (cbn_words4)(v != v)) >> 16, cbn_halves);
}

#include "kernels.h"
