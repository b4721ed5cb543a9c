"""test_fold_onnx_left: the batch norms of an ONNX model that cannot be folded, and models that are damaged."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import Build, agrees, constants, ops, stays  # noqa: E402

from cbn.interop.fold_onnx import fold  # noqa: E402

IMAGE = [2, 4, 5, 5]


def conv(build, x="x", z="z"):
    return build.op("Conv", f"{x} {build.constant('w', (4, 4, 3, 3))} {build.constant('b', 4)}", z)


def conv_norm(opset=15, outputs="y", **attributes):
    return conv(Build(opset=opset)).norm("z", outputs, 4, **attributes)


def without(build, name, **inputs):
    del build.constants[name]
    return build.model(IMAGE, **inputs)


def changed(**arrays):
    build = conv_norm()
    for name, value in arrays.items():
        build.constants[name.replace("_", ".")] = np.asarray(value, np.float32)
    return build.model(IMAGE)


# --- the norm ---


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (conv_norm(14, "y m v", training_mode=1).model(IMAGE), "it has 3 outputs, as a norm has that trains"),
        (conv_norm(15, training_mode=1).model(IMAGE), "it trains (training_mode=1)"),
        (conv_norm(9, "y m v").model(IMAGE), "it has 3 outputs"),
        (conv_norm(8, spatial=0).model(IMAGE), "it has statistics for each place (spatial=0)"),
        (conv_norm(6).model(IMAGE), "the model has opset 6; before 7"),
        (without(conv_norm(), "y.mean", **{"y.mean": [4]}), 'its mean is the input "y.mean" of the graph'),
        (without(conv_norm(), "y.var"), "its var is not a constant: it comes from nowhere"),
        (changed(y_var=[1, 1, -1, 1]), "its var must be >= 0; got -1"),
        (changed(y_var=[1, 1, np.nan, 1]), "its var must be >= 0; got nan"),
        (changed(y_scale=[1, np.inf, 1, 1]), "its scale / sqrt(var + epsilon) or its shift is not finite"),
        (changed(y_scale=np.ones(3)), "its scale, B, mean and var must have one shape (C,); got (3,), (4,)"),
        (changed(y_scale=[1e38] * 4, w=np.full((4, 4, 3, 3), 1e5)), "Z would not be finite in float32"),
    ],
)
def test_norm(model, reason):
    stays(model, reason)


def test_other_channels():
    build = conv(Build()).norm("z", "y", 3)
    stays(build.model(IMAGE), "norm must have 4 channels, the output channels of weight; got 3 (Z)")
    build = Build().norm("x", "n", 4).norm("n", "y", 3)
    found = fold(build.model(IMAGE))
    assert "the norm after it must have 4 channels; got 3" in found.left[0].reason


# --- before it ---


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Build().norm("x", "y", 4), "its input is made by no node; its output is an output of the graph"),
        (Build().op("Relu", "x", "z").norm("z", "y", 4), "its input comes from Z (Relu), which cannot take it"),
        (Build().op("Conv", "x x", "z").norm("z", "y", 4), 'the weight of Z is the input "x" of the graph'),
        (Build().op("Relu", "x", "r").op("Conv", "x r", "z").norm("z", "y", 4), "it comes from R (Relu)"),
        (Build().op("Add", "x x", "z").norm("z", "y", 4), "its input comes from Z (Add), which cannot take it"),
        (conv(Build()).op("Conv", "z w b", "v").norm("v", "y", 4).op("Add", "v y", "u"), "its input also goes to U"),
    ],
)
def test_before(build, reason):
    stays(build.model(IMAGE), reason)


def test_quantized():
    build = Build().op("DequantizeLinear", "q s", "w").op("Conv", "x w", "z").norm("z", "y", 4)
    build.constant("s", ())
    model = build.model(IMAGE)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 3, 3), np.int8), "q"))
    stays(model, "the weight of Z is not a constant: it comes from W (DequantizeLinear)")


def test_other_types():
    model = conv_norm().model(IMAGE)
    weight = next(t for t in model.graph.initializer if t.name == "w")
    weight.CopyFrom(numpy_helper.from_array(np.ones((4, 4, 3, 3), np.int8), "w"))
    stays(model, "the weight of Z is not of a float type that can be folded, but int8")


@pytest.mark.parametrize("shape", [(4, 1), (5, 1), (4, 5), (1, 1, 5), (3,)])
def test_what_is_added(shape):
    build = Build().op("Gemm", "x w c", "z").norm("z", "y", 5)
    build.constant("w", (3, 5))
    build.constant("c", shape)
    reason = f"what is added behind the product must have shape (5,); got {shape}"
    stays(build.bare([4, 3]), reason)
    build.nodes[0] = helper.make_node("Add", ["p", "c"], ["z"], "Z")
    build.nodes.insert(0, helper.make_node("MatMul", ["x", "w"], ["p"], "P"))
    stays(build.bare([4, 3]), reason)


@pytest.mark.parametrize("after", [False, True])
def test_rank(after):
    """The channels of a product are its last axis; those of a norm axis 1."""
    build = Build().norm("x", "n", 5) if after else Build()
    build.op("MatMul", "n w" if after else "x w", "y" if after else "p")
    build = build if after else build.norm("p", "y", 5)
    build.constant("w", (5, 5))
    stays(build.model([2, 5, 5]), f"{'Y' if after else 'P'} must be known to have rank 2; got 3")
    stays(build.bare(None), "must be known to have rank 2; got no shape")


def test_weights_of_another_rank():
    build = Build().op("MatMul", "x w", "p").norm("p", "y", 5)
    build.constant("w", (1, 3, 5))
    stays(build.bare([4, 3]), "weight must have rank 2; got shape (1, 3, 5) (P)")


# --- after it ---


def test_after():
    build = Build().norm("x", "n", 3).op("Gemm", "n w", "y", transA=1)
    build.constant("w", (4, 5))
    stays(build.model([4, 3]), "Y after it transposes its channels (transA=1)")
    build = Build().norm("x", "n", 3).op("MatMul", "w n", "y")
    build.constant("w", (5, 4))
    stays(build.model([4, 3]), "its output goes to Y (MatMul), which cannot take it")
    build = Build().norm("x", "n", 3).op("MatMul", "n n", "y")
    stays(build.model([3, 3]), "its output goes to Y")
    build = Build().norm("x", "n", 4).op("ConvTranspose", "n w", "y")
    build.constant("w", (4, 4, 3, 3))
    stays(build.model(IMAGE), "its output goes to Y (ConvTranspose), which cannot take it")
    build = conv(Build().norm("x", "n", 4).op("Relu", "n", "r"), "n", "y")
    stays(build.model(IMAGE, "y r"), "its output goes to R, Y")


# --- the rest of the model ---


def test_functions():
    """They stay as they are, with their norms."""
    names = ["x", "s", "b", "m", "v"]
    body = [helper.make_node("BatchNormalization", names, ["y"], "inner")]
    function = helper.make_function("own", "Norm", names, ["y"], body, [helper.make_opsetid("", 15)])
    build = conv_norm().op("Norm", "y y.scale y.B y.mean y.var", "v", domain="own")
    model = build.bare(IMAGE, "v")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [2, 4, 3, 3]))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    found = fold(model)
    assert len(found.folded) == 1 and found.left[0].norm == "inner"
    assert "it is in the function Norm" in found.left[0].reason
    assert found.model.functions[0] == function
    agrees(model, found.model)


def test_what_is_kept():
    """Metadata, documentation, names, types of values, nodes without a name, and models of onnx_ir."""
    model = conv_norm(epsilon=0.1).op("Relu", "y", "v").model(IMAGE, "v")
    model.graph.node[0].ClearField("name")
    model.producer_name, model.doc_string, model.model_version, model.graph.doc_string = "me", "text", 3, "more"
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    helper.set_model_props(model, {"key": "value"})
    found = fold(model)
    assert found.folded == (("Y", 'Conv of "y"', "Conv before it"),)
    for field in ("ir_version", "producer_name", "doc_string", "model_version", "opset_import", "metadata_props"):
        assert getattr(found.model, field) == getattr(model, field), field
    assert found.model.graph.doc_string == "more"
    assert [node.name for node in found.model.graph.node] == ["", "V"]
    assert {v.name: v for v in found.model.graph.value_info}["y"] == {v.name: v for v in model.graph.value_info}["y"]
    again = fold(ir.from_proto(model))
    assert isinstance(again.model, ir.Model) and len(again.folded) == 1
    assert constants(ir.to_proto(again.model)).keys() == constants(found.model).keys() == {"w", "b"}


def test_refused_models():
    with pytest.raises(TypeError, match=r"model must be a path, onnx.ModelProto or onnx_ir.Model; got int"):
        fold(1)
    model = conv_norm().model(IMAGE)
    model.graph.sparse_initializer.add()
    with pytest.raises(ValueError, match="model must have neither sparse initializers nor training information"):
        fold(model)


def _weight(model):
    return model.graph.initializer[0]


def _constant(model, *nodes):
    """The weight comes from these nodes."""
    del model.graph.initializer[0]
    model.graph.node.extend(nodes)


DAMAGES = {
    "no data": lambda m: _weight(m).ClearField("raw_data"),
    "less data": lambda m: setattr(_weight(m), "raw_data", b"\0" * 8),
    "huge": lambda m: (_weight(m).ClearField("raw_data"), _weight(m).dims.extend([10**9] * 3)),
    "elsewhere": lambda m: _weight(m).MergeFrom(
        onnx.TensorProto(data_location=1, external_data=[{"key": "location", "value": "../secret"}])
    ),
    "text": lambda m: _weight(m).CopyFrom(helper.make_tensor("w", onnx.TensorProto.STRING, [1], [b"a"])),
    "group": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", "many")),
    "groups": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", 3)),
    "no weight": lambda m: m.graph.node[0].input.pop(),
    "no inputs": lambda m: m.graph.node[0].ClearField("input"),
    "no parameters": lambda m: m.graph.node[1].input.pop(),
    "no output": lambda m: m.graph.node[1].ClearField("output"),
    "circle": lambda m: _constant(m, *(helper.make_node("Identity", [a], [b]) for a, b in ("wu", "uw"))),
    "odd constant": lambda m: _constant(m, helper.make_node("Constant", [], ["w"])),
    "itself": lambda m: m.graph.node[1].input.__setitem__(0, "y"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(damage):
    """A norm beside something damaged stays; nothing is raised, read from elsewhere, or made of nothing."""
    build = Build().op("Conv", "x w", "z")
    build.constant("w", (4, 4, 3, 3))
    model = build.norm("z", "y", 4).model(IMAGE)
    DAMAGES[damage](model)
    found = fold(model)
    assert found.folded == () and len(found.left) == 1 and found.left[0].reason
    assert ops(found.model) == ops(model)
