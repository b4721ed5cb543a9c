"""missing: values that are NaN or infinite: what is refused, and the moments of features that miss values."""

import numpy as np

from . import _core
from .statistics import Moments, moments

__all__ = ["check_finite", "check_policy", "check_values", "moments_of"]

_BLOCK = 2**16  # values that are taken at a time, so that they stay in the cache
_NEAR = 1e-9  # of its value: far less than a deviation for which moments are exact


def check_policy(nan):
    """Return what is to be done about NaN, if that is one of three."""
    if not isinstance(nan, str) or nan not in ("skip", "raise", "propagate"):
        raise ValueError(f"nan must be 'skip', 'raise' or 'propagate'; got {nan!r}")
    return nan


def check_finite(known, text):
    """Raise ValueError with a text of `feature` and `value` unless moments are finite."""
    bad = ~(np.isfinite(known.mean) & np.isfinite(known.m2))
    if bad.any():
        feature = int(bad.argmax())
        value = known.m2[feature] if np.isfinite(known.mean[feature]) else known.mean[feature]
        raise ValueError(text.format(feature=feature, value=value))


def check_values(x, axis, nan, name, weights=None):
    """Raise ValueError if x has infinite values, or NaN that are to raise. What weighs 0 does not count."""
    kinds = [(np.isinf, "be finite; got an infinite value"), (np.isnan, "have no NaN; got one")]
    samples = tuple(d for d in range(x.ndim) if d != axis)
    for found, text in kinds if nan == "raise" else kinds[:1]:
        bad = found(x) if weights is None else found(x) & np.expand_dims(weights != 0, axis)
        features = np.flatnonzero(bad.any(axis=samples))
        if features.size:
            raise ValueError(f"{name} must {text} in feature {features[0]}")


@_core.default_rounding
def moments_of(x, axis, sample_weight, nan, name):
    """Return the moments of x; where NaN are left out, with a count for each feature. Raise for what is refused.

    A variance that is too large is left for `check_finite`.
    """
    found = moments(x, axis=axis, sample_weight=sample_weight)
    features = np.flatnonzero(~np.isfinite(found.mean))
    if nan == "propagate" or not features.size:
        return found
    weights = None
    if sample_weight is not None:
        weights = _core.checked_sample_weight(sample_weight, _core.positions_of(x, axis))
    if nan == "skip":
        found = _without_nan(found, x, axis, features, weights)
    if not np.isfinite(found.mean).all():
        check_values(x, axis, nan, name, weights)
    return found


def _without_nan(found, x, axis, features, weights):
    """The moments of x, which were found with the NaN that these features have."""
    values, chosen = np.moveaxis(x, axis, 0), features
    if x.ndim > 2:  # one copy, of no more than these
        values = values[features].reshape(features.size, -1)
    if features.size == len(values):
        chosen = slice(None)  # which does not copy
    part = _two_passes(values, chosen, None if weights is None else weights.ravel())
    count, mean, m2 = np.full(found.mean.size, found.count), found.mean.copy(), found.m2.copy()
    count[features], mean[features], m2[features] = part.count, part.mean, part.m2
    return Moments(count, mean, m2)


def _two_passes(values, features, weights):
    """The moments of some features of features x samples, each without its NaN.

    First the mean, and then sums about it, which are corrected by what rounding made it miss. Until it is known nothing
    is subtracted: a value may be large and weigh next to nothing.
    """
    count = total = off = m2 = 0
    one = np.nan  # value of each feature
    with np.errstate(all="ignore"):  # sums that are too large
        for block, gaps, some in _blocks(values, features, weights):
            if np.isnan(one).any():
                one = np.fmax(one, np.fmax.reduce(block, axis=1))
            np.copyto(block, 0, where=gaps)
            total = total + (block if some is None else block * some).sum(axis=1)
            count = count + (~gaps if some is None else ~gaps * some).sum(axis=1)
        number = np.where(count == 0, 1, count)
        mean = total / number
        # a value so near is as good as the mean, and from equal values nothing deviates then
        mean = np.where((np.abs(mean - one) <= _NEAR * np.abs(one)) | ~np.isfinite(mean), one, mean)
        for block, gaps, some in _blocks(values, features, weights):
            block -= mean[:, None]
            np.copyto(block, 0, where=gaps)
            weighted = block if some is None else block * some
            off, m2 = off + weighted.sum(axis=1), m2 + (weighted * block).sum(axis=1)
        return Moments(count, mean + off / number, np.maximum(m2 - off * (off / number), 0))


def _blocks(values, features, weights):
    """Some features of features x samples in float64, NaN in their gaps; the gaps; the weights of the samples."""
    step = max(1, _BLOCK // len(values[features, :0]))
    for start in range(0, values.shape[1], step):
        block = values[features, start : start + step].astype(np.float64, order="C")
        some = None if weights is None else weights[start : start + step]
        if some is not None:
            np.copyto(block, np.nan, where=some == 0)
        yield block, np.isnan(block), some
