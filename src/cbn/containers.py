"""containers: named arrays and a text in one file, .npz or .safetensors, by their own libraries, never by pickle."""

import errno
import json
import os
import uuid
from pathlib import Path

import numpy as np

from .libraries import library

__all__ = ["check_names", "load", "save"]

VERSION = 1
LARGEST_META = 1 << 16


class Npz:
    """Opens a .npz file; its arrays are read one by one, once their sizes are known to be what they must be."""

    def __init__(self, path):
        import zipfile  # a quarter of the time of importing cbn

        self._archive = zipfile.ZipFile(path)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._archive.close()

    @staticmethod
    def write(path, meta, arrays):
        arrays = {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in arrays.items()}
        # bfloat16 as its bits: the .npy format knows NumPy's own types only
        arrays = {name: a.view(np.uint16) if a.dtype.name == "bfloat16" else a for name, a in arrays.items()}
        with open(path, "xb") as file:
            np.savez(file, meta=np.frombuffer(meta.encode(), np.uint8), **arrays)

    def names(self):
        return [name.removesuffix(".npy") for name in self._archive.namelist() if name != "meta.npy"]

    def meta(self):
        return self._member("meta", (np.uint8,), None).tobytes()

    def array(self, name, shape, dtype):
        """The array of that name; its dtype may be another number's than that of the layer, which converts it."""
        found = self._member(name, (np.float32, np.float64, np.float16, np.uint16, np.int64), shape)
        return found.view(dtype) if found.dtype == np.uint16 and dtype.name == "bfloat16" else found

    def _member(self, name, dtypes, shape):
        with self._archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{name} must be stored in .npy format 1.0; got {version}")
            stored_shape, _, stored_dtype = np.lib.format.read_array_header_1_0(file)
            if stored_dtype not in dtypes:
                raise ValueError(f"{name} must be numbers; got {stored_dtype}")
            if shape is None:
                if len(stored_shape) != 1 or stored_shape[0] > LARGEST_META:
                    raise ValueError(f"{name} must be at most {LARGEST_META} bytes; got shape {stored_shape}")
            elif stored_shape != shape:
                raise ValueError(f"{name} must have shape {shape}; got {stored_shape}")
            expected = int(np.prod(stored_shape)) * stored_dtype.itemsize
            if self._archive.getinfo(f"{name}.npy").file_size != file.tell() + expected:
                raise ValueError(f"{name} must have {expected} bytes of data; got another size")
            return np.frombuffer(file.read(expected), stored_dtype).reshape(stored_shape)


class SafeTensors:
    """Opens a .safetensors file, whose library checks its sizes."""

    def __init__(self, path):
        self._file = library("safetensors", "safetensors").safe_open(path, framework="numpy")

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        self._file.__exit__(*error)

    @staticmethod
    def write(path, meta, arrays):
        written = library("safetensors.numpy", "safetensors").save(arrays, {"cbn": meta})
        with open(path, "xb") as file:  # the library's own save_file gives it rights of its own
            file.write(written)

    def names(self):
        return list(self._file.keys())

    def meta(self):
        meta = (self._file.metadata() or {}).get("cbn")
        if meta is None:
            raise ValueError("its metadata say nothing of cbn: cbn.interop.torch.from_state_dict takes states of torch")
        return meta

    def array(self, name, shape, dtype):
        stored = self._file.get_slice(name)
        if tuple(stored.get_shape()) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(stored.get_shape())}")
        if stored.get_dtype() == "BOOL":
            raise ValueError(f"{name} must be numbers; got bool")
        return self._file.get_tensor(name)


def _container_of(path):
    """Return the path and the class for its suffix."""
    path = Path(path)
    kinds = {".npz": Npz, ".safetensors": SafeTensors}
    if path.suffix not in kinds:
        raise ValueError(f"path must end in {' or '.join(kinds)}; got {path.name!r}")
    return path, kinds[path.suffix]


def save(path, form, meta, arrays, build):
    """Write a file beside `path`, `build` from it, and move it there, so that a failure leaves an old file whole.

    `form` names what the file holds, such as "cbn.BatchNorm"; `meta` is a dict of what JSON can hold.
    """
    path, container = _container_of(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    meta = {"format": form, "version": VERSION, **meta}
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        container.write(temporary, json.dumps(meta, default=np.generic.item), arrays)
        _built(temporary, container, form, build)  # something may be what no file may hold
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path, form, build):
    """Return ``build(meta, file)`` of a file of that form; sizes are checked before anything is read."""
    path, container = _container_of(path)
    open(path, "rb").close()  # what cannot be read is the system's error
    try:
        return _built(path, container, form, build)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # damaged bytes make the parsers underneath raise nearly anything
        writer = form.removeprefix("cbn.") + ".save"
        raise ValueError(f"path must be a file that {writer} wrote; got {path.name!r}: {error}") from error


def _built(path, container, form, build):
    with container(path) as file:
        meta = json.loads(file.meta())
        if meta["format"] != form or meta["version"] != VERSION:
            found = f"{meta['format']!r} version {meta['version']!r}"
            raise ValueError(f"format must be {form} version {VERSION}; got {found}")
        return build(meta, file)


def check_names(file, names):
    """Raise ValueError unless these are the file's arrays."""
    if sorted(file.names()) != sorted(names):
        raise ValueError(f"the arrays must be {', '.join(names)}; got {', '.join(file.names())}")
