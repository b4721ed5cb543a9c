"""dask: the moments of Dask arrays, delayed batches and files, on Dask's workers, in the order of their chunks."""

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np

from .. import _core
from ..accumulating import Source, accumulated, check_form, left_of
from ..blocks import Blocks
from ..libraries import library
from ..streaming import Batches
from . import dask_schedules, dask_tasks

__all__ = ["moments"]


def moments(x, *, axis=1, checkpoint=None, progress=True):
    """Return count, mean and sum of squared deviations per channel, computed by Dask.

    Parameters
    ----------
    x : dask.array.Array, ndarray, memmap or iterable of dask.delayed batches
        Of float16, bfloat16, float32 or float64, rank >= 2. A Dask array may be cut into chunks along any axes, the
        channels' too, and chunks may have unknown sizes along the others. Other arrays are cut as `population_moments`
        cuts them; workers open the file of a memmap themselves, so it must have that path for each of them. Batches may
        be futures of a Client, too.
    axis : int
        The channel axis, of x or of each batch.
    checkpoint : str or path-like, optional
        A file from which a later call with the same arguments goes on, as in `population_moments`. Of delayed batches
        the first one is computed again, to look at its shape and dtype.
    progress : bool
        Whether the parts are counted on stderr if that is a terminal, with rich's bar if that is installed.

    Returns
    -------
    Moments
        Within the bounds of `population_moments`. The same bits for the same data in the same chunks, whatever the
        scheduler, the number of workers, and the order in which they finish.

    Raises
    ------
    TypeError, ValueError
        As `population_moments`, naming the part; if the number of channels of a Dask array is unknown; and if the file
        of a memmap has been replaced or changed.
    ImportError
        If dask is not installed (``pip install 'cbn[dask]'``).
    Exception
        What a task raised, with a note of the part. Those that are under way are cancelled, and what has been added up
        is kept in the checkpoint.

    Notes
    -----
    Dask's scheduler of the moment computes: threads, processes, or the `distributed.Client` that was made last. A part
    is all channels of one block of positions, and one task takes its moments, on one thread.

    A Dask array or a list of delayed batches is handed over as one graph, so that a result which several parts need is
    computed once. Of what has no graph as a whole, arrays of NumPy and generators of delayed batches, some parts are
    under way at a time, few more than there are workers. Two calls must not write the same checkpoint.

    Examples
    --------
    >>> import numpy as np, cbn.interop.dask
    >>> import dask.array
    >>> x = dask.array.from_array(np.array([[1.0, 2.0], [3.0, 6.0]]), chunks=1)
    >>> cbn.interop.dask.moments(x)
    Moments(count=2, mean=array([2., 4.]), m2=array([2., 8.]))
    """
    _core.check_flag(progress, "progress")
    _core.check_integer(axis, "axis")
    array, delayed = library("dask.array", "dask"), library("dask.delayed", "dask")
    if isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1:  # as of to_delayed().ravel()
        x = list(x)
    if isinstance(x, array.Array):
        source = _Chunks(x, axis)
    elif isinstance(x, np.ndarray):
        source = _Blocks(x, axis, "x")
    elif isinstance(x, delayed.Delayed | str | Mapping) or hasattr(x, "shape") or not isinstance(x, Iterable):
        raise TypeError(
            f"x must be a Dask array, an array of NumPy, or an iterable of delayed batches; got {type(x).__name__}"
        )
    else:
        source = _Batches(x, axis)
    return accumulated(source, checkpoint, progress)


class _Chunks(Source):
    """A Dask array."""

    def __init__(self, x, axis):
        self.axis = axis = check_form(tuple(0 if math.isnan(n) else n for n in x.shape), x.dtype, axis, "x")
        if math.isnan(x.shape[axis]):
            raise ValueError("x must have a known number of channels; got unknown ones: see its compute_chunk_sizes()")
        self._x, self.channels = x, int(x.shape[axis])
        self.number = math.prod(n for a, n in enumerate(x.numblocks) if a != axis)
        self.data = range(self.number)
        self.texts = {
            "shape": f"({', '.join(f'{n:.0f}' for n in x.shape)})",
            "dtype": x.dtype.name,
            "channel axis": str(axis),
            "chunks": _shortened(str(tuple(tuple(float(n) for n in sizes) for sizes in x.chunks)).replace(".0", "")),
        }

    def parts(self, first):
        chunks = np.moveaxis(self._x.to_delayed(), self.axis, -1)
        left = left_of(iter(chunks.reshape(-1, chunks.shape[-1])), first)
        tasks = (dask_tasks.of_chunks(row, self.axis, self.name(n)) for n, row in left)
        return dask_schedules.done(tasks, first, all_at_once=True)

    def name(self, number):
        return f"part {number} of x"


def _shortened(text):
    return text if len(text) < 100 else f"{text[:80]}... of hash {hashlib.sha256(text.encode()).hexdigest()[:16]}"


class _Blocks(Blocks):
    """An array in memory or in a file."""

    def __init__(self, x, axis, argument):
        super().__init__(x, axis, argument)
        self._file = dask_tasks.File.of(x)

    def parts(self, first):
        tasks = (dask_tasks.of_block(block, self._file, self.axis, name) for block, name in self.blocks(first))
        return dask_schedules.done(tasks, first)


class _Batches(Batches):
    """Delayed batches."""

    argument = Source.argument

    def _form_of(self, first):
        return next(dask_schedules.done(iter([dask_tasks.form_of(first, self.axis, self.name(0))]), 0))

    def parts(self, first):
        left = left_of(self._left, first, self._taken)
        tasks = (dask_tasks.of_delayed(batch, self.axis, self.name(n)) for n, batch in left)
        return dask_schedules.done(tasks, first, all_at_once=self.number is not None)

    def name(self, number):
        return f"x[{number}]"
