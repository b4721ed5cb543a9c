"""explanation: which convention another system used, found from what it made of a batch."""

from dataclasses import dataclass

import numpy as np

from . import _core, conventions, reference
from .arrays import real
from .evidence import explain_running, explain_y
from .report import EPS

__all__ = ["Explanation", "explain"]

# what the arrays of a state are called in torch; Keras; ONNX; Flax
_NAMES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta", "B"),
    "running_mean": ("running_mean", "moving_mean", "input_mean", "mean"),
    "running_var": ("running_var", "moving_variance", "input_var", "var"),
}
_SOURCES = {
    "batch": "the batch's own statistics",
    "batch, unbiased": "the batch's own statistics, with the unbiased variance",
    "running": "the running statistics",
    "running, before": "the running statistics from before the call",
}


@dataclass(frozen=True)
class Explanation:
    """What `explain` found. Several values where all of them fit; none where nothing was given or nothing fits.

    Attributes
    ----------
    normalized_with : tuple of str
        "batch", "batch, unbiased", "running" or "running, before".
    eps : tuple of float
    eps_place : tuple of str
        "inside" or "outside" the root.
    activation : str or None
        "relu" if y is what that leaves.
    momentum : float or None
        Weight of the new value in the running statistics.
    variance : tuple of str
        What the running variance took: "unbiased", "biased" or "deviation".
    conventions : tuple of str
        Names of `cbn.conventions` that fit, with their own eps and momentum where any does, else with others.
    differences : tuple of str
        What differs from the convention that was assumed.
    notes : tuple of str
        What could not be found, and why.
    """

    normalized_with: tuple = ()
    eps: tuple = ()
    eps_place: tuple = ()
    activation: str | None = None
    momentum: float | None = None
    variance: tuple = ()
    conventions: tuple = ()
    differences: tuple = ()
    notes: tuple = ()

    def __str__(self):
        lines = []
        if self.normalized_with:
            lines.append("y: normalized with " + " or ".join(_SOURCES[s] for s in self.normalized_with))
            lines.append(f"   eps {_numbers(self.eps)} {' or '.join(self.eps_place)} the root")
            if self.activation:
                lines.append(f"   followed by {self.activation}")
        if self.momentum is not None:
            lines.append(f"running statistics: momentum {_kept(self.momentum)}")
        if self.variance:
            lines.append(f"   running_var is {_kinds(self.variance)}")
        if self.conventions:
            lines.append(f"fits: {', '.join(self.conventions)}")
        lines += [f"differs: {text}" for text in self.differences]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def _kinds(variance):
    return " or ".join("made of averaged deviations" if kind == "deviation" else kind for kind in variance)


def _numbers(values):
    return " or ".join(f"{value:g}" for value in values)


def _kept(new):
    return f"keeps {round(1 - new, 7):.4g} of the old value, {new:.4g} of the new"


def explain(x, y=None, state=None, *, before=None, axis=1, assumed="torch"):
    """Find out under which convention another system computed y and its running statistics from x.

    Parameters
    ----------
    x : array_like of float
        What that system was given; of any rank from 2 on. A few dozen values per channel with a small variance show
        more than many with a large one.
    y : array_like, optional
        What it returned, of x's shape.
    state : dict of array_like, optional
        Its arrays after that call: weight, bias, running_mean, running_var, or as Keras (gamma, beta, moving_mean,
        moving_variance), ONNX (scale, B, input_mean, input_var) and Flax (scale, bias, mean, var) call them.
    before : dict of array_like, optional
        The same before the call; running statistics that are not given were 0 and 1.
    axis : int
        The channel axis.
    assumed : Convention or str
        What the differences are counted from.

    Returns
    -------
    Explanation
        Print it for the answer in words.

    Raises
    ------
    TypeError, ValueError
        If y and the running statistics are both missing, or shapes do not fit.

    Notes
    -----
    y is compared, in a wider precision than float64, with all ways of normalizing: for eps of 0 and of the powers of
    ten from 1e-8 to 0.1, or if none of these fits inside the root for the one that the slope of y over x shows. What is
    within 8 units in the last place of y's dtype fits, or ``1 + abs(mean) / std`` times that. momentum is the
    least-squares solution of ``running_mean = (1 - new) * before + new * mean``, as exact as the dtypes of the states
    allow; then running_var is compared with each variance. Activations other than relu, residuals, masks and several
    calls at once are not looked for.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.random.default_rng(0).standard_normal((4, 2, 3)) / 20
    >>> other = cbn.BatchNorm(2, convention="keras", dtype=np.float64)        # stands for the other system
    >>> y = other(x)
    >>> found = cbn.explain(x, y, other.state_dict())
    >>> print(found)
    y: normalized with the batch's own statistics
       eps 0.001 inside the root
    running statistics: momentum keeps 0.99 of the old value, 0.01 of the new
       running_var is biased
    fits: keras
    differs: running_var is biased, not unbiased as in torch
    differs: momentum keeps 0.99 of the old value, 0.01 of the new; the default of torch keeps 0.9
    differs: eps is 0.001, the default of torch is 1e-05
    """
    assumed = conventions.named(assumed)
    x = real(x, "x")
    axis = _core.channel_axis(axis, x)
    after = _State(state, "state", x.shape[axis])
    old = _State(before, "before", x.shape[axis])
    if y is None and after.mean is None:
        raise ValueError("y or state must be given, state with running statistics; got neither")
    with np.errstate(all="ignore"):  # what is not finite fits nothing
        statistics = reference.statistics(x, axis)
        if statistics[0] < 2 or not x.size:
            raise ValueError(f"x must have a channel, and more than 1 value in each; got shape {x.shape}")
        found = {} if y is None else explain_y(x, _given_y(y, x), axis, statistics, after, old)
        sources = found.get("normalized_with", ("batch",))
        if after.mean is not None and "batch" not in sources and before is None and y is not None:
            moved = {"notes": ("y is no training output: `before` is needed to see whether the statistics moved",)}
        else:
            moved = {} if after.mean is None else explain_running(statistics, after, old)
    notes = (*found.pop("notes", ()), *moved.pop("notes", ()))
    doubt, refuted = moved.pop("doubt", 0.0), moved.pop("refuted", False)
    refuted = refuted or (y is not None and not found) or sources == ("batch, unbiased",)
    found |= moved
    found["conventions"] = () if refuted else _fitting(found, doubt)
    return Explanation(**found, differences=tuple(_differences(found, assumed, doubt)), notes=notes)


