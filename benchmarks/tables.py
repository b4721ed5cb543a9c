"""tables: more tables for the docs, each made of one result: torch's modules, ranks, memory, latency, features."""

import textwrap

from figures import result, table
from report import geometric_mean
from rows import RESNET50

LAYOUTS = ("contiguous", "channels_last")


def between(values, scale, digits=0):
    """The least and the most, in words."""
    return " to ".join(f"{scale * v:.{digits}f}" for v in (min(values), max(values)))


def torch_ratios():
    return {row["row"]: row["ratio"] for row in result("torch_modules")["results"] if "ratio" in row}


def torch_layers():
    """torch's time over cbn's for single layers."""
    ratios, both = torch_ratios(), "forward + backward"
    large = ["x".join(map(str, shape)) for shape in RESNET50]

    def cells(operation, shapes):
        means = [geometric_mean([ratios[f"{operation}, {layout}, {s}"] for s in shapes]) for layout in LAYOUTS]
        return [f"{mean:.1f}" for mean in means]

    rows = [["forward and backward, geometric mean over four shapes of ResNet-50, batch 32", *cells(both, large)]]
    rows += [[f"forward and backward, {shape}", *cells(both, [shape])] for shape in large]
    rows += [["inference, geometric mean over the four", *cells("inference", large)]]
    small = [name.rpartition(", ")[2] for name in ratios if name.startswith(f"{both}, contiguous, ")]
    rows += [[f"forward and backward, {s}", *cells(both, [s])] for s in small if s not in large]
    return table(["one layer", *LAYOUTS], rows)


def torch_steps():
    """torch's time over cbn's for a training step."""
    ratios, names = torch_ratios(), {"mobilenet_v2": "MobileNetV2", "resnet50": "ResNet-50", "resnet18": "ResNet-18"}
    rows = []
    for name, title in names.items():
        found = [v for key, v in ratios.items() if key.startswith(f"training step, {name}, ")]
        rows.append([title, *(f"{value:.2f}" for value in found)])
    size = next(key for key in ratios if key.startswith("training step")).rpartition(", ")[2]
    return table([f"a training step, images {size}", *LAYOUTS], rows)


def torch_gain():
    """How much longer a training step takes with torch's norms, in words."""
    ratios = [value - 1 for key, value in torch_ratios().items() if key.startswith("training step")]
    return f"So a step takes {between(ratios, 100)} % more time with torch's norms."


def torch_errors():
    """The largest error of y in training."""
    found = {row["row"]: row["errors"] for row in result("torch_modules")["results"] if "errors" in row}
    offsets = [name.rpartition(" ")[2] for name in found if LAYOUTS[0] in name]
    rows = []
    for offset in offsets:
        both = [found[f"largest error of y, {layout}, offset {offset}"] for layout in LAYOUTS]
        errors = [*(errors["torch"] for errors in both), max(errors["cbn"] for errors in both)]
        rows.append([f"{float(offset):,.0f}", *(f"{error:.0e}" for error in errors)])
    return table(["offset", *(f"torch, {layout}" for layout in LAYOUTS), "cbn, both"], rows)


# --- synchronized.py: several ranks ---


def _ranks(transport, ranks):
    return {
        r["channels"]: r
        for r in result("synchronized")["results"]
        if (r["transport"], r["ranks"]) == (transport, ranks)
    }


def steps_on_ranks():
    """A step of one layer on one, two and four ranks, and what of it is messages."""
    alone, ways = _ranks("shared memory", 1), [(t, n) for n in (2, 4) for t in ("shared memory", "TCP")]
    rows = []
    for channels, one in alone.items():
        some = {way: _ranks(*way)[channels] for way in ways}
        seconds = [one["seconds"]["alone"], one["seconds"]["step"], *(r["seconds"]["step"] for r in some.values())]
        messages = [some[way]["seconds"]["gatherings"]["median"] for way in ways[:2]]
        rows.append(
            [str(channels)]
            + [f"{1e3 * s['median']:.2f}" for s in seconds]
            + [f"{1e6 * s:.0f} µs" for s in messages]
            + [f"{one['bytes_sent']:,} B"]
        )
    header = ["C", "step of `BatchNorm`", "1 rank", "2, memory", "2, TCP", "4, memory", "4, TCP"]
    return table([*header, "messages, 2, memory", "messages, 2, TCP", "sent"], rows)


