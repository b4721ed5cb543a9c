"""drawing: arguments made of a fuzzer's bytes: arrays of any memory, numbers, and what no call takes."""

from fractions import Fraction

import ml_dtypes
import numpy as np

DTYPES = [np.dtype(d) for d in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
OTHERS = [np.dtype(d) for d in ("u1", "i4", "?", "O", "c8", "U3", "M8[s]", "V5", "f4,i2", "g", ml_dtypes.float8_e5m2)]
SIZES = 2, 3, 1, 4, 5, 0, 7, 8, 16, 17, 33, 65
LARGEST = 1 << 17  # values of one array: enough for more than one thread
SPECIAL = np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e30, 1e-30, -1.0, 65504.0
ABSURD = [None, True, -1, 0, 1, 2, 7, 2**31, 2**63, 10**400, 0.5, -0.5, 1e308, 5e-324, np.nan, np.inf, Fraction(1, 3)]
ABSURD += [np.float32(0.1), np.int8(1), np.array(0.5), np.array([1]), 1j, "", "relu", b"x", [], (1, 2), {}, object()]
ABSURD += [np.ma.masked, int, ..., slice(None), np.timedelta64(1, "s"), [[1.0], [1.0, 2.0]], np.zeros((2, 0))]


class Subclass(np.ndarray):
    pass


class Source:
    """Choices made by bytes; without bytes left the first, which is the plain one."""

    def __init__(self, data):
        self._data, self._at = data, 0
        self.arrays = []  # pairs of what a call is given, and the bytes that it is a view of
        self._arena = np.zeros(1 << 12, np.uint8)  # where arrays may overlap

    def byte(self):
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def rest(self):
        start, self._at = min(self._at, len(self._data)), len(self._data)
        return self._data[start:]

    def pick(self, values):
        return values[self.byte() % len(values)]

    def rarely(self, often=16):
        return self.byte() % often == often - 1

    def number(self, *plain):
        """One of these, or something absurd."""
        return self.pick(ABSURD) if self.rarely() else self.pick(plain)

    def shape(self, least=2, most=5):
        rank = self.pick([r for r in (2, 4, 3, 5, 1, 6, 0) if least <= r <= most])
        shape = [self.pick(SIZES) for _ in range(rank)]
        while np.prod(shape) > LARGEST:
            shape[int(np.argmax(shape))] = 2
        if self.rarely(64) and rank:
            shape[0] = max(1, (LARGEST - 1) // max(int(np.prod(shape[1:])), 1))
        return tuple(shape)

    # --- arrays ---

    def array(self, shape, dtype, kind="normal"):
        """An array of nearly always this shape and dtype; `kind` of its values: normal, positive, bool, weights."""
        if self.rarely(32):
            return self.pick(ABSURD)
        if self.rarely(32):
            shape = self.shape(0, 6)
        if self.rarely(32):
            dtype = self.pick([*DTYPES, *OTHERS])
        array = self._laid_out(shape, np.dtype(dtype))
        self._fill(array, kind)
        return self._wrapped(array)

    def _laid_out(self, shape, dtype):
        """Memory of that shape, with strides of any kind."""
        rank = len(shape)
        how = self.pick(("C", "C", "last", "F", "reversed", "step", "repeated", "swapped", "odd", "arena", "windows"))
        axis = self.byte() % max(rank, 1)
        if how == "swapped" and dtype.kind not in "OV":
            dtype = dtype.newbyteorder()
        if not rank or how in ("C", "swapped", "odd", "arena") or 0 in shape:
            return self._memory(shape, dtype, how)
        if how == "last":
            return np.moveaxis(self._memory((*shape[:axis], *shape[axis + 1 :], shape[axis]), dtype), -1, axis)
        if how == "F":
            return self._memory(shape[::-1], dtype).T
        if how == "reversed":
            return np.flip(self._memory(shape, dtype), axis)
        if how == "step":
            wide = self._memory((*shape[:axis], shape[axis] * 2, *shape[axis + 1 :]), dtype)
            return wide[(slice(None),) * axis + (slice(self.byte() % 2, None, 2),)]
        strides = list(np.empty(shape, np.int8).strides)
        if how == "repeated":
            strides[axis] = 0
        else:
            strides = [min(stride, 1 + self.byte() % 3) for stride in strides]  # each axis over the others
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        strides = [s * dtype.itemsize for s in strides]
        return self._memory((extent,), dtype, strided=(shape, strides))

    def _memory(self, shape, dtype, how="C", strided=()):
        size, start = int(np.prod(shape)) * dtype.itemsize, 0
        if dtype.hasobject:
            return np.zeros(strided[0] if strided else shape, dtype)
        if how == "arena" and size + 256 <= self._arena.size:
            buffer, start = self._arena, self.byte()
        else:
            start = 1 if how == "odd" else 16 * (self.byte() % 2)
            buffer = np.zeros(size + start, np.uint8)  # without room behind it: reading on is an overflow
        shape, strides = strided or (shape, None)
        array = np.ndarray(shape, dtype, buffer, start, strides)
        self.arrays.append((array, buffer))
        return array

    def _fill(self, array, kind):
        if array.dtype.kind not in "fVui?" or array.dtype.names or array.dtype == np.dtype("V5"):
            return
        rng = np.random.default_rng(self.byte())
        values = np.asarray(rng.standard_normal(array.shape))
        if array.dtype.kind == "u":
            values = np.abs(values) * 100
        elif kind == "normal":
            values = values * 2.0 ** self.pick((0, 0, 4, -4, 10, -20)) + self.pick((0, 0, 1, 1000, -37, 1e5))
        elif kind == "bool":
            values = values > self.pick((0, -9, 1, 9))
        else:
            values = np.abs(values) + (0 if kind == "positive" else 0.5)
            values = np.where(values > 2, 0, values) if kind == "weights" else values
        with np.errstate(all="ignore"):
            array[...] = np.round(values * 64) / 64 if self.rarely(4) else values
            if array.size and self.rarely(8):
                value = self.pick(SPECIAL) if array.dtype.kind in "fV" else 1
                array[tuple(self.byte() % n for n in array.shape)] = value
            if array.ndim > 1 and array.size and self.rarely(16):
                array[:, 0] = array[(0,) * array.ndim]  # a constant channel

    def _wrapped(self, array):
        how = self.byte()
        if how == 255:
            return np.ma.MaskedArray(array, np.zeros(array.shape, bool))
        if how == 254:
            return array.view(Subclass)
        if how == 253 and array.size < 100:
            return array.tolist()
        if how == 252:
            array.flags.writeable = False
        return array

    # --- what many calls take ---

    def parameter(self, channels, dtype, kind="normal"):
        return None if self.rarely(4) else self.array((channels,), dtype, kind)

    def extras(self, shape, axis, dtype, x=None):
        """residual, mask, sample_weight, activation, negative_slope, out: some of them."""
        found, positions = {}, tuple(np.delete(shape, axis)) if -len(shape) <= axis < len(shape) else shape
        if self.rarely(4):
            found["activation"] = self.number("relu", "leaky_relu")
            found["negative_slope"] = self.number(0.01, 0.0, 2.0)
        if self.rarely(4):
            found["residual"] = self.array(shape, dtype)
        if self.rarely(4):
            found["mask"] = self.array(self.pick((positions, positions[-1:], (1,) * len(positions))), "?", "bool")
        if self.rarely(4):
            found["sample_weight"] = self.array(self.pick((positions, positions[:1])), "f8", "weights")
        if self.rarely(3):
            found["out"] = self.pick((x, found.get("residual"))) if self.rarely(2) else self.array(shape, dtype)
        return found
