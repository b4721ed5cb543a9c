"""reference: the oracle, batch normalization in pure NumPy, in a precision wider than its input's.

Everything is computed in longdouble for float64 input and in float64 for all other input, and returned unrounded (an
`out` array is rounded to its dtype). Sums run along contiguous memory, where NumPy adds pairwise, and means get a
correction step: along the other axes NumPy's sums lose digits. Arguments are those of the compiled functions;
`num_threads` is accepted, so that calls can be exchanged, and has no effect. Bad arguments are not diagnosed here.
"""

import numpy as np

from .statistics import Moments

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "batch_norm_forward",
    "moments",
    "normalize_images",
    "statistics",
    "update_running",
]


def _wide(array):
    array = np.asarray(array)
    # itemsize rather than ==, for either byte order; bfloat16, which NumPy itself does not know, is of kind "V"
    return array.astype(np.longdouble if array.dtype.kind == "f" and array.dtype.itemsize >= 8 else np.float64)


def _by_channel(x, axis):
    """All values of each channel as a row: shape (C, n), contiguous."""
    x = np.moveaxis(x, axis, 0)
    return np.ascontiguousarray(x).reshape(x.shape[0], int(np.prod(x.shape[1:])))


def _spread(values, x, axis):
    """One value per channel, in a shape that broadcasts against x."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.reshape(values, shape)


def _weights(x, axis, mask, sample_weight):
    """How many values each position counts for, and whether it is unmasked; both of x's shape, but with one channel."""
    shape = np.delete(x.shape, axis)
    weights = unmasked = np.broadcast_to(True if mask is None else mask, shape)
    if sample_weight is not None:
        sample_weight = _wide(sample_weight)
        if sample_weight.ndim == 1:  # one per sample, where broadcasting would have it run along the last axis
            sample_weight = sample_weight.reshape(-1, *[1] * (len(shape) - 1))
        weights = np.where(unmasked, sample_weight, 0)
    return np.expand_dims(weights, axis), np.expand_dims(unmasked, axis)


def _count(weights, sample_weight):
    return int(weights.sum()) if sample_weight is None else weights.sum()


def _inverse_std(var, eps, place="inside"):
    """1 / sqrt(var + eps), or with eps outside the root; 0 where that has no value."""
    var = np.asarray(var)
    std = np.sqrt(var + eps) if place == "inside" else np.sqrt(var) + eps
    return np.where(std == 0, 0, 1 / np.where(std == 0, 1, std))


def _written(y, out):
    if out is None:
        return y
    out[...] = y
    return out


def statistics(x, axis=1, mask=None, sample_weight=None):
    """Return count, mean and m2 in the wide precision (which `Moments` cannot hold for float64 input).

    ``count = sum(w)``, ``mean = sum(w * x) / count``, ``m2 = sum(w * (x - mean)**2)``, where w is sample_weight (1 if
    None), and 0 where masked. Values of weight 0 are not looked at. Zeros if no weight is left, or x is empty.
    """
    x = np.asarray(x)
    weights = _weights(x, axis, mask, sample_weight)[0].ravel()
    # compress, since an index would leave the rows not contiguous
    values = np.compress(weights > 0, _by_channel(_wide(x), axis), axis=1)
    weights = weights[weights > 0]
    count = _count(weights, sample_weight)
    if not count:
        zero = np.zeros(values.shape[0], values.dtype)
        return count, zero, zero.copy()
    mean = values[:, 0] + (weights * (values - values[:, :1])).sum(axis=1) / count
    rest = values - mean[:, None]
    step = (weights * rest).sum(axis=1) / count
    m2 = (weights * np.square(rest)).sum(axis=1) - count * np.square(step)
    return count, mean + step, np.where(m2 < 0, 0, m2)


def moments(x, *, axis=1, mask=None, sample_weight=None, num_threads=None):
    """Return the `Moments` of x; see `cbn.moments`."""
    count, mean, m2 = statistics(x, axis, mask, sample_weight)
    return Moments(count if sample_weight is None else float(count), mean, m2)


