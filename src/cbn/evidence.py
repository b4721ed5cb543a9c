"""evidence: what y and the running statistics of another system show of how they were computed."""

import itertools

import numpy as np

from . import conventions, reference
from .report import EPS

__all__ = ["explain_running", "explain_y"]

_EPS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

# --- y ---


def _slopes(x, y, axis, weight, rectified):
    """What inv_std must have been in each channel, by least squares; NaN where y does not show it."""
    x, y = reference._by_channel(x, axis), reference._by_channel(y, axis)
    used = y > 0 if rectified else np.ones(y.shape, bool)
    n = used.sum(axis=1, keepdims=True)
    x, y = (np.where(used, v - np.sum(v, axis=1, keepdims=True, where=used) / n, 0) for v in (x, y))
    return (x * y).sum(axis=1) / (x * x).sum(axis=1) / (1 if weight is None else weight)


def _candidates(sources, inverse):
    """Ways of normalizing: with the usual eps; with those that the slopes show at a small variance, rounded and not."""
    usual, rounded, raw = [], [], []
    for (name, (mean, var)), place in itertools.product(sources.items(), ("inside", "outside")):
        usual += [(name, eps, place, mean, var) for eps in _EPS]
        eps = 1 / inverse**2 - var if place == "inside" else 1 / inverse - np.sqrt(var)
        if np.isfinite(eps).any():
            eps = float(eps[np.nanargmin(np.where(np.isfinite(eps), var, np.nan))])
            if eps > 0:
                rounded.append((name, float(f"{eps:.3g}"), place, mean, var))
                raw.append((name, eps, place, mean, var))
    return usual, rounded, raw


def explain_y(x, y, axis, statistics, state, before):
    """Return what y was normalized with, eps, its place, the activation, and notes; only notes if nothing fits."""
    count, mean, m2 = statistics
    sources = {"batch": (mean, m2 / count), "batch, unbiased": (mean, m2 / (count - 1))}
    for name, arrays in (("running", state), ("running, before", before)):
        if arrays.mean is not None:
            sources[name] = arrays.mean, arrays.var
    weight, bias = (getattr(state if getattr(state, n) is not None else before, n) for n in ("weight", "bias"))
    wide = reference._wide(y)
    rectified, best = bool((wide >= 0).all()), np.inf
    precision = 8 * EPS.get(y.dtype.name, EPS["float32"])

    def fitting(ways):
        nonlocal best
        for name, eps, place, m, v in ways:
            inverse = reference._inverse_std(v, eps, place)
            line = reference._affine(x, m, inverse, weight, bias, axis)
            exact = np.maximum(line, 0) if rectified else line
            size = max(np.abs(exact).max(), 1e-300)
            error = float(np.abs(wide - exact).max() / size)
            allowed = precision * float(1 + np.max(np.abs(m) * inverse))
            best = min(best, error if np.isfinite(error) else np.inf)
            if error <= allowed:
                yield name, eps, place, bool(rectified and line.min() < -allowed * size)

    usual, rounded, raw = _candidates(sources, _slopes(reference._wide(x), wide, axis, weight, rectified))
    fits = list(fitting(usual))
    if not any(place == "inside" and name != "batch, unbiased" for name, _, place, _ in fits):
        fits += fitting(rounded)  # an unusual eps is no rarer than a wrong place or variance
    fits = fits or list(fitting(raw))
    if not fits:
        text = f"no way of normalizing comes nearer to y than {best:.2g} of its largest value"
        return {"notes": (f"{text}: is weight or bias missing, or another step fused in?",)}
    names, eps, places, clipped = (tuple(dict.fromkeys(values)) for values in zip(*fits, strict=True))
    found = {"normalized_with": names, "eps": eps, "eps_place": ("inside",) if eps == (0.0,) else places}
    ambiguous = len(eps) > 1 or len(found["eps_place"]) > 1 or {"batch", "batch, unbiased"} <= set(names)
    notes = ("x cannot tell these apart; one with a smaller variance and fewer values could",) if ambiguous else ()
    return found | {"activation": "relu" if clipped == (True,) else None, "notes": notes}


# --- running statistics ---


def explain_running(statistics, state, before):
    """Return momentum and variance, or `refuted`, and notes; `doubt` is how far the states leave momentum open."""
    count, mean, m2 = statistics
    old_mean, old_var = (0 * mean, 0 * mean + 1) if before.mean is None else (before.mean, before.var)
    precision, batch = max(state.precision, before.precision), m2 / count
    step, moved = mean - old_mean, state.mean - old_mean
    if not moved.any() and np.array_equal(state.var, old_var):
        return {"notes": ("the running statistics have not moved: evaluation, or a momentum that keeps all",)}
    rounding = 2 * precision * np.maximum(np.abs(old_mean), np.abs(state.mean))
    square = float((step**2).sum())
    new, doubt = float((moved * step).sum() / square), float((rounding * np.abs(step)).sum() / square)
    others = 1e-5 * abs(new) * (np.abs(mean) + np.sqrt(batch))  # what other systems' float32 statistics are off by
    is_average = (np.abs(moved - new * step) <= 4 * rounding + others).all()
    if not (is_average and -4 * doubt <= new <= 1 + 4 * doubt + 1e-6):
        text = "running_mean is no average of the old one and the batch's mean"
        return {"refuted": True, "notes": (f"{text}: was there one call since `before`, without a mask or renorm?",)}
    kinds = {
        "unbiased": (1 - new) * old_var + new * m2 / (count - 1),
        "biased": (1 - new) * old_var + new * batch,
        "deviation": ((1 - new) * np.sqrt(old_var) + new * np.sqrt(batch)) ** 2,
    }
    allowed = 4 * precision * np.maximum(old_var, state.var) + 2 * doubt * np.abs(batch - old_var)
    allowed += 1e-5 * abs(new) * batch
    fits = tuple(kind for kind, var in kinds.items() if (np.abs(state.var - var) <= allowed).all())
    notes = ("the running variances cannot be told apart; fewer values per channel could",) if len(fits) > 1 else ()
    if not fits:
        return {"refuted": True, "notes": ("running_var fits no variance with the momentum that running_mean shows",)}
    if doubt > 1e-3 * new:
        notes += (f"the mean moved too little to show the momentum better than to {doubt:.1g}",)
    return {"momentum": min(max(new, 0.0), 1.0), "variance": fits, "doubt": doubt, "notes": notes + _calls(new, doubt)}


def _calls(new, doubt):
    """A note if it looks like several calls with one batch."""
    known = [conventions.named(name) for name in conventions.NAMES]
    for kept in sorted({1 - c.weight_of_new(c.momentum) for c in known if c.momentum}):
        if 0 < kept < 1 and 0 < new < 1:
            calls = np.log(1 - new) / np.log(kept)
            if 1.5 < calls < 20 and abs(calls - round(calls)) < 1e-3 + 4 * doubt:
                return (f"{1 - new:.4g} is {kept:.4g}**{round(calls)}: as after {round(calls)} calls with this batch",)
    return ()
