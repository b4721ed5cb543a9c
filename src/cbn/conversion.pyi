# conversion: types of a layer as another convention writes it down.

from typing import TypeVar

from ._types import AnyConvention, Conversion
from .layer import BatchNorm

__all__ = ["convert"]

_Layer = TypeVar("_Layer", bound=BatchNorm)

def convert(
    layer: _Layer, convention: AnyConvention, *, count: float | None = None, variance: Conversion = "convert"
) -> _Layer: ...
