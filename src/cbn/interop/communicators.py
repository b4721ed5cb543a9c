"""communicators: how the ranks of a group of processes hear from each other: MPI, torch.distributed, threads."""

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from .. import _core
from ..libraries import library

__all__ = ["Communicator", "MPICommunicator", "ProcessGroupCommunicator", "ThreadCommunicator"]

TIMEOUT = 1800.0  # seconds, as torch.distributed has them
_TESTS, _PAUSE = 2000, 5e-5  # how often in a row it is asked whether all have come, and the seconds between more such


class Communicator(Protocol):
    """A group of processes, its ranks, as synchronized layers need it: any object with this one method.

    Every rank calls it in the same order, with arrays of the same size. It may raise on ranks whose call the others
    do not join, and should, rather than wait for ever.
    """

    def allgather(self, values):
        """Return the values of all ranks.

        Parameters
        ----------
        values : ndarray of float64, shape (n,)
            This rank's.

        Returns
        -------
        ndarray of float64, shape (size, n)
            Row r has those of rank r, bit for bit: some are texts.
        """


def _checked_timeout(timeout):
    if not _core.is_number(timeout) or not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0; got {timeout!r}")
    return float(timeout)


class MPICommunicator:
    """The ranks of an MPI communicator, by mpi4py.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The world by default. Its own messages cannot be mixed up with these, for which it is duplicated once.
    timeout : float > 0
        Seconds to wait for the other ranks.

    Raises
    ------
    TypeError, ValueError
        If comm is no communicator within one group, or the null communicator.
    ImportError
        If mpi4py is not installed, or finds no MPI.

    Notes
    -----
    `allgather` raises TimeoutError on ranks that have waited in vain: another one has died, raised, or gone on
    elsewhere. The communicator is of no more use for layers then, and raises at once. It waits by asking again and
    again, for about a millisecond without pause. One thread at a time may call it, and no child by fork.
    """

    _key = None  # of the attribute that MPI keeps with each communicator: its `_Line`

    def __init__(self, comm=None, timeout=TIMEOUT):
        mpi = library("mpi4py.MPI", "mpi")
        comm = mpi.COMM_WORLD if comm is None else comm
        if comm == mpi.COMM_NULL:
            raise ValueError("comm must have this process among its ranks; got MPI.COMM_NULL")
        if not isinstance(comm, mpi.Intracomm):
            raise TypeError(f"comm must be an mpi4py.MPI.Intracomm; got {type(comm).__name__}")
        self.comm, self.timeout, self._line = comm, _checked_timeout(timeout), None

    def __reduce__(self):
        return type(self), (self.comm, self.timeout)

    def allgather(self, values):
        """See `Communicator`."""
        if self._line is None:
            self._line = self._found()
        with self._line.taken():
            if self._line.comm is None:
                self._line.comm, request = self.comm.Idup()
                self._line.wait(request, self.comm, self.timeout)
            rows = np.empty((self._line.comm.size, values.size))
            self._line.wait(self._line.comm.Iallgather(values, rows), (values, rows), self.timeout)
        return rows

    def _found(self):
        """The line of the communicator, which all that use it share."""
        mpi = library("mpi4py.MPI", "mpi")
        if MPICommunicator._key is None:
            MPICommunicator._key = mpi.Comm.Create_keyval()
        line = self.comm.Get_attr(MPICommunicator._key)
        if line is None:
            line = _Line()
            self.comm.Set_attr(MPICommunicator._key, line)
        return line


