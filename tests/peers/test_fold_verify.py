"""test_fold_verify: how a folded ONNX model is compared with the original: which wrong folds fail, and which right ones
do not."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import Build  # noqa: E402

from cbn.interop.fold_onnx import fold  # noqa: E402
from cbn.interop.verify_onnx import Original, verify  # noqa: E402


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
    agreement = verify(model, fold(model).model, np.full((1, 1, 4, 4), 10, np.float32))
    assert not agreement.ok and agreement.notes == ('"y" is nowhere finite and was not compared',)
    assert str(agreement) == "nothing could be verified"


def test_open_dimensions():
    """One name is one number, and the first one is that of the batch, wherever it is."""
    build = Build().op("Conv", "x w", "y").op("Relu", "c", "v")
    build.constant("w", (4, 3, 9, 9))
    model = build.model(["batch", 3, "height", None], "y v", c=[None, "batch", 5])
    assert {k: v.shape for k, v in Original(model).runs[0][0].items()} == {"x": (2, 3, 32, 32), "c": (2, 2, 5)}


def test_integers():
    """An output of integers may differ in few values."""

    def largest(weight):
        build = Build().op("Add", "x w", "z").op("ArgMax", "z", "y", axis=1)
        build.constant("w", weight)
        model = build.bare([400, 3])
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
        return model

    assert verify(largest([0, 0, 0]), largest([1e-4, 0, 0])).ok
    agreement = verify(largest([0, 0, 0]), largest([1, 0, 0]))
    assert not agreement.ok and 0.1 < agreement.error < 0.5
    assert str(agreement).endswith('of the values of "y" differ')


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2e-2), ("float32", 1e-4), ("float64", 1e-10)])
def test_bounds(dtype, bound):
    """By the coarser of output and weights, so that a float16 model with a Cast at its end has float16's."""
    build = Build(dtype).op("Gemm", "x w", "z").norm("z", "n", 5).op("Cast", "n", "y", to=TensorProto.DOUBLE)
    build.constant("w", (3, 5))
    model = build.bare([4, 3])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    agreement = verify(model, fold(model).model)
    assert agreement.ok and agreement.bound == bound


def test_inputs_of_other_types():
    kinds = {"u": "UINT8", "i": "INT64", "b": "BOOL", "h": "FLOAT16"}
    nodes = [helper.make_node("Cast", [name], [f"{name}y"], to=TensorProto.FLOAT) for name in kinds]
    nodes += [helper.make_node("Sum", [f"{name}y" for name in kinds], ["y"])]
    inputs = [helper.make_tensor_value_info(name, getattr(TensorProto, k), ["n", 3]) for name, k in kinds.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    assert verify(model, ir.from_proto(model)).error == 0
    assert [feeds["b"].all() for feeds, _ in Original(model).runs] == [True, False]


# --- wrong folds fail ---


def block(x="x", z="z", y="n", build=None, dtype="float32", channels=4):
    """A convolution and a norm."""
    build = build or Build(dtype)
    names = build.constant(f"{z}.w", (channels, channels, 3, 3)), build.constant(f"{z}.b", channels)
    return build.op("Conv", " ".join([x, *names]), z, pads=[1] * 4).norm(z, y, channels)


def with_outputs(build, outputs, kind=TensorProto.FLOAT, **numbers):
    model = build.bare([2, 4, 6, 6], outputs)
    for output in model.graph.output:
        output.type.tensor_type.elem_type = kind
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in numbers.items())
    return model


def spoiled(model, name="z.b", by=0.1, channel=0):
    """A folded model with one wrong number."""
    model = ir.from_proto(fold(model).model)
    array = model.graph.initializers[name].const_value.numpy().copy()
    array[channel] += by
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


def detector():
    """Boxes in pixels beside probabilities."""
    build = block().op("Sigmoid", "n", "p").op("Mul", "n s", "b").op("Concat", "b p", "y", axis=1)
    build.constant("s", np.array(1e4))
    return with_outputs(build, "y")


def saturated():
    build = block().op("ReduceMean", "n", "r", axes=[2, 3], keepdims=0).op("Mul", "r k", "s").op("Softmax", "s", "y")
    build.constant("k", np.array(1e4))
    return with_outputs(build, "y")


def dead():
    build = block().op("Sub", "n k", "q").op("Relu", "q", "y")
    build.constant("k", np.array(1e4))
    return with_outputs(build, "y")


def empty():
    build = block().op("Greater", "n k", "q").op("NonZero", "q", "y")
    build.constant("k", np.array(1e4))
    return with_outputs(build, "y", TensorProto.INT64)


def nan():
    build = block().op("Sub", "n n", "q").op("Div", "q q", "y")
    return with_outputs(build, "y")


