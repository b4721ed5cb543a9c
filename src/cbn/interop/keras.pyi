# keras: types of the converters of Keras' weights.

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from .._types import Array, Conversion
from ..conventions import Convention
from ..layer import BatchNorm

__all__ = ["KERAS_FUSED", "KerasWeights", "from_weights", "to_weights"]

KERAS_FUSED: Convention

class KerasWeights(NamedTuple):
    weights: list[Array]
    config: dict[str, Any]

def from_weights(
    weights: Sequence[npt.ArrayLike] | Mapping[str, npt.ArrayLike],
    config: Mapping[str, Any] | None = None,
    *,
    fused: bool = False,
    num_batches: int = 0,
) -> BatchNorm: ...
def to_weights(layer: BatchNorm, *, count: float | None = None, variance: Conversion = "convert") -> KerasWeights: ...
