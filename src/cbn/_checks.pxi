# _checks.pxi: every check of an argument, and what arrays become for C; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause

# asked for the number of threads by calls that do not name one; set by runtime.py
_threads_by_default = None


cdef struct Triple:
    Py_ssize_t outer, channels, inner
    bint channels_last  # in memory, while the channel axis is not the last one


# --- one array ---

cdef str dtype_name(cnp.ndarray array):
    return str(array.dtype)


cdef cnp.ndarray as_array(object value, str name):
    """value as an aligned native float32 or float64 array, copied only if it is not one."""
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(value):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} must be an array without a mask; got a masked array: "
                            "use its filled() values, or its data if the mask is to be ignored")
        value = np.asarray(value)
    array = value
    if cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT and cnp.PyArray_TYPE(array) != cnp.NPY_DOUBLE:
        hint = f": cast it, for example with {name}.astype(np.float32)" if array.dtype.kind in "biuf" else ""
        raise TypeError(f"{name} must be float32 or float64; got {dtype_name(array)}{hint}")
    if not cnp.PyArray_ISALIGNED(array) or not cnp.PyArray_ISNOTSWAPPED(array):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return array


cdef bint is_channels_last(cnp.ndarray array, int axis):
    """Whether the array is in C order once the channel axis is moved last."""
    cdef Py_ssize_t expected = cnp.PyArray_ITEMSIZE(array)
    cdef int d
    if cnp.PyArray_DIM(array, axis) != 1 and cnp.PyArray_STRIDE(array, axis) != expected:
        return False
    expected *= cnp.PyArray_DIM(array, axis)
    for d in range(cnp.PyArray_NDIM(array) - 1, -1, -1):
        if d != axis:
            if cnp.PyArray_DIM(array, d) != 1 and cnp.PyArray_STRIDE(array, d) != expected:
                return False
            expected *= cnp.PyArray_DIM(array, d)
    return True


cdef bint has_layout(cnp.ndarray array, int axis, Triple *triple):
    return is_channels_last(array, axis) if triple.channels_last else cnp.PyArray_IS_C_CONTIGUOUS(array)


cdef int channel_axis(object axis, cnp.ndarray x) except -1:
    cdef int ndim = cnp.PyArray_NDIM(x)
    if ndim < 2:
        raise ValueError(f"x must have rank 2 or more; got shape {np.shape(x)}")
    cdef int overflow
    cdef long long value = PyLong_AsLongLongAndOverflow(check_integer(axis, "axis"), &overflow)
    if overflow or not -ndim <= value < ndim:
        raise ValueError(f"axis must lie between {-ndim} and {ndim - 1} for x of rank {ndim}; got {axis}")
    return <int>(value + ndim if value < 0 else value)


cdef cnp.ndarray lay_out(cnp.ndarray x, int axis, Triple *triple):
    """x, or its copy in C order if its memory is in neither of the native layouts; fills the triple."""
    cdef int d
    triple.channels_last = False
    if not cnp.PyArray_IS_C_CONTIGUOUS(x):
        if is_channels_last(x, axis):
            triple.channels_last = True
        else:
            x = contiguous(x)
    triple.outer = triple.inner = 1
    triple.channels = cnp.PyArray_DIM(x, axis)
    for d in range(cnp.PyArray_NDIM(x)):
        if d < axis or (d > axis and triple.channels_last):
            triple.outer *= cnp.PyArray_DIM(x, d)
        elif d > axis:
            triple.inner *= cnp.PyArray_DIM(x, d)
    return x


cdef cnp.ndarray like(cnp.ndarray value, cnp.ndarray x, Triple *triple, int axis):
    """value in the memory layout of x."""
    if has_layout(value, axis, triple):
        return value
    copy = np.empty_like(x)
    np.copyto(copy, value)
    return copy


# --- several arrays ---

cdef bint may_overlap(cnp.ndarray a, cnp.ndarray b):
    """Whether they share an element; True if that is too hard to tell."""
    if cnp.PyArray_SIZE(a) == 0 or cnp.PyArray_SIZE(b) == 0:
        return False
    cdef char *start_a = <char *>cnp.PyArray_DATA(a)
    cdef char *start_b = <char *>cnp.PyArray_DATA(b)
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        return start_a < start_b + cnp.PyArray_NBYTES(b) and start_b < start_a + cnp.PyArray_NBYTES(a)
    try:
        return np.may_share_memory(a, b) and np.shares_memory(a, b, max_work=1000)
    except np.exceptions.TooHardError:
        return True


