"""test_double_backward: the gradients of gradients against the oracle, differences of the first ones, and torch."""

import numpy as np
import pytest
from cases import (
    DISTRIBUTIONS,
    DTYPES,
    LAYOUTS,
    NAMES,
    SHAPE_IDS,
    SHAPES,
    dtype_of,
    filled,
    largest_by_channel,
    lines,
    parameters,
    spread,
    statistics,
)

import cbn
from cbn import reference

WIDE = np.longdouble
# half a unit in the last place, relative, and the spacing next to zero
ROUNDING = {"float16": (2.0**-11, 2.0**-24), "bfloat16": (2.0**-8, 2.0**-133)}
ROUNDING |= {"float32": (2.0**-24, 2.0**-149), "float64": (2.0**-53, 2.0**-1074)}


def sizes(values, axis):
    """The largest size in each channel, and the root of the mean square."""
    flat = np.moveaxis(values.astype(WIDE), axis, 0).reshape(values.shape[axis], -1)
    return np.abs(flat).max(axis=1), np.sqrt(np.square(flat).mean(axis=1))


def unreduced(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight, axis, training):
    """How large the terms of ddy, dx and dweight can be, by channel, before anything cancels."""
    (u, u_rms), (g, g_rms) = sizes(ddx, axis), sizes(dy, axis)
    x_hat = largest_by_channel((x.astype(WIDE) - spread(mean, x, axis)) * spread(inv_std, x, axis), axis)
    p, q, scale = np.abs(ddweight), np.abs(ddbias), np.abs(weight) * inv_std
    of_weight, taken = inv_std * (x.size // x.shape[axis]) * u_rms * g_rms, 0
    if training:
        u, g = u + x_hat * u_rms, g + x_hat * g_rms
        taken = scale * inv_std * (u * g_rms + g * u_rms)
    return scale * u + p * x_hat + q, p * inv_std * g + taken, of_weight


def assert_near(got, exact, arguments, axis, training):
    """Each value within one rounding to its dtype, and 24 of float64 of the terms that it is made of.

    The rounding of the mean to float64 counts as often as it has deviations. Statistics of other dtypes than float64
    may have lost ten bits more to the anchor of their sums (`far` in the kernels): some 1e-13.
    """
    *_, mean, inv_std, _ = arguments
    factor = (1 + np.abs(mean) * inv_std) * (1 if got[0].dtype == np.float64 else 1024)
    for a, b, terms in zip(got, exact, unreduced(*arguments, axis, training), strict=True):
        half, least = ROUNDING[a.dtype.name]
        terms = terms * factor if a.ndim == 1 else spread(terms * factor, b, axis)
        error = np.abs(a.astype(WIDE) - b)
        assert (error <= half * np.abs(b) * (1 + 1e-3) + least + 24 * 2.0**-53 * terms).all()


def hold(x, ddx, dy, axis, training=True, eps=1e-5, dtype=None):
    """All three results within their bounds; the parameters are of `dtype`, or of x's, or float32 for 16 bits."""
    native = np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    channels = x.shape[axis]
    weight, ddweight = parameters(channels, dtype or (np.float32 if x.itemsize == 2 else native.dtype))
    ddbias = parameters(channels, weight.dtype, seed=5)[0]
    if training:
        _, mean, var, _ = statistics(native, axis)
        exact_statistics = mean, reference._inverse_std(var, eps)
        given = cbn.batch_norm_forward(x, eps=eps, axis=axis)[1:]
    else:
        given = exact_statistics = weight.astype(float) / 2 + 1, np.abs(ddweight.astype(float)) + 0.5
    got = cbn.batch_norm_double_backward(
        ddx, ddweight, ddbias, dy, x, *given, weight, axis=axis, training=training, num_threads=2
    )
    arguments = [a.astype(WIDE) for a in (ddx, ddweight, ddbias, dy, native, *exact_statistics, weight)]
    exact = reference.batch_norm_double_backward(*arguments, axis=axis, training=training)
    assert [a.dtype for a in got] == [native.dtype, native.dtype, weight.dtype]
    assert [a.shape for a in got] == [x.shape, x.shape, (channels,)]
    assert_near(got, exact, arguments, axis, training)
    return got


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=SHAPE_IDS)
def test_shapes(shape, axis, name, training):
    x = filled(shape, axis, dtype_of(name))
    hold(x, *lines(x, axis, 1.0), axis, training)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 30, 40), 1), ((50, 4, 7, 7), 1), ((500, 70), 1)])
