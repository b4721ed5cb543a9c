# layer: types of batch normalization with parameters, running statistics and a backward pass.

from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ._types import Activation, AnyConvention, Array, Default, Doubles, Nonfinite, OneValue
from .state import State

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]

class BatchNorm(State):
    num_features: int
    eps: float
    momentum: float | None
    affine: bool
    track_running_stats: bool
    axis: int
    activation: Activation | None
    negative_slope: float
    dtype: np.dtype[Any]
    nonfinite: Nonfinite
    one_value: OneValue
    frozen: bool
    virtual_batch_size: int | None
    renorm: bool
    renorm_clipping: dict[str, float] | None
    renorm_momentum: float
    zero_debias: bool
    training: bool
    weight: Array | None
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: npt.NDArray[np.int64] | None
    weight_grad: Array | None
    bias_grad: Array | None
    batch_mean: Doubles | None
    batch_inv_std: Doubles | None
    renorm_mean: Array | None
    renorm_std: Array | None

    def __init__(
        self,
        num_features: int,
        eps: float | Default = ...,
        momentum: float | Default | None = ...,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        weight: bool = True,
        bias: bool = True,
        axis: int = 1,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        convention: AnyConvention = "torch",
        dtype: npt.DTypeLike = ...,  # float32
        nonfinite: Nonfinite = "propagate",
        one_value: OneValue | Default = ...,
        frozen: bool = False,
        virtual_batch_size: int | None = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.01,
        zero_debias: bool = False,
    ) -> None: ...
    def __call__(
        self,
        x: npt.ArrayLike,
        *,
        residual: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
    ) -> Array: ...
    # after a call with a residual, which no type shows, a pair
    @overload
    def backward(self, dy: npt.ArrayLike, *, out: None = None) -> Array | Any: ...
    @overload
    def backward(self, dy: npt.ArrayLike, *, out: Array) -> Array: ...
    @overload
    def backward(self, dy: npt.ArrayLike, *, out: tuple[Array, Array]) -> tuple[Array, Array]: ...

class BatchNorm1d(BatchNorm): ...
class BatchNorm2d(BatchNorm): ...
class BatchNorm3d(BatchNorm): ...
