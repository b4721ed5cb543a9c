"""dask_schedules: delayed tasks done by Dask's scheduler of the moment; their results come in order."""

import contextlib
import contextvars
import itertools
import queue
import threading
from collections import deque

from ..libraries import library

__all__ = ["done"]

AHEAD = 4  # tasks under way for each thread of a worker, where they are not handed over all at once


def done(tasks, first, all_at_once=False):
    """Give the results of tasks, in order. `first` is the number of the first one.

    An exception of `tasks` comes after the results of those before it.
    """
    delayed = library("dask.delayed", "dask").Delayed
    get = library("dask.base", "dask").get_scheduler(cls=delayed) or delayed.__dask_scheduler__
    client = getattr(get, "__self__", None)
    given = _Given(tasks)
    if client is not None and isinstance(client, library("distributed", "dask").Client):
        yield from _by_client(client, given, first, all_at_once)
    else:
        while some := given.next(None if all_at_once else AHEAD * _threads()):
            yield from _by_threads(get, some, first)
            first += len(some)
    if given.error is not None:
        raise given.error


class _Given:
    """Tasks, several at a time, until there are no more or one raises."""

    def __init__(self, tasks):
        self._tasks, self.error = tasks, None

    def next(self, most):
        some = []
        try:
            for task in itertools.islice(self._tasks, most):
                some.append(task)
        except Exception as error:
            self.error, self._tasks = error, iter(())
        return some


def _graph(tasks):
    """What these tasks need, in one graph, and their keys."""
    keys = [task.key for task in tasks]
    graph = library("dask.highlevelgraph", "dask").HighLevelGraph.merge(*(task.dask for task in tasks))
    return library("dask.optimization", "dask").cull(graph.to_dict(), keys)[0], keys


def _threads():
    config = library("dask", "dask").config
    return config.get("num_workers", None) or library("dask.system", "dask").CPU_COUNT


def _by_threads(get, tasks, first):
    """By a scheduler of this process, in a thread, since it returns when all is done."""
    graph, keys = _graph(tasks)
    numbers, found, is_closed = {key: n for n, key in enumerate(keys)}, queue.SimpleQueue(), threading.Event()
    # without a pool for this thread Dask would start more threads than for the caller's
    options = {"num_workers": _threads()} if get is library("dask.threaded", "dask").get else {}

    def before(key, graph, state):
        if is_closed.is_set():
            raise RuntimeError("the caller has gone")

    def after(key, result, graph, state, worker):
        if key in numbers:
            state["cache"][key] = None  # else all results would be kept to the end
            found.put((numbers[key], result))

    def run():
        callbacks = [*library("dask.callbacks", "dask").Callback.active, (None, None, before, after, None)]
        try:
            get(graph, keys, callbacks=callbacks, **options)
        except BaseException as error:
            found.put((None, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        yield from _in_order(found, len(keys), first)
    finally:
        is_closed.set()
        thread.join()


def _in_order(found, many, first):
    early = {}
    for n in range(many):
        while n not in early:
            number, result = found.get()
            if number is None:
                result.add_note(f"in part {first + n} or one after it, counted from 0")
                raise result
            early[number] = result
        yield early.pop(n)


def _no_warning(wanted):
    """Blocks in memory are sent with their tasks, so that they outlive a worker; else Dask would advise against it."""
    options = {"distributed.admin.large-graph-warning-threshold": "1PB"} if wanted else {}
    return library("dask", "dask").config.set(options)


def _by_client(client, given, first, all_at_once):
    """By workers elsewhere, which are given the next tasks before those that they have are done."""
    waiting, room = deque(), 0
    try:
        while True:
            if len(waiting) <= room // 2:  # several at a time: handing over costs more than a small task
                room = AHEAD * max(1, sum(client.nthreads().values()))
                if some := given.next(None if all_at_once else room - len(waiting)):
                    with _no_warning(not all_at_once):
                        waiting.extend(client.get(*_graph(some), sync=False))
            if not waiting:
                return
            ready = list(itertools.takewhile(lambda future: future.status == "finished", waiting)) or [waiting[0]]
            try:
                results = client.gather(ready)
            except Exception as error:
                error.add_note(f"in part {first}, counted from 0")
                raise
            del ready
            for result in results:
                waiting.popleft()
                first += 1
                yield result
    finally:
        if waiting:
            with contextlib.suppress(Exception):  # of workers that are gone
                client.cancel(list(waiting))
