# checkpoint: types of a layer's state in and out of dicts and files.

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy.typing as npt

from ._types import Path
from .layer import BatchNorm

__all__ = ["LoadResult", "load", "load_state", "save"]

_Layer = TypeVar("_Layer", bound=BatchNorm)

class LoadResult(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]

def load_state(
    layer: BatchNorm,
    state: Mapping[str, npt.ArrayLike],
    strict: bool = True,
    names: Mapping[str, str] | None = None,
) -> LoadResult: ...
def save(layer: BatchNorm, path: Path) -> None: ...
def load(cls: type[_Layer], path: Path) -> _Layer: ...
