# _numbers.pxi: every check of a number; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause

# asked for the number of threads by calls that do not name one; set by runtime.py
_threads_by_default = None


cpdef bint is_number(object value, object kind=numbers.Real):
    """Whether it is a number, and no bool; NumPy has its time spans derive from its integers."""
    return isinstance(value, kind) and not isinstance(value, (bool, np.timedelta64))


cdef double number(object value, str name, str rule) except? -1:
    if type(value) is not float and not is_number(value):
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


cpdef double check_momentum(object momentum, str name="momentum") except? -1:
    cdef double value = number(momentum, name, "be a number in [0, 1]")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1]; got {momentum}")
    return value


cpdef double check_batch_count(object count) except? -1:
    cdef double value = number(count, "count", "be a finite number > 1")
    if not isfinite(value) or value <= 1:
        raise ValueError(f"count must be a finite number > 1; got {count}")
    return value


cpdef bint check_flag(object value, str name) except *:
    """A bool, or the 0 or 1 that it equals."""
    if type(value) is bool:
        return value
    if not (isinstance(value, np.bool_) or is_number(value, numbers.Integral)) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False; got {type(value).__name__}")
    return bool(value)


cdef bint is_integer(object value):
    return type(value) is int or is_number(value, numbers.Integral)


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
        dtype = np.dtype(dtype) if dtype is not None else None  # which NumPy takes for float64
    except (TypeError, ValueError):
        pass
    if not isinstance(dtype, np.dtype) or dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16; got {dtype}")
    return dtype.newbyteorder("=")


cpdef int check_num_threads(object n, str name="num_threads") except -1:
    if not is_integer(n):
        raise TypeError(f"{name} must be an integer from 1 to 65536; got {type(n).__name__}")
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


cpdef cnp.ndarray check_counter(object counter):
    """The number of batches so far, which is read and written as an int64."""
    cdef cnp.ndarray array = counter if isinstance(counter, np.ndarray) else None
    if (array is None or array.descr.kind != c"i" or cnp.PyArray_ITEMSIZE(array) != 8 or cnp.PyArray_SIZE(array) != 1
            or not cnp.PyArray_ISNOTSWAPPED(array)):
        raise TypeError(f"num_batches_tracked must be an int64 array of one value; got {counter!r}")
    if not (cnp.PyArray_ISALIGNED(array) and cnp.PyArray_ISWRITEABLE(array)):
        raise ValueError("num_batches_tracked must be aligned and writeable; got another array")
    cdef int64_t value = (<int64_t *>cnp.PyArray_DATA(array))[0]
    if not 0 <= value <= <int64_t>1 << 62:
        raise ValueError(f"num_batches_tracked must lie between 0 and 2**62; got {value}")
    return array


cpdef cnp.ndarray check_history(object history):
    """What a layer knows of its batches, which is read and written as two doubles."""
    cdef cnp.ndarray array = history if isinstance(history, np.ndarray) else None
    if (array is None or cnp.PyArray_TYPE(array) != cnp.NPY_DOUBLE or cnp.PyArray_NDIM(array) != 1
            or cnp.PyArray_DIM(array, 0) != 2):
        raise TypeError(f"the layer's _history must be a float64 array of two values; got {history!r}")
    if not cnp.PyArray_ISCARRAY(array):
        raise ValueError("the layer's _history must be contiguous, aligned and writeable; got another array")
    return array


cpdef int check_not_negative(object var, str name) except -1:
    """A variance below zero is damage, not data; NaN passes, and stays in its channel."""
    cdef cnp.ndarray array = as_array(var, name)
    cdef Py_ssize_t c
    if cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT and cnp.PyArray_TYPE(array) != cnp.NPY_DOUBLE:
        array = array.astype(np.float32)
    array = contiguous(array)
    cdef void *values = data(array)
    cdef bint narrow = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT
    for c in range(cnp.PyArray_SIZE(array)):
        if ((<float *>values)[c] if narrow else (<double *>values)[c]) < 0:
            raise ValueError(f"{name} must be >= 0 in every channel; got {array.flat[c]} in channel {c}")
    return 0
