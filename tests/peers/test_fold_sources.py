"""test_fold_sources: folding where constants are computed or shared, names occur twice, or no-ops lie between."""

import itertools

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import Build, agrees, constants, folds, ops, stays  # noqa: E402

from cbn.interop.fold_onnx import fold  # noqa: E402
from cbn.interop.run_onnx import run, start  # noqa: E402
from cbn.interop.verify_onnx import verify  # noqa: E402

IMAGE = [2, 4, 5, 5]


def conv(build, x="x", z="z"):
    return build.op("Conv", f"{x} {build.constant(f'{z}.w', (4, 4, 3, 3))} {build.constant(f'{z}.b', 4)}", z)


def with_numbers(model, **arrays):
    """Constants of other types."""
    model.graph.initializer.extend(numpy_helper.from_array(np.array(a), name) for name, a in arrays.items())
    return onnx.shape_inference.infer_shapes(model)


def with_nodes(build, **arrays):
    """Constants as nodes."""
    heads = [
        helper.make_node("Constant", [], [k], f"node_{k}", value=numpy_helper.from_array(a)) for k, a in arrays.items()
    ]
    build.nodes = heads + build.nodes
    for name in arrays:
        build.constants.pop(name, None)
    return build


# --- names ---


def conditional(bodies, outputs="out", main=None):
    """A model with a branch for each of two bodies."""
    names = ("then_branch", "else_branch")
    graphs = {name: body.graph({}, body.nodes[-1].output[0], name) for name, body in zip(names, bodies, strict=True)}
    model = (main or Build()).op("If", "c", "out", **graphs).bare(IMAGE, outputs)
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return model


@pytest.mark.parametrize("nodes", [False, True])
def test_names_in_sibling_branches(nodes):
    """Each branch has its own z.w; the outermost graph, where the new ones go, has room for one of that name."""
    bodies = [conv(Build(seed=k)).norm("z", "y", 4) for k in (1, 2)]
    model = conditional([with_nodes(body, **body.constants) if nodes else body for body in bodies])
    found = fold(model)
    assert len(found.folded) == 2 and len(constants(found.model)) == 4
    x = np.random.default_rng(0).standard_normal(IMAGE).astype(np.float32)
    for c in (True, False):
        wanted, got = (run(start(ir.from_proto(m)), {"x": x, "c": np.array(c)})["out"] for m in (model, found.model))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_names_in_a_branch_and_outside():
    """The outer z.w is not the inner one, which ONNX Runtime allows of weights."""
    main = conv(Build(seed=1), z="u").norm("u", "v", 4)
    main.constants["z.w"] = main.constants.pop("u.w")
    main.nodes[0].input[1] = "z.w"
    model = conditional([conv(Build(seed=2)).norm("z", "y", 4), Build().op("Neg", "v", "n")], "v out", main)
    found = fold(model)
    assert len(found.folded) == 2
    agreement = verify(model, found.model)
    assert agreement.ok and agreement.notes == ()


def test_names_keep_their_numbers():
    """What has other numbers than before has another name."""
    build = Build().op("MatMul", "x w", "p").op("Add", "p c", "z").norm("z", "y", 5)
    build.constant("w", (3, 5))
    build.constant("c", 5)
    new = folds(build.model([4, 3]))
    assert [list(node.output) for node in new.graph.node] == [["z_product"], ["y"]]


# --- constants that are shared or computed ---


@pytest.mark.parametrize("names", ["zero zero", "zero same", "same zero"])
def test_one_constant_for_two_parameters(names):
    build = conv(Build())
    build.op("BatchNormalization", f"z s {names} v", "y")
    build.constant("s", 4)
    build.constant("v", np.ones(4))
    build.nodes.insert(0, helper.make_node("Identity", ["zero"], ["same"]))
    new = folds(with_nodes(build, zero=np.zeros(4, np.float32)).model(IMAGE))
    assert set(constants(new)) == {"z.w", "z.b"} and ops(new)[-1] == "Conv"


COMPUTED = {
    "Cast": (lambda w: w.astype(np.float16), "w0", {"to": TensorProto.FLOAT}),
    "CastLike": (lambda w: w.astype(np.float16), "w0 x", {}),
    "Transpose": (lambda w: w.transpose(3, 2, 0, 1), "w0", {"perm": [2, 3, 1, 0]}),
    "Reshape": (np.ravel, "w0 shape", {}),
    "Unsqueeze": (lambda w: w[:, :, 0, 0], "w0 axes", {}),
    "Squeeze": (lambda w: w[None], "w0 axis", {}),
}


@pytest.mark.parametrize("op", COMPUTED)
def test_computed_weights(op):
    change, inputs, attributes = COMPUTED[op]
    build = Build().op(op, inputs, "w", **attributes).op("Conv", "x w", "z").norm("z", "y", 4)
    size = 1 if op == "Unsqueeze" else 3
    build.constants["w0"] = change(build.rng.uniform(-1, 1, (4, 4, size, size)).astype(np.float32))
    numbers = {"shape": [4, 4, 3, 3], "axes": [2, 3], "axis": [0]}
    new = folds(with_numbers(build.model(IMAGE), **{k: v for k, v in numbers.items() if k in inputs.split()}))
    assert ops(new) == ["Conv"] and set(constants(new)) == {"w", "w_bias"}


