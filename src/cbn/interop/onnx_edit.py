"""onnx_edit: an ONNX model that is read, and changed: its constants, its names, and what nobody uses any more."""

import os
from collections import Counter
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from ..arrays import FLOATS
from ..libraries import library
from .onnx_nodes import CONSTANT, Unfoldable, cause, evaluated, is_op, label

__all__ = ["Edit", "copied", "loaded", "save"]


# --- files ---


def loaded(model):
    """Return a model as an onnx_ir.Model: itself, a copy of an onnx.ModelProto, or what is in a file.

    Weights in other files stay there until they are needed. They must lie below the model, a ModelProto's below the
    working directory.
    """
    ir, onnx = library("onnx_ir", "onnx"), library("onnx", "onnx")
    if isinstance(model, ir.Model):
        return model
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        return _from_proto(proto, ".")
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model must be a path, onnx.ModelProto or onnx_ir.Model; got {type(model).__name__}")
    try:
        proto = onnx.load(model, format="protobuf", load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # of whatever kind: the file may hold anything
        raise ValueError(f"model must be an ONNX file; got {model}: {cause(error)}") from None
    return _from_proto(proto, Path(model).parent)


def copied(model):
    """Return what `loaded` returns as a model that may be changed, the given one being left as it is."""
    own = loaded(model)
    try:
        return own.clone() if own is model else own
    except RuntimeError as error:  # which is how onnx_ir says that a graph is broken
        raise ValueError(f"model must be a valid graph; got: {cause(error)}") from None


def _from_proto(proto, folder):
    ir = library("onnx_ir", "onnx")
    if proto.training_info or _holds_sparse(proto.graph):
        raise ValueError("model must have neither sparse initializers nor training information; got one that has")
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise ValueError(f"model must be one that onnx-ir can read; got: {cause(error)}") from None
    ir.external_data.set_base_dir(model.graph, folder)
    return model


def _holds_sparse(graph):
    inner = [inner for node in graph.node for a in node.attribute for inner in (a.g, *a.graphs)]
    return bool(graph.sparse_initializer) or any(map(_holds_sparse, inner))


def save(model, path, data=None):
    """Write an onnx_ir.Model to a file, its larger weights to the file `data` beside it.

    Tensors that are attributes of nodes in other files become part of the model, which is changed.
    """
    ir = library("onnx_ir", "onnx")
    for node in model.graph.all_nodes():
        for name, given in node.attributes.items():
            if not given.is_ref() and isinstance(given.value, ir.ExternalTensor):
                tensor = ir.tensor(given.value.numpy(), given.value.dtype, name=given.value.name)
                node.attributes[name] = ir.AttrTensor(name, tensor)
    ir.save(model, path, format="protobuf", external_data=data)


# --- models ---


class Edit:
    """A model, and how its constants are read and replaced.

    A value that keeps its name keeps its numbers, so that the names that two models share can be compared.
    """

    def __init__(self, model):
        self.model = model
        self.ir = library("onnx_ir", "onnx")
        imports = model.opset_imports
        self.opset = imports.get("", imports.get("ai.onnx", 0))
        self.names = Counter()  # one name may occur in several subgraphs
        for graph in model.graphs():
            values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
            self.names.update(item.name for item in {*values, *graph})

    # reading

    def constant(self, value, what):
        """Return the array of a value that is the same in every run."""
        if value is None:
            raise Unfoldable(f"{what} is missing")
        try:
            array = evaluated(value, self.model)
        except Unfoldable as reason:
            raise Unfoldable(f"{what} {reason}") from None
        except Exception as error:  # of whatever kind: the file may hold anything
            raise Unfoldable(f"{what} cannot be read: {cause(error)}") from None
        if array.dtype.name not in FLOATS:
            raise Unfoldable(f"{what} is not of a float type that can be folded, but {array.dtype.name}")
        return array

    def operand(self, node, index, what):
        """Return the array of a node's input, None if it has none."""
        value = node.inputs[index] if index < len(node.inputs) else None
        return None if value is None else self.constant(value, f"{what} of {label(node)}")

    def ranks(self, values):
        """Return the ranks of some values, as far as the model says, or else as onnx infers them."""
        known = {len(value.shape) for value in values if value is not None and value.shape is not None}
        return known or {self._inferred[value] for value in values if value in self._inferred}

    @cached_property
    def _inferred(self):
        """Of a copy: the model itself stays without shapes where it has none."""
        with suppress(RuntimeError):  # which is how onnx_ir says that a graph is broken
            copy = self.model.clone()
            library("onnx_ir.passes.common", "onnx").ShapeInferencePass(check_type=False, strict_mode=False)(copy)
            twins = zip(self.model.graph.all_nodes(), copy.graph.all_nodes(), strict=True)
            pairs = [pair for node, twin in twins for pair in zip(node.outputs, twin.outputs, strict=True)]
            return {value: len(twin.shape) for value, twin in pairs if twin.shape is not None}
        return {}

    # writing

    def fresh(self, name):
        """Return the name, or one like it, that nothing has, and take it."""
        candidate, k = name, 1
        while self.names[candidate] > 0:
            candidate, k = f"{name}_{k}", k + 1
        self.names[candidate] += 1
        return candidate

    def put(self, node, index, array, name=None):
        """Make an array an input of a node; what was there stays for its other users, under the name that it has."""
        node.resize_inputs(max(len(node.inputs), index + 1))
        old = node.inputs[index]
        node.replace_input_with(index, None)
        if old is not None:
            name = old.name
            self.drop(old)
        node.replace_input_with(index, self._initializer(name, array))

    def _initializer(self, name, array):
        """In the outermost graph, which all others see, and where old versions list it as an input, too."""
        name = self.fresh(name)
        tensor = self.ir.Tensor(array, name=name)
        kind = self.ir.TensorType(tensor.dtype)
        value = self.ir.Value(name=name, type=kind, shape=self.ir.Shape(array.shape), const_value=tensor)
        self.model.graph.initializers.add(value)
        if self.model.ir_version < 4:
            self.model.graph.inputs.append(value)
        return value

    def drop(self, value):
        """Remove a constant that nobody uses any more, and the nodes that only led to it."""
        node, graph = (None, None) if value is None else (value.producer(), value.graph)
        others = () if node is None else node.outputs
        if graph is None or any(v.uses() or v.is_graph_output() for v in (value, *others)):
            return  # or it has gone already, as the second one of two parameters that are one value
        if value.is_initializer():
            if value.is_graph_input():
                graph.inputs.remove(value)
            del graph.initializers[value.name]
            self.names[value.name] -= 1
        elif is_op(node, "Constant", "Dropout", *CONSTANT):
            self.names.subtract(item.name for item in (node, *others))
            self.remove(node)

    def remove(self, node):
        """Remove a node whose outputs nobody uses any more, and the constants that only it used."""
        sources = node.inputs
        node.graph.remove(node, safe=True)
        for source in sources:
            self.drop(source)

    def replace(self, old, value):
        """Give a value the users, the name and the type of another one, which goes."""
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name, old.name = old.name, None
        value.type = old.type or value.type
        value.shape = value.shape if old.shape is None else old.shape
        value.doc_string = old.doc_string or value.doc_string
        value.metadata_props.update(old.metadata_props)

    def add_bias(self, node, array):
        """Add a constant to a node's output, and return the node that does."""
        product = node.outputs[0]
        total = self.ir.Node("", "Add", [None, None], name=self.fresh(f"{node.name or node.op_type}_bias"))
        self.replace(product, total.outputs[0])
        self.rename(product, f"{total.outputs[0].name}_product")
        total.replace_input_with(0, product)
        node.append(total)
        self.put(total, 1, array, f"{node.inputs[1].name}_bias")
        return total

    def rename(self, value, name):
        """Give a value that has other numbers now another name, too."""
        value.name = self.fresh(name)
