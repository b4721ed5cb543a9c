"""explanation: which convention another system used, found from what it made of a batch."""

from dataclasses import dataclass

import numpy as np

from . import _core, conventions, reference
from .arrays import real
from .evidence_of_running import explain_running
from .evidence_of_y import Way, explain_y
from .observed import State, finite, given_y

__all__ = ["Explanation", "Way", "explain"]

_SOURCES = {
    "batch": "the batch's own statistics (training)",
    "batch, unbiased": "the batch's own statistics, with the unbiased variance",
    "running": "the running statistics (evaluation)",
    "running, before": "the running statistics from before the call (evaluation)",
}


@dataclass(frozen=True)
class Explanation:
    """What `explain` found. Several values where all of them fit; none where nothing was given or nothing fits.

    Attributes
    ----------
    ways : tuple of Way
        Ways of normalizing that give y: with which statistics and which eps, inside or outside the root. Those that
        need an unusual eps and an unusual place or variance are left out where a usual eps does it.
    activation : str or None
        "relu" if y is what that leaves.
    momentum : float or None
        Weight of the new value in the running statistics.
    variance : tuple of str
        What the running variance took: "unbiased", "biased" or "deviation".
    conventions : tuple of str
        Names of `cbn.conventions` that fit.
    by_default : bool
        Whether they do so with their own eps and momentum; if none does, those are named that do with others.
    differences : tuple of str
        What differs from the convention that was assumed.
    notes : tuple of str
        What could not be found, and why.
    """

    ways: tuple = ()
    activation: str | None = None
    momentum: float | None = None
    variance: tuple = ()
    conventions: tuple = ()
    by_default: bool = True
    differences: tuple = ()
    notes: tuple = ()

    @property
    def normalized_with(self):
        """All statistics that fit: "batch", "batch, unbiased", "running" or "running, before"."""
        return tuple(dict.fromkeys(way.normalized_with for way in self.ways))

    @property
    def eps(self):
        """All eps that are named in `ways`."""
        return tuple(dict.fromkeys(eps for way in self.ways for eps in way.eps))

    @property
    def eps_place(self):
        """All places of eps that fit: "inside" or "outside" the root."""
        return tuple(dict.fromkeys(way.eps_place for way in self.ways))

    def __str__(self):
        lines = []
        for texts, names in _grouped(self.ways).items():
            lines.append(f"{'or' if lines else 'y'}: normalized with {' or '.join(_SOURCES[name] for name in names)}")
            lines += [f"   {text}" for text in texts]
        if self.activation:
            lines.append(f"   followed by {self.activation}")
        if self.momentum is not None:
            lines.append(f"running statistics: momentum {_kept(self.momentum)}")
        if self.variance:
            lines.append(f"   running_var is {_kinds(self.variance)}")
        if self.conventions:
            lines.append(
                f"fits{'' if self.by_default else ', with another eps or momentum'}: {', '.join(self.conventions)}"
            )
        lines += [f"differs: {text}" for text in self.differences]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def _grouped(ways):
    """Names of statistics by the texts of their eps."""
    texts = {}
    for way in ways:
        named = " or ".join(f"{eps:g}" for eps in way.eps) if len(way.eps) < 4 else f"{way.eps[0]:g} to {way.eps[-1]:g}"
        text = f"eps {named} {way.eps_place} the root"
        if not way.is_sure:
            text += f" (any between {way.least:.2g} and {way.most:.2g} fits)"
        texts.setdefault(way.normalized_with, []).append(text)
    groups = {}
    for name, lines in texts.items():
        groups.setdefault(tuple(lines), []).append(name)
    return groups


