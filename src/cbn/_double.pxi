# _double.pxi: the gradients of gradients; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


def double_backward(object ddx_given, object ddweight, object ddbias, object dy_given, object x_given, object mean,
                    object inv_std, object weight, object axis, bint training, object num_threads):
    """ddy, dx, dweight."""
    cdef Triple t
    cdef cnp.ndarray x = as_array(x_given, "x"), ddx = as_array(ddx_given, "ddx"), dy = as_array(dy_given, "dy")
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef cnp.ndarray m, s, w, of_weight, of_bias, ddy, dx, dweight
    cdef Parameters parameters
    cdef cnp.npy_intp channels
    cdef cbn_dtype dtype, param_dtype
    x = lay_out(x, ax, &t)
    ddx, dy = same_kind(ddx, "ddx", x, &t, ax), same_kind(dy, "dy", x, &t, ax)
    parameters = Parameters(x, t.channels)
    w = parameters.given(weight, "weight")
    of_weight, of_bias = parameters.given(ddweight, "ddweight"), parameters.given(ddbias, "ddbias")
    m, s = per_channel_double(mean, "mean", t.channels), per_channel_double(inv_std, "inv_std", t.channels)
    dtype, param_dtype = <cbn_dtype>dtype_of(x), parameters.dtype
    ddy, dx = output(None, x, ax, &t), output(None, x, ax, &t)
    channels = t.channels
    dweight = cnp.PyArray_EMPTY(1, &channels, parameters.type_num, 0)
    with nogil:
        status = cbn_double_backward(data(ddy), data(dx), data(dweight), data(ddx), data(of_weight), data(of_bias),
                                     data(dy), data(x), data(w), <double *>data(m), <double *>data(s), training,
                                     dtype, param_dtype, t.outer, t.channels, t.inner, n_threads)
    succeed(status)
    return ddy, dx, dweight
