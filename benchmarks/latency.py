"""latency: a service that makes one call every 5 ms, or many at once: how long calls take, and CPU time they burn."""

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

# Nothing that loads an OpenMP runtime here: each measurement has a process of its own, with the runtime as it comes.
from common import UserError, add_json_option, check, run_main, write_json

PERIOD = 5e-3  # seconds from the start of one call to that of the next
SHAPES = [("NC", (256, 1024)), ("NCHW", (8, 64, 56, 56))]
# With their environment. "cbn, long spin" is cbn as it would be without its own limit: with that of libgomp.
CONTENDERS = {"cbn": {}, "cbn, long spin": {"GOMP_SPINCOUNT": "300000"}, "torch": {}}
CALLERS = 8  # Python threads that call at once
CONDITIONS = ("alone", "busy neighbour", "quota")
QUOTA = 0.5  # CPUs


# --- the service, in a process of its own ---


def service_call(contender, shape, threads):
    """Inference of a contender, as a service would call it: with num_threads threads, and out= where there is one."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    y = np.zeros_like(x)
    weight, bias, mean, var = np.abs(np.random.default_rng(1).standard_normal((4, shape[1]), np.float32))
    if contender != "torch":
        import cbn

        return lambda: cbn.batch_norm(x, mean, var, weight, bias, out=y, num_threads=threads)
    import torch

    torch.set_num_threads(threads)
    x, mean, var, weight, bias = map(torch.from_numpy, (x, mean, var, weight, bias))
    return lambda: torch.nn.functional.batch_norm(x, mean, var, weight, bias)


def prepare(contender, groups):
    """What comes before anything that loads an OpenMP runtime."""
    os.environ.update(CONTENDERS[contender])
    for group in groups:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))


def serve(contender, shape, threads, calls, groups):
    """Make the calls, and return seconds of each and CPU seconds of the process per call, less those of the waiting."""
    prepare(contender, groups)
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


def serve_at_once(contender, shape, threads, calls, groups):
    """Make the calls from several Python threads at once; return seconds of each, those of all, CPU seconds per call,
    and the number of threads that there are in the end.
    """
    prepare(contender, groups)
    own = [service_call(contender, shape, threads) for _ in range(CALLERS)]
    ready, done, seconds = threading.Barrier(CALLERS + 1), threading.Barrier(CALLERS + 1), []

    def work(call):
        for _ in range(10):
            call()
        ready.wait()
        for _ in range(calls // CALLERS):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        done.wait()
        done.wait()  # lives on until it has been counted

    workers = [threading.Thread(target=work, args=(call,)) for call in own]
    for worker in workers:
        worker.start()
    ready.wait()
    start, burnt = time.perf_counter(), time.process_time()
    done.wait()
    whole, cpu = time.perf_counter() - start, (time.process_time() - burnt) / len(seconds)
    count = len(os.listdir("/proc/self/task"))
    done.wait()
    for worker in workers:
        worker.join()
    return seconds, cpu, whole, count


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


def in_process(work, *arguments):
    """What work returns, in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def summary(seconds, cpu):
    """Milliseconds: median and 99th percentile of a call, CPU time burnt per call."""
    seconds = sorted(seconds)
    median, p99 = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
    return {"median_ms": 1e3 * median, "p99_ms": 1e3 * p99, "cpu_ms": 1e3 * cpu}


def measure(contender, shape, condition, threads, calls):
    """The summary of one call every 5 ms."""
    surroundings = {"alone": contextlib.nullcontext(()), "busy neighbour": busy_neighbour(), "quota": quota()}
    with surroundings[condition] as groups:
        seconds, cpu = in_process(serve, contender, shape, threads, calls, groups)
        time.sleep(0.1)  # until the kernel lets go of the process: a group with one in it cannot be removed
    return summary(seconds, cpu)


def measure_at_once(contender, shape, threads, calls):
    """The summary of many calls at once, calls per second, and the number of threads of the process."""
    seconds, cpu, whole, count = in_process(serve_at_once, contender, shape, threads, calls, ())
    return summary(seconds, cpu) | {"calls_per_s": len(seconds) / whole, "os_threads": count}


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


def show(shape, condition, contender, measured):
    """Print one row, and return it in a list; an empty one if it is not possible here."""
    layout, sizes = shape
    row = f"{layout + ' ' + 'x'.join(map(str, sizes)):18}{condition:16}{contender:16}"
    try:
        found = measured()
    except OSError as error:
        print(f"{row}not possible: {error.strerror}: {error.filename}")
        return []
    row += "".join(f"{found[name]:10.3f}" for name in ("median_ms", "p99_ms", "cpu_ms"))
    row += "".join(f"{found[name]:10.0f}" for name in ("calls_per_s", "os_threads") if name in found)
    print(row, flush=True)
    return [{"shape": sizes, "condition": condition, "contender": contender} | found]


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the neighbour and the cgroup go, too
    import contenders
    import machine

    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    names = [name for name in CONTENDERS if name != "torch" or not contenders.why_missing(name)]
    given, results = (options.threads, options.calls), []
    columns = f"{'shape':18}{'condition':16}{'contender':16}{'median ms':>10}{'p99 ms':>10}{'CPU ms':>10}"
    print(f"inference, one call every {1e3 * PERIOD:g} ms; CPU: time that all threads burn per call, spinning included")
    print(columns)
    for shape in SHAPES:
        for condition in CONDITIONS:
            for name in names:
                results += show(shape, condition, name, partial(measure, name, shape[1], condition, *given))
    print(f"inference, {CALLERS} Python threads that call at once, each again and again")
    print(f"{columns}{'calls/s':>10}{'threads':>10}")
    for shape in SHAPES:
        for name in names:
            results += show(shape, f"{CALLERS} callers", name, partial(measure_at_once, name, shape[1], *given))
    write_json(options.json, {"machine": facts, "threads": options.threads, "quota_cpus": QUOTA, "results": results})


if __name__ == "__main__":
    run_main(main)
