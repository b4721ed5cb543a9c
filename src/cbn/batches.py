"""batches: what a training call keeps for backward, and what all kinds of such calls share."""

import numpy as np

from . import _core

__all__ = ["Batch", "Call", "collected", "inverse_std", "is_skipped", "line_now", "running_line"]


class Call:
    """What a training call that is more than one call of C was given: checked, and laid out as x."""

    def __init__(self, layer, x_given, residual, mask, sample_weight, out):
        self.x = x = _core.laid_out(x_given, layer.axis, layer.num_features)
        tracked = layer.track_running_stats and layer._collect is None
        self.running = (*_core.checked_running(layer, x), _core.check_history(layer._history)) if tracked else ()
        _core.check_layer_apart(layer, out)
        self.y = _core.output_for(x, out, x_given, residual, mask, sample_weight, layer.axis)
        self.mask, self.sample_weight = _core.positions(mask, sample_weight, x, layer.axis)
        self.residual = None if residual is None else _core.same_as(residual, "residual", x, layer.axis)
        self.given = (self.residual, self.mask, self.sample_weight)


class Batch:
    """What `backward` needs of a training call: references, no copies."""

    def __init__(self, layer, x, y, mean, inv_std, residual, mask, sample_weight, training=True):
        self.x, self.mean, self.inv_std, self.training = x, mean, inv_std, training
        self.y = None if layer.activation is None else y
        self.axis, self.activation = layer.axis, (layer.activation, layer.negative_slope)
        self.residual, self.mask, self.sample_weight = residual is not None, mask, sample_weight

    def backward(self, dy, out, weight):
        """Return dx, dweight and dbias, and dresidual if there was a residual."""
        statistics = (self.x, self.mean, self.inv_std, weight, self.axis, self.training)
        extras = (*self.activation, self.y, self.residual, self.mask, self.sample_weight)
        return _core.backward(dy, *statistics, out, None, *extras)

    def gradients(self, layer, dy, out):
        """The same, with the layer's weight."""
        return self.backward(dy, out, layer.weight)

    def shares_memory(self, array):
        """Whether writing the array would change what backward needs."""
        return any(a is not None and np.may_share_memory(a, array) for a in (self.x, self.y))


def inverse_std(var, eps):
    """1 / sqrt(var + eps), and 0 for a constant channel where eps is 0."""
    square = var + eps
    return np.divide(1, np.sqrt(square), out=np.zeros_like(square), where=square != 0)


def running_line(layer, out=None):
    """Return running mean and variance, weight and bias, and the eps that is to be added to the variance.

    They are the layer's own arrays, or copies of one moment where more than one call of C computes with them. `out`
    may share no memory with them.
    """
    if layer.convention.eps_place == "inside":
        return layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps
    _core.check_layer_apart(layer, out)
    _core.check_not_negative(layer.running_var, "running_var")
    return _line_outside(layer)


@_core.default_rounding
def _line_outside(layer):
    """With eps beside the root, as a variance to which nothing is added."""
    mean, var, weight, bias = line_now(layer)
    with np.errstate(all="ignore"):
        return mean, np.square(np.sqrt(var) + _core.check_eps(layer.eps)), weight, bias, 0.0


def line_now(layer):
    """Copies of running mean and variance in float64, and of weight and bias, all of one moment."""
    with _core.lock:
        running = (array.astype(np.float64) for array in (layer.running_mean, layer.running_var))
        return *running, *(None if array is None else np.array(array) for array in (layer.weight, layer.bias))


def is_skipped(layer, *arrays):
    """Whether the rule "skip" leaves out a batch with these statistics; the error of the rule "raise"."""
    channel = _core.first_not_finite(*arrays)
    if layer.nonfinite == "raise":
        _core.refuse_channel(channel)
    return channel is not None


def collected(layer, collect, moments):
    """Hand over the moments of batches, by nonfinite's rule, in place of moving the running statistics."""
    kept = [batch for batch in moments if layer.nonfinite == "propagate" or not is_skipped(layer, *batch[1:])]
    with _core.lock:
        for batch in kept:
            collect(*batch)
