"""run_onnx: ONNX models in ONNX Runtime, on the CPU, as they are written, with given or random inputs."""

import itertools
import math
import tempfile
from pathlib import Path

import numpy as np

from ..libraries import library
from .onnx_edit import copied, save
from .onnx_nodes import cause

__all__ = ["chosen", "external", "own", "run", "start"]

LARGEST = 2**28  # values of random inputs
FIRST, OTHERS = (2, 1), (32, 64, 224, 8, 1)  # for dimensions that the model leaves open
FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
INTEGERS = {f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


# --- models ---


def own(model):
    """Return a model as an onnx_ir.Model that may be changed, without outputs that have no name.

    ONNX Runtime may crash where a norm has those.
    """
    copy = copied(model)
    for node in copy.graph.all_nodes():
        while node.outputs and not node.outputs[-1].name:
            node.resize_outputs(len(node.outputs) - 1)
    return copy


def external(model):
    """Return the files beside an onnx_ir.Model that hold weights of it."""
    kind = library("onnx_ir", "onnx").ExternalTensor
    values = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    values += [a.value for node in model.graph.all_nodes() for a in node.attributes.values() if not a.is_ref()]
    return {Path(value.path): value for value in values if isinstance(value, kind)}


def start(model):
    """Return a session for an onnx_ir.Model, which is written to a file for that: it may be of any size."""
    runtime = library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised
    with tempfile.TemporaryDirectory(prefix="cbn-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            save(model, path, "weights" if external(model) else None)
            return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no class in common
            reason = cause(error).replace(str(path), path.name)
            raise ValueError(f"model must be one that onnxruntime can load; got: {reason}") from None


def run(session, feeds):
    """Return the outputs of a session by name."""
    options = library("onnxruntime", "onnx").RunOptions()
    options.log_severity_level = 4
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(None, feeds, options), strict=True))
    except Exception as error:
        raise ValueError(f"model must run in onnxruntime with these inputs; got: {cause(error)}") from None


def chosen(session, sample=None):
    """Return pairs of inputs and outputs: of the sample, or of random inputs, all bools being True and then False."""
    if sample is not None:
        feeds = _given(session, sample)
        return [(feeds, run(session, feeds))]
    flags = (True, False) if any(given.type == "tensor(bool)" for given in session.get_inputs()) else (True,)
    for first, other in itertools.product(FIRST, OTHERS):
        several = [_random(session, first, other, flag) for flag in flags]
        try:
            return [(feeds, run(session, feeds)) for feeds in several]
        except ValueError as error:
            reason = error
    raise reason


# --- inputs ---


def _given(session, sample):
    names = [given.name for given in session.get_inputs()]
    if not isinstance(sample, dict):
        if len(names) != 1:
            raise ValueError(f"sample must have arrays by name for the inputs {', '.join(names)}; got one array")
        sample = dict.fromkeys(names, sample)
    if sample.keys() != set(names):
        raise ValueError(f"sample must have the inputs {', '.join(names)}; got {', '.join(sample) or 'none'}")
    return sample


def _random(session, first, other, flag):
    rng = np.random.default_rng(0)
    inputs = session.get_inputs()
    batches = {given.shape[0] for given in inputs if given.shape}

    def size(axis, dim):
        if isinstance(dim, int):
            return dim
        return first if axis == 0 or (dim is not None and dim in batches) else other

    shapes = {given.name: tuple(size(*place) for place in enumerate(given.shape)) for given in inputs}
    if sum(map(math.prod, shapes.values())) > LARGEST:
        name = max(shapes, key=lambda name: math.prod(shapes[name]))
        raise ValueError(f"inputs must be smaller to be chosen at random; got shape {shapes[name]} for {name}")
    return {given.name: _values(rng, given, shapes[given.name], flag) for given in inputs}


def _values(rng, given, shape, flag):
    if given.type in FLOATS:
        dtype = FLOATS[given.type]
        return rng.standard_normal(shape, np.float64 if dtype is np.float64 else np.float32).astype(dtype, copy=False)
    if given.type == "tensor(bool)":
        return np.full(shape, flag)
    if given.type not in INTEGERS:
        raise ValueError(f"inputs must be numbers to be chosen at random; got {given.type} for {given.name}")
    dtype = INTEGERS[given.type]  # small ones may be indices; bytes are images
    return rng.integers(0, 256 if dtype == "uint8" else 2, shape, dtype)
