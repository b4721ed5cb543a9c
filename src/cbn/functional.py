"""functional: batch normalization of arrays, without state."""

from . import _core

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "batch_norm_forward",
]


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
    """Normalize x per channel, with its own statistics (training) or with the running ones.

    The arguments up to `eps` are those of ``torch.nn.functional.batch_norm``, in its order.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64, shape (N, C, ...) or any other of rank >= 2
        bfloat16 is that of ml_dtypes. For inference also uint8 (see `normalize_images` for images as ToTensor and
        Normalize take them).
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
    activation : None, "relu" or "leaky_relu"
        What follows the normalization and the residual, in the same pass over memory.
    negative_slope : float, >= 0
        Of "leaky_relu", where the activation's input is negative.
    residual : ndarray, optional
        Added before the activation: of x's shape and dtype.
    mask : array_like of bool, optional
        True where a position counts: x's shape less the channel axis, or broadcasting to it. In training the others
        take no part in the statistics (x may be NaN there); they are normalized with them like the rest, as in Keras.
        If none counts, the batch is as an empty one: a mean and a variance of 0, running statistics unchanged.
    sample_weight : array_like of numbers that are 0 or from 1e-100 to 1e100, optional
        How often the values of a position count in the statistics: one number per sample (index of the first axis
        that is not the channels'), or of x's shape less the channel axis, or broadcasting to it. A weight of 2 is as
        two equal values, so that n is the sum of the weights. Only for training, as `mask`.
    out : ndarray, optional
        Where y is written: of x's shape, dtype and memory layout. It may be x or the residual, but not overlap them
        partly.
    num_threads : int, optional
        At most so many threads; see `get_num_threads` for the default. It never changes a bit of the result.

    Returns
    -------
    y : ndarray
        ``(x - mean) / sqrt(var + eps) * weight + bias``; in training var is the biased variance (m2 / n). With a
        residual and an activation ``activation(that + residual)``. It has x's dtype (float32 for uint8), and x's
        memory layout if that is C order or C order with the channel axis moved last (torch's
        channels_last), else C order. `out` if that was given.

    Raises
    ------
    TypeError
        For a kind of array or dtype that is not supported, and for dtypes that do not go together: weight and bias
        must have one dtype, the running statistics too, and each of these is x's, float32 or float64.
    ValueError
        For wrong shapes or ranges, missing statistics, and in training for a single value per channel. Whenever an
        error is raised nothing has been changed.

    Notes
    -----
    Ioffe & Szegedy 2015, Algorithm 1 (training) and Algorithm 2, line 11 (inference). Statistics are accumulated
    in float64 in every layout. For float32 ``abs(y - exact) <= 4 * 2**-24 * max(abs(y), abs(weight * x_hat),
    abs(bias), abs(residual), 1)``, also for a mean of 1e6 deviations; for float16 and bfloat16 the same (with a
    residual twice that) before one rounding to their precision. The same bits for any number of threads, instruction
    set and alignment. x is read once for inference and twice in training (the second time from cache where it fits),
    y is written once. x in other layouts is first copied once.

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
    extras = (activation, negative_slope, residual, mask, sample_weight)
    if training is not False and _core.check_flag(training, "training"):
        _core.check_momentum(momentum)
        running = (running_mean, running_var, momentum, None, False, None)
        return _core.forward(x, weight, bias, eps, axis, out, num_threads, *running, *extras)[0]
    return _core.inference(x, running_mean, running_var, weight, bias, eps, axis, out, num_threads, None, *extras)


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
    """Normalize x with its own statistics, and return them for `batch_norm_backward`.

    Parameters
    ----------
    x, weight, bias, eps, axis, activation, negative_slope, residual, mask, sample_weight, out, num_threads
        As in `batch_norm` in training.

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
    extras = {"residual": residual, "mask": mask, "sample_weight": sample_weight}
    y, mean, _, inv_std, *_ = _core.forward(
        x,
        weight,
        bias,
        eps,
        axis,
        out,
        num_threads,
        activation=activation,
        negative_slope=negative_slope,
        **extras,
    )
    return y, mean, inv_std


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
    """Return the gradients of a loss with respect to x, weight and bias, and to a residual.

    Parameters
    ----------
    dy : ndarray
        The loss's gradient with respect to y, of x's shape and dtype.
    x : ndarray of float16, bfloat16, float32 or float64
        The input of the forward pass.
    mean, inv_std : ndarray, shape (C,)
        From `batch_norm_forward`, or the fixed statistics (``1 / sqrt(running_var + eps)``).
    weight : ndarray, shape (C,), optional
        As in the forward pass.
    axis : int
        The channel axis.
    training : bool
        Whether mean and inv_std came from x, so that they vary with it; false for fixed statistics.
    activation, negative_slope
        As in the forward pass.
    y : ndarray
        What the forward pass returned: required with an activation, which let dy through where y > 0. Below,
        ``g = dy`` there, and elsewhere 0 ("relu") or ``negative_slope * dy``; without an activation g is dy.
    residual : bool
        Whether the forward pass had a residual, whose gradient is then returned, too.
    mask, sample_weight
        As in the forward pass. Where masked, dy counts as 0 and dx is 0. sample_weight does not weigh dy: y of a
        sample that has a weight of 0 still depends on x.
    out : ndarray, optional
        Where dx is written; may be dy, x or y, but overlap none of them partly. With `residual` a pair: for dx, and
        for dresidual, which may overlap nothing.
    num_threads : int, optional
        As in `batch_norm`.

    Returns
    -------
    dx : ndarray
        ``weight * inv_std * (g - dbias / n - x_hat * dweight / n)`` with ``x_hat = (x - mean) * inv_std`` in
        training, else ``weight * inv_std * g``. With sample_weight w the two fractions are multiplied by w. Memory
        layout as x's, see `batch_norm`.
    dweight, dbias : ndarray, shape (C,)
        ``sum(g * x_hat)`` and ``sum(g)`` over all axes but the channels', in weight's dtype (if it is None in x's, or
        float32 where that has 16 bits).
    dresidual : ndarray
        g; a fourth result, with `residual` only.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm`, and if dy does not match x.

    Notes
    -----
    Ioffe & Szegedy 2015, section 3. Sums are computed in float64, and so is dx where little is left of dy; elsewhere
    float32 is enough for float32 input. dx is within 1e-6 of the largest abs(dx) of its channel for float32, dweight
    and dbias within 5e-6 * max(largest over channels, sqrt(n)); for 16 bits the same, then rounded once. dy and x
    (and y) are read twice, dx (and dresidual) written once. An empty batch has zero gradients.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, mean, inv_std = cbn.batch_norm_forward(x, eps=0.0)
    >>> dx, dweight, dbias = cbn.batch_norm_backward(np.ones_like(x), x, mean, inv_std)
    >>> dx.ravel(), dbias
    (array([0., 0., 0.]), array([3.]))
    """
    _core.check_flag(training, "training")
    _core.check_flag(residual, "residual")
    extras = (activation, negative_slope, y, residual, mask, sample_weight)
    return _core.backward(dy, x, mean, inv_std, weight, axis, training, out, num_threads, *extras)


