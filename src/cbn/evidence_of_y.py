"""evidence_of_y: what y shows of how another system computed it: statistics, eps, its place, and an activation."""

from dataclasses import dataclass

import numpy as np

from . import reference
from .conventions import PLACES
from .misfits import misfit
from .observed import precision_of
from .report import EPS

__all__ = ["Way", "distance_of_y", "explain_y", "sources_of"]

_USUAL = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


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
        weight, bias = (getattr(state if getattr(state, n) is not None else before, n) for n in ("weight", "bias"))
        self.has_parameters = weight is not None and bias is not None
        weight, bias = (default if v is None else v for v, default in ((weight, 1.0), (bias, 0.0)))
        channels = len(self.x)
        self.weight, self.bias = (np.broadcast_to(v, channels).astype(wide)[:, None] for v in (weight, bias))
        self.clipped = self.y == 0 if (self.y >= 0).all() else np.zeros(self.y.shape, bool)
        self.precision = 8 * precision_of(y)
        self.largest = np.abs(self.y).max(axis=1, keepdims=True)

    def line(self, mean, inverse):
        return self.weight * inverse * (self.x - mean) + self.bias


def _inverse_range(given, mean):
    """The least and largest inv_std of each channel with which every y is within its rounding, and that rounding."""
    d, r = given.weight * (given.x - mean), given.y - given.bias
    shown = np.where(given.clipped, 0, d)
    inverse = np.abs((r * shown).sum(axis=1, keepdims=True) / (shown * shown).sum(axis=1, keepdims=True))
    inverse = np.where(np.isfinite(inverse), inverse, 0)
    sums = 1 + np.log2(given.x.shape[1]) / 4  # of the other system, which round the mean
    size = np.maximum(given.largest, np.abs(given.bias)) + np.abs(given.weight * mean) * inverse * sums
    allowed = given.precision * np.maximum(size, np.finfo(np.float64).tiny)
    ends = (r - allowed) / d, (r + allowed) / d
    least, most = np.minimum(*ends), np.maximum(*ends)
    least = np.where(given.clipped & (d > 0), -np.inf, least)  # of what is made 0 we know one bound only
    most = np.where(given.clipped & (d < 0), np.inf, most)
    wrong = np.where(given.clipped, r < -allowed, np.abs(r) > allowed)
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
    if usual:
        return usual
    for digits in range(1, 18):
        step = 10.0 ** (np.floor(np.log10(high)) - digits + 1)
        eps = float(f"{np.ceil(low / step) * step:.{digits}g}")
        if low <= eps <= high:
            return (eps,)
    return (low,)


def _ways(given, sources, assumed_place):
    """All ways that fit, whether an activation has clipped what would be below 0, and whether y shows anything."""
    ways, clips, shown, ranges = [], [], False, {}
    for name, (mean, var) in sources.items():
        if id(mean) not in ranges:  # both variances of the batch have one mean
            ranges[id(mean)] = _inverse_range(given, mean[:, None])
        least, most, allowed = ranges[id(mean)]
        shows = np.ones(len(var), bool) if name.startswith("running") else var > 0  # a constant channel shows nothing
        for place in PLACES:
            low, high = _eps_range(least, most, var, place, shows)
            shown = shown or not low <= high == np.inf
            if low <= high < np.inf:
                ways.append(Way(name, _named(low, high), place, low, high))
                inverse = reference._inverse_std(var, ways[-1].eps[0], place)[:, None]
                clips.append(bool((given.clipped & (given.line(mean[:, None], inverse) < -allowed)).any()))
    return _likely(ways, assumed_place), bool(clips) and all(clips), shown


def _likely(ways, assumed_place):
    """Without ways that only an unusual eps makes possible, where a usual one has a likelier place and variance."""
    places = "inside", assumed_place
    usual = [way for way in ways if way.eps[0] in _USUAL]
    if usual:
        likely = [way for way in ways if way.eps_place in places and way.normalized_with != "batch, unbiased"]
        ways = [way for way in ways if way in usual or way in likely]
    zero = {way.normalized_with for way in ways if way.eps == (0.0,) and way.eps_place == "inside"}
    return [way for way in ways if way.eps_place in places or way.normalized_with not in zero]


def sources_of(statistics, state, before):
    """The mean and variance of each of the statistics that y may have been normalized with."""
    count, mean, m2 = statistics
    sources = {"batch": (mean, m2 / count), "batch, unbiased": (mean, m2 / (count - 1))} if count > 1 else {}
    for name, arrays in (("running", state), ("running, before", before)):
        if arrays.mean is not None:
            sources[name] = arrays.mean, arrays.var
    return sources


def distance_of_y(x, y, axis, state, before, mean, var, clips):
    """A function of eps and its place: how far y is from what they make of x, over what rounding explains."""
    given, mean = _Given(x, y, axis, state, before), mean[:, None]
    allowed = _inverse_range(given, mean)[2]

    def distance(eps, place):
        line = given.line(mean, reference._inverse_std(var, eps, place)[:, None])
        error = np.abs((np.maximum(line, 0) if clips else line) - given.y) / allowed
        return float(np.fmax.reduce(error, axis=None))  # without NaN, of constant channels with eps 0

    return distance


def explain_y(x, y, axis, statistics, state, before, assumed_place="inside"):
    """Return ways, activation and notes, and whether y is `refuted` as something that is normalized."""
    count, mean, m2 = statistics
    sources = sources_of(statistics, state, before)
    given = _Given(x, y, axis, state, before)
    ways, clips, shown = _ways(given, sources, assumed_place)
    if not shown:
        return {"notes": ("y shows nothing: in every channel weight is 0, x is constant or y is 0",)}
    if not ways:
        return {"refuted": True, "notes": tuple(misfit(given, sources, _USUAL))}
    notes = tuple(_advice(given, mean, m2 / count, ways))
    return {"ways": tuple(ways), "activation": "relu" if clips else None, "notes": notes}


def _advice(given, mean, var, ways):
    """What x could tell the ways apart, if that is needed."""
    names, places = {way.normalized_with for way in ways}, {way.eps_place for way in ways}
    several = len(places) > 1 or {"batch", "batch, unbiased"} <= names or len({way.eps for way in ways}) > 1
    if not several and all(way.is_sure for way in ways):
        return
    what = "tell these apart" if several else "show eps more exactly"
    if given.precision > 8 * EPS["float32"]:
        yield f"y cannot {what} in 16 bits; the same in float32 could"
    elif np.abs(mean).max() > 100 * np.sqrt(var).max():
        yield f"x cannot {what}; one with means nearer to 0 could"
    elif all(name.startswith("running") for name in names):
        yield f"running variances this large cannot {what}"
    else:
        yield f"x cannot {what}; one with a smaller variance and fewer values could"
