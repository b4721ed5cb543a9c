"""test_onnx_nodes: BatchNormalization nodes as layers and back, against ONNX Runtime, of all opsets."""

import numpy as np
import pytest

import cbn
import cbn.interop.onnx as interop

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

OPSETS = [7, 8, 9, 13, 14, 15, 20]
KINDS = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.float16: TensorProto.FLOAT16}


def model_of(node, initializers, opset, dtype=np.float32, outputs=("y",)):
    image = ["N", 5, "H", "W"]
    shapes = {"x": image, "y": image, "mean": [5], "var": [5]}
    ends = {name: helper.make_tensor_value_info(name, KINDS[dtype], shapes[name]) for name in ("x", *outputs)}
    graph = helper.make_graph([node], "graph", [ends["x"]], [ends[name] for name in outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, x):
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def trained(dtype=np.float32, **options):
    rng = np.random.default_rng(0)
    layer = cbn.BatchNorm(5, dtype=dtype, **options)
    layer.weight[...], layer.bias[...] = rng.uniform(0.5, 2, (2, 5))
    for _ in range(3):
        layer(rng.normal(1, 2, (4, 5, 3)).astype(dtype))
    return layer.eval()


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", KINDS)
def test_there_and_back(opset, dtype):
    """Out: ONNX Runtime gives the layer's y. In: the layer again."""
    layer = trained(dtype, eps=1e-3, momentum=0.8, convention="onnx")
    model = model_of(*interop.to_node(layer, opset=opset), opset, dtype)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(1).normal(1, 2, (2, 5, 3, 3)).astype(dtype)
    tolerance = 4 * float(np.finfo(dtype).eps) + 2e-7  # epsilon is float32 there
    np.testing.assert_allclose(run(model, x)[0], layer(x), rtol=tolerance, atol=4 * tolerance)
    back = interop.from_model(model)
    assert repr(back) == repr(layer) and not back.training
    for key in ("weight", "bias", "running_mean", "running_var"):
        np.testing.assert_array_equal(getattr(back, key), getattr(layer, key))


def test_y_stays_where_the_numbers_do():
    """A layer of torch's convention, for inference; and converted, as ONNX would have trained it."""
    layer, same = trained(momentum=0.25), trained(momentum=0.75, convention="onnx")
    x = np.random.default_rng(1).normal(1, 2, (2, 5, 3, 3)).astype(np.float32)
    kept = interop.to_node(layer, variance="keep")
    np.testing.assert_allclose(run(model_of(*kept, 15), x)[0], layer(x), rtol=1e-5, atol=1e-5)
    converted = interop.to_node(layer)
    got = numpy_helper.to_array(converted.initializers[3])
    np.testing.assert_allclose(got, same.running_var, rtol=1e-6)
    assert helper.get_attribute_value(converted.node.attribute[1]) == np.float32(0.75)


def test_training_goes_on_as_in_onnx_runtime():
    """From a node that trains."""
    parameters = [
        numpy_helper.from_array(np.float32(v), n) for n, v in zip("abcd", [[1] * 5, [0] * 5] * 2, strict=True)
    ]
    parameters[3] = numpy_helper.from_array(np.ones(5, np.float32), "d")
    outputs = ("y", "mean", "var")
    node = helper.make_node("BatchNormalization", ["x", *"abcd"], outputs, training_mode=1, momentum=0.75)
    model = model_of(node, parameters, 15, outputs=outputs)
    layer = interop.from_model(model)
    assert layer.training and layer.momentum == 0.75
    x = np.random.default_rng(1).normal(1, 2, (4, 5, 3, 3)).astype(np.float32)
    y, mean, var = run(model, x)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-5)


def test_five_outputs_of_old_opsets_train():
    node, initializers = interop.to_node(trained(), opset=9, variance="keep")
    node.output.extend(["mean", "var", "saved_mean", "saved_var"])
    assert interop.from_model(model_of(node, initializers, 9)).training
    del node.output[1:]
    node.output.extend(["", ""])
    assert not interop.from_model(model_of(node, initializers, 9)).training


