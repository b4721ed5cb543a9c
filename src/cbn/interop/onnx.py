"""onnx: BatchNormalization nodes of ONNX models as layers, layers as nodes, and whole models folded."""

from typing import Any, NamedTuple

import numpy as np

from .. import _core, conventions
from ..libraries import library
from .fold_onnx import fold
from .layers import build, exported
from .onnx_edit import Edit, copied, loaded
from .onnx_nodes import Unfoldable, attribute, is_op, label
from .verify_onnx import verify

__all__ = ["OnnxNode", "fold", "from_model", "to_model", "to_node", "verify"]

_NAMES = {"weight": "scale", "bias": "B", "running_mean": "mean", "running_var": "var"}


class OnnxNode(NamedTuple):
    """A NodeProto, and the TensorProtos that are its initializers."""

    node: Any
    initializers: list


def from_model(model, name=None):
    """Return the layer that a BatchNormalization node of an ONNX model is.

    Parameters
    ----------
    model : path, onnx.ModelProto or onnx_ir.Model
        Of opset 7 or later.
    name : str, optional
        Of the node, or of its output where nodes have no names; may be left out if there is one BatchNormalization.

    Returns
    -------
    BatchNorm
        With ONNX' convention: momentum weighs the old value, the running variance is biased. In evaluation mode, unless
        the node trains (``training_mode=1``; before opset 14 several outputs). epsilon and momentum are the shortest
        decimal numbers that are those of the node, which are float32.

    Raises
    ------
    TypeError, ValueError
        If there is no such node or there are several, for parameters that are no constants or do not fit, for
        ``spatial=0`` (opsets 7 and 8), which has statistics of each place, and for models that cannot be read.
    ImportError
        If onnx or onnx-ir is not installed.
    """
    edit = Edit(loaded(model))
    found = _read(edit, _find(edit, name))
    given = {own: (what, found.arrays[what]) for own, what in _NAMES.items()}
    eps, momentum = (float(str(np.float32(value))) for value in (found.epsilon, found.momentum))
    return build(given, conventions.ONNX, eps=eps, momentum=momentum).train(found.trains)


def _find(edit, name):
    """The norm of that name, with all its inputs."""
    nodes = [node for node in edit.model.graph.all_nodes() if is_op(node, "BatchNormalization")]
    found = [node for node in nodes if name in (None, node.name, node.outputs[0].name)]
    if len(found) != 1:
        names = ", ".join(map(label, nodes)) or "there is none"
        raise ValueError(f"name must be that of one BatchNormalization ({names}); got {name!r}")
    (node,) = found
    if edit.opset < 7:
        raise ValueError(f"model must have opset 7 or later; got {edit.opset}")
    if len(node.inputs) != 5:
        raise ValueError(f"{label(node)} must have 5 inputs; got {len(node.inputs)}")
    return node


class _Norm(NamedTuple):
    """What a node says: its parameters by ONNX' names, and its attributes."""

    arrays: dict
    epsilon: float
    momentum: float
    trains: bool


def _read(edit, node):
    try:
        if edit.opset < 9 and not attribute(node, "spatial", 1):
            raise ValueError(f"{label(node)} must have statistics of channels; got spatial=0")
        values = zip(_NAMES.values(), node.inputs[1:], strict=True)
        arrays = {what: edit.constant(value, f"{what} of {label(node)}") for what, value in values}
        several = sum(bool(value.name) for value in node.outputs) > 1
        trains = several if edit.opset < 14 else bool(attribute(node, "training_mode", 0))
        return _Norm(arrays, attribute(node, "epsilon", 1e-5), attribute(node, "momentum", 0.9), trains)
    except Unfoldable as error:
        raise ValueError(f"{label(node)} must be a norm with constant parameters; got: {error}") from None


def to_model(model, layer, name=None, *, count=None, variance="convert"):
    """Return a copy of an ONNX model in which a BatchNormalization node is this layer.

    Parameters
    ----------
    model, name
        As in `from_model`.
    layer : BatchNorm
        Of any convention, with as many channels as the node.
    count, variance
        As in `to_node`.

    Returns
    -------
    onnx.ModelProto
        With the layer's parameters, in the types that the node's had, its epsilon and its momentum.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `from_model` and `to_node`; for another number of channels.
    """
    layer = _exported(layer, count, variance)
    edit = Edit(copied(model))
    node = _find(edit, name)
    before = _read(edit, node).arrays
    if before["scale"].size != layer.num_features:
        channels = before["scale"].size
        raise ValueError(f"layer must have {channels} channels, as {label(node)} has; got {layer.num_features}")
    for k, (what, array) in enumerate(_arrays(layer).items(), 1):
        edit.put(node, k, array.astype(before[what].dtype))
    for key, value in _attributes(layer).items():
        node.attributes.add(edit.ir.AttrFloat32(key, value))
    return edit.ir.to_proto(edit.model)


def to_node(layer, x="x", y="y", *, name="norm", opset=15, count=None, variance="convert"):
    """Return a layer as a BatchNormalization node, for inference.

    Parameters
    ----------
    layer : BatchNorm
        Of any convention. Its channel axis must be 1, as ONNX has it.
    x, y : str
        The names of the node's input and output.
    name : str
        Of the node; those of its initializers begin with it.
    opset : int
        7 or later. Up to 14 x must have the layer's dtype; bfloat16 needs 14.
    count, variance
        How an unbiased running variance becomes ONNX', see `convert`. For inference alone "keep" is the right one: y
        stays what it is.

    Returns
    -------
    OnnxNode
        ``node, initializers``, for `onnx.helper.make_graph`. epsilon and momentum become float32; a plain average,
        ``momentum=None``, is not there.

    Raises
    ------
    TypeError, ValueError
        As `convert`; for a layer with an activation, without running statistics or with another axis, and for opsets
        that do not have the dtype.
    ImportError
        If onnx is not installed.
    """
    onnx, layer = library("onnx", "onnx"), _exported(layer, count, variance)
    if _core.check_integer(opset, "opset") < 7:
        raise ValueError(f"opset must be 7 or later; got {opset}")
    if layer.dtype.name == "bfloat16" and opset < 14:
        raise ValueError(f"opset must be 14 or later for bfloat16; got {opset}")
    tensors = [onnx.numpy_helper.from_array(array, f"{name}.{what}") for what, array in _arrays(layer).items()]
    inputs = [x, *(tensor.name for tensor in tensors)]
    return OnnxNode(onnx.helper.make_node("BatchNormalization", inputs, [y], name=name, **_attributes(layer)), tensors)


def _exported(layer, count, variance):
    layer = exported(layer, conventions.ONNX, "ONNX", count=count, variance=variance)
    if layer.axis != 1:
        raise ValueError(f"axis must be 1, as in ONNX; got {layer.axis}")
    return layer


def _arrays(layer):
    """The four parameters by ONNX' names, in its order."""
    ones = np.ones(layer.num_features, layer.dtype)
    arrays = {"weight": ones, "bias": 0 * ones, **layer.state_dict()}
    return {what: arrays[own] for own, what in _NAMES.items()}


def _attributes(layer):
    return {"epsilon": layer.eps} | ({} if layer.momentum is None else {"momentum": layer.momentum})
