"""missing: the moments of data in which features miss values."""

import numpy as np

from . import _core
from .statistics import Moments, moments

__all__ = ["check_finite", "without_nan"]

_BLOCK = 2**16  # values that are searched for NaN at a time, so that they stay in the cache


def check_finite(total, x, axis):
    """Raise ValueError unless statistics are finite, the last of which are x's."""
    bad = ~(np.isfinite(total.mean) & np.isfinite(total.m2))
    if not bad.any():
        return
    feature = int(bad.argmax())
    values = np.take(x, feature, axis)
    if np.isinf(values).any():
        raise ValueError(f"x must be finite; got an infinite value in feature {feature}")
    if np.isnan(values).any():
        raise ValueError(f"x must have no NaN; got one in feature {feature}")
    raise ValueError(f"x must have a variance that float64 can hold; got a larger one in feature {feature}")


def without_nan(found, x, axis, sample_weight):
    """Return the moments of x less its NaN; found are those with them. Features have counts of their own then."""
    features = np.flatnonzero(~np.isfinite(found.mean))
    if not features.size:
        return found
    weights = None
    if sample_weight is not None:
        weights = _core.checked_sample_weight(sample_weight, _core.positions_of(x, axis)).ravel()
    part = _moments(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1), features, weights)
    count = np.full(x.shape[axis], found.count)
    count[features], found.mean[features], found.m2[features] = part.count, part.mean, part.m2
    return Moments(count, found.mean, found.m2)


def _moments(values, features, weights):
    """The moments of some features of features x samples, each without its NaN.

    All is about each feature's first value, so that nothing is lost where the mean is large beside the deviation.
    """
    size = features.size
    features = slice(None) if size == len(values) else features  # which would copy
    first = np.zeros(size)
    total = Moments(np.zeros(size, np.int64 if weights is None else np.float64), first, first)
    step = max(1, _BLOCK // size)
    for start in range(0, values.shape[1], step):
        block = values[features, start : start + step].astype(np.float64, order="C")
        some = None if weights is None else weights[start : start + step]
        gaps = np.isnan(block) if some is None else np.isnan(block) | (some == 0)
        if (total.count == 0).any():
            own = np.take_along_axis(block, gaps.argmin(axis=1)[:, None], 1)[:, 0]
            first = np.where((total.count == 0) & ~gaps.all(axis=1), own, first)
        with np.errstate(all="ignore"):  # infinite values, which will be refused
            block -= first[:, None]
            total.merge(_of_block(block, gaps, some))
    return Moments(total.count, first + total.mean, total.m2)


def _of_block(block, gaps, weights):
    """The moments of features x samples without the gaps, which the mean is written into."""
    count = (~gaps).sum(axis=1) if weights is None else np.where(gaps, 0, weights).sum(axis=1)
    np.copyto(block, 0, where=gaps)
    mean = (block if weights is None else block * weights).sum(axis=1) / np.where(count == 0, 1, count)
    np.copyto(block, mean[:, None], where=gaps)
    return Moments(count, mean, moments(block, axis=0, sample_weight=weights).m2)
