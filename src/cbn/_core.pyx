# _core: arrays in, checks, one C call without the GIL, arrays out.
# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
"""Wrappers of the C interface.

Design:
a) This is the one place of checks. What passes them is safe for C, which trusts its arguments; functional.py and
   layer.py do not check again. Every check comes before anything is written.
b) NumPy's C API, no typed memoryviews: these cost more per call, and accept masked and misaligned arrays.
c) An array becomes the triple (outer, channels, inner) once, in `lay_out`. C never sees axes.
d) The running statistics are committed last, in one piece that no signal can split, by `commit`.
"""
import numbers

import numpy as np

cimport numpy as cnp
from libc.math cimport expm1, isfinite, log1p


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1


cnp.import_array()

include "_checks.pxi"
include "_numbers.pxi"
include "_options.pxi"
include "_double.pxi"


# --- the operations ---

cdef const cbn_options *pointer(Options options) noexcept:
    return NULL if options is None else &options.c


cdef int check_output_apart(cnp.ndarray y, cnp.ndarray x_given, object residual, int axis, Triple *t) except -1:
    check_same_or_apart(y, x_given, "x", axis, t)
    if residual is not None:
        check_same_or_apart(y, as_array(residual, "residual"), "residual", axis, t)
    return 0


cdef int check_parameters_apart(cnp.ndarray y, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray running_mean,
                                cnp.ndarray running_var) except -1:
    check_apart(y, weight, "weight")
    check_apart(y, bias, "bias")
    check_apart(y, running_mean, "running_mean")
    check_apart(y, running_var, "running_var")
    return 0


cdef commit(Running running, cnp.ndarray mean, cnp.ndarray m2, object count, bint unbiased, object momentum,
            cnp.ndarray counter=None, bint zero_debias=False):
    """Both running statistics and the counter. With `zero_debias` the mean counts the batches so far, not its start."""
    cdef int64_t *tracked = <int64_t *>data(counter)
    cdef double factor = 1.0 / (tracked[0] + 1) if momentum is None else momentum
    cdef double mean_factor = factor
    cdef double divisor = count - 1 if unbiased and count > 1 else count
    if zero_debias and momentum is not None and factor > 0:
        mean_factor = factor / -expm1((tracked[0] + 1) * log1p(-factor))
    cdef Py_ssize_t channels = cnp.PyArray_DIM(mean, 0)
    cbn_update_running(data(running.mean), <double *>data(mean), 1, mean_factor, running.dtype, channels)
    cbn_update_running(data(running.var), <double *>data(m2), divisor, factor, running.dtype, channels)
    if tracked != NULL:
        tracked[0] += 1


cdef class Running:
    """Running statistics that will be written."""
    cdef cnp.ndarray mean, var
    cdef cbn_dtype dtype

    def __cinit__(self, object running_mean, object running_var, cnp.ndarray x, Py_ssize_t channels):
        cdef Parameters parameters = Parameters(x, channels)
        self.mean, self.var = parameters.running(running_mean, running_var)
        self.dtype = parameters.dtype


cdef int check_count(object count, Options options, cnp.ndarray x, bint zero_var, bint updates) except -1:
    """Whether so many values have a variance, for training and for the running variance."""
    cdef Py_ssize_t counted = count if options is None or not options.weighted else (options.weights > 0).sum()
    if counted == 1 and not zero_var:
        masked = "" if options is None or options.weights is None else ", of which the mask or the weights leave one"
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {np.shape(x)}{masked}")
    if counted > 1 and updates and count <= 1:
        raise ValueError(f"sample_weight must sum to more than 1 for an unbiased running variance; got {count}")
    return 0


def first_not_finite(*arrays):
    """The first channel in which one of the arrays is not finite, or None."""
    bad = ~np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return int(bad.argmax()) if bad.any() else None


def raise_not_finite(object channel):
    raise ValueError(f"x must have a finite mean and variance in every channel; got others in channel {channel}")


def refuse_not_finite(*arrays):
    channel = first_not_finite(*arrays)
    if channel is not None:
        raise_not_finite(channel)


