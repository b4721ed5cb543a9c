"""arrays: what comes from other libraries or from lists, as NumPy's arrays, or an error that names it."""

import numpy as np

from . import _core
from .libraries import library

__all__ = ["FLOATS", "array_of", "check_floats", "of_tensor", "real", "tensor_of"]

FLOATS = ("float32", "float64", "float16", "bfloat16")  # by name: bfloat16 is not NumPy's own


def array_of(value, name):
    """Return value as an array, of any dtype, without a mask. A torch tensor may need a gradient or be bfloat16."""
    if not isinstance(value, np.ndarray):
        try:
            value = of_tensor(value) if hasattr(value, "detach") else np.asarray(value)
        except Exception as error:  # of whatever kind: a ragged list, a tensor without data
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}: {text}") from None
    return _core.unmasked(value, name)


_DTYPES = {name: np.dtype(name) for name in (*FLOATS, "int64") if name != "bfloat16"}
_DTYPES["bfloat16"] = np.dtype(np.uint16)  # its bits, since its type in NumPy is that of ml_dtypes


def of_tensor(tensor):
    """A torch tensor as an array, of the same memory if that is the CPU's."""
    name = str(tensor.dtype)[6:]  # without "torch."
    if name not in _DTYPES or not tensor.is_cpu or tensor.is_neg():
        return tensor.numpy(force=True)
    address = tensor.data_ptr()
    if not address and tensor.numel():
        raise ValueError("a tensor must have its memory; got one whose storage was freed")
    array = _core.borrowed(tensor, address, tensor.shape, tensor.stride(), _DTYPES[name])
    return array.view(library("ml_dtypes", "torch").bfloat16) if name == "bfloat16" else array


def tensor_of(array):
    """An array as a torch tensor of the same memory."""
    torch = library("torch", "torch")
    if array.dtype.kind != "V":
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)


def check_floats(array, name):
    """Raise TypeError unless the array has one of cbn's float types."""
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16; got {array.dtype}")


def real(value, name):
    """Return value as an array of floats or integers."""
    return _core.real(array_of(value, name), name)
