"""reading: files of strangers: opened, their headers read within bounds, and no memory taken that they do not fill."""

import json
import math
import os
import re
import stat

import numpy as np

__all__ = ["Tensors", "archive", "npy", "opened", "shown", "widened"]

LARGEST = 1 << 17  # bytes of what says which arrays a file has: Python's objects of it may take 40 times as many
TENSOR_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}  # bfloat16 by its bits
LARGEST_TEXT = 300  # characters of what an error says of a file
LARGEST_HEADER = 512  # bytes of the text in an array's .npy header
# that text as NumPy writes it; NumPy's reader gives it to Python's parser, which warns of what is no such text
HEADER = re.compile(
    r"\{'descr': '([<>|][biufcOSUV]\d*)', 'fortran_order': (True|False), 'shape': \(((?:\d+, ?)*\d*)\),? ?\}\s*"
)


def opened(path, name="path"):
    """Open an ordinary file for reading. A pipe, which might never be written to, or a device is refused."""
    file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{name} must be an ordinary file; got {str(path)!r}, a pipe or device")
    return file


class _WithinBounds:
    """A file for zipfile, which reads the directory of an archive in one piece, however long that says it is."""

    def __init__(self, file, most):
        self._file, self.seek, self.tell, self.seekable = file, file.seek, file.tell, file.seekable
        self.most = most

    def read(self, size=-1):
        if size > self.most:
            raise ValueError(f"the archive's directory must have at most {self.most} bytes; got {size}")
        return self._file.read(size)


def archive(file, largest, directory=LARGEST):
    """Return a file's zipfile.ZipFile, if `largest(bytes of the file)` is no less than what its members add up to.

    Its directory may have that many bytes.
    """
    import zipfile  # a quarter of the time of importing cbn

    bounded = _WithinBounds(file, directory)
    found, bounded.most = zipfile.ZipFile(bounded), math.inf
    total, most = sum(member.file_size for member in found.infolist()), largest(_size(file))
    if total > most:
        raise ValueError(f"the archive's members must have at most {most} bytes together; got {total}")
    return found


def _size(file):
    return os.fstat(file.fileno()).st_size


def npy(file, size, name, check):
    """Read an array from a file of that many bytes in .npy form, once ``check(shape, dtype)`` has not raised."""
    shape, is_fortran, dtype = _header(file, name)
    check(shape, dtype)
    if dtype.hasobject or not dtype.itemsize:  # what would have to be unpickled, or takes memory for no bytes
        raise ValueError(f"{name} must be numbers; got {dtype}")
    expected, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if found != expected:
        raise ValueError(f"{name} must have {expected} bytes of data for shape {shape}; got {found}")
    array = np.empty(shape[::-1] if is_fortran else shape, dtype)
    _fill(array, file, name)
    return array.T if is_fortran else array


def _header(file, name):
    """Shape, Fortran order and dtype of the array in a .npy file."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # NumPy writes others for headers that are longer than LARGEST_HEADER, or name fields
        raise ValueError(f"{name} must be stored in .npy format 1.0; got {version}")
    length = int.from_bytes(file.read(2), "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"{name} must have a header of at most {LARGEST_HEADER} bytes; got {length}")
    text = file.read(length).decode("latin1")
    if not (header := HEADER.fullmatch(text)):
        raise ValueError(f"{name} must have a header as NumPy writes it for numbers; got {text!r}")
    dtype, order, shape = header.groups()
    return tuple(map(int, re.findall(r"\d+", shape))), order == "True", np.dtype(dtype)


def _fill(array, file, name):
    found = file.readinto(array.reshape(-1).view(np.uint8))
    if found != array.nbytes:
        raise ValueError(f"{name} must have {array.nbytes} bytes of data; got {found}")


class Tensors:
    """The header of a .safetensors file, of so many bytes at most, and its arrays.

    The library of that name maps the file into memory, so that one which is cut while it is read would end the
    process, and reads headers of 100 MB.
    """

    def __init__(self, file, most=LARGEST):
        length = int.from_bytes(file.read(8), "little")
        if length > most:
            raise ValueError(f"the header must have at most {most} bytes; got {length}")
        self.entries = json.loads(file.read(length))
        self.metadata = self.entries.pop("__metadata__", {})
        self._file, self._start = file, 8 + length
        total = sum(end - begin for begin, end in (entry["data_offsets"] for entry in self.entries.values()))
        if self._start + total != _size(file):
            raise ValueError(f"the arrays must have {_size(file) - self._start} bytes together; got {total}")

    def array(self, name, shape):
        """The array of that name, if it has that shape; bfloat16 widened to float32."""
        entry = self.entries[name]
        if tuple(entry["shape"]) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(entry['shape'])}")
        if entry["dtype"] not in TENSOR_DTYPES:
            raise ValueError(f"{name} must be numbers; got {entry['dtype']}")
        dtype = np.dtype(TENSOR_DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} must have {math.prod(shape) * dtype.itemsize} bytes; got {end - begin}")
        if self._start + end > _size(self._file):
            raise ValueError(f"{name} must lie within the file; got bytes up to {end}")
        array = np.empty(shape, dtype)
        self._file.seek(self._start + begin)
        _fill(array, self._file, name)
        return widened(array) if entry["dtype"] == "BF16" else array


def widened(bits):
    """The float32 values of bfloat16 values, given as their bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def shown(text, most=LARGEST_TEXT):
    """What an error says, in one line that a terminal can show: the file may have written it."""
    text = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return text if len(text) <= most else text[:most] + "..."
