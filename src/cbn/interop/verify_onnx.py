"""verify_onnx: how far a folded ONNX model is from the original one: its outputs, and each folded norm by itself."""

import math
from typing import Any, NamedTuple

import numpy as np

from ..libraries import library
from .onnx_edit import Edit
from .onnx_nodes import Unfoldable, is_op, label, only_user
from .onnx_operations import AFTER, NORM, line_of
from .run_onnx import chosen, own, run, start

__all__ = ["Agreement", "Original", "verify"]

BOUNDS = {8: 1e-10, 4: 1e-4, 2: 2e-2}  # of float values, by the bytes of the coarsest type that matters
SHARE = 1e-2  # of an integer output's values, which may differ where two numbers were almost the same


class Agreement(NamedTuple):
    """The largest `error` of two models over its `bound`, and the `output` that has it; `counted` if of integers.

    `overall` is the largest error of the outputs, with those of all folds added up; `notes` say what was not compared;
    `each` has an Agreement for everything that was.
    """

    error: float
    bound: float
    output: str
    counted: bool = False
    overall: float = 0.0
    notes: tuple = ()
    each: tuple = ()

    @property
    def ok(self):
        """Whether something was compared, and is within the bound."""
        return self.error <= self.bound

    def __str__(self):
        if math.isnan(self.error):
            return "nothing could be verified"
        if self.counted:
            return f'{self.error:.2g} of the values of "{self.output}" differ'
        return f'largest difference {self.error:.2g} of the largest value of "{self.output}"'


NOTHING = Agreement(math.nan, math.nan, "")


def verify(original, folded, sample=None):
    """Return how far two ONNX models are from each other, given the same inputs.

    Parameters
    ----------
    original, folded : path, onnx.ModelProto or onnx_ir.Model
    sample : ndarray or dict, optional
        Inputs by name, or the array of the only one. By default random ones, always the same: normal floats, 0 and 1
        for integers, any uint8, and for bool all True and then all False. Open dimensions become 2 if they come first,
        else 32, or what makes the original run.

    Returns
    -------
    Agreement
        `error`, `bound` and `output` of the value that is nearest to its bound or farthest beyond it, and `ok`. For
        floats the error is the largest difference over the largest value. The bound is 1e-10 for float64, 1e-4 for
        float32 and 2e-2 for 16 bits. Values that are not finite in the original are left out; one that is finite there
        only makes the error infinite. For integers it is the share of values that differ, and the bound 0.01. `notes`
        names what was not compared: values that are nowhere finite, constant, empty or random, and norms in branches
        that did not run. If nothing is left, the error is NaN and `ok` False. `overall` is the largest error of the
        outputs where those of all folds add up; in a deep network it may be large though each fold is right. `each` has
        such an Agreement for each output and each norm that was compared.

    Raises
    ------
    ImportError
        If onnx, onnx-ir or onnxruntime is missing.
    ValueError
        If original cannot be run.
    RuntimeError
        If original can be run and folded cannot.

    Notes
    -----
    On the CPU, without the optimizations of ONNX Runtime, which would fold the original, too. Each norm outside of
    branches and loops is compared where its output, or that of the operation that has taken it, has its name in both
    models: by channel, a channel's largest value being that of the terms of ``scale * x + shift``. What comes behind
    such a value is computed from the original's one, so that each error is that of one fold.
    """
    return Original(original, sample).compare(folded)


class Original:
    """A model that was run, and what it was given and gave; for `verify`."""

    def __init__(self, model, sample=None):
        model = own(model)
        self.outputs = list(dict.fromkeys(value.name for value in model.graph.outputs))
        self.norms = list(_norms(model))
        self.branched = list(_branched(model.graph))
        inner = [node for node in model.graph.all_nodes() if is_op(node, NORM) and node.graph is not model.graph]
        self.coarsest = min(map(_itemsize, inner), default=8)
        conditions = [value for _, way in self.branched for value, _ in way if value.graph is model.graph]
        _show(model, [*(value for norm in self.norms for value in norm.values), *conditions])
        self.session = start(model)
        self.runs = chosen(self.session, sample)

    def compare(self, folded):
        """Return the `Agreement` of a folded model."""
        model = own(folded)
        shifts, notes = self._common(model)
        try:
            session = start(model)
            whole = [run(session, feeds) for feeds, _ in self.runs]
            inputs = _cut(model, {name: self.runs[0][1][name] for name in shifts})
            session = start(model)
            got = [run(session, feeds | {new: out[old] for old, new in inputs.items()}) for feeds, out in self.runs]
        except ValueError as error:
            raise RuntimeError(f"the folded model must run as the original does; got: {error}") from None
        found = {name: self._compared(name, got, shifts.get(name)) for name in dict.fromkeys([*self.outputs, *shifts])}
        worst = _worst(list(found.values()), NOTHING)
        floats = [name for name in self.outputs if isinstance(found[name], Agreement) and not found[name].counted]
        overall = max((_worst(self._entries(name, whole), NOTHING).error for name in floats), default=0.0)
        notes += [entry for entry in found.values() if isinstance(entry, str)] + self._idle(model)
        if overall > worst.bound:
            notes.append(f"added up, the differences are {overall:.2g} of an output's largest value")
        each = tuple(entry for entry in found.values() if isinstance(entry, Agreement))
        return worst._replace(overall=overall, notes=tuple(notes), each=each)

    def _common(self, model):
        """The shift of each norm, or None, by the name of the value that both models have for it; and the others."""
        names, kept = {value.name for node in model.graph for value in node.outputs}, _labels(model)
        shifts, notes = {}, []
        for norm in self.norms:
            name = next((value.name for value in norm.values if value.name in names), None)
            if name is None and norm.name not in kept:
                notes.append(f'norm "{norm.name}" was compared by the outputs alone')
            elif name == norm.values[0].name:
                shifts[name] = norm.shift
            elif name is not None:
                shifts.setdefault(name)
        return shifts, notes

    def _entries(self, name, got, shift=None):
        size = self.coarsest if name in self.outputs else 8
        return [_compare(name, out[name], new[name], size, shift) for (_, out), new in zip(self.runs, got, strict=True)]

    def _compared(self, name, got, shift):
        """The Agreement about a value, or in words why there is none."""
        worst = _worst(self._entries(name, got, shift))
        if isinstance(worst, Agreement) and not worst.ok:
            again = [run(self.session, feeds) for feeds, _ in self.runs]
            same = _worst(self._entries(name, again, shift))
            if isinstance(same, Agreement) and not same.ok:
                return f'"{name}" is random and was not compared'
        return worst

    def _idle(self, model):
        """What to say of the folded norms that are in branches which were not seen to run."""
        kept = _labels(model)

        def ran(out, way):
            return all(value.name in out and bool(out[value.name].all()) is taken for value, taken in way)

        idle = [name for name, way in self.branched if not any(ran(out, way) for _, out in self.runs)]
        return [f'norm "{name}" is in a branch that was not seen to run' for name in idle if name not in kept]


