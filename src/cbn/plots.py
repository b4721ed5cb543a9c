"""plots: what the command line found, as figures, and these as files."""

import importlib.util
import math

from .comparison import OPERATIONS, shape_text
from .console import clean
from .files import UserError
from .libraries import library

__all__ = ["KINDS", "check_kind", "of_agreement", "of_check", "of_comparison", "of_distances", "save"]

KINDS = (".png", ".svg", ".pdf", ".jpg")  # some of matplotlib's others start LaTeX, on names in a stranger's model
MOST = 40  # values of a model that are shown
COLORS = {
    "cbn": "tab:red",
    "numpy": "tab:gray",
    "oracle": "lightgray",
    "torch": "tab:orange",
    "onnxruntime": "tab:blue",
}
MARKERS = "osD^vP"
BOUND = {"color": "black", "linewidth": 1, "linestyle": "--"}


def check_kind(path):
    """Refuse a file that cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot must have matplotlib (pip install 'cbn[plot]'); got no such module")
    if path.suffix.lower() not in KINDS:
        raise UserError(f"--plot must end in one of {', '.join(KINDS)}; got {path}")


def save(figure, path):
    """Write a figure into the file that --plot names."""
    try:
        figure.savefig(path, dpi=150)
    except Exception as error:  # of whatever writes that kind: a full disk
        raise UserError(f"--plot must be a file that can be written; got {path}: {error}") from None


def _figure(width, height):
    return library("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")  # no display


def _rows(axes, names):
    """A row for each name, the first at the top."""
    texts = ["\n".join(map(clean, name.split("\n"))) for name in names]
    texts = [text if len(text) <= 40 else f"...{text[-37:]}" for text in texts]
    axes.set_yticks(range(len(names)), texts, parse_math=False, usetex=False)  # of names with $, too
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def _legend(figure, axes, columns):
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)


# --- check: error over bound ---


def of_check(rows):
    """For each dtype a picture: of each layout the error of each operation, over its bound."""
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    share = [entry["ulp"] / entry["bound"] for row in rows for entry in row["worst"].values()]
    right = 1.15 if max(share) <= 1 else 2.0  # beyond it a point stands at the edge
    figure = _figure(max(9, 3 + 2.6 * len(dtypes)), 2 + 0.4 * len(layouts))
    pictures = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    for axes, dtype in zip(pictures, dtypes, strict=True):
        some = [row for row in rows if row["dtype"] == dtype]
        for k, operation in enumerate(rows[0]["worst"]):
            entries = [row["worst"][operation] for row in some]
            shares = [min(entry["ulp"] / entry["bound"], right) for entry in entries]
            places = [layouts.index(row["layout"]) + 0.1 * (k - 2.5) for row in some]
            axes.plot(shares, places, MARKERS[k], markersize=5, label=operation, clip_on=False)
        axes.axvline(1, label="bound", **BOUND)
        axes.axvspan(1, right, color="tab:red", alpha=0.1)
        axes.set(title=dtype, xlim=(0, right), xlabel="error / bound")
        _rows(axes, layouts)
    _legend(figure, axes, 7)
    good = sum(row["ok"] for row in rows)
    figure.suptitle(f"Largest errors against the oracle: {good} of {len(rows)} ok")
    return figure


# --- bench: GB/s ---


def of_comparison(rows):
    """For each operation a picture: the speed of each contender in GB/s of necessary traffic, and of the copy."""
    names = _contenders(rows)
    shapes = list(dict.fromkeys((row["layout"], shape_text(row)) for row in rows))
    figure = _figure(3 + 3.4 * len(OPERATIONS), 1.8 + 0.16 * (len(names) + 2) * len(shapes))
    for axes, operation in zip(figure.subplots(1, len(OPERATIONS), sharey=True), OPERATIONS, strict=True):
        some = [row for row in rows if row["operation"] == operation]
        width = 0.8 / len(_contenders(some))
        for i, name in enumerate(_contenders(some)):
            shown = {k: row for k, row in enumerate(some) if name in row["seconds"]}
            speeds = [_speed(row, name) for row in shown.values()]
            places = [k - 0.4 + width * (i + 0.5) for k in shown]
            bars = axes.barh(places, speeds, 0.9 * width, color=COLORS[name], label=name)
            axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=7, bbox={"color": "white", "pad": 0.5})
        copies = [row["gigabytes_per_second"] / row["share_of_copy"] for row in some]
        ends = [k - 0.45 for k in range(len(some))], [k + 0.45 for k in range(len(some))]
        axes.vlines(copies, *ends, color="black", label="copy of the memory")
        axes.set(title=operation, xlabel="GB/s of necessary traffic")
        axes.margins(x=0.12)
        _rows(axes, [f"{layout}\n{shape}" for layout, shape in shapes])
        axes.grid(visible=False)
    _legend(figure, figure.axes[-1], 7)  # of inference, which all can do
    first = rows[0]
    figure.suptitle(f"Batch norm of {first['dtype']}, {first['threads']} threads; more is better")
    return figure


def _speed(row, name):
    return row["gigabytes_per_second"] * row["seconds"]["cbn"] / row["seconds"][name]


def _contenders(rows):
    return list(dict.fromkeys(name for row in rows for name in row["seconds"] if name != "copy"))


# --- explain and fold: distances on a logarithmic axis ---


def of_distances(distances):
    """For y and running_var a picture: how far what each convention makes is from what was given."""
    figure = _figure(11, 1.4 + sum(0.9 + 0.28 * len(next(iter(one.values()))) for one in distances.values()))
    pictures = figure.subplots(len(distances), 1, squeeze=False)[:, 0]
    for axes, (quantity, series) in zip(pictures, distances.items(), strict=True):
        names = list(next(iter(series.values())))
        for k, (source, by_name) in enumerate(series.items()):
            places = {name: row + 0.16 * (k - (len(series) - 1) / 2) for row, name in enumerate(names)}
            shown = {name: min(max(by_name[name], 1e-2), 1e9) for name in names if math.isfinite(by_name[name])}
            y = [places[name] for name in shown]
            (line,) = axes.plot(list(shown.values()), y, MARKERS[k], label=f"with {source}", alpha=0.8)
            if odd := [place for name, place in places.items() if name not in shown]:
                edge = [1e9] * len(odd)
                axes.plot(edge, odd, "x", label=f"with {source}: not finite", color=line.get_color(), clip_on=False)
        axes.axvline(1, **BOUND)
        axes.axvspan(5e-3, 1, color="tab:green", alpha=0.1, label="explained by rounding")
        axes.set(xscale="log", xlim=(5e-3, 2e9), title=quantity)
        axes.set_xlabel("largest distance / what rounding explains; beyond 1e9 at the edge")
        _rows(axes, names)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle("How far each convention is from what was given")
    return figure


def of_agreement(agreement):
    """Of each value that was compared the difference, and its bound."""
    ranked = sorted(agreement.each, key=lambda one: -one.error / one.bound)
    shown = ranked[:MOST]
    figure = _figure(9, 1.6 + 0.24 * len(shown))
    axes = figure.subplots()
    least = min(one.bound for one in shown) * 1e-6
    most = max(one.bound for one in shown) * 1e4
    for good, color, label in ((True, "tab:green", "difference"), (False, "tab:red", "difference, too large")):
        some = [(k, one) for k, one in enumerate(shown) if one.ok == good]
        places, errors = [k for k, _ in some], [min(max(one.error, 2 * least), most / 2) for _, one in some]
        if some:
            axes.hlines(places, least, errors, color=color)
            axes.plot(errors, places, "o", color=color, label=label)
    axes.plot([one.bound for one in shown], range(len(shown)), "|", color="black", markersize=14, label="bound")
    axes.set(xscale="log", xlim=(least, most), xlabel="difference / largest value; of integers, share that differs")
    _rows(axes, [one.output for one in shown])
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    rest = f", the {MOST} nearest to their bounds" if len(ranked) > MOST else ""
    axes.set_title(f"Folded and original model: {len(ranked)} values compared{rest}")
    return figure
