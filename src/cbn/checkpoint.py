"""checkpoint: a layer's state in and out of dicts and .npz files, all or nothing, and never by pickle."""

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import _core

FORMAT, VERSION = "cbn.BatchNorm", 1
OPTIONS = ("num_features", "eps", "momentum", "affine", "track_running_stats", "axis")
LARGEST_META = 1 << 16


class LoadResult(NamedTuple):
    """Keys that a state lacked, and keys that it had too many."""

    missing_keys: list
    unexpected_keys: list


def load_state(layer, state, strict=True):
    """Check the whole state, then copy it into the layer's arrays."""
    target = layer._state()
    metadata = dict((getattr(state, "_metadata", None) or {}).get("", {}))
    missing = [key for key in target if key not in state]
    unexpected = [key for key in state if key not in target]
    values = {key: _converted(state[key], key, target[key]) for key in target if key in state}
    if "num_batches_tracked" in missing and (metadata.get("version") or 1) < 2:
        missing.remove("num_batches_tracked")
        values["num_batches_tracked"] = np.array(0, np.int64)
    if strict and (missing or unexpected):
        got = "; ".join(
            [f"no {', '.join(missing)}"] * bool(missing)
            + [f"also {', '.join(map(str, unexpected))}"] * bool(unexpected)
        )
        raise ValueError(f"state must have exactly the keys {', '.join(target)}; got {got}")
    if metadata.get("eps", layer.eps) != layer.eps:
        raise ValueError(f"state must come from a layer with eps {layer.eps}; got {metadata['eps']}")
    with layer._lock:
        for key, value in values.items():
            target[key][...] = value
    return LoadResult(missing, unexpected)


def _converted(value, key, target):
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{key} must be an array without a mask; got a masked array")
    value = np.asarray(value)
    if value.dtype.kind not in ("iu" if key == "num_batches_tracked" else "iuf"):
        kind = "an integer" if key == "num_batches_tracked" else "an array of real numbers"
        raise TypeError(f"{key} must be {kind}; got {value.dtype}")
    if value.shape != target.shape:
        raise ValueError(f"{key} must have shape {target.shape}; got {value.shape}")
    if key in ("running_var", "num_batches_tracked") and (value < 0).any():
        raise ValueError(f"{key} must be >= 0; got {value.min()}")
    return value.astype(target.dtype)


def _checked_path(path):
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz; got {path.name!r}")
    return path


def save(layer, path):
    """Write the layer beside `path` and move it there, so that a failure leaves an old file whole."""
    path = _checked_path(path)
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "class": type(layer).__name__,
        "bias": layer.bias is not None,
        "dtype": str(layer.dtype),
    }
    meta |= {name: getattr(layer, name) for name in OPTIONS}
    handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **layer.state_dict())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(cls, path):
    """Rebuild the layer that a file describes; sizes are checked before anything is read."""
    path = _checked_path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(_member(archive, "meta", np.uint8, None).tobytes())
            layer_class = _class_of(cls, meta)
            options = {name: meta[name] for name in OPTIONS}
            _core.check_size(options["num_features"], "num_features")
            names = {entry.removesuffix(".npy") for entry in archive.namelist()} - {"meta"}
            shapes = {name: () if name == "num_batches_tracked" else (options["num_features"],) for name in names}
            state = {name: _member(archive, name, None, shape) for name, shape in shapes.items()}
        layer = layer_class(**options, bias=bool(meta["bias"]), dtype=meta["dtype"])
        load_state(layer, state)
    except (
        zipfile.BadZipFile,
        KeyError,
        TypeError,
        EOFError,
        UnicodeDecodeError,
        ValueError,
        NotImplementedError,
        zipfile.zlib.error,
    ) as error:
        raise ValueError(f"path must be a file that BatchNorm.save wrote; got {path.name!r}: {error}") from error
    return layer


def _class_of(cls, meta):
    from . import layer

    if meta["format"] != FORMAT or meta["version"] != VERSION:
        raise ValueError(
            f"format must be {FORMAT} version {VERSION}; got {meta['format']!r} version {meta['version']!r}"
        )
    if meta["class"] not in layer.__all__:
        raise ValueError(f"class must be one of {', '.join(layer.__all__)}; got {meta['class']!r}")
    saved = getattr(layer, meta["class"])
    if not issubclass(saved, cls):
        raise ValueError(f"class must be {cls.__name__}; got {meta['class']}")
    return saved


def _member(archive, name, dtype, shape):
    """One array of the archive, once its header and its size are known to be what they must be."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} must be stored in .npy format 1.0; got {version}")
        stored_shape, _, stored_dtype = np.lib.format.read_array_header_1_0(file)
        if stored_dtype not in ((dtype,) if dtype else (np.float32, np.float64, np.int64)):
            raise ValueError(f"{name} must be numbers; got {stored_dtype}")
        if shape is None:
            if len(stored_shape) != 1 or stored_shape[0] > LARGEST_META:
                raise ValueError(f"{name} must be at most {LARGEST_META} bytes; got shape {stored_shape}")
        elif stored_shape != shape:
            raise ValueError(f"{name} must have shape {shape}; got {stored_shape}")
        expected = int(np.prod(stored_shape)) * stored_dtype.itemsize
        if archive.getinfo(f"{name}.npy").file_size != file.tell() + expected:
            raise ValueError(f"{name} must have {expected} bytes of data; got another size")
        return np.frombuffer(file.read(expected), stored_dtype).reshape(stored_shape)
