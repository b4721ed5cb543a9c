"""script: what the effects have in common: progress, what was seen, and the plot."""

import argparse
import itertools
import os
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

__all__ = ["COLORS", "UnexpectedError", "band", "followed", "run", "until"]

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


class UnexpectedError(RuntimeError):
    """What was seen is not what was expected."""


def one_line(kind, error, trace):
    """What `sys.excepthook` does, but for claims that do not hold no traceback: the script is not at fault."""
    if issubclass(kind, UnexpectedError):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def refused(path):
    """Why a plot cannot be written there; None if it seems that it can."""
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        return f"end in one of .{', .'.join(sorted(kinds))}"
    if not path.parent.is_dir():
        return "be in a folder that exists"
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        return "be a file that can be written"
    return None


def plot_path(text):
    """Where the plot shall go, None for a window; `text` describes the script."""
    parser = argparse.ArgumentParser(
        description=text.partition("\n")[0], epilog="Exit status: 0, or 1 if what was seen is not what was expected."
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write the plot there, not show it in a window")
    path = parser.parse_args().plot
    if path and (rule := refused(path)):
        parser.error(f"--plot must {rule}; got {path}")
    return path


def show(figure, path):
    """Write the figure, or show it; sphinx-gallery takes it as it is."""
    if path:
        figure.savefig(path)
    elif plt.get_backend().lower() != "agg":
        plt.show()
    elif "sphinx_gallery" not in sys.modules:
        print("There is no display to show the plot on; --plot FILE writes it.", file=sys.stderr)


def run(text, measure, tell, draw):
    """Run an effect as a script: measure, say what was seen, and draw it; UnexpectedError if it is not as expected.

    As a script it then ends with status 1 and one line, while sphinx-gallery, which would not see a SystemExit, fails.
    `text` is the script's docstring, `measure()` gives its results; `tell(results)` yields pairs of whether something
    is as expected, and the sentence that says what was seen; `draw(figure, results)` draws them.
    """
    sys.excepthook = one_line
    path = plot_path(text)
    with threadpool_limits(1, "blas"):  # threads that share small matrices wait long for each other on a busy machine
        results = measure()
    found = list(tell(results))
    print(textwrap.fill("Seen: " + " ".join(sentence for _, sentence in found), 100))
    figure = plt.figure(layout="constrained")
    draw(figure, results)
    show(figure, path)
    wrong = list(itertools.compress((sentence for _, sentence in found), (not holds for holds, _ in found)))
    if wrong:
        raise UnexpectedError(f"{Path(sys.argv[0]).name}: NOT as expected: {' '.join(wrong)}")
