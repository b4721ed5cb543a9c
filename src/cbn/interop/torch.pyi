# torch: types of the converters of torch's states, and of its modules on cbn's kernels.

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from .._types import Conversion, Default
from ..layer import BatchNorm
from .torch_modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, accelerate, empty_cache, restore
from .torch_sync import SyncBatchNorm, convert_sync_batchnorm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "SyncBatchNorm",
    "accelerate",
    "convert_sync_batchnorm",
    "empty_cache",
    "from_state_dict",
    "restore",
    "to_state_dict",
]

def from_state_dict(
    state: Mapping[str, Any],
    prefix: str = "",
    *,
    eps: float | Default = ...,
    momentum: float | Default | None = ...,
    axis: int = 1,
) -> BatchNorm: ...
def to_state_dict(
    layer: BatchNorm,
    prefix: str = "",
    *,
    count: float | None = None,
    variance: Conversion = "convert",
    version: Literal[1, 2] = 2,
) -> OrderedDict[str, Tensor]: ...