cdef object moved(Running running, cnp.ndarray mean, cnp.ndarray m2, object count, object momentum,
                  cnp.ndarray counter, bint zero_debias):
    """Copies of the running statistics after the batch: they may be infinite where its own are not."""
    cdef Running after = Running(running.mean.copy(), running.var.copy(), running.mean, cnp.PyArray_DIM(mean, 0))
    if count:
        commit(after, mean, m2, count, True, momentum, None if counter is None else counter.copy(), zero_debias)
    return after.mean, after.var


def forward(object x_given, object weight, object bias, object eps, object axis, object out, object num_threads,
            object running_mean=None, object running_var=None, object momentum=0.1, object counter=None,
            object lock=None, object channels=None, object activation=None, object negative_slope=0.01,
            object residual=None, object mask=None, object sample_weight=None, bint zero_var=False,
            object nonfinite="propagate", bint zero_debias=False):
    """Training forward; updates the running statistics and the int64 counter where given, under the lock if any.

    Returns y, mean, m2, inv_std, count and x as C saw it. momentum None and zero_debias need a counter; `channels` is
    what x must have; `zero_var` allows a single value per channel.
    """
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x"), x = x_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef double c_eps = check_eps(eps)
    cdef cnp.ndarray w, b, y, mean, m2, inv_std
    cdef Parameters parameters
    cdef Running running = None
    cdef Options options
    cdef cbn_dtype dtype, param_dtype
    x = lay_out(x, ax, &t)
    check_channels(t.channels, channels, axis)
    parameters = Parameters(x, t.channels)
    w, b = parameters.given(weight, "weight"), parameters.given(bias, "bias")
    dtype, param_dtype = <cbn_dtype>dtype_of(x), parameters.dtype
    check_both(running_mean, running_var)
    if running_mean is not None:
        running = Running(running_mean, running_var, x, t.channels)
        if momentum is not None:
            check_momentum(momentum)
        if counter is not None or momentum is None:
            counter = check_counter(counter)
    options = options_of(activation, negative_slope, residual, mask, sample_weight, x, &t, ax)
    count = count_of(options, &t)
    if t.channels:
        check_count(count, options, x, zero_var, running is not None)
    y = output(out, x, ax, &t)
    if out is not None:
        check_output_apart(y, x_array, residual, ax, &t)
        check_parameters_apart(y, w, b, None if running is None else running.mean,
                               None if running is None else running.var)
    mean, m2, inv_std = new_doubles(t.channels), new_doubles(t.channels), new_doubles(t.channels)
    cdef const cbn_options *c_options = pointer(options)
    if nonfinite == "raise" and out is not None:  # before out is written
        with nogil:
            status = cbn_moments(<double *>data(mean), <double *>data(m2), data(x), c_options, dtype, t.outer,
                                 t.channels, t.inner, n_threads)
        succeed(status)
        refuse_not_finite(mean, m2)
        if running is not None:
            refuse_not_finite(*moved(running, mean, m2, count, momentum, counter, zero_debias))
    with nogil:
        status = cbn_forward(data(y), <double *>data(mean), <double *>data(m2), <double *>data(inv_std), data(x),
                             data(w), data(b), c_eps, c_options, dtype, param_dtype, t.outer, t.channels, t.inner,
                             n_threads)
    succeed(status)
    bad = None
    if nonfinite != "propagate":
        after = () if running is None else moved(running, mean, m2, count, momentum, counter, zero_debias)
        bad = first_not_finite(mean, m2, *after)
        if bad is not None and nonfinite == "raise":
            raise_not_finite(bad)
    if running is not None and count and bad is None:
        if lock is None:
            commit(running, mean, m2, count, True, momentum, counter, zero_debias)
        else:
            with lock:
                commit(running, mean, m2, count, True, momentum, counter, zero_debias)
    return (y if out is None else out), mean, m2, inv_std, count, x


