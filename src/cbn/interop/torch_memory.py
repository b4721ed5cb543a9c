"""torch_memory: memory for the results of torch's calls, reused, since to fault it in costs more than a normalization.

Idle memory is marked as free for the system to take where it runs short (MADV_FREE), and is never more than was in use
at once.
"""

import math
import mmap
import weakref

import numpy as np

__all__ = ["Memory"]

LEAST = 1 << 20  # bytes; smaller memory is reused by malloc
HUGE_PAGE = 1 << 21


class Memory:
    """Arrays whose memory comes back when they are gone.

    Finalizers run anywhere, also inside the methods here. So there is no lock: each step is one operation of a dict,
    and a sum that misses one array does no harm.
    """

    def __init__(self):
        self._idle, self._in_use = {}, {}  # size and memory by the memory's identity, the oldest first
        self._most_in_use = 0

    def array(self, shape, dtype):
        """Return an array of any content, or None if it is too small to be worth it."""
        size = math.prod(shape) * dtype.itemsize
        if size < LEAST:
            return None
        size = _rounded(size)
        memory = self._taken(size) or _new(size)
        self._in_use[id(memory)] = size, memory
        self._most_in_use = max(self._most_in_use, _total(self._in_use))
        array = np.ndarray(shape, dtype, buffer=memory)  # to which all views refer, NumPy's and torch's
        weakref.finalize(array, self._give_back, id(memory)).atexit = False
        return array

    def clear(self):
        """Give the idle memory back to the system."""
        self._idle.clear()
        self._most_in_use = _total(self._in_use)

    def _taken(self, size):
        for key, (idle_size, memory) in reversed(list(self._idle.items())):
            if idle_size == size and self._idle.pop(key, None):
                return memory
        return None

    def _give_back(self, key):
        size, memory = self._in_use.pop(key)
        memory.madvise(mmap.MADV_FREE)
        self._idle[key] = size, memory
        for oldest in list(self._idle):
            if _total(self._idle) <= self._most_in_use:
                break
            self._idle.pop(oldest, None)


def _new(size):
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _rounded(size):
    """The size, or up to an eighth more, for batches of nearly one size to share; whole huge pages from two on."""
    step = 1 << (size.bit_length() - 4)
    if size >= 2 * HUGE_PAGE:
        step = max(step, HUGE_PAGE)
    return -(-size // step) * step


def _total(memories):
    return sum(size for size, _ in list(memories.values()))
