# options: types of the checks of a layer's options.

from collections.abc import Iterable
from typing import Any, Final, final

import numpy.typing as npt

from .layer import BatchNorm

__all__ = [
    "DEFAULT",
    "DEFAULTS",
    "batch_size",
    "check_evaluation",
    "check_rank",
    "check_together",
    "check_unset",
    "clipping",
    "described",
]

@final
class _Default: ...

DEFAULT: Final[_Default]
DEFAULTS: Final[dict[str, Any]]

def batch_size(value: int | None) -> int | None: ...
def check_unset(layer: BatchNorm, names: Iterable[str], where: str) -> None: ...
def clipping(bounds: dict[str, float] | None) -> dict[str, float] | None: ...
def check_together(layer: BatchNorm) -> None: ...
def check_evaluation(layer: BatchNorm, name: str) -> None: ...
def check_rank(layer: BatchNorm, x: npt.ArrayLike) -> None: ...
def described(layer: BatchNorm) -> str: ...