def _normalized(x, mean, inv_std, axis):
    return (_wide(x) - _spread(mean, x, axis)) * _spread(inv_std, x, axis)


def _affine(x, mean, inv_std, weight, bias, axis):
    y = _normalized(x, mean, inv_std, axis)
    if weight is not None:
        y = y * _spread(_wide(weight), x, axis)
    return y if bias is None else y + _spread(_wide(bias), x, axis)


def _activated(y, activation, negative_slope, residual):
    """``act(y + residual)``."""
    if residual is not None:
        y = y + _wide(residual)
    if activation == "relu":
        return np.maximum(y, 0)  # NaN stays NaN
    return np.where(y > 0, y, negative_slope * y) if activation == "leaky_relu" else y


def _through_activation(dy, y, activation, negative_slope):
    """The gradient with respect to the activation's input, whose sign is that of its output y."""
    dy = _wide(dy)
    if activation is None:
        return dy
    return np.where(_wide(y) <= 0, negative_slope * dy if activation == "leaky_relu" else 0, dy)


def batch_norm_forward(
    x,
    weight=None,
    bias=None,
    eps=1e-5,
    *,
    axis=1,
    activation=None,
    negative_slope=0.01,
    residual=None,
    mask=None,
    sample_weight=None,
    out=None,
    num_threads=None,
):
    """Return y, mean and inv_std as Algorithm 1 of Ioffe & Szegedy 2015 has them; see `cbn.batch_norm_forward`.

    A single value per channel is not an error here: its variance is 0, and y is the bias.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> y, mean, inv_std = cbn.reference.batch_norm_forward(np.float32([[1], [5]]), eps=0.0)
    >>> y.ravel(), mean, inv_std
    (array([-1.,  1.]), array([3.]), array([0.5]))
    """
    x = np.asarray(x)
    count, mean, m2 = statistics(x, axis, mask, sample_weight)
    inv_std = _inverse_std(m2 / (count or 1), eps)
    y = _activated(_affine(x, mean, inv_std, weight, bias, axis), activation, negative_slope, residual)
    return _written(y, out), mean, inv_std


def _without_statistics(values, x_hat, axis, weights, count):
    """values less ``weights * (total + x_hat * along) / count``, which is what the statistics take; total; along.

    total and along are sum(values) and sum(values * x_hat). Fixed statistics (count None) take nothing.
    """
    total = _by_channel(values, axis).sum(axis=1)
    along = _by_channel(values * x_hat, axis).sum(axis=1)
    if count is not None:
        share = _spread(total / (count or 1), x_hat, axis) + x_hat * _spread(along / (count or 1), x_hat, axis)
        values = values - np.where(np.asarray(weights) > 0, weights * share, 0)
    return values, total, along


def batch_norm_backward(
    dy,
    x,
    mean,
    inv_std,
    weight=None,
    *,
    axis=1,
    training=True,
    activation=None,
    negative_slope=0.01,
    y=None,
    residual=False,
    mask=None,
    sample_weight=None,
    out=None,
    num_threads=None,
):
    """Return dx, dweight, dbias (and dresidual) by section 3 of the paper; see `cbn.batch_norm_backward`."""
    x = np.asarray(x)
    weights, unmasked = _weights(x, axis, mask, sample_weight)
    g = np.where(unmasked, _through_activation(dy, y, activation, negative_slope), 0)
    x_hat = np.where(unmasked, _normalized(x, mean, inv_std, axis), 0)  # masked values may be NaN
    count = _count(weights, sample_weight) if training else None
    dx, dbias, dweight = _without_statistics(g, x_hat, axis, weights, count)
    scale = inv_std if weight is None else inv_std * _wide(weight)
    dx = np.where(unmasked, dx * _spread(scale, x, axis), 0)
    if not residual:
        return _written(dx, out), dweight, dbias
    dx_out, dresidual_out = (None, None) if out is None else out
    return _written(dx, dx_out), dweight, dbias, _written(g, dresidual_out)


