# state: types of what a layer is between calls.

from collections import OrderedDict
from collections.abc import Mapping
from typing import Self

import numpy.typing as npt

from ._types import AnyConvention, Array, Doubles, Path
from .checkpoint import LoadResult
from .conventions import Convention
from .drift import Drift
from .report import Report
from .statistics import Moments

__all__ = ["State"]

class State:
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def reset_running_stats(self) -> None: ...
    def reset_parameters(self) -> None: ...
    @property
    def convention(self) -> Convention: ...
    @convention.setter
    def convention(self, value: AnyConvention) -> None: ...
    @property
    def count(self) -> float | None: ...
    def affine_map(self) -> tuple[Doubles, Doubles]: ...
    def check(
        self,
        x: npt.ArrayLike,
        dy: npt.ArrayLike | None = None,
        *,
        residual: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Report: ...
    def drift(
        self,
        x: npt.ArrayLike | Moments,
        *,
        mask: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        samples: float | None = None,
        max_shift: float = 0.5,
        max_ratio: float = 2.0,
    ) -> Drift: ...
    def state_dict(self) -> OrderedDict[str, Array]: ...
    def load_state_dict(self, state: Mapping[str, npt.ArrayLike], strict: bool = True) -> LoadResult: ...
    def save(self, path: Path) -> None: ...
    @classmethod
    def load(cls, path: Path) -> Self: ...
