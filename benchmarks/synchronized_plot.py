"""synchronized_plot: step times against the number of ranks, and the model's gatherings beside the measured ones."""

import synchronized_model as model


def draw(rows, fits, cpus, path):
    """Write one picture: for each transport a column, steps above and gatherings below."""
    from matplotlib.figure import Figure  # without pyplot, which looks for a display

    transports = list(dict.fromkeys(row["transport"] for row in rows))
    figure = Figure(figsize=(4.5 * len(transports), 8), layout="constrained")
    axes = figure.subplots(2, len(transports), sharey="row", squeeze=False)
    for (above, below), transport in zip(axes.T, transports, strict=True):
        own = [row for row in rows if row["transport"] == transport]
        _steps(above, own, cpus)
        _gatherings(below, model.gathers_of(rows, transport), fits.get(transport), cpus)
        above.set_title(transport)
    axes[0, 0].set_ylim(bottom=0)  # at the end: before, it would fix the top
    axes[0, 0].set_ylabel("ms per forward + backward")
    axes[1, 0].set_ylabel("us per gathering")
    figure.savefig(path)


def _steps(a, rows, cpus):
    ranks = sorted({row["ranks"] for row in rows})
    for index, channels in enumerate(sorted({row["channels"] for row in rows})):
        for name, style in (("step", "o-"), ("alone", ":")):
            times = {r["ranks"]: 1e3 * r["seconds"][name]["median"] for r in rows if r["channels"] == channels}
            label = f"C = {channels}" if name == "step" else None
            a.plot(ranks, [times[n] for n in ranks], style, color=f"C{index}", markersize=3, label=label)
    if ranks[-1] > cpus:
        a.axvspan(max(cpus + 0.5, ranks[0] - 0.5), ranks[-1] + 0.5, color="0.9")
    a.set_xticks(ranks)
    a.set_xlabel(f"ranks (dotted: not synchronized; grey: > {cpus} CPUs)")
    a.legend(fontsize=7)


def _gatherings(a, gathers, fit, cpus):
    for index, ranks in enumerate(dict.fromkeys(ranks for ranks, _ in gathers)):
        own = {size: 1e6 * seconds for (of, size), seconds in gathers.items() if of == ranks}
        style, mark = ("o", "") if ranks <= cpus else ("x", ", oversubscribed")
        a.loglog(list(own), list(own.values()), style, color=f"C{index}", markersize=4, label=f"P = {ranks}{mark}")
        if fit and ranks <= cpus:
            a.loglog(list(own), [1e6 * model.modelled(fit, ranks, size) for size in own], "-", color=f"C{index}")
    a.set_xlabel("bytes per rank (lines: the model)")
    a.grid(alpha=0.3)
    a.legend(fontsize=7)
