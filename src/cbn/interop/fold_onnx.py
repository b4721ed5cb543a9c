"""fold_onnx: every batch norm of an ONNX model that can be folded, into the operation before or after it."""

from typing import Any, NamedTuple

import numpy as np

from ..libraries import library
from .onnx_edit import Edit, copied
from .onnx_nodes import Unfoldable, is_noop, is_op, label, only_user
from .onnx_operations import AFTER, BEFORE, NORM, Job, line_of

__all__ = ["Folded", "Folding", "Left", "fold"]


class Folded(NamedTuple):
    """The name of a norm that is gone, of the node that has taken it, and what that is, as "Conv before it"."""

    norm: str
    into: str
    how: str


class Left(NamedTuple):
    """The name of a norm that is still there, and why."""

    norm: str
    reason: str


class Folding(NamedTuple):
    """What `fold` returns: the new model, and what became of each BatchNormalization."""

    model: Any
    folded: tuple
    left: tuple


def fold(model):
    """Return an ONNX model without the batch norms that the operations beside them can take.

    Parameters
    ----------
    model : path, onnx.ModelProto or onnx_ir.Model
        It is not changed.

    Returns
    -------
    Folding
        ``model``, an onnx.ModelProto for one, else an onnx_ir.Model; ``folded`` with the fields `norm`, `into` and
        `how`, and ``left`` with `norm` and `reason`. Every BatchNormalization is in one of the two.

    Raises
    ------
    ImportError
        If onnx or onnx-ir is missing.
    TypeError, ValueError
        If model is no such model, or holds what onnx-ir cannot keep: sparse initializers, training information, map
        types.

    Notes
    -----
    A norm goes into a Conv, ConvTranspose, Gemm or MatMul before it, with the Add of a constant between them if there
    is one, or else into a Conv, Gemm, MatMul or BatchNormalization after it, if what they share is used by nobody else
    and if all weights are constants. A value that keeps its name keeps its numbers. The arithmetic is that of
    `cbn.fold_conv`, `cbn.fold_linear` and `cbn.fold_affine`. The model is not run: `cbn.interop.onnx.verify` does that.
    """
    ir, onnx = library("onnx_ir", "onnx"), library("onnx", "onnx")
    found = _fold(Edit(copied(model)))
    return found._replace(model=ir.to_proto(found.model)) if isinstance(model, onnx.ModelProto) else found


def _fold(edit):
    functions = {n: f.name for f in edit.model.functions.values() for n in f.all_nodes() if is_op(n, NORM)}
    reasons = {norm: f"it is in the function {name}, which may be called anywhere" for norm, name in functions.items()}
    waiting, done = [node for node in edit.model.graph.all_nodes() if is_op(node, NORM)], []
    progress = True
    while progress:  # a norm may go once its neighbour has gone
        progress = False
        for norm in tuple(waiting):
            try:
                with np.errstate(all="ignore"):
                    done.append(_fold_one(edit, norm))
                waiting.remove(norm)
                progress = True
            except Unfoldable as reason:
                reasons[norm] = str(reason)
    left = (Left(label(norm), reasons[norm]) for norm in [*waiting, *functions])
    return Folding(edit.model, tuple(done), tuple(left))


def _fold_one(edit, norm):
    line = line_of(edit, norm)
    reasons = []
    for way, following in ((_before, False), (_after, True)):
        try:
            return way(edit, Job(norm, line, following))
        except Unfoldable as reason:
            reasons.append(str(reason))
    raise Unfoldable("; ".join(reasons))


def _before(edit, job):
    norm, user, x = job.norm, job.norm, job.norm.inputs[0]
    while x is not None and only_user(x) is user and is_noop(x.producer(), edit.model):
        user = x.producer()
        x = user.inputs[0]
    node = None if x is None else x.producer()
    if node is None:
        raise Unfoldable("its input is made by no node")
    made = f"its input comes from {label(node)} ({node.op_type})"
    if node.graph is not norm.graph:
        raise Unfoldable(f"{made} outside the subgraph")
    if not is_op(node, *BEFORE):
        raise Unfoldable(f"{made}, which cannot take it")
    if x.is_graph_output():
        raise Unfoldable("its input is an output of the graph, too")
    others = [label(other) for other in x.consumers() if other is not user]
    if only_user(x) is None:
        raise Unfoldable(f"its input also goes to {', '.join(others) or 'itself'}")
    last = BEFORE[node.op_type](edit, job, node)
    taker = last if node.graph is None else node  # an Add behind a Conv goes, too
    name = label(norm)
    edit.replace(norm.outputs[0], last.outputs[0])
    edit.remove(norm)
    return Folded(name, label(taker), f"{taker.op_type} before it")


def _after(edit, job):
    norm, y = job.norm, job.norm.outputs[0]
    node = only_user(y)
    while is_noop(node, edit.model):
        y = node.outputs[0]
        node = only_user(y)
    if y.is_graph_output():
        raise Unfoldable("its output is an output of the graph")
    if node is None or node is norm:
        raise Unfoldable(f"its output goes to {', '.join(map(label, y.consumers())) or 'nobody'}")
    goes = f"its output goes to {label(node)} ({node.op_type})"
    if node.graph is not norm.graph:
        raise Unfoldable(f"{goes} in a subgraph")
    if not is_op(node, *AFTER) or node.inputs[0] is not y:
        raise Unfoldable(f"{goes}, which cannot take it")
    AFTER[node.op_type](edit, job, node)
    node.replace_input_with(0, norm.inputs[0])
    folded = Folded(label(norm), label(node), f"{node.op_type} after it")
    edit.drop(y)  # and with it what only handed it on
    edit.remove(norm)
    return folded
