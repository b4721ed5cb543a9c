# reference: types of the oracle; what is written to an `out` has its dtype.

from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from ._types import Activation, Array, Wide
from .layer import BatchNorm
from .statistics import Moments

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "batch_norm_forward",
    "moments",
    "normalize_images",
    "statistics",
    "update_running",
]

def statistics(
    x: npt.ArrayLike, axis: int = 1, mask: npt.ArrayLike | None = None, sample_weight: npt.ArrayLike | None = None
) -> tuple[float | np.floating[Any], Wide, Wide]: ...
def moments(
    x: npt.ArrayLike,
    *,
    axis: int = 1,
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    num_threads: int | None = None,
) -> Moments: ...
def batch_norm(
    x: npt.ArrayLike,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array: ...
def batch_norm_forward(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> tuple[Array, Wide, Wide]: ...
@overload
def batch_norm_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    inv_std: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    y: npt.ArrayLike | None = None,
    residual: Literal[False] = False,
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> tuple[Array, Wide, Wide]: ...
@overload
def batch_norm_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    inv_std: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    y: npt.ArrayLike | None = None,
    residual: Literal[True],
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    out: tuple[Array, Array] | None = None,
    num_threads: int | None = None,
) -> tuple[Array, Wide, Wide, Array]: ...
@overload
def batch_norm_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    inv_std: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    y: npt.ArrayLike | None = None,
    residual: bool,
    mask: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    out: None = None,
    num_threads: int | None = None,
) -> tuple[Array, Wide, Wide] | tuple[Array, Wide, Wide, Array]: ...
def batch_norm_double_backward(
    ddx: npt.ArrayLike,
    ddweight: npt.ArrayLike | None,
    ddbias: npt.ArrayLike | None,
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    inv_std: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    num_threads: int | None = None,
) -> tuple[Array, Wide, Wide]: ...
def update_running(
    running_mean: Array, running_var: Array, moments: Moments, momentum: float, *, unbiased: bool = True
) -> None: ...
def normalize_images(
    images: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    *,
    layer: BatchNorm | None = None,
    axis: int = -1,
    channels_first: bool = True,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array: ...
