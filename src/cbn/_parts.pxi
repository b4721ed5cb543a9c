# _parts.pxi: training on a part of a batch, in two steps each way, between which the parts' sums are added up; a part
# of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


def part_moments(object x_given, object axis, object num_threads, object mask=None, object sample_weight=None):
    """How many values per channel count at all, their count, and three rows: mean, what it was rounded by, and m2."""
    cdef Triple t
    cdef cnp.ndarray x = as_array(x_given, "x"), found
    cdef int ax = channel_axis(axis, x)
    cdef int n_threads = threads(num_threads, x), status
    cdef Options options
    cdef cbn_dtype dtype
    x = lay_out(x, ax, &t)
    dtype = <cbn_dtype>dtype_of(x)
    options = options_of(None, 0.01, None, mask, sample_weight, x, &t, ax)
    found = np.empty((3, t.channels))
    cdef double *rows = <double *>data(found)
    cdef const cbn_options *c_options = pointer(options)
    with nogil:
        status = cbn_part_moments(rows, rows + t.channels, rows + 2 * t.channels, data(x), c_options, dtype, t.outer,
                                  t.channels, t.inner, n_threads)
    succeed(status)
    count = count_of(options, &t)
    return counted(count, options), count, found


def check_parameters(cnp.ndarray x, Py_ssize_t channels, object weight, object bias):
    """That they go with x, as `forward` checks it."""
    cdef Parameters parameters = Parameters(x, channels)
    parameters.given(weight, "weight")
    parameters.given(bias, "bias")


cdef class Back:
    """What both steps back take: arrays of which the layouts agree, and what the forward call did besides."""
    cdef Triple t
    cdef cnp.ndarray x, dy, mean, inv_std
    cdef Options options
    cdef cbn_dtype dtype

    def __cinit__(self, object dy, object x, object mean, object inv_std, object axis, object activation,
                  object negative_slope, object y, object mask, object sample_weight):
        cdef int ax = channel_axis(axis, x)
        self.x = lay_out(as_array(x, "x"), ax, &self.t)
        self.dy = same_kind(as_array(dy, "dy"), "dy", self.x, &self.t, ax)
        self.mean = per_channel_double(mean, "mean", self.t.channels)
        self.inv_std = per_channel_double(inv_std, "inv_std", self.t.channels)
        self.dtype = <cbn_dtype>dtype_of(self.x)
        self.options = options_of(activation, negative_slope, None, mask, sample_weight, self.x, &self.t, ax)
        if activation is not None:
            self.options.set_y(y, self.x, &self.t, ax)


def backward_sums(object num_threads, *given):
    """Two rows, dweight and dbias of this part, and two that `backward_input` takes; `given` is for `Back`."""
    cdef Back back = Back(*given)
    cdef Triple t = back.t
    cdef cnp.ndarray found = np.empty((4, t.channels))
    cdef int n_threads = threads(num_threads, back.x), status
    cdef double *rows = <double *>data(found)
    cdef const cbn_options *c_options = pointer(back.options)
    with nogil:
        status = cbn_backward_sums(rows, rows + t.channels, rows + 2 * t.channels, data(back.dy), data(back.x),
                                   <double *>data(back.mean), <double *>data(back.inv_std), c_options, back.dtype,
                                   t.outer, t.channels, t.inner, n_threads)
    succeed(status)
    return found[:2], found[2:]


cdef double *two_rows(cnp.ndarray rows, Py_ssize_t channels) except NULL:
    if (cnp.PyArray_TYPE(rows) != cnp.NPY_DOUBLE or not cnp.PyArray_ISCARRAY_RO(rows)
            or np.shape(rows) != (2, channels)):
        raise ValueError(f"sums must be contiguous float64 of shape (2, {channels}); got {np.shape(rows)}")
    return <double *>data(rows)


def backward_input(tuple outs, object weight, cnp.ndarray sums, double count, cnp.ndarray most, object num_threads,
                   *given):
    """Write dx of this part and, where outs has two arrays, dresidual, from the sums and the count of all parts."""
    cdef Back back = Back(*given)
    cdef Triple t = back.t
    cdef int n_threads = threads(num_threads, back.x), status
    cdef Parameters parameters = Parameters(back.x, t.channels)
    cdef cnp.ndarray w = parameters.given(weight, "weight"), dx = outs[0]
    cdef cbn_dtype param_dtype = parameters.dtype
    cdef Options options = back.options
    cdef Copies copies
    cdef double *rows = two_rows(sums, t.channels)
    cdef double *bounds = two_rows(most, t.channels)
    if len(outs) > 1:
        options = Options(None, 0.0) if options is None else options
        options.dresidual = outs[1]
        options.c.dresidual = cnp.PyArray_DATA(options.dresidual)
    cdef const cbn_options *c_options = pointer(options)
    copy_parameters(&copies, w, None, None, None)
    with nogil:
        status = cbn_backward_input(data(dx), data(back.dy), data(back.x), copies.weight, <double *>data(back.mean),
                                    <double *>data(back.inv_std), rows, rows + t.channels, count, bounds, c_options,
                                    back.dtype, param_dtype, t.outer, t.channels, t.inner, n_threads)
    PyMem_Free(copies.memory)
    succeed(status)
