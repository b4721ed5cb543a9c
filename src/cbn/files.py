"""files: arrays from files that the command line names, never unpickled, and what is wrong with a request."""

import os
import zipfile

import numpy as np

__all__ = ["UserError", "check_target", "read_array", "read_arrays"]


class UserError(Exception):
    """A request that cannot be met; its text is for the user."""


def check_target(name, path):
    """Refuse a file that cannot be written before the work, not after it."""
    if path and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise UserError(f"{name} must be a file that can be written; got {path}")


def _read(path, name, kind, read):
    try:
        with path.open("rb") as file:
            return read(file)
    except OSError as error:
        raise UserError(f"{name} must be a file that can be read; got {path}: {error.strerror}") from None
    except (ValueError, EOFError, MemoryError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise UserError(f"{name} must be a {kind} of numbers; got {path}: {reason}") from None


def read_array(path, name):
    """Return the array of a .npy file."""
    return _read(path, name, ".npy file", lambda file: np.lib.format.read_array(file, allow_pickle=False))


def read_arrays(path, name):
    """Return the arrays of a .npz file in a dict."""

    def read(file):
        with zipfile.ZipFile(file):  # which says in one line if it is none
            file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return _read(path, name, ".npz file", read)
