"""test_fold_onnx: which batch norms of an ONNX model fold, which stay and why, against ONNX Runtime."""

import itertools

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import Build, agrees, constants, folds, ops, stays  # noqa: E402

from cbn.interop.fold_onnx import fold  # noqa: E402
from cbn.interop.verify_onnx import verify  # noqa: E402

KERNELS = {1: (3,), 2: (3, 2), 3: (2, 1, 3)}
DTYPES = ["float32", "float64", "float16"]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def conv(build, x="x", z="z", out=4, into=4, kernel=(3, 3), groups=1, bias=True, transposed=False, **attributes):
    """A convolution of any kind, whose constants are called as its output."""
    shape = (into, out // groups, *kernel) if transposed else (out, into // groups, *kernel)
    names = [x, build.constant(f"{z}.w", shape)] + ([build.constant(f"{z}.b", out)] if bias else [])
    return build.op("ConvTranspose" if transposed else "Conv", " ".join(names), z, group=groups, **attributes)


# --- the operation before ---


@pytest.mark.parametrize(
    ("dtype", "transposed", "groups"),
    [
        (dtype, transposed, groups)
        for dtype, transposed, groups in itertools.product(DTYPES, (False, True), (1, 2, 4))
        if not (dtype == "float64" and transposed and groups > 1)  # which nothing can run
    ],
)
@pytest.mark.parametrize("rank", KERNELS)
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(dtype, transposed, groups, rank, bias):
    build = Build(dtype)
    conv(build, out=8, kernel=KERNELS[rank], groups=groups, bias=bias, transposed=transposed, strides=[2] * rank)
    new = folds(build.norm("z", "y", 8, epsilon=0.01).model([2, 4, *[7] * rank]))
    assert ops(new) == ["ConvTranspose" if transposed else "Conv"]
    assert set(constants(new)) == ({"z.w", "z.b"} if bias else {"z.w", "z.w_bias"})


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 17, 20])
def test_opsets(opset):
    folds(conv(Build(opset=opset)).norm("z", "y", 4).model([2, 4, 5, 5]))


@dtypes
@pytest.mark.parametrize("c", [None, (5,), (1, 5), (1,), (), (1, 1)])
@pytest.mark.parametrize("attributes", [{}, {"transB": 1, "alpha": 0.5, "beta": -2.0}, {"transA": 1, "beta": 0.0}])
def test_gemm(dtype, c, attributes):
    build = Build(dtype)
    weight = build.constant("w", (5, 3) if attributes.get("transB") else (3, 5))
    names = f"x {weight}" + ("" if c is None else f" {build.constant('c', c)}")
    model = (
        build.op("Gemm", names, "z", **attributes).norm("z", "y", 5).model([3, 4] if "transA" in attributes else [4, 3])
    )
    assert ops(folds(model)) == ["Gemm"]


@dtypes
@pytest.mark.parametrize("order", ["p c", "c p", None])
@pytest.mark.parametrize("c", [(5,), (1, 5), ()])
def test_matmul(dtype, order, c):
    build = Build(dtype)
    build.op("MatMul", f"x {build.constant('w', (3, 5))}", "p")
    if order:
        build.constant("c", c)
        build.op("Add", order, "z")
    new = folds(build.norm("z" if order else "p", "y", 5).model([4, 3]))
    assert ops(new) == ["MatMul", "Add"]


def test_chain_and_merged():
    """Conv-BN-BN becomes a Conv; BN-BN becomes one BN."""
    assert ops(folds(conv(Build()).norm("z", "n", 4).norm("n", "y", 4).model([2, 4, 5, 5]), 2)) == ["Conv"]
    model = Build().norm("x", "n", 4).norm("n", "m", 4).op("Relu", "m", "y").model([2, 4, 5])
    found = fold(model)
    assert [f.how for f in found.folded] == ["BatchNormalization after it"] and found.folded[0].into == "M"
    assert "its output goes to Y (Relu)" in found.left[0].reason
    assert ops(found.model) == ["BatchNormalization", "Relu"]
    agrees(model, found.model)
    model = conv(Build().norm("x", "a", 4).norm("a", "b", 4), "b", "y").model([2, 4, 5, 5])
    assert ops(folds(model, 2)) == ["Conv"]


