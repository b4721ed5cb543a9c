"""verify_onnx: how far a folded ONNX model is from the original one, run in ONNX Runtime as they are written."""

import itertools
import math
import os
from typing import NamedTuple

import numpy as np

from ..libraries import library
from .onnx_edit import cause, loaded

__all__ = ["Agreement", "Original", "verify"]

BOUNDS = {8: 1e-10, 4: 1e-4, 2: 2e-2}  # of float outputs, by the bytes of the coarsest type that matters
SHARE = 1e-2  # of an integer output's values, which may differ where two numbers were almost the same
LARGEST = 2**28  # values of a random input
FIRST, OTHERS = (2, 1), (32, 64, 224, 8, 1)  # for dimensions that the model leaves open
FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
INTEGERS = {f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


class Agreement(NamedTuple):
    """The largest `error` of two models over its `bound`, and the `output` that has it; `counted` if of integers."""

    error: float
    bound: float
    output: str
    counted: bool = False

    @property
    def ok(self):
        """Whether it is within the bound."""
        return self.error <= self.bound

    def __str__(self):
        if self.counted:
            return f'{self.error:.2g} of the values of output "{self.output}" differ'
        return f'largest difference {self.error:.2g} of the largest value of output "{self.output}"'


def verify(original, folded, sample=None):
    """Return how far the outputs of two ONNX models are from each other, given the same inputs.

    Parameters
    ----------
    original, folded : path, onnx.ModelProto or onnx_ir.Model
    sample : ndarray or dict, optional
        Inputs by name, or the array of the only one. By default random ones, always the same: normal floats, 0 and 1
        for integers, any uint8, True. Open dimensions become 2 if they come first, else 32, or what makes the
        original run.

    Returns
    -------
    Agreement
        `error`, `bound` and `output` of the output that is nearest to its bound or farthest beyond it, and `ok`. For
        floats the error is the largest difference over the largest value. The bound is 1e-10 for float64, 1e-4 for
        float32 and 2e-2 for 16 bits, by the coarser type of the output and the weights. Values that are not finite in
        the original are left out; one that is finite there only makes the error infinite. For integers it is the share
        of values that differ, and the bound 0.01.

    Raises
    ------
    ImportError
        If onnx, onnx-ir or onnxruntime is missing.
    ValueError
        If original cannot be run, or none of its outputs is finite.
    RuntimeError
        If original can be run and folded cannot.

    Notes
    -----
    On the CPU, without the optimizations of ONNX Runtime, which would fold the original, too.
    """
    return Original(original, sample).compare(folded)


class Original:
    """A model that was run, and what it was given and gave; for `verify`."""

    def __init__(self, model, sample=None):
        session = _session(model)
        self.size = _coarsest(model)
        self.names = [output.name for output in session.get_outputs()]
        self.feeds, self.outputs = _run_original(session, sample)

    def compare(self, folded):
        """Return the `Agreement` of a folded model."""
        try:
            got = _run(_session(folded), self.feeds)
        except ValueError as error:
            raise RuntimeError(f"the folded model must run as the original does; got: {error}") from None
        found = [_compare(*three, self.size) for three in zip(self.names, self.outputs, got, strict=True)]
        if all(entry is None for entry in found):
            raise ValueError("original must have finite values in an output for these inputs; got none")
        return max((entry for entry in found if entry), key=lambda entry: entry.error / entry.bound)


def _compare(name, wanted, got, size):
    """None if nothing can be compared."""
    if not isinstance(wanted, np.ndarray):
        raise ValueError(f"outputs must be tensors to be compared; got {type(wanted).__name__} for {name}")
    if wanted.size == 0:
        return None
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return Agreement(np.inf, SHARE, name)
    if wanted.dtype.kind != "f":
        return Agreement(float(np.mean(wanted != got)), SHARE, name, counted=True)
    bound = BOUNDS[min(size, wanted.dtype.itemsize)]
    finite = np.isfinite(wanted)
    if not finite.any():
        return None
    wanted, got = wanted[finite].astype(np.float64), got[finite].astype(np.float64)
    if not np.isfinite(got).all():
        return Agreement(np.inf, bound, name)
    return Agreement(float(np.abs(wanted - got).max() / (np.abs(wanted).max() or 1)), bound, name)


# --- running ---


def _session(model):
    runtime, ir, onnx = (library(name, "onnx") for name in ("onnxruntime", "onnx_ir", "onnx"))
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        source = proto.SerializeToString() if isinstance(proto, onnx.ModelProto) else os.fspath(proto)
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no class in common
        raise ValueError(f"model must be one that onnxruntime can load; got: {cause(error)}") from None


def _coarsest(model):
    """The bytes of the coarsest weights with 2 axes or more: smaller constants may have a type of their own."""
    model = loaded(model)
    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    constants = [a for node in model.graph.all_nodes() if node.op_type == "Constant" for a in node.attributes.values()]
    tensors += [a.value for a in constants if a.name == "value" and not a.is_ref()]
    sizes = [t.dtype.itemsize for t in tensors if t is not None and len(t.shape) > 1 and t.dtype.is_floating_point()]
    return max(2, min(sizes, default=8))


def _run(session, feeds):
    options = library("onnxruntime", "onnx").RunOptions()
    options.log_severity_level = 4
    try:
        return session.run(None, feeds, options)
    except Exception as error:
        raise ValueError(f"model must run in onnxruntime with these inputs; got: {cause(error)}") from None


def _run_original(session, sample):
    """The inputs, and the outputs that they give."""
    if sample is not None:
        feeds = _given(session, sample)
        return feeds, _run(session, feeds)
    for first, other in itertools.product(FIRST, OTHERS):
        feeds = _random(session, first, other)
        try:
            return feeds, _run(session, feeds)
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


def _random(session, first, other):
    rng = np.random.default_rng(0)
    inputs = session.get_inputs()
    batches = {given.shape[0] for given in inputs if given.shape}

    def size(axis, dim):
        if isinstance(dim, int):
            return dim
        return first if axis == 0 or (dim is not None and dim in batches) else other

    return {given.name: _values(rng, given, [size(*place) for place in enumerate(given.shape)]) for given in inputs}


def _values(rng, given, shape):
    if math.prod(shape) > LARGEST:
        raise ValueError(f"inputs must be smaller to be chosen at random; got shape {tuple(shape)} for {given.name}")
    if given.type in FLOATS:
        return rng.standard_normal(shape).astype(FLOATS[given.type])
    if given.type == "tensor(bool)":
        return np.ones(shape, bool)
    if given.type not in INTEGERS:
        raise ValueError(f"inputs must be numbers to be chosen at random; got {given.type} for {given.name}")
    dtype = INTEGERS[given.type]  # small ones may be indices; bytes are images
    return rng.integers(0, 256 if dtype == "uint8" else 2, shape, dtype)
