# features: types of feature normalization over a whole data set.

from typing import Self

import numpy.typing as npt

from ._types import Array, Doubles, NanPolicy
from .statistics import Moments

__all__ = ["FeatureNormalizer"]

class FeatureNormalizer:
    def __init__(
        self,
        *,
        axis: int = 1,
        with_mean: bool = True,
        with_std: bool = True,
        nan: NanPolicy = "skip",
        moments: Moments | None = None,
    ) -> None: ...
    @property
    def moments(self) -> Moments | None: ...
    @property
    def mean(self) -> Doubles: ...
    @property
    def var(self) -> Doubles: ...
    @property
    def scale(self) -> Doubles: ...
    def fit(self, x: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None) -> Self: ...
    def partial_fit(self, x: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None) -> Self: ...
    def transform(self, x: npt.ArrayLike, *, out: Array | None = None) -> Array: ...
    def inverse_transform(self, x: npt.ArrayLike, *, out: Array | None = None) -> Array: ...
    def fit_transform(
        self, x: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None, out: Array | None = None
    ) -> Array: ...
