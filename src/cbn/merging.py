"""merging: the arithmetic of `Moments`: two parts as one whole, and a whole without a part."""

import numpy as np

__all__ = ["merged", "without"]

_KNOWN = 1e-11  # of deviation and mean: what the numerics contract promises for moments
_COUNTED = 1e-12  # of a sum of weights: what is less is rounding


def merged(a, b):
    """Return count, mean and m2 of both parts together (Chan, Golub and LeVeque 1983)."""
    _check_channels(a, b)
    count = a.count + b.count
    with np.errstate(all="ignore"):
        step, total = b.mean - a.mean, np.maximum(count, 1e-300)
        # (step * a) * (step * b) rather than step**2 * (a * b), which could overflow where the result does not
        mean = a.mean + step * (b.count / total)
        m2 = a.m2 + b.m2 + (step * (a.count / total)) * (step * b.count)
    # a part without values has a mean of 0, which may be far from the other's
    empty = [a.count == 0, b.count == 0]
    return count, np.select(empty, [b.mean, a.mean], mean), np.select(empty, [b.m2, a.m2], m2)


def without(whole, part):
    """Return count, mean and m2 of the rest: `merged` solved for one of its arguments."""
    _check_channels(whole, part)
    count = _left(whole.count, part.count)
    nothing, everything = (np.broadcast_to(np.equal(n, 0), whole.mean.shape) for n in (part.count, count))
    with np.errstate(all="ignore"):
        step = np.where(nothing, 0, whole.mean - part.mean)
        lever = np.where(everything, 0, whole.count / np.maximum(count, 1e-300))
        mean = whole.mean + step * (part.count / np.maximum(count, 1e-300))
        m2 = whole.m2 - part.m2 - (step * lever) * (step * part.count)
        std = np.sqrt(whole.m2 / np.maximum(whole.count, 1e-300))
        unsure = _KNOWN * (np.abs(whole.mean) + np.abs(part.mean) + std)
        allowed = _KNOWN * (whole.m2 + part.m2) + unsure * unsure * whole.count
        allowed += (2 * np.abs(step) + unsure) * (unsure * lever) * part.count
        # where the part is everything it must be the whole, too
        foreign = (m2 < -allowed) | everything & ((np.abs(step) > unsure) | (m2 > allowed))
    if foreign.any():
        raise ValueError(f"part must hold only values of the whole; got others in channel {int(foreign.argmax())}")
    return count, np.where(everything, 0, mean), np.where(everything, 0, np.maximum(m2, 0))


def _check_channels(a, b):
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"other must have {a.mean.size} channels; got {b.mean.size}")


def _left(whole, part):
    """The count of the rest; of sums of weights, what is but rounding is 0."""
    left = np.asarray(whole - part)
    if left.dtype.kind == "f":
        left = np.where(np.abs(left) <= _COUNTED * whole, 0.0, left)
    if (left < 0).any():
        worst = left.argmin()
        most, came = (np.broadcast_to(count, left.shape).flat[worst] for count in (whole, part))
        raise ValueError(f"part must have at most the whole's count, {most}; got {came}")
    return left if left.ndim else left.item()