def test_zeros_of_the_shape_of_a_weight():
    """What torch makes of bias=False: zeros of the type of x, as many as the weight has outputs."""
    build = Build(opset=18).op("Shape", "w", "s", start=0, end=1).op("CastLike", "zero x", "o").op("Expand", "o s", "b")
    build.op("Conv", "x w b", "z").norm("z", "y", 4)
    build.constant("w", (4, 4, 3, 3))
    build.constant("zero", ())
    new = folds(build.model(IMAGE))
    assert ops(new) == ["Conv"] and set(constants(new)) == {"w", "b"}
    build = Build().op("ConstantOfShape", "s", "b").op("Conv", "x w b", "z").norm("z", "y", 4)
    build.constant("w", (4, 4, 3, 3))
    assert ops(folds(with_numbers(build.model(IMAGE), s=[4]))) == ["Conv"]


@pytest.mark.parametrize("size", [10**12, 5])
def test_constants_that_cannot_be_computed(size):
    build = Build().op("ConstantOfShape", "s", "b").op("Conv", "x w b", "z").norm("z", "y", 4)
    build.constant("w", (4, 4, 3, 3))
    reason = "has more than 268435456 values, made by B (ConstantOfShape)" if size > 5 else "bias must have shape (4,)"
    stays(with_numbers(build.model(IMAGE), s=[size]), reason)
    build.nodes[:1] = [helper.make_node("Neg", ["w"], ["v"], "V"), helper.make_node("Cast", ["v"], ["b"], to=1)]
    stays(build.model(IMAGE), "is not a constant: it comes from V (Neg)")


def test_computed_constants_of_others_stay():
    build = Build().op("Cast", "w0", "w", to=TensorProto.FLOAT).op("Conv", "x w", "z").norm("z", "y", 4)
    build.op("Identity", "w", "same")
    build.constants["w0"] = np.ones((4, 4, 3, 3), np.float16)
    new = folds(build.model(IMAGE, "y same"))
    assert ops(new) == ["Cast", "Conv", "Identity"] and set(constants(new)) == {"w0", "w_1", "w_bias"}


# --- between the two ---


@pytest.mark.parametrize("between", [["Identity"], ["Dropout"], ["Identity", "Dropout", "Identity"]])
@pytest.mark.parametrize("after", [False, True])
def test_no_ops(between, after):
    build = Build().norm("x", "n0", 4) if after else conv(Build(), "x", "n0")
    for k, op in enumerate(between):
        build.op(op, f"n{k}", f"n{k + 1}")
    last = f"n{len(between)}"
    build = conv(build, last, "y") if after else build.norm(last, "y", 4)
    assert ops(folds(build.model(IMAGE))) == ["Conv"]


def test_no_ops_of_others():
    """One whose output goes elsewhere is no mere link, nor is a Dropout that trains."""
    build = conv(Build()).op("Identity", "z", "i").norm("i", "y", 4)
    stays(build.model(IMAGE, "y i"), "its input comes from I (Identity), which cannot take it")
    stays(build.model(IMAGE, "y z"), "its input is an output of the graph, too")
    build = conv(Build()).op("Dropout", "z ratio train", "d").norm("d", "y", 4)
    build.constant("ratio", 0.5)
    stays(with_numbers(build.model(IMAGE), train=True), "its input comes from D (Dropout), which cannot take it")
    folds(with_numbers(build.model(IMAGE), train=False))
    stays(conv(Build()).op("Dropout", "z", "d m").norm("d", "y", 4).model(IMAGE, "y m"), "comes from D M (Dropout)")


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(
    ("order", "shape"), list(itertools.product(["z c", "c z"], [(1, 4, 1, 1), (4, 1, 1), (1, 1), ()]))
)
def test_a_constant_behind_a_convolution(op, order, shape):
    build = conv(Build()).op(op, order, "v").norm("v", "y", 4)
    build.constant("c", shape)
    new = folds(build.model(IMAGE))
    assert ops(new) == ["Conv"] and set(constants(new)) == {"z.w", "z.b"}


@pytest.mark.parametrize("shape", [(4,), (1, 4, 3, 3), (2, 1, 1, 1), (1, 1, 1, 1, 1)])
def test_another_constant_behind_a_convolution(shape):
    build = conv(Build()).op("Add", "z c", "v").norm("v", "y", 4)
    build.constant("c", np.ones(shape) if shape != (4,) else np.ones((1, 1, 1, 3)))
    model = build.model(IMAGE)
    stays(model, "what V takes must have shape (1, 4, 1, 1); got ")


# --- ranks and outputs that the model does not say ---


def test_inferred_rank():
    """A product without bias, as torch's older exporter writes it; what is written stays without shapes."""
    build = Build().op("Relu", "x", "r").op("MatMul", "r w", "p").norm("p", "n", 5).op("Relu", "n", "y")
    build.constant("w", (3, 5))
    model = build.model([4, 3])
    del model.graph.value_info[:]
    new = folds(model)
    assert ops(new) == ["Relu", "MatMul", "Add", "Relu"]
    assert not {value.name for value in new.graph.value_info} & {"r", "n", "n_product"}


def test_outputs_without_a_name():
    """ONNX Runtime without optimizations would crash here."""
    build = conv(Build(opset=9))
    model = build.norm("z", "y", 4).model(IMAGE)
    model.graph.node[-1].output.extend([""] * 4)
    found = fold(model)
    assert len(found.folded) == 1 and verify(model, found.model).ok
    model = Build(opset=9).norm("x", "y", 4).model(IMAGE)
    model.graph.node[-1].output.extend([""] * 4)
    assert verify(model, fold(model).model).ok


def test_paths(tmp_path):
    """What is in a file becomes a model of onnx_ir; its weights may stay where they are."""
    model = conv(Build()).norm("z", "y", 4).model(IMAGE)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=8)
    found = fold(tmp_path / "m.onnx")
    assert isinstance(found.model, ir.Model) and len(found.folded) == 1
    agrees(onnx.load(tmp_path / "m.onnx"), ir.to_proto(found.model))
