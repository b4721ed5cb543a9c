"""test_memory_faults: each allocation fails in turn: MemoryError, a state that is whole, and calls that go on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"
# minutes, in .ci/full
LONG = "save|load|pickle|deepcopy|convert|drift|fold|recompute|state_dict|train-all|ghosts-raise|renorm-skip"
LONG += "|backward (average|debiased|deviation|half|raise|skip)"
# What NumPy and CPython make of a failed allocation that they forget, or take for something else. A SystemError that
# names a function of cbn's is cbn's.
OTHERS_ERRORS = (
    "SystemError: (?!.*(cbn|cyfunction)).*(without setting an exception|without exception set|with an exception set)",
    "RuntimeError: can't allocate (read )?lock",
    "TypeError: .*PathLike|TypeError: .*bytes, os.PathLike or integer, not PosixPath|TypeError: replace: dst should",
    "ValueError: Can't close the ZIP file",
    "ValueError: path must be a file that .* wrote; got .*(PathLike|can't allocate)",
    "PicklingError: Can't pickle .*: import of module",
)


@pytest.fixture(scope="module")
def hooks(tmp_path_factory):
    made = tmp_path_factory.mktemp("faults") / "allocations.so"
    flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-fno-builtin"]
    subprocess.run(["gcc", *flags, "-o", made, FAULTS / "allocations.c", "-ldl"], check=True)
    return made


def is_ours(crash):
    """Whether the code that crashed, or what called into CPython and C's library there, is cbn's."""
    modules = [name for name in crash if not name.startswith(("libc.", "libpython", "python", "ld-"))]
    return not modules or "_core.abi3" in modules[0]


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="CPython 3.12.1 and 3.13.0 crash by themselves, or run nonsense, after an allocation for a generator failed",
)
def test_each_allocation(hooks):
    """All that CBN_ALL_FAULTS asks for, else what takes seconds."""
    names = [] if os.environ.get("CBN_ALL_FAULTS") else ["--but", LONG]
    environment = {**os.environ, "LD_PRELOAD": str(hooks), "PYTHONMALLOC": "malloc"}
    command = [sys.executable, FAULTS / "allocations.py", *names]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    cases = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(cases) > 30 and sum(faults for _, faults, _, _ in cases) > 2000
    for name, faults, found, crashes in cases:
        assert faults > 2, name
        ours = [text for text in found if not any(re.search(error, text) for error in OTHERS_ERRORS)]
        assert not ours, (name, ours)
        assert not any(is_ours(modules) for _, modules in crashes), (name, crashes)
