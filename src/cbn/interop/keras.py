"""keras: weights of Keras' BatchNormalization, in and out; neither needs Keras."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .. import conventions
from .layers import build, exported

__all__ = ["KerasWeights", "from_weights", "to_weights"]

_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    None: "moving_stddev",  # the root of moving_variance + epsilon
    "renorm_mean": "renorm_mean",
    "renorm_std": "renorm_stddev",
}
_RENORM = ("moving_stddev", "renorm_mean", "renorm_stddev")


class KerasWeights(NamedTuple):
    """``BatchNormalization(**config)``, once it is built, takes the arrays by ``set_weights(weights)``."""

    weights: list
    config: dict


def from_weights(weights, config=None):
    """Return the layer that a Keras BatchNormalization is.

    Parameters
    ----------
    weights : list or dict of array_like
        ``layer.get_weights()``, or arrays by the names gamma, beta, moving_mean, moving_variance.
    config : dict, optional
        ``layer.get_config()``, of Keras 2 or 3: axis, momentum, epsilon, center, scale, trainable, renorm. What is
        not there is Keras' default: axis -1, momentum 0.99, epsilon 1e-3. A list of three arrays needs center and
        scale, since it could lack either.

    Returns
    -------
    BatchNorm
        With Keras' convention, in training mode; frozen if ``trainable`` is False. The running variance is Keras' own,
        biased; `convert` makes it torch's.

    Raises
    ------
    TypeError, ValueError
        For a number or shapes of arrays that do not fit.

    Examples
    --------
    >>> import numpy as np, cbn.interop.keras
    >>> weights = [np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)]                # gamma, beta, mean, variance
    >>> cbn.interop.keras.from_weights(weights, {"axis": 1, "momentum": 0.9})       # doctest: +ELLIPSIS
    BatchNorm(3, eps=0.001, momentum=0.9, ..., convention='keras', dtype=float64)
    """
    if not isinstance(config, Mapping | None):
        raise TypeError(f"config must be a dict; got {type(config).__name__}")
    config = config or {}
    if isinstance(weights, Mapping):
        arrays = dict(weights)
        wanted = [name for name in _NAMES.values() if name in arrays]
    elif isinstance(weights, list | tuple):
        wanted = _order(len(weights), config)
        arrays = dict(zip(wanted, weights, strict=True))
    else:
        raise TypeError(f"weights must be a list or dict of arrays; got {type(weights).__name__}")
    if set(arrays) - set(wanted) or not {"moving_mean", "moving_variance"} <= set(arrays):
        raise ValueError(
            f"weights must have names from {', '.join(_NAMES.values())}; got {', '.join(map(str, arrays))}"
        )
    given = {own: (name, arrays[name]) for own, name in _NAMES.items() if own and name in arrays}
    axis = config.get("axis", -1)
    options = {"axis": axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis}
    options |= {own: config[name] for own, name in (("eps", "epsilon"), ("momentum", "momentum")) if name in config}
    if "renorm_mean" in given:
        clipping = config.get("renorm_clipping") or None
        new = float(f"{1 - config.get('renorm_momentum', 0.99):.15g}")
        options |= {"renorm": True, "renorm_momentum": new, "renorm_clipping": clipping}
    return build(given, conventions.KERAS, frozen=not config.get("trainable", True), **options)


def _order(number, config):
    """The names of so many arrays, in Keras' order."""
    renorm = config.get("renorm", number > 4)
    parameters = number - (5 if renorm else 2)
    scale, center = (config.get(name, parameters >= 2) for name in ("scale", "center"))
    if parameters == 1 and not {"scale", "center"} <= set(config):
        raise ValueError("config must have scale and center where weights lack one of gamma and beta; got no config")
    names = ["gamma"] * bool(scale) + ["beta"] * bool(center) + ["moving_mean", "moving_variance"]
    names += list(_RENORM) * bool(renorm)
    if number != len(names):
        raise ValueError(f"weights must be {', '.join(names)}; got {number} arrays")
    return names


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
    state = layer.state_dict()
    if layer.renorm:
        state[None] = np.sqrt(layer.running_var + layer.eps, dtype=np.float64).astype(layer.dtype)
    config = {"axis": layer.axis, "momentum": layer.momentum, "epsilon": layer.eps, "dtype": str(layer.dtype)}
    config |= {"scale": layer.weight is not None, "center": layer.bias is not None, "trainable": not layer.frozen}
    if layer.renorm:
        kept = float(f"{1 - layer.renorm_momentum:.15g}")
        config |= {"renorm": True, "renorm_momentum": kept, "renorm_clipping": layer.renorm_clipping}
    return KerasWeights([state[own] for own in _NAMES if own in state], config)
