"""functional: batch normalization of arrays, without state."""

from . import _core
from .statistics import Moments

__all__ = ["batch_norm", "batch_norm_backward", "batch_norm_forward", "moments", "update_running"]


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
    """Normalize x per channel, with its own statistics (training) or with the running ones.

    The arguments up to `eps` are those of ``torch.nn.functional.batch_norm``, in its order.

    Parameters
    ----------
    x : array_like of float32 or float64, shape (N, C, *spatial) or any other of rank >= 2
    running_mean, running_var : ndarray, shape (C,), optional
        Read if `training` is false, and then required. If `training` is true they may be None, and are otherwise
        updated in place, once y has been computed: ``running = (1 - momentum) * running + momentum * new``, with the
        batch's mean and its unbiased variance (m2 / (n - 1)) as new values. An empty batch does not change them.
    weight, bias : ndarray, shape (C,), optional
        Factor and summand after the normalization; 1 and 0 if None.
    training : bool
    momentum : float in [0, 1]
        Weight of the new value in the update of the running statistics (torch's convention), dimensionless.
    eps : float, >= 0
        Added to the variance, in the units of x squared.
    axis : int
        The channel axis, -1 for channels-last data.
    out : ndarray, optional
        Where y is written: of x's shape, dtype and memory layout. It may be x, but not overlap x partly.
    num_threads : int, optional
        At most so many threads; see `get_num_threads` for the default. It never changes a bit of the result.

    Returns
    -------
    y : ndarray
        ``(x - mean) / sqrt(var + eps) * weight + bias``; in training var is the biased variance (m2 / n). It has x's
        dtype, and x's memory layout if that is C order or C order with the channel axis moved last (torch's
        channels_last), else C order. `out` if that was given.

    Raises
    ------
    TypeError
        For a kind of array or dtype that is not supported, and for dtypes that do not go together: weight, bias and
        the running statistics must all have x's dtype, or all be float32.
    ValueError
        For wrong shapes or ranges, missing statistics, and in training for a single value per channel. Whenever an
        error is raised nothing has been changed.

    Notes
    -----
    Ioffe & Szegedy 2015, Algorithm 1 (training) and Algorithm 2, line 11 (inference). Statistics are accumulated
    in float64 in every layout. For float32 ``abs(y - exact) <= 4 * 2**-24 * max(abs(y), abs(weight * x_hat),
    abs(bias), 1)``, also for a mean of 1e6 deviations. The same bits for any number of threads, instruction set and
    alignment. x is read once for inference and twice in training (the second time from cache where it fits), y is
    written once. x in other layouts is first copied once.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.array([[1, 10], [3, 30]], dtype=np.float32)
    >>> cbn.batch_norm(x, training=True, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    >>> _ = cbn.batch_norm(x, mean, var, training=True, momentum=0.5)
    >>> mean, var
    (array([ 1., 10.], dtype=float32), array([  1.5, 100.5], dtype=float32))
    """
    if training:
        _core.check_momentum(momentum)
        return _core.forward(x, weight, bias, eps, axis, out, num_threads, running_mean, running_var, momentum)[0]
    return _core.inference(x, running_mean, running_var, weight, bias, eps, axis, out, num_threads)


def batch_norm_forward(x, weight=None, bias=None, eps=1e-5, *, axis=1, out=None, num_threads=None):
    """Normalize x with its own statistics, and return them for `batch_norm_backward`.

    Parameters
    ----------
    x, weight, bias, eps, axis, out, num_threads
        As in `batch_norm`.

    Returns
    -------
    y : ndarray
        As from ``batch_norm(..., training=True)``.
    mean : ndarray of float64, shape (C,)
        The batch's mean, within 1e-11 * (abs(mean) + std) of the exact one. 0 if the batch is empty.
    inv_std : ndarray of float64, shape (C,)
        ``1 / sqrt(var + eps)`` with the biased variance, within 1e-11 relative; 0 where that would be a division by
        zero (a constant channel with eps = 0).

    Raises
    ------
    TypeError, ValueError
        As `batch_norm` in training.

    Notes
    -----
    Ioffe & Szegedy 2015, Algorithm 1.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> y, mean, inv_std = cbn.batch_norm_forward(np.array([[1.0], [5.0]]), eps=0.0)
    >>> y.ravel(), mean, inv_std
    (array([-1.,  1.]), array([3.]), array([0.5]))
    """
    y, mean, _, inv_std, _, _ = _core.forward(x, weight, bias, eps, axis, out, num_threads)
    return y, mean, inv_std