def table():
    """A float16 table in a float32 model."""
    build = (
        block().op("Cast", "t", "f", to=TensorProto.FLOAT).op("ReduceMean", "f", "m", keepdims=1).op("Add", "n m", "y")
    )
    return with_outputs(build, "y", t=np.zeros((1, 4, 1, 1), np.float16))


MODELS = {
    "detector": (detector, None),
    "saturated": (saturated, None),
    "dead": (dead, '"y" is constant and verifies nothing'),
    "empty": (empty, '"y" is empty and verifies nothing'),
    "nan": (nan, '"y" is nowhere finite and was not compared'),
    "table": (table, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_wrong_folds_behind_deaf_outputs(name):
    """What the outputs do not show is seen at the norm itself."""
    model, note = MODELS[name][0](), MODELS[name][1]
    right, wrong = verify(model, fold(model).model), verify(model, spoiled(model, by=0.01))
    assert right.ok and right.notes == ((note,) if note else ()), right
    assert not wrong.ok and wrong.output == "n" and wrong.bound == 1e-4


def test_channels_by_themselves():
    """A wrong channel of small values counts as much as one of large ones; a right one may have tiny values."""
    build = block()
    for name in ("n.scale", "n.B"):
        build.constants[name] *= np.array([1e-6, 1, 1e6, 1e-30], np.float32)
    model = with_outputs(build, "n")
    assert verify(model, fold(model).model).error < 1e-5
    assert not verify(model, spoiled(model, by=1e-8)).ok


def test_terms_that_cancel():
    """The original itself is as far off as what it subtracts allows."""
    build = block()
    build.constants |= {"n.mean": np.full(4, 1e4, np.float32), "z.b": np.full(4, 1e4, np.float32)}
    model = with_outputs(build, "n")
    assert verify(model, fold(model).model).ok


@pytest.mark.parametrize("branch", [True, False])
def test_branches(branch):
    """Both run where the condition is an input; where it is a constant, the other one is named."""
    graphs = {}
    for k, name in enumerate(("then_branch", "else_branch")):
        inner = block(z=f"z{k}", y=f"y{k}", build=Build(seed=k))
        graphs[name] = inner.graph({}, f"y{k}", name)
    model = with_outputs(Build().op("If", "c", "y", **graphs), "y")
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    name = "z0.b" if branch else "z1.b"
    assert verify(model, fold(model).model).ok and not verify(model, spoiled(model, name)).ok
    del model.graph.input[-1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(branch), "c"))
    agreement = verify(model, fold(model).model)
    other = "Y1" if branch else "Y0"
    assert agreement.ok and agreement.notes == (f'norm "{other}" is in a branch that was not seen to run',)


# --- right folds do not ---


def test_deep_networks():
    """Each norm is compared by itself; what adds up behind 50 of them is only said."""
    build, x, rng = Build(), "x", np.random.default_rng(0)
    for k in range(50):
        block(x, f"z{k}", f"n{k}", build).op("Relu", f"n{k}", f"r{k}")
        build.constants[f"n{k}.B"] += np.float32(rng.uniform(0, 1))
        x = f"r{k}"
    model = with_outputs(build.op("Mul", f"{x} {x}", "y"), "y")
    agreement = verify(model, fold(model).model)
    assert agreement.ok and agreement.error < 1e-5 and agreement.overall > 0


def test_coarse_behind_fine():
    """Rounding to float16 or to integers turns a small error into a larger one."""
    build = block().op("Cast", "n", "h", to=TensorProto.FLOAT16).op("Cast", "h", "y", to=TensorProto.FLOAT)
    model = with_outputs(build, "y")
    assert verify(model, fold(model).model).error < 1e-5


def test_random_outputs():
    model = with_outputs(block().op("RandomNormalLike", "n", "r").op("Add", "n r", "y"), "y")
    agreement = verify(model, fold(model).model)
    assert agreement.ok and agreement.notes == ('"y" is random and was not compared',)
    assert not verify(model, spoiled(model)).ok


def test_weights_in_other_files(tmp_path, monkeypatch):
    """Of a model in memory, wherever the process is."""
    model = block().model([2, 4, 6, 6], "n")
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="data", size_threshold=8)
    monkeypatch.chdir(tmp_path)
    given = ir.load(path)
    assert verify(path, fold(given).model).ok and verify(given, path).error == 0


def test_inputs_that_are_too_large():
    model = Build().op("Add", "x z", "y").model([2**14, 2**14], z=[1])
    with pytest.raises(
        ValueError, match=r"inputs must be smaller to be chosen at random; got shape \(16384, 16384\) for x"
    ):
        verify(model, model)
