"""all_cases: runs every case of on_ranks, or those that are named, on the ranks of MPI; rank 0 prints what came out."""

import sys

import on_ranks
from mpi4py import MPI

from cbn.interop.mpi import MPICommunicator

world = MPI.COMM_WORLD
ranks = on_ranks.Ranks(MPICommunicator(timeout=30), world.rank, world.size, world.allgather)
for name in sys.argv[1:] or on_ranks.CASES:
    on_ranks.CASES[name](ranks)
    world.Barrier()
bits = on_ranks.bits(ranks)
if world.rank == 0:
    print(f"{len(sys.argv[1:] or on_ranks.CASES)} cases passed on {world.size} ranks, bits {bits}")
