"""faults: one rank goes wrong in the way that is named, in the middle of training; each rank prints what it sees."""

import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI

from cbn.interop.mpi import MPICommunicator, RankError, SyncBatchNorm

world, fault = MPI.COMM_WORLD, sys.argv[1]
layer = SyncBatchNorm(3, comm=MPICommunicator(timeout=float(sys.argv[2])))
x = np.random.default_rng(world.rank).standard_normal((4, 3))
layer(x)
if world.rank == 1:
    if fault == "raises":
        raise ValueError("the data of rank 1 are damaged")
    if fault == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exits":
        sys.exit(3)
    if fault == "is elsewhere":
        world.Barrier()
    if fault == "stops":
        time.sleep(1000)
try:
    layer(x if world.rank != 1 else x[:, :2])
except (RankError, ValueError, TimeoutError) as error:
    print(f"rank {world.rank}: {type(error).__name__}: {error}", flush=True)
    if isinstance(error, TimeoutError):
        try:
            SyncBatchNorm(3)(x)  # any layer that uses the same ranks
        except TimeoutError as again:
            print(f"rank {world.rank}, again: {again}", flush=True)
    if fault != "wrong shape":
        raise
print(f"rank {world.rank} goes on: {layer(x).shape}", flush=True)
