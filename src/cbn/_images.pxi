# _images.pxi: the checks of images, and what they become for C; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


cdef cnp.ndarray as_images(object value):
    """value as an array of uint8, copied only if it is not one."""
    cdef cnp.ndarray array = unmasked(value, "images")
    if cnp.PyArray_TYPE(array) != cnp.NPY_UBYTE:
        is_number = array.dtype.kind in "biuf"
        hint = ": if its values are 0 to 255, cast it with images.astype(np.uint8)" if is_number else ""
        raise TypeError(f"images must be uint8; got {dtype_name(array)}{hint}")
    return array


cdef cnp.ndarray image_numbers(object value, str name, Py_ssize_t channels):
    """mean or std as doubles: finite numbers, one per channel."""
    cdef cnp.ndarray array = real(value, name)
    check_per_channel(array, name, channels)
    array = widened(array)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite in every channel; got {array}")
    return array


cdef cnp.ndarray image_std(object std, Py_ssize_t channels):
    cdef cnp.ndarray array = image_numbers(std, "std", channels)
    if not (array > 0).all():
        raise ValueError(f"std must be > 0 in every channel; got {array}")
    return array


@default_rounding
def image_line(mean, std, layer_line):
    """mean, scale and shift as C takes them.

    With a layer's mean m, scale s and shift b: ((x / 255 - mean) / std - m) * s + b, where all that is subtracted from
    x is one number, so that x near to it costs no digits.
    """
    m, s, b = (0.0, 1.0, 0.0) if layer_line is None else layer_line
    with np.errstate(all="ignore"):  # as in C
        return 255 * (mean + std * m), s / (255 * std), b + 0 * std


cdef cnp.ndarray lay_out_planes(cnp.ndarray images, int axis, Triple *triple, bint *to_planes):
    """images, or a copy of them, with their channels last or third from last in memory; fills the triple of y."""
    cdef cnp.ndarray pixels = np.moveaxis(images, axis, -1), planes = np.moveaxis(images, axis, -3)
    cdef int ndim = cnp.PyArray_NDIM(images)
    triple.channels_last = False
    triple.outer, triple.channels = np.prod(np.shape(planes)[:-3], dtype=np.intp), cnp.PyArray_DIM(images, axis)
    triple.inner = cnp.PyArray_DIM(planes, ndim - 2) * cnp.PyArray_DIM(planes, ndim - 1)
    # what neither order fits is copied in the order that it comes closest to
    to_planes[0] = not cnp.PyArray_IS_C_CONTIGUOUS(planes) and (
        axis == ndim - 1 or cnp.PyArray_IS_C_CONTIGUOUS(pixels))
    return contiguous(pixels if to_planes[0] else planes)


def normalize_images(object images_given, object mean, object std, object axis, bint channels_first, object out,
                     object num_threads, object layer_channels=None, object layer_line=None, object activation=None,
                     object negative_slope=0.01):
    """y; layer_line is a layer's mean, scale and shift, in float64."""
    cdef Triple t
    cdef bint to_planes = False
    cdef cnp.ndarray given = as_images(images_given), x, y, m, s, b
    cdef int ax = channel_axis(axis, given, "images", 3)
    cdef Py_ssize_t channels = cnp.PyArray_DIM(given, ax)
    cdef int n_threads = threads(num_threads, given)
    cdef Options options = None
    if layer_channels is not None and layer_channels != channels:
        raise ValueError(f"layer must have {channels} channels, as images have; got {layer_channels}")
    m, s, b = image_line(image_numbers(mean, "mean", channels), image_std(std, channels), layer_line)
    if activation is not None:
        options = Options(activation, negative_slope)
    if channels_first:
        x = lay_out_planes(given, ax, &t, &to_planes)
        y = output(out, np.moveaxis(given, ax, -3), cnp.PyArray_NDIM(given) - 3, &t, "out", "y")
    else:
        x = lay_out(given, ax, &t)
        y = output(out, x, ax, &t, "out", "y")
    if out is not None:
        check_apart(y, given, "images")
    cdef const cbn_options *c_options = pointer(options)
    with nogil:
        cbn_normalize_images(<float *>data(y), <const uint8_t *>data(x), <double *>data(m), <double *>data(s),
                             <double *>data(b), to_planes, c_options, t.outer, t.channels, t.inner, n_threads)
    return y if out is None else out
