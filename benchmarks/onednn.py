"""onednn: oneDNN's primitives as contenders, through onednn.c."""

import ctypes
import functools

import numpy as np

import native
from common import UserError
from problem import EPS, allocate

OPERATIONS = {"forward": 0, "backward": 1, "inference": 2}
PLAIN, CHANNELS_LAST, BLOCKED = range(3)
LAYOUTS = {"NC": CHANNELS_LAST, "NCHW": PLAIN, "NHWC": CHANNELS_LAST}  # NC: the same memory, and faster than nc
Dims = ctypes.c_int64 * 12


@functools.cache
def library():
    """The compiled onednn.c, or an UserError that says what is missing."""
    lib = native.load("onednn", ["dnnl"])
    lib.onednn_bytes.restype = ctypes.c_size_t
    lib.onednn_create.restype = ctypes.c_void_p
    lib.onednn_create.argtypes = [ctypes.c_int] * 3 + [Dims, ctypes.c_float] + [ctypes.c_void_p] * 4
    lib.onednn_reorder.argtypes = [ctypes.c_void_p, ctypes.c_int] * 2 + [ctypes.c_int, Dims]
    lib.onednn_execute.argtypes = lib.onednn_destroy.argtypes = [ctypes.c_void_p]
    lib.onednn_implementation.argtypes = [ctypes.c_void_p]
    lib.onednn_implementation.restype = ctypes.c_char_p
    return lib


@functools.cache
def version():
    numbers = [ctypes.c_int() for _ in range(3)]
    library().onednn_version(*map(ctypes.byref, numbers))
    return ".".join(str(number.value) for number in numbers)


class Norm:
    """One operation in one layout on a problem's arrays; calling it executes it and returns the result.

    In the blocked layout it works on copies, which oneDNN pads to 16 channels. `finish` then copies the result back,
    which is not part of the call.
    """

    def __init__(self, problem, operation, layout):
        self.problem, self.layout = problem, layout
        self.plain = LAYOUTS[problem.row.layout]
        n, c, *spatial = problem.row.shape
        shape = n, c, *[1] * (2 - len(spatial)), *spatial
        self.rank, self.dims = len(shape), Dims(*shape)
        self.arrays = problem.out, problem.x, problem.dy
        if layout == BLOCKED:
            nbytes = library().onednn_bytes(BLOCKED, self.rank, self.dims)
            self.arrays = tuple(allocate((nbytes // 4,), np.float32) for _ in range(3))
            self.arrays[0].fill(0)  # maps its memory; the others are filled next
            for blocked, array in zip(self.arrays[1:], (problem.x, problem.dy), strict=True):
                self._reorder(blocked, BLOCKED, array, self.plain)
        none = np.empty_like(problem.weight)
        weight, bias, _, _, mean, var = problem.per_channel()
        self.parameters = np.stack([weight, bias, mean, var, none, none])
        pointers = [array.ctypes.data for array in (*self.arrays, self.parameters)]
        handle = library().onednn_create(OPERATIONS[operation], layout, self.rank, self.dims, EPS, *pointers)
        if not handle:
            raise UserError(f"oneDNN has no {operation} for {problem.row.name}")
        self.handle = ctypes.c_void_p(handle)
        self.run = functools.partial(library().onednn_execute, self.handle)

    def _reorder(self, to, to_layout, from_, from_layout):
        if library().onednn_reorder(to.ctypes.data, to_layout, from_.ctypes.data, from_layout, self.rank, self.dims):
            raise UserError(f"oneDNN cannot copy {self.problem.row.name} between layouts")

    def finish(self):
        """The result, shaped as x."""
        if self.layout == BLOCKED:
            self._reorder(self.problem.out, self.plain, self.arrays[0], BLOCKED)
        return self.problem.out

    def implementation(self):
        """The version of oneDNN and the name of the code that it chose."""
        return f"{version()} {library().onednn_implementation(self.handle).decode()}"

    def __del__(self):
        if getattr(self, "handle", None):
            library().onednn_destroy(self.handle)
