# drift: types of how far the values that a layer is given are from its running statistics.

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from ._types import Doubles, Path
from .layer import BatchNorm
from .statistics import Moments

__all__ = ["Drift", "drift_of"]

@dataclass(frozen=True, eq=False)
class Drift:
    mean_shift: Doubles
    variance_ratio: Doubles
    outstanding: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    count: float
    samples: float
    shift_limit: float
    ratio_limits: tuple[float, float]

    def to_dict(self) -> dict[str, Any]: ...
    def plot(self, target: Path | Axes) -> Axes: ...

def drift_of(
    layer: BatchNorm,
    x: npt.ArrayLike | Moments,
    mask: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    samples: float | None,
    max_shift: float,
    max_ratio: float,
) -> Drift: ...
