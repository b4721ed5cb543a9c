"""test_features: FeatureNormalizer against its definition in longdouble, in batches, with NaN, and what it refuses."""

import copy
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
import threads
from cases import (
    ALL_DTYPES,
    ALL_IDS,
    DISTRIBUTIONS,
    LAYOUTS,
    amplification,
    assert_within,
    assert_y,
    filled,
    half_unit,
    spread,
    statistics,
)

import cbn
from cbn import FeatureNormalizer

F32 = np.float32
SHAPES = [((300, 7), 1), ((40, 1025), 1), ((7, 300), 0), ((20, 3, 8), 1), ((20, 8, 3), -1), ((5, 4, 6, 6), 1)]


def with_nan(x, share=0.3, seed=5):
    x = x.copy()
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


def assert_moments(got, x, axis, weights=None, bound=1e-11):
    """Of each feature by itself: longdouble, without its NaN. weights are of x's shape."""
    by_feature = np.moveaxis(np.asarray(x), axis, 0).astype(np.longdouble)
    weights = np.ones(by_feature.shape) if weights is None else np.moveaxis(weights, axis, 0)
    counts = np.broadcast_to(got.count, got.mean.shape)
    for c, (values, weight) in enumerate(zip(by_feature, weights, strict=True)):
        kept = ~np.isnan(values)
        values, weight = values[kept], weight[kept].astype(np.longdouble)
        count = weight.sum()
        mean = (values * weight).sum() / (count or 1)
        m2 = (np.square(values - mean) * weight).sum()
        std = np.sqrt(m2 / (count or 1))
        assert abs(counts[c] - count) <= 1e-14 * count
        assert abs(got.mean[c] - mean) <= bound * (abs(mean) + std)
        assert abs(got.m2[c] - m2) <= bound * m2


def same(a, b):
    return a is b or all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("count", "mean", "m2"))


@pytest.mark.parametrize("distribution", [name for name in DISTRIBUTIONS if name != "1e37"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [F32, np.float64])
def test_transform_and_back(shape, axis, dtype, distribution):
    x = filled(shape, axis, dtype, distribution)
    normalizer = FeatureNormalizer(axis=axis).fit(x)
    _, mean, var, std = statistics(x, axis)
    assert_moments(normalizer.moments, x, axis)
    np.testing.assert_allclose(normalizer.var, var.astype(float), rtol=1e-11)
    np.testing.assert_allclose(normalizer.scale, std.astype(float), rtol=1e-11)
    factor = amplification(mean, std, dtype)
    y = normalizer.transform(x)
    assert y.dtype == dtype
    own_mean, own_scale = normalizer.mean.astype(np.longdouble), normalizer.scale.astype(np.longdouble)
    for center, scale in ((mean, std), (own_mean, own_scale)):
        assert_y(y, x, center, 1 / scale, None, None, axis, factor)

    back = normalizer.inverse_transform(y)
    scaled, center = y.astype(np.longdouble) * spread(own_scale, x, axis), spread(own_mean, x, axis)
    eps = 2.0**-52 if dtype == np.float64 else 2.0**-24
    assert_within(back, scaled + center, 4 * eps * (np.abs(scaled) + np.abs(center)))


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=ALL_IDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(layout, dtype):
    native = filled((50, 6), 1, dtype)
    x = LAYOUTS[layout](native, 1)
    normalizer = FeatureNormalizer()
    y = normalizer.fit_transform(x)
    _, mean, _, std = statistics(native, 1)
    assert y.dtype == dtype and y.shape == x.shape
    assert_y(y, native, mean, 1 / std, None, None, 1, amplification(mean, std, dtype))
    for other in (normalizer.transform(x), normalizer.transform(x, out=np.empty_like(native))):
        np.testing.assert_array_equal(other, y)
    back = normalizer.inverse_transform(y)
    assert back.dtype == dtype
    allowed = half_unit(native.astype(float), dtype) + 4 * half_unit(y.astype(float), dtype) * std
    assert_within(back, native.astype(np.longdouble), allowed + 1e-6 * (dtype != np.float64))


@pytest.mark.parametrize("call", ["transform", "inverse_transform"])
def test_fortran_order_is_kept_without_a_copy(call):
    x = np.asfortranarray(filled((90, 5), 1, F32))
    normalizer = FeatureNormalizer().fit(x)
    apply = getattr(normalizer, call)
    y = apply(np.ascontiguousarray(x))
    for out in (None, np.empty_like(x), np.empty(x.shape, F32), x):
        got = apply(x, out=out)
        assert out is None or got is out
        assert got.flags.f_contiguous == (out is None or out.flags.f_contiguous)
        np.testing.assert_array_equal(got, y)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [0, 0.3])
