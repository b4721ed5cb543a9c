"""files: what the command line reads, never unpickled, and writes, and what is wrong with a request."""

import json
import math
import os
import zipfile

import numpy as np

from .libraries import library

__all__ = ["UserError", "check_target", "plain", "read_array", "read_arrays", "write_json"]


class UserError(Exception):
    """A request that cannot be met; its text is for the user."""


def check_target(name, path, others=()):
    """Refuse a file that cannot be written, or is one of the others, before the work, not after it."""
    if path and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise UserError(f"{name} must be a file that can be written; got {path}")
    if path and path.resolve() in [other.resolve() for other in others if other]:
        raise UserError(f"{name} must be a file of its own; got {path}")


def write_json(path, answer):
    """Write the answer to the file that --json names; a number that is not finite becomes null."""
    try:
        path.write_text(json.dumps(plain(answer), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--json must be a file that can be written; got {path}: {error.strerror}") from None


def plain(value):
    """What JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path, name, kind, read):
    try:
        with path.open("rb") as file:
            return read(file)
    except OSError as error:
        raise UserError(f"{name} must be a file that can be read; got {path}: {error.strerror}") from None
    except (ValueError, EOFError, MemoryError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise UserError(f"{name} must be a {kind} of numbers; got {path}: {reason}") from None


def _safetensors(content):
    try:
        return library("safetensors.numpy", "safetensors").load(content)
    except ImportError as error:
        raise UserError(str(error)) from None
    except Exception as error:  # whose own errors have no class in common with others
        raise ValueError(error) from None


def read_array(path, name):
    """Return the array of a .npy file."""
    return _read(path, name, ".npy file", lambda file: np.lib.format.read_array(file, allow_pickle=False))


def read_arrays(path, name):
    """Return the arrays of a .npz or .safetensors file in a dict."""
    if path.suffix == ".safetensors":
        return _read(path, name, ".safetensors file", lambda file: _safetensors(file.read()))

    def read(file):
        with zipfile.ZipFile(file):  # which says in one line if it is none
            file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return _read(path, name, ".npz file", read)
