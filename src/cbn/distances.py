"""distances: how far what each convention makes of x is from what was given, over what rounding explains."""

import numpy as np

from . import _core, conventions, reference
from .arrays import real
from .evidence_of_running import average, variances
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
            eps = {c.name: (c.eps, c.eps_place) for c in known}
            others = [(way.eps[0], way.eps_place) for way in found.ways if not _is_own(way, known)]
            eps |= {f"eps {value:g} {place}": (value, place) for value, place in others}
            answer["y"] = {}
            for name, source in sources_of(statistics, after, old).items():
                distance = distance_of_y(x, y, axis, after, old, *source, bool(found.activation))
                answer["y"][name] = {label: distance(*one) for label, one in eps.items()}
        if after.var is not None and statistics[0] > 1 and (found.momentum is not None or not found.ways):
            answer["running_var"] = dict(_of_running_var(found, known, statistics, after, old))
    return answer


def _is_own(way, known):
    return any(c.eps in way.eps and c.eps_place == way.eps_place for c in known)


def _of_running_var(found, known, statistics, after, old):
    """The distances with each convention's own momentum, and with the one that was found."""

    def distance(kind, new, doubt=0.0):
        kinds, allowed = variances(statistics, after, old, new, doubt)
        return float(np.max(np.abs(after.var - kinds[kind]) / allowed))

    own = {c.name: 1 if c.momentum is None else c.weight_of_new(c.momentum) for c in known}
    yield "its own momentum", {c.name: distance(c.variance, own[c.name]) for c in known}
    if found.momentum is not None:
        doubt = average(statistics, after, old)[1]
        name = f"the momentum found, {found.momentum:.4g} of the new"
        yield name, {c.name: distance(c.variance, found.momentum, doubt) for c in known}
