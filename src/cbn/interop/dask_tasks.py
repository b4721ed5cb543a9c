"""dask_tasks: the tasks that workers do: the moments of a chunk, of a block of an array, or of a block of a file."""

import functools
import mmap

import numpy as np

from ..accumulating import moments_of
from ..libraries import library
from ..statistics import Moments
from .dask_schedules import client

__all__ = ["blocks_of", "of_block", "of_chunks", "of_delayed"]


def _delayed(function):
    return library("dask", "dask").delayed(function, pure=False)  # whose key need not be a hash of all data


def blocks_of(x, axis):
    """For each block of positions a function that gives its chunks, delayed; and whether all have tasks in common."""
    delayed, cull = library("dask.delayed", "dask").Delayed, library("dask.optimization", "dask").cull
    chunks = np.moveaxis(x.to_delayed(), axis, -1)
    chunks = chunks.reshape(-1, chunks.shape[-1])
    graph = dict(chunks[0, 0].dask)

    def of_block(row):
        # with what it needs alone: dask goes through all of a graph whenever it is given some of it
        return [delayed(chunk.key, cull(graph, [chunk.key])[0]) for chunk in row]

    first, last = (cull(graph, [chunk.key for chunk in row])[1] for row in (chunks[0], chunks[-1]))
    # what has no dependencies is mostly the array itself, or the file, from which chunks are taken
    have_common_tasks = len(chunks) > 1 and any(first[key] for key in first.keys() & last.keys())
    return (functools.partial(of_block, row) for row in chunks), have_common_tasks


def of_chunks(chunks, axis, name):
    """The moments of a block whose channels are in several chunks."""
    parts = [_delayed(_moments)(chunk, axis, name) for chunk in chunks]
    return parts[0] if len(parts) == 1 else _delayed(_joined)(parts, name)


def of_delayed(batch, axis, name):
    if not isinstance(batch, library("dask.delayed", "dask").Delayed):
        raise TypeError(f"{name} must be a dask.delayed batch; got {type(batch).__name__}")
    return _delayed(_moments)(batch, axis, name)


def of_block(block, axis, name):
    """Of a block in memory, which goes to a worker, or of one in a file, which does not."""
    owner = _owner(block)
    if owner is None:
        workers = client()
        return _delayed(_moments)(workers.scatter(block, hash=False) if workers else block, axis, name)
    offset = owner.offset + block.ctypes.data - owner.ctypes.data
    return _delayed(_moments_of_file)(
        str(owner.filename), block.dtype, block.shape, block.strides, offset, axis=axis, name=name
    )


def _owner(block):
    """The memmap of which a block is a view, if its file has the values."""
    owner = block
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    is_file = isinstance(owner, np.memmap) and isinstance(owner.base, mmap.mmap) and owner.filename is not None
    return owner if is_file and owner.mode != "c" and block.size else None


def _moments(batch, axis, name):
    return moments_of(batch, axis, name, num_threads=1)  # there are as many workers as there should be threads


def _moments_of_file(path, dtype, shape, strides, offset, axis, name):
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which goes with the last array of it
    return _moments(np.ndarray(shape, dtype, memory, offset, strides), axis, name)


def _joined(parts, name):
    counts = {part.count for part in parts}
    if len(counts) > 1:
        raise ValueError(f"{name} must have as many values in each channel; got {sorted(counts)}")
    return Moments(counts.pop(), *(np.concatenate([getattr(p, a) for p in parts]) for a in ("mean", "m2")))
