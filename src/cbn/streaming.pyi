# streaming: types of the moments of data that fit nowhere.

from collections.abc import Iterable
from typing import Protocol

from ._types import Array, Path
from .statistics import Moments

__all__ = ["population_moments"]

class _AsArray(Protocol):  # such as a tensor of torch; lists of numbers would hide that their rank is too low
    def __array__(self) -> Array: ...

def population_moments(
    batches: _AsArray | Iterable[_AsArray],
    *,
    axis: int = 1,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Moments: ...
