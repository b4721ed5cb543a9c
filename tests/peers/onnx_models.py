"""onnx_models: small ONNX models for tests, and what must hold after folding one."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cbn.interop.fold_onnx import fold
from cbn.interop.verify_onnx import verify

TOLERANCE = {"float64": 1e-13, "float32": 3e-6, "float16": 1e-2}


class Build:
    """Nodes and constants, of which `model` makes a model."""

    def __init__(self, dtype="float32", opset=15, seed=0):
        self.dtype, self.opset, self.rng = np.dtype(dtype), opset, np.random.default_rng(seed)
        self.nodes, self.constants = [], {}

    def constant(self, name, value):
        """An array, or the shape of a random one."""
        array = self.rng.uniform(-1, 1, value) if isinstance(value, tuple | int) else np.asarray(value)
        self.constants[name] = array.astype(self.dtype)
        return name

    def op(self, op_type, inputs, output, **attributes):
        """A node that is called as its output, but in capitals."""
        self.nodes.append(helper.make_node(op_type, inputs.split(), output.split(), output.upper(), **attributes))
        return self

    def norm(self, x, y, channels, **attributes):
        names = [f"{y}.{name}" for name in ("scale", "B", "mean", "var")]
        for name, (low, high) in zip(names, ((0.5, 2), (-1, 1), (-1, 1), (0.2, 3)), strict=True):
            self.constant(name, self.rng.uniform(low, high, channels))
        return self.op("BatchNormalization", " ".join([x, *names]), y, **attributes)

    def graph(self, inputs, outputs, name="graph"):
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        return helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs.split()],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )

    def bare(self, shape, outputs="y", ir_version=8, **inputs):
        """A model without the shapes of what is behind its inputs."""
        imports = [helper.make_opsetid("", self.opset)]
        graph = self.graph({"x": shape, **inputs}, outputs)
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)

    def model(self, shape, outputs="y", **options):
        return onnx.shape_inference.infer_shapes(self.bare(shape, outputs, **options))


def ops(model):
    return [node.op_type for node in model.graph.node]


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def agrees(model, folded, tolerance=None):
    """Both run, alike; what stays has its name and type, and nothing is left over."""
    onnx.checker.check_model(folded, full_check=True)
    output = model.graph.output[0]
    dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    if dtype == np.float64 and {"Conv", "ConvTranspose"} & set(ops(model)):  # ONNX Runtime has none
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        feeds = {"x": np.random.default_rng(0).standard_normal(shape)}
        wanted, got = (ReferenceEvaluator(m).run(None, feeds)[0] for m in (model, folded))
        error = np.abs(got - wanted).max() / np.abs(wanted).max()
    else:
        error = verify(model, folded).error
    assert error < (tolerance or TOLERANCE[dtype.name])
    for field in ("input", "output"):
        before, after = (
            [v.name for v in getattr(m.graph, field) if v.name not in constants(m)] for m in (model, folded)
        )
        assert after == before
    used = {name for node in folded.graph.node for name in node.input} | {v.name for v in folded.graph.output}
    inner = [a.g for node in folded.graph.node for a in node.attribute if a.HasField("g")]
    used |= {name for graph in inner for node in graph.node for name in node.input}
    assert set(constants(folded)) <= used


def folds(model, count=1, tolerance=None):
    """Fold all norms, and return the folded model."""
    before = model.SerializeToString()
    found = fold(model)
    assert model.SerializeToString() == before
    assert (len(found.folded), found.left) == (count, ())
    agrees(model, found.model, tolerance)
    assert "BatchNormalization" not in ops(found.model)
    return found.model


def stays(model, reason):
    """The one norm that is left, with that reason."""
    found = fold(model)
    assert found.folded == () and len(found.left) == 1
    assert reason in found.left[0].reason, found.left[0].reason
    assert ops(found.model) == ops(model)
    return found
