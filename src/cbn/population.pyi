# population: types of the statistics of many batches.

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy.typing as npt

from ._types import Doubles, Variance
from .layer import BatchNorm

__all__ = ["MODES", "Population", "recompute_statistics"]

_Mode: TypeAlias = Literal["pooled", "paper", "update_bn"]
_Layers: TypeAlias = BatchNorm | Iterable[BatchNorm] | Mapping[Any, BatchNorm]
_Batch = TypeVar("_Batch")

MODES: tuple[_Mode, ...]

class Population:
    mode: _Mode
    variance: Variance
    eps: float
    batches: int

    def __init__(self, mode: _Mode, variance: Variance, eps: float = 0.0) -> None: ...
    def add(self, count: float, mean: Doubles, m2: Doubles) -> None: ...
    def result(self) -> tuple[Doubles, Doubles, float]: ...

@overload
def recompute_statistics(
    layers: _Layers,
    batches: Iterable[npt.ArrayLike],
    forward: None = None,
    *,
    mode: _Mode = "pooled",
    progress: bool = True,
) -> None: ...
@overload
def recompute_statistics(
    layers: _Layers,
    batches: Iterable[_Batch],
    forward: Callable[[_Batch], object],
    *,
    mode: _Mode = "pooled",
    progress: bool = True,
) -> None: ...
