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
from libc.math cimport isfinite


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1


cnp.import_array()

include "_checks.pxi"


# --- the operations ---

cdef int check_parameters_apart(cnp.ndarray y, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray running_mean,
                                cnp.ndarray running_var) except -1:
    check_apart(y, weight, "weight")
    check_apart(y, bias, "bias")
    check_apart(y, running_mean, "running_mean")
    check_apart(y, running_var, "running_var")
    return 0



cdef commit(cnp.ndarray running_mean, cnp.ndarray running_var, cnp.ndarray mean, cnp.ndarray m2, int64_t count,
            object momentum, bint unbiased, cbn_dtype dtype, cnp.ndarray counter):
    cdef double factor
    cdef int64_t *tracked = <int64_t *>data(counter)
    factor = 1.0 / (tracked[0] + 1) if momentum is None else momentum
    cbn_update_running(data(running_mean), data(running_var), <double *>data(mean), <double *>data(m2), factor, count,
                       unbiased, dtype, cnp.PyArray_DIM(mean, 0))
    if tracked != NULL:
        tracked[0] += 1


def forward(object x_given, object weight, object bias, object eps, object axis, object out, object num_threads,
            object running_mean=None, object running_var=None, object momentum=0.1, object counter=None,
            object lock=None, object channels=None):
    """Training forward; updates the running statistics and the int64 counter where given, under the lock if any.

    Returns y, mean, m2, inv_std, count and x as C saw it. momentum None needs a counter; `channels` is what x must have.
    """
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x"), x = x_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef double c_eps = check_eps(eps)
    cdef cnp.ndarray w, b, y, mean, m2, inv_std, r_mean = None, r_var = None
    cdef Parameters parameters
    x = lay_out(x, ax, &t)
    check_channels(t.channels, channels, axis)
    parameters = Parameters(x, t.channels)
    w, b = parameters.given(weight, "weight"), parameters.given(bias, "bias")
    check_both(running_mean, running_var)
    if running_mean is not None:
        r_mean, r_var = parameters.running(running_mean, running_var)
        if momentum is not None:
            check_momentum(momentum)
        if counter is not None or momentum is None:
            counter = check_counter(counter)
    if t.outer * t.inner == 1 and t.channels:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {np.shape(x)}")
    y = output(out, x, ax, &t)
    if out is not None:
        check_same_or_apart(y, x_array, "x", ax, &t)
        check_parameters_apart(y, w, b, r_mean, r_var)
    mean, m2, inv_std = new_doubles(t.channels), new_doubles(t.channels), new_doubles(t.channels)
    with nogil:
        status = cbn_forward(data(y), <double *>data(mean), <double *>data(m2), <double *>data(inv_std), data(x),
                             data(w), data(b), c_eps, c_dtype(cnp.PyArray_TYPE(x)), c_dtype(parameters.type_num), t.outer,
                             t.channels, t.inner, n_threads)
    succeed(status)
    count = t.outer * t.inner
    if r_mean is not None and count:
        if lock is None:
            commit(r_mean, r_var, mean, m2, count, momentum, True, c_dtype(parameters.type_num), counter)
        else:
            with lock:
                commit(r_mean, r_var, mean, m2, count, momentum, True, c_dtype(parameters.type_num), counter)
    return (y if out is None else out), mean, m2, inv_std, count, x


def inference(object x_given, object running_mean, object running_var, object weight, object bias, object eps,
              object axis, object out, object num_threads, object channels=None):
    """y with the given statistics."""
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x"), x = x_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef double c_eps = check_eps(eps)
    cdef cnp.ndarray w, b, y, r_mean, r_var
    cdef Parameters parameters
    if running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{missing} must be given for inference; got None")
    x = lay_out(x, ax, &t)
    check_channels(t.channels, channels, axis)
    parameters = Parameters(x, t.channels)
    w, b = parameters.given(weight, "weight"), parameters.given(bias, "bias")
    r_mean = parameters.given(running_mean, "running_mean")
    r_var = parameters.given(running_var, "running_var")
    check_not_negative(r_var, "running_var")
    y = output(out, x, ax, &t)
    if out is not None:
        check_same_or_apart(y, x_array, "x", ax, &t)
        check_parameters_apart(y, w, b, r_mean, r_var)
    with nogil:
        status = cbn_inference(data(y), data(x), data(w), data(b), data(r_mean), data(r_var), c_eps,
                               c_dtype(cnp.PyArray_TYPE(x)), c_dtype(parameters.type_num), t.outer, t.channels, t.inner,
                               n_threads)
    succeed(status)
    return y if out is None else out


