"""holds: the numerics contract, held by one array with one set of options against the oracle."""

import numpy as np
from cases import (
    amplification,
    assert_gradients,
    assert_within,
    assert_y,
    filled,
    half_unit,
    parameters,
    spread,
    statistics,
)

import cbn
from cbn import reference


def split(options):
    """Those that choose what counts, the activation, and the residual."""
    counting = {key: value for key, value in options.items() if key in ("mask", "sample_weight")}
    activation = {key: value for key, value in options.items() if key in ("activation", "negative_slope")}
    return counting, activation, options.get("residual")


def hold(x, axis, eps=1e-5, dy=None, param_dtype=None, stat_dtype=None, **options):
    """Statistics, forward, backward, inference and running update of one array, each within its bound."""
    channels, dtype = x.shape[axis], np.dtype(x.dtype.type)
    native = np.ascontiguousarray(x, dtype)
    weight, bias = parameters(channels, param_dtype or dtype)
    counting, _, _ = split(options)
    count, mean, var, std = statistics(native, axis, **counting)
    inv_std = reference._inverse_std(var, eps)
    factor = amplification(mean, std, dtype)

    y, got_mean, got_inv_std = cbn.batch_norm_forward(x, weight, bias, eps, axis=axis, **options)
    assert y.dtype == dtype and y.shape == x.shape
    assert (np.abs(got_mean - mean) <= 1e-11 * (np.abs(mean) + std)).all()
    assert (np.abs(got_inv_std - inv_std) <= 1e-11 * inv_std).all()
    outputs = {key: value for key, value in options.items() if key not in counting}
    assert_y(y, native, mean, inv_std, weight, bias, axis, factor, **outputs)

    moments = cbn.moments(x, axis=axis, **counting)
    assert moments.count == count or abs(moments.count - count) <= 1e-15 * count
    np.testing.assert_array_equal(moments.mean, got_mean)
    assert (np.abs(moments.m2 - var * count) <= 1e-11 * (var * count)).all()

    if dy is None:
        dy = filled(x.shape, axis, dtype, seed=2)
    hold_backward(dy, x, native, (mean, inv_std), (got_mean, got_inv_std), weight, axis, factor, y, options)
    if count > 1:
        stat_dtype = stat_dtype or dtype
        got = hold_running(x, weight, bias, axis, eps, count, mean, var, stat_dtype, options)
        np.testing.assert_array_equal(got, y)
        hold_inference(x, native, weight, bias, axis, eps, mean, var, stat_dtype, outputs)


def hold_backward(dy, x, native, exact_statistics, statistics, weight, axis, factor, y, options, training=True):
    """The four gradients, and those without a residual; the oracle gets the same y, and so the same signs."""
    wide, wider = np.longdouble, np.float64
    counting, activation, _ = split(options)
    arguments = {"axis": axis, "training": training, "residual": True, **counting, **activation}
    got = cbn.batch_norm_backward(dy, x, *statistics, weight, y=y, **arguments)
    exact = reference.batch_norm_backward(
        dy.astype(wider), native.astype(wider), *exact_statistics, weight.astype(wider), y=y.astype(wider), **arguments
    )
    weights, _ = reference._weights(native, axis, counting.get("mask"), counting.get("sample_weight"))
    count = weights.sum()
    share = spread(exact[2] / (count or 1), native, axis) * weights if training else 0
    unreduced = (exact[3].astype(wide) - share) * spread(exact_statistics[1] * weight.astype(wide), native, axis)
    if "sample_weight" in counting:  # what is taken away may be the larger part, and is known as well as the other
        unreduced = np.abs(unreduced) + np.abs(unreduced - exact[0])
    assert_gradients(got[:3], exact[:3], weights.size, native, axis, factor, unreduced)
    hold_dresidual(got[3], exact[3], activation)
    arguments["residual"] = False
    three = cbn.batch_norm_backward(dy, x, *statistics, weight, y=y, **arguments)
    assert_gradients(three, exact[:3], weights.size, native, axis, factor, unreduced)


def hold_dresidual(got, exact, activation):
    """Copies of dy and zeros; only a slope takes arithmetic: its own rounding, the product's, and that to 16 bits."""
    if activation.get("activation") != "leaky_relu":
        np.testing.assert_array_equal(got, exact.astype(got.dtype))
        return
    relative = 2 * (2.0**-53 if got.dtype == np.float64 else 2.0**-24) * np.abs(exact)
    assert_within(got, exact, relative + half_unit(np.abs(exact) + relative, got.dtype))


def hold_running(x, weight, bias, axis, eps, count, mean, var, dtype, options):
    """The running update with momentum 1/4, from 0 and 1; returns y."""
    running_mean, running_var = np.zeros(mean.shape, dtype), np.ones(mean.shape, dtype)
    y = cbn.batch_norm(x, running_mean, running_var, weight, bias, True, 0.25, eps, axis=axis, **options)
    new_var = var * count / (count - 1)
    known = 1e-11 * (np.abs(mean) + np.sqrt(var))
    assert_within(running_mean, mean / 4, known + half_unit(mean / 4, dtype))
    expected = 0.75 + new_var / 4
    with np.errstate(over="ignore", invalid="ignore"):  # float32 cannot hold every variance
        is_inf = np.isinf(expected.astype(np.float64).astype(dtype).astype(np.float64))
    np.testing.assert_array_equal(np.isinf(running_var.astype(np.float64)), is_inf)
    got = np.where(is_inf, 0, running_var.astype(np.longdouble))
    assert_within(got, np.where(is_inf, 0, expected), 1e-11 * new_var + half_unit(expected, dtype))
    return y


def hold_inference(x, native, weight, bias, axis, eps, mean, var, dtype, options):
    """y with the batch's statistics rounded to a dtype as fixed ones (1 for a variance that it cannot hold)."""
    wide = np.longdouble
    with np.errstate(over="ignore", invalid="ignore"):
        fixed_mean, fixed_var = (value.astype(np.float64).astype(dtype) for value in (mean, var))
    held = np.isfinite(fixed_var.astype(np.float64))
    fixed_var = np.where(held, fixed_var, fixed_var.dtype.type(1))
    inv_std = np.where(held, reference._inverse_std(fixed_var.astype(wide), eps), 0)
    with np.errstate(over="ignore", invalid="ignore"):  # channels that are not held may overflow: not compared
        y = cbn.batch_norm(x, fixed_mean, fixed_var, weight, bias, eps=eps, axis=axis, **options)
    fixed_mean = fixed_mean.astype(wide)
    factor = amplification(fixed_mean, 1 / np.where(inv_std == 0, 1, inv_std), native.dtype)
    index = np.flatnonzero(held)
    pick = lambda a: np.take(a, index, axis=axis)  # noqa: E731
    options = {key: pick(value) if key == "residual" else value for key, value in options.items()}
    parts = [a[index] for a in (fixed_mean, inv_std, weight, bias)]
    assert_y(pick(y), pick(native), *parts, axis, factor[index], **options)
