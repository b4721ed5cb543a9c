"""test_runtime: threads, instruction sets, environment variables, fork, and the GIL."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from cases import filled, needs_openmp

import cbn
from cbn import runtime


def run(code, **environment):
    """Runs code in a fresh interpreter; OMP_NUM_THREADS and cbn's own variables only as given."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "CBN_NUM_THREADS", "CBN_ISA")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment}, capture_output=True, text=True, timeout=120
    )


@needs_openmp
def test_order_of_the_settings():
    ask = "import cbn; print(cbn.get_num_threads())"
    cpus = len(os.sched_getaffinity(0))
    assert 1 <= int(run(ask).stdout) <= cpus
    assert int(run(ask, OMP_NUM_THREADS="3").stdout) == 3
    assert int(run(ask, CBN_NUM_THREADS="5").stdout) == 5
    assert int(run(ask, CBN_NUM_THREADS="5", OMP_NUM_THREADS="3").stdout) == 5
    assert int(run("import cbn; cbn.set_num_threads(7); print(cbn.get_num_threads())", CBN_NUM_THREADS="5").stdout) == 7
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + ask
    assert int(run(pinned).stdout) == 1
    later = "import os, cbn; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cbn.get_num_threads())"
    assert int(run(later).stdout) == 1


@pytest.mark.parametrize("value", ["0", "-1", "two", " ", "1.5", "²", "99999999999"])
def test_bad_thread_variable(value):
    result = run("import cbn", CBN_NUM_THREADS=value)
    assert result.returncode == 1
    assert f"ImportError: CBN_NUM_THREADS must be an integer from 1 to 65536; got {value!r}" in result.stderr


def test_empty_variables_are_not_set():
    assert run("import cbn", CBN_NUM_THREADS="", CBN_ISA="").returncode == 0


@needs_openmp
def test_context_manager_restores():
    before = cbn.get_num_threads()
    with pytest.raises(KeyError), cbn.num_threads(9):
        assert cbn.get_num_threads() == 9
        raise KeyError
    assert cbn.get_num_threads() == before


@needs_openmp
@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_a_bounded_spin_that_leaves_no_trace(given, spins):
    result = run("import cbn, os; print(sorted(os.environ))", OMP_DISPLAY_ENV="verbose", **given)
    if "LIBGOMP" in result.stderr or "GOMP_SPINCOUNT" in result.stderr:  # GNU's runtime
        assert f"GOMP_SPINCOUNT = '{spins}'" in result.stderr
    assert ("GOMP_SPINCOUNT" in result.stdout) == ("GOMP_SPINCOUNT" in given)


