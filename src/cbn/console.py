"""console: tables and progress: by rich where that is installed and a terminal is written to, else in plain text."""

import importlib.util
import math
import operator
import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress

from . import reading

__all__ = ["Progress", "clean", "followed", "is_terminal", "print_table", "say"]

STYLES = {"ok": "green", "FAILED": "bold red", "DIFFER": "bold red", "folded": "green", "left": "yellow"}  # of cells


def clean(text):
    """A name, of a file or within one, without what a terminal would obey."""
    return reading.shown(text, len(text))


def is_terminal(stream):
    """Whether lines that are written there can be rewritten."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def rich_console(stream):
    """A console of rich's, which is imported only here; None if plain text is to be written."""
    if not is_terminal(stream) or importlib.util.find_spec("rich") is None:
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _columns(stream):
    """The width of a terminal."""
    own = 80
    with suppress(OSError):  # of one that is none to the system
        own = os.get_terminal_size(stream.fileno()).columns
    return shutil.get_terminal_size((own, 24)).columns  # which asks COLUMNS and standard output first


def say(text, style=None):
    """Print a line, in a style of rich's where it can be."""
    console = rich_console(sys.stdout) if style else None
    if console is None:
        print(clean(text))
    else:
        console.print(clean(text), style=style, markup=False, emoji=False, soft_wrap=True)


# --- tables ---


def print_table(header, rows, left):
    """Columns as wide as their widest cell, the first `left` of them flush left.

    On a terminal that is too narrow, one part of the columns after the other, each with the first ones.
    """
    header, *rows = ([clean(text) for text in row] for row in (header, *rows))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    console = rich_console(sys.stdout)
    for number, columns in enumerate(_parts(widths, left)):
        print(end="\n" if number else "")
        cut = [[row[k] for k in columns] for row in (header, *rows)]
        if console is not None:
            _print_rich(console, *cut, left=left)
            continue
        for row in cut:
            cells = [f"{text:{'<' if k < left else '>'}{widths[k]}}" for k, text in zip(columns, row, strict=True)]
            print("  ".join(cells).rstrip())


def _parts(widths, left):
    """The numbers of the columns that fit beside each other on a terminal; elsewhere of all."""
    room = _columns(sys.stdout) if is_terminal(sys.stdout) else math.inf
    parts, used = [], 0
    for k in range(left, len(widths)):
        used += 2 + widths[k]
        if not parts or used > room:
            parts.append(list(range(left)))
            used = sum(widths[:left]) + 2 * left + widths[k]
        parts[-1].append(k)
    return parts or [list(range(left))]


def _print_rich(console, header, *rows, left):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for k, name in enumerate(header):
        table.add_column(Text(name), justify="left" if k < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text, STYLES.get(text, "bold red" if " !" in text else "")) for text in row))
    console.print(table)


# --- progress ---


class Progress:
    """Tells on stderr what is being done, as number how many of how many, within a `with` block.

    By a bar of rich's; by one line that is rewritten; or, where that cannot be, by a line now and then, if `lines`.
    """

    def __init__(self, what, total=0, done=0, pause=0.0, lines=True):
        self.what, self.total, self.number, self.bar = what, total, done, None
        self.rewrites = is_terminal(sys.stderr)
        self.pause, self.quiet_until = pause if self.rewrites else 2.0, 0.0 if self.rewrites or lines else math.inf

    def __enter__(self):
        console = rich_console(sys.stderr)
        if console is not None:
            self.bar = _bar(console)
            self.task = self.bar.add_task(self.what, total=self.total or None, completed=self.number)
            self.bar.start()
            console.show_cursor()  # which a process that is killed could not do
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()
        elif self.rewrites:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __call__(self, text=""):
        """Say that the next one begins, unless that was said within the last `pause` seconds: it takes time, too."""
        self.number += 1
        if time.monotonic() < self.quiet_until:
            return
        self.quiet_until = time.monotonic() + self.pause
        text = clean(text)
        if self.bar is not None:
            self.bar.update(self.task, completed=self.number - 1, description=f"{self.what} {text}".strip())
            self.bar.refresh()
            return
        line = f"{self.what} {self.number}{f' of {self.total}' if self.total else ''}{text and f': {text}'}"
        line = f"\r\033[K{line[: _columns(sys.stderr) - 1]}" if self.rewrites else f"cbn: {line}\n"
        print(line, end="", file=sys.stderr, flush=True)


def _bar(console):
    """Without a thread of its own, which would take time from what is measured, and not survive a fork."""
    from rich import progress

    columns = (
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,  # which may be a file
        redirect_stderr=False,
    )


@contextmanager
def followed(batches, text, wanted, of=None, first=0):
    """Give the batches to iterate over; on a terminal it is shown how many have been taken.

    `of` has the length of all, if the batches are but those from number `first` on.
    """
    if not wanted or not is_terminal(sys.stderr):
        yield batches
        return
    try:
        total = operator.length_hint(batches if of is None else of)
    except Exception:  # of a loader that knows no length, whatever it raises
        total = 0
    with Progress(f"{text}: batch", total, first, pause=0.1) as progress:
        yield _counted(batches, progress)


def _counted(batches, progress):
    for batch in batches:
        progress()
        yield batch
