"""flax: variables of Flax' batch norms, linen's and NNX', in and out; neither needs Flax."""

from collections.abc import Mapping

from .. import conventions
from ..options import DEFAULT
from .layers import build, exported

__all__ = ["from_variables", "to_variables"]

_NAMES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def from_variables(variables, path="", *, eps=DEFAULT, momentum=DEFAULT, axis=-1, num_batches=0):
    """Return the layer that the variables of a Flax batch norm describe.

    Parameters
    ----------
    variables : dict
        Of linen: ``{"params": ..., "batch_stats": ...}``; of NNX: its state, as ``nnx.state`` or
        ``nnx.to_pure_dict`` returns it. Of the norm itself or of a whole model.
    path : str
        The names down to the norm, such as ``"Block_0/BatchNorm_0"``.
    eps, momentum : float
        The module's (`epsilon`, `momentum`): they are not among its variables. Flax' defaults otherwise.
    axis : int
        The channel axis.
    num_batches : int
        That the norm was trained with, if you know it, as in `cbn.interop.keras.from_weights`.

    Returns
    -------
    BatchNorm
        With Flax' convention, in training mode.

    Raises
    ------
    TypeError, ValueError
        If there is no batch norm at that path, or its arrays do not fit.

    Examples
    --------
    >>> import numpy as np, cbn.interop.flax
    >>> variables = {"params": {"scale": np.ones(3), "bias": np.zeros(3)},
    ...              "batch_stats": {"mean": np.zeros(3), "var": np.ones(3)}}
    >>> cbn.interop.flax.from_variables(variables, momentum=0.9).momentum
    0.9
    """
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict; got {type(variables).__name__}")
    arrays = _at(variables, path)
    if "mean" not in arrays:  # of linen, then: each collection has a tree of its own
        trees = [_at(variables.get(collection), path) for collection in ("params", "batch_stats")]
        arrays = trees[0] | trees[1]
    if not {"mean", "var"} <= set(arrays) or set(arrays) - set(_NAMES.values()):
        norms = ", ".join(_norms(variables.get("batch_stats", variables))) or "there is none"
        found = f"got {path!r}, with {', '.join(arrays) or 'nothing'}"
        raise ValueError(f"path must lead to mean, var and at most scale and bias ({norms}); {found}")
    given = {own: (name, arrays[name]) for own, name in _NAMES.items() if name in arrays}
    given["num_batches_tracked"] = ("num_batches", num_batches)
    return build(given, conventions.FLAX, eps=eps, momentum=momentum, axis=axis)


def _names(path):
    if not isinstance(path, str):
        raise TypeError(f"path must be a text; got {type(path).__name__}")
    return [name for name in path.split("/") if name]


def _at(tree, path):
    """What is in a tree below the names, of which NNX' lists have numbers; empty if there is nothing."""
    for name in _names(path):
        tree = {str(key): tree[key] for key in tree}.get(name) if isinstance(tree, Mapping) else None
    return {str(key): tree[key] for key in tree} if isinstance(tree, Mapping) else {}


def _norms(tree, path=""):
    """The paths of all norms in a tree."""
    below = {str(key): tree[key] for key in tree}
    if {"mean", "var"} <= set(below):
        return [path or "''"]
    trees = {key: value for key, value in below.items() if isinstance(value, Mapping)}
    return [norm for key, value in trees.items() for norm in _norms(value, f"{path}/{key}".strip("/"))]


def to_variables(layer, path="", *, nnx=False, count=None, variance="convert"):
    """Return a layer's arrays as variables of a Flax batch norm.

    Parameters
    ----------
    layer : BatchNorm
        Of any convention.
    path : str
        As in `from_variables`.
    nnx : bool
        Whether for NNX (a pure dict for ``nnx.replace_by_pure_dict``) instead of linen.
    count, variance
        How an unbiased running variance becomes Flax', see `convert`.

    Returns
    -------
    dict
        Nested, of NumPy arrays. The module that takes them needs the layer's eps (`epsilon`), axis and momentum.

    Raises
    ------
    TypeError, ValueError
        As `convert`; for a layer with an activation or without running statistics.

    Examples
    --------
    >>> import cbn.interop.flax
    >>> cbn.interop.flax.to_variables(cbn.BatchNorm(1, affine=False), "bn")
    {'batch_stats': {'bn': {'mean': array([0.], dtype=float32), 'var': array([1.], dtype=float32)}}}
    """
    state = exported(layer, conventions.FLAX, "Flax", count=count, variance=variance).state_dict()
    parameters = {_NAMES[own]: state[own] for own in ("weight", "bias") if own in state}
    statistics = {_NAMES[own]: state[own] for own in ("running_mean", "running_var")}
    if nnx:
        return _below(path, parameters | statistics)
    collections = {"params": parameters, "batch_stats": statistics}
    return {name: _below(path, arrays) for name, arrays in collections.items() if arrays}


def _below(path, arrays):
    for name in reversed(_names(path)):
        arrays = {name: arrays}
    return arrays
