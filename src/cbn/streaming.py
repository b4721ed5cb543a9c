"""streaming: the moments of data that fit nowhere, block by block, in one pass that may be interrupted."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from . import _core, arrays
from .accumulating import Run, accumulated, array_of_batch, check_form, moments_of
from .blocks import blocks, cut, number

__all__ = ["population_moments"]


def population_moments(batches, *, axis=1, checkpoint=None, progress=True):
    """Return count, mean and sum of squared deviations per channel of data that need not fit in memory.

    Parameters
    ----------
    batches : ndarray, memmap or iterable of array_like
        Of float16, bfloat16, float32 or float64, rank >= 2. An array is cut into blocks of at most 64 MB, whatever its
        layout and byte order, so that no more is copied or read at a time (one position with all its channels is never
        cut). An iterable gives batches of any sizes, one at a time; a generator will do.
    axis : int
        The channel axis, of an array or of each batch.
    checkpoint : str or path-like, optional
        A file, ``.npz`` or ``.safetensors``, from which a later call with the same arguments goes on. It is written
        every 10 seconds, when anything is raised (Ctrl-C, too), and at the end; a process that is killed loses what
        came after the last write. Batches that were counted are not read again, but an iterable must give them
        again, and the first one is looked at. After a run to the end, the next call returns its result, and reads none.
    progress : bool
        Whether the batches are counted on stderr if that is a terminal, with tqdm's bar if that is installed.

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
        and for a checkpoint that is of other data, as far as their shape, dtype, number, axis and cut tell, or that no
        run wrote. It has not been changed then.
    ImportError
        If the checkpoint needs safetensors and that is not installed.
    Exception
        What the iterable raises. The batches before it are kept in the checkpoint.

    Notes
    -----
    The checkpoint does not know the values. Remove it when they change. `Moments.load` reads what has been counted so
    far from it. `cbn.interop.dask.moments` goes on with that of an array, and the other way round.

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
        return _of_array(batches, axis, checkpoint, progress)
    if hasattr(batches, "shape") or isinstance(batches, str | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be an array of NumPy, or an iterable of arrays; got {type(batches).__name__}: cut it "
            "yourself, as in (x[i : i + 64] for i in range(0, len(x), 64))"
        )
    return _of_iterable(batches, axis, checkpoint, progress)


def _of_array(x, axis, checkpoint, progress):
    run, lengths = run_of_array(x, axis, checkpoint, "batches")
    if run.is_finished:
        return run.moments
    left = left_of(blocks(x.shape, lengths), run.counted)
    parts = (moments_of(x[index], axis, _block(n)) for n, index in left)
    return accumulated(run, parts, range(number(x.shape, lengths)), progress, _block)


def run_of_array(x, axis, checkpoint, name):
    """Return the run over an array, and the length of its blocks along each axis."""
    axis = check_form(x.shape, x.dtype, axis, name)
    lengths = cut(x, axis)
    data = {"shape": str(x.shape), "dtype": x.dtype.name, "channel axis": str(axis), "blocks of": str(lengths)}
    return Run(checkpoint, data, number(x.shape, lengths), x.shape[axis]), lengths


def _of_iterable(batches, axis, checkpoint, progress):
    run = Run(checkpoint, {"channel axis": str(axis)}, len(batches) if isinstance(batches, list | tuple) else None)
    if run.is_finished:
        return run.moments
    iterator = iter(batches)
    first = list(itertools.islice(iterator, 1))
    if first:
        form = array_of_batch(first[0], _name(0))
        run.describe("first batch", f"{form.shape} of {form.dtype.name}")
    left = left_of(itertools.chain(first, iterator), run.counted)
    parts = (moments_of(batch, axis, _name(n)) for n, batch in left)
    return accumulated(run, parts, batches, progress, _name)


def left_of(batches, counted):
    """Give the batches after those that have been counted, with their numbers."""
    numbered = enumerate(batches)
    dropped = sum(1 for _ in itertools.islice(numbered, counted))
    if dropped < counted:
        raise ValueError(f"checkpoint must have counted at most {dropped} batches, all that there are; got {counted}")
    yield from numbered


def _name(number):
    return f"batches[{number}]"


def _block(number):
    return f"block {number} of batches"
