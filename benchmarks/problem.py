"""problem: the arrays of one row, which all contenders share, and what a contender is."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import cbn

EPS = 1e-5
LINE = 64  # bytes of a cache line, on which torch and oneDNN start their own arrays
NUMPY_OFFSET = 16  # where large arrays of NumPy start after one


def allocate(shape, dtype, offset=0):
    """An array that starts so many bytes after a cache line, and has no memory before it is filled.

    It is a part of a NumPy array, so that it gets huge pages where NumPy's arrays get them.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 2 * LINE, np.uint8)
    start = -raw.ctypes.data % LINE + offset
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def _fill(array, seed):
    """Normal random numbers, repeated after about a million, since drawing them takes longer than all else."""
    block = np.random.default_rng(seed).standard_normal(1_000_003, np.float32)
    flat = array.reshape(-1)
    for start in range(0, flat.size, block.size):
        flat[start : start + block.size] = block[: flat.size - start]


@dataclass
class Contender:
    """`run` is what is timed; `finish` makes an array of x's shape from what it returns."""

    run: Callable
    finish: Callable = lambda result: result
    detail: str = ""


class Problem:
    """Arrays and parameters of one row, with the statistics of x.

    Attributes are those of ``cbn.comparison.Problem``, whose contenders take either: x, dy, out, axis, weight, bias,
    mean, inv_std, running_mean, running_var, threads.
    """

    def __init__(self, row, threads, offset=0):
        self.row, self.axis, self.threads = row, row.axis, threads
        self.x, self.dy, self.out = (allocate(row.memory_shape, row.dtype, offset) for _ in range(3))
        _fill(self.x, 0)
        _fill(self.dy, 1)
        channels = row.shape[1]
        self.weight, self.bias = np.random.default_rng(2).standard_normal((2, channels)).astype(row.dtype)
        _, self.mean, self.inv_std = cbn.batch_norm_forward(self.x, eps=EPS, axis=self.axis, out=self.out)
        var = 1 / self.inv_std**2 - EPS
        self.running_mean, self.running_var = self.mean.astype(row.dtype), var.astype(row.dtype)

    def per_channel(self):
        """weight, bias, mean, inv_std, running_mean and running_var in x's dtype."""
        values = self.weight, self.bias, self.mean, self.inv_std, self.running_mean, self.running_var
        return [value.astype(self.x.dtype) for value in values]

    def channels_first(self, array):
        """A view of the array, shaped (N, C, *spatial)."""
        return np.moveaxis(array, self.axis, 1)

    def as_x(self, array):
        """A view of an array shaped (N, C, *spatial), shaped as x."""
        return np.moveaxis(array, 1, self.axis)
