"""keras: weights of Keras' BatchNormalization, in and out; neither needs Keras."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .. import _core, conventions
from .layers import build, exported

__all__ = ["KERAS_FUSED", "KerasWeights", "from_weights", "to_weights"]

_PARAMETERS = {"weight": "gamma", "bias": "beta"}
_MOVING = {"running_mean": "moving_mean", "running_var": "moving_variance"}
_RENORM = {"renorm_mean": "renorm_mean", "renorm_std": "renorm_stddev"}
_STDDEV = "moving_stddev"  # the root of moving_variance + epsilon, before renorm_mean
_NAMES = [*_PARAMETERS.values(), *_MOVING.values(), _STDDEV, *_RENORM.values()]  # in Keras' order
_NUMBERS = {"eps": "epsilon", "momentum": "momentum"}
KERAS_FUSED = dataclasses.replace(conventions.KERAS, name="keras_fused", variance="unbiased")


class KerasWeights(NamedTuple):
    """``BatchNormalization(**config)``, once it is built, takes the arrays by ``set_weights(weights)``."""

    weights: list
    config: dict


def from_weights(weights, config=None, *, fused=False, num_batches=0):
    """Return the layer that a Keras BatchNormalization is.

    Parameters
    ----------
    weights : list or dict of array_like
        ``layer.get_weights()``, or arrays by the names gamma, beta, moving_mean, moving_variance.
    config : dict, optional
        ``layer.get_config()``, of Keras 2 or 3: axis, momentum, epsilon, center, scale, trainable, renorm. What is
        not there is Keras' default: axis -1, momentum 0.99, epsilon 1e-3. A list of three arrays needs center and
        scale, since it could lack either.
    fused : bool
        Whether the moving variance is that of TensorFlow's fused operation, which is unbiased: that of Keras 2
        (tf_keras) for inputs of rank 4, unless it was made with ``fused=False``. Keras 3 has none.
    num_batches : int
        That the layer was trained with, if you know it: `convert` then knows what the start of its moving variance
        still weighs; else it takes it as nothing.

    Returns
    -------
    BatchNorm
        With Keras' convention (with unbiased variance if `fused`), in training mode; frozen if ``trainable`` is False.
        `convert` makes it torch's.

    Raises
    ------
    TypeError, ValueError
        For a number or shapes of arrays that do not fit each other or the configuration, and for virtual batches,
        which Keras 3 has not.

    Notes
    -----
    Keras' renorm keeps the moving deviation apart, whose start is 1; here it is ``sqrt(running_var + eps)``.

    Examples
    --------
    >>> import numpy as np, cbn.interop.keras
    >>> weights = [np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)]                # gamma, beta, mean, variance
    >>> cbn.interop.keras.from_weights(weights, {"axis": 1, "momentum": 0.9})       # doctest: +ELLIPSIS
    BatchNorm(3, eps=0.001, momentum=0.9, ..., convention='keras', dtype=float64)
    """
    config = _checked_config(config)
    if isinstance(weights, list | tuple):
        names = _order(len(weights), config)
        if len(weights) != len(names):
            raise ValueError(f"weights must be {', '.join(names)}; got {len(weights)} arrays")
        weights = dict(zip(names, weights, strict=True))
    elif not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a list or dict of arrays; got {type(weights).__name__}")
    _check_names(weights, config)
    own = _PARAMETERS | _MOVING | _RENORM
    given = {name: (called, weights[called]) for name, called in own.items() if called in weights}
    given["num_batches_tracked"] = ("num_batches", num_batches)
    axis = config.get("axis", -1)
    options = {"axis": axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis}
    options |= {name: config[called] for name, called in _NUMBERS.items() if called in config}
    if _STDDEV in weights:
        kept = _core.check_momentum(config.get("renorm_momentum", 0.99), "renorm_momentum")
        clipping = config.get("renorm_clipping") or None
        options |= {"renorm": True, "renorm_momentum": conventions.complement(kept), "renorm_clipping": clipping}
    convention = KERAS_FUSED if _core.check_flag(fused, "fused") else conventions.KERAS
    return build(given, convention, frozen=not config.get("trainable", True), **options)


def _checked_config(config):
    if not isinstance(config, Mapping | None):
        raise TypeError(f"config must be a dict; got {type(config).__name__}")
    config = config or {}
    if "class_name" in config:
        raise ValueError("config must be what get_config() returns; got a serialized layer, which has it as 'config'")
    if config.get("virtual_batch_size") is not None:
        raise ValueError(f"virtual_batch_size must be None, as in Keras 3; got {config['virtual_batch_size']!r}")
    return config


def _order(number, config):
    """The names of so many arrays, in Keras' order."""
    renorm = config.get("renorm", number > 4)
    parameters = number - (5 if renorm else 2)
    if parameters == 1 and not {"scale", "center"} <= set(config):
        raise ValueError("config must have scale and center where weights lack one of gamma and beta; got neither")
    used = {"gamma": config.get("scale", parameters > 0), "beta": config.get("center", parameters > 0)}
    used |= dict.fromkeys((_STDDEV, *_RENORM.values()), renorm)
    return [name for name in _NAMES if used.get(name, True)]


