"""observed: what `explain` is given of another system: x, y and states, checked, and without what is not finite."""

import numpy as np

from . import reference
from .arrays import real
from .report import EPS, TINY

__all__ = ["State", "finite", "given_y", "precision_of"]

# what the arrays of a state are called in torch; Keras; ONNX; Flax
_NAMES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta", "B"),
    "running_mean": ("running_mean", "moving_mean", "input_mean", "mean"),
    "running_var": ("running_var", "moving_variance", "input_var", "var"),
}
_RENORM = {"renorm_mean", "renorm_std", "renorm_stddev", "moving_stddev"}
_USED = {"num_batches_tracked", *(key for names in _NAMES.values() for key in names)}


def precision_of(array):
    """The spacing of the values near 1: of their dtype, or of a coarser one that they were rounded to before."""
    if array.dtype.name not in EPS:
        return EPS["float32"]
    values = array[(array != 0) & (np.abs(array) != 1)]  # which are exact in all
    if values.size == 0 or array.dtype.itemsize == 2:
        return EPS[array.dtype.name]
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
        if not (single == values).all():
            return EPS["float64"]
        if (single.view(np.uint32) & 0xFFFF == 0).all():
            return EPS["bfloat16"]
        return EPS["float16"] if (single.astype(np.float16) == single).all() else EPS["float32"]


def given_y(y, x):
    y = real(y, "y")
    if y.shape != x.shape:
        moved = ", which has the axes in another order" if sorted(y.shape) == sorted(x.shape) else ""
        raise ValueError(f"y must have shape {x.shape}, as x has; got {y.shape}{moved}")
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
    """The arrays of a state in a wider precision, None where there are none, and how coarse they are."""

    def __init__(self, state, name, x, axis):
        if state is not None and not hasattr(state, "keys"):
            raise TypeError(f"{name} must be a dict of arrays; got {type(state).__name__}{_way_out(state)}")
        state = {} if state is None else state
        arrays, self.precision, self.spacing = dict.fromkeys(_NAMES), EPS["float64"], 0.0
        for own, key in ((own, key) for own, names in _NAMES.items() for key in names if key in state):
            value = real(state[key], f"{name}[{key!r}]")
            if value.shape != (x.shape[axis],):
                others = [str(k) for k in range(x.ndim) if value.shape == (x.shape[k],)]
                hint = f" (axis {' or '.join(others)} has so many)" if others else ""
                wanted = f"shape ({x.shape[axis]},), the channels of axis {axis} of x"
                raise ValueError(f"{name}[{key!r}] must have {wanted}; got {value.shape}{hint}")
            if arrays[own] is None:
                arrays[own] = reference._wide(value)
                if own.startswith("running"):
                    self.precision = max(self.precision, precision_of(value))
                    self.spacing = max(self.spacing, EPS.get(value.dtype.name, 0) * TINY.get(value.dtype.name, 0))
        self.weight, self.bias, self.mean, self.var = arrays.values()
        if state and not any(value is not None for value in arrays.values()):
            found = f"{', '.join(map(str, state))}{_way_out(state)}"
            raise ValueError(f"{name} must have arrays like weight or running_mean; got {found}")
        self.notes, self.batches = tuple(_unused(state, name)), _batches(state, name)
        if (self.mean is None) != (self.var is None):
            raise ValueError(f"{name} must have both running statistics or neither; got one")

    @property
    def is_empty(self):
        """Whether it has no arrays, which would say how many channels there are."""
        return all(array is None for array in (self.weight, self.bias, self.mean))

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


def _unused(state, name):
    unused = [str(key) for key in state if key not in _USED]
    if any(key in _RENORM for key in unused):
        yield f"{name} is that of a layer with renorm, which is not looked for"
    elif unused:
        yield f"{name} has what is not used: {', '.join(unused)}"


def _way_out(state):
    """What to make of other things than the dict of one layer."""
    if hasattr(state, "state_dict"):
        return ": give its state_dict()"
    if isinstance(state, list | tuple):
        return ": of Keras' weights cbn.interop.keras.from_weights(weights, config).state_dict() is one"
    if hasattr(state, "keys") and any(str(key).endswith((".running_mean", ".weight")) for key in state):
        return ": of a model's state cbn.interop.torch.from_state_dict(state, prefix).state_dict() is one"
    return ""
