"""cgroups: real ones for tests, of either version; where they cannot be made, the test says so and is skipped."""

import contextlib
import itertools
import os
import time
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")
_numbers = itertools.count()


def folder_of(controller):
    """Where groups of a controller are made: its own hierarchy (version 1), or the one of all (version 2)."""
    return ROOT if (ROOT / "cgroup.controllers").exists() else ROOT / controller


@contextlib.contextmanager
def group(controller, settings, parent=None):
    """A new group, inside another one if given; settings are for its files, of those that this version has."""
    folder = (parent or folder_of(controller)) / f"cbn-test-{os.getpid()}-{next(_numbers)}"
    try:
        if parent and (parent / "cgroup.controllers").exists():
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir()
        files = [folder / name for name in settings if (folder / name).exists()]
        if settings and not files:
            raise FileNotFoundError(f"{folder} has no {' or '.join(settings)}")
        for file in files:
            file.write_text(settings[file.name])
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"not possible here: no {controller} cgroup can be made: {error}")
    try:
        yield folder
    finally:
        for _ in range(100):  # the kernel takes a moment to let go of what has ended
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def cpus(number):
    """The settings of a quota of so many CPUs, in both versions' files."""
    period = 100_000  # microseconds
    return {"cpu.max": f"{int(number * period)} {period}", "cpu.cfs_quota_us": str(int(number * period))}
