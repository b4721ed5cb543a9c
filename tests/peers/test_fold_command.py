"""test_fold_command: `python -m cbn fold` on models of a user, and how it verifies them."""

import json
import os
import re
import signal
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import Build, constants, ops  # noqa: E402
from test_cli import refused, run  # noqa: E402
from test_console import Terminal, without_codes  # noqa: E402

from cbn import cli, fold_command  # noqa: E402
from cbn.interop.fold_onnx import fold  # noqa: E402
from cbn.interop.verify_onnx import Original, verify  # noqa: E402


def block(dtype="float32"):
    """A convolution and its norm, and a norm that stays."""
    build = Build(dtype)
    build.op("Conv", f"x {build.constant('w', (4, 3, 3, 3))}", "z", pads=[1] * 4).norm("z", "n", 4)
    return build.op("Relu", "n", "r").norm("r", "y", 4)


@pytest.fixture
def model(tmp_path):
    onnx.save(block().model(["batch", 3, "height", None]), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def main(capsys, *arguments):
    """The status and the texts, without a process of its own."""
    status = cli.main(["fold", *map(str, arguments)])
    return status, *capsys.readouterr()


# --- what it says and writes ---


def test_answer(model, tmp_path):
    out, answer = tmp_path / "out.onnx", tmp_path / "answer.json"
    lines = run("fold", model, out, "--json", answer).stdout.splitlines()
    assert lines[0] == "folded: N into Z (Conv before it)"
    assert lines[1].startswith("left:   Y: its input comes from R (Relu), which cannot take it; its output is")
    assert lines[2].startswith("1 of 2 folded; largest difference ")
    assert lines[2].endswith(' of the largest value of "n" (random input)') and len(lines) == 3
    found = json.loads(answer.read_text())
    assert found["folded"] == [{"norm": "N", "into": "Z", "how": "Conv before it"}] and found["left"][0]["norm"] == "Y"
    assert found["ok"] and 0 <= found["error"] < 1e-5 and found["output"] == "n" and found["bound"] == 1e-4
    assert [(one["output"], one["bound"]) for one in found["each"]] == [("y", 1e-4), ("n", 1e-4)]
    assert found["error"] == max(one["error"] for one in found["each"])
    assert ops(onnx.load(out)) == ["Conv", "Relu", "BatchNormalization"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answer.json", "model.onnx", "out.onnx"]


def test_on_a_terminal(model, tmp_path, monkeypatch):
    """A table, and what is being done; of a norm's name nothing that the terminal would obey."""
    pytest.importorskip("rich")
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    given = onnx.load(model)
    given.graph.node[1].name = "N\x1b[2J\n"
    onnx.save(given, model)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main(["fold", str(model), str(tmp_path / "out.onnx")]) == 0
    lines = [line.strip() for line in without_codes(sys.stdout.getvalue()).splitlines() if "─" not in line]
    assert lines[0].split() == ["result", "norm", "into", "what,", "or", "why", "not"]
    assert lines[1].split(maxsplit=2) == ["folded", "N?[2J?", "Z (Conv before it)"]
    assert lines[2].split(maxsplit=2)[:2] == ["left", "Y"] and lines[-1].startswith("1 of 2 folded; largest")
    steps = re.findall("fold: ([a-z ]+?) +━", without_codes(sys.stderr.getvalue()))
    assert list(dict.fromkeys(steps)) == ["reading", "running the original", "folding", "comparing"]


def test_in_place_and_nothing_to_fold(model, capsys):
    assert main(capsys, model, model)[0] == 0
    assert "BatchNormalization" in ops(onnx.load(model))[1:]
    before = onnx.load(model)
    status, output, _ = main(capsys, model, model)
    assert status == 0 and "0 of 1 folded; largest difference 0 of" in output
    assert onnx.load(model) == before
    onnx.save(Build().op("Relu", "x", "y").model([2, 3]), model)
    assert "nothing to fold: there is no BatchNormalization; largest" in main(capsys, model, model)[1]


def test_sample(model, tmp_path, capsys):
    sample = np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)
    np.save(tmp_path / "x.npy", sample)
    np.savez(tmp_path / "x.npz", x=sample)
    for name in ("x.npy", "x.npz"):
        status, output, _ = main(capsys, model, tmp_path / "out.onnx", "--sample", tmp_path / name)
        assert status == 0 and f"({name})" in output
    np.savez(tmp_path / "x.npz", other=sample)
    text = main(capsys, model, tmp_path / "out.onnx", "--sample", tmp_path / "x.npz")[2]
    assert "sample must have the inputs x; got other" in text
    np.save(tmp_path / "x.npy", sample.astype(np.float64))
    status, _, text = main(capsys, model, tmp_path / "out.onnx", "--sample", tmp_path / "x.npy")
    assert status == 2 and "model must run in onnxruntime with these inputs; got: " in text and "may give" not in text
    np.save(tmp_path / "x.npy", sample[:, :2])
    text = main(capsys, model, tmp_path / "out.onnx", "--sample", tmp_path / "x.npy")[2]
    assert "Got: 2 Expected: 3 Please fix" in text and text.count("\n") == 1


def test_plot(model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.onnx", tmp_path / "p.png"
    assert main(capsys, model, out, "--plot", plot)[0] == 0 and plot.read_bytes().startswith(b"\x89PNG")
    (full := tmp_path / "full.png").symlink_to("/dev/full")
    out.unlink()
    assert main(capsys, model, out, "--plot", full, "--json", tmp_path / "a.json")[0] == 2
    assert out.exists() and json.loads((tmp_path / "a.json").read_text())["ok"]  # the plot comes last
    taken = model.rename(tmp_path / "model.png")
    assert "--plot must be a file of its own; got" in main(capsys, taken, out, "--plot", taken)[2]
    assert "--plot must be a file of its own; got" in main(capsys, taken, plot, "--plot", plot)[2]
    onnx.save(Build().op("Relu", "x", "y").model([0, 3]), taken)
    plot.unlink()
    status, output, _ = main(capsys, taken, out, "--plot", plot)
    assert status == 1 and f"there is nothing to draw: {plot} was not written" in output and not plot.exists()


@pytest.mark.parametrize("wrong", ["differs", "cannot run"])
def test_failure(wrong, model, tmp_path, capsys, monkeypatch):
    """Nothing is written, and what was there stays."""

    def broken(given):
        found = fold(given)
        for value in found.model.graph.initializers.values():
            if value.name == "z.w_bias" or wrong == "cannot run":
                value.const_value = ir.tensor(value.const_value.numpy()[:3] + np.float32(1), name=value.name)
            elif value.name == "w_bias":
                value.const_value = ir.tensor(value.const_value.numpy() + np.float32(1), name=value.name)
        return found

    monkeypatch.setattr(fold_command, "fold", broken)
    out, answer = tmp_path / "out.onnx", tmp_path / "answer.json"
    out.write_bytes(b"old")
    status, output, _ = main(capsys, model, out, "--json", answer)
    assert status == 1 and f"{out} was not written" in output and out.read_bytes() == b"old"
    assert ("FAILED: the bound is 0.0001" if wrong == "differs" else "the folded model must run as the") in output
    assert json.loads(answer.read_text())["ok"] is False
    assert not list(tmp_path.glob(".cbn*"))


def test_external_data(tmp_path, capsys):
    """What is kept in a file beside the model is written to one again, also in place."""
    path, out = tmp_path / "model.onnx", tmp_path / "sub" / "out.onnx"
    out.parent.mkdir()
    onnx.save(
        block().model([2, 3, 9, 9]), path, save_as_external_data=True, location="model.onnx.data", size_threshold=64
    )
    original = onnx.load(path)
    assert main(capsys, path, out)[0] == 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert verify(original, onnx.load(out)).ok
    status, output, _ = main(capsys, path, path)
    assert status == 0 and "kept:   model.onnx.data, which the model no longer uses\n" in output
    np.testing.assert_array_equal(constants(onnx.load(path))["w"], constants(onnx.load(out))["w"])
    for _ in range(2):  # the second time there is nothing to fold
        names = ["model.onnx", "model.onnx.1.data", "model.onnx.data", "sub"]
        assert sorted(p.name for p in tmp_path.iterdir()) == names
        status, output, _ = main(capsys, path, path)
        assert status == 0 and "0 of 1 folded" in output and "kept" not in output


def test_files_that_are_in_the_way(model, tmp_path, capsys):
    """Nothing is written over but out.onnx: no weights, neither another model's nor those of the original."""
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="out.onnx.data", size_threshold=64)
    weights, out = tmp_path / "out.onnx.data", tmp_path / "out.onnx"
    content = model.read_bytes(), weights.read_bytes()
    assert "out.onnx.data must not exist yet" in main(capsys, model, out)[2]
    assert "out.onnx must be a file of its own; got" in main(capsys, model, weights)[2]
    for path in (model, weights, out, tmp_path / "other.onnx.data"):
        text = main(capsys, model, tmp_path / "other.onnx" if path != out else out, "--json", path)[2]
        assert "--json must be a file of its own; got" in text
    (tmp_path / "link.onnx").symlink_to(out)
    assert "out.onnx.data must not exist yet" in main(capsys, model, tmp_path / "link.onnx")[2]
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert "must be a file of its own" in main(capsys, model, tmp_path / "x.npy", "--sample", tmp_path / "x.npy")[2]
    assert (model.read_bytes(), weights.read_bytes()) == content and not out.exists()
    weights.unlink()
    assert "model.onnx must have weights that can be read; got [Errno 2]" in main(capsys, model, out)[2]


def test_constants_in_other_files(tmp_path, capsys):
    """Those that are attributes of nodes become part of the new model."""
    build = block()
    heads = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
        for name, array in build.constants.items()
    ]
    build.nodes, build.constants = heads + build.nodes, {}
    path, out = tmp_path / "model.onnx", tmp_path / "sub" / "out.onnx"
    out.parent.mkdir()
    options = {"save_as_external_data": True, "size_threshold": 8, "convert_attribute": True}
    onnx.save(build.model([2, 3, 9, 9]), path, location="weights", **options)
    assert main(capsys, path, out)[0] == 0
    (tmp_path / "weights").unlink()
    assert verify(build.model([2, 3, 9, 9]), out).ok