@needs_openmp
def test_threadpoolctl_sees_and_limits():
    code = """
import cbn, threadpoolctl
print([i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "openmp"])
cbn.set_num_threads(4)
with threadpoolctl.threadpool_limits(1):
    print(cbn.get_num_threads())
print(cbn.get_num_threads())
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    seen, limited, after = result.stdout.split("\n")[:3]
    assert json.loads(seen), "no OpenMP runtime seen"
    assert (limited, after) == ("1", "4")
    assert threadpoolctl.threadpool_info()


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/\n", {}, np.inf),
        ("0::/a/b\n", {"cpu.max": "max 100000"}, np.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 1),
        ("0::/a/b\n", {"cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        (
            "4:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, np.inf),
        ("5:memory:/x\n", {"memory/x/cpu.max": "100000 100000"}, np.inf),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, np.inf),
        ("nonsense\n", {}, np.inf),
    ],
)
def test_cgroup_quota(tmp_path, membership, files, cpus):
    (tmp_path / "cgroup").write_text(membership)
    root = tmp_path / "root"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert runtime._cpu_quota(tmp_path / "cgroup", root) == cpus


def test_no_cgroup(tmp_path):
    assert runtime._cpu_quota(tmp_path / "none", tmp_path) == np.inf


def test_isas():
    isas = cbn.available_isas()
    assert isas[0] == "baseline" and runtime.config()["isa"] == isas[-1]
    for isa in isas:
        with cbn.use_isa(isa):
            assert runtime.config()["isa"] == isa
        assert run("import cbn; print(cbn.runtime.config()['isa'])", CBN_ISA=isa).stdout.strip() == isa
    assert runtime.config()["isa"] == isas[-1]


@pytest.mark.parametrize("value", ["avx9", " ", "AVX2"])
def test_bad_isa_variable(value):
    result = run("import cbn", CBN_ISA=value)
    assert result.returncode == 1
    assert (
        f"ImportError: CBN_ISA must be one of {', '.join(cbn.available_isas())} on this CPU; got {value!r}"
        in result.stderr
    )


def test_show_config(capsys):
    cbn.show_config()
    printed = capsys.readouterr().out
    for name, value in runtime.config().items():
        assert name in printed
        if isinstance(value, str):
            assert value in printed


FORK = """
import os, numpy as np, cbn
x = np.random.default_rng(0).random((8, 32, 100, 100), dtype=np.float32)
expected = cbn.batch_norm(x, training=True, num_threads=3)
def child(depth):
    pid = os.fork()
    if pid == 0:
        ok = np.array_equal(cbn.batch_norm(x, training=True, num_threads=3), expected)
        if depth:
            ok = ok and child(depth - 1) == 0
        os._exit(0 if ok else 9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(child(1), np.array_equal(cbn.batch_norm(x, training=True, num_threads=3), expected))
"""


def test_fork_after_a_parallel_region():
    """In the child, the grandchild, and the parent afterwards; libgomp alone would hang here."""
    result = run("import warnings; warnings.simplefilter('ignore')" + FORK)
    assert result.stdout.split() == ["0", "True"], result.stderr


def test_the_gil_is_released():
    """Another thread makes progress during long calls. Counts events, not time."""
    x = np.zeros((16, 64, 224, 224), np.float32)
    ticks, done, started = [], threading.Event(), threading.Event()

    def tick():
        started.set()
        while not done.is_set():
            ticks.append(1)
            time.sleep(0)  # lets go of the GIL, so that the main thread can have it back

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is asked to let go of the GIL: only a release lets the other thread run
    try:
        thread = threading.Thread(target=tick)
        thread.start()
        started.wait()
        during = len(ticks)
        for _ in range(4):
            cbn.moments(x, num_threads=1)
        during = len(ticks) - during
    finally:
        done.set()
        sys.setswitchinterval(before)
        thread.join()
    assert during > 0


def test_concurrent_calls_agree():
    arrays = [filled((6, 5, 30, 31), 1, np.float32, seed=s) for s in range(8)]
    expected = [cbn.batch_norm(x, training=True) for x in arrays]
    failures = []

    def work(i):
        for _ in range(30):
            if not np.array_equal(cbn.batch_norm(arrays[i], training=True, num_threads=2), expected[i]):
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_symbol_for_each_isa(tmp_path):
    """The only global symbol that an instruction set's object may define is its table."""
    root = Path(__file__).parent.parent / "csrc"
    avx512 = ["-mf16c", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
    flags = {"baseline": [], "avx2": ["-mavx2", "-mfma", "-mf16c"], "avx512": avx512}
    for isa in cbn.available_isas():
        command = ["gcc", "-std=c11", "-O0", *flags[isa], f"-I{root}/include", "-c", "-o", tmp_path / "o"]
        subprocess.run([*command, root / f"isa_{isa}.c"], check=True)
        listed = subprocess.run(
            ["nm", "-g", "--defined-only", tmp_path / "o"], capture_output=True, text=True, check=True
        )
        assert [line.split()[-1] for line in listed.stdout.splitlines()] == [f"cbn_kernels_{isa}"]


def test_a_library_that_is_broken_is_an_import_error():
    """Which module of the standard library NumPy needs and cannot get makes no difference."""
    code = "import sys; sys.modules['inspect'] = None; import cbn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and re.search("^(ImportError|ModuleNotFoundError): ", done.stderr, re.MULTILINE)
