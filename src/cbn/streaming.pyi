# streaming: types of the moments of data that fit nowhere.

from collections.abc import Iterable

import numpy.typing as npt

from ._types import Path
from .statistics import Moments

__all__ = ["population_moments"]

def population_moments(
    batches: npt.ArrayLike | Iterable[npt.ArrayLike],
    *,
    axis: int = 1,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Moments: ...
