"""script: what the effects have in common: progress, what was seen, and the plot."""

import argparse
import itertools
import sys
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

__all__ = ["COLORS", "band", "followed", "run", "until"]

COLORS = dict(
    zip(("with", "without", "third", "fourth"), ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True)
)


def followed(steps, text):
    """The steps to iterate over; on a terminal a bar on stderr shows how many are done."""
    console = Console(stderr=True)
    return track(steps, text, console=console, transient=True, disable=not console.is_terminal)


def until(curve, level):
    """The number of the first value that is at least `level`, from 1; None if there is none."""
    return next((number for number, value in enumerate(curve, 1) if value >= level), None)


def band(axes, x, runs, **style):
    """Draw the median of runs, one a row, and behind it the band from the least to the largest."""
    (line,) = axes.plot(x, np.median(runs, axis=0), **style)
    axes.fill_between(x, np.min(runs, axis=0), np.max(runs, axis=0), color=line.get_color(), alpha=0.2, linewidth=0)


def run(text, measure, tell, draw):
    """Run an effect as a script: measure, say what was seen, and draw it; exit status 1 if it is not as expected.

    `text` is the script's docstring, `measure()` gives its results; `tell(results)` yields pairs of whether something
    is as expected, and the sentence that says what was seen; `draw(figure, results)` draws them.
    """
    parser = argparse.ArgumentParser(
        description=text.partition("\n")[0], epilog="Exit status: 0, or 1 if what was seen is not what was expected."
    )
    parser.add_argument("--plot", metavar="FILE", help="write the plot there, instead of showing it in a window")
    plot = parser.parse_args().plot
    kinds = plt.gcf().canvas.get_supported_filetypes()
    plt.close()
    if plot and plot.rpartition(".")[2] not in kinds:
        parser.error(f"--plot must end in one of {', '.join(sorted(kinds))}; got {plot}")
    with threadpool_limits(1, "blas"):  # threads that share small matrices wait long for each other on a busy machine
        results = measure()
    found = list(tell(results))
    print(textwrap.fill("Seen: " + " ".join(sentence for _, sentence in found), 100))
    figure = plt.figure(layout="constrained")
    draw(figure, results)
    if plot:
        figure.savefig(plot)
    elif plt.get_backend().lower() != "agg":
        plt.show()
    wrong = list(itertools.compress((sentence for _, sentence in found), (not holds for holds, _ in found)))
    if wrong:
        sys.exit(f"NOT as expected: {' '.join(wrong)}")
