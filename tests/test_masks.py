"""test_masks: masks and sample weights, which choose the values that count, and how often."""

import numpy as np
import pytest
from cases import ALL_DTYPES, ALL_IDS, DISTRIBUTIONS, DTYPES, LAYOUTS, filled, gradient, parameters, spread
from holds import hold

import cbn

F32 = np.float32
# rows, small planes, columns folded or not, cut planes
SHAPES = {
    "rows": ((6, 5, 12, 41), 1),
    "rows-32": ((7, 3, 32), 1),
    "many-channels": ((3, 96, 5, 5), 1),
    "small-planes": ((9, 33, 7, 7), 1),
    "tiny-planes": ((5, 40, 3), 1),
    "cut-planes": ((1, 2, 300, 301), 1),
    "NHWC": ((6, 31, 3, 5), -1),
    "NHWC-wide": ((4, 5, 7, 130), -1),
    "NC": ((700, 33), 1),
    "NC-folded": ((900, 3), 1),
    "NC-wide": ((40, 1025), 1),
    "CN": ((4, 37), 0),
}
dtypes = pytest.mark.parametrize("dtype", ALL_DTYPES, ids=ALL_IDS)
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)


def positions(shape, axis):
    return tuple(np.delete(shape, axis))


def mask_of(shape, axis, share=0.6, seed=11):
    """Some positions in the first samples; then whole samples that count, and one that does not."""
    shape = positions(shape, axis)
    mask = np.random.default_rng(seed).random(shape) < share
    if shape[0] > 3:
        mask[-2], mask[-1] = True, False
    mask.flat[:2] = True
    return mask


def weights_of(shape, axis, seed=12):
    """Fractions, zeros, ones and large numbers."""
    rng = np.random.default_rng(seed)
    shape = positions(shape, axis)
    weights = rng.choice([0.0, 0.25, 1.0, 1.0, 1.0, 3.0, 17.5], shape) * rng.choice([1.0, 0.37], shape)
    weights.flat[:2] = 2
    if shape[0] > 3:
        weights[-2] = 1
    return weights


def spoiled(x, mask, axis, value=np.nan):
    """x with another value at all masked positions."""
    return np.where(np.expand_dims(mask, axis), x, x.dtype.type(value))


def options_of(kind, shape, axis):
    """By name: a mask, weights of positions, of samples, both, and all options at once."""
    mask, weights = mask_of(shape, axis), weights_of(shape, axis)
    samples = np.arange(positions(shape, axis)[0]) % 4 + 0.5
    residual = filled(shape, axis, np.float64, seed=7)
    return {
        "mask": {"mask": mask},
        "weights": {"sample_weight": weights},
        "samples": {"sample_weight": samples},
        "both": {"mask": mask, "sample_weight": weights},
        "all": {
            "mask": mask,
            "sample_weight": samples,
            "residual": residual,
            "activation": "leaky_relu",
            "negative_slope": 0.3,
        },
        "relu": {"mask": mask, "residual": residual, "activation": "relu"},
    }[kind]


def typed(options, dtype):
    return {key: value.astype(dtype) if key == "residual" else value for key, value in options.items()}


@shapes
@dtypes
@pytest.mark.parametrize("kind", ["mask", "weights", "samples", "both", "all", "relu"])
def test_contract(shape, axis, dtype, kind):
    x = filled(shape, axis, dtype)
    turn = (len(kind) + len(shape) + np.dtype(dtype).itemsize) % len(cbn.available_isas())
    with cbn.use_isa(cbn.available_isas()[turn]):
        hold(x, axis, dy=gradient(x, axis, 0.5), **typed(options_of(kind, shape, axis), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, "float64-offset"])
@pytest.mark.parametrize("kind", ["mask", "both"])
@pytest.mark.parametrize("name", ["rows", "small-planes", "NHWC", "NC-folded"])
def test_distributions(name, distribution, kind, dtype):
    """Offsets of a million deviations and outliers among those that count; NaN at those that do not."""
    shape, axis = SHAPES[name]
    offset = 1e6 if distribution == "float64-offset" else 0
    x = filled(shape, axis, np.float64, "normal" if offset else distribution) + offset
    options = options_of(kind, shape, axis)
    x = spoiled(x, options["mask"], axis, np.nan).astype(dtype)
    hold(x, axis, 0.0 if distribution == "1e-37" else 1e-5, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 12, 40), 1), ((5, 33, 7, 7), 1), ((4, 8, 7, 6), -2)], ids=str)
