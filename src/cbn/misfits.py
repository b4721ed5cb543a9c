"""misfits: notes about a y that no way of normalizing gives: how near the nearest comes, and what y looks like."""

import numpy as np

from . import reference
from .conventions import PLACES

__all__ = ["misfit"]

_ROUNDING = 2.0**-6  # of bfloat16, twice; what is off by less is no other formula


def misfit(given, sources, usual):
    """Yield notes. `given` has x and y, `sources` what y may have been normalized with."""
    error, name, eps, place = min(_errors(given, sources, usual))
    nearest = f"{name} statistics with eps {eps:g} {place} the root"
    yield f"nothing gives y; the nearest, {nearest}, is off by {error:.2g} of its largest value"
    if error < _ROUNDING:
        yield "so little is rounding: y was computed, or stored, less exactly than its dtype says"
        mean, var = sources[name]
        if np.abs(mean).max() > 100 * np.sqrt(var).max():
            yield "means this large beside the deviation need exact sums: does the other side compute E[x^2] - E[x]^2?"
        return
    slope, rest = _straight(given)
    if (rest > _ROUNDING * given.largest).any():
        yield (
            "y is no straight line over x in each channel: an activation, a residual, a mask, statistics of parts of "
            "the batch, another axis, or another x?"
        )
        return
    mean, var = sources[name]
    ratio = slope / (given.weight * reference._inverse_std(var, eps, place)[:, None])
    ratio = ratio[np.isfinite(ratio)]
    found = f"its slope {ratio.min(initial=np.inf):.4g} to {ratio.max(initial=-np.inf):.4g} times what that gives"
    yield f"y is a straight line over x in each channel, {found}: {_causes(given, sources)}"


def _causes(given, sources):
    if not given.has_parameters:
        return "are weight and bias missing?"
    if not any(name.startswith("running") for name in sources):
        return "other weight and bias than those given, or evaluation with running statistics that were not given?"
    return (
        "other weight and bias than those given, or other statistics: of a mask, of renorm, of another batch or a part "
        "of one, of another time?"
    )


def _errors(given, sources, usual):
    """How far y is from what each way gives, over its largest value."""
    for name, (mean, var) in sources.items():
        for place in PLACES:
            for eps in usual:
                line = given.line(mean[:, None], reference._inverse_std(var, eps, place)[:, None])
                line = np.where(given.clipped, np.maximum(line, 0), line)
                error = float(np.abs(given.y - line).max() / (given.largest.max() or 1))
                yield (error if np.isfinite(error) else np.inf), name, eps, place


def _straight(given):
    """The slope of y over x in each channel, and how far the values are from that line."""
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (given.x, given.y))
    slope = (x * y).sum(axis=1, keepdims=True) / (x * x).sum(axis=1, keepdims=True)
    slope = np.where(np.isfinite(slope), slope, 0)
    return slope, np.abs(y - slope * x).max(axis=1, keepdims=True)
