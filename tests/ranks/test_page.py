"""test_page: the program in docs/distributed.md runs as the page says."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")
from launch import launch, mpiexec

import cbn

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
pytestmark = pytest.mark.skipif(mpiexec() is None, reason="there is no mpiexec")


def test_the_first_program(tmp_path, monkeypatch):
    (program,) = re.findall(r"^```python\n(import .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    process = launch(2, tmp_path / "train.py")
    assert process.returncode == 0, process.stdout + process.stderr
    mean, var = re.search(r"^trained on 2 ranks: mean ([\d.]+), var ([\d.]+)$", process.stdout, re.MULTILINE).groups()
    assert abs(float(mean) - 3) < 0.2 and abs(float(var) - 4) < 0.5
    assert cbn.BatchNorm.load("norm.npz").num_batches_tracked == 100
