"""test_digits_parallel: the digits network on several ranks of MPI, as its documentation starts it."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")
from launch import launch, mpiexec

import cbn

pytestmark = pytest.mark.skipif(mpiexec() is None, reason="there is no mpiexec")
PROGRAM = Path(__file__).parents[2] / "examples" / "digits_parallel.py"


@pytest.mark.parametrize("size", [2, 4])
def test_every_step_is_that_of_one_process(size, tmp_path):
    process = launch(size, PROGRAM, "--epochs", 2, "--save", tmp_path / "norm.npz")
    assert process.returncode == 0, process.stdout + process.stderr
    rows = re.findall(r"^epoch +(\d+) +loss ([\d.]+) +largest difference so far (\S+)$", process.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2]
    assert float(rows[1][1]) < float(rows[0][1]) and float(rows[1][2]) <= 1e-12
    assert "the ranks have the same parameters and statistics" in process.stdout
    assert float(re.search(r"test accuracy ([\d.]+)%", process.stdout)[1]) > 90
    assert cbn.BatchNorm.load(tmp_path / "norm.npz").num_batches_tracked == 44


def test_wrong_arguments_end_it():
    process = launch(1, PROGRAM, "--epochs", 0)
    assert process.returncode != 0 and "--epochs must be 1 or more; got 0" in process.stderr
