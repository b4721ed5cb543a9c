# _capsules.pxi: the functions of cbn.h again as Cython's, which other extensions import without linking the library.
# SPDX-License-Identifier: BSD-3-Clause

cdef extern from "cbn.h" nogil:  # "...": cbn.h says the rest
    int c_moments "cbn_moments"(double *mean, ...)
    int c_part_moments "cbn_part_moments"(double *mean, ...)
    double c_count "cbn_count"(const double *weights, ...)
    int c_forward "cbn_forward"(void *y, ...)
    int c_inference "cbn_inference"(void *y, ...)
    void c_normalize_images "cbn_normalize_images"(float *y, ...)
    int c_backward "cbn_backward"(void *dx, ...)
    int c_backward_sums "cbn_backward_sums"(double *dweight, ...)
    int c_backward_input "cbn_backward_input"(void *dx, ...)
    int c_double_backward "cbn_double_backward"(void *ddy, ...)
    void c_update_running "cbn_update_running"(void *running, ...)
    const char *c_available_isa "cbn_available_isa"(int index, ...)
    const char *c_isa "cbn_isa"()
    int c_select_isa "cbn_select_isa"(const char *name, ...)
    int c_openmp_max_threads "cbn_openmp_max_threads"()
    int c_openmp_num_procs "cbn_openmp_num_procs"()
    int c_openmp_thread_limit "cbn_openmp_thread_limit"()
    int c_openmp_version "cbn_openmp_version"()
    const char *c_version "cbn_version"()
    int c_abi_version "cbn_abi_version"()


cdef int cbn_moments(double *mean, double *m2, const void *x, const cbn_options *options, cbn_dtype dtype,
                     Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil:
    return c_moments(mean, m2, x, options, dtype, outer, channels, inner, num_threads)


cdef int cbn_part_moments(double *mean, double *mean_rest, double *m2, const void *x, const cbn_options *options,
                          cbn_dtype dtype, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner,
                          int num_threads) noexcept nogil:
    return c_part_moments(mean, mean_rest, m2, x, options, dtype, outer, channels, inner, num_threads)


cdef double cbn_count(const double *weights, Py_ssize_t positions) noexcept nogil:
    return c_count(weights, positions)


cdef int cbn_forward(void *y, double *mean, double *m2, double *inv_std, const void *x, const void *weight,
                     const void *bias, double eps, const cbn_options *options, cbn_dtype dtype, cbn_dtype param_dtype,
                     Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil:
    return c_forward(y, mean, m2, inv_std, x, weight, bias, eps, options, dtype, param_dtype, outer, channels,
                     inner, num_threads)


cdef int cbn_inference(void *y, const void *x, const void *weight, const void *bias, const void *running_mean,
                       const void *running_var, double eps, const cbn_options *options, cbn_dtype dtype,
                       cbn_dtype param_dtype, cbn_dtype stat_dtype, Py_ssize_t outer, Py_ssize_t channels,
                       Py_ssize_t inner, int num_threads) noexcept nogil:
    return c_inference(y, x, weight, bias, running_mean, running_var, eps, options, dtype, param_dtype,
                       stat_dtype, outer, channels, inner, num_threads)


cdef void cbn_normalize_images(float *y, const uint8_t *x, const double *mean, const double *scale,
                               const double *shift, int to_planes, const cbn_options *options, Py_ssize_t outer,
                               Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil:
    c_normalize_images(y, x, mean, scale, shift, to_planes, options, outer, channels, inner, num_threads)


cdef int cbn_backward(void *dx, void *dweight, void *dbias, const void *dy, const void *x, const void *weight,
                      const double *mean, const double *inv_std, int training, const cbn_options *options,
                      cbn_dtype dtype, cbn_dtype param_dtype, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner,
                      int num_threads) noexcept nogil:
    return c_backward(dx, dweight, dbias, dy, x, weight, mean, inv_std, training, options, dtype, param_dtype,
                      outer, channels, inner, num_threads)


cdef int cbn_backward_sums(double *dweight, double *dbias, double *most, const void *dy, const void *x,
                           const double *mean, const double *inv_std, const cbn_options *options, cbn_dtype dtype,
                           Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil:
    return c_backward_sums(dweight, dbias, most, dy, x, mean, inv_std, options, dtype, outer, channels, inner,
                           num_threads)


cdef int cbn_backward_input(void *dx, const void *dy, const void *x, const void *weight, const double *mean,
                            const double *inv_std, const double *dweight, const double *dbias, double count,
                            const double *most, const cbn_options *options, cbn_dtype dtype, cbn_dtype param_dtype,
                            Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner,
                            int num_threads) noexcept nogil:
    return c_backward_input(dx, dy, x, weight, mean, inv_std, dweight, dbias, count, most, options, dtype,
                            param_dtype, outer, channels, inner, num_threads)


cdef int cbn_double_backward(void *ddy, void *dx, void *dweight, const void *ddx, const void *ddweight,
                             const void *ddbias, const void *dy, const void *x, const void *weight, const double *mean,
                             const double *inv_std, int training, cbn_dtype dtype, cbn_dtype param_dtype,
                             Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, int num_threads) noexcept nogil:
    return c_double_backward(ddy, dx, dweight, ddx, ddweight, ddbias, dy, x, weight, mean, inv_std, training,
                             dtype, param_dtype, outer, channels, inner, num_threads)


cdef void cbn_update_running(void *running, const double *value, double divisor, double momentum, cbn_dtype stat_dtype,
                             Py_ssize_t channels) noexcept nogil:
    c_update_running(running, value, divisor, momentum, stat_dtype, channels)


cdef const char *cbn_available_isa(int index) noexcept nogil:
    return c_available_isa(index)


cdef const char *cbn_isa() noexcept nogil:
    return c_isa()


cdef int cbn_select_isa(const char *name) noexcept nogil:
    return c_select_isa(name)


cdef int cbn_openmp_max_threads() noexcept nogil:
    return c_openmp_max_threads()


cdef int cbn_openmp_num_procs() noexcept nogil:
    return c_openmp_num_procs()


cdef int cbn_openmp_thread_limit() noexcept nogil:
    return c_openmp_thread_limit()


cdef int cbn_openmp_version() noexcept nogil:
    return c_openmp_version()


cdef const char *cbn_version() noexcept nogil:
    return c_version()


cdef int cbn_abi_version() noexcept nogil:
    return c_abi_version()
