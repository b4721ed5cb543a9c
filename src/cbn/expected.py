"""expected: what a layer should have computed, with all its options, and how near to it the contract wants it to be."""

import numpy as np

from . import _core, reference
from .ghosts import ghost_slices
from .report import STATISTIC_ULP, Comparison, error_in_ulp, relative_bound

__all__ = ["Expected"]


class Part:
    """One batch: all of x, or a ghost batch. Its statistics, and the weight and bias that it is normalized with."""

    def __init__(self, layer, x, dy, given, part):
        self.layer, self.x, self.dy, self.part = layer, x[part], dy[part], part
        self.given = {name: value if value is None else value[part] for name, value in given.items()}
        self.weights = {name: self.given[name] for name in ("mask", "sample_weight")}
        self.single = x.dtype != np.float64
        if layer.frozen:
            self.count, self.mean, self.var = 1, *map(reference._wide, (layer.running_mean, layer.running_var))
        else:
            self.count, self.mean, m2 = reference.statistics(self.x, layer.axis, **self.weights)
            self.var = m2 / (self.count or 1)
            self.m2 = m2
        self.inv_std = reference._inverse_std(self.var, layer.eps, layer.convention.eps_place)
        self.weight, self.bias, self.r, self.d = layer.weight, layer.bias, 1, 0
        self.spread_of_stds = 1
        if layer.renorm and not layer.frozen:
            self._renormalize()

    def _renormalize(self):
        """Ioffe 2017: (x_hat * r + d) * weight + bias."""
        bounds = self.layer.renorm_clipping or {}
        std = np.maximum(reference._wide(self.layer.renorm_std), np.sqrt(self.layer.eps))
        self.spread_of_stds = np.maximum(np.sqrt(self.var + self.layer.eps) / std, 1)  # d has the mean's error so often
        self.r = np.clip(np.sqrt(self.var + self.layer.eps) / std, bounds.get("rmin", 0), bounds.get("rmax", np.inf))
        self.d = (self.mean - reference._wide(self.layer.renorm_mean)) / std
        self.d = np.clip(self.d, -bounds.get("dmax", np.inf), bounds.get("dmax", np.inf))
        weight = 1 if self.weight is None else reference._wide(self.weight)
        self.weight, self.bias = self.r * weight, self.d * weight + (0 if self.bias is None else self.bias)

    def amplification(self):
        """1 + abs(mean) / std for float64 input: its float64 statistics can do no better at an offset."""
        if self.single:
            return np.ones(self.mean.shape)
        offset = np.abs(self.mean) * self.inv_std
        return (1 + np.where(np.isfinite(offset), offset, 0)) * self.spread_of_stds

    def spread(self, values):
        return reference._spread(values, self.x, self.layer.axis)

    def largest(self, values):
        return reference._by_channel(np.abs(values), self.layer.axis).max(axis=1, initial=0)

    def line(self, operation, y):
        """y: 4 * 2**-24 (2**-52) of the largest of its terms and 1; 8 for 16 bits with a residual."""
        layer, residual = self.layer, self.given["residual"]
        scaled = reference._affine(self.x, self.mean, self.inv_std, self.weight, None, layer.axis)
        before = reference._affine(self.x, self.mean, self.inv_std, self.weight, self.bias, layer.axis)
        exact = reference._activated(before, layer.activation, layer.negative_slope, residual)
        scale = np.maximum(np.maximum(np.abs(exact), np.abs(scaled)), 1)
        if self.bias is not None:
            scale = np.maximum(scale, np.abs(self.spread(reference._wide(self.bias))))
        if residual is not None:
            scale = np.maximum(scale, np.abs(reference._wide(residual)))
        if layer.activation == "leaky_relu":
            scale = scale * max(1, 1.5 * layer.negative_slope)
        steps = 8 if residual is not None and self.x.dtype.itemsize == 2 else 4
        bound = relative_bound(self.x.dtype, steps * 2.0**-24, 4 * 2.0**-52)
        error = error_in_ulp(y[self.part], exact, scale * self.spread(self.amplification()), self.x.dtype)
        return Comparison(operation, "y", error, bound)

    def gradients(self, y):
        """The exact dx, dweight, dbias and, after a residual, dresidual; dweight through r and d, too."""
        layer = self.layer
        options = {"activation": layer.activation, "negative_slope": layer.negative_slope, "y": y[self.part]}
        options |= {"axis": layer.axis, "training": not layer.frozen, "residual": True, **self.weights}
        arguments = (self.dy, self.x, self.mean, self.inv_std, self.weight)
        dx, dweight, dbias, dresidual = reference.batch_norm_backward(*arguments, **options)
        return dx, self.r * dweight + self.d * dbias, dbias, dresidual

    def gradient_error(self, dx, exact, passed):
        """dx, of what passed the activation, within 1e-6 (1e-15) of the largest of its channel."""
        # Where dx is what little is left of dy, no float64 arithmetic can give it to the bound: a floor for its scale.
        factor = self.inv_std if self.weight is None else self.inv_std * reference._wide(self.weight)
        sample_weight = self.given["sample_weight"]
        factor = factor * (1 if sample_weight is None else max(1, np.max(sample_weight, initial=0)))
        offset = np.abs(self.mean) * self.inv_std
        lost = np.maximum(1e-9, 1e-11 * np.where(np.isfinite(offset), offset, 0)) if self.single else 1
        floor = self.largest(passed * self.spread(factor)) * lost
        scale = np.maximum(self.largest(exact), floor) * self.amplification()
        return error_in_ulp(dx[self.part], exact, self.spread(scale), self.x.dtype)


