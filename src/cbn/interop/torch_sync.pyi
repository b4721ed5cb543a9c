# torch_sync: types of torch's synchronized batch norm on the CPU.

from typing import Any, Self, TypeVar

import torch
from mpi4py.MPI import Comm
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from .communicators import Communicator

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm"]

_Model = TypeVar("_Model", bound=torch.nn.Module)

class SyncBatchNorm(_BatchNorm):
    process_group: ProcessGroup | None
    comm: Communicator | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        comm: Comm | Communicator | None = None,
    ) -> None: ...
    def __deepcopy__(self, memo: dict[int, Any]) -> Self: ...

def convert_sync_batchnorm(
    model: _Model, process_group: ProcessGroup | None = None, *, comm: Comm | Communicator | None = None
) -> _Model: ...
