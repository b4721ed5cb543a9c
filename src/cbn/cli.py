"""cli: `python -m cbn`: what was detected, the self-check against the oracle, and the comparison of speed."""

import argparse
import importlib.util
import math
import os
import sys
from pathlib import Path

import numpy as np

from . import comparison, explain_command, fold_command, runtime, selfcheck
from .files import UserError, check_target, read_array, write_json
from .progress import Progress

__all__ = ["main"]

COMMANDS = {"explain": explain_command.run, "fold": fold_command.run}
PARTS = ("config", "check", "bench")
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


# --- what the user asks for ---


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m cbn",
        description="Show what cbn detected, check it against its oracle, and compare its speed.",
        epilog="Exit status: 0, 1 if a check failed, 2 for a wrong request. See also `python -m cbn explain "
        "--help` and `python -m cbn fold --help`.",
    )
    names = (*PARTS, *COMMANDS)
    parser.add_argument("part", nargs="?", choices=names, metavar=" | ".join(names), help="only this part")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results there, too")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the comparison (needs matplotlib)")
    parser.add_argument(
        "--input",
        metavar="FILE.npy",
        type=Path,
        help="check and compare with this array of yours: float16, float32 or float64, rank 2 or more",
    )
    parser.add_argument("--axis", type=int, help="the channel axis of --input (default: 1)")
    parser.add_argument("--quick", action="store_true", help="smaller arrays")
    options = parser.parse_args(arguments)
    if options.part in COMMANDS:
        raise UserError(f"{options.part} must come first; got {' '.join(arguments)}")
    if options.plot and options.part not in (None, "bench"):
        raise UserError(f"--plot must come with bench or without a part; got {options.part}")
    if options.input and options.part == "config":
        raise UserError("--input must come with check, bench or without a part; got config")
    if options.axis is not None and not options.input:
        raise UserError("--axis must come with --input; got it alone")
    for name in ("json", "plot"):
        check_target(f"--{name}", getattr(options, name), [options.input])
    if options.plot:
        check_plot(options.plot)
    return options


def check_plot(path):
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot must have matplotlib (pip install 'cbn[plot]'); got no such module")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:] not in kinds:
        raise UserError(f"--plot must end in one of {', '.join(sorted(kinds))}; got {path}")


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


def print_table(header, rows, left):
    """Columns as wide as their widest cell; the first `left` of them flush left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = map(str.ljust, row[:left], widths), map(str.rjust, row[left:], widths[left:])
        print("  ".join([*cells[0], *cells[1]]).rstrip())


def shape_text(row):
    return "x".join(map(str, row["shape"]))


def print_check(rows):
    print(f"Self-check against the oracle, with {', '.join(runtime.available_isas())}")
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
            print(f"{where} {f['operation']} {f['quantity']} with {f['isa']}: {error}")
        for d in row["different_bits"]:
            print(f"{where} other bits with {d['isa']} and {d['threads']} threads")
    print(CHECK_NOTES)
    if "bfloat16" not in {str(dtype) for dtype in selfcheck.dtypes()}:
        print("bfloat16 was not checked: its arrays need ml_dtypes (pip install ml_dtypes)")
    same = all(row["same_bits"] for row in rows)
    print("Same bits for all instruction sets and numbers of threads:", "yes" if same else "NO")
    print(f"Self-check: {sum(row['ok'] for row in rows)} of {len(rows)} ok")


def print_comparison(rows, load):
    rivals = list(dict.fromkeys(name for row in rows for name in row["speedup"] if name != "copy"))
    print(f"Comparison, {rows[0]['threads']} threads, times in ms; load average before it: {load:.2f}")
    table = []
    for row in rows:
        milliseconds = {
            name: f"{1e3 * t:.3g}{'' if row['agrees'].get(name, True) else ' !'}" for name, t in row["seconds"].items()
        }
        cells = [
            shape_text(row),
            row["layout"],
            row["dtype"],
            row["operation"],
            milliseconds["cbn"],
            f"{row['gigabytes_per_second']:.1f}",
            f"{row['share_of_copy']:.0%}",
        ]
        for name in rivals:
            cells += [milliseconds[name], f"{row['speedup'][name]:.3g}x"] if name in milliseconds else ["-", "-"]
        table.append(cells)
    header = ["shape", "layout", "dtype", "operation", "cbn", "GB/s", "of copy"]
    print_table([*header, *(title for name in rivals for title in (name, "factor"))], table, left=4)
    print(BENCH_NOTES)
    if not all(row["ok"] for row in rows):
        print("FAILED: results of cbn marked with ! differ from the oracle")


def draw(rows, path):
    """Grouped bars for each operation: the speed of every contender, in GB/s of necessary traffic, and of the copy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), layout="constrained")
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    for axes, operation in zip(figure.subplots(1, 3, sharey=True), comparison.OPERATIONS, strict=True):
        some = [row for row in rows if row["operation"] == operation]
        for i, name in enumerate(names):
            speeds = [
                row["gigabytes_per_second"] / row["share_of_copy"]
                if name == "copy"
                else row["gigabytes_per_second"] * row["seconds"]["cbn"] / row["seconds"].get(name, math.inf)
                for row in some
            ]
            axes.bar([k + 0.8 * i / len(names) for k in range(len(some))], speeds, 0.8 / len(names), label=name)
        axes.set_xticks([k + 0.4 for k in range(len(some))], [shape_text(row) for row in some], fontsize=8)
        axes.set_title(operation)
    figure.axes[0].set_ylabel("GB/s of necessary traffic")
    figure.axes[0].legend()
    figure.savefig(path)


# --- the parts in turn ---


def run(options, progress):
    """Do what was asked for, print it, and return whether all of it was as it must be."""
    given = None if options.input is None else (options.input.name, *read_input(options.input, options.axis))
    results = {"config": runtime.config()}
    if options.part in (None, "config"):
        runtime.show_config()
    if options.part in (None, "check"):
        rows = results["check"] = []
        for name, x, axis in [given] if given else selfcheck.generated(options.quick):
            progress(f"checking {name} {x.dtype}")
            rows.append(selfcheck.check_one(name, x, axis))
        progress.clear()
        print()
        print_check(rows)
    if options.part in (None, "bench"):
        load = results["load_average"] = os.getloadavg()[0]  # a busy CPU slows calls of several threads down most
        problems = [comparison.Problem(*given)] if given else comparison.cases(options.quick)
        rows = results["comparison"] = [row for problem in problems for row in comparison.compare(problem, progress)]
        progress.clear()
        print()
        print_comparison(rows, load)
        if options.plot:
            draw(rows, options.plot)
    results["ok"] = all(row["ok"] for part in ("check", "comparison") for row in results.get(part, ()))
    if options.json:
        write_json(options.json, results)
    return results["ok"]


def main(arguments=None):
    """Run the command line, and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    progress = Progress()
    try:
        if arguments and arguments[0] in COMMANDS:
            status = COMMANDS[arguments[0]](arguments[1:])
        else:
            status = 0 if run(parse(arguments), progress) else 1
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"cbn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress.clear()
        return 130
    except BrokenPipeError:
        # the reader has left; without this the interpreter would complain when it flushes stdout at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