class Expected:
    """The exact results of a layer on x, and the scale and bound that the contract gives each quantity."""

    def __init__(self, layer, x, dy, given):
        self.layer, self.x = layer, x
        given = {"residual": None, "mask": None, "sample_weight": None, **given}
        given["mask"], given["sample_weight"] = _core.positions(given["mask"], given["sample_weight"], x, layer.axis)
        slices = [slice(None)]
        if layer.virtual_batch_size is not None and not layer.frozen:
            values = x[:1].size // max(layer.num_features, 1)
            slices = ghost_slices(x.shape[0], layer.virtual_batch_size, values)
        self.parts = [Part(layer, x, dy, given, part) for part in slices]
        self.given = given

    def forward(self, twin, y):
        """y, and mean and inv_std of the last batch."""
        last = self.parts[-1]
        scale = np.abs(last.mean) + np.sqrt(last.var)
        mean = error_in_ulp(twin.batch_mean, last.mean, scale, np.dtype(np.float64))
        inv_std = error_in_ulp(twin.batch_inv_std, last.inv_std, last.inv_std, np.dtype(np.float64))
        yield max((part.line("forward", y) for part in self.parts), key=lambda c: c.error)
        yield Comparison("forward", "mean", mean, STATISTIC_ULP)
        yield Comparison("forward", "inv_std", inv_std, STATISTIC_ULP)

    def backward(self, twin, got, y):
        """dx, dresidual, and dweight and dbias within 5e-6 (5e-15) of their scales."""
        dx, *dresidual = got if isinstance(got, tuple) else (got,)
        exact = [part.gradients(y) for part in self.parts]
        error = max(part.gradient_error(dx, e[0], e[3]) for part, e in zip(self.parts, exact, strict=True))
        yield Comparison("backward", "dx", error, relative_bound(self.x.dtype, 1e-6, 1e-15))
        if dresidual:
            wanted = np.concatenate([e[3] for e in exact])
            error = error_in_ulp(dresidual[0], wanted, np.abs(wanted), self.x.dtype)
            yield Comparison("backward", "dresidual", error, 1.0)
        amplification = np.max([part.amplification() for part in self.parts], axis=0)
        for name, value, k in (("dweight", twin.weight_grad, 1), ("dbias", twin.bias_grad, 2)):
            if value is not None:
                wanted = sum(e[k] for e in exact)
                largest = np.abs(wanted).max(initial=0, where=np.isfinite(wanted))
                scale = max(float(largest), np.sqrt(self.x.size / max(self.layer.num_features, 1)), 1) * amplification
                error = error_in_ulp(value, wanted, scale, value.dtype)
                double = 5e-6 if self.parts[0].single else 5e-15
                yield Comparison("backward", name, error, relative_bound(value.dtype, 5e-6, double))

    def _moved(self):
        """The exact running statistics after all batches, and the largest of what went into each."""
        layer, eps = self.layer, self.layer.eps
        mean, var = reference._wide(layer.running_mean), reference._wide(layer.running_var)
        largest = [np.abs(mean), np.abs(var)]
        tracked = int(layer.num_batches_tracked)
        for part in self.parts:
            if not part.count:
                continue
            factor = 1 / (tracked + 1) if layer.momentum is None else layer.convention.weight_of_new(layer.momentum)
            debiases = layer.zero_debias and layer.momentum is not None and factor > 0
            of_mean = factor / (1 - (1 - factor) ** (tracked + 1)) if debiases else factor
            before = mean, var
            mean = (1 - of_mean) * mean + of_mean * part.mean
            unbiased = layer.convention.variance == "unbiased" and part.count > 1
            new = part.m2 / (part.count - 1 if unbiased else part.count)
            if layer.renorm:  # not frozen
                var = np.square((1 - factor) * np.sqrt(var + eps) + factor * np.sqrt(part.var + eps)) - eps
            elif layer.convention.variance == "deviation":
                var = np.square((1 - factor) * np.sqrt(var) + factor * np.sqrt(new))
            else:
                var = (1 - factor) * var + factor * new
            held = all(np.isfinite(v.astype(layer.dtype)).all() for v in (mean, var))
            if layer.nonfinite == "skip" and not held:
                mean, var = before
                continue
            tracked += 1
            for k, value in enumerate((np.abs(part.mean) + np.sqrt(part.var), new)):
                largest[k] = np.maximum(largest[k], value)
        return (mean, var), largest

    def running(self, twin):
        """Rounded once for each batch to a narrower dtype than float64, else as exact as the batch's statistics."""
        for name, exact, scale in zip(("running_mean", "running_var"), *self._moved(), strict=True):
            got = getattr(twin, name)
            scale = np.abs(reference._wide(getattr(self.layer, name))) + scale
            bound = STATISTIC_ULP if got.dtype == np.float64 else 1.0 + (len(self.parts) > 1) * len(self.parts)
            yield Comparison("running", name, error_in_ulp(got, exact, scale, got.dtype), float(bound))

    def inference(self, twin, y):
        """y with the running statistics that the twin has."""
        part = self.parts[0]
        part.part, part.x, part.given = slice(None), self.x, self.given
        part.weight, part.bias = self.layer.weight, self.layer.bias
        part.mean = reference._wide(twin.running_mean)
        part.inv_std = reference._inverse_std(reference._wide(twin.running_var), twin.eps, twin.convention.eps_place)
        yield part.line("inference", y)
