"""layers: what all converters share: a layer made of another system's arrays, and one made ready for another system."""

from collections import OrderedDict

import numpy as np

from ..arrays import check_floats, real
from ..checkpoint import load_state
from ..conversion import convert
from ..layer import BatchNorm

__all__ = ["build", "exported"]


def build(given, convention, *, metadata=None, **options):
    """Return a layer that has these arrays.

    Parameters
    ----------
    given : dict
        From our name to the other system's name and its array: weight, bias, running_mean, running_var,
        num_batches_tracked, renorm_mean, renorm_std.
    convention : Convention
    metadata : dict, optional
        What the state says of itself.
    options : dict
        Of `BatchNorm`.

    Raises
    ------
    TypeError, ValueError
        For arrays that are none, of rank other than 1, or of different lengths.
    """
    arrays = {own: _floats(value, name) for own, (name, value) in given.items() if own != "num_batches_tracked"}
    if not arrays:
        raise ValueError(f"state must have an array of a batch norm; got {', '.join(given)}")
    first = next(iter(arrays))
    for own, array in arrays.items():
        if array.ndim != 1 or array.shape != arrays[first].shape:
            wanted = "rank 1" if array.ndim != 1 else f"shape {arrays[first].shape}, as {given[first][0]} has"
            raise ValueError(f"{given[own][0]} must have {wanted}; got shape {array.shape}")
    if ("running_mean" in arrays) != ("running_var" in arrays):
        found = given["running_mean" if "running_mean" in arrays else "running_var"][0]
        raise ValueError(f"mean and variance must both be given or neither; got {found} only")
    layer = BatchNorm(
        arrays[first].size,
        affine="weight" in arrays or "bias" in arrays,
        weight="weight" in arrays,
        bias="bias" in arrays,
        track_running_stats="running_mean" in arrays,
        dtype=np.result_type(*arrays.values()),
        convention=convention,
        **options,
    )
    state = OrderedDict(arrays)
    if "num_batches_tracked" in given:
        state["num_batches_tracked"] = given["num_batches_tracked"][1]
    state._metadata = {"": metadata or {}}
    load_state(layer, state, names={own: name for own, (name, _) in given.items()})
    return layer


def _floats(value, name):
    array = real(value, name)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    check_floats(array, name)
    return array


def exported(layer, convention, system, *, count, variance, renorm=False, statistics=True):
    """Return the layer under the other system's convention, if that can say all that evaluation does."""
    if not isinstance(layer, BatchNorm):
        raise TypeError(f"layer must be a BatchNorm; got {type(layer).__name__}")
    if layer.activation is not None:
        raise ValueError(f"layer must have no activation, which {system} would lose; got {layer.activation!r}")
    if statistics and layer.running_mean is None:
        raise ValueError(f"layer must have running statistics, as in {system}; got track_running_stats=False")
    if layer.renorm and not renorm and variance != "keep":
        raise ValueError(f"variance must be 'keep' for a layer with renorm, which {system} lacks; got {variance!r}")
    return convert(layer, convention, count=count, variance=variance)
