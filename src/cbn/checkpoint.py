"""checkpoint: a layer's state in and out of dicts and files, all or nothing, and never by pickle."""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from . import _core, containers, options
from .arrays import array_of
from .conventions import Convention

__all__ = ["LoadResult", "load", "load_state", "save"]

FORM = "cbn.BatchNorm"  # of files
OPTIONS = ("num_features", "eps", "momentum", "affine", "track_running_stats", "negative_slope", "one_value")
OPTIONS += tuple(options.DEFAULTS)
HISTORY = "count", "start"  # what a layer knows of its batches
_STORED = "variance", "eps_place"  # fields of a convention that say what the arrays are


class LoadResult(NamedTuple):
    """Keys that a state lacked, and keys that it had too many."""

    missing_keys: list
    unexpected_keys: list


@_core.default_rounding
def load_state(layer, state, strict=True, names=None):
    """Check the whole state, then copy it into the layer's arrays; `names` is what texts call them."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of arrays; got {type(state).__name__}")
    _core.check_flag(strict, "strict")
    target = layer._state()
    metadata = _metadata_of(state)
    missing = [key for key in target if key not in state]
    unexpected = [key for key in state if key not in target]
    called = {key: (names or {}).get(key, key) for key in target}
    values = {key: _converted(state[key], key, target[key], called[key]) for key in target if key in state}
    if "num_batches_tracked" in missing and "running_mean" in state and metadata.get("version") != 2:
        missing.remove("num_batches_tracked")  # as in version 1, and in torchvision's and Detectron2's frozen norms
        values["num_batches_tracked"] = np.array(0, np.int64)
    if strict and (missing or unexpected):
        differences = [f"no {key}" for key in missing] + [f"also {key}" for key in unexpected]
        raise ValueError(f"state must have exactly the keys {', '.join(target)}; got {', '.join(differences)}")
    if "eps" in metadata and metadata["eps"] != layer.eps:
        raise ValueError(f"state must come from a layer with eps {layer.eps}; got {metadata['eps']}")
    if "running_var" in values and not layer.renorm:
        for name, what in zip(_STORED, ("running variance", "place of eps"), strict=True):
            own = getattr(layer.convention, name)
            if metadata["convention"].get(name, own) != own:
                found = metadata["convention"][name]
                raise ValueError(f"state must come from a layer whose {what} is {own}; got {found}")
    for key in values:
        if not target[key].flags.writeable:
            raise ValueError(f"{key} must be writeable; got a read-only array")
    targets = {key: target[key] for key in values}
    if "running_var" in values:
        targets["history"], values["history"] = layer._history, _history_of(metadata, values, layer)
    result = LoadResult(missing, unexpected)
    _core.assign(targets.values(), values.values())
    return result


def _metadata_of(state):
    """version, eps, convention and history, as far as the state has them."""
    metadata = getattr(state, "_metadata", None) or {}
    own = metadata.get("", {}) if isinstance(metadata, Mapping) else metadata
    if not isinstance(own, Mapping):
        raise TypeError(f"state must have dicts for _metadata; got {type(own).__name__}")
    convention = own.get("convention", {})
    if not isinstance(convention, Mapping) or not all(isinstance(convention.get(n, ""), str) for n in _STORED):
        raise TypeError(f"state must have a dict of texts and numbers for convention; got {convention!r}")
    for name in ("version", "eps", *HISTORY):
        if not isinstance(own.get(name), bool | None) and not _core.is_number(own[name]):
            raise TypeError(f"state must have a number for {name}; got {own[name]!r}")
    for name, largest in zip(HISTORY, (sys.float_info.max, 1), strict=True):
        with np.errstate(all="ignore"):  # where a float32 is compared with more than it can be
            fits = own.get(name) is None or 0 <= own[name] <= largest
        if not fits:
            raise ValueError(f"state must have a {name} between 0 and {largest}; got {own[name]}")
    return {**own, "convention": convention}


def _history_of(metadata, values, layer):
    """What the layer remembers of its batches: count (NaN: unknown), and the weight that the variance's start has."""
    count, start = (metadata.get(name) for name in HISTORY)
    untouched = not values.get("running_mean", layer.running_mean).any() and (values["running_var"] == 1).all()
    if untouched and start is None:
        return np.array([0.0, 1.0])
    if start is None:
        batches = int(values.get("num_batches_tracked", layer.num_batches_tracked))
        new = layer.convention.weight_of_new(layer.momentum)
        start = 0.0 if batches == 0 or new is None else (1 - new) ** batches
    return np.array([np.nan if count is None else float(count), float(start)])