cdef cnp.ndarray output(object out, cnp.ndarray x, int axis, Triple *triple):
    """The array for y (or dx): a new one, or out."""
    cdef cnp.ndarray array
    if out is None:
        if triple.channels_last:
            return np.empty_like(x)
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    if not cnp.PyArray_CheckExact(out) and (not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray)):
        raise TypeError(f"out must be a NumPy array without a mask; got {type(out).__name__}")
    array = out
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(x) or not cnp.PyArray_ISNOTSWAPPED(array):
        raise TypeError(f"out must have dtype {dtype_name(x)}, as x has; got {dtype_name(array)}")
    if not same_shape(array, x):
        raise ValueError(f"out must have shape {np.shape(x)}, as x has; got {np.shape(array)}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError("out must be writeable; got a read-only array")
    if not cnp.PyArray_ISALIGNED(array) or not has_layout(array, axis, triple):
        layout = "x's layout, C order with the channel axis last" if triple.channels_last else "C order"
        raise ValueError(f"out must be an aligned array in {layout}; got strides {(<object>array).strides}")
    return array


cdef int check_apart(cnp.ndarray out, cnp.ndarray value, str name) except -1:
    """That writing out does not change a parameter."""
    if value is not None and may_overlap(value, out):
        raise ValueError(f"out must share no memory with {name}; got an overlap")
    return 0


cdef int check_same_or_apart(cnp.ndarray out, cnp.ndarray value, str name, int axis, Triple *triple) except -1:
    """That out is x (or dy) itself, or shares nothing with it: each value is read just before its place is written."""
    if value is out or not may_overlap(value, out):
        return 0
    if not (cnp.PyArray_DATA(value) == cnp.PyArray_DATA(out) and same_shape(value, out)
            and has_layout(value, axis, triple)):
        raise ValueError(f"out must be {name} itself or share no memory with it; got a partial overlap")
    return 0


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b):
    cdef int d
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(b, d):
            return False
    return True


cdef cnp.ndarray contiguous(cnp.ndarray array):
    return array if cnp.PyArray_IS_C_CONTIGUOUS(array) else np.ascontiguousarray(array)


cdef int check_per_channel(cnp.ndarray array, str name, Py_ssize_t channels) except -1:
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != channels:
        raise ValueError(f"{name} must have shape ({channels},), one value per channel; got {np.shape(array)}")
    return 0


cdef class Parameters:
    """weight, bias and running statistics: all of x's dtype, or all float32."""
    cdef cnp.ndarray x
    cdef Py_ssize_t channels
    cdef object first
    cdef int type_num

    def __cinit__(self, cnp.ndarray x, Py_ssize_t channels):
        self.x, self.channels, self.first = x, channels, None
        self.type_num = cnp.PyArray_TYPE(x)

    cdef cnp.ndarray check(self, object value, str name):
        cdef cnp.ndarray array = as_array(value, name)
        check_per_channel(array, name, self.channels)
        if self.first is None:
            if cnp.PyArray_TYPE(array) not in (cnp.PyArray_TYPE(self.x), cnp.NPY_FLOAT):
                raise TypeError(f"{name} must have dtype {dtype_name(self.x)}, as x has; got {dtype_name(array)}")
            self.first, self.type_num = name, cnp.PyArray_TYPE(array)
        elif cnp.PyArray_TYPE(array) != self.type_num:
            raise TypeError(f"{name} must have the dtype of {self.first}; got {dtype_name(array)}")
        return array

    cdef cnp.ndarray given(self, object value, str name):
        """A parameter that is only read; None stays None."""
        if value is None:
            return None
        return contiguous(self.check(value, name))

    cdef cnp.ndarray updated(self, object value, str name):
        """A running statistic that will be written in place."""
        if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} must be a NumPy array without a mask to be updated; got {type(value).__name__}")
        array = self.check(value, name)
        if array is not value and not (np.shares_memory(array, value) or array.size == 0):
            raise ValueError(f"{name} must be aligned and in native byte order to be updated; got {value.dtype.str}")
        if not cnp.PyArray_ISWRITEABLE(array):
            raise ValueError(f"{name} must be writeable; got a read-only array")
        if not cnp.PyArray_IS_C_CONTIGUOUS(array):
            raise ValueError(f"{name} must be contiguous to be updated; got strides {(<object>array).strides}")
        return array

    cdef tuple running(self, object running_mean, object running_var):
        """Both running statistics, to be written in place."""
        cdef cnp.ndarray mean = self.updated(running_mean, "running_mean")
        cdef cnp.ndarray var = self.updated(running_var, "running_var")
        if may_overlap(mean, var):
            raise ValueError("running_var must share no memory with running_mean; got an overlap")
        return mean, var


