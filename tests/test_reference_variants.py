"""test_reference_variants: the oracle's activations, masks, sample weights and second gradients."""

import numpy as np
import pytest
from cases import filled, parameters

from cbn import reference

SHAPE = (4, 2, 5)
EPS = 1e-3
MASK = np.random.default_rng(0).random((4, 5)) < 0.6
MASK[2] = False
SAMPLES = np.array([2, 0, 1.5, 0.25])
POSITIONS = np.random.default_rng(1).random((4, 5)) * (np.arange(5) != 3)
VARIANTS = {
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.3},
    "mask": {"mask": MASK},
    "mask-broadcast": {"mask": MASK[:1]},
    "samples": {"sample_weight": SAMPLES},
    "positions": {"sample_weight": POSITIONS},
    "mask-samples": {"mask": MASK, "sample_weight": SAMPLES},
    "relu-mask-positions": {"activation": "relu", "mask": MASK, "sample_weight": POSITIONS},
    "leaky-mask-samples": {"activation": "leaky_relu", "mask": MASK, "sample_weight": SAMPLES},
}


def arrays(count, axis=1):
    return [np.moveaxis(filled(SHAPE, 1, np.longdouble, seed=seed), 1, axis) for seed in range(count)]


def rows(x, axis=1):
    """Positions as rows: shape (n, C)."""
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def statistics_options(options):
    return {key: value for key, value in options.items() if key in ("mask", "sample_weight")}


