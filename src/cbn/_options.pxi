# _options.pxi: activation, residual, mask and sample weights: checked, and as C wants them; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


cpdef double check_negative_slope(object value) except? -1:
    cdef double slope = number(value, "negative_slope", "be a number from 0 to 3.4e38")
    # else the sign of y would not tell on which side it is; and float32 must hold it
    if not 0 <= slope <= 3.4e38:
        raise ValueError(f"negative_slope must be a number from 0 to 3.4e38; got {value}")
    return slope


cpdef cbn_activation check_activation(object activation) except *:
    if activation is None:
        return CBN_IDENTITY
    if isinstance(activation, str) and activation == "relu":
        return CBN_RELU
    if isinstance(activation, str) and activation == "leaky_relu":
        return CBN_LEAKY_RELU
    raise ValueError(f"activation must be None, 'relu' or 'leaky_relu'; got {activation!r}")


cpdef object positions_of(cnp.ndarray x, int axis):
    """x's shape less the channel axis."""
    shape = np.shape(x)
    return shape[:axis] + shape[axis + 1:]


cdef object broadcast(object value, object shape, str name, object given):
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(f"{name} must have shape {shape}, that of x less its channel axis, or broadcast to it; "
                         f"got {given}") from None


cdef object checked_mask(object mask, object shape):
    mask = unmasked(mask, "mask")
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be bool, True where a position counts; got {mask.dtype}")
    return broadcast(mask, shape, "mask", mask.shape)


cpdef object checked_sample_weight(object sample_weight, object shape):
    value = widened(real(sample_weight, "sample_weight"))
    fits = (value == 0) | ((value >= 1e-100) & (value <= 1e100))  # so that no sum over- or underflows
    if not fits.all():
        raise ValueError(f"sample_weight must be 0 or lie between 1e-100 and 1e100; got {value[~fits].flat[0]}")
    given = value.shape
    if value.ndim == 1 and shape:  # one per sample, where broadcasting would take the last axis
        if value.size != shape[0]:
            positions = f", or {shape}" if len(shape) > 1 else ""
            raise ValueError(f"sample_weight must have shape {shape[:1]}, one per sample{positions}; got {given}")
        value = value.reshape(-1, *[1] * (len(shape) - 1))
    return broadcast(value, shape, "sample_weight", given)


cdef int check_positions_apart(cnp.ndarray out, object mask, object sample_weight) except -1:
    """That writing out changes no weight, in this call or in a later backward."""
    if mask is not None and isinstance(mask, np.ndarray):
        check_apart(out, mask, "mask")
    if sample_weight is not None and isinstance(sample_weight, np.ndarray):
        check_apart(out, sample_weight, "sample_weight")
    return 0


cdef tuple checked_positions(object mask, object sample_weight, object shape):
    return (None if mask is None else checked_mask(mask, shape),
            None if sample_weight is None else checked_sample_weight(sample_weight, shape))


cdef class Options:
    """What a call does beyond plain batch normalization, as C takes it, and the arrays that C points into."""
    cdef cbn_options c
    cdef cnp.ndarray residual, y, dresidual, weights
    cdef bint weighted  # by sample_weight, so that the count may be no integer

    def __cinit__(self, object activation, object negative_slope):
        self.c.activation = check_activation(activation)
        self.c.negative_slope = check_negative_slope(negative_slope)
        self.c.residual = self.c.y = self.c.weights = NULL
        self.c.dresidual = NULL

    cdef int set_residual(self, object residual, cnp.ndarray x, Triple *triple, int axis) except -1:
        self.residual = same_kind(as_array(residual, "residual"), "residual", x, triple, axis)
        self.c.residual = cnp.PyArray_DATA(self.residual)
        return 0

    cdef int set_y(self, object y, cnp.ndarray x, Triple *triple, int axis) except -1:
        if y is None:
            raise ValueError("y must be what the forward call returned, for an activation; got None")
        self.y = same_kind(as_array(y, "y"), "y", x, triple, axis)
        self.c.y = cnp.PyArray_DATA(self.y)
        return 0

    cdef int set_weights(self, object mask, object sample_weight, cnp.ndarray x, int axis) except -1:
        """1 or the sample's weight, and -1 where masked."""
        shape = positions_of(x, axis)
        self.weighted = sample_weight is not None
        weights = checked_sample_weight(sample_weight, shape) if self.weighted else 1.0
        if mask is not None:
            weights = np.where(checked_mask(mask, shape), weights, -1.0)
        self.weights = np.ascontiguousarray(weights, dtype=np.float64)
        self.c.weights = <const double *>cnp.PyArray_DATA(self.weights)
        return 0


cdef cnp.ndarray same_kind(cnp.ndarray value, str name, cnp.ndarray x, Triple *triple, int axis):
    """value in x's layout, once it has x's shape and dtype (float32 for images)."""
    cdef int type_num = cnp.NPY_FLOAT if cnp.PyArray_TYPE(x) == cnp.NPY_UBYTE else cnp.PyArray_TYPE(x)
    if not same_shape(value, x):
        raise ValueError(f"{name} must have shape {np.shape(x)}, as x has; got {np.shape(value)}")
    if cnp.PyArray_TYPE(value) != type_num:
        wanted = "float32 for images" if type_num != cnp.PyArray_TYPE(x) else f"{dtype_name(x)}, as x has"
        raise TypeError(f"{name} must have dtype {wanted}; got {dtype_name(value)}")
    return like(value, x, triple, axis)


cdef Options options_of(object activation, object negative_slope, object residual, object mask, object sample_weight,
                        cnp.ndarray x, Triple *triple, int axis, bint weighs=True):
    """None where there is nothing but a plain call. Mask and weights are only checked, unless it `weighs`."""
    cdef Options options
    if activation is None and residual is None and mask is None and sample_weight is None:
        return None
    options = Options(activation, negative_slope)
    if residual is not None:
        options.set_residual(residual, x, triple, axis)
    if not weighs:
        checked_positions(mask, sample_weight, positions_of(x, axis))
    elif mask is not None or sample_weight is not None:
        options.set_weights(mask, sample_weight, x, axis)
    return options


cdef object count_of(Options options, Triple *triple):
    """Values per channel: an int, or a float with sample weights."""
    cdef Py_ssize_t positions = triple.outer * triple.inner
    if options is None or options.c.weights == NULL:
        return positions
    count = cbn_count(options.c.weights, positions)
    return count if options.weighted else int(count)
