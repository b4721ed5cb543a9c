"""latency: a service that makes one call every 5 ms: how long a call takes, and how much CPU time it burns."""

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# Nothing that loads an OpenMP runtime here: each measurement has a process of its own, with the runtime as it comes.
from common import UserError, add_json_option, check, run_main, write_json

PERIOD = 5e-3  # seconds from the start of one call to that of the next
SHAPES = [("NC", (256, 1024)), ("NCHW", (8, 64, 56, 56))]
CONTENDERS = ("cbn", "torch")
CONDITIONS = ("alone", "busy neighbour", "quota")
QUOTA = 0.5  # CPUs


# --- the service, in a process of its own ---


def service_call(contender, shape, threads):
    """Inference of a contender, as a service would call it: with num_threads threads, and out= where there is one."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    y = np.zeros_like(x)
    weight, bias, mean, var = np.abs(np.random.default_rng(1).standard_normal((4, shape[1]), np.float32))
    if contender == "cbn":
        import cbn

        return lambda: cbn.batch_norm(x, mean, var, weight, bias, out=y, num_threads=threads)
    import torch

    torch.set_num_threads(threads)
    x, mean, var, weight, bias = map(torch.from_numpy, (x, mean, var, weight, bias))
    return lambda: torch.nn.functional.batch_norm(x, mean, var, weight, bias)


def serve(contender, shape, threads, calls, groups):
    """Make the calls, and return seconds of each and CPU seconds of the process per call, less those of the waiting."""
    for group in groups:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    call = service_call(contender, shape, threads)
    _run(call, 50)  # until what the imports have started has come to rest
    seconds, cpu = _run(call, calls)
    _run(lambda: None, 50)
    return seconds, cpu - _run(lambda: None, calls // 4)[1]


def _run(call, calls):
    """Call once in every period; a call that takes longer moves the next one."""
    seconds = []
    burnt = time.process_time()
    due = time.perf_counter()
    for _ in range(calls):
        time.sleep(max(0, due - time.perf_counter()))
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        due = start + PERIOD
    time.sleep(max(0, due - time.perf_counter()))
    return seconds, (time.process_time() - burnt) / calls


# --- the conditions ---


def spin():
    while True:
        pass


@contextlib.contextmanager
def busy_neighbour():
    """Another process keeps one CPU busy."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    time.sleep(0.5)  # until it has started
    try:
        yield ()
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def quota():
    """A new cgroup with a CPU quota; gives its folder, which a process can join. OSError where that is not allowed."""
    root = Path("/sys/fs/cgroup")
    second = (root / "cgroup.controllers").exists()
    group = (root if second else root / "cpu") / f"cbn-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        period = 100_000  # microseconds, the kernel's default
        if second:
            (group / "cpu.max").write_text(f"{int(QUOTA * period)} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(int(QUOTA * period)))
        yield (str(group),)
    finally:
        group.rmdir()


def measure(contender, shape, condition, threads, calls):
    """Milliseconds: median and 99th percentile of a call, CPU time burnt per call."""
    surroundings = {"alone": contextlib.nullcontext(()), "busy neighbour": busy_neighbour(), "quota": quota()}
    with surroundings[condition] as groups:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            seconds, cpu = pool.submit(serve, contender, shape, threads, calls, groups).result()
        time.sleep(0.1)  # until the kernel lets go of the process: a group with one in it cannot be removed
    seconds.sort()
    return {
        "median_ms": 1e3 * seconds[len(seconds) // 2],
        "p99_ms": 1e3 * seconds[int(0.99 * len(seconds))],
        "cpu_ms": 1e3 * cpu,
    }


# --- the table ---


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of each call (%(default)s)")
    parser.add_argument("--calls", type=int, default=600, help="of each measurement (%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    if options.calls < 100:
        raise UserError(f"--calls must be 100 or more, for a 99th percentile; got {options.calls}")
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the neighbour and the cgroup go, too
    import contenders
    import machine

    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    names = [name for name in CONTENDERS if name == "cbn" or not contenders.why_missing(name)]
    print(f"inference, one call every {1e3 * PERIOD:g} ms; CPU: time that all threads burn per call, spinning included")
    print(f"{'shape':24}{'condition':18}{'contender':10}{'median ms':>10}{'p99 ms':>9}{'CPU ms':>8}{'CPU/median':>12}")
    results = []
    for layout, shape in SHAPES:
        for condition in CONDITIONS:
            for name in names:
                row = f"{layout + ' ' + 'x'.join(map(str, shape)):24}{condition:18}{name:10}"
                try:
                    found = measure(name, shape, condition, options.threads, options.calls)
                except OSError as error:
                    print(f"{row}not possible: {error.strerror}: {error.filename}")
                    continue
                results.append({"shape": shape, "condition": condition, "contender": name} | found)
                median, p99, cpu = found.values()
                print(f"{row}{median:10.3f}{p99:9.3f}{cpu:8.3f}{cpu / median:12.1f}", flush=True)
    write_json(options.json, {"machine": facts, "threads": options.threads, "quota_cpus": QUOTA, "results": results})


if __name__ == "__main__":
    run_main(main)