def batch_norm_backward(dy, x, mean, inv_std, weight=None, *, axis=1, training=True, out=None, num_threads=None):
    """Return the gradients of a loss with respect to x, weight and bias.

    Parameters
    ----------
    dy : ndarray
        The loss's gradient with respect to y, of x's shape and dtype.
    x : ndarray of float32 or float64
        The input of the forward pass.
    mean, inv_std : ndarray, shape (C,)
        From `batch_norm_forward`, or the fixed statistics (``1 / sqrt(running_var + eps)``).
    weight : ndarray, shape (C,), optional
        As in the forward pass.
    axis : int
        The channel axis.
    training : bool
        Whether mean and inv_std came from x, so that they vary with it; false for fixed statistics.
    out : ndarray, optional
        Where dx is written; may be dy or x, but overlap neither partly.
    num_threads : int, optional
        As in `batch_norm`.

    Returns
    -------
    dx : ndarray
        ``weight * inv_std * (dy - dbias / n - x_hat * dweight / n)`` with ``x_hat = (x - mean) * inv_std`` in
        training, else ``weight * inv_std * dy``. Memory layout as x's, see `batch_norm`.
    dweight, dbias : ndarray, shape (C,)
        ``sum(dy * x_hat)`` and ``sum(dy)`` over all axes but the channels', in weight's dtype (x's if it is None).

    Raises
    ------
    TypeError, ValueError
        As `batch_norm`, and if dy does not match x.

    Notes
    -----
    Ioffe & Szegedy 2015, section 3. Sums are computed in float64, and so is dx where little is left of dy; elsewhere
    float32 is enough for float32 input. dx is within 1e-6 of the largest abs(dx) of its channel for float32, dweight
    and dbias within 5e-6 * max(largest over channels, sqrt(n)). dy and x are read twice, dx is written once. An
    empty batch has zero gradients.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, mean, inv_std = cbn.batch_norm_forward(x, eps=0.0)
    >>> dx, dweight, dbias = cbn.batch_norm_backward(np.ones_like(x), x, mean, inv_std)
    >>> dx.ravel(), dbias
    (array([0., 0., 0.]), array([3.]))
    """
    return _core.backward(dy, x, mean, inv_std, weight, axis, training, out, num_threads)


def moments(x, *, axis=1, num_threads=None):
    """Return count, mean and sum of squared deviations per channel.

    Parameters
    ----------
    x : array_like of float32 or float64, rank >= 2
    axis : int
        The channel axis.
    num_threads : int, optional
        As in `batch_norm`.

    Returns
    -------
    Moments
        In float64: the mean within 1e-11 * (abs(mean) + std) of the exact one, m2 within 1e-11 relative, whatever
        the layout and the offset (up to 1e6 deviations). An empty x gives count 0, mean 0, m2 0.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> cbn.moments(np.array([[1.0, 2.0], [3.0, 6.0]]))
    Moments(count=2, mean=array([2., 4.]), m2=array([2., 8.]))
    """
    return Moments(*_core.moments(x, axis, num_threads))


def update_running(running_mean, running_var, moments, momentum, *, unbiased=True):
    """Move running statistics towards the moments of a batch, in place.

    Parameters
    ----------
    running_mean, running_var : ndarray of float32 or float64, shape (C,)
        Both of one dtype, writeable and contiguous.
    moments : Moments
        Of the batch. Count 0 changes nothing.
    momentum : float in [0, 1]
        Weight of the new value: ``running = (1 - momentum) * running + momentum * new``.
    unbiased : bool
        Whether the new variance is ``m2 / (count - 1)`` (torch) or ``m2 / count``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; nothing has been changed then.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> mean, var = np.zeros(1), np.ones(1)
    >>> cbn.update_running(mean, var, cbn.Moments(3, [2.0], [8.0]), 0.5)
    >>> mean, var
    (array([1.]), array([2.5]))
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments must be a Moments; got {type(moments).__name__}")
    _core.update_running(running_mean, running_var, moments.mean, moments.m2, moments.count, momentum, unbiased)
