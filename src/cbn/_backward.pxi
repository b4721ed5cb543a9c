# _backward.pxi: the backward pass; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


cdef tuple pair(object out, bint residual):
    """out for dx and for dresidual."""
    if not residual:
        return out, None
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out must be a pair of arrays, for dx and dresidual; got {type(out).__name__}")
    return out


cdef cnp.ndarray residual_output(object out, cnp.ndarray dx, Options options, cnp.ndarray x, cnp.ndarray dy,
                                 tuple others, int axis, Triple *t):
    """The array for dresidual, which is written before dx has been computed from what it overlaps."""
    cdef cnp.ndarray array = output(out, x, axis, t, "out[1]")
    if out is not None:
        for name, other in (("dx", dx), ("x", x), ("dy", dy), ("y", options.y), *others):
            if isinstance(other, np.ndarray) and may_overlap(array, other):
                raise ValueError(f"out[1] must share no memory with {name}; got an overlap")
    options.dresidual = array
    options.c.dresidual = cnp.PyArray_DATA(array)
    return array


def backward(object dy_given, object x_given, object mean, object inv_std, object weight, object axis, bint training,
             object out, object num_threads, object activation=None, object negative_slope=0.01, object y=None,
             bint residual=False, object mask=None, object sample_weight=None):
    """dx, dweight, dbias, and dresidual if `residual`."""
    cdef Triple t
    cdef cnp.ndarray x_array = as_array(x_given, "x"), x = x_array
    cdef cnp.ndarray dy_array = as_array(dy_given, "dy"), dy = dy_array
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef cnp.ndarray m, s, w, dx, dweight, dbias, dresidual = None
    cdef Parameters parameters
    cdef Copies copies
    cdef Options options
    cdef cnp.npy_intp channels
    cdef cbn_dtype dtype, param_dtype
    x = lay_out(x, ax, &t)
    dy = same_kind(dy, "dy", x, &t, ax)
    parameters = Parameters(x, t.channels)
    w = parameters.given(weight, "weight")
    m, s = per_channel_double(mean, "mean", t.channels), per_channel_double(inv_std, "inv_std", t.channels)
    dtype, param_dtype = <cbn_dtype>dtype_of(x), parameters.dtype
    options = options_of(activation, negative_slope, None, mask, sample_weight, x, &t, ax)
    if activation is not None:
        options.set_y(y, x, &t, ax)
    if options is None and residual:
        options = Options(None, negative_slope)
    dx_out, dresidual_out = pair(out, residual)
    dx = output(dx_out, x, ax, &t)
    if dx_out is not None:
        check_same_or_apart(dx, x_array, "x", ax, &t)
        check_same_or_apart(dx, dy_array, "dy", ax, &t)
        check_apart(dx, w, "weight")
        check_apart(dx, m, "mean")
        check_apart(dx, s, "inv_std")
        check_positions_apart(dx, mask, sample_weight)
        if options is not None and options.y is not None:
            check_same_or_apart(dx, as_array(y, "y"), "y", ax, &t)
    if residual:
        others = ("weight", w), ("mean", m), ("inv_std", s), ("mask", mask), ("sample_weight", sample_weight)
        dresidual = residual_output(dresidual_out, dx, options, x, dy, others, ax, &t)
    channels = t.channels
    dweight = cnp.PyArray_EMPTY(1, &channels, parameters.type_num, 0)
    dbias = cnp.PyArray_EMPTY(1, &channels, parameters.type_num, 0)
    cdef const cbn_options *c_options = pointer(options)
    copy_parameters(&copies, w, None, None, None)
    with nogil:
        status = cbn_backward(data(dx), data(dweight), data(dbias), data(dy), data(x), copies.weight, <double *>data(m),
                              <double *>data(s), training, c_options, dtype, param_dtype, t.outer, t.channels,
                              t.inner, n_threads)
    PyMem_Free(copies.memory)
    succeed(status)
    dx_result = dx if dx_out is None else dx_out
    if not residual:
        return dx_result, dweight, dbias
    return dx_result, dweight, dbias, (dresidual if dresidual_out is None else dresidual_out)