class _Line:
    """The duplicate of an MPI communicator, made when its ranks first meet, and what of it is unfinished."""

    def __init__(self):
        self.comm, self._pending, self._process, self._busy = None, None, os.getpid(), threading.Lock()

    @contextmanager
    def taken(self):
        if self._process != os.getpid():
            raise RuntimeError("allgather must be called by the process that MPI knows; got a child of it, by fork")
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("allgather must be called by one thread at a time; got a second one")
        try:
            if self._pending is not None:
                raise TimeoutError("allgather must not be called after it was left without an answer; got a call")
            yield
        finally:
            self._busy.release()

    def wait(self, request, needed, timeout):
        self._pending = request, needed  # kept where this raises or is interrupted: MPI may still write there
        tests, last = 0, time.monotonic() + timeout
        while not request.Test():
            tests += 1
            if tests < _TESTS:
                continue
            if time.monotonic() > last:
                raise TimeoutError(
                    f"allgather must be joined by every rank within {timeout:g} s; got no answer: another rank "
                    "has died, has raised, or is somewhere else in the program"
                )
            time.sleep(_PAUSE)
        self._pending = None


class ProcessGroupCommunicator:
    """The ranks of a process group of torch.distributed, of the backend gloo or another one for the CPU.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The default group by default. Its timeout is the one it was made with.

    Raises
    ------
    RuntimeError
        If torch.distributed has not been initialized.
    ImportError
        If torch is not installed.
    """

    def __init__(self, group=None):
        distributed = library("torch.distributed", "torch")
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RuntimeError("torch.distributed must be initialized (init_process_group('gloo')); got it without")
        self.group = distributed.group.WORLD if group is None else group

    def allgather(self, values):
        """See `Communicator`."""
        torch, distributed = library("torch", "torch"), library("torch.distributed", "torch")
        rows = torch.empty((distributed.get_world_size(self.group), values.size), dtype=torch.float64)
        distributed.all_gather(list(rows), torch.from_numpy(values), group=self.group)
        return rows.numpy()


class ThreadCommunicator:
    """The ranks of one process, a thread each: for tests, and to try things out. `group` makes all of them."""

    @classmethod
    def group(cls, size, timeout=TIMEOUT):
        """Return a list of so many communicators, one for each thread.

        Parameters
        ----------
        size : int >= 1
        timeout : float > 0
            Seconds to wait for the other threads; TimeoutError then.

        Examples
        --------
        >>> import numpy as np
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from cbn.interop.communicators import ThreadCommunicator
        >>> with ThreadPoolExecutor(2) as pool:
        ...     rows = pool.map(lambda comm: comm.allgather(np.ones(2)), ThreadCommunicator.group(2))
        >>> next(rows)
        array([[1., 1.],
               [1., 1.]])
        """
        if _core.check_integer(size, "size") < 1:
            raise ValueError(f"size must be 1 or more; got {size}")
        rows, barrier = (
            [None] * size,
            threading.Barrier(size, timeout=min(_checked_timeout(timeout), threading.TIMEOUT_MAX)),
        )
        group = [cls.__new__(cls) for _ in range(size)]
        for rank, comm in enumerate(group):
            comm.rank, comm._rows, comm._barrier = rank, rows, barrier
        return group

    def allgather(self, values):
        """See `Communicator`."""
        try:
            self._rows[self.rank] = values.copy()
            self._barrier.wait()
            rows = np.stack(self._rows)
            self._barrier.wait()  # nobody comes with new values before all have taken these
        except threading.BrokenBarrierError:
            raise TimeoutError("allgather must be joined by every thread; got no answer") from None
        return rows


def communicator_of(comm):
    """Return a `Communicator` for one, for a communicator of mpi4py (None: the world), or a group of torch."""
    mpi, distributed = sys.modules.get("mpi4py.MPI"), sys.modules.get("torch.distributed")
    if comm is None or (mpi is not None and isinstance(comm, mpi.Comm)):
        return MPICommunicator(comm)
    if distributed is not None and distributed.is_available() and isinstance(comm, distributed.ProcessGroup):
        return ProcessGroupCommunicator(comm)
    if not callable(getattr(comm, "allgather", None)):
        raise TypeError(f"comm must be an MPI communicator, or have a method allgather; got {type(comm).__name__}")
    return comm
