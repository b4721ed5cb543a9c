/* cbn.h: the public C interface of cbn, batch normalization on CPUs.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * An array is described by three sizes: `outer` samples, `channels`, and `inner` values of one channel that lie
 * together. NC is (N, C, 1), NCHW is (N, C, H*W), NHWC is (N*H*W, C, 1). The value (o, c, i) stands at
 * x[(o * channels + c) * inner + i]. Every channel has count = outer * inner values.
 *
 * What holds for every function:
 * - outputs come first, then inputs, parameters, sizes; arguments are trusted, not checked;
 * - arrays have the element type named by `dtype`; weight, bias, dweight and dbias have the one named by `param_dtype`,
 *   running_mean and running_var the one named by `stat_dtype`; mean, m2 and inv_std are always double;
 * - weight and bias may be NULL (1 and 0), options may be NULL (none); y may be exactly x or the residual, dx exactly
 *   x, dy or options->y, but no other overlap is allowed;
 * - results are the same bits for any num_threads (>= 1), instruction set, alignment and rounding state of the caller,
 *   but for the sign and the payload of a NaN; that state and errno are afterwards as they were before;
 * - the return value is CBN_OK, or CBN_NO_MEMORY (and errno malloc's), after which no array has been written.
 */
#ifndef CBN_H
#define CBN_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header. */
#define CBN_VERSION "0.1.0"
/** The number of its binary interface, which the shared library has in its name. It grows when what was compiled with
 * an older header would no longer work. */
#define CBN_ABI_VERSION 1

#if defined(_WIN32) && defined(CBN_BUILDING)
#define CBN_API __declspec(dllexport)
#elif defined(__GNUC__) && !defined(_WIN32)
#define CBN_API __attribute__((visibility("default")))
#else
#define CBN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Calls on fewer values than this run on the calling thread, whatever num_threads is. */
#define CBN_LEAST_PARALLEL 65536

/** Types of elements. CBN_UINT8 is for x of cbn_inference only; y is then float32. */
enum cbn_dtype { CBN_FLOAT32 = 0, CBN_FLOAT64 = 1, CBN_FLOAT16 = 2, CBN_BFLOAT16 = 3, CBN_UINT8 = 4 };
/** What functions return. */
enum cbn_status { CBN_OK = 0, CBN_NO_MEMORY = 1 };
/** What follows the normalization. */
enum cbn_activation { CBN_IDENTITY = 0, CBN_RELU = 1, CBN_LEAKY_RELU = 2 };

/** What a call does beyond plain batch normalization; the zeros of `struct cbn_options options = {0}` do nothing.
 * Arrays of values have the dtype and sizes of x. */
struct cbn_options {
    /** y = activation(bn(x) + residual), where max(v, 0) is RELU, and LEAKY_RELU v > 0 ? v : negative_slope * v. */
    enum cbn_activation activation;
    /** 0 or more. */
    double negative_slope;
    /** NULL, or what is added; y may be the residual. */
    const void *residual;
    /** In backward, activation and negative_slope as before; y is what the forward call returned, and dy passes where
     * y > 0. */
    const void *y;
    /** If not NULL, becomes what of dy has passed. It may not be x, y or dx. */
    void *dresidual;
    /** weights[outer * inner], of the positions, or NULL. In statistics a value counts as often as its weight says, 0
     * or more. A negative weight masks a position: nothing there counts, nor does its dy; its dx is 0. */
    const double *weights;
};

/** mean[channels] and m2[channels], the sum of squared deviations from it: var = m2 / count, where count is outer *
 * inner or, with weights, cbn_count(weights). An empty channel has mean 0 and m2 0. */
CBN_API int cbn_moments(double *mean, double *m2, const void *x, const struct cbn_options *options,
                        enum cbn_dtype dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads);

/** The same of a part of a batch, for parts that merge without loss: mean + mean_rest is the mean to twice the digits.
 * With n of all parts, d = (mean - a) + mean_rest for each part and a mean among theirs as a, and s = sum(count * d) / n,
 * mean = a + s and m2 = sum(m2 + count * (d - s)^2); cbn_inference, given mean and m2 / n as double, then makes y of
 * each part. mean_rest may be NULL. */
CBN_API int cbn_part_moments(double *mean, double *mean_rest, double *m2, const void *x,
                             const struct cbn_options *options, enum cbn_dtype dtype, ptrdiff_t outer,
                             ptrdiff_t channels, ptrdiff_t inner, int num_threads);

/** The sum of those weights that are not negative. */
CBN_API double cbn_count(const double *weights, ptrdiff_t positions);

/** Training: y = (x - mean) * inv_std * weight + bias with inv_std = 1 / sqrt(m2 / count + eps), which is 0 where
 * the root is 0. Ioffe & Szegedy 2015, Algorithm 1. y may be x. */
CBN_API int cbn_forward(void *y, double *mean, double *m2, double *inv_std, const void *x, const void *weight,
                        const void *bias, double eps, const struct cbn_options *options, enum cbn_dtype dtype,
                        enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner,
                        int num_threads);

