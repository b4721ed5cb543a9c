"""torch: states of torch's batch norms, in and out, and its modules on cbn's kernels; reading needs no torch."""

from collections import OrderedDict
from collections.abc import Mapping

from .. import conventions
from ..arrays import tensor_of
from ..libraries import on_demand
from ..options import DEFAULT
from .layers import build, exported

_NAMES_OF = {
    "torch_modules": ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "accelerate", "empty_cache", "restore"),
    "torch_sync": ("SyncBatchNorm", "convert_sync_batchnorm"),
}
_SOURCES = {name: f"cbn.interop.{module}" for module, names in _NAMES_OF.items() for name in names}

__all__ = [*_SOURCES, "from_state_dict", "to_state_dict"]

_NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def from_state_dict(state, prefix="", *, eps=DEFAULT, momentum=DEFAULT, axis=1):
    """Return the layer that a torch state describes, of one batch norm or of a whole model.

    Parameters
    ----------
    state : dict
        Tensors or arrays by name, as a module's ``state_dict()``, ``safetensors.numpy.load_file`` or ``numpy.load``
        returns them. Old states and those of frozen norms, without num_batches_tracked, are read, too: it is then 0.
    prefix : str
        What comes before ``weight`` and so on: the name of the batch norm in the model, such as ``"layer1.0.bn2"``.
    eps, momentum : float
        The module's: a torch state does not have them. By default torch's; eps that of the layer which `to_state_dict`
        made the state of.
    axis : int
        The channel axis of the arrays that the layer will get.

    Returns
    -------
    BatchNorm
        With torch's convention, in training mode. Parameters and running statistics that the state lacks are off.

    Raises
    ------
    TypeError, ValueError
        If there is no batch norm with that prefix (the text names those there are), for keys and shapes that are none
        of a batch norm's, and for an eps that contradicts the state's own.

    Examples
    --------
    >>> import numpy as np, cbn.interop.torch
    >>> state = {f"bn1.{name}": np.ones(3, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}
    >>> cbn.interop.torch.from_state_dict(state, "bn1", eps=1e-3)
    BatchNorm(3, eps=0.001, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of arrays; got {type(state).__name__}")
    start = _with_dot(prefix)
    own = [key.removeprefix(start) for key in state if isinstance(key, str) and key.startswith(start)]
    if not own or set(own) - set(_NAMES):
        norms = [key.removesuffix(".running_mean") for key in map(str, state) if key.endswith(".running_mean")]
        found = f"prefix must be the name of a batch norm ({', '.join(norms) or 'there is none'}); got {prefix!r}"
        raise ValueError(f"{found}, with {', '.join(own[:9]) or 'no keys'}")
    metadata = getattr(state, "_metadata", None)
    metadata = metadata.get(start[:-1]) if isinstance(metadata, Mapping) else None
    if eps is DEFAULT and isinstance(metadata, Mapping):
        eps = metadata.get("eps", DEFAULT)
    given = {name: (f"{start}{name}", state[f"{start}{name}"]) for name in _NAMES if name in own}
    return build(given, conventions.TORCH, metadata=metadata, eps=eps, momentum=momentum, axis=axis)


def to_state_dict(layer, prefix="", *, count=None, variance="convert", version=2):
    """Return a layer's state as torch has it, for `load_state_dict` of a torch module.

    Parameters
    ----------
    layer : BatchNorm
        Of any convention.
    prefix : str
        As in `from_state_dict`.
    count, variance
        How a biased running variance becomes torch's, see `convert`.
    version : 1 or 2
        States of version 1 have no num_batches_tracked.

    Returns
    -------
    OrderedDict of torch.Tensor
        Copies, on the CPU. eps and momentum are not in it, but eps is in its ``_metadata``.

    Raises
    ------
    TypeError, ValueError
        As `convert`; for a layer with an activation, or one that torch's state cannot say.
    ImportError
        If torch is not installed.

    Examples
    --------
    >>> import cbn.interop.torch
    >>> layer = cbn.BatchNorm(3, convention="keras")
    >>> state = cbn.interop.torch.to_state_dict(layer, "bn1")                       # doctest: +SKIP
    >>> model.load_state_dict(state, strict=False)                                  # doctest: +SKIP
    """
    start = _with_dot(prefix)
    if version not in (1, 2):
        raise ValueError(f"version must be 1 or 2; got {version!r}")
    arrays = exported(layer, conventions.TORCH, "torch", count=count, variance=variance, statistics=False).state_dict()
    state = OrderedDict()
    for name in _NAMES:
        if name in arrays and (name != "num_batches_tracked" or version == 2):
            state[f"{start}{name}"] = tensor_of(arrays[name])
    state._metadata = OrderedDict({start[:-1]: {**arrays._metadata[""], "version": version}})
    return state


__getattr__ = on_demand(__name__, _SOURCES, "torch")


def __dir__():
    return sorted({*globals(), *__all__})


def _with_dot(prefix):
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a text; got {type(prefix).__name__}")
    return prefix if prefix.endswith(".") or not prefix else f"{prefix}."
