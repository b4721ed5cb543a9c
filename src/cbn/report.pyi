# report: types of how far results are from exact ones.

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EPS", "STATISTIC_ULP", "TINY", "Comparison", "OracleMismatch", "Report", "error_in_ulp", "relative_bound"]

EPS: dict[str, float]
TINY: dict[str, float]
STATISTIC_ULP: float

def relative_bound(dtype: np.dtype[Any], single: float, double: float) -> float: ...

class OracleMismatch(AssertionError):
    report: Report
    def __init__(self, report: Report) -> None: ...

@dataclass(frozen=True)
class Comparison:
    operation: str
    quantity: str
    error: float
    bound: float

    @property
    def ok(self) -> bool: ...

@dataclass
class Report:
    comparisons: list[Comparison] = ...

    @property
    def ok(self) -> bool: ...
    @property
    def max_ulp(self) -> dict[str, float]: ...

def error_in_ulp(got: npt.ArrayLike, exact: npt.ArrayLike, scale: npt.ArrayLike, dtype: np.dtype[Any]) -> float: ...