def _check_names(weights, config):
    """That a dict has what a layer has, and what the configuration says."""
    renorm = {_STDDEV, *_RENORM.values()}
    has_renorm = bool(renorm & set(weights))
    wanted = {*_MOVING.values(), *(renorm if has_renorm else ())}
    if not wanted <= set(weights) <= set(_NAMES):
        found = ", ".join(map(str, weights)) or "none"
        raise ValueError(f"weights must have all that belong together of {', '.join(_NAMES)}; got {found}")
    for key, has in (("scale", "gamma" in weights), ("center", "beta" in weights), ("renorm", has_renorm)):
        if bool(config.get(key, has)) != has:
            raise ValueError(f"config must have {key}={has} for these weights; got {config[key]}")


def to_weights(layer, *, count=None, variance="convert"):
    """Return a layer's arrays as Keras has them, and the configuration of a BatchNormalization for them.

    Parameters
    ----------
    layer : BatchNorm
        Of any convention.
    count, variance
        How an unbiased running variance becomes Keras', see `convert`.

    Returns
    -------
    KerasWeights
        ``weights, config``.

    Raises
    ------
    TypeError, ValueError
        As `convert`; for a layer with an activation, without running statistics, or with ``momentum=None``, which
        Keras does not have.

    Examples
    --------
    >>> import cbn.interop.keras
    >>> weights, config = cbn.interop.keras.to_weights(cbn.BatchNorm(3, momentum=0.05))
    >>> len(weights), config["momentum"], config["epsilon"]
    (4, 0.95, 1e-05)
    """
    layer = exported(layer, conventions.KERAS, "Keras", count=count, variance=variance, renorm=True)
    if layer.momentum is None:
        raise ValueError("momentum must be a number, since Keras has no plain average; got None")
    own = _PARAMETERS | _MOVING | _RENORM
    arrays = {own[name]: array for name, array in layer.state_dict().items() if name in own}
    if layer.renorm:
        arrays[_STDDEV] = np.sqrt(layer.running_var + layer.eps, dtype=np.float64).astype(layer.dtype)
    config = {"axis": layer.axis, "dtype": str(layer.dtype)}
    config |= {called: getattr(layer, name) for name, called in _NUMBERS.items()}
    config |= {"scale": layer.weight is not None, "center": layer.bias is not None, "trainable": not layer.frozen}
    if layer.renorm:
        config |= {"renorm": True, "renorm_clipping": layer.renorm_clipping}
        config["renorm_momentum"] = conventions.complement(layer.renorm_momentum)
    return KerasWeights([arrays[name] for name in _NAMES if name in arrays], config)
