# explanation: types of which convention another system used.

from collections.abc import Mapping
from dataclasses import dataclass

import numpy.typing as npt

from ._types import AnyConvention, ConventionName, EpsPlace, Source, Variance
from .evidence_of_y import Way

__all__ = ["Explanation", "Way", "explain"]

@dataclass(frozen=True)
class Explanation:
    ways: tuple[Way, ...] = ()
    activation: str | None = None
    momentum: float | None = None
    variance: tuple[Variance, ...] = ()
    conventions: tuple[ConventionName, ...] = ()
    by_default: bool = True
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def normalized_with(self) -> tuple[Source, ...]: ...
    @property
    def eps(self) -> tuple[float, ...]: ...
    @property
    def eps_place(self) -> tuple[EpsPlace, ...]: ...

def explain(
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    state: Mapping[str, npt.ArrayLike] | None = None,
    *,
    before: Mapping[str, npt.ArrayLike] | None = None,
    axis: int = 1,
    assumed: AnyConvention = "torch",
) -> Explanation: ...
