"""dask_schedules: delayed tasks done by Dask's scheduler of the moment, some at a time; their results come in order."""

import contextlib
import itertools
import sys
from collections import deque

from ..libraries import library

__all__ = ["client", "done"]

AHEAD = 4  # tasks under way for each thread of a worker


def client():
    """The distributed.Client that computes at the moment, if one does."""
    found = getattr(library("dask.base", "dask").get_scheduler(), "__self__", None)
    distributed = sys.modules.get("distributed")
    return found if distributed and isinstance(found, distributed.Client) else None


def done(tasks, first, all_at_once=False):
    """Give the results of tasks, in order. `first` is the number of the first one."""
    workers = client()
    if workers is None:
        return _in_rounds(tasks, first, all_at_once)
    return _in_window(workers, tasks, first, all_at_once)


def _in_rounds(tasks, first, all_at_once):
    """By a scheduler of this process, which returns when all that it was given is done."""
    dask = library("dask", "dask")
    threads = max(library("dask.system", "dask").CPU_COUNT, dask.config.get("num_workers", None) or 1)
    while some := list(itertools.islice(tasks, None if all_at_once else AHEAD * threads)):
        try:
            results = dask.compute(*some)
        except Exception as error:
            error.add_note(f"in one of the parts {first} to {first + len(some) - 1}, counted from 0")
            raise
        yield from results
        first += len(some)


def _in_window(workers, tasks, first, all_at_once):
    """By workers elsewhere, which are given the next tasks before the first of those before are done."""
    waiting = deque()
    try:
        if all_at_once:
            waiting.extend(workers.compute(list(tasks)))  # in one piece, so that nothing is computed again
        for number in itertools.count(first):
            room = AHEAD * max(1, sum(workers.nthreads().values())) - len(waiting)
            waiting.extend(workers.compute(task) for task in itertools.islice(tasks, max(0, room)))
            if not waiting:
                return
            try:
                result = waiting[0].result()
            except Exception as error:
                error.add_note(f"in part {number}, counted from 0")
                raise
            del waiting[0]
            yield result
    finally:
        if waiting:
            with contextlib.suppress(Exception):  # of workers that are gone
                workers.cancel(list(waiting))
