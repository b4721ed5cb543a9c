"""plots: bars per shape, and curves against size and against threads."""

import math

import contenders

# Contenders keep their colors in all plots.
COLORS = dict(zip(["cbn", *contenders.PEERS], [f"C{i}" for i in (3, 7, 1, 0, 2, 4, 5)], strict=True))


def _figure(width, height):
    from matplotlib.figure import Figure  # without pyplot, which looks for a display

    return Figure(figsize=(width, height), layout="constrained")


def seconds_by_family(result):
    """Median seconds of cbn and of each peer, where a peer counts with the fastest of its variants."""
    seconds = {name: s["median"] for name, s in result["seconds"].items()}
    found = {"cbn": seconds["cbn"]}
    for peer, description in contenders.PEERS.items():
        times = [seconds[name] for name in description.names if name in seconds]
        if times:
            found[peer] = min(times)
    return found


def bars(results, folder):
    """Write ``<operation>.png``: for each row the speed of every contender, as a share of the limit's."""
    for operation in contenders.OPERATIONS:
        some = [r for r in results if r["operation"] == operation]
        if not some:
            continue
        families = [seconds_by_family(r) for r in some]
        names = [name for name in COLORS if any(name in f for f in families)]
        figure = _figure(10, 2 + 0.09 * len(some) * (len(names) + 2))
        axes = figure.add_subplot()
        height = 0.85 / len(names)
        for i, name in enumerate(names):
            shares = [
                r["seconds"][r["limit"]]["median"] / f[name] if name in f else math.nan
                for r, f in zip(some, families, strict=True)
            ]
            places = [k + (i - (len(names) - 1) / 2) * height for k in range(len(some))]
            axes.barh(places, shares, height, label=name, color=COLORS[name])
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(range(len(some)), [r["row"] for r in some], fontsize=8)
        axes.set_ylim(len(some) - 0.5, -0.5)
        axes.set_xlabel("speed as a share of the limit's (1: streaming copy, for backward streaming add)")
        axes.set_title(f"{operation}, {some[0]['threads']} threads; peers with the fastest of their variants")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(folder / f"{operation}.png")


def against_size(results, folder):
    """Write ``size-<layout>.png``: time against the size of x, and below it the same as multiples of the limit's."""
    figure = _figure(15, 9)
    axes = figure.subplots(2, len(contenders.OPERATIONS), sharex=True, sharey="row", squeeze=False)
    for column, operation in enumerate(contenders.OPERATIONS):
        above, below = axes[:, column]
        some = [r for r in results if r["operation"] == operation]
        sizes = [r["bytes_of_x"] for r in some]
        families = [seconds_by_family(r) for r in some]
        limits = [r["seconds"][r["limit"]]["median"] for r in some]
        above.loglog(sizes, limits, "k--", label="limit")
        below.axhline(1, color="black", linestyle="--", label="limit")
        for name in (name for name in COLORS if any(name in f for f in families)):
            times = [f.get(name, math.nan) for f in families]
            above.loglog(sizes, times, "o-", markersize=3, label=name, color=COLORS[name])
            multiples = [t / limit for t, limit in zip(times, limits, strict=True)]
            below.loglog(sizes, multiples, "o-", markersize=3, color=COLORS[name])
        above.set_title(f"{operation}, {some[0]['layout']} float32, {some[0]['threads']} threads")
        below.set_xlabel("bytes of x")
        for a in (above, below):
            a.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("times the limit")
    axes[0, 0].legend()
    figure.savefig(folder / f"size-{results[0]['layout']}.png")


def against_threads(results, folder):
    """Write ``threads.png``: time against the number of threads, one plot for each row and operation."""
    rows = list(dict.fromkeys(r["row"] for r in results))
    figure = _figure(12, 2.4 * len(rows))
    axes = figure.subplots(len(rows), len(contenders.OPERATIONS), sharex=True, squeeze=False)
    for r in results:
        a = axes[rows.index(r["row"]), contenders.OPERATIONS.index(r["operation"])]
        for name, times in r["seconds"].items():
            style = "o--" if name == "limit" else "o-"
            color = COLORS.get(name, "black")
            a.plot(list(times), [1e3 * t for t in times.values()], style, markersize=3, label=name, color=color)
        a.set_title(f"{r['operation']} {r['row']}", fontsize=8)
        a.set_xticks(r["threads"])
        a.set_ylim(bottom=0)
    for a in axes[:, 0]:
        a.set_ylabel("ms")
    for a in axes[-1]:
        a.set_xlabel("threads")
    axes[0, 0].legend()
    figure.savefig(folder / "threads.png")