def test_again():
    """The first norm's weights would overflow until the second one has made them smaller."""
    build = conv(Build().norm("x", "n", 4), "n", "z").norm("z", "y", 4)
    constant = {"n.scale": 1e25, "n.B": 0, "n.mean": 0, "y.scale": 1e-20, "y.mean": 0}
    build.constants |= {name: np.full(4, value, np.float32) for name, value in constant.items()}
    build.constants["z.w"] *= np.float32(1e15)
    model, x = build.model([2, 4, 5, 5]), np.full((2, 4, 5, 5), 1e-20, np.float32)
    found = fold(model)
    assert [entry.how for entry in found.folded] == ["Conv before it", "Conv after it"]
    assert verify(model, found.model, x).error < 1e-5


def test_parameters_of_another_type():
    """Opset 15 lets a float16 norm have float32 parameters; the epsilon is the float32 that the file holds."""
    build = conv(Build("float16")).norm("z", "y", 4, epsilon=0.5)
    build.constants |= {name: build.constants[name].astype("float32") for name in ("y.mean", "y.var", "y.scale", "y.B")}
    folds(build.model([2, 4, 5, 5]))


# --- the operation after ---


@dtypes
@pytest.mark.parametrize("rank", KERNELS)
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False)])
@pytest.mark.parametrize("attributes", [{}, {"auto_pad": "VALID"}, {"pads": "none"}])
def test_norm_before_a_convolution(dtype, rank, groups, bias, attributes):
    attributes = {"pads": [0] * 2 * rank} if "pads" in attributes else attributes
    build = Build(dtype).norm("x", "n", 4)
    conv(build, "n", "y", kernel=KERNELS[rank], groups=groups, bias=bias, **attributes)
    assert ops(folds(build.model([2, 4, *[7] * rank]))) == ["Conv"]


@pytest.mark.parametrize("attributes", [{"pads": [0, 1, 0, 0]}, {"auto_pad": "SAME_UPPER"}])
def test_padding(attributes):
    build = conv(Build().norm("x", "n", 4), "n", "y", **attributes)
    stays(build.model([2, 4, 5, 5]), "Y after it pads with zeros, which its shift does not reach")
    build.constant("n.mean", np.zeros(4))
    build.constant("n.B", np.zeros(4))
    folds(build.model([2, 4, 5, 5]))


@dtypes
@pytest.mark.parametrize("attributes", [{}, {"transB": 1, "alpha": 0.5, "beta": -2.0}])
def test_norm_before_gemm(dtype, attributes):
    build = Build(dtype).norm("x", "n", 3)
    weight = build.constant("w", (5, 3) if attributes else (3, 5))
    build.op("Gemm", f"n {weight} {build.constant('c', 5)}", "y", **attributes)
    assert ops(folds(build.model([4, 3]))) == ["Gemm"]


@pytest.mark.parametrize("add", [None, "constant", "variable"])
def test_norm_before_matmul(add):
    build = Build().norm("x", "n", 3).op("MatMul", "n w", "p" if add else "y")
    build.constant("w", (3, 5))
    if add == "constant":
        build.constant("c", 5)
    if add:
        build.op("Add", "p c", "y")
    model = build.model([4, 3], **({"c": [4, 5]} if add == "variable" else {}))
    assert ops(folds(model)) == ["MatMul", "Add"] + (["Add"] if add == "variable" else [])


# --- where constants come from, and who else uses them ---


def with_sources(source):
    """The constants of a model, as the initializers that torch's exporter gives further names, or as nodes."""
    build = conv(Build()).norm("z", "y", 4)
    given = dict(build.constants)
    heads = []
    for name, array in given.items():
        if source == "Identity":
            build.constants[f"{name}.0"] = build.constants.pop(name)
            heads += [helper.make_node("Identity", [f"{name}.0"], [f"{name}.1"])]
            heads += [helper.make_node("Identity", [f"{name}.1"], [name])]
        else:
            del build.constants[name]
            heads.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
    build.nodes = heads + build.nodes
    return build.model([2, 4, 5, 5])


@pytest.mark.parametrize("source", ["Identity", "Constant"])
def test_sources(source):
    new = folds(with_sources(source))
    assert ops(new) == ["Conv"] and set(constants(new)) == {"z.w", "z.b"}