def backward(object dy_given, object x_given, object mean, object inv_std, object weight, object axis, bint training,
             object out, object num_threads):
    """dx, dweight, dbias."""
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x"), x = x_array
    cdef cnp.ndarray dy_array = as_array(dy_given, "dy"), dy = dy_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef cnp.ndarray m, s, w, dx, dweight, dbias
    cdef Parameters parameters
    cdef cnp.npy_intp channels
    if not same_shape(dy, x):
        raise ValueError(f"dy must have shape {np.shape(x)}, as x has; got {np.shape(dy)}")
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy must have dtype {dtype_name(x)}, as x has; got {dtype_name(dy)}")
    x = lay_out(x, ax, &t)
    dy = like(dy, x, &t, ax)
    parameters = Parameters(x, t.channels)
    w = parameters.given(weight, "weight")
    m, s = per_channel_double(mean, "mean", t.channels), per_channel_double(inv_std, "inv_std", t.channels)
    dx = output(out, x, ax, &t)
    if out is not None:
        check_same_or_apart(dx, x_array, "x", ax, &t)
        check_same_or_apart(dx, dy_array, "dy", ax, &t)
        check_apart(dx, w, "weight")
        check_apart(dx, m, "mean")
        check_apart(dx, s, "inv_std")
    channels = t.channels
    dweight = cnp.PyArray_EMPTY(1, &channels, parameters.type_num, 0)
    dbias = cnp.PyArray_EMPTY(1, &channels, parameters.type_num, 0)
    with nogil:
        status = cbn_backward(data(dx), data(dweight), data(dbias), data(dy), data(x), data(w), <double *>data(m),
                              <double *>data(s), training, c_dtype(cnp.PyArray_TYPE(x)), c_dtype(parameters.type_num), t.outer,
                              t.channels, t.inner, n_threads)
    succeed(status)
    return (dx if out is None else out), dweight, dbias


def moments(object x_given, object axis, object num_threads):
    """count, mean, m2."""
    cdef Triple t
    cdef cnp.ndarray x = as_array(x_given, "x"), mean, m2
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    x = lay_out(x, ax, &t)
    mean, m2 = new_doubles(t.channels), new_doubles(t.channels)
    with nogil:
        status = cbn_moments(<double *>data(mean), <double *>data(m2), data(x), c_dtype(cnp.PyArray_TYPE(x)), t.outer,
                             t.channels, t.inner, n_threads)
    succeed(status)
    return t.outer * t.inner, mean, m2


def update_running(object running_mean, object running_var, object mean, object m2, int64_t count, object momentum,
                   bint unbiased):
    """running = (1 - momentum) * running + momentum * new, in place."""
    cdef cnp.ndarray r_mean, r_var, c_mean, c_m2
    cdef Parameters parameters
    check_momentum(momentum)
    r_mean = as_array(running_mean, "running_mean")
    if cnp.PyArray_NDIM(r_mean) != 1:
        raise ValueError(f"running_mean must have rank 1; got shape {np.shape(r_mean)}")
    parameters = Parameters(r_mean, cnp.PyArray_DIM(r_mean, 0))
    r_mean, r_var = parameters.running(running_mean, running_var)
    # copies: the moments may be views of the very arrays that are written
    c_mean = per_channel_double(mean, "moments.mean", parameters.channels).copy()
    c_m2 = per_channel_double(m2, "moments.m2", parameters.channels).copy()
    if count < 0:
        raise ValueError(f"moments.count must be >= 0; got {count}")
    if unbiased and count == 1:
        raise ValueError("moments.count must be more than 1 for an unbiased variance; got 1")
    commit(r_mean, r_var, c_mean, c_m2, count, momentum, unbiased, c_dtype(parameters.type_num), None)


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
