"""mpi: batch normalization whose training batches have a part on each rank of an MPI communicator."""

import inspect

from .. import options, synchronized
from ..layer import BatchNorm
from ..synchronized import RankError
from .communicators import Communicator, MPICommunicator, communicator_of

__all__ = ["Communicator", "MPICommunicator", "RankError", "SyncBatchNorm"]


class SyncBatchNorm(BatchNorm):
    """`BatchNorm` with the statistics of the parts that all ranks have of a training batch, by mpi4py.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, weight, bias, axis, activation, negative_slope, \
convention, dtype, nonfinite, one_value, frozen, zero_debias
        As in `BatchNorm`, and the same on every rank.
    virtual_batch_size, renorm
        Must be off.
    comm : mpi4py.MPI.Intracomm or Communicator, optional
        The ranks: the world by default, or a part of it (``comm.Split``), or any object with a method ``allgather``,
        see `cbn.interop.communicators`.

    Raises
    ------
    TypeError, ValueError
        As `BatchNorm`, and for a comm that is no communicator.
    ImportError
        If mpi4py is needed and not installed.

    Notes
    -----
    Every rank calls the layer in training, and `backward` after it, in the same order, with its own part of the batch:
    parts may differ in size, and be empty. y and dx are those of the whole batch, within the bounds of `batch_norm`,
    and so are the running statistics, which are the same bits on every rank and for any MPI: parts are merged in the
    order of the ranks, their means known to twice the digits. weight_grad and bias_grad are those of this rank's part,
    as in torch: add them up over the ranks, as all other gradients. One value per channel is an error only if all ranks
    have one together. Evaluation and frozen layers send nothing.

    A call sends 40 bytes to say that all is well, and then ``24 * C + 16`` bytes forward and ``16 * C`` backward, per
    rank; x is read twice from memory, since all of it comes before any of y.

    If a rank raises in such a call, the others raise `RankError` with its words, and no layer has been changed. Ranks
    whose operations, dtypes of x, options or running statistics differ get a ValueError that names them. A rank that
    dies, or raises elsewhere, must be known to the launcher: run ``mpiexec -n 4 python -m mpi4py program.py``. What
    nobody reports ends in TimeoutError after 30 minutes; ``comm=MPICommunicator(timeout=60)`` says otherwise.

    `check` and `drift` look at this rank alone. Files are those of a `BatchNorm`, so any process can serve from them:
    let rank 0 save. `load`, and pickles, give a layer of the world. One thread of a process at a time may train layers
    of one communicator, and no child after a fork.

    Ioffe & Szegedy 2015, with the batch of all ranks for the mini-batch.

    Examples
    --------
    On one rank it is a `BatchNorm`; here two threads are the ranks:

    >>> import numpy as np
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from cbn.interop.communicators import ThreadCommunicator
    >>> from cbn.interop.mpi import SyncBatchNorm
    >>> def train(comm):
    ...     layer = SyncBatchNorm(1, comm=comm, dtype=np.float64)
    ...     y = layer(np.array([[0.0], [4.0]]) + 2 * comm.rank)
    ...     return layer.batch_mean, layer.running_var
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(pool.map(train, ThreadCommunicator.group(2)))
    [(array([3.]), array([1.56666667])), (array([3.]), array([1.56666667]))]
    """

    def __init__(self, num_features, *args, comm=None, **kwargs):
        super().__init__(num_features, *args, **kwargs)
        options.check_unset(self, ("virtual_batch_size", "renorm"), "in a synchronized layer")
        self._exchange = synchronized.Exchange(communicator_of(comm))

    _own = inspect.signature(BatchNorm.__init__)
    __init__.__signature__ = _own.replace(
        parameters=[*_own.parameters.values(), inspect.Parameter("comm", inspect.Parameter.KEYWORD_ONLY, default=None)]
    )
    del _own

    def __call__(self, x, *, residual=None, mask=None, sample_weight=None, out=None):
        """See `BatchNorm.__call__`; in training a call of every rank."""
        given = {"residual": residual, "mask": mask, "sample_weight": sample_weight, "out": out}
        if not self.training or self.frozen:
            return super().__call__(x, **given)
        with self._exchange.call("forward"):
            return super().__call__(x, **given)

    def backward(self, dy, *, out=None):
        """See `BatchNorm.backward`; after a training call a call of every rank."""
        saved = self._saved
        alone = not self.training or self.frozen if saved is None else not isinstance(saved, synchronized.Part)
        if alone:
            return super().backward(dy, out=out)
        with self._exchange.call("backward"):
            return super().backward(dy, out=out)

    def check(self, x, dy=None, *, residual=None, mask=None, sample_weight=None):
        """See `BatchNorm.check`: of this rank alone, as if there were no others."""
        alone = BatchNorm.__new__(BatchNorm)
        alone.__setstate__({**self.__getstate__(), "_exchange": None})
        return alone.check(x, dy, residual=residual, mask=mask, sample_weight=sample_weight)