def _converted(value, key, target, name):
    value = array_of(value, name)
    if value.dtype.name == "bfloat16":
        value = value.astype(np.float32)
    if value.dtype.kind not in ("iu" if key == "num_batches_tracked" else "iuf"):
        kind = "an integer" if key == "num_batches_tracked" else "an array of real numbers"
        raise TypeError(f"{name} must be {kind}; got {value.dtype}")
    if value.shape != target.shape:
        raise ValueError(f"{name} must have shape {target.shape}; got {value.shape}")
    if key in ("running_var", "num_batches_tracked", "renorm_std") and (value < 0).any():
        raise ValueError(f"{name} must be >= 0; got {value.min()}")
    if key == "num_batches_tracked" and value > 2**62:
        raise ValueError(f"{name} must be at most 2**62; got {value}")
    with np.errstate(all="ignore"):
        converted = value.astype(target.dtype)
    lost = np.isfinite(value) & ~np.isfinite(converted)
    if lost.any():
        raise ValueError(f"{name} must fit {target.dtype}; got {value[lost].flat[0]}")
    return converted


def save(layer, path):
    """Write the layer, its options and its class."""
    state = layer.state_dict()
    meta = {"class": _own_class(type(layer)).__name__}
    meta |= {name: getattr(layer, name) for name in OPTIONS}
    meta |= {name: state._metadata[""][name] for name in HISTORY}
    meta["convention"] = layer.convention.to_dict()
    meta |= {"weight": layer.weight is not None, "bias": layer.bias is not None, "dtype": str(layer.dtype)}
    containers.save(path, FORM, meta, state, partial(_built, _own_class(type(layer))))


def load(cls, path):
    """Rebuild the layer that a file describes."""
    return containers.load(path, FORM, partial(_built, cls))


def _dtype(name):
    if name == "bfloat16":
        import ml_dtypes  # whose type it is; only such a file needs it

        return np.dtype(ml_dtypes.bfloat16)
    return _core.check_dtype(name)


def _built(cls, meta, file):
    layer_class = _class_of(cls, meta)
    arguments = {name: meta[name] for name in OPTIONS} | {"dtype": _dtype(meta["dtype"])}
    arguments["convention"] = Convention(**meta["convention"])
    channels = _core.check_size(arguments["num_features"], "num_features")
    names = _names(meta)
    containers.check_names(file, names)
    shapes = {name: () if name == "num_batches_tracked" else (channels,) for name in names}
    state = OrderedDict((name, file.array(name, shape)) for name, shape in shapes.items())
    state._metadata = {"": {name: meta[name] for name in HISTORY}}
    layer = layer_class(**arguments, weight=bool(meta["weight"]), bias=bool(meta["bias"]))
    load_state(layer, state)
    return layer


def _names(meta):
    """The arrays that a layer of these options has."""
    names = [name for name in ("weight", "bias") if meta["affine"] and meta[name]]
    names += ["running_mean", "running_var", "num_batches_tracked"] * bool(meta["track_running_stats"])
    return names + ["renorm_mean", "renorm_std"] * bool(meta["renorm"])


def _own_class(cls):
    """The class of ours that cls is or derives from."""
    from . import layer

    return next(base for base in cls.__mro__ if base.__module__ == layer.__name__)


def _class_of(cls, meta):
    """The class to load: the saved one, or a subclass of it if that is what was asked for."""
    from . import layer

    if meta["class"] not in layer.__all__:
        raise ValueError(f"class must be one of {', '.join(layer.__all__)}; got {meta['class']!r}")
    saved = getattr(layer, meta["class"])
    if not issubclass(saved, cls) and not issubclass(cls, saved):
        raise ValueError(f"class must be {cls.__name__}; got {meta['class']}")
    return saved if issubclass(saved, cls) else cls
