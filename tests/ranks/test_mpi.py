"""test_mpi: synchronized layers on real ranks of MPI, started by mpiexec: what they compute, and how they fail."""

import re

import pytest

pytest.importorskip("mpi4py")
import on_ranks
from launch import TCP, launch, mpiexec

pytestmark = pytest.mark.skipif(mpiexec() is None, reason="there is no mpiexec")


def bits(process):
    assert process.returncode == 0, process.stdout + process.stderr
    cases, found = re.search(r"^(\d+) cases passed on \d+ ranks, bits (\w+)$", process.stdout, re.MULTILINE).groups()
    assert int(cases) > 0
    return found


def in_threads(size):
    (found,) = set(on_ranks.in_threads(size, on_ranks.bits))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_case_and_the_bits_of_threads(size):
    assert bits(launch(size, "all_cases.py")) == in_threads(size)


@pytest.mark.parametrize("env", [TCP, {"OMPI_MCA_coll": "basic,libnbc,self"}], ids=["tcp", "other algorithms"])
def test_other_ways_of_mpi_give_the_same_bits(env):
    assert bits(launch(3, "all_cases.py", "dtypes", env=env)) == in_threads(3)


def test_a_wrong_shape_on_one_rank_is_an_error_on_all_who_then_go_on():
    process = launch(3, "faults.py", "wrong shape", 30)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "rank 1: ValueError: x must have 3 channels" in process.stdout
    for rank in (0, 2):
        assert f"rank {rank}: RankError: forward must succeed on every rank; got ValueError: x must" in process.stdout
    assert process.stdout.count("goes on: (4, 3)") == 3


@pytest.mark.parametrize(
    ("fault", "run", "seen"),
    [
        ("raises", ("-m", "mpi4py"), "valueerror: the data of rank 1 are damaged"),
        ("exits", ("-m", "mpi4py"), "mpi_abort"),
        ("dies", ("-m", "mpi4py"), "signal 9|exit code: 9"),
        ("dies", (), "signal 9|exit code: 9"),
    ],
)
def test_a_rank_that_ends_ends_all(fault, run, seen):
    """Of an exception in the program the launcher hears by -m mpi4py; of a death always."""
    process = launch(3, "faults.py", fault, 60, run=run)
    assert process.returncode != 0
    assert re.search(seen, (process.stdout + process.stderr).lower())
    assert "goes on" not in process.stdout


@pytest.mark.parametrize(
    ("fault", "run"), [("is elsewhere", ("-m", "mpi4py")), ("stops", ("-m", "mpi4py")), ("raises", ())]
)
def test_ranks_that_wait_in_vain_say_so(fault, run):
    process = launch(3, "faults.py", fault, 1, run=run)
    assert process.returncode != 0
    assert "TimeoutError: allgather must be joined by every rank within 1 s" in process.stdout + process.stderr
    assert "again: allgather must not be called after it was left without an answer" in process.stdout
    assert "goes on" not in process.stdout


def test_communicators_are_checked():
    """In one process, which is a world of one rank."""
    process = launch(1, "alone.py")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout == "passed\n"