def test_into_a_model():
    """A layer takes the place of a node, and of its parameters only there where others use them, too."""
    layers = [trained(convention="onnx"), trained(convention="onnx", eps=0.25)]
    node, initializers = interop.to_node(layers[0], "x", "z", name="first")
    other = helper.make_node("BatchNormalization", ["z", *node.input[1:]], ["y"], name="second")
    model = model_of(node, initializers, 15)
    model.graph.node.append(other)
    before = model.SerializeToString()
    changed = interop.to_model(model, layers[1], "second")
    assert model.SerializeToString() == before
    onnx.checker.check_model(changed)
    for name, layer in zip(("first", "second"), layers, strict=True):
        assert repr(interop.from_model(changed, name)) == repr(layer)
        np.testing.assert_array_equal(interop.from_model(changed, name).running_var, layer.running_var)
    x = np.random.default_rng(1).standard_normal((2, 5, 3, 3), np.float32)
    np.testing.assert_allclose(run(changed, x)[0], layers[1](layers[0](x)), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="layer must have 5 channels, as second has; got 4"):
        interop.to_model(model, cbn.BatchNorm(4), "second")


def test_names_and_files(tmp_path):
    """The one norm needs no name; of several, the node's or its output's."""
    layers = [trained(), trained(eps=0.25)]
    pairs = enumerate(zip(layers, ("xz", "zy"), strict=True))
    nodes = [interop.to_node(layer, *ends, name=f"bn{k}", variance="keep") for k, (layer, ends) in pairs]
    model = model_of(*nodes[0], 15)
    model.graph.node.append(nodes[1].node)
    model.graph.initializer.extend(nodes[1].initializers)
    onnx.save(model, tmp_path / "model.onnx")
    for name in ("bn1", "y"):
        assert interop.from_model(tmp_path / "model.onnx", name).eps == 0.25
    with pytest.raises(ValueError, match=r"name must be that of one BatchNormalization \(bn0, bn1\); got None"):
        interop.from_model(model)
    with pytest.raises(ValueError, match=r"name must be that of one BatchNormalization \(bn0, bn1\); got 'bn2'"):
        interop.from_model(model, "bn2")


def test_refusals(tmp_path):
    node, initializers = interop.to_node(trained(), opset=8, variance="keep")
    with pytest.raises(ValueError, match="model must have opset 7 or later; got 6"):
        interop.from_model(model_of(node, initializers, 6))
    with pytest.raises(ValueError, match=r"norm must be a norm with constant parameters; got: var of norm .* nowhere"):
        interop.from_model(model_of(node, initializers[:3], 8))
    with pytest.raises(ValueError, match=r"B must have shape \(5,\), as scale has; got shape \(4,\)"):
        other = numpy_helper.from_array(np.ones(4, np.float32), initializers[1].name)
        interop.from_model(model_of(node, [initializers[0], other, *initializers[2:]], 8))
    node.attribute.append(helper.make_attribute("spatial", 0))
    with pytest.raises(ValueError, match="norm must have statistics of channels; got spatial=0"):
        interop.from_model(model_of(node, initializers, 8))
    del node.input[3:]
    with pytest.raises(ValueError, match="norm must have 5 inputs; got 3"):
        interop.from_model(model_of(node, initializers, 14))
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"model must be an ONNX file; got .*bad.onnx"):
        interop.from_model(tmp_path / "bad.onnx")
    with pytest.raises(FileNotFoundError):
        interop.from_model(tmp_path / "none.onnx")
    with pytest.raises(TypeError, match=r"model must be a path, onnx.ModelProto or onnx_ir.Model; got int"):
        interop.from_model(5)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"axis": -1}, {}, "axis must be 1, as in ONNX; got -1"),
        ({"activation": "relu"}, {}, "layer must have no activation, which ONNX would lose; got 'relu'"),
        ({}, {"opset": 6}, "opset must be 7 or later; got 6"),
        ({}, {"opset": np.int64(6)}, "opset must be 7 or later; got 6"),
        ({"track_running_stats": False}, {}, "layer must have running statistics, as in ONNX; got"),
    ],
)
def test_layers_that_onnx_does_not_have(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        interop.to_node(cbn.BatchNorm(5, **options), **arguments)


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer = cbn.BatchNorm(5, dtype=ml_dtypes.bfloat16, convention="onnx")
    with pytest.raises(ValueError, match="opset must be 14 or later for bfloat16; got 9"):
        interop.to_node(layer, opset=9)
    node, initializers = interop.to_node(layer)
    ends = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["N", 5]) for name in "xy"]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    assert interop.from_model(model).dtype == ml_dtypes.bfloat16