def batch_norm_double_backward(
    ddx, ddweight, ddbias, dy, x, mean, inv_std, weight=None, *, axis=1, training=True, num_threads=None
):
    """Return the gradients of what `batch_norm_backward` returns, with respect to dy, x and weight.

    They are those of ``sum(ddx * dx) + sum(ddweight * dweight) + sum(ddbias * dbias)``, where dx, dweight and dbias
    come from ``batch_norm_backward(dy, x, mean, inv_std, weight)``, without activation, mask or sample weights.

    Parameters
    ----------
    ddx : ndarray
        The loss's gradient with respect to dx, of x's shape and dtype.
    ddweight, ddbias : ndarray, shape (C,), or None
        Those with respect to dweight and dbias; zeros if None.
    dy, x, mean, inv_std, weight, axis, training
        As in `batch_norm_backward`.
    num_threads : int, optional
        As in `batch_norm`.

    Returns
    -------
    ddy : ndarray
        ``weight * inv_std * rest(ddx) + ddweight * x_hat + ddbias`` with ``x_hat = (x - mean) * inv_std``. In training
        ``rest(v) = v - sum(v) / n - x_hat * sum(v * x_hat) / n``, with fixed statistics v itself. Memory layout as
        x's, see `batch_norm`.
    dx : ndarray
        ``inv_std * ddweight * rest(dy)``; in training less ``weight * inv_std / n`` times ``x_hat * dweight +
        inv_std * (rest(ddx) * sum(dy * x_hat) + rest(dy) * sum(ddx * x_hat))``.
    dweight : ndarray, shape (C,)
        ``inv_std * sum(ddx * rest(dy))``, in the dtype of weight, ddweight and ddbias (if all are None in x's,
        or float32 where that has 16 bits).

    Raises
    ------
    TypeError, ValueError
        As `batch_norm`, and if ddx or dy does not match x. weight, ddweight and ddbias must have one dtype.

    Notes
    -----
    Derivatives of the gradients in section 3 of Ioffe & Szegedy 2015. All is computed in float64 and rounded once: each
    value of each result is within half a unit in the last place of its dtype, and besides, for float32 and less, 3e-12
    * (1 + abs(mean) / std) of the sizes of the terms that it is the sum of, which matters only where all but nothing
    cancels (3e-15 for float64). The same bits for any number of threads, instruction set and alignment. ddx, dy and x
    are read three times; with fixed statistics ddx and dy twice, and x once. An empty batch has zero gradients.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x, dy = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> y, mean, inv_std = cbn.batch_norm_forward(x, eps=0.0)
    >>> dx, dweight, dbias = cbn.batch_norm_backward(dy, x, mean, inv_std)
    >>> ddy, _, dweight = cbn.batch_norm_double_backward(dx, None, None, dy, x, mean, inv_std)
    >>> bool(np.isclose((dy * ddy).sum(), (dx * dx).sum())), bool(np.isclose(dweight, (dx * dx).sum()))
    (True, True)
    """
    _core.check_flag(training, "training")
    return _core.double_backward(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight, axis, training, num_threads)