def test_layouts(shape, axis, layout):
    x = LAYOUTS[layout](filled(shape, axis, F32), axis)
    options = typed(options_of("all", shape, axis), F32)
    hold(x, axis, **options)
    hold(x, axis, **{**options, "mask": np.asfortranarray(options["mask"])})


@shapes
@dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30], ids=str)
def test_what_is_masked_does_not_matter(shape, axis, dtype, value):
    """Not a bit of the statistics and gradients depends on x and dy there; dx and dresidual are 0."""
    x, dy = filled(shape, axis, dtype), gradient(filled(shape, axis, dtype), axis, 0.5)
    mask = mask_of(shape, axis)
    arguments = {"axis": axis, "mask": mask}
    with np.errstate(over="ignore"):
        other, other_dy = spoiled(x, mask, axis, value), spoiled(dy, mask, axis, value)
    y, *expected = cbn.batch_norm_forward(x, **arguments)
    other_y, *got = cbn.batch_norm_forward(other, **arguments)
    kept = np.broadcast_to(np.expand_dims(mask, axis), shape)
    np.testing.assert_array_equal(other_y[kept], y[kept])
    bend = {"activation": "relu", "residual": True}
    for training in (True, False):
        more = cbn.batch_norm_backward(dy, x, *expected, y=y, training=training, **bend, **arguments)
        other_more = cbn.batch_norm_backward(
            other_dy, other, *expected, y=other_y, training=training, **bend, **arguments
        )
        for a, b in zip([*got, *other_more], [*expected, *more], strict=True):
            np.testing.assert_array_equal(a, b)
        assert (other_more[0][~kept] == 0).all() and (other_more[3][~kept] == 0).all()


@shapes
@dtypes
@pytest.mark.parametrize("distribution", ["normal", "offset-1e3", "outlier-first"])
def test_a_mask_of_all_changes_no_bit_of_the_forward_pass(shape, axis, dtype, distribution):
    x = filled(shape, axis, np.float64, distribution)
    x = (np.clip(x, -6e4, 6e4) if dtype == np.float16 else x).astype(dtype)
    weight, bias = parameters(shape[axis], dtype)
    plain = cbn.batch_norm_forward(x, weight, bias, axis=axis)
    moments = cbn.moments(x, axis=axis)
    for mask in (np.ones(positions(shape, axis), bool), True, np.ones(1, bool)):
        masked = cbn.batch_norm_forward(x, weight, bias, axis=axis, mask=mask)
        for a, b in zip(masked, plain, strict=True):
            np.testing.assert_array_equal(a, b)
        got = cbn.moments(x, axis=axis, mask=mask)
        assert got.count == moments.count and type(got.count) is int
        np.testing.assert_array_equal(got.m2, moments.m2)
    for ones in (1, np.ones(positions(shape, axis)[0])):
        weighted = cbn.batch_norm_forward(x, weight, bias, axis=axis, sample_weight=ones)
        for a, b in zip(weighted, plain, strict=True):
            np.testing.assert_array_equal(a, b)


