"""test_command_page: the commands of docs/command-line.md print what it shows."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import needs_openmp
from test_explain_command import write_arrays

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
BLOCKS = re.findall(r"^```\n\$ python -m cbn (.+)\n([^`]+)^```$", PAGE, re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def case(command, wanted):
    name = command.split()[0]
    return pytest.param(command.split(), wanted, id=name, marks=needs_openmp if name == "config" else ())


def test_all_blocks_are_found():
    names = [command.split()[0] for command, _ in BLOCKS]
    assert names == ["folds", "check", "config", "explain", "fold"] and len(names) == PAGE.count("\n$ ")


def write_model(path):
    for library in ("onnx_ir", "onnxruntime"):
        pytest.importorskip(library)
    onnx = pytest.importorskip("onnx")
    from onnx_models import Build

    build = Build()
    build.op("Conv", f"x {build.constant('w', (4, 3, 3, 3))}", "z").norm("z", "n", 4).op("Relu", "n", "y")
    onnx.save(build.model(["batch", 3, 8, 8]), path)


@pytest.mark.parametrize(("arguments", "wanted"), [case(*block) for block in BLOCKS])
def test_block(arguments, wanted, tmp_path):
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    write_arrays(tmp_path)
    if arguments[0] == "fold":
        write_model(tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "cbn", *arguments],
        cwd=tmp_path,
        env=os.environ | {"CBN_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (2 if arguments[0] == "folds" else 0)
    got = done.stdout or done.stderr
    assert doctest.OutputChecker().check_output(wanted, got, FLAGS), got
    if "--plot" in arguments:
        assert (tmp_path / arguments[-1]).stat().st_size > 0
