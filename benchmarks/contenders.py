"""contenders: cbn and its peers, each as a call that does one operation on a problem's arrays."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import cbn
import frameworks
import onednn
from cbn import comparison
from common import UserError
from problem import EPS, Contender

OPERATIONS = ("forward", "backward", "inference")
# Arrays that an operation cannot avoid to read or write: x, y; dy, x, dx; x, y.
NECESSARY_ARRAYS = {"forward": 2, "backward": 3, "inference": 2}
# Largest error, in units of cbn's largest value, of a contender that computes the same thing; and of one that does, but
# whose sums lose digits, as float32 sums of millions of values do.
TOLERANCE, LOOSE_TOLERANCE = 1e-4, 1e-2


def cbn_contenders(p, operation):
    options = {"axis": p.axis, "out": p.out, "num_threads": p.threads}
    if operation == "forward":
        return {"cbn": Contender(lambda: cbn.batch_norm_forward(p.x, p.weight, p.bias, EPS, **options)[0])}
    if operation == "backward":
        return {"cbn": Contender(lambda: cbn.batch_norm_backward(p.dy, p.x, p.mean, p.inv_std, p.weight, **options)[0])}
    statistics = p.running_mean, p.running_var
    return {"cbn": Contender(lambda: cbn.batch_norm(p.x, *statistics, p.weight, p.bias, eps=EPS, **options))}


def numpy_contenders(p, operation):
    """A few lines of NumPy in x's own precision, with out= where NumPy takes it: those of `python -m cbn bench`."""
    return {"numpy": Contender(comparison.numpy_calls(p)[operation])}


def torch_contenders(p, operation):
    """With and without out=. There is no out= for backward that computes in place: torch copies at the end."""
    import torch

    torch.set_num_threads(p.threads)
    # views, which torch knows as channels_last for channels-last rows: the only strides besides contiguous ones for
    # which its training forward with out= is right
    x, dy, out = (torch.from_numpy(p.channels_first(array)) for array in (p.x, p.dy, p.out))
    weight, bias, mean, inv_std, running_mean, running_var = map(torch.from_numpy, p.per_channel())
    training = operation == "forward"
    if operation == "backward":
        arguments = dy, x, weight, None, None, mean, inv_std, True, EPS, [True, True, True]
        runs = {"torch": lambda: torch.ops.aten.native_batch_norm_backward(*arguments)[0]}
    else:
        statistics = (None, None) if training else (running_mean, running_var)
        saved = [torch.empty_like(weight) if training else torch.empty(0, dtype=x.dtype) for _ in range(2)]
        arguments = x, weight, bias, *statistics, training, 0.1, EPS
        runs = {
            "torch out=": lambda: torch.native_batch_norm(*arguments, out=(out, *saved))[0],
            "torch": lambda: torch.native_batch_norm(*arguments)[0],
        }
    return {name: Contender(run, lambda y: p.as_x(y.numpy())) for name, run in runs.items()}


def onnxruntime_contenders(p, operation):
    """With IO binding: those of `python -m cbn bench`. Inference only, and channels on axis 1 only."""
    if operation != "inference" or p.axis != 1:
        return {}
    return {"onnxruntime": Contender(comparison.onnxruntime_calls(p)["inference"])}


def onednn_contenders(p, operation):
    """The row's own layout, and blocks of 16 channels (nChw16c), in which oneDNN itself prefers to work."""
    onednn.library().onednn_init(p.threads)
    if p.x.dtype != np.float32:
        return {}
    layouts = {"onednn": onednn.LAYOUTS[p.row.layout], "onednn 16c": onednn.BLOCKED}
    norms = {name: onednn.Norm(p, operation, layout) for name, layout in layouts.items()}
    return {
        name: Contender(norm.run, lambda _, norm=norm: norm.finish(), norm.implementation())
        for name, norm in norms.items()
    }


@dataclass
class Peer:
    """A package to compare with."""

    contenders: Callable
    names: tuple  # of its contenders
    modules: tuple = ()


PEERS = {
    "numpy": Peer(numpy_contenders, ("numpy",)),
    "torch": Peer(torch_contenders, ("torch out=", "torch"), ("torch",)),
    "onednn": Peer(onednn_contenders, ("onednn", "onednn 16c")),
    "onnxruntime": Peer(onnxruntime_contenders, ("onnxruntime",), ("onnxruntime", "onnx")),
    "jax": Peer(frameworks.jax_contenders, ("jax",), ("jax",)),
    "tensorflow": Peer(frameworks.tensorflow_contenders, ("tensorflow",), ("tensorflow",)),
}


@functools.cache
def why_missing(peer):
    """What a peer lacks to take part, or None."""
    missing = [module for module in PEERS[peer].modules if importlib.util.find_spec(module) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if peer == "onednn":
        try:
            onednn.library()
        except UserError as error:
            return f"{error} (Debian's package is libdnnl-dev)"
    return None


def build(problem, operation, peers):
    """Set up the contenders of one row and operation, and check them against cbn.

    Returns
    -------
    found : dict of Contender
        Those that compute what cbn does, by name, cbn first.
    errors : dict of str
        "inaccurate: ..." for some of these; "wrong: ..." or "raised: ..." for the others, by name.
    """
    found, errors = cbn_contenders(problem, operation), {}
    expected = found["cbn"].run().copy()
    for peer in peers:
        names = PEERS[peer].names
        # whatever a peer raises is a result to report, not the end of the run
        try:
            candidates = PEERS[peer].contenders(problem, operation)
        except Exception as error:
            errors |= dict.fromkeys(names, _raised(error))
            continue
        for name, contender in candidates.items():
            problem.out.fill(np.nan)  # nobody passes with what another has written
            try:
                error = _error(contender.finish(contender.run()), expected)
            except Exception as error:
                errors[name] = _raised(error)
                continue
            if error <= LOOSE_TOLERANCE:
                found[name] = contender
            if error > TOLERANCE:
                kind = "inaccurate" if name in found else "wrong"
                errors[name] = f"{kind}: differs from cbn by {error:.1e} of the largest value"
    return found, errors


def _raised(error):
    return f"raised: {type(error).__name__}: {error}".splitlines()[0]


def _error(got, expected):
    """The largest difference, in units of the largest expected value; infinite for a wrong shape or NaN."""
    if got.shape != expected.shape:
        return float("inf")
    scale = max(expected.max(), -expected.min())
    error = np.abs(np.subtract(got, expected)).max() / scale
    return float(error) if np.isfinite(error) else float("inf")
