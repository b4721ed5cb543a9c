"""observed: what `explain` is given of another system: x, y and states, checked, and without what is not finite."""

import numpy as np

from . import reference
from .arrays import real
from .report import EPS

__all__ = ["State", "finite", "given_y"]

# what the arrays of a state are called in torch; Keras; ONNX; Flax
_NAMES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta", "B"),
    "running_mean": ("running_mean", "moving_mean", "input_mean", "mean"),
    "running_var": ("running_var", "moving_variance", "input_var", "var"),
}
_USED = {"num_batches_tracked", *(key for names in _NAMES.values() for key in names)}


def given_y(y, x):
    y = real(y, "y")
    if y.shape != x.shape:
        raise ValueError(f"y must have shape {x.shape}, as x has; got {y.shape}")
    return y


def finite(x, y, axis, states):
    """x and y without the channels that have a NaN or infinity in either, and a note that says so."""
    good = np.ones(x.shape[axis], bool)
    for array in (x, y):
        if array is not None:
            good &= reference._by_channel(np.isfinite(array.astype(np.float64, copy=False)), axis).all(axis=1)
    if good.all():
        return x, y, ()
    if not good.any():
        raise ValueError("x and y must have a channel in which all values are finite; got none")
    for state in states:
        state.keep(good)
    x, y = (v if v is None else np.compress(good, v, axis) for v in (x, y))
    return x, y, (f"channel {', '.join(map(str, np.flatnonzero(~good)))} is left out: not all values are finite",)


class State:
    """The arrays of a state in a wider precision, None where there are none, and the coarsest precision among them."""

    def __init__(self, state, name, channels, axis):
        arrays, self.precision = dict.fromkeys(_NAMES), EPS["float64"]
        if state is not None and not hasattr(state, "keys"):
            raise TypeError(f"{name} must be a dict of arrays; got {type(state).__name__}")
        for own, key in ((own, key) for own, names in _NAMES.items() for key in names if key in (state or ())):
            value = real(state[key], f"{name}[{key!r}]")
            if arrays[own] is None:
                arrays[own] = reference._wide(value)
                self.precision = max(self.precision, EPS.get(value.dtype.name, EPS["float32"]))
            if value.shape != (channels,):
                text = f"{name}[{key!r}] must have shape ({channels},), the channels of axis {axis} of x"
                raise ValueError(f"{text}; got {value.shape}")
        self.weight, self.bias, self.mean, self.var = arrays.values()
        if state and not any(value is not None for value in arrays.values()):
            raise ValueError(f"{name} must have arrays like weight or running_mean; got {', '.join(map(str, state))}")
        unused = [str(key) for key in state or () if key not in _USED]
        self.notes = (f"{name} has what is not used: {', '.join(unused)}",) if unused else ()
        self.batches = _batches(state or {}, name)
        if (self.mean is None) != (self.var is None):
            raise ValueError(f"{name} must have both running statistics or neither; got one")

    def keep(self, good):
        """Leave out channels."""
        for own in ("weight", "bias", "mean", "var"):
            if getattr(self, own) is not None:
                setattr(self, own, getattr(self, own)[good])


def _batches(state, name):
    """The training calls so far, None if that is not known."""
    if "num_batches_tracked" not in state:
        return None
    value = real(state["num_batches_tracked"], f"{name}['num_batches_tracked']")
    return int(value) if value.size == 1 else None
