"""progress: what is being done, told on stderr."""

import importlib.util
import operator
import sys
import time
from contextlib import contextmanager

__all__ = ["Progress", "followed"]


class Progress:
    """Tells on stderr what is being done: in one line that is rewritten, or else in a line now and then."""

    def __init__(self):
        self.rewrites = sys.stderr.isatty()
        self.quiet_until = 0.0

    def __call__(self, text):
        if self.rewrites:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self.quiet_until:
            print(f"cbn: {text}", file=sys.stderr, flush=True)
            self.quiet_until = time.monotonic() + 2

    def clear(self):
        if self.rewrites:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def followed(batches, text, wanted, of=None, first=0):
    """Give the batches to iterate over; on a terminal their number is shown, by tqdm where it is installed.

    `of` has the length of all, if the batches are but those from number `first` on.
    """
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield batches
        return
    try:
        total = operator.length_hint(batches if of is None else of)
    except Exception:  # of a loader that knows no length, whatever it raises
        total = 0
    if importlib.util.find_spec("tqdm") is not None:
        from tqdm import tqdm

        # an iterator: of anything else the length would be asked for again
        with tqdm(iter(batches), text, total or None, leave=False, initial=first) as bar:
            yield bar
        return
    progress = Progress()
    try:
        yield _counted(batches, first, f"{text}: batch ", f" of {total}" if total else "", progress)
    finally:
        progress.clear()


def _counted(batches, first, before, after, progress):
    for number, batch in enumerate(batches, first + 1):
        progress(f"{before}{number}{after}")
        yield batch
