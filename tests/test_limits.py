"""test_limits: the number of threads under each limit that a process can meet, and threads that are refused."""

import os
import sys
from pathlib import Path

import cgroups
import pytest
from cases import needs_openmp
from test_processes import in_a_process_group

import cbn

SCRIPT = Path(__file__).with_name("refusals.py")
FEW = 4  # CPUs at most, so that the array can be cut for each of them
QUOTA_HERE = cbn.runtime.config()["cpus_by_quota"] or FEW  # of whatever runs the tests
CPUS = min(len(os.sched_getaffinity(0)), QUOTA_HERE, FEW)
PIN = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
IMPORT = f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{FEW}])\n"
IMPORT += "import cbn, numpy as np, os, threadpoolctl\nfrom pathlib import Path\n"
# what cbn says, and how many threads a large call has added to those there were
ASK = """
x = np.zeros((64, 16, 64, 64), np.float32)
def tasks():
    return len(os.listdir("/proc/self/task"))
before = tasks()
cbn.moments(x)
print(cbn.get_num_threads(), tasks() - before + 1)
"""


def answer(code, *, environment=None, groups=()):
    """What `code` prints in a new process that has joined the groups, with no settings of threads but those given."""
    left_out = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "CBN_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    join = [f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')" for group in groups]
    command = [sys.executable, "-c", "\n".join([*join, code])]
    status, stdout, stderr = in_a_process_group(command, env=inherited | (environment or {}))
    assert status == 0, stderr
    return stdout


# --- the number chosen, and the number that really runs ---


@needs_openmp
@pytest.mark.parametrize(
    ("environment", "code", "expected"),
    [
        ({}, IMPORT + ASK, CPUS),
        ({}, PIN + IMPORT + ASK, 1),
        ({}, IMPORT + PIN + ASK, 1),
        ({"OMP_NUM_THREADS": "3"}, IMPORT + ASK, 3),
        ({"OMP_NUM_THREADS": "3,2"}, IMPORT + ASK, 3),
        ({"OMP_NUM_THREADS": "3"}, PIN + IMPORT + ASK, 3),
        ({"CBN_NUM_THREADS": "4"}, IMPORT + ASK, 4),
        ({"CBN_NUM_THREADS": "4", "OMP_NUM_THREADS": "2"}, PIN + IMPORT + ASK, 4),
        ({"CBN_NUM_THREADS": "4"}, IMPORT + "cbn.set_num_threads(2)" + ASK, 2),
        ({"CBN_NUM_THREADS": "4"}, IMPORT + "threadpoolctl.threadpool_limits(1)" + ASK, 1),
        ({"OMP_NUM_THREADS": "4"}, IMPORT + "threadpoolctl.threadpool_limits(1)" + ASK, 1),
        ({}, IMPORT + "threadpoolctl.threadpool_limits(1)\ncbn.set_num_threads(3)" + ASK, 1),
    ],
)
def test_threads_chosen(environment, code, expected):
    said, ran = map(int, answer(code, environment=environment).split())
    assert (said, ran) == (expected, expected)


@needs_openmp
@pytest.mark.parametrize("limit", [1, 2])
def test_thread_limit(limit):
    """What OpenMP grants all calls together counts in any case."""
    said, ran = answer(IMPORT + ASK, environment={"CBN_NUM_THREADS": "4", "OMP_THREAD_LIMIT": str(limit)}).split()
    assert int(said) == int(ran) == limit


# --- real cgroups ---

QUOTA = IMPORT + "print(cbn.runtime.config()['cpus_by_quota'])" + ASK


@needs_openmp
@pytest.mark.parametrize(
    ("outer", "inner", "cpus"), [(0.5, None, 1), (1.5, None, 2), (3.5, 2.5, 3), (2, 0.2, 1), (0.8, 0.8, 1)]
)
def test_a_real_quota(outer, inner, cpus):
    """Of the process's own group, or of one that it is in."""
    settings = cgroups.cpus(inner) if inner else {}
    with cgroups.group("cpu", cgroups.cpus(outer)) as folder, cgroups.group("cpu", settings, folder) as own:
        quota, said, ran = map(int, answer(QUOTA, groups=[own]).split())
    assert (quota, said, ran) == (min(cpus, QUOTA_HERE), min(cpus, CPUS), min(cpus, CPUS))


@needs_openmp
def test_a_quota_that_comes_later():
    """It is read at import: worker processes that are moved to a group afterwards keep what they have found."""
    with cgroups.group("cpu", cgroups.cpus(0.5)) as folder:
        move = f"Path({str(folder / 'cgroup.procs')!r}).write_text('0')\n"
        again = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import cbn; print(cbn.get_num_threads())'])"
        )
        assert answer(IMPORT + move + ASK).split() == [str(CPUS)] * 2
        assert answer(IMPORT + move + again).split() == ["1"]


# --- threads that are refused ---


@pytest.mark.parametrize(
    "name", ["processes_of_the_user", "processes_of_the_user_in_a_fork", "threads_of_threads", "memory"]
)
def test_refused(name):
    status, stdout, stderr = in_a_process_group([sys.executable, SCRIPT, name])
    assert status == 0, stderr
    assert stdout.startswith("all right")


def test_refused_by_a_real_group():
    with cgroups.group("pids", {"pids.max": "max"}) as folder:
        status, stdout, stderr = in_a_process_group([sys.executable, SCRIPT, "tasks_of_the_group", str(folder)])
    assert status == 0, stderr
    assert stdout.startswith("all right")


# --- many callers ---


@needs_openmp
def test_many_callers_share_the_threads():
    """A call beside k others has a (k + 1)-th of the threads that it would have alone."""
    callers = threads = 8
    status, stdout, stderr = in_a_process_group([sys.executable, SCRIPT, "many_callers", str(callers), str(threads)])
    assert status == 0, stderr
    _, often, _ = map(int, stdout.split()[:3])
    assert often <= sum(max(1, threads // (others + 1)) for others in range(callers)) + 1  # the thread that looks
