"""files: what the command line reads, never unpickled, and writes, and what is wrong with a request."""

import json
import math
import os

from . import reading
from .libraries import library

__all__ = ["UserError", "check_reports", "check_target", "plain", "read_array", "read_arrays", "write_json"]

LARGEST_UNPACKED = 1 << 26  # bytes that the arrays of a compressed file may have in any case, however small it is
LARGEST_NAMES = 1 << 20  # bytes of what says which arrays a state has: those of a whole model
LARGEST_TEXT = 1000  # characters of an error, with a path in it


class UserError(Exception):
    """A request that cannot be met; its text is for the user, and may tell what a file says of itself."""

    def __init__(self, text):
        super().__init__(reading.shown(text, LARGEST_TEXT))


def check_target(name, path, others=()):
    """Refuse a file that cannot be written, or is one of the others, before the work, not after it."""
    try:
        bad = path and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK))
    except OSError:  # of a name that is too long
        bad = True
    if bad:
        raise UserError(f"{name} must be a file that can be written; got {path}")
    if path and path.resolve() in [other.resolve() for other in others if other]:
        raise UserError(f"{name} must be a file of its own; got {path}")


def check_reports(options, others):
    """Refuse a --json or a --plot that cannot be written, or is one of the others, or both of which are one."""
    check_target("--json", options.json, others)
    check_target("--plot", options.plot, [*others, options.json])


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
        with reading.opened(path, name) as file:
            return read(file)
    except OSError as error:
        raise UserError(f"{name} must be a file that can be read; got {path}: {error.strerror}") from None
    except UserError:
        raise
    except Exception as error:  # damaged bytes make the parsers underneath raise nearly anything
        raise UserError(f"{name} must be a {kind} of numbers; got {path}: {str(error) or 'damaged'}") from None


def _safetensors(file):
    try:
        reading.Tensors(file, LARGEST_NAMES)  # whose header has a bound
        file.seek(0)
        return library("safetensors.numpy", "safetensors").load(file.read())
    except ImportError as error:
        raise UserError(str(error)) from None
    except Exception as error:  # whose own errors have no class in common with others
        raise ValueError(error) from None


def _npz(file):
    from zipfile import ZIP_DEFLATED, ZIP_STORED  # see reading.archive

    with reading.archive(file, lambda size: LARGEST_UNPACKED + 100 * size, LARGEST_NAMES) as archive:
        if any(member.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for member in archive.infolist()):
            raise ValueError("the archive must be stored or deflated; got another compression")  # unpacked in one piece
        names = archive.namelist()
        return {name.removesuffix(".npy"): _member(archive, name) for name in names}


def _member(archive, name):
    with archive.open(name) as file:
        return reading.npy(file, archive.getinfo(name).file_size, name, lambda *_: None)


def read_array(path, name):
    """Return the array of a .npy file."""
    return _read(
        path, name, ".npy file", lambda file: reading.npy(file, os.fstat(file.fileno()).st_size, name, lambda *_: None)
    )


def read_arrays(path, name):
    """Return the arrays of a .npz or .safetensors file in a dict. Compressed ones may be 100 times the file's size."""
    if path.suffix == ".safetensors":
        return _read(path, name, ".safetensors file", _safetensors)
    return _read(path, name, ".npz file", _npz)