def _kinds(variance):
    return " or ".join("made of averaged deviations" if kind == "deviation" else kind for kind in variance)


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
    Every value of y bounds the inverse deviation of its channel: within 8 units in the last place of y's dtype (times
    ``1 + abs(mean) / std``). What all of them leave is turned into a range of eps, for each of the statistics that y
    may have been normalized with, and for eps inside and outside the root. Named are 0 and the powers of ten from 1e-8
    to 0.1 in that range, or else the number with the fewest digits. Channels that are constant, or have values that are
    not finite, are left out. momentum is the least-squares solution of
    ``running_mean = (1 - new) * before + new * mean``, as exact as the dtypes of the states allow; then running_var is
    compared with each variance. Activations other than relu, residuals, masks and several calls at once are not looked
    for.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.random.default_rng(0).standard_normal((4, 2, 3)) / 20
    >>> other = cbn.BatchNorm(2, convention="keras", dtype=np.float64)        # stands for the other system
    >>> y = other(x)
    >>> found = cbn.explain(x, y, other.state_dict())
    >>> print(found)
    y: normalized with the batch's own statistics (training)
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
    after, old = State(state, "state", x, axis), State(before, "before", x, axis)
    if y is None and after.mean is None:
        raise ValueError("y or state must be given, state with running statistics; got neither")
    least = 1 if y is not None and after.mean is not None else 2  # one value shows evaluation
    if x.size < least * max(1, x.shape[axis]):
        raise ValueError(f"x must have a channel, and {least} or more values in each; got shape {x.shape}")
    y = None if y is None else given_y(y, x)
    x, y, left_out = finite(x, y, axis, (after, old))
    with np.errstate(all="ignore"):
        statistics = reference.statistics(x, axis)
        found = {} if y is None else explain_y(x, y, axis, statistics, after, old, assumed.eps_place)
        sources = {way.normalized_with for way in found.get("ways", ())}
        moved = _moved(statistics, after, old, sources, before is not None or y is None)
    notes = (*left_out, *after.notes, *found.pop("notes", ()), *moved.pop("notes", ()))
    if found.get("refuted"):
        notes += tuple(_other_axes(x, y, axis, after, old))
    doubt, found = moved.pop("doubt", 0.0), found | moved
    if not found.pop("refuted", False) and sources != {"batch, unbiased"}:
        found |= _fitting(found, doubt)
    return Explanation(**found, differences=tuple(_differences(found, assumed, doubt)), notes=notes)


def _moved(statistics, after, old, sources, knows_before):
    """What the running statistics show, if there are any and this is a training call."""
    evaluated = any(name.startswith("running") for name in sources)
    if after.mean is None or statistics[0] < 2:
        return {}
    if evaluated and "batch" not in sources and not knows_before:
        return {"notes": ("y is no training output: `before` is needed to see whether the statistics moved",)}
    moved = explain_running(statistics, after, old, sources == {"batch"})
    if evaluated and not knows_before:
        moved.pop("refuted", None)  # of evaluation they are what they were
    return moved


def _other_axes(x, y, axis, after, old):
    """A note if y fits along another axis."""
    for other in range(x.ndim):
        same = x.shape[other] == x.shape[axis] or (after.is_empty and old.is_empty)
        if other != axis % x.ndim and same and x.size >= 2 * x.shape[other]:
            with np.errstate(all="ignore"):
                if "ways" in explain_y(x, y, other, reference.statistics(x, other), after, old):
                    yield f"with axis={other} it fits"


# --- conventions ---


def _fitting(found, doubt):
    """Names of the conventions that fit, and whether with their own eps and momentum."""
    variance, ways, new = (found.get(name) for name in ("variance", "ways", "momentum"))
    fits = [conventions.named(name) for name in conventions.NAMES if variance or ways]
    fits = [c for c in fits if c.variance in (variance or (c.variance,)) and (not ways or _near(ways, c))]
    if new is not None:
        fits = [c for c in fits if c.eps_place == "inside"]  # without which there is no training
    own = [c for c in fits if not ways or any(way.least <= c.eps <= way.most for way in _near(ways, c))]
    own = [c for c in own if new is None or _has_momentum(c, new, doubt)]
    return {"conventions": tuple(c.name for c in own or fits), "by_default": bool(own) or not fits}


def _near(ways, convention):
    """The ways with the convention's place of eps."""
    return [way for way in ways if way.eps_place == convention.eps_place and way.normalized_with != "batch, unbiased"]


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
        own = assumed.weight_of_new(assumed.momentum)
        mixed = f": the weights of old and new are mixed up ({1 - own:.4g} and {own:.4g})"
        mixed = mixed if abs(1 - own - new) <= 1e-4 * new + 4 * doubt else ""
        yield f"momentum {_kept(new)}; the default of {name} keeps {1 - own:.4g}{mixed}"
    ways = found.get("ways", ())
    places = {way.eps_place: None for way in ways}
    near = [way for way in ways if way.eps_place == assumed.eps_place] or ways
    if near and not any(way.least <= assumed.eps <= way.most for way in near):
        eps = dict.fromkeys(f"{value:g}" for way in near for value in way.eps)
        yield f"eps is {' or '.join(eps)}, the default of {name} is {assumed.eps:g}"
    if places and assumed.eps_place not in places:
        yield f"eps stands {' or '.join(places)} the root, not {assumed.eps_place} as in {name}"
    if {way.normalized_with for way in ways} == {"batch, unbiased"}:
        yield "y is normalized with the unbiased variance, which no training of cbn does"
