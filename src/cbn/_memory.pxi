# _memory.pxi: arrays of memory that other libraries own; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause

from cpython.object cimport PyObject


cdef extern from "numpy/arrayobject.h":
    object new_array "PyArray_New"(type kind, int ndim, cnp.npy_intp *shape, int type_num, cnp.npy_intp *strides,
                                   void *data, int itemsize, int flags, PyObject *of)


def borrowed(object owner, size_t address, object shape, object strides, object dtype):
    """An array of a dtype of NumPy's own at an address, which the owner keeps valid; strides count values.

    tensor.numpy() would forbid torch to resize the tensor ever after; NumPy's array interface takes thrice the time.
    """
    cdef cnp.npy_intp sizes[64]
    cdef cnp.npy_intp steps[64]
    cdef int d, ndim = len(shape), type_num = dtype.num, itemsize = dtype.itemsize
    cdef cnp.ndarray array
    if ndim > 64 or len(strides) != ndim:
        raise ValueError(f"strides must be as many as the sizes of shape, 64 at most; got {strides} for {shape}")
    for d in range(ndim):
        sizes[d], steps[d] = shape[d], itemsize * <cnp.npy_intp>strides[d]
    array = new_array(np.ndarray, ndim, sizes, type_num, steps, <void *>address, itemsize, cnp.NPY_ARRAY_WRITEABLE,
                      NULL)
    cnp.set_array_base(array, owner)
    return array
