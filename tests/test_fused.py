"""test_fused: a residual and an activation in the passes over memory of the normalization."""

import numpy as np
import pytest
from cases import (
    ALL_DTYPES,
    ALL_IDS,
    DTYPES,
    LAYOUTS,
    SHAPE_IDS,
    SHAPES,
    filled,
    gradient,
    parameters,
    spread,
    statistics,
)
from holds import hold, hold_backward
from test_bits import at_offset

import cbn
from cbn import reference

F32 = np.float32
BENDS = {
    "none": {},
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.2},
}
ROWS, COLUMNS = ((6, 5, 12, 41), 1), ((6, 31, 3, 5), -1)
bends = pytest.mark.parametrize("bend", BENDS)
dtypes = pytest.mark.parametrize("dtype", ALL_DTYPES, ids=ALL_IDS)
kinds = pytest.mark.parametrize(("shape", "axis"), [ROWS, ((6, 33, 7, 7), 1), COLUMNS], ids=["rows", "small", "NHWC"])


def residual_of(x, axis, scale=1.0):
    return (filled(x.shape, axis, np.float64, seed=7) * scale).astype(x.dtype)


@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=SHAPE_IDS)
@pytest.mark.parametrize("number", range(len(ALL_DTYPES)), ids=ALL_IDS)
def test_shapes(shape, axis, number):
    """Each dtype with each shape, with the instruction sets and activations in turn."""
    x = filled(shape, axis, ALL_DTYPES[number])
    for turn, bend in enumerate(("relu", "leaky")):
        with cbn.use_isa(cbn.available_isas()[(number + turn + len(shape)) % len(cbn.available_isas())]):
            hold(x, axis, residual=residual_of(x, axis), **BENDS[bend])


@kinds
@dtypes
@bends
def test_options(shape, axis, dtype, bend, isa):
    x = filled(shape, axis, dtype)
    hold(x, axis, dy=gradient(x, axis, 3), **BENDS[bend])
    hold(x, axis, residual=residual_of(x, axis, 100), **BENDS[bend])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", ["C", "channels_last", "F", "reversed", "misaligned"])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 12, 40), 1), ((5, 33, 7, 7), 1), ((3, 8, 7, 6), -2)], ids=str)
def test_layouts(shape, axis, layout, residual_layout):
    """Of x, of the residual, of dy and of y, which need not be the same."""
    x, r, dy = filled(shape, axis, F32), filled(shape, axis, F32, seed=7), filled(shape, axis, F32, seed=2)
    bend = BENDS["leaky"]
    expected = cbn.batch_norm_forward(x, axis=axis, residual=r, **bend)
    got = cbn.batch_norm_forward(
        LAYOUTS[layout](x, axis), axis=axis, residual=LAYOUTS[residual_layout](r, axis), **bend
    )
    np.testing.assert_allclose(got[0], expected[0], atol=1e-5)
    gradients = cbn.batch_norm_backward(dy, x, *expected[1:], axis=axis, y=expected[0], residual=True, **bend)
    arranged = [LAYOUTS[residual_layout](dy, axis), LAYOUTS[layout](x, axis)]
    y = LAYOUTS[residual_layout](expected[0], axis)
    again = cbn.batch_norm_backward(*arranged, *expected[1:], axis=axis, y=y, residual=True, **bend)
    for a, b in zip(again, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))
    assert again[0].strides == again[3].strides == got[0].strides


@kinds
@dtypes
@bends
@pytest.mark.parametrize("strength", [0.0, 1.0, 10.0])
def test_backward_with_fixed_statistics(shape, axis, dtype, bend, strength):
    x = filled(shape, axis, dtype)
    dy, bend = gradient(x, axis, strength), BENDS[bend]
    weight, _ = parameters(shape[axis], dtype)
    _, mean, var, _ = statistics(x, axis)
    fixed = (mean.astype(np.float64), reference._inverse_std(var, 1e-3).astype(np.float64))
    y = cbn.batch_norm(x, *fixed, axis=axis, **bend)
    factor = np.ones(shape[axis])
    hold_backward(dy, x, x, fixed, fixed, weight, axis, factor, y, bend, training=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("distribution", ["offset-1e3", "outlier-first", "lognormal", "1e30", "1e-37", "two-clusters"])
@pytest.mark.parametrize(("shape", "axis"), [ROWS, COLUMNS], ids=["rows", "NHWC"])
def test_distributions(shape, axis, distribution, dtype):
    """Of x, of the residual, and of both."""
    plain, odd = filled(shape, axis, dtype), filled(shape, axis, dtype, distribution, seed=3)
    for bend in ("relu", "leaky"):
        hold(odd, axis, residual=plain, **BENDS[bend])
        hold(plain, axis, residual=odd, **BENDS[bend])


@dtypes
@bends
def test_in_place(dtype, bend, isa):
    """out may be x or the residual; in backward dy, x or y, next to a dresidual of its own."""
    for shape, axis in (ROWS, COLUMNS, ((3, 4, 9, 7, 7), 1)):
        x = filled(shape, axis, dtype)
        r, dy = residual_of(x, axis), gradient(x, axis, 0.3)
        arguments = {"axis": axis, **BENDS[bend]}
        y, mean, inv_std = cbn.batch_norm_forward(x, residual=r, **arguments)
        for target in (0, 1):
            copies = [x.copy(), r.copy()]
            out = copies[target]
            got = cbn.batch_norm_forward(copies[0], residual=copies[1], out=out, **arguments)
            assert got[0] is out
            np.testing.assert_array_equal(out, y)
        same = x.copy()
        both = cbn.batch_norm_forward(same, residual=same, out=same, **arguments)[0]
        np.testing.assert_array_equal(both, cbn.batch_norm_forward(x, residual=x.copy(), **arguments)[0])
        expected = cbn.batch_norm_backward(dy, x, mean, inv_std, y=y, residual=True, **arguments)
        for target in (0, 1) if bend == "none" else (0, 1, 2):
            copies = [dy.copy(), x.copy(), y.copy()]
            pair = copies[target], np.empty_like(x)
            got = cbn.batch_norm_backward(*copies[:2], mean, inv_std, y=copies[2], residual=True, out=pair, **arguments)
            assert got[0] is pair[0] and got[3] is pair[1]
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b)


