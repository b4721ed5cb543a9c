# _core.pxd: the C interface, as `cimport cbn` gives it: types from cbn.h, and functions by way of capsules.
# SPDX-License-Identifier: BSD-3-Clause
from libc.stdint cimport int64_t, uint8_t


cdef extern from "cbn.h" nogil:
    const char *CBN_VERSION
    const int CBN_ABI_VERSION
    const int CBN_LEAST_PARALLEL
    enum cbn_status:
        CBN_OK
        CBN_NO_MEMORY
    enum cbn_dtype:
        CBN_FLOAT32
        CBN_FLOAT64
        CBN_FLOAT16
        CBN_BFLOAT16
        CBN_UINT8
    enum cbn_activation:
        CBN_IDENTITY
        CBN_RELU
        CBN_LEAKY_RELU
    struct cbn_options:
        cbn_activation activation
        double negative_slope
        const void *residual
        const void *y
        void *dresidual
        const double *weights


cdef int cbn_moments(double *mean, double *m2, const void *x, const cbn_options *options, cbn_dtype dtype,
                     Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil
cdef int cbn_part_moments(double *mean, double *mean_rest, double *m2, const void *x, const cbn_options *options,
                          cbn_dtype dtype, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner,
                          int num_threads) noexcept nogil
cdef double cbn_count(const double *weights, Py_ssize_t positions) noexcept nogil
cdef int cbn_forward(void *y, double *mean, double *m2, double *inv_std, const void *x, const void *weight,
                     const void *bias, double eps, const cbn_options *options, cbn_dtype dtype, cbn_dtype param_dtype,
                     Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil
cdef int cbn_inference(void *y, const void *x, const void *weight, const void *bias, const void *running_mean,
                       const void *running_var, double eps, const cbn_options *options, cbn_dtype dtype,
                       cbn_dtype param_dtype, cbn_dtype stat_dtype, Py_ssize_t outer, Py_ssize_t channels,
                       Py_ssize_t inner, int num_threads) noexcept nogil
cdef void cbn_normalize_images(float *y, const uint8_t *x, const double *mean, const double *scale,
                               const double *shift, int to_planes, const cbn_options *options, Py_ssize_t outer,
                               Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil
cdef int cbn_backward(void *dx, void *dweight, void *dbias, const void *dy, const void *x, const void *weight,
                      const double *mean, const double *inv_std, int training, const cbn_options *options,
                      cbn_dtype dtype, cbn_dtype param_dtype, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner,
                      int num_threads) noexcept nogil
cdef int cbn_backward_sums(double *dweight, double *dbias, double *most, const void *dy, const void *x,
                           const double *mean, const double *inv_std, const cbn_options *options, cbn_dtype dtype,
                           Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil
cdef int cbn_backward_input(void *dx, const void *dy, const void *x, const void *weight, const double *mean,
                            const double *inv_std, const double *dweight, const double *dbias, double count,
                            const double *most, const cbn_options *options, cbn_dtype dtype, cbn_dtype param_dtype,
                            Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner,
                            int num_threads) noexcept nogil
cdef int cbn_double_backward(void *ddy, void *dx, void *dweight, const void *ddx, const void *ddweight,
                             const void *ddbias, const void *dy, const void *x, const void *weight, const double *mean,
                             const double *inv_std, int training, cbn_dtype dtype, cbn_dtype param_dtype,
                             Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil
cdef void cbn_update_running(void *running, const double *value, double divisor, double momentum, cbn_dtype stat_dtype,
                             Py_ssize_t channels) noexcept nogil
cdef const char *cbn_available_isa(int index) noexcept nogil
cdef const char *cbn_isa() noexcept nogil
cdef int cbn_select_isa(const char *name) noexcept nogil
cdef int cbn_openmp_max_threads() noexcept nogil
cdef int cbn_openmp_num_procs() noexcept nogil
cdef int cbn_openmp_thread_limit() noexcept nogil
cdef int cbn_openmp_version() noexcept nogil
cdef const char *cbn_version() noexcept nogil
cdef int cbn_abi_version() noexcept nogil
