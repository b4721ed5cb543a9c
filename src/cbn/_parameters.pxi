# _parameters.pxi: arrays by channel: weight and bias, running statistics; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause

cdef int check_per_channel(cnp.ndarray array, str name, Py_ssize_t channels) except -1:
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != channels:
        raise ValueError(f"{name} must have shape ({channels},), one value per channel; got {np.shape(array)}")
    return 0


cdef cnp.ndarray per_channel_double(object value, str name, Py_ssize_t channels):
    cdef cnp.ndarray array = as_array(value, name)
    check_per_channel(array, name, channels)
    if cnp.PyArray_TYPE(array) != cnp.NPY_DOUBLE:
        return widened(array)
    return contiguous(array)


cdef class Parameters:
    """Arrays by channel of one dtype: weight and bias, or the running statistics. It is x's, float32 or float64."""
    cdef cnp.ndarray x
    cdef Py_ssize_t channels
    cdef object first
    cdef cnp.ndarray first_array  # whose dtype's name is asked for in errors only: that takes NumPy microseconds
    cdef int type_num
    cdef cbn_dtype dtype

    def __cinit__(self, cnp.ndarray x, Py_ssize_t channels):
        """Without arrays the dtype is x's, or float32 where that has fewer bits."""
        self.x, self.channels, self.first = x, channels, None
        self.type_num = cnp.NPY_DOUBLE if cnp.PyArray_TYPE(x) == cnp.NPY_DOUBLE else cnp.NPY_FLOAT
        self.dtype = CBN_FLOAT64 if self.type_num == cnp.NPY_DOUBLE else CBN_FLOAT32

    cdef cnp.ndarray check(self, object value, str name):
        cdef cnp.ndarray array = as_array(value, name)
        cdef int type_num = cnp.PyArray_TYPE(array)
        check_per_channel(array, name, self.channels)
        if self.first is None:
            if type_num not in (cnp.PyArray_TYPE(self.x), cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
                own = "" if cnp.PyArray_TYPE(self.x) == cnp.NPY_UBYTE else f", or that of x, {dtype_name(self.x)}"
                raise TypeError(f"{name} must have dtype float32 or float64{own}; got {dtype_name(array)}")
            self.first, self.first_array = name, array
            self.type_num, self.dtype = type_num, <cbn_dtype>dtype_of(array)
        elif type_num != self.type_num:
            raise TypeError(f"{name} must have dtype {dtype_name(self.first_array)}, as {self.first} has; "
                            f"got {dtype_name(array)}")
        return array

    cdef cnp.ndarray given(self, object value, str name):
        """A parameter that is only read; None stays None."""
        if value is None:
            return None
        return contiguous(self.check(value, name))

    cdef cnp.ndarray updated(self, object value, str name):
        """A running statistic that will be written in place."""
        if not isinstance(value, np.ndarray) or is_masked(value):
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


cdef struct Copies:
    void *weight
    void *bias
    void *mean
    void *var
    char *memory


cdef size_t room_of(cnp.ndarray array) noexcept:
    return 0 if array is None else (<size_t>cnp.PyArray_NBYTES(array) + 15) & ~<size_t>15


cdef void *copy_to(char **room, cnp.ndarray array) noexcept:
    if array is None:
        return NULL
    cdef void *to = room[0]
    memcpy(to, cnp.PyArray_DATA(array), <size_t>cnp.PyArray_NBYTES(array))
    room[0] += room_of(array)
    return to


cdef int copy_parameters(Copies *copies, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray mean,
                         cnp.ndarray var) except -1:
    """All of them at once, while the GIL is held: a state that another thread loads meanwhile is seen whole or not.

    The arrays are contiguous. `copies.memory` is for the caller to free, with PyMem_Free.
    """
    cdef char *room = <char *>PyMem_Malloc(room_of(weight) + room_of(bias) + room_of(mean) + room_of(var))
    if room == NULL:
        raise MemoryError("no memory for the parameters of one call")
    copies.memory = room
    copies.weight, copies.bias = copy_to(&room, weight), copy_to(&room, bias)
    copies.mean, copies.var = copy_to(&room, mean), copy_to(&room, var)
    return 0
