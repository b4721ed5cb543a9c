# dask: types of the moments of Dask arrays, delayed batches and files.

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
from dask.array import Array
from dask.delayed import Delayed
from distributed import Future

from .._types import Path
from ..statistics import Moments

__all__ = ["moments"]

def moments(
    x: Array | npt.NDArray[Any] | Iterable[Delayed | Future[Any]],
    *,
    axis: int = 1,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Moments: ...
