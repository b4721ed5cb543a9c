# communicators: types of how the ranks of a group of processes hear from each other.

from typing import Protocol

import torch.distributed
from mpi4py.MPI import Comm

from .._types import Doubles

__all__ = ["Communicator", "MPICommunicator", "ProcessGroupCommunicator", "ThreadCommunicator"]

class Communicator(Protocol):
    def allgather(self, values: Doubles) -> Doubles: ...

class MPICommunicator:
    comm: Comm
    timeout: float

    def __init__(self, comm: Comm | None = None, timeout: float = 1800.0) -> None: ...
    def allgather(self, values: Doubles) -> Doubles: ...

class ProcessGroupCommunicator:
    group: torch.distributed.ProcessGroup

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None: ...
    def allgather(self, values: Doubles) -> Doubles: ...

class ThreadCommunicator:
    rank: int

    @classmethod
    def group(cls, size: int, timeout: float = 1800.0) -> list[ThreadCommunicator]: ...
    def allgather(self, values: Doubles) -> Doubles: ...
