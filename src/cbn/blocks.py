"""blocks: where an array too large for memory is cut into blocks, each of which fits."""

import itertools
import math

__all__ = ["LARGEST", "blocks", "cut", "number"]

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
