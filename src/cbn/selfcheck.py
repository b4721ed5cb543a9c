"""selfcheck: every layout and dtype through a layer's operations, with every instruction set, against the oracle."""

import numpy as np

from . import runtime
from .functional import batch_norm_backward, batch_norm_forward
from .layer import BatchNorm
from .verify import OracleMismatch

__all__ = ["check_one", "generated"]


def generated(quick):
    """Yield name, x and axis: every layout in both dtypes, large enough that threads share the work."""
    rng = np.random.default_rng(0)
    n = 4 if quick else 16
    for dtype in (np.float32, np.float64):

        def normal(*shape, dtype=dtype):
            return rng.standard_normal(shape).astype(dtype)

        yield "NC", normal(200 * n, 96), 1
        yield "NCL", normal(2 * n, 32, 200), 1
        yield "NCHW", normal(n, 24, 28, 28), 1
        yield "NCHW 7x7 planes", normal(4 * n, 60, 7, 7), 1
        yield "NCHW channels_last", np.moveaxis(normal(n, 28, 28, 24), -1, 1), 1
        yield "NCHW strided", normal(n, 24, 28, 56)[..., ::2], 1
        yield "NCHW mean 1e6 std", (rng.standard_normal((n, 24, 28, 28)) + 1e6).astype(dtype), 1
        yield "NHWC", normal(n, 28, 28, 24), -1


def bits(layer, x, dy, threads):
    y, mean, inv_std = batch_norm_forward(x, layer.weight, layer.bias, axis=layer.axis, num_threads=threads)
    gradients = batch_norm_backward(dy, x, mean, inv_std, layer.weight, axis=layer.axis, num_threads=threads)
    return [array.view(f"u{array.itemsize}") for array in (y, mean, inv_std, *gradients)]


def check_one(name, x, axis):
    """One row of the self-check, of plain values."""
    layer = BatchNorm(x.shape[axis], axis=axis, dtype=x.dtype)
    rng = np.random.default_rng(1)
    layer.weight[...], layer.bias[...] = rng.standard_normal((2, layer.num_features))
    dy = rng.standard_normal(x.shape).astype(x.dtype)
    worst, failures, different, first = {}, [], [], None
    for isa in runtime.available_isas():
        with runtime.use_isa(isa):
            try:
                report = layer.check(x, dy)
            except OracleMismatch as mismatch:
                report = mismatch.report
            for c in report.comparisons:
                entry = {"quantity": c.quantity, "ulp": float(c.error), "bound": float(c.bound), "isa": isa}
                worst[c.operation] = max(worst.get(c.operation, entry), entry, key=lambda e: e["ulp"] / e["bound"])
                if not c.ok:
                    failures.append({"operation": c.operation, **entry})
            for threads in (1, 2, 3):
                got = bits(layer, x, dy, threads)
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
