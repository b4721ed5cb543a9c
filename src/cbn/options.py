"""options: the checks of a layer's options, which of them exclude each other, and how they read."""

import numpy as np

from . import _core, conventions

__all__ = [
    "DEFAULT",
    "DEFAULTS",
    "batch_size",
    "check_evaluation",
    "check_rank",
    "check_together",
    "check_unset",
    "clipping",
    "described",
]


class _Default:
    """What an option is that the convention decides."""

    def __repr__(self):
        return "DEFAULT"

    def __reduce__(self):
        return "DEFAULT"


DEFAULT = _Default()
# the options that repr names only where they differ from these, in its order
DEFAULTS = {
    "axis": 1,
    "activation": None,
    "dtype": np.dtype(np.float32),
    "nonfinite": "propagate",
    "frozen": False,
    "virtual_batch_size": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.01,
    "zero_debias": False,
}


def batch_size(value):
    """Return a number of samples, or None."""
    if value is None:
        return None
    if _core.check_integer(value, "virtual_batch_size") < 1:
        raise ValueError(f"virtual_batch_size must be 1 or more; got {value}")
    return int(value)


def clipping(bounds):
    """Return a copy of the dict, if every bound is one that r and d can have."""
    if bounds is None:
        return None
    if not isinstance(bounds, dict):
        raise TypeError(f"renorm_clipping must be a dict or None; got {type(bounds).__name__}")
    if set(bounds) - {"rmin", "rmax", "dmax"}:
        raise ValueError(f"renorm_clipping must be a dict with keys from rmin, rmax and dmax; got {bounds!r}")
    for name, bound in bounds.items():
        if not _core.is_number(bound) or not 0 <= bound <= np.inf:
            raise ValueError(f"renorm_clipping must have numbers >= 0; got {name}={bound!r}")
    bounds = {name: float(bound) for name, bound in bounds.items()}
    if bounds.get("rmin", 0) > bounds.get("rmax", np.inf):
        raise ValueError(f"renorm_clipping must have rmin <= rmax; got {bounds}")
    return bounds


def check_unset(layer, names, where):
    """Raise ValueError for the first of these options that is not its default."""
    for name in names:
        if getattr(layer, name):
            raise ValueError(f"{name} must be {DEFAULTS[name]} {where}; got {getattr(layer, name)}")


def check_together(layer):
    """Raise ValueError for options that exclude each other."""
    if layer.renorm:
        check_unset(layer, ("virtual_batch_size", "zero_debias"), "with renorm")
    if not layer.track_running_stats:
        check_unset(layer, ("renorm", "frozen", "zero_debias"), "without running statistics")
    if layer.convention.eps_place == "outside":
        if not layer.track_running_stats:
            raise ValueError("track_running_stats must be True with eps outside the root; got False")
        check_unset(layer, ("virtual_batch_size", "renorm"), "with eps outside the root")
    if layer.virtual_batch_size is not None and layer.axis == 0:
        raise ValueError("axis must not be 0, along which ghost batches are cut; got 0")


def check_evaluation(layer, name):
    """Raise RuntimeError unless the layer normalizes with running statistics."""
    if layer.training:
        raise RuntimeError(f"{name} must be in evaluation mode; got one in training mode: call its eval() before")
    if layer.running_mean is None:
        raise RuntimeError(f"{name} must have running statistics; got one with track_running_stats=False")


def check_rank(layer, x):
    """Raise torch's ValueError unless x has a rank that the layer's class takes."""
    rank = _core.unmasked(x, "x").ndim
    if rank not in layer._ranks:
        wanted = " or ".join(f"{r}D" for r in layer._ranks)
        raise ValueError(f"expected {wanted} input (got {rank}D input)")


def described(layer):
    """Return ``, name=value`` of all options that are not the default."""
    text = ", weight=False" if layer.affine and layer.weight is None else ""
    if layer.convention != conventions.TORCH:
        is_known = conventions.known(layer.convention)
        text += f", convention={layer.convention.name!r}" if is_known else f", convention={layer.convention!r}"
    if layer.one_value != layer.convention.one_value:
        text += f", one_value={layer.one_value!r}"
    for name, default in DEFAULTS.items():
        if getattr(layer, name) != default:
            text += f", {name}={getattr(layer, name)!r}" if name != "dtype" else f", dtype={layer.dtype}"
        if name == "activation" and layer.activation == "leaky_relu":
            text += f", negative_slope={layer.negative_slope}"
    return text