@dtypes
@pytest.mark.parametrize("shape", [(6, 5, 12, 41), (9, 33, 7, 7), (5, 40, 3), (2, 3, 400)], ids=str)
def test_a_mask_is_as_leaving_out(shape, dtype):
    """x[..., kept], where all samples keep the same places."""
    x, dy = filled(shape, 1, dtype, "offset-1e3"), filled(shape, 1, dtype, seed=5)
    kept = np.arange(shape[-1]) % 3 != 1
    y, mean, inv_std = cbn.batch_norm_forward(x, mask=kept)
    few_y, few_mean, few_inv_std = cbn.batch_norm_forward(np.ascontiguousarray(x[..., kept]))
    np.testing.assert_allclose(mean, few_mean, rtol=1e-12)
    np.testing.assert_allclose(inv_std, few_inv_std, rtol=1e-11)
    largest = np.abs(few_y.astype(float)).max()
    unit = {2: 2.0**-7, 4: 1e-6, 8: 1e-11}[x.dtype.itemsize]
    np.testing.assert_allclose(y[..., kept].astype(float), few_y.astype(float), atol=unit * largest, rtol=0)
    dx, *sums = cbn.batch_norm_backward(dy, x, mean, inv_std, mask=kept)
    few_dx, *few_sums = cbn.batch_norm_backward(dy[..., kept], x[..., kept], few_mean, few_inv_std)
    np.testing.assert_allclose(dx[..., kept].astype(float), few_dx.astype(float), atol=unit * 4, rtol=0)
    for a, b in zip(sums, few_sums, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-3 if dtype != np.float64 else 1e-9)


@shapes
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("distribution", ["normal", "offset-1e3"])
def test_integer_weights_are_repetitions(shape, axis, dtype, distribution):
    x = filled(shape, axis, dtype, distribution)
    times = np.random.default_rng(3).integers(0, 4, positions(shape, axis)[0])
    times[0] = 2
    samples = 1 if axis == 0 else 0
    got = cbn.moments(x, axis=axis, sample_weight=times)
    repeated = cbn.moments(np.repeat(x, times, axis=samples), axis=axis)
    assert got.count == repeated.count and type(got.count) is float
    std = np.sqrt(repeated.var())
    assert (np.abs(got.mean - repeated.mean) <= 1e-12 * (np.abs(repeated.mean) + std)).all()
    assert (np.abs(got.m2 - repeated.m2) <= 1e-12 * repeated.m2).all()


@dtypes
@pytest.mark.parametrize("name", ["rows", "cut-planes", "small-planes", "NHWC", "NC", "NC-wide"])
def test_bits(name, dtype):
    """Over instruction sets and threads."""
    shape, axis = SHAPES[name]
    x, dy = filled(shape, axis, dtype, "offset-1e3"), filled(shape, axis, dtype, seed=4)

    def everything(num_threads, kind):
        options = typed(options_of(kind, shape, axis), dtype)
        arguments = {"axis": axis, "num_threads": num_threads}
        y, mean, inv_std = cbn.batch_norm_forward(x, **arguments, **options)
        options["residual"] = True
        got = [cbn.batch_norm_backward(dy, x, mean, inv_std, y=y, training=t, **arguments, **options) for t in (1, 0)]
        return [np.ascontiguousarray(a).tobytes() for a in (y, mean, inv_std, *got[0], *got[1])]

    for kind in ("both", "all", "mask"):
        with cbn.use_isa("baseline"):
            expected = everything(1, kind)
        for isa in cbn.available_isas():
            with cbn.use_isa(isa):
                for num_threads in (1, 2, 5):
                    assert everything(num_threads, kind) == expected, (kind, isa, num_threads)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("constant", [0.1, -7.3, 1e8, 1e30])
@dtypes
@shapes
def test_a_channel_that_is_constant_where_it_counts_gives_the_bias(shape, axis, constant, eps, dtype):
    if dtype == np.float16 and constant > 6e4:
        return
    mask = mask_of(shape, axis)
    x = spoiled(np.full(shape, constant, dtype), mask, axis, 3)
    weight, bias = parameters(shape[axis], dtype)
    for more in ({}, {"sample_weight": weights_of(shape, axis)}):
        y, mean, inv_std = cbn.batch_norm_forward(x, weight, bias, eps, axis=axis, mask=mask, **more)
        kept = np.broadcast_to(np.expand_dims(mask, axis), shape)
        np.testing.assert_array_equal(y[kept], np.broadcast_to(spread(bias, x, axis), shape)[kept])
        np.testing.assert_array_equal(mean, np.full(shape[axis], np.asarray(constant, dtype).astype(float)))
        assert (inv_std == (0 if eps == 0 else 1 / np.sqrt(eps))).all()
