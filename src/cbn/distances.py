"""distances: how far what each convention makes of x is from what was given, over what rounding explains."""

import numpy as np

from . import _core, conventions, reference
from .arrays import real
from .evidence_of_running import explain_running, variances
from .evidence_of_y import distance_of_y, sources_of
from .observed import State, finite, given_y

__all__ = ["distances"]


def distances(found, x, y=None, state=None, *, before=None, axis=1):
    """Return, for y and running_var if they were given, ``{what was taken: {name: distance}}``.

    `found` is what `explain` says of the same arguments. Up to a distance of 1 rounding explains it. The names are
    those of the conventions, with their own eps, and any other eps that was found. running_var is that of their own
    momentum, and of the one that was found.
    """
    x = real(x, "x")
    axis = _core.channel_axis(axis, x)
    after, old = State(state, "state", x, axis), State(before, "before", x, axis)
    x, y, _ = finite(x, None if y is None else given_y(y, x), axis, (after, old))
    answer, known = {}, [conventions.named(name) for name in conventions.NAMES]
    with np.errstate(all="ignore"):
        statistics = reference.statistics(x, axis)
        if y is not None:
            places = {c.name: (c.eps, c.eps_place) for c in known}
            other = {(way.eps[0], way.eps_place): None for way in found.ways if not _is_own(way, known)}
            places |= {f"eps {eps:g} {place}": (eps, place) for eps, place in other}
            answer["y"] = {
                name: _by_name(distance_of_y(x, y, axis, after, old, *source, bool(found.activation)), places)
                for name, source in sources_of(statistics, after, old).items()
            }
        if after.var is not None and statistics[0] > 1 and (found.momentum is not None or not found.ways):
            own = {c.name: (c.variance, 1 if c.momentum is None else c.weight_of_new(c.momentum)) for c in known}
            answer["running_var"] = {"its own momentum": _of_var(statistics, after, old, own)}
            if found.momentum is not None:
                doubt = explain_running(statistics, after, old, False).get("doubt", 0.0)
                same = {name: (kind, found.momentum) for name, (kind, _) in own.items()}
                name = f"the momentum found, {found.momentum:.4g} of the new"
                answer["running_var"][name] = _of_var(statistics, after, old, same, doubt)
    return answer


def _is_own(way, known):
    return any(c.eps in way.eps and c.eps_place == way.eps_place for c in known)


def _by_name(distance, places):
    return {name: distance(*place) for name, place in places.items()}


def _of_var(statistics, after, old, ways, doubt=0.0):
    """The distance of running_var for each kind of variance and weight of the new value."""

    def distance(kind, new):
        kinds, allowed = variances(statistics, after, old, new, doubt)
        return float(np.max(np.abs(after.var - kinds[kind]) / allowed))

    return _by_name(distance, ways)
