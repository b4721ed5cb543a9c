# statistics: types of count, mean and sum of squared deviations per channel.

from collections.abc import Mapping
from typing import Any, Self

import numpy.typing as npt

from ._types import Array, Doubles, Path

__all__ = ["Moments", "moments", "update_running"]

class Moments:
    count: float | Array
    mean: Doubles
    m2: Doubles

    def __init__(self, count: float | npt.ArrayLike, mean: npt.ArrayLike, m2: npt.ArrayLike) -> None: ...
    def __add__(self, other: Moments) -> Moments: ...
    def __sub__(self, part: Moments) -> Moments: ...
    def merge(self, other: Moments) -> None: ...
    def update(self, x: npt.ArrayLike, axis: int = 1) -> None: ...
    def var(self, ddof: int = 0) -> Doubles: ...
    def to_dict(self) -> dict[str, Any]: ...
    @classmethod
    def from_dict(cls, values: Mapping[str, npt.ArrayLike]) -> Self: ...
    def save(self, path: Path) -> None: ...
    @classmethod
    def load(cls, path: Path) -> Self: ...

def moments(
    x: npt.ArrayLike,
    *,
    axis: int = 1,
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    num_threads: int | None = None,
) -> Moments: ...
def update_running(
    running_mean: Array, running_var: Array, moments: Moments, momentum: float, *, unbiased: bool = True
) -> None: ...
