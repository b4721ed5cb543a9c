"""refusals: what test_limits.py runs where no thread can be started: `python refusals.py NAME`, each in a new process.

libgomp ends the process in each of these cases. cbn must go on, with the same bits, on the threads that it has.
"""

import contextlib
import os
import resource
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
from processes import EXPECTED, OPENMP, X, check, child, family, right, threads_now

import cbn

UNPRIVILEGED = 65534  # the user nobody; root may have as many threads as it wants
OUT = np.zeros_like(X)


def same():
    """Whether a call that asks for threads has the right bits, with them or without."""
    return cbn.batch_norm(X, training=True, num_threads=3, out=OUT).tobytes() == EXPECTED


def all_verbs():
    """Whether everything works that has threads."""
    layer = cbn.BatchNorm(16)
    y = layer(X)
    layer.backward(y)
    layer.eval()(X)
    return same() and cbn.moments(X, num_threads=3).count == 8 * 64 * 64


@contextlib.contextmanager
def at_most(what, number):
    """A limit of this process, for a while."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def must_be_alone():
    """That the limit does what the test wants."""
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=int).start()
        sys.exit("a thread could be started in spite of the limit")


def become_unprivileged():
    if os.getuid() == 0:
        os.setgid(UNPRIVILEGED)
        os.setuid(UNPRIVILEGED)


def same_of_eight():
    return cbn.batch_norm(X, training=True, num_threads=8).tobytes() == EXPECTED


def processes_of_the_user():
    """RLIMIT_NPROC, `ulimit -u`: from the start, after a smaller team, in a fork, and until it is lifted."""
    become_unprivileged()
    with at_most(resource.RLIMIT_NPROC, 1):
        must_be_alone()
        before = threads_now()
        check("from the start", [not all_verbs(), threads_now() - before])
    check("lifted", [not right()])
    check("a fork", [child(lambda: family(1))])
    cbn.batch_norm(X, num_threads=2, training=True)
    with at_most(resource.RLIMIT_NPROC, 1):
        check("after a smaller team", [not all_verbs()])
    for _ in range(3):  # a team that is smaller, or became smaller than was asked for, ends the others
        same_of_eight()
        cbn.batch_norm(X, num_threads=2, training=True)
        with at_most(resource.RLIMIT_NPROC, 1):
            check("after a larger and a smaller team", [not same_of_eight()])
        few = np.ones((1, 3, 90000), np.float32)
        cbn.moments(few, num_threads=8)
        with at_most(resource.RLIMIT_NPROC, 1):
            check("after a team that got fewer", [not same_of_eight()])


def processes_of_the_user_in_a_fork():
    check("parent", [not right()])
    become_unprivileged()

    def refused():
        with at_most(resource.RLIMIT_NPROC, 1):
            must_be_alone()
            if not all_verbs():
                return False
        return right()

    check("child", [child(refused) for _ in range(5)])


def threads_of_threads():
    """Calls of several threads at the same time, all of which are refused any more."""
    become_unprivileged()
    go, answers = threading.Event(), []

    def work():
        go.wait()
        out = np.zeros_like(X)
        for _ in range(20):
            answers.append(cbn.batch_norm(X, training=True, num_threads=3, out=out).tobytes() == EXPECTED)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    with at_most(resource.RLIMIT_NPROC, 1):
        go.set()
        for thread in threads:
            thread.join()
    check("calls", [not answer for answer in answers])
    check("number of calls", [len(answers) != 80])


def memory():
    """RLIMIT_AS, `ulimit -v`: right or MemoryError, whatever little is left; mostly too little for a stack."""

    def call(kib):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        with at_most(resource.RLIMIT_AS, size + kib * 1024):
            try:
                cbn.batch_norm(X, training=True, num_threads=3, out=OUT)
            except MemoryError:
                return kib < 4096  # the call's own scratch is far less
        return OUT.tobytes() == EXPECTED

    room = [*range(0, 1024, 64), *range(1024, 65536, 1024)]
    check("memory", [child(partial(call, kib)) for kib in room])
    check("parent", [not right()])


def tasks_of_the_group(folder):
    """pids.max of a cgroup, a container's --pids-limit."""
    Path(folder, "cgroup.procs").write_text(str(os.getpid()))
    before = threads_now()
    Path(folder, "pids.max").write_text(str(before))
    must_be_alone()
    check("refused", [not all_verbs(), threads_now() - before])
    Path(folder, "pids.max").write_text(str(before + 1))
    check("a part refused", [not all_verbs()])
    Path(folder, "pids.max").write_text("max")
    check("lifted", [not right()])


def running_threads():
    """How many threads of this process run or could."""
    running = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            running += (task / "stat").read_text().rsplit(")", 1)[1].split()[0] == "R"
    return running


def many_callers(callers, num_threads):
    """Prints how many threads run at a time while several call: median, 90th percentile and most of many looks."""
    stop, looks = threading.Event(), []
    x = np.random.default_rng(0).random((32, 16, 64, 64), dtype=np.float32)
    expected = cbn.batch_norm(x, training=True, num_threads=1).tobytes()
    wrong = []

    def work():
        out = np.zeros_like(x)
        while not stop.is_set():
            cbn.batch_norm(x, training=True, num_threads=int(num_threads), out=out)
        if out.tobytes() != expected:
            wrong.append("wrong bits")

    threads = [threading.Thread(target=work) for _ in range(int(callers))]
    for thread in threads:
        thread.start()
    while len(looks) < 200:
        looks.append(running_threads())
        stop.wait(0.003)
    stop.set()
    for thread in threads:
        thread.join()
    check("calls", wrong)
    looks.sort()
    print(looks[len(looks) // 2], looks[len(looks) * 9 // 10], looks[-1])


SCENARIOS = (
    processes_of_the_user,
    processes_of_the_user_in_a_fork,
    threads_of_threads,
    memory,
    tasks_of_the_group,
    many_callers,
)


if __name__ == "__main__":
    {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]](*sys.argv[2:])
    print("all right" if OPENMP else "all right, without OpenMP")
