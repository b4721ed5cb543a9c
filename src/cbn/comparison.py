"""comparison: times cbn against a copy, plain NumPy, the oracle, and torch and onnxruntime where they are installed."""

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from . import functional, reference, report, runtime
from .statistics import moments

__all__ = ["OPERATIONS", "Problem", "compare", "problems", "shape_text"]

OPERATIONS = ("forward", "backward", "inference")
EPS = 1e-5
# Arrays that an operation cannot avoid to read or write: x, y; dy, x, dx; x, y.
NECESSARY_ARRAYS = {"forward": 2, "backward": 3, "inference": 2}
# Largest error, in units of the largest exact value, of a contender that computes the same thing. How exact cbn is,
# the self-check tells.
TOLERANCE = 1e-4
SECONDS_PER_CONTENDER = 0.15
SHORTEST_SAMPLE = 2e-3  # seconds; faster calls are timed several at a time
# Thread pools of torch and onnxruntime go on spinning for some milliseconds after a call, on CPUs that the next
# contender needs.
REST = 0.01


@dataclass
class Problem:
    """The arrays of one comparison."""

    name: str
    x: np.ndarray
    axis: int

    def __post_init__(self):
        rng = np.random.default_rng(1)
        channels = self.x.shape[self.axis]
        self.weight, self.bias = rng.standard_normal((2, channels)).astype(self.x.dtype)
        # a new array in x's memory layout, where cbn keeps that
        self.out, self.mean, self.inv_std = functional.batch_norm_forward(self.x, axis=self.axis)
        batch = moments(self.x, axis=self.axis)
        self.running_mean, self.running_var = (v.astype(self.x.dtype) for v in (batch.mean, batch.var()))
        self.dy = np.empty_like(self.out)
        self.dy[...] = rng.standard_normal(self.x.shape, np.float32)
        self.threads = runtime.get_num_threads()

    def per_channel(self):
        """weight, bias, mean, inv_std, running_mean and running_var in x's dtype."""
        values = self.weight, self.bias, self.mean, self.inv_std, self.running_mean, self.running_var
        return [v.astype(self.x.dtype) for v in values]


def problems(quick=False):
    """Functions that make the generated problems, so that only one at a time takes memory."""
    shapes = [("NC", (256, 1024), 1), ("NCHW", (8, 64, 28, 28), 1)]
    if not quick:
        shapes += [("NHWC", (16, 28, 28, 256), -1), ("NCHW", (8, 256, 56, 56), 1)]
    return [partial(_generated, *one) for one in shapes]


def _generated(name, shape, axis):
    return Problem(name, np.random.default_rng(0).standard_normal(shape, np.float32), axis)


def shape_text(row):
    return "x".join(map(str, row["shape"]))


# --- the contenders: from a problem to a call for each operation, which returns y or dx ---


def cbn_calls(p):
    statistics = p.running_mean, p.running_var
    return {
        "forward": lambda: functional.batch_norm_forward(p.x, p.weight, p.bias, EPS, axis=p.axis, out=p.out)[0],
        "backward": lambda: functional.batch_norm_backward(
            p.dy, p.x, p.mean, p.inv_std, p.weight, axis=p.axis, out=p.out
        )[0],
        "inference": lambda: functional.batch_norm(p.x, *statistics, p.weight, p.bias, eps=EPS, axis=p.axis, out=p.out),
    }


def numpy_calls(p):
    """Batch normalization in x's own precision, as one writes it in a few lines of NumPy."""
    axes = tuple(axis for axis in range(p.x.ndim) if axis != p.axis % p.x.ndim)
    wide = [1] * p.x.ndim
    wide[p.axis] = -1
    weight, bias, mean, inv_std, running_mean, running_var = (v.reshape(wide) for v in p.per_channel())

    def normalize(mean, var):
        scale = weight / np.sqrt(var + p.x.dtype.type(EPS))
        y = np.subtract(p.x, mean, out=p.out)
        y *= scale
        y += bias
        return y

    def backward():
        n = p.x.dtype.type(p.x.size // p.weight.size)
        x_hat = (p.x - mean) * inv_std
        dbias = p.dy.sum(axis=axes, keepdims=True)
        dweight = (p.dy * x_hat).sum(axis=axes, keepdims=True)
        x_hat *= dweight / n
        dx = np.subtract(p.dy, dbias / n, out=p.out)
        dx -= x_hat
        dx *= weight * inv_std
        return dx

    return {
        "forward": lambda: normalize(p.x.mean(axis=axes, keepdims=True), p.x.var(axis=axes, keepdims=True)),
        "backward": backward,
        "inference": lambda: normalize(running_mean, running_var),
    }


def oracle_calls(p):
    statistics = p.running_mean, p.running_var
    return {
        "forward": lambda: reference.batch_norm_forward(p.x, p.weight, p.bias, EPS, axis=p.axis)[0],
        "backward": lambda: reference.batch_norm_backward(p.dy, p.x, p.mean, p.inv_std, p.weight, axis=p.axis)[0],
        "inference": lambda: reference.batch_norm(p.x, *statistics, p.weight, p.bias, eps=EPS, axis=p.axis),
    }


def torch_calls(p):
    import torch

    torch.set_num_threads(p.threads)
    x, dy = (torch.from_numpy(np.moveaxis(a, p.axis, 1)) for a in (np.ascontiguousarray(p.x), p.dy))
    if not (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        x, dy = x.contiguous(), dy.contiguous()  # training with out= gives wrong results for other strides
    out = torch.empty_like(x)
    weight, bias, mean, inv_std, running_mean, running_var = map(torch.from_numpy, p.per_channel())
    saved, none = (torch.empty_like(weight), torch.empty_like(weight)), (torch.empty(0, dtype=x.dtype),) * 2

    def returned(y):
        return np.moveaxis(y.numpy(), 1, p.axis)

    return {  # backward makes a new array: its out= variant computes one, too, and copies it
        "forward": lambda: returned(
            torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, EPS, out=(out, *saved))[0]
        ),
        "backward": lambda: returned(
            torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, None, None, mean, inv_std, True, EPS, [True, True, True]
            )[0]
        ),
        "inference": lambda: returned(
            torch.native_batch_norm(x, weight, bias, running_mean, running_var, False, 0.1, EPS, out=(out, *none))[0]
        ),
    }


