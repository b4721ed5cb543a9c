"""test_dask_work: what Dask does for moments: work and memory, interrupts, and workers that are lost."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from populations import bits

import cbn
from cbn import accumulating

dask = pytest.importorskip("dask")
pytest.importorskip("distributed")
import dask.array as da  # noqa: E402
from distributed import Event  # noqa: E402

from cbn.interop import dask as on_dask  # noqa: E402


def made(shape=(20, 6, 4), offset=0.0, seed=0):
    return np.random.default_rng(seed).normal(offset, 1, shape)


def test_what_all_chunks_need_is_computed_once(scheduler, count):
    """Each chunk is, too."""
    x = da.ones((50, 3), chunks=(1, 3)).map_blocks(count, dtype=np.float64, meta=np.empty((0, 0)))
    assert on_dask.moments(x - x.sum()).mean[0] == 1 - 150
    assert count.calls() == 50


def test_what_some_chunks_need_is_computed_once(scheduler, count):
    x = da.ones((400, 3), chunks=200).map_blocks(count, dtype=np.float64, meta=np.empty((0, 0)))
    assert on_dask.moments(x.rechunk((2, 3))).count == 400
    assert count.calls() == 2


def test_what_some_batches_need_is_computed_once(scheduler, count):
    shared = dask.delayed(count)(np.ones((2, 3)))
    assert on_dask.moments([shared + n for n in range(50)]).count == 100
    assert count.calls() == 1


LIMITED = """
import resource, dask, dask.array as da, numpy as np, cbn.interop.dask
with dask.config.set(scheduler="threads", num_workers=2):
    x = da.random.default_rng(0).normal(size=(60, 4, 1 << 18), chunks=(1, 4, 1 << 18))
    cbn.interop.dask.moments(x[:2])
    used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + (120 << 20),) * 2)
    print(cbn.interop.dask.moments(x).count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory so")
def test_memory_is_bounded_in_threads():
    """500 MB, with 120 to work in."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{60 << 18}\n"), done.stderr


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_memory_is_bounded_in_workers(workers):
    """500 MB, of which none holds more than a few chunks of 8 MB."""
    x = da.random.default_rng(0).normal(size=(60, 4, 1 << 18), chunks=(1, 4, 1 << 18))
    on_dask.moments(x[:4])
    before = {**workers.run(peak), "here": peak()}
    assert on_dask.moments(x).count == 60 << 18
    after = {**workers.run(peak), "here": peak()}
    assert max(after[name] - before[name] for name in before) < 100


# --- errors, interrupts and lost workers ---


def test_an_error_cancels_the_rest(workers):
    def fails(n):
        if n == 1:
            Event("seen").wait()
        if n == 0:
            raise OverflowError
        return made((4, 3))

    with pytest.raises(OverflowError) as caught:  # which keeps all frames, and what they refer to
        on_dask.moments([dask.delayed(fails)(n) for n in range(20)])
    assert not workers.futures and caught.tb
    Event("seen").set()


def test_a_worker_that_dies_is_done_without(workers, tmp_path):
    def dies(n):
        if n == 1 and not (tmp_path / "dead").exists():
            (tmp_path / "dead").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.random.default_rng(n).normal(0, 1, (9, 3))

    arrays = [np.random.default_rng(n).normal(0, 1, (9, 3)) for n in range(6)]
    assert bits(on_dask.moments([dask.delayed(dies)(n) for n in range(6)])) == bits(cbn.population_moments(arrays))


def test_a_worker_that_dies_takes_no_array_with_it(workers, small, monkeypatch):
    x = made((600, 3, 4))

    def kill(run):
        if run.counted == 5:
            os.kill(next(iter(workers.run(os.getpid).values())), signal.SIGKILL)

    expected = bits(cbn.population_moments(x))
    monkeypatch.setattr(accumulating.Run, "save_if_due", kill)
    assert bits(on_dask.moments(x)) == expected


def test_ctrl_c_keeps_what_has_been_counted(scheduler, tmp_path, monkeypatch, count):
    def interrupt(run):
        if run.counted == 3:
            raise KeyboardInterrupt

    def slow(n):
        time.sleep(0.02)
        return count(made((4, 3), seed=n))

    monkeypatch.setattr(accumulating.Run, "save_if_due", interrupt)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        on_dask.moments([dask.delayed(slow)(n) for n in range(200)], checkpoint=tmp_path / "run.npz")
    assert cbn.Moments.load(tmp_path / "run.npz").count == 12 and count.calls() < 100
    assert scheduler != "synchronous" or threading.active_count() == threads


KILLED = """
import os, signal, sys, time, dask, numpy as np, cbn.interop.dask
from cbn import accumulating
accumulating.EVERY = 0.0
def batch(n):
    time.sleep(0.05)
    if n == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.random.default_rng(n).normal(0, 1, (20, 3, 4))
with dask.config.set(scheduler="threads", num_workers=2):
    cbn.interop.dask.moments([dask.delayed(batch)(n) for n in range(40)], checkpoint=sys.argv[1])
"""


def test_a_killed_process_goes_on(tmp_path):
    path = tmp_path / "run.npz"
    command = [sys.executable, "-c", KILLED, path]
    assert subprocess.run([*command, "33"]).returncode == -signal.SIGKILL
    counted, rest = divmod(cbn.Moments.load(path).count, 80)
    assert 9 < counted <= 33 and rest == 0
    subprocess.run([*command, "-1"], check=True)
    arrays = (np.random.default_rng(n).normal(0, 1, (20, 3, 4)) for n in range(40))
    assert bits(cbn.Moments.load(path)) == bits(cbn.population_moments(arrays))
