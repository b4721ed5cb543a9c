"""native: compiles the benchmarks' own C files into a temporary directory, and loads them."""

import ctypes
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from common import UserError

# Without the last two the compiler would turn the plain copy loop into a call of memcpy, which is a variant of its own.
FLAGS = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-builtin", "-fno-tree-loop-distribute-patterns"]


def compiler():
    """The C compiler's command, as a list of words: $CC, else cc."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def compiler_version():
    """The first line of what the compiler says about itself."""
    try:
        return subprocess.run([*compiler(), "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    except OSError:
        return None


def load(name, libraries=()):
    """Compile ``<name>.c`` of this directory, and return it as a ctypes library.

    Raises
    ------
    UserError
        If there is no compiler, or it does not accept the file; the text says why.
    """
    source = Path(__file__).with_name(f"{name}.c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, f"{name}.so")
        command = [*compiler(), *FLAGS, source.name, "-o", str(target), *(f"-l{library}" for library in libraries)]
        try:
            done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True)
        except OSError as error:
            reason = f"{compiler()[0]}: {error.strerror}"
            raise UserError(f"{source.name} must be compiled (install a C compiler, or set CC); got {reason}") from None
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line or "cannot" in line]
            raise UserError(f"{source.name} must compile; got {[*errors, f'status {done.returncode}'][0]}")
        return ctypes.CDLL(str(target))  # stays mapped after the file is gone
