# evidence_of_y: types of what y shows of how another system computed it.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._types import EpsPlace, Source

__all__ = ["Way", "distance_of_y", "explain_y", "sources_of"]

@dataclass(frozen=True)
class Way:
    normalized_with: Source
    eps: tuple[float, ...]
    eps_place: EpsPlace
    least: float
    most: float

    @property
    def is_sure(self) -> bool: ...

def sources_of(statistics: Any, state: Any, before: Any) -> dict[Source, tuple[Any, Any]]: ...
def distance_of_y(
    x: Any, y: Any, axis: int, state: Any, before: Any, mean: Any, var: Any, clips: bool
) -> Callable[[float, EpsPlace], float]: ...
def explain_y(
    x: Any, y: Any, axis: int, statistics: Any, state: Any, before: Any, assumed_place: EpsPlace = "inside"
) -> dict[str, Any]: ...
