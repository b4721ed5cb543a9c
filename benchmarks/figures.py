"""figures: the tables of README and docs, made of the results/: cog puts them there. As a script, the plot of README.

    cog -r -I benchmarks README.md docs/*.md          # after new results; --check in place of -r only compares
    python benchmarks/figures.py docs/images/speed.svg

A result is the newest of its name.
"""

import functools
import json
import sys
import textwrap
from pathlib import Path

import contenders
from report import TARGETS, geometric_mean
from rows import RESNET50

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "cbn": "cbn",
    "onednn": "oneDNN",
    "onnxruntime": "ONNX Runtime",
    "torch": "PyTorch",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "numpy": "NumPy",
    "scikit-learn": "scikit-learn",
}


@functools.cache
def result(name):
    """The newest result of this name."""
    return json.loads(newest(name).read_text())


def newest(name):
    return max(RESULTS.glob(f"*/{name}.json"))


def table(header, rows, text=1):
    """Markdown; the first columns are text, the others numbers, flush right."""
    rule = ["---"] * text + ["---:"] * (len(header) - text)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


def circumstances(name, *libraries):
    """When and on which machine a result was measured, with which versions of others, in words."""
    machine = result(name)["machine"]
    cpu = f"{machine['cpu'].replace('(R)', '')}, {machine['isa'].upper().replace('AVX', 'AVX-')}"
    others = "".join(f", {NAMES[one]} {machine['versions'][one].partition('+')[0]}" for one in libraries)
    cpus = f"{machine['num_threads']} threads on {machine['cpus_by_affinity']} CPUs"
    return textwrap.fill(f"({machine['date'][:10]}, {cpus}, {cpu}{others})", 120)


# --- run.py: README and performance ---


def resnet50(operation, layout, name="run"):
    """cbn's time over the limit's, and each peer's over cbn's: geometric means over ResNet-50's four shapes.

    Of a peer the fastest variant counts.
    """
    some = {
        tuple(r["shape"]): r
        for r in result(name)["results"]
        if (r["operation"], r["layout"], r["dtype"], r["source"]) == (operation, layout, "float32", "resnet50")
    }
    some = [some[shape] for shape in RESNET50]
    factors = {}
    for peer, description in contenders.PEERS.items():
        found = [[r["factors"][v] for v in description.names if v in r["factors"]] for r in some]
        if all(found):
            factors[peer] = geometric_mean([min(variants) for variants in found])
    return geometric_mean([r["over_limit"] for r in some]), factors


def against_peers():
    """cbn's speed as a share of the limit's, and the peers' times over cbn's."""
    found = {key: resnet50(*key) for key in TARGETS}
    peers = [name for name in NAMES if any(name in factors for _, factors in found.values())]
    rows = []
    for (operation, layout), (over_limit, factors) in found.items():
        cells = [f"{factors[name]:.1f} x" if name in factors else "-" for name in peers]
        rows.append([f"{operation}, {layout}", f"{1 / over_limit:.0%}", *cells])
    return table(["", "cbn, of a copy's speed", *(NAMES[name] for name in peers)], rows)


def contract():
    """cbn's time over the limit's, beside DESIGN's targets."""
    rows = []
    for key, (all_threads, one) in TARGETS.items():
        first, again, alone, other = (
            resnet50(*key, name)[0] for name in ("run", "run-again", "run-1-thread", "run-other-host")
        )
        cells = [f"{all_threads:.2f}", f"{first:.2f}, {again:.2f}", f"{alone:.2f} ({one:.2f})", f"{other:.2f}"]
        rows.append([*key, *cells])
    header = ["operation", "layout", "target", "2 threads, two runs", "1 thread (target)", "2 threads, another host"]
    return table(header, rows, text=2)


def draw(path):
    """README's plot: the speed of each system, as a share of the limit's."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    from plots import COLORS

    rcParams["svg.fonttype"], rcParams["svg.hashsalt"] = "none", "cbn"
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, operation in zip(figure.subplots(1, 3, sharex=True), contenders.OPERATIONS, strict=True):
        over_limit, factors = resnet50(operation, "NCHW")
        shares = {"cbn": 1 / over_limit} | {name: 1 / over_limit / factor for name, factor in factors.items()}
        names = sorted(shares, key=shares.get)
        axes.barh([NAMES[name] for name in names], [shares[name] for name in names], color=[COLORS[n] for n in names])
        axes.axvline(1, color="black", linewidth=1)
        axes.set(title=operation, xlim=(0, 1.1), xticks=[0, 0.5, 1], xticklabels=["0", "50 %", "100 %"])
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("speed, as a share of a copy's (for backward: of an addition's)", fontsize="medium")
    figure.savefig(path, metadata={"Date": None} if str(path).endswith("svg") else {})


# --- variants.py: performance ---

OPTIONS = {
    "relu": ("forward", "inference", "backward"),
    "leaky_relu": ("backward",),
    "residual, relu": ("forward", "inference", "backward"),
    "mask, scattered": ("forward", "backward"),
    "sample_weight": ("forward", "backward"),
    "float16": ("forward", "inference", "backward"),
    "bfloat16": ("forward", "inference", "backward"),
    "double backward": ("backward",),
}


def options():
    """What options cost, over the plain call, for a small and a large array."""
    found = {}
    for name in ("variants", "variants_large"):
        for row in result(name)["rows"]:
            found[name, row["layout"], row["variant"], row["operation"]] = row
    rows = []
    for variant, operations in OPTIONS.items():
        for operation in operations:
            cells, traffic = [], 0
            for layout in ("NCHW", "NHWC"):
                both = [found[name, layout, variant, operation] for name in ("variants", "variants_large")]
                cells.append(", ".join(f"{row['over_plain']:.2f}" for row in both))
                traffic = both[0]["traffic_over_plain"]
            rows.append([variant if operation == operations[0] else "", f"{operation} [{traffic:.2f}]", *cells])
    return table(["option", "operation", "NCHW 26 MB, 205 MB", "NHWC 26 MB, 205 MB"], rows, text=2)


if __name__ == "__main__":
    draw(sys.argv[1])
