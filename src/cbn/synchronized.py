"""synchronized: training calls on a batch of which each rank of a group of processes has a part."""

import copy
import operator
import zlib
from contextlib import contextmanager
from functools import cache

import numpy as np

from . import _core, checkpoint, merging
from .batches import Batch, Call, collected, inverse_std

__all__ = ["Exchange", "Part", "RankError", "forward"]

_TEXT = 512  # bytes of what a rank says in words
_AGREED = ("operation", "number of calls", "dtype of x", "options", "statistics")  # what ranks must agree on
_OPTIONS = operator.itemgetter(*checkpoint.OPTIONS, "_convention")


@cache
def name_of(dtype):
    """Its name, for which NumPy takes microseconds."""
    return dtype.name


class RankError(RuntimeError):
    """Another rank has failed in the same call, which has changed nothing on any rank."""


class Exchange:
    """What one layer tells the same layer of the other ranks, and hears from them, call by call.

    Each call is two gatherings of all ranks. The first has the same few numbers from every rank, whatever goes on
    there: whether it has failed, and what it must agree on with the others. Only if all is well the second follows,
    which has the sums. Otherwise every rank raises; the words for that are gathered, too.
    """

    def __init__(self, communicator):
        self.communicator, self.calls, self._operation = communicator, 0, None
        self._described = None, ""  # the options of a layer, and what repr makes of them

    def __deepcopy__(self, memo):
        return copy.copy(self)  # the ranks stay the same

    @contextmanager
    def call(self, operation):
        """A call of every rank. What is raised in it before the ranks have met, the others are told."""
        self._operation = operation
        try:
            yield
        except BaseException as error:
            if self._operation is not None:
                self._tell(error)
            raise
        finally:
            self._operation = None

    def _tell(self, error):
        try:
            self._meet("", "", (), f"{type(error).__name__}: {error}")
        except Exception as lost:  # the first error is the one to raise
            error.add_note(f"The other ranks could not be told: {lost}")

    def gather(self, values, dtype, options, statistics):
        """Return the values of all ranks, a row for each, once they agree on everything else."""
        self._meet(dtype, options, statistics)
        return self._gathered(values)

    def described(self, layer):
        """repr(layer), made anew only where an option has changed: it takes as long as a small call."""
        options = (*_OPTIONS(vars(layer)), layer.weight is None, layer.bias is None)
        if options != self._described[0]:
            self._described = options, repr(layer)
        return self._described[1]

    def _meet(self, dtype, options, statistics, error=None):
        """Hear whether all ranks are well and in the same call of the same layer; raise on every rank if not."""
        operation, self._operation = self._operation, None
        said = (operation, str(self.calls), dtype, options, b"".join(array.tobytes() for array in statistics))
        self.calls += 1
        numbers = [zlib.crc32(text if isinstance(text, bytes) else text.encode()) for text in said]
        rows = self._gathered(np.array([error is not None, *numbers], np.float64))
        failed = np.flatnonzero(rows[:, 0])
        if failed.size:
            texts = self._words(error or "")
            if error is None:
                told = "; ".join(f"{texts[rank]} (rank {rank})" for rank in failed)
                raise RankError(f"{operation} must succeed on every rank; got {told}")
            return
        for name, own, differs in zip(_AGREED, said, (rows != rows[0]).any(axis=0)[1:], strict=True):
            if differs:
                texts = self._words(own if isinstance(own, str) else _shown(statistics))
                raise ValueError(f"{name} must be the same on every rank; got {_by_ranks(texts)}")

    def _gathered(self, values):
        rows = np.asarray(self.communicator.allgather(values))
        if rows.ndim != 2 or rows.shape[1] != values.size or rows.dtype != np.float64:
            raise TypeError(
                f"communicator.allgather must return float64 of shape (ranks, {values.size}); got {rows.dtype} of "
                f"shape {rows.shape}"
            )
        return rows

    def _words(self, own):
        """What every rank says, cut where it is long."""
        room = np.zeros(_TEXT, np.uint8)
        text = own.encode()[:_TEXT]
        room[: len(text)] = np.frombuffer(text, np.uint8)
        rows = self._gathered(room.view(np.float64))
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def _shown(statistics):
    """The start of each."""
    return " ".join(str(array.ravel()[:3]) for array in statistics)