def inference(object x_given, object running_mean, object running_var, object weight, object bias, object eps,
              object axis, object out, object num_threads, object channels=None, object activation=None,
              object negative_slope=0.01, object residual=None, object mask=None, object sample_weight=None):
    """y with the given statistics. A mask or weights change nothing, and are only checked."""
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x", True), x = x_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef double c_eps = check_eps(eps)
    cdef cnp.ndarray w, b, y, r_mean, r_var
    cdef Parameters parameters, statistics
    cdef Options options
    cdef cbn_dtype dtype, param_dtype, stat_dtype
    if running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{missing} must be given for inference; got None")
    x = lay_out(x, ax, &t)
    check_channels(t.channels, channels, axis)
    parameters, statistics = Parameters(x, t.channels), Parameters(x, t.channels)
    w, b = parameters.given(weight, "weight"), parameters.given(bias, "bias")
    r_mean = statistics.given(running_mean, "running_mean")
    r_var = statistics.given(running_var, "running_var")
    check_not_negative(r_var, "running_var")
    dtype, param_dtype, stat_dtype = <cbn_dtype>dtype_of(x), parameters.dtype, statistics.dtype
    options = options_of(activation, negative_slope, residual, mask, sample_weight, x, &t, ax, False)
    y = output(out, x, ax, &t)
    if out is not None:
        check_output_apart(y, x_array, residual, ax, &t)
        check_parameters_apart(y, w, b, r_mean, r_var)
    cdef const cbn_options *c_options = pointer(options)
    with nogil:
        status = cbn_inference(data(y), data(x), data(w), data(b), data(r_mean), data(r_var), c_eps, c_options, dtype,
                               param_dtype, stat_dtype, t.outer, t.channels, t.inner, n_threads)
    succeed(status)
    return y if out is None else out


include "_backward.pxi"


def moments(object x_given, object axis, object num_threads, object mask=None, object sample_weight=None):
    """count, mean, m2."""
    cdef Triple t
    cdef cnp.ndarray x = as_array(x_given, "x"), mean, m2
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef Options options
    cdef cbn_dtype dtype
    x = lay_out(x, ax, &t)
    dtype = <cbn_dtype>dtype_of(x)
    options = options_of(None, 0.01, None, mask, sample_weight, x, &t, ax)
    mean, m2 = new_doubles(t.channels), new_doubles(t.channels)
    cdef const cbn_options *c_options = pointer(options)
    with nogil:
        status = cbn_moments(<double *>data(mean), <double *>data(m2), data(x), c_options, dtype, t.outer, t.channels,
                             t.inner, n_threads)
    succeed(status)
    return count_of(options, &t), mean, m2


def update_running(object running_mean, object running_var, object mean, object m2, object count, object momentum,
                   bint unbiased):
    """running = (1 - momentum) * running + momentum * new, in place."""
    cdef cnp.ndarray r_mean, c_mean, c_m2
    cdef Py_ssize_t channels
    cdef Running running
    check_momentum(momentum)
    r_mean = as_array(running_mean, "running_mean")
    if cnp.PyArray_NDIM(r_mean) != 1:
        raise ValueError(f"running_mean must have rank 1; got shape {np.shape(r_mean)}")
    channels = cnp.PyArray_DIM(r_mean, 0)
    running = Running(running_mean, running_var, r_mean, channels)
    # copies: the moments may be views of the very arrays that are written
    c_mean = per_channel_double(mean, "moments.mean", channels).copy()
    c_m2 = per_channel_double(m2, "moments.m2", channels).copy()
    if count < 0:
        raise ValueError(f"moments.count must be >= 0; got {count}")
    if unbiased and 0 < count <= 1:
        raise ValueError(f"moments.count must be more than 1 for an unbiased variance; got {count}")
    if count:
        commit(running, c_mean, c_m2, count, unbiased, momentum)


include "_images.pxi"
include "_layer.pxi"


# --- the runtime ---

def set_threads_by_default(function):
    """function() -> int is asked by every call that does not name a number of threads."""
    global _threads_by_default
    _threads_by_default = function


def available_isas():
    names, i = [], 0
    while cbn_available_isa(i) != NULL:
        names.append((<bytes>cbn_available_isa(i)).decode())
        i += 1
    return tuple(names)


def isa():
    return (<bytes>cbn_isa()).decode()


def select_isa(str name):
    """Whether the kernels of that name exist here; they are in use from now on."""
    return cbn_select_isa(name.encode()) == 0


def openmp():
    """The OpenMP version compiled for (0: none), the most threads it allows now, the CPUs this thread may run on."""
    return cbn_openmp_version(), cbn_openmp_max_threads(), cbn_openmp_num_procs()
