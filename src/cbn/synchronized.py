"""synchronized: training calls on a batch of which each rank of a group of processes has a part."""

import copy
import operator
import threading
import zlib
from contextlib import contextmanager

import numpy as np

from . import _core, checkpoint, merging
from .batches import Batch, Call, collected, inverse_std

__all__ = ["Exchange", "Part", "RankError", "forward", "name_of"]

_TEXT = 512  # bytes of what a rank says in words
_OPTIONS = operator.itemgetter(*checkpoint.OPTIONS, "_convention")
_NAMES = {}  # of dtypes, for which NumPy takes microseconds


def name_of(dtype):
    return _NAMES.get(dtype) or _NAMES.setdefault(dtype, dtype.name)


class RankError(RuntimeError):
    """Another rank has failed in the same call, which has changed nothing on any rank."""


class Exchange:
    """What one layer tells the same layer of the other ranks, and hears from them, call by call.

    Each call is two gatherings of all ranks. The first has the same few numbers from every rank, whatever goes on
    there: whether it has failed, and what it must agree on with the others. Only if all is well the second follows,
    which has the sums. Otherwise every rank raises; the words for that are gathered, too.
    """

    def __init__(self, communicator):
        self.communicator = communicator
        self._operation, self._has_met = None, True  # of the call that is under way
        self._busy = threading.Lock()
        self._described = None, ""  # the options of a layer, and what repr makes of them

    def __reduce__(self):
        return Exchange, (self.communicator,)  # without what is under way

    def __deepcopy__(self, memo):
        return copy.copy(self)  # the ranks stay the same

    @contextmanager
    def call(self, operation):
        """A call of every rank. What is raised in it before the ranks have met, the others are told."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("a synchronized layer must be called by one thread at a time; got a second one")
        try:
            self._operation, self._has_met = operation, False
            yield
        except BaseException as error:
            if not self._has_met:
                self._tell(error)
            raise
        finally:
            self._busy.release()

    def _tell(self, error):
        try:
            self._meet("", "", {}, _bytes_of(error))
        except Exception as lost:  # the first error is the one to raise
            error.add_note(f"The other ranks could not be told: {lost}")

    def moments(self, part, *agreed):
        """Merge what `_core.part_moments` found on each rank, in their order: counted, count, mean and m2."""
        counted, count, found = part
        rows = self._gather(np.concatenate([[counted, count], found.ravel()]), *agreed)
        counts = [int(count) if count.is_integer() else count for count in rows[:, 1].tolist()]
        parts = rows[:, 2:].reshape(len(rows), *found.shape)
        return int(rows[:, 0].sum()), *merging.merged_parts(counts, *parts.swapaxes(0, 1))

    @_core.default_rounding
    def sums(self, own, *agreed):
        """Add what `_core.backward_sums` found on each rank, in their order."""
        with np.errstate(all="ignore"):
            return merging.in_order(self._gather(own.ravel(), *agreed)).reshape(own.shape)

    def _gather(self, values, dtype, options, statistics):
        """Return the values of all ranks, a row for each, once they agree on everything else."""
        self._meet(dtype, options, statistics)
        return self._gathered(values)

    def _meet(self, dtype, options, statistics, error=b""):
        """Hear whether all ranks are well and in the same call of the same layer; raise on every rank if not.

        `statistics` are arrays by name.
        """
        self._has_met = True
        said = [text.encode(errors="backslashreplace") for text in (self._operation, dtype, options)]
        state = 0
        for array in statistics.values():
            state = zlib.crc32(array.tobytes(), state)
        numbers = [*map(zlib.crc32, said), state]
        rows = self._gathered(np.array([error != b"", *numbers], np.float64))
        failed = np.flatnonzero(rows[:, 0])
        if failed.size:
            texts = self._words(error)
            if not error:
                told = "; ".join(f"{texts[rank]} (rank {rank})" for rank in failed)
                raise RankError(f"{self._operation} must succeed on every rank; got {told}")
            return
        differs = (rows != rows[0]).any(axis=0)
        for name, own, differ in zip(("operation", "dtype of x", "options"), said, differs[1:], strict=False):
            if differ:
                raise ValueError(f"{name} must be the same on every rank; got {_by_ranks(self._words(own))}")
        if differs[-1]:
            self._refuse(statistics)

    def _refuse(self, statistics):
        """Say in which channel they differ: the options are the same, and so are the sizes."""
        for name, array in statistics.items():
            rows = self._gathered(array.astype(np.float64).ravel())
            differs = (rows.view(np.int64) != rows[0].view(np.int64)).any(axis=0)
            if differs.any():
                place = int(differs.argmax())
                texts = _by_ranks([f"{row[place]:.9g}" for row in rows])
                where = f" in channel {place}" if array.ndim else ""
                raise ValueError(f"{name} must be the same on every rank; got {texts}{where}")
        raise ValueError("statistics must be the same on every rank; got the same values in several dtypes")

    def described(self, layer):
        """repr(layer), made anew only where an option has changed: it takes as long as a small call."""
        options = (*_OPTIONS(vars(layer)), layer.weight is None, layer.bias is None, layer._collect is None)
        if options != self._described[0]:
            also = "" if layer._collect is None else ", while statistics are recomputed"
            self._described = options, f"{layer!r}{also}"
        return self._described[1]

    def _gathered(self, values):
        rows = np.ascontiguousarray(self.communicator.allgather(values))
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != values.size or rows.dtype != np.float64:
            raise TypeError(
                f"communicator.allgather must return float64 of shape (ranks, {values.size}); got {rows.dtype} of "
                f"shape {rows.shape}"
            )
        return rows

    def _words(self, own):
        """What every rank says, cut where it is long."""
        room = np.zeros(_TEXT, np.uint8)
        room[: len(own)] = np.frombuffer(own[:_TEXT], np.uint8)
        rows = self._gathered(room.view(np.float64))
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def _bytes_of(error):
    """An exception in words, whatever its text is made of."""
    name = type(error).__name__
    try:
        return f"{name}: {error}".encode(errors="backslashreplace")
    except Exception:
        return name.encode(errors="backslashreplace")


def _by_ranks(texts):
    """``"float32 (ranks 0, 2), float64 (rank 1)"``"""
    ranks = {}
    for rank, text in enumerate(texts):
        ranks.setdefault(text, []).append(str(rank))
    return ", ".join(f"{text} (rank{'s' * (len(own) > 1)} {', '.join(own)})" for text, own in ranks.items())


class Part(Batch):
    """A rank's part of a batch whose statistics came from all ranks, with so many values per channel."""

    def __init__(self, layer, x, y, mean, inv_std, count, given):
        super().__init__(layer, x, y, mean, inv_std, *given)
        self.count = count

    @_core.default_rounding
    def gradients(self, layer, dy, out):
        dy = _core.same_as(dy, "dy", self.x, self.axis)
        others = (("mask", self.mask), ("sample_weight", self.sample_weight))
        outs = _core.gradient_outputs(out, self.residual, self.x, dy, self.axis, self.y, others)
        _core.check_parameters(self.x, layer.num_features, layer.weight, None)
        statistics = (self.x, self.mean, self.inv_std, self.axis)
        given = (dy, *statistics, *self.activation, self.y, self.mask, self.sample_weight)
        own, most = _core.backward_sums(None, *given)
        batch = {"mean of the batch": self.mean, "inv_std of the batch": self.inv_std}
        exchange = layer._exchange
        total = exchange.sums(own, name_of(self.x.dtype), exchange.described(layer), batch)
        _core.backward_input(outs, layer.weight, total, self.count, most, None, *given)
        return outs[0], *own, *outs[1:]