# --- what is compared ---


class Norm(NamedTuple):
    """A norm outside of branches: its shift if known, and its output and those that take its place if it has gone."""

    name: str
    shift: Any
    values: list


def _norms(model):
    edit = Edit(model)
    for node in model.graph:
        if not is_op(node, NORM) or not node.outputs:
            continue
        try:
            with np.errstate(all="ignore"):
                shift = line_of(edit, node)[1]
        except Unfoldable:
            shift = None
        values = [node.outputs[0]]
        while len(values) < 5 and is_op(user := only_user(values[-1]), *AFTER, "Add", "Identity", "Dropout"):
            if user.graph is not model.graph or not user.outputs:
                break
            values.append(user.outputs[0])
        yield Norm(label(node), shift, values)


def _labels(model):
    return {label(node) for node in model.graph.all_nodes() if is_op(node, NORM)}


def _branched(graph, way=()):
    """Each norm in a branch, and the conditions that lead to it with the values that they must have."""
    ir = library("onnx_ir", "onnx")
    for node in graph:
        if way and is_op(node, NORM):
            yield label(node), way
        for name, given in node.attributes.items():
            if given.type == ir.AttributeType.GRAPH and not given.is_ref():
                turn = ((node.inputs[0], name == "then_branch"),) if is_op(node, "If") and node.inputs else ()
                yield from _branched(given.value, way + turn)


def _itemsize(norm):
    """The bytes of the coarsest type that a norm is known to have."""
    types = [value.dtype for value in (*norm.inputs, *norm.outputs) if value is not None and value.dtype is not None]
    return min((kind.itemsize for kind in types), default=8)


def _show(model, values):
    """Make values outputs of the model."""
    model.graph.outputs.extend(value for value in dict.fromkeys(values) if not value.is_graph_output())


def _cut(model, arrays):
    """Show values, and let all that comes behind them read new inputs instead; return these by the values' names."""
    ir = library("onnx_ir", "onnx")
    values = {value.name: value for node in model.graph for value in node.outputs if value.name in arrays}
    inputs = {}
    for k, (name, value) in enumerate(values.items()):
        given = ir.Value(name=f"cbn_original_{k}", type=ir.TensorType(ir.DataType.from_numpy(arrays[name].dtype)))
        for user, index in value.uses():
            user.replace_input_with(index, given)
            inputs[name] = given.name
        if given.uses():
            model.graph.inputs.append(given)
    _show(model, values.values())
    return inputs


# --- how they are compared ---


def _worst(entries, default=None):
    """The Agreement that is nearest to its bound or farthest beyond it; else the default, or the first entry."""
    found = [entry for entry in entries if isinstance(entry, Agreement)]
    return max(found, key=lambda entry: entry.error / entry.bound, default=default or entries[0])


def _compare(name, wanted, got, size, shift):
    """An Agreement, or in words why there is none."""
    if not isinstance(wanted, np.ndarray):
        raise ValueError(f"outputs must be tensors to be compared; got {type(wanted).__name__} for {name}")
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return Agreement(np.inf, SHARE, name)
    if wanted.size == 0:
        return f'"{name}" is empty and verifies nothing'
    if wanted.dtype.kind != "f":
        found = Agreement(float(np.mean(wanted != got)), SHARE, name, counted=True)
    else:
        finite = np.isfinite(wanted)
        if not finite.any():
            return f'"{name}" is nowhere finite and was not compared'
        bound, tiny = BOUNDS[min(size, wanted.dtype.itemsize)], float(np.finfo(wanted.dtype).tiny)
        wanted, got = (np.where(finite, array, 0).astype(np.float64) for array in (wanted, got))
        found = Agreement(_error(wanted, got, shift, tiny), bound, name)
    constant = wanted.size > 1 and (wanted == wanted.flat[0]).all()
    return f'"{name}" is constant and verifies nothing' if constant and found.ok else found


def _error(wanted, got, shift, tiny):
    """The largest difference over the largest value, by channel if the shift of a norm is given."""
    if not np.isfinite(got).all():
        return np.inf
    difference, size = np.abs(wanted - got), np.abs(wanted)
    if shift is None or wanted.ndim < 2 or wanted.shape[1] != len(shift):
        return float(difference.max() / (size.max() or 1))
    axes = (0, *range(2, wanted.ndim))
    terms = size.max(axes) + np.abs(shift)  # scale * x and shift may cancel
    return float((difference.max(axes) / np.maximum(terms, tiny)).max())
