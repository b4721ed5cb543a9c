"""selfcheck: every layout and dtype through a layer's operations, with every instruction set, against the oracle."""

import importlib.util
from functools import partial

import numpy as np

from . import runtime
from .functional import batch_norm_backward, batch_norm_forward
from .layer import BatchNorm
from .verify import OracleMismatch

__all__ = ["check_one", "dtypes", "problems"]


def dtypes():
    """float32, float64, float16, and bfloat16 where there is ml_dtypes, which has it."""
    found = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)]
    if importlib.util.find_spec("ml_dtypes"):
        import ml_dtypes

        found.append(np.dtype(ml_dtypes.bfloat16))
    return found


def problems(quick):
    """Every layout in every dtype: name, axis, and what makes x; unless quick, so large that threads share the work."""
    rng, n = np.random.default_rng(0), 2 if quick else 4

    def normal(dtype, *shape, mean=0):
        return (rng.standard_normal(shape) + mean).astype(dtype)

    layouts = (
        ("NC", 1, lambda dtype: normal(dtype, 200 * n, 96)),
        ("NCL", 1, lambda dtype: normal(dtype, 3 * n, 32, 200)),
        ("NCHW", 1, lambda dtype: normal(dtype, n, 24, 28, 28)),
        ("NCHW 7x7 planes", 1, lambda dtype: normal(dtype, 6 * n, 60, 7, 7)),
        ("NCHW channels_last", 1, lambda dtype: np.moveaxis(normal(dtype, n, 28, 28, 24), -1, 1)),
        ("NCHW strided", 1, lambda dtype: normal(dtype, n, 24, 28, 56)[..., ::2]),
        ("NCHW mean 1e6 std", 1, lambda dtype: normal(dtype, n, 24, 28, 28, mean=1e6)),
        ("NHWC", -1, lambda dtype: normal(dtype, n, 28, 28, 24)),
    )
    return [
        (name, axis, partial(make, dtype))
        for dtype in dtypes()
        for name, axis, make in layouts
        if dtype.itemsize > 2 or "1e6" not in name
    ]


def bits(layer, x, dy, threads, **given):
    """All results, as integers: plain, or with all that can be fused with it and a mask."""
    arguments = {"axis": layer.axis, "num_threads": threads}
    mask = {"mask": given.pop("mask", None)}
    y, mean, inv_std = batch_norm_forward(x, layer.weight, layer.bias, **arguments, **mask, **given)
    if given:
        arguments |= {"activation": given["activation"], "y": y, "residual": True}
    gradients = batch_norm_backward(dy, x, mean, inv_std, layer.weight, **arguments, **mask)
    return [np.ascontiguousarray(array).view(f"u{array.itemsize}") for array in (y, mean, inv_std, *gradients)]


def calls(layer, x):
    """What is checked besides the plain call: with residual and activation, and with a mask."""
    rng = np.random.default_rng(2)
    residual = rng.standard_normal(x.shape).astype(x.dtype)
    positions = tuple(np.delete(x.shape, layer.axis))
    fused = BatchNorm(layer.num_features, axis=layer.axis, dtype=layer.dtype, activation="leaky_relu")
    fused.load_state_dict(layer.state_dict())
    return {
        "": (layer, {}),
        "fused": (fused, {"residual": residual}),
        "masked": (layer, {"mask": rng.random(positions) < 0.8}),
    }


def compare(layer, x, dy, given, operation):
    """The comparisons of one call; under one name, unless that is empty."""
    try:
        report = layer.check(x, dy, **given)
    except OracleMismatch as mismatch:
        report = mismatch.report
    for c in report.comparisons:
        yield operation or c.operation, c


def check_one(name, x, axis):
    """One row of the self-check, of plain values."""
    layer = BatchNorm(x.shape[axis], axis=axis, dtype=x.dtype if x.dtype.itemsize > 2 else np.float32)
    rng = np.random.default_rng(1)
    layer.weight[...], layer.bias[...] = rng.standard_normal((2, layer.num_features))
    dy = rng.standard_normal(x.shape).astype(x.dtype)
    checked = calls(layer, x)
    fused = {"activation": "leaky_relu", **checked["fused"][1], **checked["masked"][1]}
    worst, failures, different, first = {}, [], [], None
    for isa in runtime.available_isas():
        with runtime.use_isa(isa):
            for operation, (one, given) in checked.items():
                for label, c in compare(one, x, dy, given, operation):
                    entry = {"quantity": c.quantity, "ulp": float(c.error), "bound": float(c.bound), "isa": isa}
                    worst[label] = max(worst.get(label, entry), entry, key=lambda e: e["ulp"] / e["bound"])
                    if not c.ok:
                        failures.append({"operation": label, **entry})
            for threads in (1, 2, 3):
                got = bits(layer, x, dy, threads) + bits(layer, x, dy, threads, **fused)
                first = first or got
                if not all(map(np.array_equal, got, first)):
                    different.append({"isa": isa, "threads": threads})
    return {
        "layout": name,
        "shape": list(x.shape),
        "axis": axis,
        "dtype": str(x.dtype),
        "worst": worst,
        "failures": failures,
        "same_bits": not different,
        "different_bits": different,
        "ok": not failures and not different,
    }
