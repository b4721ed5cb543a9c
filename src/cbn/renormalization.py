"""renormalization: training calls of batch renormalization (Ioffe 2017)."""

from functools import partial

import numpy as np

from . import _core
from .batches import Batch, collected, inverse_std, is_skipped

__all__ = ["Renormalized", "forward"]


class Renormalized(Batch):
    """y = (x_hat * r + d) * weight + bias, with r and d as constants."""

    r = d = None

    @_core.default_rounding
    def gradients(self, layer, dy, out):
        with np.errstate(all="ignore"):
            weight = self.r if layer.weight is None else self.r * layer.weight
        dx, dweight, dbias, *dresidual = self.backward(dy, out, weight)
        with np.errstate(all="ignore"):
            return dx, self.r * dweight + self.d * dbias, dbias, *dresidual


def _renorm_corrections(layer, mean, inv_std):
    """Return r = std / renorm_std and d = (mean - renorm_mean) / renorm_std, clipped."""
    clipping = {"rmin": 0.0, "rmax": np.inf, "dmax": np.inf, **(layer.renorm_clipping or {})}
    reference = np.maximum(layer.renorm_std.astype(np.float64), np.sqrt(layer.eps))
    with np.errstate(all="ignore"):
        r = np.where(inv_std == 0, 0, 1 / inv_std) / reference
        d = (mean - layer.renorm_mean) / reference
    return np.clip(r, clipping["rmin"], clipping["rmax"]), np.clip(d, -clipping["dmax"], clipping["dmax"])


@_core.default_rounding
def forward(layer, x, residual, mask, sample_weight, out):
    x = _core.laid_out(x, layer.axis, layer.num_features)
    running = _core.checked_running(layer, x)
    _core.check_layer_apart(layer, out)
    _core.check_values(x, layer.axis, mask, sample_weight, layer.one_value == "zero_var", False)
    count, mean, m2 = _core.moments(x, layer.axis, None, mask, sample_weight)
    var = m2 / (count or 1)
    inv_std = inverse_std(var, layer.eps)
    r, d = _renorm_corrections(layer, mean, inv_std)
    with np.errstate(all="ignore"):
        weight, bias = (r, d) if layer.weight is None else (r * layer.weight, d * layer.weight)
        bias = bias if layer.bias is None else bias + layer.bias
        std = np.sqrt(var + layer.eps)
    collect, update, checks = layer._collect, None, layer.nonfinite != "propagate"
    moved = _moved_renormalized(layer, running, mean, std)[1][:2] if checks and collect is None else ()
    skipped = checks and is_skipped(layer, mean, m2, *moved)
    extras = (layer.activation, layer.negative_slope, residual, mask, sample_weight)
    y = _core.inference(x, mean, var, weight, bias, layer.eps, layer.axis, out, None, layer.num_features, *extras)
    if collect is not None:
        collected(layer, collect, [(count, mean, m2)])
    elif count and not skipped:
        update = partial(_moved_renormalized, layer, running, mean, std)
    batch = Renormalized(layer, x, y, mean, inv_std, residual, mask, sample_weight)
    batch.r, batch.d = r, d
    return y, batch, update


@_core.default_rounding
def _moved_renormalized(layer, running, mean, std):
    """The running and renorm statistics and the history, and new ones. As in Keras deviations are averaged."""
    tracked = layer.num_batches_tracked + 1
    factor = 1 / int(tracked) if layer.momentum is None else layer.convention.weight_of_new(layer.momentum)
    with np.errstate(all="ignore"):
        running_mean = (1 - factor) * layer.running_mean + factor * mean
        running_std = (1 - factor) * np.sqrt(layer.running_var.astype(np.float64) + layer.eps) + factor * std
        pairs = ((layer.renorm_mean, mean), (layer.renorm_std, std))
        moved = [(1 - layer.renorm_momentum) * old + layer.renorm_momentum * new for old, new in pairs]
        values = [running_mean, np.maximum(np.square(running_std) - layer.eps, 0)]
        dtype = layer.running_mean.dtype
        moved = [v.astype(layer.renorm_mean.dtype) for v in moved]
        targets = [*running, layer.renorm_mean, layer.renorm_std, layer._history]
        return targets, [*(v.astype(dtype) for v in values), tracked, *moved, (np.nan, 0)]