def test_shared_weights():
    """Another convolution with the same weights stays as it is, and so does another norm's scale."""
    build = conv(Build()).norm("z", "y", 4)
    build.op("Conv", "x z.w z.b", "other").op("Mul", "other y.scale", "scaled")
    build.constant("y.scale", (4,))
    build.op("Identity", "z.w", "same")
    model = build.model([2, 4, 5, 6], "y other scaled same")
    new = folds(model)
    assert set(constants(new)) == {"z.w", "z.b", "z.w_1", "z.b_1", "y.scale"}
    np.testing.assert_array_equal(constants(new)["z.w"], constants(model)["z.w"])
    assert list(new.graph.node[0].input) == ["x", "z.w_1", "z.b_1"]


def test_weights_as_outputs():
    """An output stays, also where it is nothing but a weight."""
    build = conv(Build().op("Identity", "w", "z.w")).norm("z", "y", 4)
    build.constants["w"] = build.constants.pop("z.w")
    new = folds(build.model([2, 4, 5, 5], "y z.w"))
    assert ops(new) == ["Identity", "Conv"] and set(constants(new)) == {"w", "z.w_1", "z.b"}


def test_two_norms_with_the_same_weights():
    build = conv(Build()).norm("z", "y", 4)
    build.op("Conv", "x z.w z.b", "second").norm("second", "v", 4)
    new = folds(build.model([2, 4, 5, 4], "y v"), 2)
    assert len(constants(new)) == 4


@pytest.mark.parametrize("version", [3, 4, 8])
def test_initializers_as_inputs(version):
    """Up to IR version 3 all are; since then callers may override them."""
    build = conv(Build(opset=8, seed=1), bias=False).norm("z", "y", 4)
    shapes = {name: array.shape for name, array in build.constants.items()}
    model = build.model([2, 4, 5, 5], ir_version=version, **shapes)
    if version > 3:
        stays(model, 'its scale is the input "y.scale" of the graph, which callers may set')
    else:
        assert {v.name for v in folds(model).graph.input} == {"x", "z.w", "z.w_bias"}


# --- outputs and graphs ---


def test_outputs():
    """A name of an output survives; what is an output, or goes elsewhere, cannot change."""
    build = conv(Build()).norm("z", "y", 4).op("Relu", "y", "w")
    assert [v.name for v in folds(build.model([2, 4, 5, 5], "w y")).graph.output] == ["w", "y"]
    stays(build.model([2, 4, 5, 5], "z w"), "its input is an output of the graph, too")
    build.op("Neg", "z", "v")
    stays(build.model([2, 4, 5, 5], "w v"), "its input also goes to V")


def branch(build, out, body):
    """An If whose branches end in `out`, both with the nodes that `body` adds."""
    then, other = (Build(build.dtype, build.opset, seed) for seed in (1, 2))
    for k, inner in enumerate((then, other)):
        body(inner, f"{out}{k}")
    graphs = {"then_branch": then.graph({}, f"{out}0", "then"), "else_branch": other.graph({}, f"{out}1", "else")}
    return build.op("If", "c", out, **graphs)


def with_condition(build, outputs="y"):
    model = build.model([2, 4, 5, 5], outputs)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    return model


@pytest.mark.parametrize("source", ["inside", "outside"])
def test_subgraphs(source):
    """Both nodes in one branch, with weights from there or from outside."""
    outer = Build()

    def body(build, y):
        conv(build, z=f"z.{y}").norm(f"z.{y}", y, 4)
        if source == "outside":
            outer.constants |= build.constants
            build.constants = {}

    model = with_condition(branch(outer, "y", body))
    found = fold(model)
    assert len(found.folded) == 2 and not found.left
    agrees(model, found.model)


def test_across_subgraphs():
    found = fold(with_condition(branch(conv(Build()), "v", lambda b, y: b.norm("z", y, 4)), "v"))
    assert len(found.left) == 2 and "comes from Z (Conv) outside the subgraph" in found.left[0].reason
    build = branch(conv(Build()).norm("z", "y", 4), "v", lambda b, y: b.op("Relu", "z", y))
    stays(with_condition(build, "v y"), "its input also goes to V")
    build = branch(Build().norm("x", "n", 4), "v", lambda b, y: conv(b, "n", y))
    stays(with_condition(build, "v"), "its output goes to V")
    build = branch(conv(Build()).norm("z", "y", 4), "v", lambda b, y: b.op("Relu", "y", y))
    folds(with_condition(build, "v"))
