"""evidence_of_y: what y shows of how another system computed it: statistics, eps, its place, and an activation."""

from dataclasses import dataclass

import numpy as np

from . import reference
from .report import EPS

__all__ = ["Way", "explain_y"]

_USUAL = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PLACES = ("inside", "outside")


@dataclass(frozen=True)
class Way:
    """A way of normalizing that gives y, up to rounding.

    Attributes
    ----------
    normalized_with : str
        "batch", "batch, unbiased", "running" or "running, before".
    eps : tuple of float
        Of all that fit 0 and the powers of ten; or if there are none among them the one with the fewest digits.
    eps_place : str
        "inside" or "outside" the root.
    least, most : float
        All eps between them fit.
    """

    normalized_with: str
    eps: tuple
    eps_place: str
    least: float
    most: float

    @property
    def is_sure(self):
        """Whether the eps is known to some digits."""
        return len(self.eps) == 1 and (self.eps[0] == 0 or self.most <= 1.1 * self.least)


class _Given:
    """x and y by channel in a wider precision, with the parameters, and which places show what."""

    def __init__(self, x, y, axis, state, before):
        wide = np.longdouble if max(x.dtype.itemsize, y.dtype.itemsize) > 4 else np.float64
        self.x, self.y = (reference._by_channel(v, axis).astype(wide) for v in (x, y))
        parameters = (getattr(state if getattr(state, n) is not None else before, n) for n in ("weight", "bias"))
        weight, bias = parameters
        self.has_parameters = weight is not None and bias is not None
        weight, bias = (default if v is None else v for v, default in ((weight, 1.0), (bias, 0.0)))
        channels = len(self.x)
        self.weight, self.bias = (np.broadcast_to(v, channels).astype(wide)[:, None] for v in (weight, bias))
        self.clipped = self.y == 0 if (self.y >= 0).all() else np.zeros(self.y.shape, bool)
        self.precision = 8 * EPS.get(y.dtype.name, EPS["float32"])
        self.largest = np.abs(self.y).max(axis=1, keepdims=True)

    def line(self, mean, inverse):
        return self.weight * inverse * (self.x - mean) + self.bias


def _inverse_range(given, mean):
    """The least and largest inv_std of each channel with which every y is within its rounding, and that rounding."""
    d, r = given.weight * (given.x - mean), given.y - given.bias
    shown = np.where(given.clipped, 0, d)
    inverse = np.abs((r * shown).sum(axis=1, keepdims=True) / (shown * shown).sum(axis=1, keepdims=True))
    inverse = np.where(np.isfinite(inverse), inverse, 0)
    size = np.maximum(given.largest, np.abs(given.bias)) + np.abs(given.weight * mean) * inverse
    allowed = given.precision * np.maximum(size, np.finfo(np.float64).tiny)
    ends = (r - allowed) / d, (r + allowed) / d
    least, most = np.minimum(*ends), np.maximum(*ends)
    one_sided = given.clipped  # of what the activation has made 0 we know one bound only
    least = np.where(one_sided & (d > 0), -np.inf, least)
    most = np.where(one_sided & (d < 0), np.inf, most)
    wrong = np.where(one_sided, r < -allowed, np.abs(r) > allowed)
    flat = d == 0  # shows nothing, unless y is not the bias there
    least, most = np.where(flat, np.where(wrong, np.inf, -np.inf), least), np.where(flat, np.inf, most)
    return least.max(axis=1), most.min(axis=1), allowed


def _eps_range(least, most, var, place, shows):
    """The eps that the inv_std of all channels leave."""
    smallest, largest = 1 / np.maximum(most, 0), 1 / np.maximum(least, 0)  # deviations
    low, high = (s**2 - var if place == "inside" else s - np.sqrt(var) for s in (smallest, largest))
    low, high = low[shows & (most >= least)], high[shows & (most >= least)]
    if (shows & (most < least)).any() or (shows & (most <= 0)).any():
        return np.inf, -np.inf
    return max(0.0, float(low.max(initial=0))), float(high.min(initial=np.inf))


