"""onnx_operations: the ONNX operations that can take a batch norm, with constant weights, and the norm itself."""

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from ..folding import fold_affine, fold_conv, fold_linear
from .onnx_nodes import Unfoldable, attribute, is_op, label, only_user

__all__ = ["AFTER", "BEFORE", "NORM", "Job", "line_of"]


class Job(NamedTuple):
    """A norm that is to go, its scale and shift, and whether the operation comes after it."""

    norm: Any
    line: tuple
    following: bool


# --- the norm ---


def line_of(edit, norm):
    """Return scale and shift of a norm in evaluation mode, in float64."""
    return _line(norm, _parameters(edit, norm))


def _parameters(edit, norm):
    _check_mode(edit, norm)
    if len(norm.inputs) != 5 or None in norm.inputs:
        raise Unfoldable("it has not the 5 inputs of a norm")
    return [edit.constant(norm.inputs[k], f"its {name}") for k, name in enumerate(("scale", "B", "mean", "var"), 1)]


def _line(norm, given):
    shapes = [array.shape for array in given]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise Unfoldable(f"its scale, B, mean and var must have one shape (C,); got {', '.join(map(str, shapes))}")
    scale, shift, mean, var = (array.astype(np.float64) for array in given)
    if not (var >= 0).all():
        raise Unfoldable(f"its var must be >= 0; got {var[~(var >= 0)][0]:g}")
    scale = scale / np.sqrt(var + float(np.float32(attribute(norm, "epsilon", 1e-5))))
    shift = shift - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Unfoldable("its scale / sqrt(var + epsilon) or its shift is not finite")
    return scale, shift


def _check_mode(edit, norm):
    if edit.opset < 7:
        raise Unfoldable(f"the model has opset {edit.opset}; before 7 it is not sure whether a norm trains")
    if [k for k, value in enumerate(norm.outputs) if value.name] != [0]:
        raise Unfoldable(f"it has {len(norm.outputs)} outputs, as a norm has that trains")
    if attribute(norm, "training_mode", 0):
        raise Unfoldable("it trains (training_mode=1)")
    if not attribute(norm, "spatial", 1):  # of opsets 7 and 8
        raise Unfoldable("it has statistics for each place (spatial=0)")


# --- operations: each folds, then changes its node, and returns the node whose output is now the result ---


def _conv(edit, job, node):
    weight, bias = _weight(edit, node), edit.operand(node, 2, "the bias")
    plain = attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(attribute(node, "pads", ()))
    if job.following and job.line[1].any() and not plain:
        raise Unfoldable(f"{label(node)} after it pads with zeros, which its shift does not reach")
    options = {"groups": attribute(node, "group", 1), "transposed": node.op_type == "ConvTranspose", "padding": 0}
    weight, bias = _folded(node, weight.dtype, fold_conv, weight, bias, job, **options)
    _put(edit, node, weight, bias)
    return node


def _gemm(edit, job, node):
    if job.following and attribute(node, "transA", 0):
        raise Unfoldable(f"{label(node)} after it transposes its channels (transA=1)")
    weight, bias = _weight(edit, node), edit.operand(node, 2, "C")
    dtype, axis = weight.dtype, 0 if attribute(node, "transB", 0) else 1
    weight = weight.astype(np.float64) * attribute(node, "alpha", 1.0)
    bias = None if bias is None else _by_channel(bias, weight, axis) * attribute(node, "beta", 1.0)
    weight, bias = _folded(node, dtype, fold_linear, weight, bias, job, axis=axis)
    for name in ("alpha", "beta"):  # both are in the weights now
        node.attributes.pop(name, None)
    _put(edit, node, weight, bias)
    return node


def _matmul(edit, job, node):
    add = only_user(node.outputs[0])
    if job.following and is_op(add, "Add"):
        with suppress(Unfoldable):
            return _product(edit, job, node, add)
    return _product(edit, job, node, None)


def _with_constant(edit, job, node):
    """An Add or Mul of a constant: into the convolution before it, or an Add into the MatMul before it."""
    for place, value in enumerate(node.inputs):
        maker = None if value is None or only_user(value) is not node else value.producer()
        if is_op(node, "Add") and is_op(maker, "MatMul"):
            return _product(edit, job, maker, node)
        if is_op(maker, "Conv", "ConvTranspose") and maker.graph is node.graph:
            return _line_behind(edit, job, maker, node, 1 - place)
    raise Unfoldable(f"its input comes from {label(node)} ({node.op_type}), which cannot take it")


