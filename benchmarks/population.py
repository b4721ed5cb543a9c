"""population: moments of a file and of computed chunks, in one process and by Dask on 1 to N worker processes."""

import argparse
import contextlib
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cbn
import machine
import timing
from common import Progress, UserError, add_json_option, check, run_main, write_json

SAMPLE = (64, 56, 56)  # of float32, 0.8 MB
CHUNK = 80  # samples in a computed chunk: as many bytes as a block of a file has


@dataclass
class Data:
    """What is counted, and the calls that count it, by name; the first one is the limit, the second one process."""

    name: str
    nbytes: int
    calls: dict


def of_file(path, samples, clients):
    """A file of NumPy that the page cache holds, if memory allows: the disk is not measured."""
    from cbn.interop import dask as on_dask

    rng, shape = np.random.default_rng(0), (samples, *SAMPLE)
    x = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, samples, CHUNK):
        x[start : start + CHUNK] = rng.standard_normal((min(CHUNK, samples - start), *SAMPLE), np.float32)
    x = np.load(path, mmap_mode="r")
    calls = {
        "limit: NumPy's sum": lambda: [np.add.reduce(x[i : i + CHUNK], axis=None) for i in range(0, samples, CHUNK)],
        "population_moments": lambda: cbn.population_moments(x, progress=False),
        "the same, 1 thread": on_one_thread(lambda: cbn.population_moments(x, progress=False)),
        "cbn.moments": lambda: cbn.moments(x),
    }
    for number, client in clients.items():
        calls[f"Dask, workers: {number}"] = by(client, lambda: on_dask.moments(x, progress=False))
    return Data("file", x.nbytes, calls)


def of_chunks(samples, clients):
    """Random values, which cost more to make than to count."""
    import dask
    import dask.array

    from cbn.interop import dask as on_dask

    x = dask.array.random.default_rng(0).standard_normal((samples, *SAMPLE), chunks=(CHUNK, *SAMPLE), dtype=np.float32)
    chunks = x.to_delayed().ravel()

    def computed():
        return (chunk.compute(scheduler="synchronous") for chunk in chunks)

    calls = {
        "limit: made, not counted": lambda: sum(1 for _ in computed()),
        "population_moments": lambda: cbn.population_moments(computed(), progress=False),
    }
    for number, client in clients.items():
        calls[f"Dask, workers: {number}"] = by(client, lambda: on_dask.moments(x, progress=False))
    most, client = max(clients.items())
    both = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    calls[f"mean, var of Dask: {most}"] = by(client, lambda: dask.compute(*both))
    return Data("computed", x.nbytes, calls)


def on_one_thread(call):
    def limited():
        with cbn.num_threads(1):
            call()

    return limited


def by(client, call):
    def computed():
        with client.as_current():
            call()

    return computed


def clusters(stack, numbers):
    """A client for each number of workers, of one thread each."""
    for name in ("dask", "distributed"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} must be installed (pip install '.[dask]'); got no such module")
    from distributed import Client, LocalCluster

    def cluster(number):
        options = {"n_workers": number, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        return stack.enter_context(Client(stack.enter_context(LocalCluster(**options))))

    return {number: cluster(number) for number in numbers}


def rows(data, repeats):
    samples = timing.measure(data.calls, repeats)
    limit, one = list(samples.values())[:2]
    for name, taken in samples.items():
        yield {
            "data": data.name,
            "bytes": data.nbytes,
            "contender": name,
            "seconds": taken.summary(),
            "gigabytes_per_second": data.nbytes / taken.median / 1e9,
            "over_limit": timing.ratio(taken, limit),
            "population_moments_over": timing.ratio(one, taken),
        }


def line(row):
    ms, rate = 1e3 * row["seconds"]["median"], row["gigabytes_per_second"]
    return (
        f"{row['data']:10}{row['contender']:26}{ms:10.1f}{rate:8.2f}{row['over_limit']:9.2f}"
        f"{row['population_moments_over']:9.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cpus, help="the most; 1, 2, 4 and so on are measured, too")
    parser.add_argument("--megabytes", type=int, default=1024, help="of each data set")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the file is made for the time of the run")
    parser.add_argument(
        "--quick", action="store_true", help="small data, once, to see that it runs; its times mean nothing"
    )
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    if options.folder and not os.access(options.folder, os.W_OK):
        raise UserError(f"--folder must be a folder that can be written to; got {options.folder}")
    samples = 8 if options.quick else max(1, (options.megabytes << 20) // (4 * int(np.prod(SAMPLE))))
    numbers = sorted({2**i for i in range(options.workers.bit_length())} | {options.workers})
    facts, results = machine.machine(), []
    print(machine.headline(facts, cbn.get_num_threads()))
    print(f"{'data':10}{'contender':26}{'ms':>10}{'GB/s':>8}{'xlimit':>9}{'xone':>9}", flush=True)
    progress = Progress([1, 2])
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        clients = clusters(stack, numbers)
        makers = (lambda: of_file(Path(folder, "x.npy"), samples, clients), lambda: of_chunks(samples, clients))
        for made in makers:
            for row in rows(made(), 1 if options.quick else options.repeats):
                results.append(row)
                print(line(row), flush=True)
            progress.step()
    write_json(options.json, {"machine": facts, "threads": cbn.get_num_threads(), "rows": results})


if __name__ == "__main__":
    run_main(main)