def _named(low, high):
    """The usual eps in a range, or else the one with the fewest digits."""
    usual = tuple(eps for eps in _USUAL if low <= eps <= high)
    if usual or high == np.inf:
        return usual or (low,)
    for digits in range(1, 18):
        step = 10.0 ** (np.floor(np.log10(high)) - digits + 1)
        eps = float(f"{np.ceil(low / step) * step:.{digits}g}")
        if low <= eps <= high:
            return (eps,)
    return (low,)


def _ways(given, sources):
    """All ways that fit, and whether an activation has clipped what would be below 0."""
    ways, clips = [], []
    for name, (mean, var) in sources.items():
        mean = mean[:, None]
        least, most, allowed = _inverse_range(given, mean)
        shows = np.ones(len(var), bool) if name.startswith("running") else var > 0  # a constant channel shows nothing
        for place in PLACES:
            low, high = _eps_range(least, most, var, place, shows)
            if low <= high:
                ways.append(Way(name, _named(low, high), place, low, high))
                inverse = reference._inverse_std(var, ways[-1].eps[0], place)[:, None]
                clips.append(bool((given.clipped & (given.line(mean, inverse) < -allowed)).any()))
    if any(way.eps[0] in _USUAL for way in ways):  # an unusual eps is more than a wrong place or variance
        plain = [way.eps_place == "inside" and way.normalized_with != "batch, unbiased" for way in ways]
        ways = [way for way, is_plain in zip(ways, plain, strict=True) if is_plain or way.eps[0] in _USUAL]
    zero = {way.normalized_with for way in ways if way.eps == (0.0,) and way.eps_place == "inside"}
    ways = [way for way in ways if way.eps_place == "inside" or way.normalized_with not in zero]
    return ways, bool(clips) and all(clips)


def explain_y(x, y, axis, statistics, state, before):
    """Return ways, activation and notes."""
    count, mean, m2 = statistics
    sources = {"batch": (mean, m2 / count), "batch, unbiased": (mean, m2 / (count - 1))}
    for name, arrays in (("running", state), ("running, before", before)):
        if arrays.mean is not None:
            sources[name] = arrays.mean, arrays.var
    given = _Given(x, y, axis, state, before)
    ways, clips = _ways(given, sources)
    if not ways:
        return {"notes": tuple(_why_none(given, sources))}
    names, places = {way.normalized_with for way in ways}, {way.eps_place for way in ways}
    ambiguous = len(places) > 1 or {"batch", "batch, unbiased"} <= names or not all(way.is_sure for way in ways)
    notes = (_advice(given, *sources["batch"]),) if ambiguous else ()
    return {"ways": tuple(ways), "activation": "relu" if clips else None, "notes": notes}


def _advice(given, mean, var):
    """What x could tell these apart."""
    if given.precision > 8 * EPS["float32"]:
        return "y cannot tell these apart in 16 bits; the same in float32 could"
    if np.abs(mean).max() > 100 * np.sqrt(var).max():
        return "x cannot tell these apart; one with means nearer to 0 could"
    return "x cannot tell these apart; one with a smaller variance and fewer values could"


def _why_none(given, sources):
    """Notes for a y that no way gives."""
    best = np.inf, "", 0.0
    for name, (mean, var) in sources.items():
        for eps in _USUAL:
            line = given.line(mean[:, None], reference._inverse_std(var, eps)[:, None])
            line = np.where(given.clipped, np.maximum(line, 0), line)
            error = np.abs(given.y - line).max() / (given.largest.max() or 1)
            best = min(best, (float(error), name, eps))
    error, name, eps = best
    yield f"no way of normalizing comes nearer to y than {error:.2g} of its largest value: {name}, eps {eps:g}"
    x = given.x - given.x.mean(axis=1, keepdims=True)
    y = given.y - given.y.mean(axis=1, keepdims=True)
    slope = (x * y).sum(axis=1, keepdims=True) / (x * x).sum(axis=1, keepdims=True)
    rest = np.abs(y - np.where(np.isfinite(slope), slope, 0) * x).max(axis=1, keepdims=True)
    if (rest <= 1e-3 * given.largest).all():
        missing = "other weight and bias than those given?" if given.has_parameters else "are weight and bias missing?"
        yield f"y is a straight line over x in each channel, with another slope or shift: {missing}"
    else:
        yield (
            "y is no straight line over x in each channel: an activation, a residual, a mask, statistics of parts of "
            "the batch, another axis, or another x?"
        )
