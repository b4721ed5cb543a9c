"""dask: the moments of Dask arrays, delayed batches and files, on Dask's workers, in the order of their chunks."""

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np

from .. import _core
from ..accumulating import Run, accumulated, check_form
from ..blocks import blocks, number
from ..libraries import library
from ..streaming import left_of, run_of_array
from . import dask_schedules, dask_tasks

__all__ = ["moments"]


def moments(x, *, axis=1, checkpoint=None, progress=True):
    """Return count, mean and sum of squared deviations per channel, computed by Dask.

    Parameters
    ----------
    x : dask.array.Array, ndarray, memmap or iterable of dask.delayed batches
        Of float16, bfloat16, float32 or float64, rank >= 2. A Dask array may be cut into chunks along any axes, the
        channels' too, and chunks may have unknown sizes along the others. Other arrays are cut as `population_moments`
        cuts them; workers open the file of a memmap themselves, so it must have that path for each of them.
    axis : int
        The channel axis, of x or of each batch.
    checkpoint : str or path-like, optional
        A file from which a later call with the same arguments goes on, as in `population_moments`.
    progress : bool
        Whether the parts are counted on stderr if that is a terminal, with tqdm's bar if that is installed.

    Returns
    -------
    Moments
        Within the bounds of `population_moments`. The same bits for the same data in the same chunks, whatever the
        scheduler, the number of workers, and the order in which they finish.

    Raises
    ------
    TypeError, ValueError
        As `population_moments`, naming the part; if the number of channels of a Dask array is unknown.
    ImportError
        If dask is not installed (``pip install 'cbn[dask]'``).
    Exception
        What a task raised, with a note of the part. Those that are under way are cancelled, and what has been added up
        is kept in the checkpoint.

    Notes
    -----
    Dask's scheduler of the moment computes: threads, processes, or the `distributed.Client` that was made last. A part
    is all channels of one block of positions, and one task takes its moments, on one thread. Some parts are under way
    at a time, few more than there are workers, so that neither they nor the caller hold more than those.

    Where all chunks need one result, as those of ``x - x.mean()``, all are handed over at once, since it would be
    computed again for each few of them; without a Client the checkpoint is written at the end only. Compute such a
    result beforehand.

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
    if isinstance(x, array.Array):
        run, parts, data, name = _of_dask_array(x, axis, checkpoint)
    elif isinstance(x, np.ndarray):
        run, parts, data, name = _of_array(x, axis, checkpoint)
    elif isinstance(x, delayed.Delayed | str | Mapping) or hasattr(x, "shape") or not isinstance(x, Iterable):
        raise TypeError(
            f"x must be a Dask array, an array of NumPy, or an iterable of delayed batches; got {type(x).__name__}"
        )
    else:
        run, parts, data, name = _of_delayed(x, axis, checkpoint)
    return run.moments if run.is_finished else accumulated(run, parts, data, progress, name)


def _of_dask_array(x, axis, checkpoint):
    axis = check_form(tuple(0 if math.isnan(n) else n for n in x.shape), x.dtype, axis, "x")
    if math.isnan(x.shape[axis]):
        raise ValueError("x must have a known number of channels; got unknown ones: see its compute_chunk_sizes()")
    chunks = repr([[float(n) for n in sizes] for sizes in x.chunks])
    data = {
        "shape": f"({', '.join(f'{n:.0f}' for n in x.shape)})",
        "dtype": x.dtype.name,
        "channel axis": str(axis),
        "chunks of hash": hashlib.sha256(chunks.encode()).hexdigest()[:16],
    }
    of = math.prod(n for a, n in enumerate(x.numblocks) if a != axis)
    run = Run(checkpoint, data, of, int(x.shape[axis]))
    if run.is_finished:
        return run, None, None, None
    blocks, have_common_tasks = dask_tasks.blocks_of(x, axis)
    tasks = (dask_tasks.of_chunks(block(), axis, _part(n)) for n, block in left_of(blocks, run.counted))
    return run, dask_schedules.done(tasks, run.counted, all_at_once=have_common_tasks), range(of), _part


def _of_array(x, axis, checkpoint):
    run, lengths = run_of_array(x, axis, checkpoint, "x")
    left = left_of(blocks(x.shape, lengths), run.counted)
    tasks = (dask_tasks.of_block(x[index], axis, _part(n)) for n, index in left)
    return run, dask_schedules.done(tasks, run.counted), range(number(x.shape, lengths)), _part


def _of_delayed(batches, axis, checkpoint):
    run = Run(checkpoint, {"channel axis": str(axis)}, len(batches) if isinstance(batches, list | tuple) else None)
    tasks = (dask_tasks.of_delayed(batch, axis, _batch(n)) for n, batch in left_of(batches, run.counted))
    return run, dask_schedules.done(tasks, run.counted), batches, _batch


def _part(number):
    return f"part {number} of x"


def _batch(number):
    return f"x[{number}]"
