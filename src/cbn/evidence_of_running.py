"""evidence_of_running: what running statistics show of how another system averaged them."""

import numpy as np

from . import conventions

__all__ = ["average", "explain_running", "variances"]


def explain_running(statistics, state, before, training):
    """Return momentum and variance, or `refuted`, and notes; `doubt` is how far the states leave momentum open.

    `training` says whether y is known to be that of a training call.
    """
    mean = statistics[1]
    old_mean, old_var = (0 * mean, 0 * mean + 1) if before.mean is None else (before.mean, before.var)
    if not (state.mean - old_mean).any() and np.array_equal(state.var, old_var):
        text = f"the running statistics have not moved: {'' if training else 'evaluation, '}a momentum that keeps all"
        return {"notes": (f"{text}, or `before` is no copy (of a torch state: clone each tensor)",)}
    new, doubt, is_average = average(statistics, state, before)
    if not is_average:
        text = "running_mean is no average of the old one and the batch's mean"
        return {"refuted": True, "notes": (f"{text}: {_why_not(state, before)}",)}
    if doubt > 0.1:
        return {"notes": ("the mean moved too little to show momentum and variance",)}
    kinds, allowed = variances(statistics, state, before, new, doubt)
    fits = tuple(kind for kind, var in kinds.items() if (np.abs(state.var - var) <= allowed).all())
    notes = ("the running variances cannot be told apart; fewer values per channel could",) if len(fits) > 1 else ()
    if not fits:
        text = "running_var fits no variance with the momentum that running_mean shows"
        return {"refuted": True, "notes": (f"{text}: {_why_not(state, before)}", *_calls(new, doubt, state))}
    if doubt > 1e-3 * new:
        notes += (f"the mean moved too little to show the momentum better than to {doubt:.1g}",)
    return {
        "momentum": min(max(new, 0.0), 1.0),
        "variance": fits,
        "doubt": doubt,
        "notes": notes + _calls(new, doubt, state),
    }


def average(statistics, state, before):
    """Return the weight of the new value in running_mean, how far the states leave it open, and whether it is one."""
    count, mean, m2 = statistics
    old, deviation = 0 * mean if before.mean is None else before.mean, np.sqrt(m2 / count)
    step, moved, precision = mean - old, state.mean - old, max(state.precision, before.precision)
    rounding = 2 * precision * np.maximum(np.abs(old), np.abs(state.mean)) + state.spacing
    square = float((step**2).sum())
    new = float((moved * step).sum() / square)
    sums = 4 * precision * abs(new) * deviation  # of the other system's mean, beside a mean near 0
    doubt = float(((rounding + sums) * np.abs(step)).sum() / square)
    others = 1e-5 * abs(new) * (np.abs(mean) + deviation)  # what other systems' float32 statistics are off by
    fits = (np.abs(moved - new * step) <= 4 * rounding + others).all()
    return new, doubt, bool(fits and -4 * doubt <= new <= 1 + 4 * doubt + 1e-4)


def variances(statistics, state, before, new, doubt):
    """What the running variance would be with each kind of variance, and how far it may be from that."""
    count, _, m2 = statistics
    old, batch = np.ones(len(m2)) if before.var is None else before.var, m2 / count
    kinds = {
        "unbiased": (1 - new) * old + new * m2 / (count - 1),
        "biased": (1 - new) * old + new * batch,
        "deviation": ((1 - new) * np.sqrt(old) + new * np.sqrt(batch)) ** 2,
    }
    rounding = 4 * max(state.precision, before.precision) * np.maximum(old, state.var) + state.spacing
    return kinds, rounding + 2 * doubt * np.abs(batch - old) + 1e-5 * abs(new) * batch


def _why_not(state, before):
    if before.mean is None:
        had = f" (it has had {state.batches})" if (state.batches or 1) > 1 else ""
        return f"`before` was not given and taken as 0 and 1; was there one call only{had}, without a mask or renorm?"
    return "was there one call since `before`, without a mask or renorm?"


def _calls(new, doubt, state):
    """A note if it looks like a plain average, or like several calls with one batch."""
    if doubt > 0.01 * abs(new):
        return ()
    if (state.batches or 0) > 1 and abs(new * state.batches - 1) < 1e-4 + 4 * doubt * state.batches:
        return (f"{new:.4g} is 1 / {state.batches}, num_batches_tracked: a plain average, momentum=None",)
    known = [conventions.named(name) for name in conventions.NAMES]
    for kept in sorted({1 - c.weight_of_new(c.momentum) for c in known if c.momentum}):
        if 0 < kept < 1 and 0 < new < 1:
            calls = np.log(1 - new) / np.log(kept)
            if 1.5 < calls < 20 and abs(calls - round(calls)) < 1e-3 + 4 * doubt:
                return (f"{1 - new:.4g} is {kept:.4g}**{round(calls)}: as after {round(calls)} calls with this batch",)
    return ()