def batch_norm_double_backward(
    ddx, ddweight, ddbias, dy, x, mean, inv_std, weight=None, *, axis=1, training=True, num_threads=None
):
    """Return the gradients with respect to dy, x and weight; see `cbn.batch_norm_double_backward`.

    They are those of ``sum(ddx * dx) + sum(ddweight * dweight) + sum(ddbias * dbias)``, where dx, dweight and dbias are
    what `batch_norm_backward` returns; None stands for zeros.
    """
    x = np.asarray(x)
    u, g = _wide(ddx), _wide(dy)
    x_hat = _normalized(x, mean, inv_std, axis)
    count = _weights(x, axis, None, None)[0].size if training else None
    u_rest, _, u_along = _without_statistics(u, x_hat, axis, 1, count)
    g_rest, _, g_along = _without_statistics(g, x_hat, axis, 1, count)
    scale = _spread(inv_std if weight is None else inv_std * _wide(weight), x, axis)
    ddweight, ddbias = (_spread(0 if d is None else _wide(d), x, axis) for d in (ddweight, ddbias))
    ddy = u_rest * scale + ddweight * x_hat + ddbias
    dweight = _by_channel(u * g_rest, axis).sum(axis=1) * inv_std
    inv_std = _spread(inv_std, x, axis)
    dx = g_rest * ddweight * inv_std
    if training:  # mean and inv_std vary with x
        both = u_rest * _spread(g_along, x, axis) + g_rest * _spread(u_along, x, axis)
        dx = dx - (x_hat * _spread(dweight, x, axis) + both * inv_std) * scale / (count or 1)
    return ddy, dx, dweight


def update_running(running_mean, running_var, moments, momentum, *, unbiased=True):
    """Update the running statistics in place; see `cbn.update_running`."""
    _update(running_mean, running_var, moments.count, moments.mean, moments.m2, momentum, unbiased)


def _update(running_mean, running_var, count, mean, m2, momentum, unbiased):
    if count:
        divisor = count - unbiased if count > unbiased else 1
        running_mean[...] = (1 - momentum) * _wide(running_mean) + momentum * mean
        running_var[...] = (1 - momentum) * _wide(running_var) + momentum * (m2 / divisor)


def batch_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    axis=1,
    activation=None,
    negative_slope=0.01,
    residual=None,
    mask=None,
    sample_weight=None,
    out=None,
    num_threads=None,
):
    """Return y; in training the running statistics, where given, are updated in place. See `cbn.batch_norm`."""
    x = np.asarray(x)
    if training:
        count, mean, m2 = statistics(x, axis, mask, sample_weight)
        inv_std = _inverse_std(m2 / (count or 1), eps)
    else:
        mean, inv_std = _wide(running_mean), _inverse_std(_wide(running_var), eps)
    y = _activated(_affine(x, mean, inv_std, weight, bias, axis), activation, negative_slope, residual)
    if training and running_mean is not None:
        _update(running_mean, running_var, count, mean, m2, momentum, True)
    return _written(y, out)


def normalize_images(images, mean, std, *, layer=None, axis=-1, channels_first=True, out=None, num_threads=None):
    """Return y; see `cbn.normalize_images`."""
    images = np.asarray(images)
    y = (_wide(images) / 255 - _spread(_wide(mean), images, axis)) / _spread(_wide(std), images, axis)
    if layer is not None:
        parameters = layer.running_mean, layer.running_var, layer.weight, layer.bias
        activation = {"activation": layer.activation, "negative_slope": layer.negative_slope}
        y = batch_norm(y, *parameters, eps=layer.eps, axis=axis, **activation)
    return _written(np.moveaxis(y, axis, -3) if channels_first else y, out)