def test_distributions(shape, axis, dtype, distribution):
    """Also of ddx and dy that are almost constant, or almost lines in x."""
    eps, scale = (0.0, 1e-37) if distribution == "1e-37" else (1e-5, 1)  # scale keeps the results in range
    x = filled(shape, axis, dtype, distribution)
    for strength, offset in ((0.0, 0), (0.0, 1000), (1000.0, -3)):
        ddx, dy = lines(x, axis, strength)
        hold(x, (ddx + dtype(offset)) * dtype(scale), (dy - dtype(offset)) * dtype(scale), axis, True, eps)


@pytest.mark.parametrize("scale", [1e-70, 1e-30, 1e30, 1e70])
def test_float64_magnitudes(scale):
    x = filled((6, 5, 30, 40), 1, np.float64)
    hold(x * scale, *lines(x, 1, 1.0), 1, eps=0.0)


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 12, 40), 1), ((3, 8, 7, 6), -2)])
def test_layouts(shape, axis, layout, dtype, training):
    x = filled(shape, axis, dtype)
    ddx, dy = lines(x, axis, 1.0)
    arranged = LAYOUTS[layout](x, axis)
    got = hold(arranged, LAYOUTS[layout](ddx, axis), dy, axis, training)
    assert all(a.strides == cbn.batch_norm(arranged, training=True, axis=axis).strides for a in got[:2])


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_of_parameters(name):
    dtype = dtype_of(name)
    x = filled((5, 3, 8), 1, dtype)
    ddx, dy = lines(x, 1, 1.0)
    for of_parameters in (dtype, np.float32, np.float64):
        hold(x, ddx, dy, 1, dtype=of_parameters)
    plain = cbn.batch_norm_double_backward(ddx, None, None, dy, x, np.zeros(3), np.ones(3))
    assert plain[2].dtype == (np.float64 if name == "float64" else np.float32)


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 2, 4), 1), ((2, 3, 2, 9), 1), ((9, 3), 1), ((2, 4, 3), -1)])
def test_finite_differences(shape, axis, training):
    """Central differences of the loss, with dx, dweight and dbias from batch_norm_backward."""
    x, dy, ddx = (filled(shape, axis, np.float64, seed=seed) for seed in range(3))
    weight, ddweight = parameters(shape[axis], np.float64)
    ddbias, fixed = ddweight[::-1] + 1, (weight / 3, ddweight**2 + 1)

    def statistics_of(x):
        return cbn.batch_norm_forward(x, axis=axis)[1:] if training else fixed

    def loss(dy, x, weight):
        gradients = cbn.batch_norm_backward(dy, x, *statistics_of(x), weight, axis=axis, training=training)
        return sum((a * b).sum() for a, b in zip((ddx, ddweight, ddbias), gradients, strict=True))

    got = cbn.batch_norm_double_backward(
        ddx, ddweight, ddbias, dy, x, *statistics_of(x), weight, axis=axis, training=training
    )
    arguments, step = [dy, x, weight], 1e-5
    for argument, gradients in zip(arguments, got, strict=True):
        for index in np.ndindex(argument.shape):
            kept, sides = argument[index], []
            for sign in (1, -1):
                argument[index] = kept + sign * step
                sides.append(loss(*arguments))
            argument[index] = kept
            # the error of the difference: rounding / step, and step**2 times a third derivative
            assert abs((sides[0] - sides[1]) / (2 * step) - gradients[index]) < 1e-7 * max(1, abs(gradients[index]))


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (6, 33, 7, 7), (2, 4, 20, 21)], ids=str)
def test_torch_agrees(shape, training):
    torch = pytest.importorskip("torch")
    x, dy, ddx = (filled(shape, 1, np.float64, seed=seed) for seed in range(3))
    weight, ddweight = parameters(shape[1], np.float64)
    ddbias, mean, var = ddweight[::-1] + 1, weight / 3, ddweight**2 + 1
    inv_std = 1 / np.sqrt(var + 1e-3)
    if training:
        _, mean, inv_std = cbn.batch_norm_forward(x, eps=1e-3)
    got = cbn.batch_norm_double_backward(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight, training=training)
    tdy, tx, tweight, tbias = (torch.from_numpy(a.copy()).requires_grad_() for a in (dy, x, weight, ddbias))
    fixed = [torch.from_numpy(a.copy()) for a in (mean, var)]
    y = torch.nn.functional.batch_norm(tx, *fixed, tweight, tbias, training, 0.1, 1e-3)
    first = torch.autograd.grad(y, [tx, tweight, tbias], tdy, create_graph=True)
    seconds = [torch.from_numpy(a.copy()) for a in (ddx, ddweight, ddbias)]
    wanted = torch.autograd.grad(first, [tdy, tx, tweight], seconds)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-11, atol=1e-12 * np.abs(b.numpy()).max())
