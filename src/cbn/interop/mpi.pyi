# mpi: types of batch normalization over the ranks of an MPI communicator.

import numpy.typing as npt
from mpi4py.MPI import Comm

from .._types import Activation, AnyConvention, Default, Nonfinite, OneValue
from ..layer import BatchNorm
from .communicators import Communicator, MPICommunicator

__all__ = ["Communicator", "MPICommunicator", "RankError", "SyncBatchNorm"]

class RankError(RuntimeError): ...

class SyncBatchNorm(BatchNorm):
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
        virtual_batch_size: None = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.01,
        zero_debias: bool = False,
        comm: Comm | Communicator | None = None,
    ) -> None: ...
