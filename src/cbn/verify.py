"""verify: holds results against the oracle, in units in the last place of the scale that the contract names."""

import copy
from dataclasses import dataclass, field

import numpy as np

from . import reference

__all__ = ["OracleMismatch", "Report", "check_layer"]


STATISTIC_ULP = 1e-11 / np.finfo(np.float64).eps


def _relative(dtype, single, double):
    """A relative bound, in ulp of the dtype."""
    return float(single / np.finfo(dtype).eps if dtype == np.float32 else double / np.finfo(dtype).eps)


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
    scale = np.maximum(scale, np.finfo(dtype).tiny)  # below it the spacing of numbers shrinks no further
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = exact.astype(dtype)
        same = ~np.isfinite(rounded) & ((got == rounded) | (np.isnan(got) & np.isnan(rounded)))
        error = np.abs(got - exact) / (scale * np.finfo(dtype).eps)
    error = np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))
    return float(error.max())


def check_layer(layer, x, dy=None):
    """Run a twin of the layer through its four operations and compare each with the oracle.

    Returns
    -------
    Report
    """
    twin = copy.deepcopy(layer).train()
    y = twin(x)  # refuses what is no input before it is looked at here
    x = np.asarray(x)
    if dy is None:
        dy = np.random.default_rng(77).standard_normal(x.shape).astype(x.dtype)
    dx = twin.backward(dy)
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are compared, too
        oracle = _Oracle(layer, x)
        comparisons = [*oracle.forward(twin, y), *oracle.backward(twin, dx, np.asarray(dy))]
        if layer.running_mean is not None:
            comparisons += oracle.running(twin) if layer.track_running_stats else []
            comparisons += oracle.inference(twin.eval(), twin(x))
    return Report(comparisons)


class _Oracle:
    """The exact results of a layer on x, and the scale and bound that the contract gives each quantity."""

    def __init__(self, layer, x):
        self.layer, self.x, self.axis = layer, x, layer.axis
        self.single = x.dtype == np.float32
        self.count, self.mean, self.m2 = reference.statistics(x, layer.axis)
        self.var = self.m2 / max(self.count, 1)
        self.inv_std = reference._inverse_std(self.var, layer.eps)
        self.scale = np.abs(self.mean) + np.sqrt(self.var)

    def _amplification(self, mean, inv_std):
        """1 + abs(mean) / std for float64 input: its float64 statistics can do no better at an offset."""
        if self.single:
            return np.ones(mean.shape)
        offset = np.abs(mean) * inv_std
        return 1 + np.where(np.isfinite(offset), offset, 0)

    def _spread(self, values):
        return reference._spread(values, self.x, self.axis)

    def _largest(self, values):
        return reference._by_channel(np.abs(values), self.axis).max(axis=1, initial=0)

    def _line(self, operation, y, mean, inv_std):
        """y against the line through the given statistics: 4 * 2**-24 (2**-52) of the largest of its terms and 1."""
        weight, bias = self.layer.weight, self.layer.bias
        scaled = reference._affine(self.x, mean, inv_std, weight, None, self.axis)
        exact = reference._affine(self.x, mean, inv_std, weight, bias, self.axis)
        scale = np.maximum(np.maximum(np.abs(exact), np.abs(scaled)), 1)
        if bias is not None:
            scale = np.maximum(scale, np.abs(self._spread(bias)))
        scale = scale * self._spread(self._amplification(mean, inv_std))
        return Comparison(operation, "y", error_in_ulp(y, exact, scale, self.x.dtype), 2.0 if self.single else 4.0)

    def forward(self, twin, y):
        """y, mean and inv_std of training."""
        mean = error_in_ulp(twin.batch_mean, self.mean, self.scale, np.float64)
        inv_std = error_in_ulp(twin.batch_inv_std, self.inv_std, self.inv_std, np.float64)
        yield self._line("forward", y, self.mean, self.inv_std)
        yield Comparison("forward", "mean", mean, STATISTIC_ULP)
        yield Comparison("forward", "inv_std", inv_std, STATISTIC_ULP)

    def backward(self, twin, dx, dy):
        """dx within 1e-6 (1e-15), dweight and dbias within 5e-6 (5e-15) of their scales."""
        weight, dtype = self.layer.weight, self.x.dtype
        exact_dx, *exact = reference.batch_norm_backward(dy, self.x, self.mean, self.inv_std, weight, axis=self.axis)
        amplification = self._amplification(self.mean, self.inv_std)
        # Where dx is what little is left of dy, no float64 arithmetic can give it to the bound: a floor for its scale.
        factor = self.inv_std if weight is None else self.inv_std * weight
        floor = self._largest(dy * self._spread(factor)) * (1e-9 if self.single else 1)
        scale = np.maximum(self._largest(exact_dx), floor) * amplification
        error = error_in_ulp(dx, exact_dx, self._spread(scale), dtype)
        yield Comparison("backward", "dx", error, _relative(dtype, 1e-6, 1e-15))
        got = twin.weight_grad, twin.bias_grad
        for name, value, wanted in zip(("dweight", "dbias"), got, exact, strict=True):
            if value is not None:
                largest = np.abs(wanted).max(initial=0, where=np.isfinite(wanted))
                scale = max(float(largest), np.sqrt(self.count), 1) * amplification
                error = error_in_ulp(value, wanted, scale, value.dtype)
                yield Comparison("backward", name, error, _relative(value.dtype, 5e-6, 5e-15))

    def running(self, twin):
        """From the layer's statistics to the twin's: rounded once to float32, else as exact as the batch's."""
        layer = self.layer
        factor = 1 / (int(layer.num_batches_tracked) + 1) if layer.momentum is None else layer.momentum
        new = self.mean, self.m2 / max(self.count - 1, 1)
        for name, value, scale in zip(("running_mean", "running_var"), new, (self.scale, new[1]), strict=True):
            old, got = getattr(layer, name).astype(np.longdouble), getattr(twin, name)
            exact = (1 - factor) * old + factor * value if self.count else old
            error = error_in_ulp(got, exact, np.abs(old) + scale, got.dtype)
            yield Comparison("running", name, error, 1.0 if got.dtype == np.float32 else STATISTIC_ULP)

    def inference(self, twin, y):
        """y with the running statistics that the twin has."""
        inv_std = reference._inverse_std(reference._wide(twin.running_var), twin.eps)
        yield self._line("inference", y, reference._wide(twin.running_mean), inv_std)
