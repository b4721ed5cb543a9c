"""arrays: what comes from other libraries or from lists, as NumPy's arrays, or an error that names it."""

import numpy as np

from . import _core
from .libraries import library

__all__ = ["FLOATS", "array_of", "check_floats", "real"]

FLOATS = ("float32", "float64", "float16", "bfloat16")  # by name: bfloat16 is not NumPy's own


def array_of(value, name):
    """Return value as an array, of any dtype, without a mask. A torch tensor may need a gradient or be bfloat16."""
    if not isinstance(value, np.ndarray):
        try:
            value = _of_tensor(value) if hasattr(value, "detach") else np.asarray(value)
        except Exception as error:  # of whatever kind: a ragged list, a tensor without data
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}: {text}") from None
    return _core.unmasked(value, name)


def _of_tensor(tensor):
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import ml_dtypes  # whose type it is in NumPy

    return tensor.contiguous().view(library("torch", "torch").uint16).numpy().view(ml_dtypes.bfloat16)


def check_floats(array, name):
    """Raise TypeError unless the array has one of cbn's float types."""
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16; got {array.dtype}")


def real(value, name):
    """Return value as an array of floats or integers."""
    return _core.real(array_of(value, name), name)
