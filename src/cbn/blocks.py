"""blocks: where an array too large for memory is cut into blocks, each of which fits, and these as a source."""

import itertools
import math

from .accumulating import Source, check_form, left_of, part_of

__all__ = ["LARGEST", "Blocks", "blocks", "cut", "number"]

LARGEST = 1 << 26  # bytes of a block: what a block must be copied for costs as much again


def cut(array, axis):
    """Return the blocks' length along each axis of an array. The channel axis stays whole.

    The outermost axis in memory is cut first, so that a block lies in one piece where it can.
    """
    lengths, size = list(array.shape), array.nbytes
    others = (a for a in range(array.ndim) if a != axis)
    for a in sorted(others, key=lambda a: -abs(array.strides[a])):
        if size <= LARGEST:
            break
        one = size // lengths[a]
        lengths[a] = max(1, LARGEST // one)
        size = one * lengths[a]
    return tuple(lengths)


def blocks(shape, lengths):
    """The indices of the blocks, in C order. An array without values is one block."""
    starts = (range(0, max(n, 1), max(length, 1)) for n, length in zip(shape, lengths, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(slice(start, start + length) for start, length in zip(corner, lengths, strict=True))


def number(shape, lengths):
    """How many blocks there are."""
    return math.prod(-(-max(n, 1) // max(length, 1)) for n, length in zip(shape, lengths, strict=True))


class Blocks(Source):
    """An array, cut into blocks."""

    def __init__(self, x, axis, argument):
        self.axis = axis = check_form(x.shape, x.dtype, axis, argument)
        self.argument, self._x, self._lengths = argument, x, cut(x, axis)
        self.number, self.channels = number(x.shape, self._lengths), x.shape[axis]
        self.data = range(self.number)
        self.texts = {
            "shape": str(x.shape),
            "dtype": x.dtype.name,
            "channel axis": str(axis),
            "blocks of": str(self._lengths),
        }

    def blocks(self, first):
        """Give the blocks from that number on, with their names."""
        for n, index in left_of(blocks(self._x.shape, self._lengths), first):
            yield self._x[index], self.name(n)

    def parts(self, first):
        return (part_of(block, self.axis, name) for block, name in self.blocks(first))

    def name(self, number):
        return f"block {number} of {self.argument}"