# --- what is given ---


def _given_y(y, x):
    y = real(y, "y")
    if y.shape != x.shape:
        raise ValueError(f"y must have shape {x.shape}, as x has; got {y.shape}")
    return y


class _State:
    """The arrays of a state in a wider precision, None where there are none, and the coarsest precision among them."""

    def __init__(self, state, name, channels):
        arrays, self.precision = dict.fromkeys(_NAMES), EPS["float64"]
        if state is not None and not hasattr(state, "keys"):
            raise TypeError(f"{name} must be a dict of arrays; got {type(state).__name__}")
        for own, key in ((own, key) for own, names in _NAMES.items() for key in names if key in (state or ())):
            value = real(state[key], f"{name}[{key!r}]")
            if arrays[own] is None:
                arrays[own] = reference._wide(value)
                self.precision = max(self.precision, EPS.get(value.dtype.name, EPS["float32"]))
            if value.shape != (channels,):
                raise ValueError(f"{name}[{key!r}] must have shape ({channels},); got {value.shape}")
        self.weight, self.bias, self.mean, self.var = arrays.values()
        if state and not any(value is not None for value in arrays.values()):
            raise ValueError(f"{name} must have arrays like weight or running_mean; got {', '.join(map(str, state))}")
        if (self.mean is None) != (self.var is None):
            raise ValueError(f"{name} must have both running statistics or neither; got one")


# --- conventions ---


def _fitting(found, doubt):
    """Names of the conventions that fit, by preference those with their own eps and momentum."""
    variance, places, eps = (found.get(name) for name in ("variance", "eps_place", "eps"))
    new = found.get("momentum")
    fits = [conventions.named(name) for name in conventions.NAMES if found]
    fits = [c for c in fits if c.variance in (variance or (c.variance,)) and c.eps_place in (places or (c.eps_place,))]
    if new is not None:
        fits = [c for c in fits if c.eps_place == "inside"]  # without which there is no training
    own = [c for c in fits if c.eps in (eps or (c.eps,)) and (new is None or _has_momentum(c, new, doubt))]
    return tuple(c.name for c in own or fits)


def _has_momentum(convention, new, doubt):
    """Whether it is the convention's own; of a plain average the first batch is all there is."""
    own = 1 if convention.momentum is None else convention.weight_of_new(convention.momentum)
    return abs(own - new) <= 1e-4 * own + 1e-7 + 4 * doubt


def _differences(found, assumed, doubt):
    name = assumed.name
    if found.get("variance") and assumed.variance not in found["variance"]:
        yield f"running_var is {_kinds(found['variance'])}, not {_kinds((assumed.variance,))} as in {name}"
    new = found.get("momentum")
    if new is not None and assumed.momentum is not None and not _has_momentum(assumed, new, doubt):
        kept = 1 - assumed.weight_of_new(assumed.momentum)
        yield f"momentum {_kept(new)}; the default of {name} keeps {kept:.4g}"
    if found.get("eps") and assumed.eps not in found["eps"]:
        yield f"eps is {_numbers(found['eps'])}, the default of {name} is {assumed.eps:g}"
    if found.get("eps_place") and assumed.eps_place not in found["eps_place"]:
        yield f"eps stands {' or '.join(found['eps_place'])} the root, not {assumed.eps_place} as in {name}"
    if found.get("normalized_with") == ("batch, unbiased",):
        yield "y is normalized with the unbiased variance, which no training of cbn does"
