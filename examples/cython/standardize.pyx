# standardize.pyx: a function of another package, which normalizes rows with cbn's kernels and never meets Python's
# calls of cbn: `cimport cbn` gives the C interface by way of capsules, so that nothing is linked.
# cython: language_level=3
"""Rows of numbers with mean 0 and deviation 1."""
cimport cbn

cbn.import_cbn()  # fails here, and not later, if the cbn that is installed is too old or too new


def standardize(double[:, ::1] rows not None, double eps=0, int num_threads=1):
    """Give each row mean 0 and deviation 1, in place.

    Parameters
    ----------
    rows : array of float64, shape (R, L)
        Each row is a channel with L values.
    eps : float
        What is added to the variance.
    num_threads : int

    Returns
    -------
    int
        How many rows there were.
    """
    cdef int status
    cdef Py_ssize_t channels = rows.shape[0], inner = rows.shape[1]
    cdef double[::1] numbers
    if not eps >= 0:
        raise ValueError(f"eps must be 0 or more; got {eps}")
    if num_threads < 1:
        raise ValueError(f"num_threads must be 1 or more; got {num_threads}")
    if not channels or not inner:
        return channels
    import array
    numbers = array.array("d", bytes(24 * channels))
    with nogil:
        status = cbn.cbn_forward(&rows[0, 0], &numbers[0], &numbers[channels], &numbers[2 * channels], &rows[0, 0], NULL,
                                 NULL, eps, NULL, cbn.CBN_FLOAT64, cbn.CBN_FLOAT64, 1, channels, inner, num_threads)
    if status != cbn.CBN_OK:
        raise MemoryError
    return channels


def library():
    """The version of the library that the kernels are from."""
    return (<bytes>cbn.cbn_version()).decode()