def assert_differences(loss, arguments, gradients):
    """Hold gradients against central differences of loss(*arguments)."""
    step = 1e-5
    for argument, gradient in zip(arguments, gradients, strict=True):
        assert gradient.shape == argument.shape
        for index in np.ndindex(argument.shape):
            kept = argument[index]
            sides = []
            for sign in (1, -1):
                argument[index] = kept + sign * step
                sides.append(loss(*arguments))
            argument[index] = kept
            assert abs((sides[0] - sides[1]) / (2 * step) - gradient[index]) < 1e-8


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_finite_differences(variant, training, axis):
    """The gradient of sum(y * dy) over the unmasked positions."""
    options = VARIANTS[variant]
    x, dy, residual = arrays(3, axis)
    weight, bias = parameters(2, np.longdouble)
    mean, inv_std, running = weight / 2, bias**2 + 1, [None, None]
    if training:
        _, mean, inv_std = reference.batch_norm_forward(x, eps=EPS, axis=axis, **statistics_options(options))
    else:
        running = [mean, inv_std**-2 - EPS]
    counted = np.expand_dims(np.broadcast_to(options.get("mask", True), (4, 5)), axis)

    def forward(x, weight, bias, residual):
        return reference.batch_norm(
            x, *running, weight, bias, training, eps=EPS, axis=axis, residual=residual, **options
        )

    y = forward(x, weight, bias, residual)
    gradients = reference.batch_norm_backward(
        dy, x, mean, inv_std, weight, axis=axis, training=training, y=y, residual=True, **options
    )
    assert_differences(
        lambda *arguments: (forward(*arguments) * dy * counted).sum(), [x, weight, bias, residual], gradients
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("training", [True, False])
def test_double_backward_finite_differences(training, axis):
    ddx, dy, x = arrays(3, axis)
    weight, ddweight = parameters(2, np.longdouble)
    ddbias = ddweight[::-1] + 1
    fixed = weight / 3, ddweight**2 + 1

    def statistics(x):
        return reference.batch_norm_forward(x, eps=EPS, axis=axis)[1:] if training else fixed

    def loss(dy, x, weight):
        gradients = reference.batch_norm_backward(dy, x, *statistics(x), weight, axis=axis, training=training)
        return sum((a * b).sum() for a, b in zip((ddx, ddweight, ddbias), gradients, strict=True))

    gradients = reference.batch_norm_double_backward(
        ddx, ddweight, ddbias, dy, x, *statistics(x), weight, axis=axis, training=training
    )
    assert_differences(loss, [dy, x, weight], gradients)


@pytest.mark.parametrize("training", [True, False])
def test_double_backward_defaults(training):
    ddx, dy, x = arrays(3)
    _, mean, inv_std = reference.batch_norm_forward(x)
    zeros, ones = np.zeros(2), np.ones(2)
    short = reference.batch_norm_double_backward(ddx, None, None, dy, x, mean, inv_std, training=training)
    long = reference.batch_norm_double_backward(ddx, zeros, zeros, dy, x, mean, inv_std, ones, training=training)
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(a, b)
    empty = np.zeros((0, 2))
    result = reference.batch_norm_double_backward(empty, None, None, empty, empty, zeros, ones, training=training)
    assert [a.shape for a in result] == [(0, 2), (0, 2), (2,)]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_integer_weights_are_repetitions(axis):
    """Of each value: the copies share its dy, and their dx add up to its dx."""
    x, dy = arrays(2, axis)
    weight, bias = parameters(2, np.longdouble)
    times = np.random.default_rng(2).integers(1, 4, (4, 5))
    many = np.repeat(rows(x, axis), times.ravel(), axis=0)
    many_dy = np.repeat(rows(dy, axis) / times.reshape(-1, 1), times.ravel(), axis=0)
    running, many_running = np.ones((2, 2, 2))
    y = reference.batch_norm(x, *running, weight, bias, True, axis=axis, sample_weight=times)
    many_y = reference.batch_norm(many, *many_running, weight, bias, True)
    np.testing.assert_allclose(np.repeat(rows(y, axis), times.ravel(), axis=0), many_y, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(running, many_running, rtol=1e-13)

    _, mean, inv_std = reference.batch_norm_forward(x, axis=axis, sample_weight=times)
    dx, *others = reference.batch_norm_backward(dy, x, mean, inv_std, weight, axis=axis, sample_weight=times)
    many_dx, *many_others = reference.batch_norm_backward(many_dy, many, mean, inv_std, weight)
    starts = np.cumsum(times) - times.ravel()
    np.testing.assert_allclose(rows(dx, axis), np.add.reduceat(many_dx, starts), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(others, many_others, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["mask", "mask-weights"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_mask_is_compression(axis, weighted):
    x, dy = arrays(2, axis)
    weight, bias = parameters(2, np.longdouble)
    kept = MASK.ravel()
    options, few_options = {"mask": MASK}, {}
    if weighted:
        options["sample_weight"], few_options["sample_weight"] = POSITIONS, POSITIONS[MASK]
    few, few_dy = rows(x, axis)[kept], rows(dy, axis)[kept]
    running, few_running = np.ones((2, 2, 2))
    y = reference.batch_norm(x, *running, weight, bias, True, axis=axis, **options)
    few_y = reference.batch_norm(few, *few_running, weight, bias, True, **few_options)
    np.testing.assert_allclose(rows(y, axis)[kept], few_y, rtol=1e-13)
    np.testing.assert_allclose(running, few_running, rtol=1e-13)

    _, mean, inv_std = reference.batch_norm_forward(x, axis=axis, **options)
    masked = np.expand_dims(~MASK, axis)
    np.testing.assert_allclose(
        np.where(masked, y, 0), np.where(masked, reference._affine(x, mean, inv_std, weight, bias, axis), 0)
    )
    dx, *others = reference.batch_norm_backward(dy, x, mean, inv_std, weight, axis=axis, **options)
    few_dx, *few_others = reference.batch_norm_backward(few_dy, few, mean, inv_std, weight, **few_options)
    np.testing.assert_allclose(rows(dx, axis)[kept], few_dx, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(others, few_others, rtol=1e-12)
    assert not rows(dx, axis)[~kept].any()


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("training", [True, False])
def test_nan_that_does_not_count(training, activation):
    """Masked values may as well be NaN."""
    x, dy = arrays(2)
    outside = ~MASK[:, None]
    spoilt = np.where(outside, np.nan, x)
    results = []
    for values, slopes in ((x, dy), (spoilt, np.where(outside, np.nan, dy))):
        options = {"mask": MASK, "sample_weight": POSITIONS}
        y, mean, inv_std = reference.batch_norm_forward(values, activation=activation, **options)
        options.update(training=training, activation=activation, y=y, residual=True)
        results.append([mean, inv_std, *reference.batch_norm_backward(slopes, values, mean, inv_std, **options)])
    for clean, dirty in zip(*results, strict=True):
        np.testing.assert_array_equal(clean, dirty)
    assert np.isnan(y[np.broadcast_to(outside, SHAPE)]).all()


def test_nan_of_weight_0():
    """It takes no part in the statistics; but y is NaN there, and so are the gradients of weight."""
    x, dy = arrays(2)
    x[1] = np.nan
    _, mean, inv_std = reference.batch_norm_forward(x, sample_weight=SAMPLES)
    _, dweight, dbias = reference.batch_norm_backward(dy, x, mean, inv_std, sample_weight=SAMPLES)
    assert np.isfinite(mean).all() and np.isfinite(inv_std).all() and np.isnan(dweight).all()
    np.testing.assert_allclose(dbias, dy.sum(axis=(0, 2)))


def test_dx_is_zero_at_masked_positions_of_a_nan_channel():
    x, dy = arrays(2)
    dy[np.broadcast_to(MASK[:, None], SHAPE)] = np.nan
    _, mean, inv_std = reference.batch_norm_forward(x, mask=MASK)
    dx = reference.batch_norm_backward(dy, x, mean, inv_std, mask=MASK)[0]
    np.testing.assert_array_equal(np.isnan(rows(dx)), np.repeat(MASK.reshape(-1, 1), 2, axis=1))


@pytest.mark.parametrize("options", [{"mask": np.zeros((4, 5), bool)}, {"sample_weight": np.zeros(4)}], ids=list)
def test_nothing_counts(options):
    x, dy = arrays(2)
    count, mean, m2 = reference.statistics(x, **options)
    assert count == 0 and not mean.any() and not m2.any()
    running = np.ones((2, 2))
    y = reference.batch_norm(x, *running, training=True, eps=EPS, **options)
    np.testing.assert_array_equal(running, 1)
    np.testing.assert_allclose(y, x / np.sqrt(EPS))
    _, mean, inv_std = reference.batch_norm_forward(x, eps=EPS, **options)
    dx = reference.batch_norm_backward(dy, x, mean, inv_std, **options)[0]
    np.testing.assert_allclose(dx, 0 if "mask" in options else dy / np.sqrt(EPS))


def test_count():
    x = arrays(1)[0]
    for options in ({}, {"mask": MASK}):
        count = reference.moments(x, **options).count
        assert type(count) is int and count == (MASK.sum() if options else 20)
    assert reference.statistics(x, sample_weight=SAMPLES)[0] == 5 * SAMPLES.sum()
    assert reference.statistics(x, 1, MASK, POSITIONS)[0] == pytest.approx(POSITIONS[MASK].sum(), rel=1e-15)


def test_only_proportions_of_weights_matter():
    """Also where they add up to less than 1."""
    x = arrays(1)[0]
    expected = reference.batch_norm_forward(x, sample_weight=SAMPLES)
    for a, b in zip(expected, reference.batch_norm_forward(x, sample_weight=SAMPLES / 1024), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_activations():
    x = np.array([[-4], [0], [2], [np.nan], [-np.inf]])
    options = {"eps": 0.0, "residual": np.array([[1], [0], [0], [0], [0]])}
    y = reference.batch_norm(x, [0], [1], activation="relu", **options)
    np.testing.assert_array_equal(y.ravel(), [0, 0, 2, np.nan, 0])
    y = reference.batch_norm(x, [0], [1], activation="leaky_relu", negative_slope=0.5, **options)
    np.testing.assert_array_equal(y.ravel(), [-1.5, 0, 2, np.nan, -np.inf])
    ones = np.ones_like(x)
    for activation, below in (("relu", 0), ("leaky_relu", 0.5)):
        backward = {"training": False, "activation": activation, "negative_slope": 0.5, "y": y, "residual": True}
        dresidual = reference.batch_norm_backward(ones, np.zeros_like(x), [0], [1], **backward)[3]
        np.testing.assert_array_equal(dresidual.ravel(), [below, below, 1, 1, below])


def test_out_is_a_pair():
    x, dy = arrays(2)
    _, mean, inv_std = reference.batch_norm_forward(x)
    expected = reference.batch_norm_backward(dy, x, mean, inv_std, residual=True)
    pair = np.empty(SHAPE, np.float32), np.empty(SHAPE, np.float32)
    result = reference.batch_norm_backward(dy, x, mean, inv_std, residual=True, out=pair)
    for i in (0, 1):
        assert result[3 * i] is pair[i]
        np.testing.assert_array_equal(pair[i], expected[3 * i].astype(np.float32))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_torch_agrees(activation, training):
    """With batch normalization, a sum and an activation, and with the second gradients of batch normalization."""
    torch = pytest.importorskip("torch")
    x, dy, residual, ddx = (filled(SHAPE, 1, np.float64, seed=seed) for seed in range(4))
    weight, bias = parameters(2, np.float64)
    running = [bias.copy(), weight**2 + 1]
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, weight, bias, residual)]
    tx, tweight, tbias, tresidual = tensors
    trunning = [torch.from_numpy(a.copy()) for a in running]
    mean, inv_std = running[0].copy(), 1 / np.sqrt(running[1] + EPS)
    if training:
        _, mean, inv_std = reference.batch_norm_forward(x, eps=EPS)
    options = {"activation": activation, "negative_slope": 0.2, "residual": residual}
    y = reference.batch_norm(x, *running, weight, bias, training, 0.3, EPS, **options)
    options.update(y=y, residual=True, training=training)
    gradients = reference.batch_norm_backward(dy, x, mean, inv_std, weight, **options)

    normalized = torch.nn.functional.batch_norm(tx, *trunning, tweight, tbias, training, 0.3, EPS)
    functions = {"relu": torch.relu, "leaky_relu": lambda v: torch.nn.functional.leaky_relu(v, 0.2)}
    ty = functions.get(activation, lambda v: v)(normalized + tresidual)
    tdy = torch.from_numpy(dy).requires_grad_()
    tgradients = torch.autograd.grad(ty, tensors, tdy, retain_graph=True)
    for a, b in zip([y, *running, *gradients], [ty, *trunning, *tgradients], strict=True):
        np.testing.assert_allclose(a.astype(float), b.detach().numpy(), rtol=1e-11, atol=1e-12)

    first = torch.autograd.grad(normalized, tensors[:3], tdy, create_graph=True)
    seconds = [ddx, bias, weight]
    tseconds = torch.autograd.grad(first, [tdy, tx, tweight], [torch.from_numpy(a) for a in seconds])
    seconds = reference.batch_norm_double_backward(*seconds, dy, x, mean, inv_std, weight, training=training)
    for a, b in zip(seconds, tseconds, strict=True):
        np.testing.assert_allclose(a.astype(float), b.numpy(), rtol=1e-11, atol=1e-12)