@kinds
@dtypes
def test_a_residual_without_activation_gets_dy(shape, axis, dtype):
    x, dy = filled(shape, axis, dtype), filled(shape, axis, dtype, seed=3)
    dy.flat[5] = np.nan
    _, mean, inv_std = cbn.batch_norm_forward(x, axis=axis)
    for training in (True, False):
        plain = cbn.batch_norm_backward(dy, x, mean, inv_std, axis=axis, training=training)
        got = cbn.batch_norm_backward(dy, x, mean, inv_std, axis=axis, training=training, residual=True)
        assert got[3] is not dy and not np.shares_memory(got[3], dy)
        np.testing.assert_array_equal(got[3].astype(float), dy.astype(float))
        for a, b in zip(got[1:3], plain[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        if training:
            np.testing.assert_array_equal(got[0].astype(float), plain[0].astype(float))


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0])


@dtypes
@pytest.mark.parametrize("inner", [1, 3, 35], ids=str)
def test_special_values_pass_the_activation(inner, dtype, isa):
    """NaN stays NaN, infinities become what max and the slope make of them: of x, in inference, and of the residual."""
    v = np.broadcast_to(SPECIAL[:, None, None], (7, 5, inner)).astype(dtype)
    zeros, ones = np.zeros(5), np.ones(5)
    with np.errstate(invalid="ignore"):
        wide = v.astype(np.float64)
        wanted = {"none": wide, "relu": np.maximum(wide, 0), "leaky": np.where(wide > 0, wide, 0.2 * wide)}
    for bend, value in wanted.items():
        for a, b in ((v, None), (np.zeros_like(v), v)):
            got = cbn.batch_norm(a, zeros, ones, eps=0, residual=b, **BENDS[bend]).astype(np.float64)
            np.testing.assert_allclose(got, value, rtol=1e-2)