@pytest.mark.parametrize(("offset", "bound"), [("1e3", 1e-12), ("1e6", 1e-9)])
@pytest.mark.parametrize("dtype", [F32, np.float64])
def test_batches_add_up_to_the_whole(dtype, offset, bound, missing, weighted):
    rng = np.random.default_rng(0)
    x = with_nan(filled((700, 9), 1, dtype, f"offset-{offset}"), missing)
    weights = rng.choice([0, 0.5, 1, 3], 700) if weighted else None
    whole = FeatureNormalizer().fit(x, sample_weight=weights)
    batched = FeatureNormalizer()
    cuts = [0, 0, *range(1, 50), 51, 333, 700]
    for i, j in itertools.pairwise(cuts):
        batched.partial_fit(x[i:j], sample_weight=None if weights is None else weights[i:j])
    by_value = None if weights is None else np.tile(weights[:, None], 9)
    for normalizer, allowed in ((whole, 1e-11), (batched, max(bound, 1e-11))):
        assert_moments(normalizer.moments, x, 1, by_value, allowed)
    np.testing.assert_allclose(batched.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(batched.var, whole.var, rtol=bound)
    halves = [FeatureNormalizer().fit(part).moments for part in (x[:300], x[300:])]
    if not weighted:
        merged = FeatureNormalizer(moments=halves[0] + halves[1])
        np.testing.assert_allclose(merged.transform(x), whole.transform(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distribution", ["normal", "offset-1e6", "outlier-first", "cauchy", "two-clusters"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize(("shape", "axis"), [((150000, 1), 1), ((30000, 5), 1), ((500, 300), 1), ((2, 5, 20000), 1)])
def test_nan_costs_no_digits(shape, axis, share, distribution):
    """In one block of values and in many, also where hardly any are left."""
    x = with_nan(filled(shape, axis, np.float64, distribution), share)
    for c in range(shape[axis]):
        x[0, c].flat[:2] = filled((2, 1), 1, np.float64, distribution)[:, 0][: x[0, c].size]
    assert_moments(FeatureNormalizer(axis=axis).fit(x).moments, x, axis)


@pytest.mark.parametrize("number", [1000, 200000])
@pytest.mark.parametrize("light", [slice(0, 1), slice(0, 70000), slice(-1, None)], ids=["first", "first block", "last"])
@pytest.mark.parametrize(("outlier", "weight"), [(1e8, 1e-12), (1e16, 1e-50), (1e100, 1e-100), (1e180, 1e-100)])
def test_outliers_that_weigh_next_to_nothing(outlier, weight, light, number):
    """All digits of the others are kept."""
    x = with_nan(filled((number, 2), 1, np.float64), 0.1)
    weights = np.ones(number)
    weights[light] = weight
    x[light] *= outlier
    got = FeatureNormalizer().fit(x, sample_weight=weights).moments
    assert_moments(got, x, 1, np.tile(weights[:, None], 2))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("value", [0.1, -1e300, 1.7e308, 3e-300])
def test_equal_values_beside_nan_have_no_deviation(value, weighted):
    x = np.full((150000, 1), value)
    x[::3] = np.nan
    weights = np.random.default_rng(0).uniform(0.5, 2, len(x)) if weighted else None
    moments = FeatureNormalizer().fit(x, sample_weight=weights).moments
    assert moments.mean == value and moments.m2 == 0


def test_one_nan_does_not_copy_everything():
    x = np.ones((8, 64, 40, 40), F32)
    x[0, 5, 0, 0] = np.nan
    tracemalloc.start()
    try:
        FeatureNormalizer().fit(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=ALL_IDS)
def test_nan_in_some_features_only(dtype):
    x = filled((100, 4), 1, dtype)
    clean = FeatureNormalizer().fit(x)
    holes = x.copy()
    holes[3:7, 2] = np.nan
    normalizer = FeatureNormalizer().fit(holes)
    assert normalizer.moments.count.tolist() == [100, 100, 96, 100]
    others = [0, 1, 3]
    np.testing.assert_array_equal(normalizer.mean[others], clean.mean[others])
    np.testing.assert_array_equal(normalizer.var[others], clean.var[others])
    y = normalizer.transform(holes)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(holes))
    np.testing.assert_array_equal(np.isnan(normalizer.inverse_transform(y)), np.isnan(holes))


def test_weights_of_a_sample_that_is_left_out():
    """What a weight of 0 stands for never counts, be it NaN or infinite."""
    x = filled((20, 3), 1, np.float64)
    weights = np.ones(20)
    weights[4:6] = 0
    expected = FeatureNormalizer().fit(np.delete(x, [4, 5], axis=0))
    x[4], x[5, 0] = np.nan, np.inf
    for holes in (False, True):
        if holes:
            x[0, 1] = np.nan
            expected.fit(np.delete(x, [4, 5], axis=0))
        normalizer = FeatureNormalizer().fit(x, sample_weight=weights)
        np.testing.assert_allclose(normalizer.mean, expected.mean, rtol=1e-14)
        np.testing.assert_allclose(normalizer.var, expected.var, rtol=1e-14)


def test_weights_of_each_position():
    x = with_nan(filled((6, 3, 4), 1, np.float64))
    weights = np.random.default_rng(1).uniform(0.5, 2, (6, 4))
    got = FeatureNormalizer().fit(x, sample_weight=weights).moments
    assert_moments(got, x, 1, np.repeat(weights[:, None], 3, axis=1))
    last = FeatureNormalizer(axis=-1).fit(np.moveaxis(x, 1, -1), sample_weight=weights).moments
    np.testing.assert_allclose(last.mean, got.mean, rtol=1e-14)


@pytest.mark.parametrize("constant", [0, 1e8, 0.1, -3.7e-5, 1e30])
@pytest.mark.parametrize("dtype", [F32, np.float64])
@pytest.mark.parametrize("missing", [False, True])
def test_constant_features(dtype, constant, missing):
    x = np.full((1001, 2), constant, dtype)
    x[:, 1] = np.arange(1001)
    if missing:
        x[5:17] = np.nan
    normalizer = FeatureNormalizer()
    for part in np.array_split(x, 7):
        normalizer.partial_fit(part)
    assert normalizer.var[0] == 0 and normalizer.scale[0] == 1
    y = normalizer.transform(x)
    kept = ~np.isnan(x[:, 0])
    assert (y[kept, 0] == 0).all()
    assert (normalizer.inverse_transform(y)[kept, 0] == dtype(constant)).all()


@pytest.mark.parametrize(("deviation", "is_constant"), [(1e-16, True), (1e-15, True), (4e-15, False), (1e-10, False)])
@pytest.mark.parametrize("number", [10, 10000])
def test_deviations_that_are_rounding(deviation, is_constant, number):
    """For any number of samples, and any weights."""
    x = np.where(np.arange(number) % 2, 1 + deviation, 1 - deviation)[:, None]
    for weight in (None, np.full(number, 1e20)):
        normalizer = FeatureNormalizer().fit(x, sample_weight=weight)
        assert (normalizer.scale[0] == 1) == is_constant
        assert 0 < normalizer.var[0] < 2e-20
        if is_constant:
            y = normalizer.transform(x)
            np.testing.assert_array_equal(y, x - normalizer.mean)
            np.testing.assert_array_equal(normalizer.inverse_transform(y), x)


def test_squares_that_float64_cannot_hold():
    """The smallest deviations are lost."""
    tiny = np.array([[-1e-170], [1e-170]])
    assert FeatureNormalizer().fit(tiny).scale == 1
    small = np.array([[-1e-150], [1e-150]])
    np.testing.assert_allclose(FeatureNormalizer().fit_transform(small), [[-1], [1]], rtol=1e-12)


def test_one_sample_and_features_without_values():
    normalizer = FeatureNormalizer().fit([[3.0, np.nan]])
    assert normalizer.moments.count.tolist() == [1, 0]
    assert normalizer.mean[0] == 3 and normalizer.scale[0] == 1
    for name in ("mean", "var", "scale"):
        assert np.isnan(getattr(normalizer, name)[1])
    for options in ({}, {"with_mean": False}, {"with_std": False}):
        y = FeatureNormalizer(moments=normalizer.moments, **options).transform([[4.0, 5.0]])
        assert y[0, 0] == (4 if "with_mean" in options else 1) and np.isnan(y[0, 1])
    normalizer.partial_fit([[5.0, 7.0]])  # and then it has some
    np.testing.assert_array_equal(normalizer.transform([[5.0, 7.0]]), [[1, 0]])


@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("with_std", [False, True])
def test_one_half_only(with_mean, with_std):
    x = filled((30, 3), 1, np.float64, "offset-1e3")
    normalizer = FeatureNormalizer(with_mean=with_mean, with_std=with_std)
    y = normalizer.fit_transform(x)
    mean, std = x.mean(axis=0) * with_mean, x.std(axis=0) if with_std else 1
    np.testing.assert_allclose(y, (x - mean) / std, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(normalizer.inverse_transform(y), x, rtol=1e-14)
    np.testing.assert_allclose(normalizer.mean, x.mean(axis=0))
    np.testing.assert_allclose(normalizer.scale, std)


def test_propagate():
    x = filled((30, 4), 1, np.float64)
    expected = FeatureNormalizer().fit_transform(x)
    x[1, 0], x[2, 2] = np.nan, np.inf
    normalizer = FeatureNormalizer(nan="propagate")
    y = normalizer.fit_transform(x)
    assert np.isnan(y[:, [0, 2]]).all() and np.isnan(normalizer.mean[[0, 2]]).all()
    np.testing.assert_array_equal(y[:, [1, 3]], expected[:, [1, 3]])
    assert normalizer.moments.count == 30


def test_statistics_that_are_not_finite_need_propagate():
    """Which a normalizer gets only by `moments`. It is not said of x then."""
    for given, text in (
        (cbn.Moments(3, [0.0, np.nan], [0.0, np.nan]), "got nan in feature 1"),
        (cbn.Moments(3, [0.0, 0.0], [np.inf, 0.0]), "got inf in feature 0"),
    ):
        for policy in ("skip", "raise"):
            with pytest.raises(ValueError, match=f"moments must be finite unless nan='propagate'; {text}"):
                FeatureNormalizer(nan=policy, moments=given)
        assert np.isnan(FeatureNormalizer(nan="propagate", moments=given).transform([[1.0, 1.0]])).any() == (
            "nan" in text
        )


def bad_input():
    x = filled((5, 3), 1, F32)
    infinite, missing, huge = x.copy(), x.copy(), x.astype(np.float64)
    infinite[0, 1], infinite[2, 2], missing[1, 2] = -np.inf, np.nan, np.nan
    huge[:2, 2] = 1e200, -1e200
    kind = "x must be float32, float64, float16 or bfloat16; got"
    yield "infinite", {}, infinite, {}, ValueError, "x must be finite; got an infinite value in feature 1"
    yield "infinite raise", {"nan": "raise"}, infinite, {}, ValueError, "got an infinite value in feature 1"
    yield "nan", {"nan": "raise"}, missing, {}, ValueError, "x must have no NaN; got one in feature 2"
    yield (
        "huge",
        {},
        huge,
        {},
        ValueError,
        "x must have a variance that float64 can hold; got a larger one in feature 2",
    )
    holes = np.where(np.arange(15).reshape(5, 3) == 14, np.nan, huge)
    yield "huge beside NaN", {}, holes, {}, ValueError, "x must have a variance that float64 can hold; .* feature 2"
    light = {"sample_weight": [1, 1, 0, 1, 1]}
    holes = np.where(np.arange(15).reshape(5, 3) == 6, np.inf, huge)
    yield "huge, infinite", {}, holes, light, ValueError, "x must have a variance that float64 can hold; .* feature 2"
    yield "infinite, weights", {}, infinite, light, ValueError, "x must be finite; got an infinite value in feature 1"
    yield "rank", {}, x[0], {}, ValueError, r"x must have rank 2 or more; got shape \(3,\)"
    yield "scalar", {}, 3.0, {}, ValueError, "x must have rank 2 or more"
    yield "features", {}, x[:, :2], {}, ValueError, "x must have 3 features on axis 1; got 2"
    yield "empty, features", {}, x[:0, :2], {}, ValueError, "x must have 3 features on axis 1; got 2"
    yield "integers", {}, x.astype(int), {}, TypeError, rf"{kind} int64: cast it, for example with x.astype"
    yield "images", {}, x.astype(np.uint8), {}, TypeError, f"{kind} uint8"
    yield "bool", {}, x > 0, {}, TypeError, f"{kind} bool"
    yield "complex", {}, x * 1j, {}, TypeError, f"{kind} complex64"
    yield "objects", {}, x.astype(object), {}, TypeError, f"{kind} object"
    yield "texts", {}, [["a", "b", "c"]], {}, TypeError, f"{kind} <U1"
    yield "masked", {}, np.ma.masked_array(x), {}, TypeError, "x must be an array without a mask"
    yield "negative", {}, x, {"sample_weight": [1, 1, -1, 1, 1]}, ValueError, "sample_weight must be 0 or lie between"
    shape = r"sample_weight must have shape \(5,\), one per sample; got \(3,\)"
    yield "number", {}, x, {"sample_weight": np.ones(3)}, ValueError, shape
    yield "nan weight", {}, x, {"sample_weight": np.full(5, np.nan)}, ValueError, "sample_weight must be 0 or lie"
    yield "text", {}, x, {"sample_weight": "abcde"}, TypeError, "sample_weight must be an array of real numbers"


BAD = list(bad_input())


@pytest.mark.parametrize(
    ("options", "x", "arguments", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_input_changes_nothing(options, x, arguments, error, message):
    normalizer = FeatureNormalizer(**options).fit(filled((4, 3), 1, F32))
    before, line = normalizer.moments, normalizer.transform(np.ones((1, 3)))
    methods = [normalizer.partial_fit] if "features" in message else [normalizer.partial_fit, normalizer.fit]
    methods += [normalizer.fit_transform] if len(methods) == 2 else []
    for method in methods:
        with pytest.raises(error, match=message):
            method(x, **arguments)
    assert same(normalizer.moments, before)
    np.testing.assert_array_equal(normalizer.transform(np.ones((1, 3))), line)


@pytest.mark.parametrize("call", ["transform", "inverse_transform"])
def test_bad_input_of_transform(call):
    x = filled((6, 3), 1, F32)
    apply = getattr(FeatureNormalizer().fit(x), call)
    big = np.zeros(40, F32)
    fixed = np.zeros((6, 3), F32)
    fixed.flags.writeable = False
    for argument, out, error, message in (
        (x[:, :2], None, ValueError, "x must have 3 features on axis 1; got 2"),
        (x[0], None, ValueError, "x must have rank 2 or more"),
        (x.astype(np.uint8), None, TypeError, "x must be float32"),
        (x.astype(object), None, TypeError, "x must be float32"),
        (np.ma.masked_array(x), None, TypeError, "x must be an array without a mask"),
        (x, np.empty((6, 3)), TypeError, "out must have dtype float32, as x has; got float64"),
        (x, np.empty((3, 6), F32), ValueError, r"out must have shape \(6, 3\), as x has; got \(3, 6\)"),
        (x, np.empty((6, 3), F32, order="F"), ValueError, "out must be an aligned array in C order"),
        (np.asfortranarray(x), np.empty((5, 3), F32, order="F"), ValueError, r"out must have shape \(6, 3\)"),
        (x, fixed, ValueError, "out must be writeable; got a read-only array"),
        (x, [[0.0] * 3] * 6, TypeError, "out must be a NumPy array without a mask; got list"),
        (big[:18].reshape(6, 3), big[3:21].reshape(6, 3), ValueError, "out must be x itself or share no memory"),
    ):
        with pytest.raises(error, match=message):
            apply(argument, out=out)
    assert not big.any()
    y = apply(x)
    x.flags.writeable = False
    np.testing.assert_array_equal(apply(x), y)
    x = x.copy()
    assert apply(x, out=x) is x
    np.testing.assert_array_equal(x, y)


def test_a_wrong_out_leaves_fit_transform_undone():
    normalizer = FeatureNormalizer().fit([[1.0], [2.0]])
    with pytest.raises(ValueError, match="out must have shape"):
        normalizer.fit_transform([[5.0], [7.0]], out=np.empty((3, 1)))
    assert normalizer.mean == 1.5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nan": "ignore"}, ValueError, "nan must be 'skip', 'raise' or 'propagate'; got 'ignore'"),
        ({"nan": ["skip"]}, ValueError, "nan must be 'skip', 'raise' or 'propagate'; got"),
        ({"nan": np.array(["skip", "raise"])}, ValueError, "nan must be 'skip', 'raise' or 'propagate'; got"),
        ({"axis": 1.0}, TypeError, "axis must be an integer; got float"),
        ({"with_mean": "no"}, TypeError, "with_mean must be True or False; got str"),
        ({"with_std": None}, TypeError, "with_std must be True or False; got NoneType"),
        ({"moments": {}}, TypeError, "moments must be a Moments; got dict"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        FeatureNormalizer(**options)
    with pytest.raises(ValueError, match="axis must lie between -2 and 1 for x of rank 2; got 2"):
        FeatureNormalizer(axis=2).fit(np.ones((2, 2)))
    for name in ("nan", "mean"):  # rather than to no effect
        with pytest.raises(AttributeError):
            setattr(FeatureNormalizer(), name, "raise")


def test_before_the_first_data():
    """And after none at all."""
    normalizer = FeatureNormalizer()
    for _ in range(2):
        assert normalizer.moments is None and repr(normalizer).endswith("not fitted")
        for wanted in ("mean", "var", "scale"):
            with pytest.raises(RuntimeError, match=f"must have seen data before {wanted}; got none yet"):
                getattr(normalizer, wanted)
        for wanted in ("transform", "inverse_transform"):
            with pytest.raises(RuntimeError, match=f"must have seen data before {wanted}; got none yet"):
                getattr(normalizer, wanted)([[1.0]])
        assert normalizer.partial_fit(np.ones((0, 3))) is normalizer
        normalizer.partial_fit(np.ones((2, 3)), sample_weight=[0, 0])
        normalizer.fit(np.ones((4, 0, 3)).reshape(0, 4))
    with pytest.raises(RuntimeError, match="must have seen data before transform"):
        normalizer.fit_transform(np.ones((0, 3)))
    normalizer.fit([[1.0], [3.0]])
    assert normalizer.partial_fit(np.ones((0, 1))).mean == 2
    assert normalizer.transform(np.ones((0, 1))).shape == (0, 1)
    assert normalizer.fit(np.ones((3, 0))).transform(np.ones((2, 0))).shape == (2, 0)


def test_what_is_handed_out_is_a_copy():
    given = cbn.Moments(2, [1.0], [2.0])
    normalizer = FeatureNormalizer(moments=given)
    given.mean[...] = 7
    for array in (normalizer.moments.mean, normalizer.mean, normalizer.var, normalizer.scale):
        array[...] = 9
    assert (normalizer.mean, normalizer.var, normalizer.scale, normalizer.moments.m2) == (1, 1, 1, 2)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies(duplicate):
    normalizer = FeatureNormalizer(axis=0, nan="propagate").fit(filled((3, 20), 0, F32))
    other = duplicate(normalizer)
    assert repr(other) == repr(normalizer) and same(other.moments, normalizer.moments)
    other.partial_fit(np.ones((3, 5)))
    assert normalizer.moments.count == 20 and other.moments.count == 25


def test_no_data_are_lost_between_threads():
    normalizer = FeatureNormalizer()
    parts = np.random.default_rng(0).standard_normal((4, 300, 5, 3))

    def work(batches):
        for x in batches:
            normalizer.partial_fit(x)

    threads.run(work, [(batches,) for batches in parts])
    assert_moments(normalizer.moments, parts.reshape(-1, 3), 1)


@pytest.mark.parametrize("missing", [0, 0.2])
def test_the_same_bits_for_any_number_of_threads(isa, missing):
    x = with_nan(filled((20000, 13), 1, F32, "cauchy"), missing)
    results = []
    for number in (1, 2, 3):
        with cbn.num_threads(number):
            normalizer = FeatureNormalizer().fit(x)
            y = normalizer.transform(x)
            results.append([normalizer.mean, normalizer.var, y, normalizer.inverse_transform(y)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
