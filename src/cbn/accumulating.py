"""accumulating: the moments of parts, added up in order, with progress and a file from which a later run goes on."""

import contextlib
import itertools
import time
import warnings
from typing import NamedTuple

import numpy as np

from . import _core, arrays, containers, reading
from .console import followed
from .merging import added
from .statistics import Moments

__all__ = ["Part", "Source", "accumulated", "array_of_batch", "check_form", "left_of", "no_batches", "part_of"]

EVERY = 10.0  # seconds between two writes of a checkpoint


class Part(NamedTuple):
    """The moments of one part, whose means are `mean + rest`, and its shape and dtype."""

    count: int
    mean: np.ndarray
    rest: np.ndarray
    m2: np.ndarray
    form: tuple


class Source:
    """Where parts come from: an array in blocks, or batches. `argument` is what errors call it, `axis` the channels'.

    `texts` say what an array is; of batches, where it is None, the form of the first one does. `data` has the length of
    all parts, if they have one. `number` and `channels` are None where only the parts will tell.
    """

    texts = number = channels = data = None
    argument = "x"

    def form(self):
        """Return shape and dtype of the first batch."""
        raise NotImplementedError

    def parts(self, first):
        """Return a generator of the parts from that number on."""
        raise NotImplementedError

    def name(self, number):
        """What errors call a part."""
        raise NotImplementedError


class Run:
    """The sum of a source's parts so far, and the file that keeps it."""

    def __init__(self, path, source):
        self._path, self._source = path, source
        self._texts = {**(source.texts or {}), "number of batches": _text(source.number)}
        self._sum, self._has_ended = (None, 0), False  # one object, so that an interrupt finds both or none
        self._saved = None  # what the file has counted
        if path is not None and containers.check_target(path, "checkpoint"):
            self._resume()
        self._due = time.monotonic() + EVERY

    @property
    def moments(self):
        return Moments(self._sum[0].count, self._sum[0].mean, self._sum[0].m2)

    @property
    def counted(self):
        return self._sum[1]

    @property
    def is_finished(self):
        return self._has_ended or 0 < self.counted == self._source.number

    def _resume(self):
        moments, run, rest = Moments._load_run(self._path, "checkpoint")
        if not _is_run(run) or type(moments.count) is not int:
            raise ValueError(
                "checkpoint must be a file that population_moments or cbn.interop.dask.moments began; "
                "got moments that say nothing of a run"
            )
        self._check(run["data"])
        if self._source.texts is None:
            self._texts.update(_described(self._source.form(), self._source.axis))
            self._check(run["data"])
        found, of = moments.mean.size, self._source.number
        if self._source.channels not in (None, found):
            raise ValueError(f"checkpoint must have {self._source.channels} channels; got {found}")
        counted, is_finished = run["counted"], run["finished"]
        if of is not None and (counted > of or is_finished is not (counted == of)):
            end = "with an end" if is_finished else "without an end"
            raise ValueError(f"checkpoint must end after {of} batches; got one with {counted}, {end}")
        part = Part(moments.count, moments.mean, rest, moments.m2, None)
        self._sum, self._saved, self._has_ended = (part, counted), counted, is_finished

    def _check(self, found):
        for key, text in self._texts.items():
            if found.get(key) != text:
                got = f"one of data with {key} {reading.shown(found[key])}" if key in found else "one of other data"
                raise ValueError(f"checkpoint must be of data with {key} {text}; got {got}")

    def add(self, part):
        before, counted = self._sum
        if before is None:
            if self._source.texts is None:
                self._texts.update(_described(part.form, self._source.axis))
        elif part.mean.size != before.mean.size:
            name = self._source.name(counted)
            raise ValueError(f"{name} must have {before.mean.size} channels, as those before; got {part.mean.size}")
        self._sum = (part if before is None else Part(*added(before[:4], part[:4]), None)), counted + 1

    def save_if_due(self):
        if time.monotonic() >= self._due:
            self._try_to_save()

    def finish(self):
        if not self.is_finished:  # as far as the file says
            self._has_ended, self._saved = True, None
        self._try_to_save()

    def _try_to_save(self):
        """A disk that is full now may have room later, and what has been counted is worth more than the file."""
        try:
            self.save()
        except OSError as error:
            self._due = time.monotonic() + EVERY
            warnings.warn(f"checkpoint could not be written: {error}", RuntimeWarning, stacklevel=2)

    def save(self):
        """Write the file, if there is to be one and it does not say so already."""
        if self._path is None or self.counted in (0, self._saved):
            return
        run = {"counted": self.counted, "finished": self.is_finished, "data": self._texts}
        self.moments._save(self._path, run, self._sum[0].rest)
        self._saved, self._due = self.counted, time.monotonic() + EVERY


