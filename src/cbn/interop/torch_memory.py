"""torch_memory: memory for the results of torch's calls, reused, since to fault it in costs more than a normalization.

No more is idle than twice what was in use at once. Most of it is marked as free, for the system to take where memory
runs short.
"""

import contextlib
import itertools
import mmap
import weakref

import numpy as np

__all__ = ["LEAST", "Memory"]

LEAST = 1 << 21  # bytes; smaller memory is reused by malloc
# Results start at different places within a page and a cache: convolutions that read several at a time lost 5 % of
# their time where all started at a huge page.
STARTS, STEP = 16, 69 * 64
UNMARKED = 1 << 26  # bytes; to mark memory interrupts the other CPUs, so what is soon used again stays as it is


class Memory:
    """Bytes that come back when nobody refers to them any more.

    Finalizers run anywhere, also inside the methods here. So there is no lock: each step is one operation of a dict,
    and a sum that misses one piece does no harm.
    """

    def __init__(self):
        # size and memory by the memory's identity, the oldest first
        self._in_use, self._unmarked, self._marked = {}, {}, {}
        self._most_in_use = 0
        self._starts = itertools.cycle(range(0, STARTS * STEP, STEP))

    def bytes(self, size):
        """Return an array of that many bytes of any content."""
        start, wanted = next(self._starts), size
        size = _rounded(size + STARTS * STEP)
        memory = _taken(self._unmarked, size) or _taken(self._marked, size) or self._new(size)
        self._in_use[id(memory)] = size, memory
        array = np.frombuffer(memory, np.uint8)  # to which all views refer, NumPy's and torch's
        weakref.finalize(array, self._give_back, id(memory)).atexit = False
        self._most_in_use = max(self._most_in_use, _total(self._in_use))
        return array[start : start + wanted]

    def clear(self):
        """Give the idle memory back to the system."""
        self._unmarked.clear()
        self._marked.clear()
        self._most_in_use = _total(self._in_use)

    def _new(self, size):
        try:
            memory = _mapped(size)
        except OSError:  # the system has no more
            self.clear()
            try:
                memory = _mapped(size)
            except OSError:
                raise MemoryError(f"no memory for a result of {size} bytes") from None
        with contextlib.suppress(OSError, AttributeError):  # systems without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def _give_back(self, key):
        self._unmarked[key] = self._in_use.pop(key)
        for key in list(self._unmarked):
            if _total(self._unmarked) <= UNMARKED:
                break
            if entry := self._unmarked.pop(key, None):  # before it is marked, lest another thread is using it
                with contextlib.suppress(OSError, AttributeError):
                    entry[1].madvise(mmap.MADV_FREE)
                self._marked[key] = entry
        for idle in (self._marked, self._unmarked):
            for key in list(idle):
                if _total(self._marked) + _total(self._unmarked) <= 2 * self._most_in_use:
                    break
                idle.pop(key, None)


def _mapped(size):
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _taken(idle, size):
    """A piece of that size, the newest."""
    for key, (idle_size, memory) in reversed(list(idle.items())):
        if idle_size == size and idle.pop(key, None):
            return memory
    return None


def _rounded(size):
    """The size, or up to an eighth more, for batches of nearly one size to share."""
    step = 1 << (size.bit_length() - 4)
    return -(-size // step) * step


def _total(pieces):
    return sum(size for size, _ in list(pieces.values()))
