"""runtime: threads, instruction sets and configuration of the process."""

import contextlib
import math
import os
import platform
import sys
from pathlib import Path

import numpy as np

from . import _core

__all__ = [
    "available_isas",
    "config",
    "get_include",
    "get_library",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "show_config",
    "use_isa",
]


def _quota_of(folder):
    """CPUs that one cgroup folder allows, or infinity; both versions' files."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else math.inf
    return math.inf


def _cpu_quota(membership=Path("/proc/self/cgroup"), root=Path("/sys/fs/cgroup")):
    """The smallest CPU quota along the path of this process's cgroups, rounded up to whole CPUs; infinity if none."""
    least = math.inf
    with contextlib.suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            for mount in (root / controllers, root / "cpu") if controllers else (root, root / "unified"):
                folder = mount / path.lstrip("/")
                least = min(
                    least, *(_quota_of(place) for place in (folder, *folder.parents) if root in (place, *place.parents))
                )
    return least if least == math.inf else max(1, math.ceil(least))


def _threads_from_environment():
    text = os.environ.get("CBN_NUM_THREADS")
    if not text:
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or not 1 <= int(text) <= 65536:
        raise ImportError(f"CBN_NUM_THREADS must be an integer from 1 to 65536; got {text!r}")
    return int(text)


_OPENMP_LIMIT_AT_LOAD = _core.openmp()[1]
_OPENMP_LIMIT_GIVEN = bool(os.environ.get("OMP_NUM_THREADS"))
_QUOTA = _cpu_quota()
_chosen = _threads_from_environment()


def set_num_threads(n):
    """Set the number of threads of all calls in this process that do not name one.

    Parameters
    ----------
    n : int
        1 or more. It may exceed the number of CPUs.

    Raises
    ------
    TypeError
        If n is not an integer.
    ValueError
        If n is less than 1.

    See Also
    --------
    num_threads : the same for a `with` block.
    """
    global _chosen
    _chosen = _core.check_num_threads(n, "n")


def get_num_threads():
    """Return the number of threads that a large call without `num_threads` uses now.

    In this order: what `set_num_threads` set, `CBN_NUM_THREADS`, `OMP_NUM_THREADS`, or the CPUs that are really
    available: the CPU affinity and the cgroup's CPU quota. A limit that threadpoolctl or OpenMP set after cbn was
    imported is respected in every case. 1 if cbn was built without OpenMP. Small calls use fewer.

    Returns
    -------
    int
    """
    version, limit, ever, procs = _core.openmp()
    if not version:
        return 1
    if _chosen is not None:
        return min(_chosen, limit, ever) if limit < _OPENMP_LIMIT_AT_LOAD else min(_chosen, ever)
    return min(limit, ever) if _OPENMP_LIMIT_GIVEN else int(min(limit, ever, procs, _QUOTA))


_core.set_threads_by_default(get_num_threads)


@contextlib.contextmanager
def num_threads(n):
    """Use n threads within a `with` block; like the setters, for the whole process.

    Examples
    --------
    >>> import cbn
    >>> with cbn.num_threads(1):
    ...     cbn.get_num_threads()
    1
    """
    global _chosen
    before = _chosen
    set_num_threads(n)
    try:
        yield
    finally:
        _chosen = before


def available_isas():
    """Return the names of the instruction sets that this CPU runs, from the plainest to the widest.

    Returns
    -------
    tuple of str
        "baseline" first; on x86-64 then "avx2" and "avx512" where the CPU has them. The last is in use by default.
    """
    return _core.available_isas()


def _select_isa(name, what, error):
    if not isinstance(name, str) or not _core.select_isa(name):
        raise error(f"{what} must be one of {', '.join(available_isas())} on this CPU; got {name!r}")


@contextlib.contextmanager
def use_isa(name):
    """Use the kernels of one instruction set within a `with` block. Results are the same bits with each.

    The setting is process-wide; enter and leave the block while no other thread is calling cbn.

    Parameters
    ----------
    name : str
        One of `available_isas()`.

    Raises
    ------
    ValueError
        If this CPU has no such instruction set.
    """
    before = _core.isa()
    _select_isa(name, "name", ValueError)
    try:
        yield
    finally:
        _core.select_isa(before)


if os.environ.get("CBN_ISA"):
    _select_isa(os.environ["CBN_ISA"], "CBN_ISA", ImportError)


def get_include():
    """Return the folder of `cbn.h`, for C, C++ and Cython programs.

    Returns
    -------
    str

    See Also
    --------
    get_library : what they are linked with; Cython programs are not.
    """
    return str(Path(__file__).parent / "include")


def get_library():
    """Return the path of the C library, which C and C++ programs are linked with.

    It is the one that this package itself uses, and needs no Python. In its folder there are also
    `pkgconfig/cbn.pc` and `cmake/cbn`, for pkg-config and for CMake's `find_package(cbn)`.

    Returns
    -------
    str
        For instance `.../cbn/lib/libcbn.so.1`.

    Examples
    --------
    >>> import os.path, cbn
    >>> command = ["cc", "program.c", "-I" + cbn.get_include(), cbn.get_library()]
    >>> command += ["-Wl,-rpath," + os.path.dirname(cbn.get_library())]  # where the program finds it when it runs
    """
    abi = _core.version()[1]
    name = {"darwin": f"libcbn.{abi}.dylib", "win32": "libcbn.dll.a"}.get(sys.platform, f"libcbn.so.{abi}")
    return str(Path(__file__).parent / "lib" / name)


def _cpu_name():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def config():
    """Return what was detected, as a dict of plain values."""
    from . import __version__

    version, limit, _, procs = _core.openmp()
    return {
        "cbn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu": _cpu_name(),
        "isas": list(available_isas()),
        "isa": _core.isa(),
        "openmp": version,
        "openmp_max_threads": limit,
        "cpus_by_affinity": procs,
        "cpus_by_quota": None if math.isinf(_QUOTA) else _QUOTA,
        "num_threads": get_num_threads(),
    }


def config_rows():
    """Names and texts of what was detected."""
    return [[name, ", ".join(value) if isinstance(value, list) else str(value)] for name, value in config().items()]


def show_config():
    """Print what was detected: versions, CPU, instruction sets, OpenMP, threads."""
    for name, text in config_rows():
        print(f"{name:20}{text}")
