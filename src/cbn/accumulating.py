"""accumulating: the moments of parts, added up in order, with progress and a file from which a later run goes on."""

import contextlib
import operator
import time

import numpy as np

from . import arrays, containers, reading
from .progress import followed
from .statistics import Moments, moments

__all__ = ["Run", "accumulated", "array_of_batch", "check_form", "moments_of"]

EVERY = 10.0  # seconds between two writes of a checkpoint
_KEY = "run"  # of what a checkpoint says beside the moments


class Run:
    """The sum of the parts so far, and the file that keeps it.

    `data` says in texts what the parts are made of; a file whose texts differ is of other data. `of` and `channels` are
    the numbers of parts and channels, None where only the parts will tell.
    """

    def __init__(self, path, data, of=None, channels=None):
        self._path, self._data = path, {**data, "number of batches": _text(of)}
        self._of, self._channels = of, channels
        self._sum, self._has_ended = (None, 0), False  # one object, so that an interrupt finds both or none
        self._found = self._saved = None  # what the file says of the data, and what it has counted
        if path is not None and containers.check_target(path, "checkpoint"):
            self._resume()
        self._due = time.monotonic() + EVERY

    @property
    def moments(self):
        return self._sum[0]

    @property
    def counted(self):
        return self._sum[1]

    @property
    def is_finished(self):
        return self._has_ended or 0 < self.counted == self._of

    def _resume(self):
        moments, run = Moments._load(self._path, _KEY, "checkpoint")
        if not _is_run(run):
            raise ValueError(
                "checkpoint must be a file that population_moments or cbn.interop.dask.moments began; "
                "got moments that say nothing of a run"
            )
        self._found, found = run["data"], moments.mean.size
        for key, text in self._data.items():
            self._check_same(key, text)
        if self._channels not in (None, found):
            raise ValueError(f"checkpoint must have {self._channels} channels; got {found}")
        counted, is_finished = run["counted"], run["finished"]
        if self._of is not None and (counted > self._of or is_finished is not (counted == self._of)):
            end = "with an end" if is_finished else "without an end"
            raise ValueError(f"checkpoint must end after {self._of} batches; got one with {counted}, {end}")
        self._sum, self._saved, self._has_ended = (moments, counted), counted, is_finished

    def _check_same(self, key, text):
        if (found := self._found.get(key, "none")) != text:
            raise ValueError(
                f"checkpoint must be of data with {key} {text}; got one of data with {key} {reading.shown(found)}"
            )

    def describe(self, key, text):
        """Say more of the data, once that is known."""
        if self._found is not None:
            self._check_same(key, text)
        self._data[key] = text

    def add(self, part, name):
        if self.moments is not None and part.mean.size != self.moments.mean.size:
            raise ValueError(
                f"{name} must have {self.moments.mean.size} channels, as those before; got {part.mean.size}"
            )
        self._sum = (part if self.moments is None else self.moments + part), self.counted + 1

    def save_if_due(self):
        if time.monotonic() >= self._due:
            self.save()

    def finish(self):
        if not self.is_finished:  # as far as the file says
            self._has_ended, self._saved = True, None
        self.save()

    def save(self):
        """Write the file, if there is to be one and it does not say so already."""
        if self._path is None or self.counted in (0, self._saved):
            return
        run = {"counted": self.counted, "finished": self.is_finished, "data": self._data}
        self.moments._save(self._path, {_KEY: run})
        self._saved, self._due = self.counted, time.monotonic() + EVERY


def _text(number):
    return "unknown" if number is None else str(number)


def _is_run(run):
    """Whether a file says what a run says, and nothing that could harm one."""
    if not isinstance(run, dict) or set(run) != {"counted", "finished", "data"}:
        return False
    texts = isinstance(run["data"], dict) and all(isinstance(text, str) for text in run["data"].values())
    return texts and type(run["finished"]) is bool and type(run["counted"]) is int and run["counted"] > 0


class _Rest:
    """The parts that are left, which have a length for the bar where the data have one."""

    def __init__(self, parts, data, counted):
        self._parts, self._data, self._counted = parts, data, counted

    def __iter__(self):
        return self._parts

    def __length_hint__(self):
        return max(0, operator.length_hint(self._data) - self._counted)


def accumulated(run, parts, data, progress, name):
    """Return the sum of the rest of a run's parts.

    `parts` is a generator of Moments, in order; it is closed when something raises. `data` has the length of all parts,
    if that is known. ``name(number)`` is what errors call a part.
    """
    rest = _Rest(parts, data, run.counted)
    try:
        with contextlib.closing(parts), followed(rest, "moments", progress) as seen:
            for part in seen:
                run.add(part, name(run.counted))
                run.save_if_due()
    except BaseException as error:
        try:
            run.save()
        except Exception as second:
            error.add_note(f"checkpoint could not be written: {second}")
        raise
    if not run.counted:
        raise ValueError("batches must hold one batch or more; got none (a generator gives its batches only once)")
    run.finish()
    return run.moments


def array_of_batch(batch, name):
    """A batch as an array. A list or tuple of arrays, as of data and labels, would be taken for one."""
    if isinstance(batch, list | tuple) and any(hasattr(part, "shape") for part in batch):
        raise TypeError(f"{name} must be an array; got a {type(batch).__name__} of arrays: take the data out of it")
    return arrays.array_of(batch, name)


def moments_of(batch, axis, name, num_threads=None):
    """The moments of a batch that errors call by that name."""
    batch = array_of_batch(batch, name)
    try:
        return moments(batch, axis=axis, num_threads=num_threads)
    except (TypeError, ValueError) as error:
        text = str(error)
        text = name + text[1:] if text.startswith("x ") else f"{text} (in {name})"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(text) from None


def check_form(shape, dtype, axis, name):
    """Raise what `moments` would raise for an array of that shape and dtype; return the axis, counted from 0."""
    # no values where it has axes enough; else none are read
    form = shape if len(shape) < 2 else (0,) * len(shape)
    moments_of(np.broadcast_to(np.empty((), dtype), form), axis, name)
    return int(axis) % len(shape)
