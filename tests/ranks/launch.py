"""launch: runs a program on several ranks of MPI, as a user would on one machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# what Open MPI wants to be told by root, and where there are more ranks than CPUs; MPICH does not ask
MAY = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",
}
TCP = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self"}


def mpiexec():
    """The one beside this Python, as the packages of MPI install it, or that of the system; None without."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def launch(ranks, program, *arguments, run=("-m", "mpi4py"), env=None, timeout=120):
    """The finished process: its exit status and what all ranks printed."""
    command = [mpiexec(), "-n", str(ranks), sys.executable, *run, str(HERE / program), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **MAY, **(env or {})}
    )
