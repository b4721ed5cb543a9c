"""machine_command: `python -m cbn config`, `check` and `bench`, and all of them: what cbn does on this machine."""

import os
import sys
from pathlib import Path

import numpy as np

from . import comparison, plots, runtime, selfcheck
from .console import Progress, is_terminal, print_table, say
from .files import UserError, check_reports, read_array, write_json

__all__ = ["COMMANDS", "STATUS", "add_options", "run"]

STATUS = "1 if a result is wrong, "
# what each is, in a line; more of it; an example; what its plot shows; which status it may have beside 0 and 2
COMMANDS = {
    "check": (
        "results against the oracle",
        "Run each layout in each dtype through all operations, with every instruction\n"
        "set, and hold the results against the oracle, cbn.reference: errors must lie\n"
        "within their bounds, and bits must be the same with 1, 2 and 3 threads.",
        "--quick --plot errors.png",
        "all errors and their bounds",
        STATUS,
    ),
    "bench": (
        "speed beside that of others",
        "Time training, backward and inference, beside a copy of the memory, a few lines\n"
        "of NumPy, the oracle, and torch and ONNX Runtime where they are installed.",
        "--plot speed.png",
        "the comparison",
        STATUS,
    ),
    "config": (
        "what was detected",
        "Show the versions, the CPU, its instruction sets, OpenMP, and the number of\nthreads that calls will use.",
        "--json machine.json",
        None,
        "",
    ),
}
CHECKED = ("forward", "backward", "running", "inference", "fused", "masked")
CHECK_NOTES = """\
A cell is error / bound in ulp, of the quantity of the operation that came nearest to its bound with any instruction
set: y, the statistics, dx, dweight, dbias, the running statistics. Fused: all of them with a residual and leaky_relu;
masked: with a fifth of the positions left out. Bits: y, dx and the channels' statistics and gradients from every
instruction set with 1, 2 and 3 threads, plain and with all of that at once."""
BENCH_NOTES = """\
Medians of samples taken in turns, with output arrays given. GB/s: x read and y written; backward dy and x read, dx
written. Copy: np.copyto of x, split over the same threads or in one call, whichever is faster; the percentage is of
its GB/s. numpy: a few lines of NumPy in x's dtype. oracle: cbn.reference. Factors: contender's time / cbn's.
! after a time: the result is off by more than 1e-4 of its largest value."""


def add_options(parser, drawn):
    """Those for arrays, of what has a plot."""
    parser.set_defaults(input=None, axis=None, quick=False, plot=None)
    if not drawn:
        return
    parser.add_argument(
        "--input",
        metavar="FILE.npy",
        type=Path,
        help="take this array of yours: float16, float32 or float64, rank 2 or more (default: generated arrays)",
    )
    parser.add_argument("--axis", type=int, help="the channel axis of --input (default: 1)")
    parser.add_argument("--quick", action="store_true", help="take smaller arrays")


def read_input(path, axis):
    """The user's array and its channel axis."""
    x = read_array(path, "--input")
    if x.dtype.type not in (np.float16, np.float32, np.float64):
        raise UserError(f"--input must have dtype float16, float32 or float64; got {x.dtype}")
    if x.ndim < 2:
        raise UserError(f"--input must have rank 2 or more; got shape {x.shape}")
    axis = 1 if axis is None else axis
    if not -x.ndim <= axis < x.ndim:
        raise UserError(f"--axis must lie between {-x.ndim} and {x.ndim - 1} for rank {x.ndim}; got {axis}")
    if x.size < 2 * max(1, x.shape[axis]):
        raise UserError(f"--input must have 2 or more values per channel of axis {axis}; got shape {x.shape}")
    return x.astype(x.dtype.newbyteorder("="), copy=False), axis


# --- printing ---


def print_config():
    if is_terminal(sys.stdout):
        print_table(["what", "detected"], runtime.config_rows(), left=2)
    else:
        runtime.show_config()