@_core.default_rounding
def forward(layer, x, residual, mask, sample_weight, out):
    """The training call of a layer that has an `Exchange`; everything is checked before the ranks meet."""
    call = Call(layer, x, residual, mask, sample_weight, out)
    _core.check_parameters(call.x, layer.num_features, layer.weight, layer.bias)
    part = _core.part_moments(call.x, layer.axis, None, call.mask, call.sample_weight)
    running = {name: getattr(layer, name) for name in ("running_mean", "running_var", "num_batches_tracked")}
    running = {name: array for name, array in running.items() if array is not None}
    exchange = layer._exchange
    agreed = (name_of(call.x.dtype), exchange.described(layer), running)
    counted, count, mean, m2 = exchange.moments(part, *agreed)
    zero_var, unbiased = layer.one_value == "zero_var", layer.convention.variance == "unbiased"
    if layer.num_features:
        updates = bool(call.running) and unbiased
        _core.check_enough(counted, count, call.x, zero_var, updates, ", on all ranks together")
    update = None  # what follows may raise, and is the same on all ranks
    if layer._collect is not None:
        collected(layer, layer._collect, [(count, mean, m2)])
    else:
        update = _core.update_of(layer, call.x, mean, m2, count)
    with np.errstate(all="ignore"):
        var = m2 / (count or 1)
    parameters = (mean, var, layer.weight, layer.bias, layer.eps, layer.axis, call.y, None, layer.num_features)
    extras = (layer.activation, layer.negative_slope, *call.given)
    _core.inference(call.x, *parameters, *extras)
    batch = Part(layer, call.x, call.y, mean, inverse_std(var, layer.eps), count, call.given)
    return (call.y if out is None else out), batch, update
