"""test_dask_page: the program for Dask in docs/population-statistics.md runs as the page says."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cbn

pytest.importorskip("distributed")

PAGE = Path(__file__).parents[2] / "docs" / "population-statistics.md"


def test_the_program(tmp_path):
    (program,) = re.findall(r"^```python\n(import dask.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for large, small in (
        ("10_000", "40"),
        ("chunks=(100", "chunks=(20"),
        ("(threads", '(dashboard_address="127.0.0.1:0", threads'),
    ):
        assert large in program
        program = program.replace(large, small)
    (tmp_path / "moments.py").write_text(program)
    images = np.random.default_rng(1).normal(1, 2, (50, 3, 8, 8))
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run([sys.executable, "moments.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (np.array(line.split(), float) for line in re.findall(r"\[(.*)\]", done.stdout))
    np.testing.assert_allclose(first, images.mean(axis=(0, 2, 3)), rtol=1e-7)
    assert np.abs(second).max() < 0.02
    assert cbn.Moments.load(tmp_path / "images.npz").count == 50 * 64
