"""figures: the tables of README and docs, made of the results/: cog puts them there. As a script, the plot of README.

CONTRIBUTING.md has the commands. A result is the newest of its name.
"""

import functools
import json
import math
import sys
import textwrap
from pathlib import Path
from xml.sax.saxutils import escape

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
    found = sorted(RESULTS.glob(f"*/{name}.json"))
    if not found:
        raise FileNotFoundError(f"results must have {name}.json; got none")
    return found[-1]


def table(header, rows, text=1):
    """Markdown; the first columns are text, the others numbers, flush right."""
    rule = ["---"] * text + ["---:"] * (len(header) - text)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


def circumstances(name, *libraries):
    """When and on which machine a result was measured, with which versions of others, in words."""
    machine = result(name)["machine"]
    known = {package.partition("-cpu")[0]: text.partition("+")[0] for package, text in machine["versions"].items()}
    if "onednn" in libraries:
        known["onednn"] = result(name)["results"][0]["details"]["onednn"].partition(" ")[0]
    cpu = f"{machine['cpu'].replace('(R)', '')}, {machine['isa'].upper().replace('AVX', 'AVX-')}"
    cpus = f"{machine['num_threads']} threads on {machine['cpus_by_affinity']} CPUs"
    others = "".join(f", {NAMES[one]} {known[one]}" for one in libraries)
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
    return table(["", "cbn, of the limit's speed", *(NAMES[name] for name in peers)], rows)


def contract():
    """cbn's time over the limit's, beside DESIGN's targets."""
    rows = []
    for key, (all_threads, one) in TARGETS.items():
        first, again, alone, other = (
            resnet50(*key, name)[0] for name in ("run", "run-again", "run-1-thread", "run-other-host")
        )
        cells = [f"{all_threads:.2f}", f"{first:.2f}, {again:.2f}", f"{alone:.2f} ({one:.2f})", f"{other:.2f}"]
        rows.append([*key, *cells])
    several = f"{result('run')['threads']} threads"
    header = ["operation", "layout", "target", f"{several}, two runs", "1 thread (target)", f"{several}, another host"]
    return table(header, rows, text=2)


def shares(operation):
    """The speed of each system in NCHW, as a share of the limit's."""
    over_limit, factors = resnet50(operation, "NCHW")
    return {"cbn": 1 / over_limit} | {name: 1 / over_limit / factor for name, factor in factors.items()}


def drawn():
    """What the plot shows, as text that its file keeps."""
    return json.dumps({operation: shares(operation) for operation in contenders.OPERATIONS})


def draw(path):
    """README's plot."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    from plots import COLORS

    rcParams["svg.fonttype"], rcParams["svg.hashsalt"] = "none", "cbn"
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    for axes, operation in zip(figure.subplots(1, 3, sharex=True), contenders.OPERATIONS, strict=True):
        found = shares(operation)
        names = sorted(found, key=found.get)
        axes.barh([NAMES[name] for name in names], [found[name] for name in names], color=[COLORS[n] for n in names])
        axes.axvline(1, color="black", linewidth=1)
        axes.set(title=operation, xlim=(0, 1.1), xticks=[0, 0.5, 1], xticklabels=["0", "50 %", "100 %"])
        axes.spines[["top", "right"]].set_visible(False)
    limit = "speed as a share of the limit's: of a copy, for backward of an addition"
    text = f"{limit} (NCHW, float32, ResNet-50, {result('run')['threads']} threads)"
    figure.supxlabel(text, fontsize="medium")
    figure.savefig(path, metadata={"Date": None, "Description": drawn()})


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
    sizes = [f"{4e-6 * math.prod(result(name)['shape']):.0f} MB" for name in ("variants", "variants_large")]
    header = ["option", "operation", *(f"{layout} {', '.join(sizes)}" for layout in ("NCHW", "NHWC"))]
    return table(header, rows, text=2)


def main():
    """Draw the plot into this file; with --check compare what it shows with the results."""
    *flags, path = sys.argv[1:]
    if flags != ["--check"]:
        draw(path)
    elif escape(drawn()) not in Path(path).read_text():
        sys.exit(f"{path} must show the newest results; got others")


if __name__ == "__main__":
    main()
