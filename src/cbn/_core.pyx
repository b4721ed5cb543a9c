# _core: arrays in, checks, one C call without the GIL, arrays out.
# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, binding=False
"""Wrappers of the C interface.

Design:
a) This is the one place of checks. What passes them is safe for C, which trusts its arguments; functional.py and
   layer.py do not check again. Every check comes before anything is written.
b) NumPy's C API, no typed memoryviews: these cost more per call, and accept masked and misaligned arrays.
c) An array becomes the triple (outer, channels, inner) once, in `lay_out`. C never sees axes.
d) The running statistics are committed last, in one piece that no signal can split, by `commit`.
e) What several threads may write and read at once, parameters and statistics, is written under `lock` and with the
   GIL, and read either way.
"""
import functools
import numbers
import os
import sys
import threading

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport NAN, expm1, isfinite, log1p
from libc.string cimport memcpy


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1


cnp.import_array()

include "_capsules.pxi"
include "_rounding.pxi"
include "_checks.pxi"
include "_parameters.pxi"
include "_numbers.pxi"
include "_options.pxi"
include "_running.pxi"
include "_double.pxi"


# --- the operations ---

cdef const cbn_options *pointer(Options options) noexcept:
    return NULL if options is None else &options.c


cdef int check_output_apart(cnp.ndarray y, cnp.ndarray x_given, object residual, object mask, object sample_weight,
                            int axis, Triple *t) except -1:
    check_same_or_apart(y, x_given, "x", axis, t)
    if residual is not None:
        check_same_or_apart(y, as_array(residual, "residual"), "residual", axis, t)
    return check_positions_apart(y, mask, sample_weight)


cdef int check_parameters_apart(cnp.ndarray y, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray running_mean,
                                cnp.ndarray running_var) except -1:
    check_apart(y, weight, "weight")
    check_apart(y, bias, "bias")
    check_apart(y, running_mean, "running_mean")
    check_apart(y, running_var, "running_var")
    return 0


def forward(object x_given, object weight, object bias, object eps, object axis, object out, object num_threads,
            object running_mean=None, object running_var=None, object momentum=0.1, object counter=None,
            bint later=False, object channels=None, object activation=None, object negative_slope=0.01,
            object residual=None, object mask=None, object sample_weight=None, bint zero_var=False,
            object nonfinite="propagate", bint zero_debias=False, str variance="unbiased", object history=None):
    """Training forward; updates the running statistics, counter and history where given.

    Returns y, mean, m2, inv_std, count, x as C saw it, and None or, if `later`, the `Update` that is still to be
    committed. momentum None and zero_debias need a counter; `channels` is what x must have; `zero_var` allows a single
    value per channel; `variance` is a `Convention`'s, and momentum the weight of the new value.
    """
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x"), x = x_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef double c_eps = check_eps(eps)
    cdef cnp.ndarray w, b, y, mean, m2, inv_std
    cdef Parameters parameters
    cdef Update update = None
    cdef Copies copies
    cdef Options options
    cdef cbn_dtype dtype, param_dtype
    x = lay_out(x, ax, &t)
    check_channels(t.channels, channels, axis)
    parameters = Parameters(x, t.channels)
    w, b = parameters.given(weight, "weight"), parameters.given(bias, "bias")
    dtype, param_dtype = <cbn_dtype>dtype_of(x), parameters.dtype
    check_both(running_mean, running_var)
    if running_mean is not None:
        update = checked_update(running_mean, running_var, x, t.channels, momentum, counter, zero_debias, variance,
                                history)
    options = options_of(activation, negative_slope, residual, mask, sample_weight, x, &t, ax)
    count = count_of(options, &t)
    if t.channels:
        check_count(count, options, x, zero_var, update is not None and variance == "unbiased")
    y = output(out, x, ax, &t)
    if out is not None:
        check_output_apart(y, x_array, residual, mask, sample_weight, ax, &t)
        check_parameters_apart(y, w, b, None if update is None else update.running.mean,
                               None if update is None else update.running.var)
    if update is not None:
        check_running_apart(update.running, x, w, b)
    mean, m2, inv_std = new_doubles(t.channels), new_doubles(t.channels), new_doubles(t.channels)
    cdef const cbn_options *c_options = pointer(options)
    if nonfinite == "raise" and out is not None:  # before out is written
        with nogil:
            status = cbn_moments(<double *>data(mean), <double *>data(m2), data(x), c_options, dtype, t.outer,
                                 t.channels, t.inner, n_threads)
        succeed(status)
        refuse_channel(bad_channel(update, mean, m2, count))
    copy_parameters(&copies, w, b, None, None)
    with nogil:
        status = cbn_forward(data(y), <double *>data(mean), <double *>data(m2), <double *>data(inv_std), data(x),
                             copies.weight, copies.bias, c_eps, c_options, dtype, param_dtype, t.outer, t.channels,
                             t.inner, n_threads)
    PyMem_Free(copies.memory)
    succeed(status)
    bad = None if nonfinite == "propagate" else bad_channel(update, mean, m2, count)
    if nonfinite == "raise":
        refuse_channel(bad)
    if not count or bad is not None:
        update = None
    if update is not None:
        update.mean, update.m2, update.count = mean, m2, count
    result = (y if out is None else out), mean, m2, inv_std, count, x, (update if later else None)
    if update is not None and not later:
        with lock:
            update.commit()  # last: what comes after it could fail
    return result


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
    cdef Copies copies
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
        check_output_apart(y, x_array, residual, mask, sample_weight, ax, &t)
        check_parameters_apart(y, w, b, r_mean, r_var)
    cdef const cbn_options *c_options = pointer(options)
    copy_parameters(&copies, w, b, r_mean, r_var)
    with nogil:
        status = cbn_inference(data(y), data(x), copies.weight, copies.bias, copies.mean, copies.var, c_eps, c_options,
                               dtype, param_dtype, stat_dtype, t.outer, t.channels, t.inner, n_threads)
    PyMem_Free(copies.memory)
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


include "_images.pxi"
include "_layer.pxi"
include "_parts.pxi"
include "_memory.pxi"


# --- the runtime ---

def set_threads_by_default(function):
    """function() -> int is asked by every call that does not name a number of threads."""
    global _threads_by_default
    _threads_by_default = function


def version():
    """The version of the C library, and the number of its binary interface."""
    return (<bytes>cbn_version()).decode(), cbn_abi_version()


if version()[0] != (<bytes>CBN_VERSION).decode():
    raise ImportError(f"the C library must be that of cbn {(<bytes>CBN_VERSION).decode()}; got {version()[0]}, "
                      "which another program or LD_LIBRARY_PATH has brought")


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
    """The OpenMP version compiled for (0: none), the most threads of a team now and ever, the CPUs of this thread."""
    return cbn_openmp_version(), cbn_openmp_max_threads(), cbn_openmp_thread_limit(), cbn_openmp_num_procs()
