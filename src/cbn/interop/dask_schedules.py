"""dask_schedules: delayed tasks done by Dask's scheduler of the moment, some at a time; their results come in order."""

import contextlib
import itertools
from collections import deque

from ..libraries import library

__all__ = ["client", "done"]

AHEAD = 4  # tasks under way for each thread of a worker


def client():
    """The distributed.Client that computes at the moment, if one does."""
    found = getattr(library("dask.base", "dask").get_scheduler(), "__self__", None)
    return found if found is not None and isinstance(found, library("distributed", "dask").Client) else None


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
    """By workers elsewhere, which are given the next tasks before those that they have are done."""
    waiting = deque()
    try:
        if all_at_once:
            waiting.extend(workers.compute(list(tasks)))  # in one piece, so that nothing is computed again
        room = 0
        while True:
            if len(waiting) <= room // 2:  # several at a time: handing over costs more than a small task
                room = AHEAD * max(1, sum(workers.nthreads().values()))
                waiting.extend(workers.compute(list(itertools.islice(tasks, room - len(waiting)))))
            if not waiting:
                return
            some = _done_first(waiting)
            try:
                results = workers.gather(some)
            except Exception as error:
                error.add_note(f"in part {first}, counted from 0")
                raise
            for result in results:
                waiting.popleft()
                first += 1
                yield result
    finally:
        if waiting:
            with contextlib.suppress(Exception):  # of workers that are gone
                workers.cancel(list(waiting))


def _done_first(waiting):
    """The first one, and those after it that are done if it is."""
    done = list(itertools.takewhile(lambda future: future.status == "finished", waiting))
    return done or [waiting[0]]
