"""synchronized_rank: what each rank of a job of `synchronized.py` measures; rank 0 writes it to a file."""

import atexit
import json
import math
import os
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np

import cbn
from cbn.interop.communicators import MPICommunicator, ProcessGroupCommunicator
from cbn.interop.mpi import SyncBatchNorm
from timing import SHORTEST_SAMPLE

TIMEOUT = 60.0  # seconds, after which a rank no longer waits for others


class Counting:
    """A communicator that counts what it is given."""

    def __init__(self, communicator):
        self.communicator, self.sizes = communicator, []

    def allgather(self, values):
        self.sizes.append(values.nbytes)
        return self.communicator.allgather(values)


def mpi(_store):
    """The communicator, this rank, the number of ranks, MPI's own gathering into given arrays, and MPI's name."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD

    def plain(values, rows):
        return partial(world.Allgather, values, rows)

    name = MPI.Get_library_version().partition(",")[0]
    return MPICommunicator(timeout=TIMEOUT), world.rank, world.size, plain, name


def gloo(store):
    """The same for torch.distributed; a file of its own is where the ranks meet."""
    import torch
    from torch import distributed

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    given = {"rank": rank, "world_size": size, "timeout": timedelta(seconds=TIMEOUT)}
    distributed.init_process_group("gloo", init_method=f"file://{store}", **given)
    atexit.register(distributed.destroy_process_group)  # otherwise its threads may abort the process at its end

    def plain(values, rows):
        return partial(distributed.all_gather_into_tensor, torch.from_numpy(rows.ravel()), torch.from_numpy(values))

    return ProcessGroupCommunicator(), rank, size, plain, f"torch {torch.__version__}, gloo"


def gatherings(channels):
    """The bytes that a rank has in each gathering of a step: two forward, two backward."""
    return [40, 24 * channels + 16, 40, 16 * channels]


def trainer(layer, x, dy):
    """Forward and backward into given arrays, as in a training loop that allocates nothing."""
    y, dx = np.empty_like(x), np.empty_like(x)

    def step():
        layer(x, out=y)
        layer.backward(dy, out=dx)

    return step


def one_after_the_other(calls):
    def run():
        for call in calls:
            call()

    return run


def contenders(shape, comm, size, plain):
    """The calls to measure on an activation of this shape, by name; `gather <bytes>` is a single gathering."""
    channels = shape[1]
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape), np.float32)
    own = {n: np.zeros(n // 8) for n in gatherings(channels)}
    all_own = [partial(comm.allgather, own[n]) for n in gatherings(channels)]
    all_plain = [plain(own[n], np.empty((size, n // 8))) for n in gatherings(channels)]
    return {
        "step": trainer(SyncBatchNorm(channels, comm=comm), x, dy),
        "alone": trainer(cbn.BatchNorm(channels), x, dy),
        "gatherings": one_after_the_other(all_own),
        "plain": one_after_the_other(all_plain),
    } | {f"gather {n}": partial(comm.allgather, own[n]) for n in own}


def counted(shape, comm):
    """The bytes of each gathering of one step, as the communicator sees them."""
    counting = Counting(comm)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    trainer(SyncBatchNorm(shape[1], comm=counting), x, x)()
    return counting.sizes


def sample(call, number, comm):
    """Seconds per call; all ranks start together."""
    comm.allgather(np.zeros(1))
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def measure(calls, repeats, comm):
    """The seconds per call, by name, in turns: of each sample those of the slowest rank.

    Each timed sample follows an untimed one of the same length.
    """
    first = np.array([min(sample(call, 1, comm) for _ in range(5)) for call in calls.values()])
    slowest = comm.allgather(first).max(0)
    numbers = [max(1, math.ceil(SHORTEST_SAMPLE / t)) for t in slowest]
    seconds = np.empty((len(calls), repeats))
    for turn in range(repeats):
        for index, (call, number) in enumerate(zip(calls.values(), numbers, strict=True)):
            sample(call, number, comm)
            seconds[index, turn] = sample(call, number, comm)
    seconds = comm.allgather(seconds.ravel()).max(0).reshape(seconds.shape)
    return dict(zip(calls, seconds.tolist(), strict=True))


def main():
    job = json.loads(sys.argv[1])
    carrier = {"mpi": mpi, "gloo": gloo}[job["carrier"]]
    comm, rank, size, plain, library = carrier(job["store"])
    if size != job["ranks"]:
        raise SystemExit(f"the launcher must start {job['ranks']} ranks of one job; got {size}")
    found = []
    with cbn.num_threads(1):
        for shape in job["shapes"]:
            sizes = counted(tuple(shape), comm)
            seconds = measure(contenders(tuple(shape), comm, size, plain), job["repeats"], comm)
            found.append({"shape": shape, "bytes": sizes, "seconds": seconds})
    if rank == 0:
        Path(job["file"]).write_text(json.dumps({"library": library, "found": found}))


if __name__ == "__main__":
    main()
