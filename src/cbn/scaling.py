"""scaling: what the moments of features make of x, and back; arrays in Fortran order as they are."""

from typing import NamedTuple

import numpy as np

from . import _core
from .statistics import Moments

__all__ = ["Scaling", "in_c_order"]

# A deviation of so many units of rounding of the mean is rounding itself.
_ROUNDING = 10 * np.finfo(np.float64).eps


class Scaling(NamedTuple):
    moments: Moments
    mean: np.ndarray
    var: np.ndarray
    offset: np.ndarray  # is subtracted
    square: np.ndarray  # the root of it is divided by

    @classmethod
    @_core.default_rounding
    def of(cls, moments, with_mean, with_std):
        with np.errstate(all="ignore"):  # a feature without values has NaN
            mean = np.where(moments.count == 0, np.nan, moments.mean)
            var = moments.m2 / moments.count
            constant = np.sqrt(var) <= _ROUNDING * np.abs(mean)
        offset = mean if with_mean else np.where(np.isnan(mean), mean, 0)
        square = np.where(constant, 1, var) if with_std else np.where(np.isnan(var), var, 1)
        return cls(moments, mean, var, offset, square)

    def applied(self, x, axis, out):
        return _normalized(x, axis, out, self.offset, self.square)

    @_core.default_rounding
    def undone(self, x, axis, out):
        line = np.zeros_like(self.mean), np.ones_like(self.mean), np.sqrt(self.square), self.offset
        return _normalized(x, axis, out, *line)


def in_c_order(x, axis):
    """Return x and its axis of features, or x's transpose and its one: so columns of data frames need no copy."""
    return (x.T, 1 - axis) if _is_fortran(x) else (x, axis)


def _is_fortran(x):
    return x.ndim == 2 and x.flags.f_contiguous and not x.flags.c_contiguous


def _normalized(x, axis, out, mean, var, weight=None, bias=None):
    """``(x - mean) / sqrt(var) * weight + bias``, in Fortran order if x is and out, if given, too."""
    line = (mean, var, weight, bias, 0.0)
    fits = out is None or (isinstance(out, np.ndarray) and out.shape == x.shape and _is_fortran(out))
    if not fits or not _is_fortran(x):
        return _core.inference(x, *line, axis, out, None)
    y = _core.inference(x.T, *line, 1 - axis, None if out is None else out.T, None)
    return y.T if out is None else out
