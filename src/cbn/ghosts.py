"""ghosts: training calls that cut their batch into ghost batches (Hoffer et al. 2017)."""

from functools import partial

import numpy as np

from . import _core
from .batches import Batch, Call, collected, is_skipped

__all__ = ["Ghosts", "forward", "ghost_slices"]


def ghost_slices(samples, virtual_batch_size, values):
    """Cut samples into ceil(samples / virtual_batch_size) equal parts, as torch.chunk does; the last may be smaller.

    A last part of one value per channel (`values` are those of a channel in a sample) joins the one before, because it
    would have no variance.
    """
    parts = max(-(-samples // virtual_batch_size), 1) if values else 1  # nothing need not be cut
    size = max(-(-samples // parts), 1)
    starts = list(range(0, samples, size)) or [0]
    if len(starts) > 1 and (samples - starts[-1]) * values == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


class Ghosts:
    """The batches of one call, one after the other along the first axis."""

    def __init__(self, slices, batches, x, y, axis):
        self.slices, self.batches, self.x, self.axis = slices, batches, x, axis
        self.y = None if batches[0].y is None else y
        self.mean, self.inv_std = batches[-1].mean, batches[-1].inv_std
        self.residual = batches[0].residual

    @_core.default_rounding
    def gradients(self, layer, dy, out):
        """dx by batches; dweight and dbias of all, added in float64."""
        dy = _core.same_as(dy, "dy", self.x, self.axis)
        others = [("mask", batch.mask) for batch in self.batches]
        others += [("sample_weight", batch.sample_weight) for batch in self.batches]
        outs = _core.gradient_outputs(out, self.residual, self.x, dy, self.axis, self.y, others)
        weight = np.ones(layer.num_features) if layer.weight is None else layer.weight.astype(np.float64)
        dweight, dbias = np.zeros((2, layer.num_features))
        for part, batch in zip(self.slices, self.batches, strict=True):
            parts = tuple(array[part] for array in outs)
            result = batch.backward(dy[part], parts if self.residual else parts[0], weight)
            with np.errstate(all="ignore"):
                dweight += result[1]
                dbias += result[2]
        return outs[0], dweight, dbias, *outs[1:]

    def shares_memory(self, array):
        return any(batch.shares_memory(array) for batch in self.batches)


@_core.default_rounding
def _moved(layer, running, moments):
    """The running statistics (if any), and copies moved by one batch after the other; by nonfinite's rule."""
    copies, momentum = [array.copy() for array in running], layer.convention.weight_of_new(layer.momentum)
    for count, mean, m2 in moments:
        if not count:
            continue
        before = [array.copy() for array in copies]
        if copies:
            options = (layer.convention.variance, momentum, copies[2], layer.zero_debias, copies[3])
            _core.commit_batch(*copies[:2], mean, m2, count, *options)
        if layer.nonfinite != "propagate" and is_skipped(layer, mean, m2, *copies[:2]):
            copies = before
    return running, copies


@_core.default_rounding
def forward(layer, x_given, residual, mask, sample_weight, out):
    call = Call(layer, x_given, residual, mask, sample_weight, out)
    x, y, update = call.x, call.y, None
    if layer.axis in (0, -x.ndim):
        raise ValueError(f"axis must not be 0, along which ghost batches are cut; got {layer.axis} for rank {x.ndim}")
    slices = ghost_slices(x.shape[0], layer.virtual_batch_size, x[:1].size // max(layer.num_features, 1))
    parts = [[None if a is None else a[part] for a in call.given] for part in slices]
    zero_var, unbiased = layer.one_value == "zero_var", layer.convention.variance == "unbiased"
    for number, (part, (_, *weights)) in enumerate(zip(slices, parts, strict=True)):  # before anything is written
        of = f", in ghost batch {number + 1} of {len(slices)}" if len(slices) > 1 else ""
        _core.check_values(x[part], layer.axis, *weights, zero_var, bool(call.running) and unbiased, of)
    if layer.nonfinite == "raise" and out is not None:
        pairs = zip(slices, parts, strict=True)
        _moved(layer, call.running, [_core.moments(x[part], layer.axis, None, *given[1:]) for part, given in pairs])
    batches, moments = [], []
    for part, given in zip(slices, parts, strict=True):
        arguments = (layer.weight, layer.bias, layer.eps, layer.axis, y[part], None)
        options = dict(zip(("residual", "mask", "sample_weight"), given, strict=True))
        options |= {"activation": layer.activation, "negative_slope": layer.negative_slope, "zero_var": True}
        _, mean, m2, inv_std, count, *_ = _core.forward(x[part], *arguments, **options)
        batches.append(Batch(layer, x[part], y[part], mean, inv_std, *given))
        moments.append((count, mean, m2))
    if layer._collect is not None:
        collected(layer, layer._collect, moments)
    else:
        update = partial(_moved, layer, call.running, moments)
    return (y if out is None else out), Ghosts(slices, batches, x, y, layer.axis), update
