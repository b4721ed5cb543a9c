"""sweep: time against the size of the array, from 1 KB to 1 GB, and against the number of threads."""

import argparse
import math
from pathlib import Path

import cbn
import contenders
import limit
import machine
import plots
import timing
from common import Progress, UserError, add_json_option, add_plots_option, check, run_main, write_json
from problem import Problem
from rows import Row
from run import choose_peers, measure_all

# Images and feature maps of one to 320 samples, no two sides a power of two apart.
SIZES = [
    *[(1, 16, 4, 4), (1, 16, 7, 7), (1, 64, 7, 7), (1, 64, 14, 14), (1, 64, 28, 28), (1, 64, 56, 56)],
    *[(1, 64, 112, 112), (4, 64, 112, 112), (16, 64, 112, 112), (32, 64, 112, 112), (128, 64, 112, 112)],
    (320, 64, 112, 112),
]
# Arrays as large as x that are alive at a time: x, dy, out, oneDNN's blocked three, two results, two temporary ones.
ARRAYS = 10
THREAD_ROWS = [
    Row("resnet50-batch1", (1, 64, 28, 28)),  # just below the size from which cbn uses a second thread
    Row("resnet50-batch1", (1, 64, 56, 56)),
    Row("mlp", (256, 1024), "NC"),
    Row("resnet50", (32, 2048, 7, 7)),
    Row("images", (16, 3, 224, 224), "NHWC"),
    Row("resnet50", (32, 256, 56, 56)),
    Row("resnet50", (32, 256, 56, 56), "NHWC"),
]
SLOWER = 1.1  # the most that a call with more threads may take, in units of its time on one


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["size", "threads"])
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads(), help="of all, or the most (%(default)s)")
    parser.add_argument("--layout", choices=["NCHW", "NHWC"], default="NCHW", help="for size (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="samples of each contender (%(default)s)")
    add_json_option(parser)
    add_plots_option(parser)
    options = parser.parse_args()
    check(options)
    return options


def available_memory():
    """Bytes that can be taken without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise UserError("/proc/meminfo must tell MemAvailable; it does not")


def sweep_size(options):
    """The table of `run.py` for one array after the other, as far as memory goes."""
    memory = available_memory()
    rows = [Row("size", shape, options.layout) for shape in SIZES]
    fitting = [row for row in rows if 4 * math.prod(row.shape) * ARRAYS < memory]
    for row in rows[len(fitting) :]:
        print(f"without {row.name}: needs {4 * math.prod(row.shape) * ARRAYS / 1e9:.1f} GB of memory")
    options.operations, options.numpy_arrays = contenders.OPERATIONS, False
    results = measure_all(fitting, options, choose_peers(None, ("torch", "onednn")))
    if options.plots:
        plots.against_size(results, options.plots)
    return results


def teams(most):
    """Numbers of threads to try: all up to 8, then powers of two, and the most."""
    return sorted({n for n in range(1, most + 1) if n <= 8 or n & (n - 1) == 0} | {most})


def calls_on(problem, operation, threads):
    """The calls of cbn, the limit and torch that use so many threads, by name."""
    problem.threads = threads
    calls = {"cbn": contenders.cbn_contenders(problem, operation)["cbn"].run}
    calls |= {name: call for name, call in limit.calls(problem, operation).items() if not name.endswith("/1")}
    if not contenders.why_missing("torch"):
        import torch

        run = next(iter(contenders.torch_contenders(problem, operation).values())).run
        calls["torch"] = lambda: (torch.set_num_threads(threads), run())
    return calls


def measure_threads(problem, operation, numbers, repeats):
    """Median seconds, and their factors over one thread, by contender and number of threads."""
    calls = {(name, n): call for n in numbers for name, call in calls_on(problem, operation, n).items()}
    # neighbours in time are the same contender with other numbers of threads
    samples = timing.measure(dict(sorted(calls.items())), repeats)
    fastest = {}
    for (name, n), s in sorted(samples.items(), key=lambda item: -item[1].median):
        fastest[name.split()[0], n] = s  # the limit's variants count as one
    families = [name for name in ("cbn", "limit", "torch") if (name, 1) in fastest]
    return {
        "row": problem.row.name,
        "operation": operation,
        "threads": numbers,
        "seconds": {name: {n: fastest[name, n].median for n in numbers} for name in families},
        "over_one_thread": {
            name: {n: timing.ratio(fastest[name, n], fastest[name, 1]) for n in numbers} for name in families
        },
    }


def slower(result, name):
    """Whether more threads make a contender slower than one."""
    return max(result["over_one_thread"][name].values()) > SLOWER


def sweep_threads(options):
    """A line for each row and operation: milliseconds by number of threads, and whether more threads were slower."""
    numbers = teams(options.threads)
    print(f"{'ms by number of threads':61}" + "".join(f"{n:>10}" for n in numbers))
    progress = Progress([1] * len(THREAD_ROWS))
    results = []
    for row in THREAD_ROWS:
        problem = Problem(row, options.threads)
        for operation in contenders.OPERATIONS:
            result = measure_threads(problem, operation, numbers, options.repeats)
            results.append(result)
            for name, times in result["seconds"].items():
                verdict = "  SLOWER with more threads" if slower(result, name) else ""
                cells = "".join(f"{1e3 * t:10.4g}" for t in times.values())
                print(f"{row.name:43}{operation:11}{name:7}{cells}{verdict}", flush=True)
        progress.step()
    count = sum(slower(result, "cbn") for result in results)
    print(f"cbn took over {SLOWER - 1:.0%} longer with more threads than with one in {count} of {len(results)} cases")
    if options.plots:
        plots.against_threads(results, options.plots)
    return results


def main():
    options = parse()
    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    results = (sweep_size if options.kind == "size" else sweep_threads)(options)
    write_json(options.json, {"machine": facts, "kind": options.kind, "threads": options.threads, "results": results})


if __name__ == "__main__":
    run_main(main)