def test_json_that_cannot_be_written(model, tmp_path, capsys):
    status, _, text = main(capsys, model, tmp_path / "out.onnx", "--json", "/dev/full")
    assert status == 2 and "--json must be a file that can be written; got /dev/full: No space left" in text


def test_terminated(model, tmp_path, capsys, monkeypatch):
    """What is written for a while is removed, and SIGTERM then does what it did before."""

    def stop(*_):
        assert list(tmp_path.glob(".cbn-fold-*"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Original, "compare", stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        main(capsys, model, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"] and signal.getsignal(signal.SIGTERM) is before


# --- wrong requests ---


def test_refused(model, tmp_path):
    out = tmp_path / "out.onnx"
    assert "model.onnx must be a file that can be read; got missing.onnx: No such file" in refused(
        "fold", "missing.onnx", out
    )
    assert "out.onnx must be a file that can be written; got" in refused("fold", model, tmp_path / "none" / "out.onnx")
    assert "out.onnx must be an ordinary file; got /dev/null" in refused("fold", model, "/dev/null")
    assert "--sample must be a file that can be read" in refused("fold", model, out, "--sample", "x.npz")


@pytest.mark.parametrize("missing", ["onnx", "onnx_ir", "onnxruntime"])
def test_missing_library(missing, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, text = main(capsys, model, tmp_path / "out.onnx")
    assert status == 2 and f"cbn: {missing} must be installed (pip install 'cbn[onnx]')" in text


def test_damaged_files(model, tmp_path, capsys):
    """One line, whatever is cut off or overwritten; or else what is read can be run."""
    rng = np.random.default_rng(0)
    data, out = model.read_bytes(), tmp_path / "out.onnx"
    damaged = [b"", b"no model", data[:-40], data[: len(data) // 2]]
    for _ in range(150):
        some = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            some[place] = rng.integers(256)
        damaged.append(bytes(some))
    for content in damaged:
        model.write_bytes(content)
        status, _, text = main(capsys, model, out)
        assert status in (0, 1, 2) and (status < 2 or (text.startswith("cbn: ") and text.count("\n") == 1)), text


def test_original_that_cannot_run(tmp_path, capsys):
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(block("float64").model([2, 3, 9, 9]), path)
    assert "model must be one that onnxruntime can load; got: " in main(capsys, path, out)[2]
    onnx.save(Build().op("Relu", "x", "y").model([2, 10**6, 10**6]), path)
    assert "inputs must be smaller to be chosen at random; got shape (2, 1000000, 100" in main(capsys, path, out)[2]
    build = Build().op("Reshape", "x shape", "y")
    model = build.bare([None, None])
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 7, 11]), "shape"))
    onnx.save(model, path)
    status, _, text = main(capsys, path, out)
    assert status == 2 and text.endswith("--sample may give others\n") and not out.exists()
    onnx.save(Build().op("Log", "x", "l").op("Sub", "l l", "z").op("Div", "z z", "y").model([2]), path)
    status, output, _ = main(capsys, path, out)
    assert status == 1 and 'note:   "y" is nowhere finite and was not compared\n' in output
    assert "nothing could be verified (random input)\nFAILED: " in output and not out.exists()
