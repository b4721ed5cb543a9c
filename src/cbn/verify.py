"""verify: holds results against the oracle, in units in the last place of the scale that the contract names."""

import copy
from dataclasses import dataclass, field

import numpy as np

from . import reference

__all__ = ["OracleMismatch", "Report", "check_layer"]


class OracleMismatch(AssertionError):
    """A result is further from the oracle than the numerics contract allows; `report` has the figures."""

    def __init__(self, report):
        super().__init__(f"results differ from the oracle:\n{report}")
        self.report = report


@dataclass(frozen=True)
class Comparison:
    """The largest error of one quantity and its bound, in ulp."""

    operation: str
    quantity: str
    error: float
    bound: float

    @property
    def ok(self):
        return self.error <= self.bound


@dataclass
class Report:
    """What `BatchNorm.check` found: one `Comparison` for each quantity.

    An error of 1 ulp is the spacing of the dtype's numbers at 1 (2**-23 for float32) times the scale that the
    contract names for the quantity, such as ``max(abs(y), abs(weight * x_hat), abs(bias), 1)`` for y.
    """

    comparisons: list = field(default_factory=list)

    @property
    def ok(self):
        """Whether every error is within its bound."""
        return all(comparison.ok for comparison in self.comparisons)

    @property
    def max_ulp(self):
        """The largest error of each operation, in ulp."""
        largest = {}
        for c in self.comparisons:
            largest[c.operation] = max(c.error, largest.get(c.operation, 0.0))
        return largest

    def __str__(self):
        lines = [f"{'operation':12}{'quantity':15}{'error / ulp':>12}{'bound':>8}"]
        for c in self.comparisons:
            verdict = "" if c.ok else "  TOO LARGE"
            lines.append(f"{c.operation:12}{c.quantity:15}{c.error:12.3g}{c.bound:8.3g}{verdict}")
        return "\n".join(lines)


def error_in_ulp(got, exact, scale, dtype):
    """The largest error of `got`, in ulp of `scale`; infinite where one is finite and the other is not."""
    got, exact, scale = np.broadcast_arrays(np.asarray(got), np.asarray(exact), np.asarray(scale))
    if not got.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = exact.astype(dtype)
        same = ~np.isfinite(rounded) & ((got == rounded) | (np.isnan(got) & np.isnan(rounded)))
        error = np.abs(got - exact) / (scale * np.finfo(dtype).eps)
    error = np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))
    return float(error.max())


def _by_channel_max(values, axis):
    values = np.moveaxis(np.abs(values), axis, 0)
    return values.reshape(values.shape[0], -1).max(axis=1, initial=0)


def check_layer(layer, x, dy=None):
    """Run a twin of the layer through its four operations and compare each with the oracle.

    Returns
    -------
    Report
    """
    x = np.asarray(x)
    if dy is None:
        dy = np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)
    twin = copy.deepcopy(layer)
    twin.train()
    return Report(_check_training(layer, twin, x, np.asarray(dy)) + _check_eval(twin, x))


def _forward_comparison(operation, y, x, layer, mean, inv_std, amplification):
    """y against the line with the given (wide) statistics."""
    axis, single = layer.axis, x.dtype == np.float32
    x_hat = reference._affine(x, mean, inv_std, None, None, axis)
    exact = reference._affine(x, mean, inv_std, layer.weight, layer.bias, axis)
    scale = np.maximum(np.abs(exact), 1)
    if layer.weight is not None:
        scale = np.maximum(scale, np.abs(x_hat * reference._spread(layer.weight, x, axis)))
    else:
        scale = np.maximum(scale, np.abs(x_hat))
    if layer.bias is not None:
        scale = np.maximum(scale, np.abs(reference._spread(layer.bias, x, axis)))
    scale = scale * reference._spread(amplification, x, axis)
    return Comparison(operation, "y", error_in_ulp(y, exact, scale, x.dtype), 2.0 if single else 4.0)


