"""onnx_edit: an ONNX model that is being changed: its constants, its names, and what nobody uses any more."""

import os
from pathlib import Path

from ..libraries import library

__all__ = ["Edit", "Unfoldable", "attribute", "cause", "is_op", "label", "loaded", "only_user"]

FLOATS = ("float32", "float64", "float16", "bfloat16")


class Unfoldable(Exception):
    """A norm stays as it is; the text says why."""


def cause(error):
    """Return the first line of an error, or of the one in it: onnx_ir wraps errors in errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__)


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


# --- nodes ---


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


# --- models ---


class Edit:
    """A model, and how its constants are read and replaced."""

    def __init__(self, model):
        self.model = model
        self.ir = library("onnx_ir", "onnx")
        imports = model.opset_imports
        self.opset = imports.get("", imports.get("ai.onnx", 0))
        self.names = set()
        for graph in model.graphs():
            values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
            self.names.update(item.name for item in [*values, *graph])

    # reading

    def constant(self, value, what):
        """Return the array of a value that is the same in every run."""
        if value is None:
            raise Unfoldable(f"{what} is missing")
        seen = set()
        while is_op(value.producer(), "Identity") and value not in seen:
            seen.add(value)
            value = next(iter(value.producer().inputs), None) or value
        if value.is_graph_input() and not (value.is_initializer() and self.model.ir_version < 4):
            raise Unfoldable(f'{what} is the input "{value.name}" of the graph, which callers may set')
        try:
            array = self._array(self.ir.convenience.get_const_tensor(value))
        except Exception as error:  # of whatever kind: the file may hold anything
            raise Unfoldable(f"{what} cannot be read: {cause(error)}") from None
        if array is None:
            node = value.producer()
            source = "nowhere" if node is None else f"{label(node)} ({node.op_type})"
            raise Unfoldable(f"{what} is not a constant: it comes from {source}")
        if array.dtype.name not in FLOATS:
            raise Unfoldable(f"{what} is not of a float type that can be folded, but {array.dtype.name}")
        return array

    def _array(self, tensor):
        if isinstance(tensor, self.ir.serde.TensorProtoTensor) and tensor.raw.ByteSize() < tensor.size:
            raise ValueError("it has less data than values")  # of which NumPy would make zeros, however many
        return None if tensor is None else tensor.numpy()

    def operand(self, node, index, what):
        """Return the array of a node's input, None if it has none."""
        value = node.inputs[index] if index < len(node.inputs) else None
        return None if value is None else self.constant(value, f"{what} of {label(node)}")

    # writing

    def fresh(self, name):
        """Return the name, or one like it, that nothing has, and take it."""
        candidate, k = name, 1
        while candidate in self.names:
            candidate, k = f"{name}_{k}", k + 1
        self.names.add(candidate)
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
        if value is None or value.uses() or value.is_graph_output():
            return
        node, graph = value.producer(), value.graph
        if value.is_initializer():
            if value.is_graph_input():
                graph.inputs.remove(value)
            del graph.initializers[value.name]
            self.names.discard(value.name)
        elif is_op(node, "Constant", "Identity"):
            sources = node.inputs
            graph.remove(node, safe=True)
            self.names.difference_update((value.name, node.name))
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

    def remove(self, norm):
        """Remove a norm whose output nobody uses any more, and its parameters."""
        parameters = norm.inputs[1:]
        norm.graph.remove(norm, safe=True)
        for value in parameters:
            self.drop(value)

    def add_bias(self, node, array):
        """Add a constant to a node's output, and return the node that does."""
        product = node.outputs[0]
        total = self.ir.Node("", "Add", [None, None], name=self.fresh(f"{node.name or node.op_type}_bias"))
        self.replace(product, total.outputs[0])
        product.name = self.fresh(f"{total.outputs[0].name}_product")
        total.replace_input_with(0, product)
        node.append(total)
        self.put(total, 1, array, f"{node.inputs[1].name}_bias")
        return total
