# flax: types of the converters of Flax' variables.

from collections.abc import Mapping
from typing import Any

from .._types import Conversion, Default
from ..layer import BatchNorm

__all__ = ["from_variables", "to_variables"]

def from_variables(
    variables: Mapping[Any, Any],
    path: str = "",
    *,
    eps: float | Default = ...,
    momentum: float | Default = ...,
    axis: int = -1,
    num_batches: int = 0,
) -> BatchNorm: ...
def to_variables(
    layer: BatchNorm,
    path: str = "",
    *,
    nnx: bool = False,
    count: float | None = None,
    variance: Conversion = "convert",
) -> dict[str, Any]: ...
