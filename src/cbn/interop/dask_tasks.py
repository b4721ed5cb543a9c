"""dask_tasks: the tasks that workers do: the moments of a chunk, of a block of an array, or of a block of a file."""

import itertools
import mmap
import os
import uuid
from typing import NamedTuple

import numpy as np

from ..accumulating import Part, array_of_batch, check_form, part_of
from ..libraries import library

__all__ = ["File", "form_of", "of_block", "of_chunks", "of_delayed"]

_numbers = itertools.count(10**12 - 1, -1)


def _task(function, *arguments):
    """A delayed call. Its key need not be a hash of all data; of equal tasks Dask does those with higher keys first."""
    key = f"cbn{function.__name__}-{next(_numbers):012}-{uuid.uuid4().hex}"
    return library("dask", "dask").delayed(function, pure=False)(*arguments, dask_key_name=key)


def of_chunks(chunks, axis, name):
    """The moments of a block whose channels are in several chunks."""
    parts = [_task(_part, chunk, axis, name) for chunk in chunks]
    return parts[0] if len(parts) == 1 else _task(_joined, parts, name)


def of_delayed(batch, axis, name):
    return _task(_part, _checked(batch, name), axis, name)


def form_of(batch, axis, name):
    """Shape and dtype of a batch."""
    return _task(_form, _checked(batch, name), axis, name)


def _checked(batch, name):
    is_future = type(batch).__module__.startswith("distributed.") and hasattr(batch, "key")
    if not is_future and not isinstance(batch, library("dask.delayed", "dask").Delayed):
        raise TypeError(f"{name} must be a dask.delayed batch; got {type(batch).__name__}")
    return batch


def of_block(block, file, axis, name):
    """Of a block in memory, which goes to a worker, or of one in a file, which does not."""
    if file is None or not block.size:
        return _task(_part, block, axis, name)
    offset = block.ctypes.data - file.address
    return _task(_part_of_file, file, block.dtype, block.shape, block.strides, offset, axis, name)


class File(NamedTuple):
    """A file whose bytes are in memory from an address on (which may lie before the memory), and how it looked."""

    path: str
    size: int
    changed: int
    address: int

    @classmethod
    def of(cls, x):
        """That of the memmap of which an array is a view, if its file has the values."""
        owner = x
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        is_file = isinstance(owner, np.memmap) and isinstance(owner.base, mmap.mmap) and owner.filename is not None
        if not is_file or owner.mode == "c" or not x.size:
            return None
        with open(owner.filename, "rb") as found:
            status = os.fstat(found.fileno())
            found.seek(owner.offset)
            start = found.read(4096)
        mapped = owner.base[owner.offset % mmap.ALLOCATIONGRANULARITY :][: len(start)]
        file = cls(str(owner.filename), owner.base.size(), status.st_mtime_ns, owner.ctypes.data - owner.offset)
        file.check(status.st_size, status.st_mtime_ns if mapped == start[: len(mapped)] else None)
        return file

    def check(self, size, changed):
        if (size, changed) != (self.size, self.changed):
            raise ValueError(
                f"x must be a file that has not changed; got {self.path!r}, changed or replaced since it was opened"
            )


def _part(batch, axis, name):
    return part_of(batch, axis, name, num_threads=1)  # there are as many workers as there should be threads


def _form(batch, axis, name):
    batch = array_of_batch(batch, name)
    check_form(batch.shape, batch.dtype, axis, name)
    return batch.shape, batch.dtype.name


def _part_of_file(file, dtype, shape, strides, offset, axis, name):
    with open(file.path, "rb") as found:
        status = os.fstat(found.fileno())
        file.check(status.st_size, status.st_mtime_ns)
        memory = mmap.mmap(found.fileno(), 0, access=mmap.ACCESS_READ)  # which goes with the last array of it
    return _part(np.ndarray(shape, dtype, memory, offset, strides), axis, name)


def _joined(parts, name):
    counts = {part.count for part in parts}
    if len(counts) > 1:
        raise ValueError(f"{name} must have as many values in each channel; got {sorted(counts)}")
    return Part(counts.pop(), *(np.concatenate(rows) for rows in list(zip(*parts, strict=True))[1:4]), None)
