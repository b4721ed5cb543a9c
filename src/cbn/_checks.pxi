# _checks.pxi: every check of an array, and what arrays become for C; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause

cdef struct Triple:
    Py_ssize_t outer, channels, inner
    bint channels_last  # in memory, while the channel axis is not the last one


# --- one array ---

cdef str dtype_name(cnp.ndarray array):
    return str(array.dtype)


# the number that NumPy gave to bfloat16, once an array of it has been seen: the type is ml_dtypes', not NumPy's
cdef int _bfloat16 = -1


cdef int dtype_of(cnp.ndarray array) except -2:
    """The array's enum cbn_dtype, or -1."""
    global _bfloat16
    cdef int type_num = cnp.PyArray_TYPE(array)
    if type_num == cnp.NPY_FLOAT:
        return CBN_FLOAT32
    if type_num == cnp.NPY_DOUBLE:
        return CBN_FLOAT64
    if type_num == cnp.NPY_FLOAT16:
        return CBN_FLOAT16
    if type_num == cnp.NPY_UBYTE:
        return CBN_UINT8
    if _bfloat16 < 0 and array.dtype.name == "bfloat16" and array.dtype.itemsize == 2:
        _bfloat16 = type_num
    return CBN_BFLOAT16 if type_num == _bfloat16 else -1


cdef bint is_masked(object value):
    """Nothing is, as long as nobody has imported numpy.ma: it takes long, and a fork meanwhile, in another thread,
    would leave the child an import that never ends."""
    return isinstance(value, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))


cpdef object unmasked(object value, str name):
    """value as an array, of any dtype."""
    if is_masked(value):
        raise TypeError(f"{name} must be an array without a mask; got a masked array: "
                        "use its filled() values, or its data if the mask is to be ignored")
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # a ragged list
        raise TypeError(f"{name} must be an array of numbers; got {type(value).__name__}: {error}") from None


cpdef object real(object value, str name):
    """value as an array of real numbers, of any dtype that has them."""
    cdef cnp.ndarray array = unmasked(value, name)
    if array.dtype.kind not in "iuf" and dtype_of(array) < 0:
        raise TypeError(f"{name} must be an array of real numbers; got {array.dtype}")
    return array


cpdef cnp.ndarray as_array(object value, str name, bint images=False):
    """value as an aligned native array of real numbers, or of uint8 if `images`, copied only if it is not one."""
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(value):
        value = unmasked(value, name)
    array = value
    cdef int dtype = dtype_of(array)
    if dtype < 0 or (dtype == CBN_UINT8 and not images):
        hint = f": cast it, for example with {name}.astype(np.float32)" if array.dtype.kind in "biuf" else ""
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16; got {dtype_name(array)}{hint}")
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


cpdef int channel_axis(object axis, cnp.ndarray x, str name="x", int least=2) except -1:
    cdef int ndim = cnp.PyArray_NDIM(x)
    if ndim < least:
        raise ValueError(f"{name} must have rank {least} or more; got shape {np.shape(x)}")
    cdef int overflow
    cdef long long value = PyLong_AsLongLongAndOverflow(check_integer(axis, "axis"), &overflow)
    if overflow or not -ndim <= value < ndim:
        raise ValueError(f"axis must lie between {-ndim} and {ndim - 1} for {name} of rank {ndim}; got {axis}")
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
    copy = np.empty_like(x, dtype=value.dtype)
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


cdef cnp.ndarray output(object out, cnp.ndarray x, int axis, Triple *triple, str name="out", str of="x"):
    """The array for y (or dx): a new one, or out. Of x's dtype, but float32 for images."""
    cdef cnp.ndarray array
    cdef bint is_image = cnp.PyArray_TYPE(x) == cnp.NPY_UBYTE
    cdef int type_num = cnp.NPY_FLOAT if is_image else cnp.PyArray_TYPE(x)
    if out is None:
        if triple.channels_last:
            return np.empty_like(x, dtype=np.float32 if is_image else None)
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), type_num, 0)
    if not cnp.PyArray_CheckExact(out) and (not isinstance(out, np.ndarray) or is_masked(out)):
        raise TypeError(f"{name} must be a NumPy array without a mask; got {type(out).__name__}")
    array = out
    if cnp.PyArray_TYPE(array) != type_num or not cnp.PyArray_ISNOTSWAPPED(array):
        wanted = "float32 for images" if is_image else f"{dtype_name(x)}, as x has"
        raise TypeError(f"{name} must have dtype {wanted}; got {dtype_name(array)}")
    if not same_shape(array, x):
        raise ValueError(f"{name} must have shape {np.shape(x)}, as {of} has; got {np.shape(array)}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{name} must be writeable; got a read-only array")
    if not cnp.PyArray_ISALIGNED(array) or not has_layout(array, axis, triple):
        layout = f"{of}'s layout, C order with the channel axis last" if triple.channels_last else "C order"
        raise ValueError(f"{name} must be an aligned array in {layout}; got strides {(<object>array).strides}")
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
            and cnp.PyArray_ITEMSIZE(value) == cnp.PyArray_ITEMSIZE(out) and has_layout(value, axis, triple)):
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


cdef inline void *data(cnp.ndarray array) noexcept nogil:
    return NULL if array is None else cnp.PyArray_DATA(array)


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