def onnxruntime_calls(p):
    """Inference only, and channels on axis 1 only: there is no more in the ONNX operator."""
    if p.axis % p.x.ndim != 1:
        return {}
    import onnxruntime
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(p.x.dtype)
    constants = {"weight": p.weight, "bias": p.bias, "mean": p.running_mean, "var": p.running_var}
    node = helper.make_node("BatchNormalization", ["x", *constants], ["y"], epsilon=EPS)
    ends = [[helper.make_tensor_value_info(name, kind, p.x.shape)] for name in "xy"]
    graph = helper.make_graph([node], "g", *ends, [numpy_helper.from_array(v, name) for name, v in constants.items()])
    # versions that old onnxruntimes read, too
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = p.threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x, out = np.ascontiguousarray(p.x), np.empty(p.x.shape, p.x.dtype)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, p.x.dtype.type, p.x.shape, out.ctypes.data)

    def inference():
        session.run_with_iobinding(binding)
        return out

    return {"inference": inference}


def copy_calls(p):
    """np.copyto of as many bytes as x has: in one call, and split over the threads."""
    source, target = np.ones(p.x.size, p.x.dtype), np.empty(p.x.size, p.x.dtype)
    parts = list(zip(np.array_split(target, p.threads), np.array_split(source, p.threads), strict=True))
    pool = ThreadPoolExecutor(p.threads)
    return {
        "copy": lambda: np.copyto(target, source),
        "split copy": lambda: list(pool.map(lambda part: np.copyto(*part), parts)),
    }


RIVALS = {"torch": (torch_calls, ("torch",)), "onnxruntime": (onnxruntime_calls, ("onnxruntime", "onnx"))}


def contenders(problem):
    """The calls of each contender that is installed, by its name."""
    found = {"cbn": cbn_calls(problem), "numpy": numpy_calls(problem), "oracle": oracle_calls(problem)}
    for name, (calls, modules) in RIVALS.items():
        if all(importlib.util.find_spec(module) for module in modules):
            found[name] = calls(problem)
    return found


# --- measuring ---


def _error(got, exact):
    """The largest error, in units of the largest exact value."""
    name = got.dtype.name
    largest = np.abs(exact).max(initial=0, where=np.isfinite(exact))
    return report.error_in_ulp(got, exact, max(largest, report.TINY[name]), got.dtype) * report.EPS[name]


def _seconds(call, number):
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def measure(calls, rest=0.0):
    """Return the median seconds of each call, from samples taken in turns, so that a slow phase hits all of them."""
    first = {name: _seconds(call, 1) for name, call in calls.items()}
    number = {name: max(1, round(SHORTEST_SAMPLE / t)) for name, t in first.items()}
    rounds = {name: min(7, max(2, int(SECONDS_PER_CONTENDER / (t * number[name])))) for name, t in first.items()}
    samples = {name: [] for name in calls}
    for r in range(max(rounds.values())):
        for name, call in calls.items():
            if r < rounds[name]:
                time.sleep(rest)
                samples[name].append(_seconds(call, number[name]))
    return {name: median(times) for name, times in samples.items()}


def compare(problem, progress):
    """Yield one row of plain values for each operation: seconds, errors, GB/s, share of the copy, speed-ups.

    `progress` is called before each.
    """
    by_name = contenders(problem)
    for operation in OPERATIONS:
        progress(f"{operation} of {problem.name} {problem.x.shape}")
        calls = {name: found[operation] for name, found in by_name.items() if operation in found}
        exact = calls["oracle"]()
        # out is shared: each result is compared before the next contender overwrites it
        errors = {name: _error(call(), exact) for name, call in calls.items() if name != "oracle"}
        del exact
        rest = REST if RIVALS.keys() & calls.keys() else 0.0
        seconds = measure(calls | copy_calls(problem), rest)
        copy = min(seconds.pop("copy"), seconds.pop("split copy"))
        own, traffic = seconds["cbn"], NECESSARY_ARRAYS[operation] * problem.x.nbytes
        yield {
            "layout": problem.name,
            "shape": list(problem.x.shape),
            "axis": problem.axis,
            "dtype": str(problem.x.dtype),
            "operation": operation,
            "threads": problem.threads,
            "seconds": seconds | {"copy": copy},
            "gigabytes_per_second": traffic / own / 1e9,
            "share_of_copy": (traffic / own) / (2 * problem.x.nbytes / copy),
            "speedup": {name: t / own for name, t in seconds.items() if name != "cbn"},
            "agrees": {name: bool(error <= TOLERANCE) for name, error in errors.items()},
            "ok": bool(errors["cbn"] <= TOLERANCE),
        }
