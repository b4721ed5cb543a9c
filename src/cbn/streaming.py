"""streaming: the moments of data that fit nowhere, block by block, in one pass that may be interrupted."""

import itertools
import os
from collections.abc import Iterable, Mapping

import numpy as np

from . import _core, arrays
from .accumulating import Source, accumulated, array_of_batch, check_form, left_of, no_batches, part_of
from .blocks import Blocks

__all__ = ["population_moments"]


def population_moments(batches, *, axis=1, checkpoint=None, progress=True):
    """Return count, mean and sum of squared deviations per channel of data that need not fit in memory.

    Parameters
    ----------
    batches : ndarray, memmap or iterable of array_like
        Of float16, bfloat16, float32 or float64, rank >= 2. An array is cut into blocks of at most 64 MB, whatever its
        layout and byte order, of which one is in use at a time, with as much again where it must be copied (one
        position with all its channels is never cut). An iterable gives batches of any sizes, one at a time; a generator
        will do.
    axis : int
        The channel axis, of an array or of each batch.
    checkpoint : str or path-like, optional
        A file, ``.npz`` or ``.safetensors``, from which a later call with the same arguments goes on. It is written
        every 10 seconds, when anything is raised (Ctrl-C, too), and at the end; a process that is killed loses what
        came after the last write. Blocks that were counted are not read again; an iterable must give its batches
        again, and shape and dtype of the first one are looked at, after a run to the end, too, when the call returns
        the result. One that cannot be written, on a full disk, is a RuntimeWarning, and tried again 10 seconds later.
    progress : bool
        Whether the batches are counted on stderr if that is a terminal, with rich's bar if that is installed.

    Returns
    -------
    Moments
        Those of the blocks, added in order: the mean within 1e-12 * (abs(mean) + std) and the variance within
        1e-12 + 2e-16 * abs(mean) / std of what `moments` returns for all of the data. The same bits for the same data,
        cut at the same places, with any number of threads, and with or without an interruption.

    Raises
    ------
    TypeError, ValueError
        For what `moments` refuses, with the number of the batch, for batches of different numbers of channels, or none;
        and for a checkpoint that is of other data, as far as their shape, dtype, number, axis and cut tell, of batches
        those of the first one, or that no run wrote. It has not been changed then.
    ImportError
        If the checkpoint needs safetensors and that is not installed.
    Exception
        What the iterable raises. The batches before it are kept in the checkpoint.

    Notes
    -----
    The checkpoint does not know the values. Remove it when they change. `Moments.load` reads what has been counted so
    far from it. `cbn.interop.dask.moments` goes on with that of an array, and the other way round. Two processes must
    not write the same one: each would replace what the other has counted.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> cbn.population_moments(np.array([[1.0, 2.0], [3.0, 6.0]]))
    Moments(count=2, mean=array([2., 4.]), m2=array([2., 8.]))
    >>> batches = (np.full((2, 1), float(n)) for n in range(3))
    >>> cbn.population_moments(batches)
    Moments(count=6, mean=array([1.]), m2=array([4.]))
    """
    _core.check_flag(progress, "progress")
    _core.check_integer(axis, "axis")
    if hasattr(batches, "detach"):  # a torch tensor
        batches = arrays.array_of(batches, "batches")
    if isinstance(batches, np.ndarray):
        return accumulated(Blocks(batches, axis, "batches"), checkpoint, progress)
    if hasattr(batches, "shape") or isinstance(batches, str | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be an array of NumPy, or an iterable of arrays; got {type(batches).__name__}: "
            + _advice(batches)
        )
    return accumulated(Batches(batches, axis), checkpoint, progress)


def _advice(batches):
    if isinstance(batches, str | os.PathLike):
        return 'open it, as by np.load(path, mmap_mode="r")'
    if type(batches).__module__.startswith("dask."):
        return "cbn.interop.dask.moments takes it"
    return "cut it yourself, as in (x[i : i + 64] for i in range(0, len(x), 64))"


class Batches(Source):
    """Of an iterable."""

    argument = "batches"

    def __init__(self, batches, axis):
        self.data, self.axis, self._taken = batches, axis, 0
        self.number = len(batches) if isinstance(batches, list | tuple) else None
        self._left = iter(batches)

    def form(self):
        for first in itertools.islice(self._left, 1):
            self._taken = 1
            return self._form_of(first)
        raise no_batches(self)

    def _form_of(self, first):
        array = array_of_batch(first, self.name(0))
        check_form(array.shape, array.dtype, self.axis, self.name(0))
        return array.shape, array.dtype.name

    def parts(self, first):
        left = left_of(self._left, first, self._taken)
        return (part_of(batch, self.axis, self.name(n)) for n, batch in left)

    def name(self, number):
        return f"batches[{number}]"