def print_check(rows):
    say(f"Self-check against the oracle, with {', '.join(runtime.available_isas())}", "bold")
    table = []
    for row in rows:
        worst = (row["worst"][operation] for operation in CHECKED)
        cells = [f"{entry['ulp']:.2g} / {entry['bound']:.2g}" for entry in worst]
        agreement = "same" if row["same_bits"] else "DIFFER"
        table.append([row["layout"], row["dtype"], *cells, agreement, "ok" if row["ok"] else "FAILED"])
    print_table(["layout", "dtype", *CHECKED, "bits", "result"], table, left=2)
    for row in rows:
        where = f"FAILED: {row['layout']} {row['dtype']}:"
        for f in row["failures"]:
            error = f"{f['ulp']:.3g} ulp, bound {f['bound']:.3g}"
            say(f"{where} {f['operation']} {f['quantity']} with {f['isa']}: {error}", "red")
        for d in row["different_bits"]:
            say(f"{where} other bits with {d['isa']} and {d['threads']} threads", "red")
    print(CHECK_NOTES)
    if "bfloat16" not in {str(dtype) for dtype in selfcheck.dtypes()}:
        print("bfloat16 was not checked: its arrays need ml_dtypes (pip install ml_dtypes)")
    same = all(row["same_bits"] for row in rows)
    print("Same bits for all instruction sets and numbers of threads:", "yes" if same else "NO")
    good = sum(row["ok"] for row in rows)
    say(f"Self-check: {good} of {len(rows)} ok", "bold green" if good == len(rows) else "bold red")


def print_comparison(rows, load):
    rivals = list(dict.fromkeys(name for row in rows for name in row["speedup"] if name != "copy"))
    say(f"Comparison, {rows[0]['threads']} threads, times in ms; load average before it: {load:.2f}", "bold")
    table = []
    for row in rows:
        milliseconds = {
            name: f"{1e3 * t:.3g}{'' if row['agrees'].get(name, True) else ' !'}" for name, t in row["seconds"].items()
        }
        cells = [
            comparison.shape_text(row),
            row["layout"],
            row["dtype"],
            row["operation"],
            milliseconds["cbn"],
            f"{row['gigabytes_per_second']:.1f}",
            f"{row['share_of_copy']:.0%}",
        ]
        for name in rivals:  # one cell, so that its parts stay together
            factor = f"{row['speedup'][name]:.3g}x" if name in milliseconds else "-"
            cells.append(f"{milliseconds.get(name, '-')}  {factor:>6}")
        table.append(cells)
    header = ["shape", "layout", "dtype", "operation", "cbn", "GB/s", "of copy"]
    print_table([*header, *(f"{name}  factor" for name in rivals)], table, left=4)
    print(BENCH_NOTES)
    if not all(row["ok"] for row in rows):
        say("FAILED: results of cbn marked with ! differ from the oracle", "bold red")


# --- the parts in turn ---


def check(given, quick):
    """The rows of the self-check."""
    problems = [(given[0], given[2], lambda: given[1])] if given else selfcheck.problems(quick)
    with Progress("checking", len(problems)) as progress:
        rows = []
        for name, axis, make in problems:
            x = make()
            progress(f"{name} {x.dtype}")
            rows.append(selfcheck.check_one(name, x, axis))
    return rows


def bench(given, quick):
    """The rows of the comparison."""
    problems = [lambda: comparison.Problem(*given)] if given else comparison.problems(quick)
    with Progress("comparing", len(problems) * len(comparison.OPERATIONS)) as progress:
        return [row for make in problems for row in comparison.compare(make(), progress)]


def run(options):
    """Do what was asked for, and print it; return the exit status: 1 unless all is as it must be."""
    if options.axis is not None and not options.input:
        raise UserError("--axis must come with --input; got it alone")
    check_reports(options, [options.input])
    given = None if options.input is None else (options.input.name, *read_input(options.input, options.axis))
    part, results = options.command, {"config": runtime.config()}
    if part in (None, "config"):
        print_config()
    if part in (None, "check"):
        rows = results["check"] = check(given, options.quick)
        print(end="" if part else "\n")
        print_check(rows)
    if part in (None, "bench"):
        load = results["load_average"] = os.getloadavg()[0]  # a busy CPU slows calls of several threads down most
        rows = results["comparison"] = bench(given, options.quick)
        print(end="" if part else "\n")
        print_comparison(rows, load)
    results["ok"] = all(row["ok"] for name in ("check", "comparison") for row in results.get(name, ()))
    if options.json:
        write_json(options.json, results)
    if options.plot:
        plots.save(plots.of_check(rows) if part == "check" else plots.of_comparison(rows), options.plot)
    return 0 if results["ok"] else 1
