"""batches: what a training call of a layer does and keeps: one batch, ghost batches, a renormalized or a frozen one."""

from functools import partial

import numpy as np

from . import _core

__all__ = ["forward", "ghost_slices", "inverse_std", "running_line"]


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


@_core.default_rounding
def forward(layer, x, residual, mask, sample_weight, out):
    """Return y, the batch, and the update of the running statistics that `_core.complete` takes."""
    given = (residual, mask, sample_weight)
    if layer.frozen and layer.running_mean is None:
        raise ValueError("frozen must be False without running statistics; got True")
    if layer.frozen:
        return _frozen(layer, x, *given, out)
    if layer.convention.eps_place != "inside":
        raise ValueError(f"convention must have eps inside the root for training; got {layer.convention.name!r}")
    if layer.training and layer.virtual_batch_size is not None:
        return _ghosts(layer, x, *given, out)
    if layer.training and layer.renorm:
        return _renormalized(layer, x, *given, out)
    collect = layer._collect if layer.training else None
    tracked = layer.training and layer.track_running_stats and collect is None
    y, mean, m2, inv_std, count, x, update = _core.forward(
        x,
        layer.weight,
        layer.bias,
        layer.eps,
        layer.axis,
        out,
        None,
        layer.running_mean if tracked else None,
        layer.running_var if tracked else None,
        layer.convention.weight_of_new(layer.momentum),
        layer.num_batches_tracked if tracked else None,
        True,
        layer.num_features,
        layer.activation,
        layer.negative_slope,
        *given,
        layer.one_value == "zero_var",
        layer.nonfinite,
        layer.zero_debias,
        layer.convention.variance,
        layer._history,
    )
    if collect is not None:
        _collected(layer, collect, [(count, mean, m2)])
    return y, Batch(layer, x, y, mean, inv_std, *given), update


def inverse_std(var, eps):
    """1 / sqrt(var + eps), and 0 for a constant channel where eps is 0."""
    square = var + eps
    return np.divide(1, np.sqrt(square), out=np.zeros_like(square), where=square != 0)


@_core.default_rounding
def running_line(layer, out=None):
    """Return running mean and variance, weight and bias, and the eps that is to be added to the variance.

    They are the layer's own arrays, or copies of one moment where more is computed of them than one call of C. `out` may
    share no memory with them.
    """
    if layer.convention.eps_place == "inside":
        return layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps
    _core.check_layer_apart(layer, out)
    _core.check_not_negative(layer.running_var, "running_var")
    mean, var, weight, bias = _line_now(layer)
    with np.errstate(all="ignore"):
        return mean, np.square(np.sqrt(var) + _core.check_eps(layer.eps)), weight, bias, 0.0


def _line_now(layer):
    """Copies of running mean and variance in float64, and of weight and bias, all of one moment."""
    with _core.lock:
        running = (array.astype(np.float64) for array in (layer.running_mean, layer.running_var))
        return *running, *(None if array is None else np.array(array) for array in (layer.weight, layer.bias))


def _frozen(layer, x, residual, mask, sample_weight, out):
    """With the running statistics, as they are now."""
    x = _core.laid_out(x, layer.axis, layer.num_features)
    _core.check_layer_apart(layer, out)
    if layer.convention.eps_place == "inside":
        mean, var, weight, bias, eps = *_line_now(layer), layer.eps
    else:
        mean, var, weight, bias, eps = running_line(layer)
    extras = (layer.activation, layer.negative_slope, residual, mask, sample_weight)
    parameters = (mean, var, weight, bias, eps, layer.axis)
    y = _core.inference(x, *parameters, out, None, layer.num_features, *extras)
    inv_std = inverse_std(var, eps)
    return y, Batch(layer, x, y, mean, inv_std, residual, mask, sample_weight, training=False), None


def _is_skipped(layer, *arrays):
    """Whether the rule "skip" leaves out a batch with these statistics; the error of the rule "raise"."""
    channel = _core.first_not_finite(*arrays)
    if layer.nonfinite == "raise":
        _core.refuse_channel(channel)
    return channel is not None


def _collected(layer, collect, moments):
    """Hand over the moments of batches, by nonfinite's rule, in place of moving the running statistics."""
    kept = [batch for batch in moments if layer.nonfinite == "propagate" or not _is_skipped(layer, *batch[1:])]
    with _core.lock:
        for batch in kept:
            collect(*batch)


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
        if layer.nonfinite != "propagate" and _is_skipped(layer, mean, m2, *copies[:2]):
            copies = before
    return running, copies


# --- ghost batches ---


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


def _ghosts(layer, x_given, residual, mask, sample_weight, out):
    x = _core.laid_out(x_given, layer.axis, layer.num_features)
    if layer.axis in (0, -x.ndim):
        raise ValueError(f"axis must not be 0, along which ghost batches are cut; got {layer.axis} for rank {x.ndim}")
    collect, update = layer._collect, None
    tracked = layer.track_running_stats and collect is None
    running = (*_core.checked_running(layer, x), layer._history) if tracked else ()
    _core.check_layer_apart(layer, out)
    y = _core.output_for(x, out, x_given, residual, mask, sample_weight, layer.axis)
    mask, sample_weight = _core.positions(mask, sample_weight, x, layer.axis)
    if residual is not None:
        residual = _core.same_as(residual, "residual", x, layer.axis)
    slices = ghost_slices(x.shape[0], layer.virtual_batch_size, x[:1].size // max(layer.num_features, 1))
    parts = [[None if a is None else a[part] for a in (residual, mask, sample_weight)] for part in slices]
    zero_var, unbiased = layer.one_value == "zero_var", layer.convention.variance == "unbiased"
    for number, (part, (_, *weights)) in enumerate(zip(slices, parts, strict=True)):  # before anything is written
        of = f", in ghost batch {number + 1} of {len(slices)}" if len(slices) > 1 else ""
        _core.check_values(x[part], layer.axis, *weights, zero_var, bool(running) and unbiased, of)
    if layer.nonfinite == "raise" and out is not None:
        pairs = zip(slices, parts, strict=True)
        _moved(layer, running, [_core.moments(x[part], layer.axis, None, *given[1:]) for part, given in pairs])
    batches, moments = [], []
    for part, given in zip(slices, parts, strict=True):
        arguments = (
            layer.weight,
            layer.bias,
            layer.eps,
            layer.axis,
            y[part],
            None,
            None,
            None,
            None,
            None,
            False,
            None,
        )
        extras = (layer.activation, layer.negative_slope, *given, True)
        _, mean, m2, inv_std, count, *_ = _core.forward(x[part], *arguments, *extras)
        batches.append(Batch(layer, x[part], y[part], mean, inv_std, *given))
        moments.append((count, mean, m2))
    if collect is not None:
        _collected(layer, collect, moments)
    else:
        update = partial(_moved, layer, running, moments)
    return (y if out is None else out), Ghosts(slices, batches, x, y, layer.axis), update


# --- batch renormalization ---


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


def _renormalized(layer, x, residual, mask, sample_weight, out):
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
    skipped = checks and _is_skipped(layer, mean, m2, *moved)
    extras = (layer.activation, layer.negative_slope, residual, mask, sample_weight)
    y = _core.inference(x, mean, var, weight, bias, layer.eps, layer.axis, out, None, layer.num_features, *extras)
    if collect is not None:
        _collected(layer, collect, [(count, mean, m2)])
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
