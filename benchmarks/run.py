"""run: cbn, the limit of the memory and the peers on many shapes, interleaved in one process with as many threads."""

import argparse
import math

import cbn  # before torch, which is imported when used: so its OpenMP runtime, which spins briefly, is everyone's
import contenders
import limit
import machine
import plots
import report
import timing
from common import Progress, UserError, add_json_option, add_plots_option, check, run_main, write_json
from problem import NUMPY_OFFSET, Problem
from rows import QUICK, ROWS, select


def parse():
    parser = argparse.ArgumentParser(description=__doc__, epilog="benchmarks/README.md says how to read the table.")
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads(), help="of every contender (%(default)s)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT", help="those with this in their name")
    parser.add_argument("--operations", nargs="+", choices=contenders.OPERATIONS, default=contenders.OPERATIONS)
    parser.add_argument("--peers", nargs="*", choices=contenders.PEERS, help="default: all that are installed")
    parser.add_argument("--repeats", type=int, help="samples of each contender (25)")
    parser.add_argument("--numpy-arrays", action="store_true", help="arrays that start 16 bytes off a cache line")
    parser.add_argument("--quick", action="store_true", help="four small rows and 3 repeats")
    add_json_option(parser)
    add_plots_option(parser)
    options = parser.parse_args()
    check(options)
    options.operations = [operation for operation in contenders.OPERATIONS if operation in options.operations]
    options.repeats = options.repeats or (3 if options.quick else 25)
    options.rows = select(QUICK if options.quick else ROWS, options.rows)
    return options


def choose_peers(wanted, default=tuple(contenders.PEERS)):
    """The peers that can take part. A missing one is told of, and an error if it was asked for by name."""
    chosen = default if wanted is None else [peer for peer in contenders.PEERS if peer in wanted]
    missing = {peer: why for peer in chosen if (why := contenders.why_missing(peer))}
    if wanted and missing:
        raise UserError(
            "; ".join(f"--peers must be able to take part; got {peer}: {why}" for peer, why in missing.items())
        )
    for peer, why in missing.items():
        print(f"without {peer}: {why}")
    return [peer for peer in chosen if peer not in missing]


def measure(problem, operation, peers, repeats):
    """Time the limit and those contenders that compute what cbn does; see `report.row_result`."""
    found, errors = contenders.build(problem, operation, peers)
    calls = {name: contender.run for name, contender in found.items()} | limit.calls(problem, operation)
    neighbours = machine.Neighbours()
    samples = timing.measure(calls, repeats)
    return report.row_result(problem, operation, samples, found, errors, neighbours.cpus())


def measure_all(rows, options, peers):
    """Measure each row and operation, and print each result as it comes. Returns the list of results."""
    table = report.Table([name for peer in peers for name in contenders.PEERS[peer].names])
    print(table.header())
    progress = Progress(math.prod(row.shape) + 5_000_000 for row in rows)  # small rows take their time, too
    results = []
    for row in rows:
        problem = Problem(row, options.threads, NUMPY_OFFSET if options.numpy_arrays else 0)
        for operation in options.operations:
            result = measure(problem, operation, peers, options.repeats)
            results.append(result)
            print(table.line(result), flush=True)
            for name, error in result["errors"].items():
                print(f"  {name}: {error}")
        progress.step()
    print(report.NOTES)
    nothing = timing.measure({"": limit.call_of_nothing()}, options.repeats)[""]
    print(f"A call of the limit takes {1e6 * nothing.median:.2f} us besides the work.")
    return results


def main():
    options = parse()
    peers = choose_peers(options.peers)
    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    results = measure_all(options.rows, options, peers)
    verdicts = report.contract(results, options.threads)
    report.print_contract(verdicts, options.threads)
    report.print_peers(results)
    settings = {"threads": options.threads, "repeats": options.repeats, "numpy_arrays": options.numpy_arrays}
    facts["openmp_runtimes"] = machine.openmp_runtimes()  # now, since torch brings one
    write_json(options.json, {"machine": facts} | settings | {"contract": verdicts, "results": results})
    if options.plots:
        plots.bars(results, options.plots)


if __name__ == "__main__":
    run_main(main)