def of_ranks():
    """What messages take, and what one rank alone pays, in words."""
    messages = {
        transport: [row["seconds"]["gatherings"]["median"] for row in _ranks(transport, 2).values()]
        for transport in ("shared memory", "TCP", "torch gloo")
    }
    one = [row["seconds"] for row in _ranks("shared memory", 1).values()]
    resnet = result("synchronized")["resnet50"]
    longer = [seconds["step"]["median"] / seconds["alone"]["median"] for seconds in one]
    all_norms = (resnet["seconds"] + resnet["local"]) / resnet["seconds"]
    text = (
        f"The messages of a step on two ranks take {between(messages['shared memory'], 1e6)} µs in shared memory, "
        f"{between(messages['TCP'], 1e6)} µs by TCP, and {between(messages['torch gloo'], 1e3, 1)} ms by torch's "
        f"gloo. A step on one rank alone takes {between(longer, 1, 1)} times as long as BatchNorm's for arrays of 3 MB "
        f"as here, and {all_norms:.2f} times for the batch norms of ResNet-50 with {resnet['samples']} images "
        f"({1e3 * resnet['local']:.0f} ms on top of {1e3 * resnet['seconds']:.0f}, on one thread)."
    )
    return textwrap.fill(text, 120)


def fits():
    """The model of a gathering, fitted."""
    rows = []
    for transport, fit in result("synchronized")["fits"].items():
        alphas = [f"{1e6 * fit[name]:.{0 if fit[name] > 1e-5 else 1}f} µs" for name in ("alpha0", "alpha")]
        off = f"{fit['rms']:.0%}, {abs(fit['worst']):.0%}"
        rows.append([transport, *alphas, f"{1e9 * fit['beta']:.2g} ns/byte", off])
    return table(["", "alpha0", "alpha", "beta", "the fit is off by, rms and worst"], rows)


def clusters():
    """What synchronizing ResNet-50 would cost on larger clusters."""
    found = {}
    for c in result("synchronized")["resnet50"]["clusters"]:
        found.setdefault(c["ranks"], {}).setdefault(c["link"], []).append(c)
    links = list(next(iter(found.values())))
    rows = []
    for ranks, by_link in found.items():
        messages = [f"{between([c['messages'] for c in by_link[link]], 1e3)} ms" for link in links]
        rows.append([str(ranks), *messages, f"{1e3 * by_link[links[0]][0]['merging']:.0f} ms"])
    return table(["ranks", *(f"messages, {link}" for link in links), "merging"], rows)


# --- footprint.py, latency.py, feature_normalizer.py ---


def footprint():
    """What each library costs before it computes."""
    libraries = result("footprint")["libraries"]
    numpy = libraries["NumPy alone"]["disk"]
    rows = []
    for name, v in libraries.items():
        disk = [f"{v['disk']:.1f} MB", f"{v['disk'] - numpy:.1f} MB"]
        seconds = [f"{1e3 * v['imports']:.0f} ms", f"{1e3 * v['call']:.1f} ms"]
        rows.append([name, *disk, *seconds, f"{v['resident']:.0f} MB"])
    return table(["", "installed", "besides NumPy", "import", "first call", "resident"], rows)


def latency(shape):
    """Median and 99th percentile of a call now and then."""
    conditions = {
        "alone": "alone",
        "busy neighbour": "one CPU busy with another process",
        "quota": "half a CPU by quota",
    }
    found = {}
    for row in result("latency")["results"]:
        if row["shape"] == shape and row["condition"] in conditions:
            cell = f"{row['median_ms']:.2g} / {row['p99_ms']:.2g}"
            found.setdefault(row["contender"], {})[row["condition"]] = cell
    return table(["", *conditions.values()], [[name, *(by[c] for c in conditions)] for name, by in found.items()])


def normalizer():
    """StandardScaler's time over cbn's: the least and the most of all arrays."""
    kinds = {
        "`fit`, `partial_fit`": ("fit", "partial_fit", "fit, Fortran order"),
        "`fit` with weights": ("fit, weights",),
        "`fit` with NaN in each feature": ("fit, NaN",),
        "`transform`, `inverse_transform` into new arrays": (
            "transform",
            "inverse_transform",
            "transform, Fortran order",
        ),
        "`transform` with NaN": ("transform, NaN",),
    }
    rows = []
    for title, operations in kinds.items():
        some = [r["standard_scaler_over"] for r in result("feature_normalizer")["rows"] if r["operation"] in operations]
        rows.append([title, *(f"{between([r[of] for r in some], 1, 1)}" for of in ("cbn", "in scikit-learn"))])
    return table(["StandardScaler's time over that of", "`cbn.FeatureNormalizer`", "the same in scikit-learn"], rows)
