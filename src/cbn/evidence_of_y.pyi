# evidence_of_y: types of what y shows of how another system computed it.

from dataclasses import dataclass
from typing import Any

from ._types import EpsPlace, Source

__all__ = ["Way", "explain_y"]

@dataclass(frozen=True)
class Way:
    normalized_with: Source
    eps: tuple[float, ...]
    eps_place: EpsPlace
    least: float
    most: float

    @property
    def is_sure(self) -> bool: ...

def explain_y(
    x: Any, y: Any, axis: int, statistics: Any, state: Any, before: Any, assumed_place: EpsPlace = "inside"
) -> dict[str, Any]: ...
