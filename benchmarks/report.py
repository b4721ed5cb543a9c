"""report: one row's results as plain values, the table's lines, and the verdict on the speed contract."""

import math

import contenders
import timing
from rows import RESNET50

# DESIGN's targets: cbn's time over the limit's, geometric mean over RESNET50, float32: with all threads, with one.
TARGETS = {
    ("forward", "NCHW"): (1.25, 1.5),
    ("forward", "NHWC"): (1.8, 1.8),
    ("backward", "NCHW"): (1.25, 1.5),
    ("backward", "NHWC"): (2.0, 2.0),
    ("inference", "NCHW"): (1.05, 1.05),
    ("inference", "NHWC"): (1.05, 1.05),
}
NOTES = """\
Medians of samples taken in turns. GB/s: cbn, counting x and y; for backward dy, x and dx. limit: the fastest streaming
copy (backward: add) of the same arrays, with its variant; "/1" is on one thread. xlimit: cbn's time / the limit's.
Other factors: contender's time / cbn's, so below 1 the contender is faster. ~: it is inaccurate, wrong: it does not
compute the same, and was not timed. !: other processes were using that many CPUs, so the times are worth less."""
# DESIGN's limit for any one shape of training in NCHW.
WORST = 1.6
# CPUs that other processes may use before a result is marked.
QUIET = 0.2


def row_result(problem, operation, samples, found, errors, others):
    """Everything that was measured of one row and operation, as a dict of plain values."""
    row, own = problem.row, samples["cbn"]
    limit = min((name for name in samples if name.startswith("limit ")), key=lambda name: samples[name].median)
    peers = [name for name in found if name in samples and name != "cbn"]
    factors = {name: timing.ratio(samples[name], own) for name in peers}
    best = min(factors, key=factors.get, default=None)
    return {
        "row": row.name,
        "source": row.source,
        "shape": list(row.shape),
        "layout": row.layout,
        "dtype": row.dtype,
        "operation": operation,
        "threads": problem.threads,
        "bytes_of_x": problem.x.nbytes,
        "necessary_bytes": contenders.NECESSARY_ARRAYS[operation] * problem.x.nbytes,
        "gigabytes_per_second": contenders.NECESSARY_ARRAYS[operation] * problem.x.nbytes / own.median / 1e9,
        "limit": limit,
        "over_limit": timing.ratio(own, samples[limit]),
        "factors": factors,
        "best_peer": best,
        "beats_best_peer": best and factors[best] > 1,
        "seconds": {name: s.summary() for name, s in samples.items()},
        "details": {name: found[name].detail for name in peers if found[name].detail},
        "errors": errors,
        "cpus_used_by_others": others,
    }


# --- the table ---


class Table:
    """Prints a line for each result as it comes, with a column for each of the named contenders."""

    def __init__(self, names):
        self.names = names
        self.widths = [max(len(name), 6) for name in names]

    def header(self):
        peers = "".join(f"  {name:>{width}}" for name, width in zip(self.names, self.widths, strict=True))
        return (
            f"{'row':46}{'operation':10}{'limit ms':>10} {'variant':10}{'cbn ms':>8}{'GB/s':>7}{'xlimit':>8}"
            f"  {'against the best peer':30}{peers}"
        )

    def line(self, result):
        seconds = {name: s["median"] * 1e3 for name, s in result["seconds"].items()}
        cells = [
            f"{result['row']:46}{result['operation']:10}{seconds[result['limit']]:10.4g} ",
            f"{result['limit'].removeprefix('limit '):10}{seconds['cbn']:8.4g}",
            f"{result['gigabytes_per_second']:7.1f}{result['over_limit']:8.2f}  {self.verdict(result):30}",
        ]
        for name, width in zip(self.names, self.widths, strict=True):
            cells.append(f"  {self.factor(result, name):>{width}}")
        if result["cpus_used_by_others"] > QUIET:
            cells.append(f"  ! {result['cpus_used_by_others']:.1f}")
        return "".join(cells).rstrip()

    @staticmethod
    def verdict(result):
        best = result["best_peer"]
        if best is None:
            return "-"
        return f"{'won ' if result['beats_best_peer'] else 'LOST'} {result['factors'][best]:6.2f} {best}"

    @staticmethod
    def factor(result, name):
        if name in result["factors"]:
            return f"{'~' if name in result['errors'] else ''}{result['factors'][name]:.2f}"
        return result["errors"].get(name, "-").partition(":")[0]


# --- after the last row ---


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def contract(results, threads):
    """A dict for each of DESIGN's targets of which all shapes were measured."""
    verdicts = []
    for (operation, layout), (target_all, target_one) in TARGETS.items():
        found = {
            tuple(r["shape"]): r
            for r in results
            if (r["operation"], r["layout"], r["dtype"]) == (operation, layout, "float32")
        }
        if not all(shape in found for shape in RESNET50):
            continue
        some = [found[shape] for shape in RESNET50]
        mean, worst = geometric_mean([r["over_limit"] for r in some]), max(r["over_limit"] for r in some)
        target = target_one if threads == 1 else target_all
        single = WORST if layout == "NCHW" and operation != "inference" else None
        verdicts.append(
            {
                "operation": operation,
                "layout": layout,
                "over_limit": mean,
                "target": target,
                "met": mean <= target,
                "worst": worst,
                "worst_met": worst <= single if single else None,
                "lost_to_a_peer": [r["row"] for r in some if r["best_peer"] and not r["beats_best_peer"]],
            }
        )
    return verdicts


def print_contract(verdicts, threads):
    print(f"\nSpeed contract: cbn / limit, geometric mean over ResNet-50's four shapes, float32, threads: {threads}")
    for v in verdicts:
        met = "met   " if v["met"] else "MISSED"
        worst = {True: f" of {WORST:.2f} met", False: f" of {WORST:.2f} MISSED", None: ""}[v["worst_met"]]
        print(
            f"  {v['operation']:10}{v['layout']:6}{v['over_limit']:6.2f}  target {v['target']:.2f}  {met}"
            f"  worst shape {v['worst']:.2f}{worst}"
        )
        for row in v["lost_to_a_peer"]:
            print(f"    a peer was faster on {row}")
    if len(verdicts) < len(TARGETS):
        print(f"  {len(TARGETS) - len(verdicts)} targets not judged, since not all of their shapes were measured")


def print_peers(results):
    """How often cbn was faster than each contender, and by how much in the geometric mean."""
    print("\nAll rows: contender's time / cbn's, geometric mean, and how often cbn was faster")
    names = list(dict.fromkeys(name for r in results for name in r["factors"]))
    for operation in contenders.OPERATIONS:
        for name in names:
            factors = [r["factors"][name] for r in results if r["operation"] == operation and name in r["factors"]]
            if factors:
                wins = sum(factor > 1 for factor in factors)
                print(f"  {operation:10}{name:14}{geometric_mean(factors):7.2f}   {wins} of {len(factors)}")
    judged = [r for r in results if r["best_peer"]]
    if judged:
        wins = sum(r["beats_best_peer"] for r in judged)
        print(f"  cbn was faster than the best peer in {wins} of {len(judged)}")
