"""test_numerics: the bounds of the numerics contract against an oracle in extended precision."""

import numpy as np
import pytest
from cases import (
    DISTRIBUTIONS,
    DTYPES,
    LAYOUTS,
    SHAPE_IDS,
    SHAPES,
    filled,
    gradient,
    parameters,
    statistics,
)
from holds import hold

import cbn
from cbn import reference


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=SHAPE_IDS)
def test_shapes(shape, axis, dtype, isa):
    hold(filled(shape, axis, dtype), axis)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 5, 30, 40), 1), ((50, 4, 7, 7), 1), ((6, 31, 33, 5), -1), ((1500, 70), 1)],
    ids=["rows", "small-planes", "NHWC", "NC"],
)
def test_distributions(shape, axis, dtype, distribution):
    eps = 0.0 if distribution == "1e-37" else 1e-5
    hold(filled(shape, axis, dtype, distribution), axis, eps)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "shape", [(300, 1, 49), (51, 2, 45), (49, 1, 15), (4000, 1, 7), (5000, 3), (3, 2, 9000)], ids=str
)
def test_float64_leaves_no_room_for_luck(shape, seed):
    """Few channels and many values each: the longest chains of additions."""
    x = np.random.default_rng(seed).standard_normal(shape)
    var = statistics(x, 1)[2]
    moments = cbn.moments(x)
    assert (np.abs(moments.var() - var) <= 12 * 2.0**-53 * var).all()
    hold(x, 1)


@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 30, 40), 1), ((1500, 70), 1)], ids=["rows", "NC"])
def test_float64_magnitudes(shape, axis, scale):
    hold(filled(shape, axis, np.float64) * scale, axis, eps=0.0)


@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 30, 40), 1), ((1500, 70), 1)], ids=["rows", "NC"])
def test_float64_offsets(shape, axis, offset):
    hold(filled(shape, axis, np.float64) + offset, axis)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 12, 40), 1), ((5, 33, 7, 7), 1), ((3, 8, 7, 6), -2)])
def test_layouts(shape, axis, layout, dtype):
    x = filled(shape, axis, dtype)
    arranged = LAYOUTS[layout](x, axis)
    np.testing.assert_array_equal(arranged, x)
    hold(arranged, axis)
    if layout == "channels_last":
        assert cbn.batch_norm(arranged, training=True, axis=axis).strides == arranged.strides
    elif layout != "C":
        y = cbn.batch_norm(arranged, training=True, axis=axis)
        assert y.flags.c_contiguous
        np.testing.assert_array_equal(y, cbn.batch_norm(x, training=True, axis=axis))


def test_gradient_that_almost_vanishes():
    """dy = y: dx is 1e-5 of dy, and float32 arithmetic would leave noise of it."""
    x = filled((8, 4, 20, 20), 1, np.float32)
    hold(x, 1, dy=cbn.batch_norm_forward(x)[0])
    hold(filled((8, 4, 20, 20), 1, np.float32), 1, dy=1000 + filled((8, 4, 20, 20), 1, np.float32, seed=3))


def rounded_otherwise(x, dy):
    """The share of values of dx that are not the exact ones, rounded once."""
    _, mean, inv_std = cbn.batch_norm_forward(x)
    dx, _, _ = cbn.batch_norm_backward(dy, x, mean, inv_std)
    exact, _, _ = reference.batch_norm_backward(dy.astype(np.float64), x.astype(np.float64), mean, inv_std)
    return np.mean(dx != exact.astype(np.float32))


def test_gradient_is_computed_in_float32_only_where_little_is_taken_off():
    x = filled((16, 2, 30, 30), 1, np.float32)
    assert rounded_otherwise(x, gradient(x, 1, 0)) > 0.1
    assert rounded_otherwise(x, 5 + gradient(x, 1, 0)) < 1e-3
    assert rounded_otherwise(x, 5 * x + gradient(x, 1, 0)) < 1e-3


@pytest.mark.parametrize("distribution", ["normal", "outlier-last", "lognormal", "two-clusters", "offset-1e3", "1e30"])
@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3, 0.5, 0.8, 1.2, 3.0])
@pytest.mark.parametrize(("shape", "axis"), [((40, 6, 7, 7), 1), ((5, 3, 30, 31), 1), ((900, 33), 1)])
def test_gradient_around_the_edge_of_float32(shape, axis, strength, distribution):
    """From noise to a line in x, with means from 0 to half of the largest value."""
    x = filled(shape, axis, np.float32, distribution)
    for offset in (0, 0.3, 1.0, 2.0):
        dy = gradient(x, axis, strength) + np.float32(offset)
        hold(x, axis, dy=dy)
    for scale in (1e-30, 1e-18, 1e18, 1e30):
        hold(x, axis, dy=(gradient(x, axis, strength) * scale).astype(np.float32))


