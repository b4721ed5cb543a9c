"""alone: what MPICommunicator refuses, and what goes through a pickle, on one rank."""

import os
import pickle

import numpy as np
import pytest
from mpi4py import MPI

from cbn.interop.mpi import MPICommunicator, SyncBatchNorm

with pytest.raises(TypeError, match=r"comm must be an mpi4py\.MPI\.Intracomm; got int"):
    MPICommunicator(3)
with pytest.raises(ValueError, match=r"comm must have this process among its ranks; got MPI\.COMM_NULL"):
    SyncBatchNorm(2, comm=MPI.COMM_NULL)
with pytest.raises(ValueError, match="timeout must be a number of seconds above 0; got 0"):
    MPICommunicator(timeout=0)
layer = SyncBatchNorm(2)
y = layer(np.arange(8.0).reshape(4, 2))
again = pickle.loads(pickle.dumps(layer))
assert again._exchange.communicator.comm == MPI.COMM_WORLD
np.testing.assert_array_equal(again.eval()(y), layer.eval()(y))
ranks = MPICommunicator()
assert ranks.allgather(np.ones(2)).tolist() == [[1, 1]]
with ranks._line.taken(), pytest.raises(RuntimeError, match="one thread at a time; got a second one"):
    MPICommunicator().allgather(np.ones(2))
child = os.fork()
if child == 0:
    try:
        layer.train()(np.arange(8.0).reshape(4, 2))
    except RuntimeError as error:
        os._exit(5 if "by the process that MPI knows; got a child of it, by fork" in str(error) else 6)
    finally:
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
print("passed")
