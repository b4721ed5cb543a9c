"""containers: named arrays and a text in one file, .npz or .safetensors, and never by pickle."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from pathlib import Path

import numpy as np

from . import reading
from .libraries import library

__all__ = ["check_names", "check_target", "load", "save"]

VERSION = 1
LARGEST_META = 1 << 16


class Npz:
    """The arrays of an opened .npz file are read one by one, once their sizes are known to be what they must be."""

    def __init__(self, file):
        self._archive = reading.archive(file, lambda size: size)
        if any(member.compress_type for member in self._archive.infolist()):
            raise ValueError("the archive must not be compressed; got one that is")

    @staticmethod
    def write(file, meta, arrays):
        arrays = {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in arrays.items()}
        for name, array in arrays.items():
            if array.dtype == np.uint16:
                raise ValueError(f"{name} must be floats; got uint16")
        # bfloat16 as its bits: the .npy format knows NumPy's own types only
        arrays = {name: a.view(np.uint16) if a.dtype.name == "bfloat16" else a for name, a in arrays.items()}
        np.savez(file, meta=np.frombuffer(meta.encode(), np.uint8), **arrays)

    def names(self):
        names = [name.removesuffix(".npy") for name in self._archive.namelist()]
        names.remove("meta")
        return names

    def meta(self):
        def check(shape, dtype):
            if dtype != np.uint8 or len(shape) != 1 or shape[0] > LARGEST_META:
                raise ValueError(f"meta must be at most {LARGEST_META} bytes; got shape {shape} of {dtype}")

        return self._member("meta", check).tobytes()

    def array(self, name, shape):
        """The array of that name; bfloat16 widened to float32. The layer converts it to its own dtype."""

        def check(stored_shape, stored_dtype):
            if stored_dtype not in (np.float32, np.float64, np.float16, np.uint16, np.int64):
                raise ValueError(f"{name} must be numbers; got {stored_dtype}")
            if stored_shape != shape:
                raise ValueError(f"{name} must have shape {shape}; got {stored_shape}")

        found = self._member(name, check)
        return reading.widened(found) if found.dtype == np.uint16 else found

    def _member(self, name, check):
        member = self._archive.getinfo(f"{name}.npy")
        with self._archive.open(member) as file:
            return reading.npy(file, member.file_size, name, check)


class SafeTensors:
    """The same of an opened .safetensors file."""

    def __init__(self, file):
        self._tensors = reading.Tensors(file)

    @staticmethod
    def write(file, meta, arrays):
        file.write(library("safetensors.numpy", "safetensors").save(arrays, {"cbn": meta}))

    def names(self):
        return list(self._tensors.entries)

    def meta(self):
        meta = self._tensors.metadata.get("cbn")
        if meta is None:
            raise ValueError("its metadata say nothing of cbn: cbn.interop.torch.from_state_dict takes states of torch")
        if len(meta) > LARGEST_META:
            raise ValueError(f"meta must be at most {LARGEST_META} characters; got {len(meta)}")
        return meta

    def array(self, name, shape):
        return self._tensors.array(name, shape)


def _container_of(path, name="path"):
    """Return the path and the class for its suffix."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a str or path-like; got {type(path).__name__}")
    path = Path(path)
    kinds = {".npz": Npz, ".safetensors": SafeTensors}
    if path.suffix not in kinds or "\0" in str(path):
        raise ValueError(f"{name} must end in {' or '.join(kinds)}; got {path.name!r}")
    return path, kinds[path.suffix]


def _target_of(path, name="path"):
    """Where a file is to be written: where links lead to, if there is a file or nothing yet."""
    target = Path(os.path.realpath(path))
    for is_wrong, error, number in (
        (not target.parent.is_dir(), FileNotFoundError, errno.ENOENT),
        (target.is_dir(), IsADirectoryError, errno.EISDIR),
    ):
        if is_wrong:
            raise error(number, os.strerror(number), str(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{name} must be an ordinary file; got {str(path)!r}, a pipe or device")
    return target


def check_target(path, name):
    """Raise what `save` would raise for a path before anything is written; return whether there is a file."""
    path, container = _container_of(path, name)
    target = _target_of(path, name)
    if container is SafeTensors:
        library("safetensors.numpy", "safetensors")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return target.exists()


def save(path, form, meta, arrays, build):
    """Write a file beside `path`, `build` from it, and move it there, so that a failure leaves an old file whole.

    `form` names what the file holds, such as "cbn.BatchNorm"; `meta` is a dict of what JSON can hold. A process that
    is killed leaves a file ``.cbn-<32 hexadecimal digits>`` with the suffix.
    """
    path, container = _container_of(path)
    target = _target_of(path)
    meta = {"format": form, "version": VERSION, **meta}
    temporary = target.with_name(f".cbn-{uuid.uuid4().hex}{path.suffix}")
    try:
        with open(temporary, "xb") as file:
            with contextlib.suppress(FileNotFoundError):  # there is no old file
                shutil.copymode(target, temporary)  # at once: nobody else may read the new one in the meantime
            container.write(file, json.dumps(meta, default=_plain), arrays)
            file.flush()
            os.fsync(file.fileno())  # else a power failure could leave the new name with nothing behind it
        with reading.opened(temporary) as file:
            _built(file, container, form, build)  # something may be what no file may hold
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _plain(value):
    """A NumPy scalar among the options as what JSON can hold."""
    if not isinstance(value, np.generic):
        raise TypeError(f"options must be numbers, texts and flags; got {value!r}")
    return value.item()


def _sync_folder(folder):
    """Make the new name last, where the system lets us; the file is whole in any case."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(path, form, build, name="path"):
    """Return ``build(meta, file)`` of a file of that form; sizes are checked before anything is read."""
    path, container = _container_of(path, name)
    with reading.opened(path, name) as file:  # what cannot be opened is the system's error
        try:
            return _built(file, container, form, build)
        except (MemoryError, ImportError):
            raise
        except Exception as error:  # damaged bytes make the parsers underneath raise nearly anything
            writer = form.removeprefix("cbn.") + ".save"
            text = f"{name} must be a file that {writer} wrote; got {path.name!r}: "
            raise ValueError(text + reading.shown(str(error) or type(error).__name__)) from error


def _built(file, container, form, build):
    contents = container(file)
    meta = json.loads(contents.meta())
    if meta["format"] != form or meta["version"] != VERSION:
        found = f"{meta['format']!r} version {meta['version']!r}"
        raise ValueError(f"format must be {form} version {VERSION}; got {found}")
    return build(meta, contents)


def check_names(file, names):
    """Raise ValueError unless these are the file's arrays."""
    if sorted(file.names()) != sorted(names):
        raise ValueError(f"the arrays must be {', '.join(names)}; got {', '.join(file.names())}")