@pytest.mark.parametrize(
    ("size", "deviation", "weight"),
    [(2.0**-59, 2.0**50, 1), (2.0**-58, 2.0**40, 1), (1e-30, 1, 1e-21), (1e-36, 1, 1e-25), (1e30, 1e-15, 1e17)],
)
def test_gradient_whose_slope_float32_cannot_hold(size, deviation, weight):
    """x of one tiny or huge size: weight * inv_std**2 * dweight / n overflows float32 where dx itself does not."""
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], (64, 3, 20, 20))
    x = (size * sign).astype(np.float32)
    dy = (deviation * (rng.choice([-1.0, 1.0], x.shape) + 0.45 * sign)).astype(np.float32)
    weight = np.full(3, weight, np.float32)
    _, mean, inv_std = cbn.batch_norm_forward(x, eps=0)
    dx, _, _ = cbn.batch_norm_backward(dy, x, mean, inv_std, weight)
    exact, _, _ = reference.batch_norm_backward(*(a.astype(np.float64) for a in (dy, x, mean, inv_std, weight)))
    assert np.isfinite(dx).all()
    assert np.abs(dx - exact).max() <= 1e-6 * np.abs(exact).max()


def exact_pairs(shape, axis, dtype, seed=0):
    """Values m + d and m - d with dyadic m and d: the mean is m and the variance a mean of squares, both exact."""
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    half = int(np.prod(shape)) // channels // 2
    mean = rng.integers(-64, 64, channels) / 4.0
    distance = rng.integers(0, 2, (channels, half)) * 2.0 + 1.0
    values = np.concatenate([mean[:, None] + distance, mean[:, None] - distance], axis=1)
    values = rng.permuted(values, axis=1)
    rest = [n for d, n in enumerate(shape) if d != axis % len(shape)]
    return np.ascontiguousarray(np.moveaxis(values.reshape(channels, *rest), 0, axis)).astype(dtype), mean, distance


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3), 1), ((10, 3), 1), ((64, 40, 4, 7), 1), ((9, 5, 64, 10), 1), ((8, 30, 33, 5), -1)]
)
def test_exact_moments_come_out_exact(shape, axis, dtype, seed, isa):
    x, mean, distance = exact_pairs(shape, axis, dtype, seed)
    moments = cbn.moments(x, axis=axis)
    np.testing.assert_array_equal(moments.mean, mean)
    np.testing.assert_array_equal(moments.m2, 2 * np.square(distance).sum(axis=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("constant", [0.0, 0.1, 0.05, -7.3, 1e8, 1e30, 1e-40])
@pytest.mark.parametrize(("shape", "axis"), [((3, 2), 1), ((7, 3, 5), 1), ((4, 3, 20, 11), 1), ((9, 7, 3), -1)])
def test_constant_channel_gives_the_bias(shape, axis, constant, eps, dtype, isa):
    x = np.full(shape, constant, dtype)
    weight, bias = parameters(shape[axis], dtype)
    y, mean, inv_std = cbn.batch_norm_forward(x, weight, bias, eps, axis=axis)
    np.testing.assert_array_equal(y, np.broadcast_to(reference._spread(bias, x, axis), shape))
    np.testing.assert_array_equal(mean, np.full(shape[axis], x.flat[0], np.float64))
    assert (inv_std == (0 if eps == 0 else 1 / np.sqrt(eps))).all()
    dy = filled(shape, axis, dtype, seed=3)
    dx, dweight, _ = cbn.batch_norm_backward(dy, x, mean, inv_std, weight, axis=axis)
    assert np.isfinite(dx).all() and (dweight == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 20, 11), 1), ((4, 3, 3, 3), 1), ((40, 70), 1), ((9, 7, 3), -1)])
def test_bad_value_stays_in_its_channel(shape, axis, bad, isa):
    x = filled(shape, axis, np.float32)
    clean = x.copy()
    np.moveaxis(x, axis, 0)[1].flat[2] = bad
    others = [c for c in range(shape[axis]) if c != 1]
    pick = lambda a: np.moveaxis(np.asarray(a), axis, 0)[others]  # noqa: E731
    y, mean, inv_std = cbn.batch_norm_forward(x, axis=axis)
    clean_y, clean_mean, clean_inv_std = cbn.batch_norm_forward(clean, axis=axis)
    np.testing.assert_array_equal(pick(y), pick(clean_y))
    np.testing.assert_array_equal(mean[others], clean_mean[others])
    dy = filled(shape, axis, np.float32, seed=5)
    got = cbn.batch_norm_backward(dy, x, mean, inv_std, axis=axis)
    expected = cbn.batch_norm_backward(dy, clean, clean_mean, clean_inv_std, axis=axis)
    np.testing.assert_array_equal(pick(got[0]), pick(expected[0]))
    np.testing.assert_array_equal(got[1][others], expected[1][others])
    stats = np.zeros(shape[axis], np.float32), np.ones(shape[axis], np.float32)
    np.testing.assert_array_equal(
        pick(cbn.batch_norm(x, *stats, axis=axis)), pick(cbn.batch_norm(clean, *stats, axis=axis))
    )
    if bad != 3e38:
        assert np.isnan(np.moveaxis(y, axis, 0)[1]).all()
    else:
        assert np.isfinite(y).all()


def test_variance_too_large_for_float32_becomes_inf():
    mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    x = filled((50, 2), 1, np.float32)
    x[:, 1] *= 1e30
    y = cbn.batch_norm(x, mean, var, training=True)
    assert np.isfinite(y).all() and np.isfinite(var[0]) and np.isinf(var[1])