def _check_training(layer, twin, x, dy):
    axis, single = layer.axis, x.dtype == np.float32
    y = twin(x)
    dx = twin.backward(dy)
    saved_mean, saved_inv_std = twin.batch_mean, twin.batch_inv_std
    count, mean, m2 = reference.statistics(x, axis)
    var = m2 / max(count, 1)
    inv_std = reference._inverse_std(var, layer.eps)
    std = np.sqrt(var)
    with np.errstate(divide="ignore", invalid="ignore"):  # float64 statistics can do no better for float64 input
        offset = np.where(mean == 0, 0, np.abs(mean) * inv_std)
    amplification = np.ones(mean.shape) if single else 1 + np.where(np.isfinite(offset), offset, 0)
    exact_dx, exact_dweight, exact_dbias = reference.batch_norm_backward(dy, x, mean, inv_std, layer.weight, axis=axis)
    eps64 = np.finfo(np.float64).eps
    loose = 1 if single else 1e-9  # the float64 contract's bounds are 1e-9 of float32's
    eps = np.finfo(x.dtype).eps
    tiny = np.finfo(np.float64).tiny
    result = [
        _forward_comparison("forward", y, x, layer, mean, inv_std, amplification),
        Comparison("forward", "mean", error_in_ulp(saved_mean, mean, np.abs(mean) + std + tiny, np.float64), 1e-11 / eps64),
        Comparison("forward", "inv_std", error_in_ulp(saved_inv_std, inv_std, inv_std + tiny, np.float64), 1e-11 / eps64),
    ]
    # Where dx is what little is left of dy, no float64 arithmetic can give it to the bound: a floor for its scale.
    factor = inv_std if layer.weight is None else inv_std * layer.weight
    floor = _by_channel_max(dy * reference._spread(factor, x, axis), axis) * (1e-9 if single else 1)
    dx_scale = np.maximum(_by_channel_max(exact_dx, axis), floor) * amplification + tiny
    dx_error = error_in_ulp(dx, exact_dx, reference._spread(dx_scale, x, axis), x.dtype)
    result.append(Comparison("backward", "dx", dx_error, 1e-6 * loose / eps))
    for name, got, exact in (("dweight", twin.weight_grad, exact_dweight), ("dbias", twin.bias_grad, exact_dbias)):
        if got is not None:
            scale = max(float(np.abs(exact).max(initial=0)), np.sqrt(count), 1) * amplification
            bound = 5e-6 / np.finfo(np.float32).eps if got.dtype == np.float32 else 5e-15 / eps64
            result.append(Comparison("backward", name, error_in_ulp(got, exact, scale, got.dtype), bound))
    if twin.running_mean is not None and layer.track_running_stats:
        expected = [copy.deepcopy(layer.running_mean), copy.deepcopy(layer.running_var)]
        wide = [values.astype(np.longdouble) for values in expected]
        factor = 1 / (int(layer.num_batches_tracked) + 1) if layer.momentum is None else layer.momentum
        if count:
            wide[0] = (1 - factor) * wide[0] + factor * mean
            wide[1] = (1 - factor) * wide[1] + factor * (m2 / max(count - 1, 1))
        scales = np.abs(expected[0]) + np.abs(mean) + std + tiny, np.abs(wide[1]) + tiny
        for name, got, exact, scale in zip(
            ("running_mean", "running_var"), (twin.running_mean, twin.running_var), wide, scales, strict=True
        ):
            bound = 1.0 if got.dtype == np.float32 else 1e-11 / eps64
            result.append(Comparison("running", name, error_in_ulp(got, exact, scale, got.dtype), bound))
    return result


def _check_eval(twin, x):
    if twin.running_mean is None:
        return []
    y = twin.eval()(x)
    inv_std = reference._inverse_std(reference._wide(twin.running_var), twin.eps)
    mean = reference._wide(twin.running_mean)
    amplification = np.ones(mean.shape)
    if x.dtype != np.float32:
        amplification = 1 + np.where(mean == 0, 0, np.abs(mean) * inv_std)
    return [_forward_comparison("inference", y, x, twin, mean, inv_std, amplification)]