def _by_ranks(texts):
    """``"float32 (ranks 0, 2), float64 (rank 1)"``"""
    ranks = {}
    for rank, text in enumerate(texts):
        ranks.setdefault(text, []).append(str(rank))
    return ", ".join(f"{text} (rank{'s' * (len(own) > 1)} {', '.join(own)})" for text, own in ranks.items())


def merged_moments(rows):
    """Merge what `_core.part_moments` found on each rank, in the order of the ranks."""
    counts = [int(count) if count.is_integer() else count for count in rows[:, 1].tolist()]
    parts = rows[:, 2:].reshape(len(rows), 3, -1)
    return int(rows[:, 0].sum()), *merging.merged_parts(counts, *parts.swapaxes(0, 1))


@_core.default_rounding
def summed(rows):
    """Add what `_core.backward_sums` found on each rank, in the order of the ranks."""
    with np.errstate(all="ignore"):
        return merging.in_order(rows).reshape(2, -1)


class Part(Batch):
    """A rank's part of a batch whose statistics came from all ranks."""

    count = 0

    @_core.default_rounding
    def gradients(self, layer, dy, out):
        dy = _core.same_as(dy, "dy", self.x, self.axis)
        others = (("mask", self.mask), ("sample_weight", self.sample_weight))
        outs = _core.gradient_outputs(out, self.residual, self.x, dy, self.axis, self.y, others)
        _core.check_parameters(self.x, layer.num_features, layer.weight, None)
        statistics = (self.x, self.mean, self.inv_std, self.axis)
        given = (dy, *statistics, *self.activation, self.y, self.mask, self.sample_weight)
        own = _core.backward_sums(None, *given)
        agreed = (name_of(self.x.dtype), layer._exchange.described(layer), (self.mean, self.inv_std))
        total = summed(layer._exchange.gather(own.ravel(), *agreed))
        _core.backward_input(outs, layer.weight, total, self.count, None, *given)
        return outs[0], *own, *outs[1:]


@_core.default_rounding
def forward(layer, x, residual, mask, sample_weight, out):
    """The training call of a layer that has an `Exchange`; everything is checked before the ranks meet."""
    call = Call(layer, x, residual, mask, sample_weight, out)
    _core.check_parameters(call.x, layer.num_features, layer.weight, layer.bias)
    counted, count, rows = _core.part_moments(call.x, layer.axis, None, call.mask, call.sample_weight)
    running = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    exchange, running = layer._exchange, [array for array in running if array is not None]
    agreed = (name_of(call.x.dtype), exchange.described(layer), running)
    of_all = exchange.gather(np.concatenate([[counted, count], rows.ravel()]), *agreed)
    counted, count, mean, m2 = merged_moments(of_all)
    zero_var, unbiased = layer.one_value == "zero_var", layer.convention.variance == "unbiased"
    _core.check_enough(counted, count, call.x, zero_var, bool(call.running) and unbiased, ", on all ranks together")
    update = _core.update_of(layer, call.x, mean, m2, count) if layer._collect is None else None  # may raise
    with np.errstate(all="ignore"):
        var = m2 / (count or 1)
    parameters = (mean, var, layer.weight, layer.bias, layer.eps, layer.axis, call.y, None, layer.num_features)
    extras = (layer.activation, layer.negative_slope, *call.given)
    _core.inference(call.x, *parameters, *extras)
    batch = Part(layer, call.x, call.y, mean, inverse_std(var, layer.eps), *call.given)
    batch.count = count
    if layer._collect is not None:
        collected(layer, layer._collect, [(count, mean, m2)])
    return (call.y if out is None else out), batch, update
