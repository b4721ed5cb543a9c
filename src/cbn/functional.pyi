# functional: types of batch normalization of arrays, without state.

from typing import Literal, overload

import numpy.typing as npt

from ._types import Activation, Array, Doubles

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "batch_norm_forward",
]

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
) -> tuple[Array, Doubles, Doubles]: ...
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
) -> tuple[Array, Array, Array]: ...
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
) -> tuple[Array, Array, Array, Array]: ...
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
) -> tuple[Array, Array, Array] | tuple[Array, Array, Array, Array]: ...
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
) -> tuple[Array, Array, Array]: ...