/** Inference: y = (x - running_mean) / sqrt(running_var + eps) * weight + bias. Algorithm 2, line 11. y may be x. */
CBN_API int cbn_inference(void *y, const void *x, const void *weight, const void *bias, const void *running_mean,
                          const void *running_var, double eps, const struct cbn_options *options,
                          enum cbn_dtype dtype, enum cbn_dtype param_dtype, enum cbn_dtype stat_dtype,
                          ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads);

/** Images: y = activation((x - mean) * scale + shift + residual), with three numbers per channel. 255 * mean,
 * 1 / (255 * std) and 0 make it (x / 255 - mean) / std. If `to_planes`, the value (o, c, i) of x stands at
 * x[(o * inner + i) * channels + c], the channels of a pixel side by side; y and a residual, of floats, are as
 * above. */
CBN_API void cbn_normalize_images(float *y, const uint8_t *x, const double *mean, const double *scale,
                                  const double *shift, int to_planes, const struct cbn_options *options,
                                  ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, int num_threads);

/** Gradients. With x_hat = (x - mean) * inv_std: dbias = sum dy, dweight = sum dy * x_hat, and
 * dx = weight * inv_std * (dy - dbias / count - x_hat * dweight / count) if the statistics came from x
 * (`training` != 0), weight * inv_std * dy if they were fixed. Section 3 of the paper. dx may be dy or x. */
CBN_API int cbn_backward(void *dx, void *dweight, void *dbias, const void *dy, const void *x, const void *weight,
                         const double *mean, const double *inv_std, int training, const struct cbn_options *options,
                         enum cbn_dtype dtype, enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels,
                         ptrdiff_t inner, int num_threads);

/** The same in two, for a batch in parts whose mean and inv_std came from all of them: the sums of a part, and its dx
 * from the sums and the count of all parts, added up. most[2 * channels] is what the first tells the second of its
 * part: where dx needs no double arithmetic. */
CBN_API int cbn_backward_sums(double *dweight, double *dbias, double *most, const void *dy, const void *x,
                              const double *mean, const double *inv_std, const struct cbn_options *options,
                              enum cbn_dtype dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner,
                              int num_threads);
/** See cbn_backward_sums. */
CBN_API int cbn_backward_input(void *dx, const void *dy, const void *x, const void *weight, const double *mean,
                               const double *inv_std, const double *dweight, const double *dbias, double count,
                               const double *most, const struct cbn_options *options, enum cbn_dtype dtype,
                               enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner,
                               int num_threads);

/** Gradients of sum(ddx * dx) + sum(ddweight * dweight) + sum(ddbias * dbias), where dx, dweight and dbias are what
 * cbn_backward gives without options, with respect to dy, x and weight. With rest(v) = v - sum(v) / count
 * - x_hat * sum(v * x_hat) / count they are dweight = inv_std * sum(ddx * rest(dy)),
 * ddy = weight * inv_std * rest(ddx) + ddweight * x_hat + ddbias, and dx = inv_std * (ddweight * rest(dy)
 * - weight * inv_std / count * (rest(ddx) * sum(dy * x_hat) + rest(dy) * sum(ddx * x_hat))
 * - weight / count * x_hat * dweight). If the statistics were fixed, rest(v) = v and dx = inv_std * ddweight * dy.
 * ddweight and ddbias have `param_dtype`, and may be NULL (0). ddy and dx may overlap nothing. */
CBN_API int cbn_double_backward(void *ddy, void *dx, void *dweight, const void *ddx, const void *ddweight,
                                const void *ddbias, const void *dy, const void *x, const void *weight,
                                const double *mean, const double *inv_std, int training, enum cbn_dtype dtype,
                                enum cbn_dtype param_dtype, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner,
                                int num_threads);

/** running = (1 - momentum) * running + momentum * (value / divisor); momentum is the weight of the new value. For the
 * mean the divisor is 1, for the variance, of which the value is m2, it is count or, unbiased, count - 1. */
CBN_API void cbn_update_running(void *running, const double *value, double divisor, double momentum,
                                enum cbn_dtype stat_dtype, ptrdiff_t channels);

/** CBN_VERSION of the library that is running, which a shared one may have other than the header. */
CBN_API const char *cbn_version(void);
/** CBN_ABI_VERSION likewise. */
CBN_API int cbn_abi_version(void);

/** Names of instruction sets from the plainest to the widest that this CPU runs, NULL past the last. */
CBN_API const char *cbn_available_isa(int index);
/** The instruction set in use. */
CBN_API const char *cbn_isa(void);
/** Chooses one: 0, or -1 if the name is unknown or not supported here. Choose while no call is running. */
CBN_API int cbn_select_isa(const char *name);

/** The most threads that a team of the OpenMP runtime could have now. */
CBN_API int cbn_openmp_max_threads(void);
/** The CPUs that this thread may run on. */
CBN_API int cbn_openmp_num_procs(void);
/** The most threads that the process may ever have. */
CBN_API int cbn_openmp_thread_limit(void);
/** The OpenMP version that cbn was compiled for; 0: without OpenMP, every call is serial. */
CBN_API int cbn_openmp_version(void);

#ifdef __cplusplus
}
#endif
#endif