def _text(number):
    return "unknown" if number is None else str(number)


def _described(form, axis):
    shape, dtype = form
    return {"channel axis": str(axis % len(shape)), "first batch": f"{shape} of {dtype}"}


def _is_run(run):
    """Whether a file says what a run says, and nothing that could harm one."""
    if not isinstance(run, dict) or set(run) != {"counted", "finished", "data"}:
        return False
    texts = isinstance(run["data"], dict) and all(isinstance(text, str) for text in run["data"].values())
    return texts and type(run["finished"]) is bool and type(run["counted"]) is int and run["counted"] > 0


def accumulated(source, checkpoint, progress):
    """Return the sum of the parts of a source, or of the rest of them where the checkpoint has the first ones."""
    run = Run(checkpoint, source)
    if run.is_finished:
        return run.moments
    parts = source.parts(run.counted)
    try:
        with (
            contextlib.closing(parts),
            followed(parts, "moments", progress, source.data, run.counted) as seen,
        ):
            for part in seen:
                run.add(part)
                run.save_if_due()
    except BaseException as error:
        try:
            run.save()
        except Exception as second:
            error.add_note(f"checkpoint could not be written: {second}")
        raise
    if not run.counted:
        raise no_batches(source)
    run.finish()
    return run.moments


def no_batches(source):
    return ValueError(
        f"{source.argument} must hold one batch or more; got none (a generator gives its batches only once)"
    )


def left_of(batches, counted, taken=0):
    """Give the batches of an iterator after those that were counted, with their numbers. The first may be taken."""
    dropped = taken + sum(1 for _ in itertools.islice(batches, counted - taken))
    if dropped < counted:
        raise ValueError(f"checkpoint must have counted at most {dropped} batches, all that there are; got {counted}")
    yield from enumerate(batches, counted)


def array_of_batch(batch, name):
    """A batch as an array. A list or tuple of arrays, as of data and labels, would be taken for one."""
    if isinstance(batch, list | tuple) and any(hasattr(part, "shape") for part in batch):
        raise TypeError(f"{name} must be an array; got a {type(batch).__name__} of arrays: take the data out of it")
    return arrays.array_of(batch, name)


def part_of(batch, axis, name, num_threads=None):
    """The moments of a batch that errors call by that name."""
    batch = array_of_batch(batch, name)
    try:
        _, count, rows = _core.part_moments(batch, axis, num_threads)
    except (TypeError, ValueError) as error:
        text = str(error)
        text = name + text[1:] if text.startswith("x ") else f"{text} (in {name})"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(text) from None
    return Part(count, *rows, (batch.shape, batch.dtype.name))


def check_form(shape, dtype, axis, name):
    """Raise what `moments` would raise for an array of that shape and dtype; return the axis, counted from 0."""
    # no values where it has axes enough; else none are read
    form = shape if len(shape) < 2 else (0,) * len(shape)
    part_of(np.broadcast_to(np.empty((), dtype), form), axis, name)
    return int(axis) % len(shape)
