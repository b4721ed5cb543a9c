"""test_fold_command: `python -m cbn fold` on models of a user, and how it verifies them."""

import json
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import Build, constants, ops  # noqa: E402
from test_cli import refused, run  # noqa: E402

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
    assert lines[2].endswith(' of the largest value of output "y" (random input)') and len(lines) == 3
    found = json.loads(answer.read_text())
    assert found["folded"] == [{"norm": "N", "into": "Z", "how": "Conv before it"}] and found["left"][0]["norm"] == "Y"
    assert found["ok"] and 0 <= found["error"] < 1e-5 and found["output"] == "y" and found["bound"] == 1e-4
    assert ops(onnx.load(out)) == ["Conv", "Relu", "BatchNormalization"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answer.json", "model.onnx", "out.onnx"]


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
    assert (
        status == 2 and "model must run in onnxruntime with these inputs; got: " in text and "--sample may" not in text
    )


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
    assert main(capsys, path, path)[0] == 0
    np.testing.assert_array_equal(constants(onnx.load(path))["w"], constants(onnx.load(out))["w"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data", "sub"]


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
    assert "original must have finite values in an output for these inputs; got none" in main(capsys, path, out)[2]


# --- verification ---


def affine(add, output="y", mul=1.0):
    """Two outputs: x, and x with something added."""
    build = Build().op("Mul", "x m", "p").op("Add", "p a", "y").op("Identity", "x", "same")
    build.constant("a", add)
    build.constant("m", mul)
    return build.model([2, "n"], "same y")


def test_errors():
    x = np.array([[4.0, np.inf], [np.nan, 1.0]], np.float32)
    agreement = verify(affine(0.0), affine(1e-3), x)
    assert agreement.output == "y" and not agreement.ok
    np.testing.assert_allclose(agreement.error, 1e-3 / 4, rtol=1e-3)
    assert verify(affine(0.0), affine(np.inf), x).error == verify(affine(0.0), affine(np.nan), x).error == np.inf
    assert verify(affine(np.inf), affine(0.0), x).error == 0
    assert verify(affine(0.0), affine(1e-5), {"x": x}).ok
    with pytest.raises(ValueError, match="sample must have arrays by name for the inputs x, z; got one array"):
        verify(Build().op("Add", "x z", "y").model([2], z=[2]), affine(0.0), x)


def test_as_written():
    """Not as ONNX Runtime would make it: folded, this one would not overflow."""
    build = Build().op("Conv", "x w", "z").norm("z", "y", 1)
    build.constant("w", np.full((1, 1, 1, 1), 3e38))
    build.constant("y.scale", [1e-30])
    model = build.model([1, 1, 4, 4])
    with pytest.raises(ValueError, match="original must have finite values in an output"):
        verify(model, fold(model).model, np.full((1, 1, 4, 4), 10, np.float32))


def test_open_dimensions():
    """One name is one number, and the first one is that of the batch, wherever it is."""
    build = Build().op("Conv", "x w", "y").op("Relu", "c", "v")
    build.constant("w", (4, 3, 9, 9))
    model = build.model(["batch", 3, "height", None], "y v", c=[None, "batch", 5])
    assert {k: v.shape for k, v in Original(model).feeds.items()} == {"x": (2, 3, 32, 32), "c": (2, 2, 5)}


def test_integers():
    """An output of integers may differ in few values."""

    def largest(weight):
        build = Build().op("Add", "x w", "z").op("ArgMax", "z", "y", axis=1)
        build.constant("w", weight)
        model = build.bare([400, 3])
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        return model

    assert verify(largest([0, 0, 0]), largest([1e-4, 0, 0])).ok
    agreement = verify(largest([0, 0, 0]), largest([1, 0, 0]))
    assert not agreement.ok and 0.1 < agreement.error < 0.5
    assert str(agreement).endswith('of the values of output "y" differ')


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2e-2), ("float32", 1e-4), ("float64", 1e-10)])
def test_bounds(dtype, bound):
    """By the coarser of output and weights, so that a float16 model with a Cast at its end has float16's."""
    build = Build(dtype).op("Gemm", "x w", "z").norm("z", "n", 5).op("Cast", "n", "y", to=onnx.TensorProto.DOUBLE)
    build.constant("w", (3, 5))
    model = build.bare([4, 3])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    agreement = verify(model, fold(model).model)
    assert agreement.ok and agreement.bound == bound


def test_inputs_of_other_types():
    kinds = {"u": "UINT8", "i": "INT64", "b": "BOOL", "h": "FLOAT16"}
    nodes = [helper.make_node("Cast", [name], [f"{name}y"], to=onnx.TensorProto.FLOAT) for name in kinds]
    nodes += [helper.make_node("Sum", [f"{name}y" for name in kinds], ["y"])]
    inputs = [helper.make_tensor_value_info(name, getattr(onnx.TensorProto, k), ["n", 3]) for name, k in kinds.items()]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    assert verify(model, ir.from_proto(model)).error == 0