def _line_behind(edit, job, conv, node, place):
    """A convolution, and the Add or Mul of a constant behind it, which goes."""
    rank, channels = _weight(edit, conv).ndim, job.line[0].size
    constant = edit.constant(node.inputs[place], f"the operand of {label(node)}")
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if len(shape) != rank or constant.size not in (1, channels) or shape[1] != constant.size:
        wanted = (1, channels, *(1,) * (rank - 2))
        raise Unfoldable(f"what {label(node)} takes must have shape {wanted}; got {constant.shape}")
    constant = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))
    line = (constant, np.zeros(channels)) if node.op_type == "Mul" else (np.ones(channels), constant)
    _conv(edit, job._replace(line=fold_affine(line, job.line)), conv)
    node.outputs[0].replace_all_uses_with(conv.outputs[0])
    edit.remove(node)
    return conv


def _product(edit, job, node, add):
    """A MatMul, and the Add of a constant behind it, or None."""
    weight, product = _weight(edit, node), node.outputs[0]
    values = node.inputs[0], product, job.norm.inputs[0], job.norm.outputs[0]
    ranks = edit.ranks(values)
    if ranks != {2}:
        raise Unfoldable(f"{label(node)} must be known to have rank 2; got {', '.join(map(str, ranks)) or 'no shape'}")
    place = None if add is None else 1 - add.inputs.index(product)
    bias = None if add is None else _by_channel(edit.operand(add, place, "the operand"), weight, 1)
    weight, bias = _folded(node, weight.dtype, fold_linear, weight, bias, job, axis=1)
    edit.put(node, 1, weight)
    if add is None:
        return edit.add_bias(node, bias)
    edit.put(add, place, bias)
    edit.rename(product, f"{add.outputs[0].name}_product")
    return add


def _norm(edit, job, node):
    given = _parameters(edit, node)
    scale, shift = fold_affine(job.line, _same_channels(job.line, _line(node, given)))
    values = scale, shift, np.zeros_like(scale), np.ones_like(scale)
    arrays = [_finite(node, old.dtype, new) for old, new in zip(given, values, strict=True)]
    node.attributes.add(edit.ir.AttrFloat32("epsilon", 0.0))
    for k, array in enumerate(arrays, 1):
        edit.put(node, k, array)
    return node


# --- weights ---


def _weight(edit, node):
    weight = edit.operand(node, 1, "the weight")
    if weight is None:
        raise Unfoldable(f"the weight of {label(node)} is missing")
    return weight


def _put(edit, node, weight, bias):
    """The bias first: an old one may be zeros that are made from the shape of the weight."""
    edit.put(node, 2, bias, f"{node.inputs[1].name}_bias")
    edit.put(node, 1, weight)


def _by_channel(bias, weight, axis):
    """What is added to each row of a product, as one float64 value per channel."""
    channels = weight.shape[axis] if weight.ndim == 2 else 0
    if bias is None or bias.ndim > 2 or bias.size not in (1, channels) or (bias.ndim == 2 and bias.shape[0] != 1):
        shape = None if bias is None else bias.shape
        raise Unfoldable(f"what is added behind the product must have shape ({channels},); got {shape}")
    return np.broadcast_to(bias.astype(np.float64).reshape(-1), (channels,))


def _same_channels(line, other):
    if line[0].size != other[0].size:
        raise Unfoldable(f"the norm after it must have {line[0].size} channels; got {other[0].size}")
    return other


def _folded(node, dtype, function, weight, bias, job, **options):
    """Weight and bias, by one of cbn's functions."""
    try:
        folded = function(weight, bias, job.line, following=job.following, **options)
    except (TypeError, ValueError) as error:
        raise Unfoldable(f"{error} ({label(node)})") from None
    return [_finite(node, dtype, array) for array in folded]


def _finite(node, dtype, array):
    array = array.astype(dtype)
    if not np.isfinite(array.astype(np.float64)).all():
        raise Unfoldable(f"the folded weights of {label(node)} would not be finite in {dtype}")
    return array


NORM = "BatchNormalization"
BEFORE = {"Conv": _conv, "ConvTranspose": _conv, "Gemm": _gemm, "MatMul": _matmul}
BEFORE |= {"Add": _with_constant, "Mul": _with_constant}
AFTER = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul, NORM: _norm}