@dtypes
@pytest.mark.parametrize("training", [True, False], ids=["batch", "fixed"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@kinds
def test_a_bad_dy_counts_only_where_it_passes(shape, axis, bad, training, dtype, isa):
    """relu takes it away altogether where y <= 0, and elsewhere its channel is lost, and no other."""
    x, dy = filled(shape, axis, dtype), filled(shape, axis, dtype, seed=2)
    y, mean, inv_std = cbn.batch_norm_forward(x, axis=axis, activation="relu")
    arguments = {"axis": axis, "training": training, "activation": "relu", "y": y, "residual": True}
    expected = cbn.batch_norm_backward(np.where(y > 0, dy, dy.dtype.type(0)), x, mean, inv_std, **arguments)
    got = cbn.batch_norm_backward(np.where(y > 0, dy, dy.dtype.type(bad)), x, mean, inv_std, **arguments)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    channel = np.moveaxis(dy, axis, 0)[1]
    channel[np.moveaxis(y, axis, 0)[1] > 0] = bad
    got = cbn.batch_norm_backward(dy, x, mean, inv_std, **arguments)
    others = np.arange(shape[axis]) != 1
    for a, b, along in zip(got, expected, (axis, 0, 0, axis), strict=True):
        kept = np.moveaxis(a, along, 0)
        np.testing.assert_array_equal(kept[others], np.moveaxis(b, along, 0)[others])
        assert not np.isfinite(kept[1].astype(float)).all()


def test_nan_in_y_lets_dy_pass():
    """As in the oracle: only y <= 0 stops it."""
    x, y = filled((4, 3), 1, F32), np.full((4, 3), np.nan, F32)
    got = cbn.batch_norm_backward(x, x, np.zeros(3), np.ones(3), activation="relu", y=y, residual=True)
    np.testing.assert_array_equal(got[3], x)


BIT_SHAPES = {
    "rows": ((4, 3, 120, 131), 1),
    "one-large-image": ((1, 2, 300, 501), 1),
    "small-planes": ((13, 130, 7, 7), 1),
    "NHWC-narrow": ((9, 90, 91, 3), -1),
    "NHWC-wide": ((3, 5, 7, 1100), -1),
    "NC": ((700, 129), 1),
}


def everything(x, r, dy, axis, num_threads, offset=None, kinds=tuple(BENDS)):
    """All results that an activation or a residual has a part in; with an offset dresidual begins elsewhere than dx."""
    weight, bias = parameters(x.shape[axis], x.dtype)
    running = np.zeros(x.shape[axis], F32), np.ones(x.shape[axis], F32)
    results = []
    for bend in kinds:
        arguments = {"axis": axis, "num_threads": num_threads, **BENDS[bend]}
        y, mean, inv_std = cbn.batch_norm_forward(x, weight, bias, residual=r, **arguments)
        results += [y, cbn.batch_norm(x, *running, weight, bias, residual=r, **arguments)]
        for training in (True, False):
            out = None if offset is None else (at_offset(x, 0), at_offset(x, offset))
            results += cbn.batch_norm_backward(
                dy, x, mean, inv_std, weight, training=training, y=y, residual=True, out=out, **arguments
            )
    return [np.ascontiguousarray(a).tobytes() for a in results]


@dtypes
@pytest.mark.parametrize("name", BIT_SHAPES)
def test_bits(name, dtype):
    """Over instruction sets, threads and alignment."""
    shape, axis = BIT_SHAPES[name]
    x = filled(shape, axis, dtype)
    r, dy = residual_of(x, axis), gradient(x, axis, 0.3)
    with cbn.use_isa("baseline"):
        expected = everything(x, r, dy, axis, 1)
    for turn, isa in enumerate(cbn.available_isas()):
        with cbn.use_isa(isa):
            assert everything(x, r, dy, axis, 2 + turn) == expected, isa
            assert everything(at_offset(x, 1), at_offset(r, 3), at_offset(dy, 5), axis, 3, turn + 1) == expected, isa


@pytest.fixture(scope="module")
def large():
    """So large that the outputs are streamed past the caches."""
    x = filled((3, 5, 600, 601), 1, F32)
    return x, x[::-1].copy(), gradient(x, 1, 0.3)


def test_bits_of_large_arrays(large):
    expected = everything(*large, 1, 1, kinds=["relu"])
    for offset, isa in enumerate(cbn.available_isas()):
        with cbn.use_isa(isa):
            assert everything(*large, 1, 2, offset, ["relu"]) == expected, isa


def test_large_arrays_are_as_small_ones(large, isa):
    """With fixed statistics each sample is as if alone, and not streamed."""
    x, r, dy = large
    weight, bias = parameters(5, F32)
    fixed, bend = (bias / 2, weight**2 + 1), BENDS["leaky"]
    y = cbn.batch_norm(x, *fixed, weight, bias, residual=r, **bend)
    out = np.empty_like(x), at_offset(x, 3)
    got = cbn.batch_norm_backward(dy, x, *fixed, weight, training=False, residual=True, y=y, out=out, **bend)
    for n in range(3):
        one = cbn.batch_norm(x[n:][:1], *fixed, weight, bias, residual=r[n:][:1], **bend)
        np.testing.assert_array_equal(y[n:][:1], one)
        alone = cbn.batch_norm_backward(
            dy[n:][:1], x[n:][:1], *fixed, weight, training=False, residual=True, y=one, **bend
        )
        for k in (0, 3):
            np.testing.assert_array_equal(got[k][n:][:1], alone[k])


def test_a_wide_channel_does_not_change_its_neighbours():
    """A channel that needs doubles, with all that follows the normalization."""
    for shape in ((60, 20), (5, 20, 4), (5, 20, 7, 7), (2, 20, 14, 14)):
        x, weight = filled(shape, 1, F32), np.ones(20, F32)
        arguments = {"training": True, "residual": residual_of(x, 1), **BENDS["leaky"]}
        plain = cbn.batch_norm(x, weight=weight, **arguments)
        weight[3] = 1e35
        mixed = cbn.batch_norm(x, weight=weight, **arguments)
        others = np.arange(20) != 3
        np.testing.assert_array_equal(mixed[:, others], plain[:, others])
        exact = reference.batch_norm(x, weight=weight, **arguments)
        np.testing.assert_allclose(mixed[:, 3], exact[:, 3], rtol=1e-6)
        assert spread(weight, x, 1).max() > 1e34
