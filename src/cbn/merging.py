"""merging: the arithmetic of `Moments`: counts, two parts as one whole, and a whole without a part."""

import numbers

import numpy as np

from . import _core, arrays

__all__ = ["added", "checked_counts", "in_order", "merged", "merged_parts", "without"]

_MOST, _MOST_WHOLE = 1e300, 2**63 - 1  # that a count may be, as a float and as an integer

_KNOWN = 1e-11  # of deviation and mean: what the numerics contract promises for moments
_COUNTED = 1e-12  # of a sum of weights: what is less is rounding


def checked_counts(count):
    """One number, or one for each channel, as a copy."""
    if not isinstance(count, (np.ndarray, list, tuple)):
        return _checked_count(count)
    counts = arrays.real(count, "count")
    if not counts.ndim:
        return _checked_count(counts.item())
    whole = counts.dtype.kind in "iu"
    with np.errstate(all="ignore"):  # from a wider dtype
        counts = counts if whole else counts.astype(np.float64)
    most = _MOST_WHOLE if whole else _MOST
    if not ((counts >= 0) & (counts <= most)).all():
        raise ValueError(f"count must be from 0 to {most} in every channel; got {counts}")
    return counts.astype(np.int64 if whole else np.float64)


def _checked_count(count):
    if not _core.is_number(count):
        raise TypeError(f"count must be a number; got {type(count).__name__}")
    whole = isinstance(count, numbers.Integral)
    count, most = (int(count), _MOST_WHOLE) if whole else (float(count), _MOST)
    if not 0 <= count <= most:
        raise ValueError(f"count must be from 0 to {most}; got {count}")
    return count


@_core.default_rounding
def merged(a, b):
    """Return count, mean and m2 of both parts together (Chan, Golub and LeVeque 1983)."""
    _check_channels(a, b, "other")
    count = a.count + b.count
    with np.errstate(all="ignore"):
        step, total = b.mean - a.mean, np.maximum(count, 1e-300)
        # (step * a) * (step * b) rather than step**2 * (a * b), which could overflow where the result does not
        mean = a.mean + step * (b.count / total)
        m2 = a.m2 + b.m2 + (step * (a.count / total)) * (step * b.count)
    # a part without values has a mean of 0, which may be far from the other's
    empty, nothing = np.equal(a.count, 0), np.equal(b.count, 0)
    pairs = ((a.mean, b.mean, mean), (a.m2, b.m2, m2))
    return count, *(np.where(empty, new, np.where(nothing, old, both)) for old, new, both in pairs)


@_core.default_rounding
def merged_parts(counts, means, rests, m2s):
    """Return count, mean and m2 of parts whose means are known to twice the digits, as `means + rests`.

    `counts` is a list, the others have a row for each part. All is added in the order of the parts. Unlike `merged` it
    loses nothing where parts lie apart, however far they are from 0.
    """
    count, weights = sum(counts), np.array(counts, np.float64)[:, np.newaxis]
    anchor = means[weights.argmax()]  # of a part that has values, if one has
    with np.errstate(all="ignore"):
        steps = (means - anchor) + rests
        shift = in_order(steps * (weights / (count or 1)))
        steps -= shift
        return count, anchor + shift, in_order(m2s + steps * (steps * weights))


@_core.default_rounding
def added(a, b):
    """Return count, mean, rest and m2 of two parts whose means are `mean + rest`: what adding rounds off is kept."""
    if not a[0] or not b[0]:  # a part without values has a mean of 0, which may be far from the other's
        return a if a[0] else b
    (a_count, a_mean, a_rest, a_m2), (b_count, b_mean, b_rest, b_m2) = a, b
    count = a_count + b_count
    with np.errstate(all="ignore"):
        step = (b_mean - a_mean) + (b_rest - a_rest)
        m2 = a_m2 + b_m2 + (step * (a_count / count)) * (step * b_count)  # as in `merged`
        mean, rest = _two_sum(a_mean, step * (b_count / count))
        mean, rest = _two_sum(mean, rest + a_rest)
    return count, mean, rest, m2


def _two_sum(a, b):
    """Return the sum, and what it was rounded by, exactly (Knuth); 0 where the sum is not finite."""
    total = a + b
    taken = total - a
    rest = (a - (total - taken)) + (b - taken)
    return total, np.where(np.isfinite(rest), rest, 0.0)


def in_order(rows):
    """Add rows one after the other, as np.sum need not."""
    return np.add.accumulate(rows)[-1]


@_core.default_rounding
def without(whole, part):
    """Return count, mean and m2 of the rest: `merged` solved for one of its arguments."""
    _check_channels(whole, part, "part")
    count = _left(whole.count, part.count)
    nothing, everything = (np.broadcast_to(np.equal(n, 0), whole.mean.shape) for n in (part.count, count))
    single = np.equal(count, 1) & (np.asarray(count).dtype.kind == "i")  # a sum of weights may be of several values
    with np.errstate(all="ignore"):
        step = np.where(nothing, 0, whole.mean - part.mean)
        lever = np.where(everything, 0, whole.count / np.maximum(count, 1e-300))
        mean = whole.mean + step * (part.count / np.maximum(count, 1e-300))
        m2 = whole.m2 - part.m2 - (step * lever) * (step * part.count)
        std = np.sqrt(whole.m2 / np.maximum(whole.count, 1e-300))
        unsure = _KNOWN * (np.abs(whole.mean) + np.abs(part.mean) + std)
        allowed = _KNOWN * (whole.m2 + part.m2) + unsure * unsure * whole.count
        allowed += (2 * np.abs(step) + unsure) * (unsure * lever) * part.count
        # where the part is everything it must be the whole, too; and a single value has no deviations
        foreign = (m2 < -allowed) | everything & (np.abs(step) > unsure) | (everything | single) & (m2 > allowed)
        foreign |= np.isfinite(whole.m2) & ~np.isfinite(m2)
        left = np.maximum(m2, 0) * ~single  # what is not finite stays so
    if foreign.any():
        raise ValueError(
            f"part must hold only values of the whole; got others in channel {int(foreign.argmax())}, "
            "or rounding has hidden them: add the parts anew"
        )
    return count, np.where(everything, 0, mean), np.where(everything, 0, left)


def _check_channels(a, b, name):
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"{name} must have {a.mean.size} channels; got {b.mean.size}")


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
