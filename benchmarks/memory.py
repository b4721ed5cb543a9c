"""memory: what steady-state calls with out= allocate, by tracemalloc and by the size of the process."""

import argparse
import tracemalloc
from pathlib import Path

import cbn
import contenders
import machine
from common import UserError, add_json_option, check, run_main, write_json
from problem import Problem
from rows import Row

CALLS = 200
# Two sizes, so that what grows with x shows.
ROWS = [
    Row("memory", (8, 64, 56, 56)),
    Row("memory", (32, 64, 56, 56)),
    Row("memory", (32, 64, 56, 56), "NHWC"),
    Row("memory", (256, 4096), "NC"),  # many channels of few values
]


def memory_of_process(field):
    """Bytes that the process has in memory now (VmRSS), or had at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise UserError(f"/proc/self/status must tell {field}; it does not")


def measure(call):
    """The peak of what Python's and NumPy's allocators give out in steady state, and the growth of the process.

    The process's peak also shows what C code takes for a moment and gives back.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory_of_process("VmRSS")
    for _ in range(CALLS):
        call()
    peak = memory_of_process("VmHWM") - before
    growth = memory_of_process("VmRSS") - before
    tracemalloc.start()
    call()
    tracemalloc.reset_peak()
    traced = tracemalloc.get_traced_memory()[0]
    for _ in range(CALLS):
        call()
    traced_peak = tracemalloc.get_traced_memory()[1] - traced
    tracemalloc.stop()
    return {"traced_peak": traced_peak, "peak_of_process": peak, "growth_of_process": growth}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads(), help="(%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    print(f"{CALLS} calls of cbn with out=; bytes by tracemalloc, and bytes by which the process grew")
    print(f"{'row':38}{'operation':11}{'of x':>11}{'tracemalloc':>13}{'at most':>10}{'at the end':>12}")
    results = []
    for row in ROWS:
        problem = Problem(row, options.threads)
        for operation in contenders.OPERATIONS:
            found = measure(contenders.cbn_contenders(problem, operation)["cbn"].run)
            results.append({"row": row.name, "operation": operation, "bytes_of_x": problem.x.nbytes} | found)
            traced, peak, growth = found.values()
            print(f"{row.name:38}{operation:11}{problem.x.nbytes:11}{traced:13}{peak:10}{growth:12}", flush=True)
    write_json(options.json, {"machine": facts, "threads": options.threads, "results": results})


if __name__ == "__main__":
    run_main(main)
