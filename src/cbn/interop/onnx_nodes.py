"""onnx_nodes: the nodes of an ONNX model as they are read: their names, their users, their constants."""

import math
import textwrap

import numpy as np

from ..libraries import library

__all__ = ["CONSTANT", "Unfoldable", "attribute", "cause", "evaluated", "is_noop", "is_op", "label", "only_user"]

CONSTANT = (
    "Cast",
    "CastLike",
    "ConstantOfShape",
    "Expand",
    "Identity",
    "Reshape",
    "Shape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
LARGEST = 2**28  # values of a constant that is computed
DEEPEST = 8  # nodes from a constant to what is computed of it


class Unfoldable(Exception):
    """A norm stays as it is; the text says why."""


def cause(error):
    """Return the text of an error, or of the one in it, in one line: onnx_ir wraps errors in errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def label(node):
    """What to call a node in texts."""
    if node.name:
        return node.name
    return f'{node.op_type} of "{node.outputs[0].name}"' if node.outputs else node.op_type


def is_op(node, *op_types):
    """Whether it is a node of ONNX itself, of one of these types."""
    return node is not None and node.domain == "" and node.op_type in op_types


def only_user(value):
    """Return the only node that uses a value, if it does so once and the value is no output of its graph."""
    uses = value.uses()
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def attribute(node, name, default):
    """Return the value of a node's attribute, which must have the type of its default."""
    found = node.attributes.get(name)
    if found is None:
        return default
    if found.is_ref() or not isinstance(found.value, type(default)):
        raise Unfoldable(f"{name} of {label(node)} must be a plain {type(default).__name__}")
    return found.value


def is_noop(node, model):
    """Whether all it does is to hand on its first input: Identity, and Dropout in evaluation mode."""
    if not is_op(node, "Identity", "Dropout") or not node.outputs or None in node.inputs[:1] or not node.inputs:
        return False
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    try:
        return mode is None or not evaluated(mode, model).any()
    except Exception:  # of whatever kind: the file may hold anything
        return False


# --- constants ---


def evaluated(value, model, depth=0):
    """Return the array of a value that is the same in every run, if need be computed from constants.

    What an Unfoldable says of another one begins with a verb. Files may hold anything, and raise anything.
    """
    if value.is_graph_input() and not (value.is_initializer() and model.ir_version < 4):
        raise Unfoldable(f'is the input "{value.name}" of the graph, which callers may set')
    ir = library("onnx_ir", "onnx")
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        if isinstance(tensor, ir.serde.TensorProtoTensor) and tensor.raw.ByteSize() < tensor.size:
            raise ValueError("it has less data than values")  # of which NumPy would make zeros, however many
        return tensor.numpy()
    node = value.producer()
    if not is_op(node, *CONSTANT) or depth == DEEPEST:
        raise Unfoldable(f"is not a constant: it comes from {f'{label(node)} ({node.op_type})' if node else 'nowhere'}")
    arrays = []
    for k, given in enumerate(node.inputs):
        if k == 1 and node.op_type == "CastLike" and given.dtype is not None:  # of which only the type matters
            arrays.append(np.empty(0, given.dtype.numpy()))
        else:
            arrays.append(evaluated(given, model, depth + 1))
    return _computed(node, arrays, model)


def _computed(node, arrays, model):
    """What a node makes of arrays, by ONNX' own reference."""
    ir, onnx, reference = (library(name, "onnx") for name in ("onnx_ir", "onnx", "onnx.reference"))
    shapes = {"Expand": arrays[1:2], "ConstantOfShape": arrays[:1]}.get(node.op_type, ())
    sizes = [array.size for array in arrays] + [math.prod(np.maximum(shape, 1).tolist()) for shape in shapes]
    if max(sizes) > LARGEST:
        raise Unfoldable(f"has more than {LARGEST} values, made by {label(node)} ({node.op_type})")
    proto, names = ir.to_proto(node), [str(k) for k in range(len(arrays))]
    proto.input[:] = names
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in some] for some in (names, proto.output))
    graph = onnx.helper.make_graph([proto], "constant", inputs, outputs)
    given = model.opset_imports
    imports = [onnx.helper.make_opsetid("", given.get("", given.get("ai.onnx", 1)))]
    evaluator = reference.ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
    return evaluator.run(None, dict(zip(names, arrays, strict=True)))[0]
