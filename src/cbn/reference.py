"""reference: the oracle, batch normalization in pure NumPy, in a precision wider than its input's.

Everything is computed in float64 for float32 input and in longdouble for float64 input, and returned unrounded (an
`out` array is rounded to its dtype). Sums run along contiguous memory, where NumPy adds pairwise, and means get a
correction step: along the other axes NumPy's sums lose digits. Arguments are those of the compiled functions;
`num_threads` is accepted, so that calls can be exchanged, and has no effect. Bad arguments are not diagnosed here.
"""

import numpy as np

from .statistics import Moments

__all__ = ["batch_norm", "batch_norm_backward", "batch_norm_forward", "moments", "statistics", "update_running"]


def _wide(array):
    array = np.asarray(array)
    return array.astype(np.float64 if array.dtype == np.float32 else np.longdouble)


def _by_channel(x, axis):
    """All values of each channel as a row: shape (C, n), contiguous."""
    x = np.moveaxis(x, axis, 0)
    return np.ascontiguousarray(x).reshape(x.shape[0], int(np.prod(x.shape[1:])))


def _spread(values, x, axis):
    """One value per channel, in a shape that broadcasts against x."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.reshape(values, shape)


def _inverse_std(var, eps):
    square = np.asarray(var) + eps
    root = np.sqrt(np.where(square == 0, 1, square))
    return np.where(square == 0, 0, 1 / root)


def _written(y, out):
    if out is None:
        return y
    out[...] = y
    return out


def statistics(x, axis=1):
    """Return count, mean and m2 in the wide precision (which `Moments` cannot hold for float64 input).

    ``mean = sum(x) / n``, ``m2 = sum((x - mean)**2)``; zeros for an empty x.
    """
    values = _by_channel(_wide(x), axis)
    count = values.shape[1]
    if count == 0:
        zero = np.zeros(values.shape[0], values.dtype)
        return 0, zero, zero.copy()
    mean = values[:, 0] + (values - values[:, :1]).mean(axis=1)
    rest = values - mean[:, None]
    step = rest.mean(axis=1)
    m2 = np.square(rest).sum(axis=1) - count * np.square(step)
    return count, mean + step, np.where(m2 < 0, 0, m2)


def moments(x, *, axis=1, num_threads=None):
    """Return the `Moments` of x; see `cbn.moments`."""
    return Moments(*statistics(x, axis))


def _affine(x, mean, inv_std, weight, bias, axis):
    y = (_wide(x) - _spread(mean, x, axis)) * _spread(inv_std, x, axis)
    if weight is not None:
        y = y * _spread(_wide(weight), x, axis)
    return y if bias is None else y + _spread(_wide(bias), x, axis)


def batch_norm_forward(x, weight=None, bias=None, eps=1e-5, *, axis=1, out=None, num_threads=None):
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
    count, mean, m2 = statistics(x, axis)
    inv_std = _inverse_std(m2 / max(count, 1), eps)
    return _written(_affine(x, mean, inv_std, weight, bias, axis), out), mean, inv_std


def batch_norm_backward(dy, x, mean, inv_std, weight=None, *, axis=1, training=True, out=None, num_threads=None):
    """Return dx, dweight and dbias by section 3 of the paper; see `cbn.batch_norm_backward`."""
    x = np.asarray(x)
    wide_dy = _wide(dy)
    x_hat = (_wide(x) - _spread(mean, x, axis)) * _spread(inv_std, x, axis)
    dbias = _by_channel(wide_dy, axis).sum(axis=1)
    dweight = _by_channel(wide_dy * x_hat, axis).sum(axis=1)
    dx = wide_dy
    if training:
        count = max(x.size // max(x.shape[axis], 1), 1)
        dx = dx - _spread(dbias / count, x, axis) - x_hat * _spread(dweight / count, x, axis)
    scale = inv_std if weight is None else inv_std * _wide(weight)
    return _written(dx * _spread(scale, x, axis), out), dweight, dbias


def update_running(running_mean, running_var, moments, momentum, *, unbiased=True):
    """Update the running statistics in place; see `cbn.update_running`."""
    _update(running_mean, running_var, moments.count, moments.mean, moments.m2, momentum, unbiased)


def _update(running_mean, running_var, count, mean, m2, momentum, unbiased):
    if count:
        running_mean[...] = (1 - momentum) * _wide(running_mean) + momentum * mean
        running_var[...] = (1 - momentum) * _wide(running_var) + momentum * (m2 / max(count - unbiased, 1))


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
    out=None,
    num_threads=None,
):
    """Return y; in training the running statistics, where given, are updated in place. See `cbn.batch_norm`."""
    x = np.asarray(x)
    if not training:
        inv_std = _inverse_std(_wide(running_var), eps)
        return _written(_affine(x, _wide(running_mean), inv_std, weight, bias, axis), out)
    y, _, _ = batch_norm_forward(x, weight, bias, eps, axis=axis)
    if running_mean is not None:
        _update(running_mean, running_var, *statistics(x, axis), momentum, True)
    return _written(y, out)