cdef inline cbn_dtype c_dtype(int type_num) noexcept nogil:
    return CBN_FLOAT32 if type_num == cnp.NPY_FLOAT else CBN_FLOAT64


cdef inline void *data(cnp.ndarray array) noexcept nogil:
    return NULL if array is None else cnp.PyArray_DATA(array)


cdef cnp.ndarray per_channel_double(object value, str name, Py_ssize_t channels):
    cdef cnp.ndarray array = as_array(value, name)
    check_per_channel(array, name, channels)
    return np.ascontiguousarray(array, dtype=np.float64)


cdef cnp.ndarray new_doubles(Py_ssize_t channels):
    cdef cnp.npy_intp size = channels
    return cnp.PyArray_EMPTY(1, &size, cnp.NPY_DOUBLE, 0)


cdef int check_channels(Py_ssize_t channels, object expected, object axis) except -1:
    if expected is not None and channels != expected:
        raise ValueError(f"x must have {expected} channels on axis {axis}; got {channels}")
    return 0


cdef int check_both(object running_mean, object running_var) except -1:
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None; got only "
                         + ("running_var" if running_mean is None else "running_mean"))
    return 0


# --- numbers ---

cdef double number(object value, str name, str rule) except? -1:
    if type(value) is not float and (not isinstance(value, numbers.Real) or isinstance(value, bool)):
        raise TypeError(f"{name} must {rule}; got {type(value).__name__}")
    try:
        return value
    except OverflowError:
        raise ValueError(f"{name} must {rule}; got {value}") from None


cpdef double check_eps(object eps) except? -1:
    cdef double value = number(eps, "eps", "be a finite number >= 0")
    if not isfinite(value) or value < 0:
        raise ValueError(f"eps must be a finite number >= 0; got {eps}")
    return value


cpdef double check_momentum(object momentum) except? -1:
    cdef double value = number(momentum, "momentum", "be a number in [0, 1]")
    if not 0 <= value <= 1:
        raise ValueError(f"momentum must be a number in [0, 1]; got {momentum}")
    return value


cdef bint is_integer(object value):
    return type(value) is int or (isinstance(value, numbers.Integral) and not isinstance(value, bool))


cpdef object check_integer(object value, str name):
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    return int(value)


cpdef object check_size(object value, str name):
    """A number of channels: an int whose arrays could exist."""
    if not 0 <= check_integer(value, name) <= 2**40:
        raise ValueError(f"{name} must be an integer from 0 to 2**40; got {value}")
    return int(value)


cpdef object check_dtype(object dtype):
    try:
        dtype = np.dtype(dtype)
    except (TypeError, ValueError):
        pass
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64; got {dtype}")
    return dtype


cpdef int check_num_threads(object n, str name="num_threads") except -1:
    if not is_integer(n):
        raise TypeError(f"{name} must be an integer >= 1; got {type(n).__name__}")
    if not 1 <= n <= 65536:
        raise ValueError(f"{name} must be an integer from 1 to 65536; got {n}")
    return n


cdef int threads(object num_threads, cnp.ndarray x) except -1:
    if num_threads is not None:
        return check_num_threads(num_threads)
    return 1 if cnp.PyArray_SIZE(x) < CBN_LEAST_PARALLEL else _threads_by_default()


cdef int succeed(int status) except -1:
    if status:
        raise MemoryError("no memory for the workspace of one call")
    return 0


cdef cnp.ndarray check_counter(object counter):
    """The number of batches so far, which is read and written as an int64."""
    cdef cnp.ndarray array
    if not isinstance(counter, np.ndarray) or counter.dtype != np.int64 or counter.size != 1:
        raise TypeError(f"num_batches_tracked must be an int64 array of one value; got {counter!r}")
    array = counter
    if not (cnp.PyArray_ISALIGNED(array) and cnp.PyArray_ISNOTSWAPPED(array) and cnp.PyArray_ISWRITEABLE(array)):
        raise ValueError("num_batches_tracked must be aligned, writeable and in native byte order; got another array")
    if not 0 <= int(array.item()) <= 2**62:
        raise ValueError(f"num_batches_tracked must lie between 0 and 2**62; got {array.item()}")
    return array


cpdef int check_not_negative(object var, str name) except -1:
    """A variance below zero is damage, not data; NaN passes, and stays in its channel."""
    cdef cnp.ndarray array = contiguous(as_array(var, name))
    cdef Py_ssize_t c
    cdef void *values = data(array)
    cdef bint narrow = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT
    for c in range(cnp.PyArray_SIZE(array)):
        if ((<float *>values)[c] if narrow else (<double *>values)[c]) < 0:
            raise ValueError(f"{name} must be >= 0 in every channel; got {array.flat[c]} in channel {c}")
    return 0
