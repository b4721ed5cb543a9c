# _rounding.pxi: NumPy's arithmetic in the rounding state that the kernels have; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause

cdef extern from *:
    """
    unsigned long long cbn_fp_enter(void);
    void cbn_fp_leave(unsigned long long saved);
    """
    unsigned long long cbn_fp_enter() nogil
    void cbn_fp_leave(unsigned long long saved) nogil


def default_rounding(function):
    """The function, run in C's default rounding state, in which NumPy's results are the same for every caller.

    To the nearest, and with denormals; the caller's state comes back. The kernels do the same by themselves.
    """
    @functools.wraps(function)
    @cython.binding(True)  # a name of its own
    def run(*args, **kwargs):
        cdef unsigned long long saved = cbn_fp_enter()
        try:
            return function(*args, **kwargs)
        finally:
            cbn_fp_leave(saved)
    return run


@default_rounding
def widened(array):
    """A copy in float64, in which denormals, too, keep their values."""
    return np.array(array, dtype=np.float64)
