"""test_moments: merging parts, updates, dicts, and properties that hold for any data."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cbn

values = st.floats(-1e6, 1e6, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9), elements=values)


def assert_close(a, b, count):
    std = np.sqrt(b.m2 / max(count, 1))
    assert a.count == b.count
    assert (np.abs(a.mean - b.mean) <= 1e-12 * (np.abs(b.mean) + std)).all()
    # a variance is known to 1e-12 of itself, but never better than the rounding of the means that it is about
    rounding = 2e-16 * np.abs(b.mean) * np.sqrt(count * b.m2) + count * np.square(1e-15 * np.abs(b.mean)) + 1e-30
    assert (np.abs(a.m2 - b.m2) <= 1e-12 * b.m2 + rounding).all()


@given(arrays, st.data())
@settings(deadline=None, max_examples=200)
def test_parts_merge_to_the_whole(x, data):
    cut = data.draw(st.integers(0, x.shape[0]))
    whole = cbn.moments(x)
    count = whole.count
    a, b = cbn.moments(x[:cut]), cbn.moments(x[cut:])
    assert_close(a + b, whole, count)
    assert_close(b + a, whole, count)
    a.merge(b)
    assert_close(a, whole, count)
    running = cbn.Moments(0, np.zeros(x.shape[1]), np.zeros(x.shape[1]))
    for sample in x:
        running.update(sample[None])
    assert_close(running, whole, count)


@given(arrays)
@settings(deadline=None, max_examples=200)
def test_layouts_agree(x):
    expected = cbn.moments(x)
    moved = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    assert_close(cbn.moments(moved, axis=-1), expected, expected.count)
    assert_close(cbn.moments(x[::-1]), expected, expected.count)


normal = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9),
    elements=st.integers(-(2**20), 2**20).map(lambda n: np.float32(n / 64)),
)


@given(normal, st.sampled_from([0.25, 2.0, 1024.0]))
@settings(deadline=None, max_examples=200)
def test_output_properties(x, scale):
    """y has mean 0; scaling x by a power of two and eps by its square changes no bit; dx sums to 0."""
    if x.size // x.shape[1] < 2:
        return
    y, mean, inv_std = cbn.batch_norm_forward(x, eps=1e-3)
    count = x.size // x.shape[1]
    rest = tuple(d for d in range(x.ndim) if d != 1)
    assert (np.abs(y.astype(np.float64).sum(axis=rest)) <= 1e-6 * count * np.abs(y).max(axis=rest) + 1e-6).all()
    scaled, _, _ = cbn.batch_norm_forward(x * np.float32(scale), eps=1e-3 * scale**2)
    np.testing.assert_array_equal(scaled, y)
    dy = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    dx = cbn.batch_norm_backward(dy, x, mean, inv_std)[0].astype(np.float64)
    assert (np.abs(dx.sum(axis=rest)) <= 1e-6 * count * np.abs(dx).max(axis=rest) + 1e-30).all()


def assert_rest(rest, exact, whole, part, own=0.0):
    """Within what the docstring promises; `own` is how far whole and part are off, beyond a few roundings."""
    assert rest.count == exact.count
    std = [np.sqrt(m.m2 / np.maximum(m.count, 1)) for m in (whole, part)]
    scale = np.maximum(np.abs(whole.mean) + std[0], np.abs(part.mean) + std[1])
    off = 1e-15 * scale * whole.count / np.maximum(rest.count, 1)
    assert (np.abs(rest.mean - exact.mean) <= off).all()
    bound = off * (np.sqrt(whole.count * whole.m2) + off * whole.count) + own * (whole.m2 + part.m2)
    assert (np.abs(rest.m2 - exact.m2) <= bound).all()


@given(arrays, st.data())
@settings(deadline=None, max_examples=300)
def test_what_was_added_is_taken_away(x, data):
    cut = data.draw(st.integers(0, x.shape[0]))
    a, b = cbn.moments(x[:cut]), cbn.moments(x[cut:])
    whole = a + b
    own = 1e-12  # where one value is far from all others
    assert_rest(whole - b, a, whole, b, own)
    assert_rest(whole - a, b, whole, a, own)
    assert_rest(cbn.moments(x) - a, b, whole, a, own)
    assert whole.count == x.size // x.shape[1] and a.count + b.count == whole.count
    nothing = whole - whole
    assert (nothing.count, nothing.mean.any(), nothing.m2.any()) == (0, False, False)
    same = whole - cbn.Moments(0, 0 * a.mean, 0 * a.m2)
    assert same.count == whole.count
    np.testing.assert_array_equal([same.mean, same.m2], [whole.mean, whole.m2])


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("left", [1, 2, 50, 9000])
def test_the_rest_of_many(offset, left):
    """Against the moments of what is left, in extended precision."""
    x = np.random.default_rng(left).standard_normal((10_000, 3)) + offset
    whole, part, wide = cbn.moments(x), cbn.moments(x[left:]), x[:left].astype(np.longdouble)
    mean = wide.mean(axis=0)
    exact = cbn.Moments(left, mean, np.square(wide - mean).sum(axis=0))
    assert_rest(whole - part, exact, whole, part)
    assert left > 1 or not (whole - part).m2.any()


def test_a_window_that_slides():
    """Over a thousand batches, each added and taken away again."""
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((rng.integers(1, 40), 4)) + 10 for _ in range(1000)]
    window = cbn.moments(batches[0])
    for number, batch in enumerate(batches[1:], 1):
        window.merge(cbn.moments(batch))
        if number >= 5:
            window -= cbn.moments(batches[number - 5])
    exact = cbn.moments(np.concatenate(batches[-5:]))
    assert window.count == exact.count
    np.testing.assert_allclose(window.mean, exact.mean, rtol=1e-13)
    np.testing.assert_allclose(window.m2, exact.m2, rtol=1e-11)


@pytest.mark.parametrize("outlier", [1e10, 1e160, np.inf, np.nan])
def test_an_outlier_passes_through_a_window(outlier):
    """A sum of the parts forgets it; a window that subtracts does not, and says so or is not finite."""
    batches = np.random.default_rng(0).standard_normal((30, 8, 2))
    batches[7, 0, 0] = outlier
    parts = [cbn.moments(batch) for batch in batches]
    exact = cbn.moments(batches[-5:].reshape(-1, 2))
    window = sum(parts[-4:], start=parts[-5])
    assert_close(window, exact, exact.count)
    window = parts[0]
    try:
        for number, part in enumerate(parts[1:], 1):
            window = window + part
            window = window - parts[number - 5] if number >= 5 else window
    except ValueError as error:
        assert outlier == 1e10 and "rounding has hidden them: add the parts anew" in str(error)
    else:
        assert not np.isfinite(window.m2[0]) and np.isfinite(window.m2[1])


def test_weights_and_counts_of_channels_are_taken_away():
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((50, 3)), rng.uniform(0, 1e-3, 50)
    parts = [cbn.moments(x[k : k + 10], sample_weight=weights[k : k + 10]) for k in range(0, 50, 10)]
    rest = cbn.moments(x, sample_weight=weights)
    for part in parts[1:]:
        rest = rest - part
    np.testing.assert_allclose([rest.count], [parts[0].count], rtol=1e-12)
    np.testing.assert_allclose(rest.m2, parts[0].m2, rtol=1e-11)
    rest -= parts[0]
    assert rest.count == 0 and not rest.mean.any() and not rest.m2.any()  # the sum of weights was off by rounding
    each = cbn.Moments([3, 4, 5], [1.0, 2.0, 3.0], [6.0, 6.0, 6.0])
    rest = each - cbn.Moments([0, 4, 2], [0.0, 2.0, 3.0], [0.0, 6.0, 6.0])
    assert rest.count.tolist() == [3, 0, 3] and rest.mean.tolist() == [1, 0, 3] and rest.m2.tolist() == [6, 0, 0]
    assert (each - cbn.Moments(1, each.mean, np.zeros(3))).count.tolist() == [2, 3, 4]
    huge = cbn.Moments(2**62, [1.0], [2.0])
    assert (huge - cbn.Moments(5, [1.0], [0.0])).count == 2**62 - 5


def test_what_was_not_finite_stays_so():
    x = np.ones((4, 2))
    x[0, 0] = np.nan
    rest = cbn.moments(x) - cbn.moments(x[:1])
    assert np.isnan([rest.mean[0], rest.m2[0]]).all() and rest.mean[1] == 1 and rest.m2[1] == 0
    a, b = cbn.Moments(1, [1e150], [0.0]), cbn.Moments(3, [-1e150], [0.0])
    np.testing.assert_allclose(((a + b) - b).mean, a.mean)


OTHERS = "part must hold only values of the whole; got others in channel {}, or rounding has hidden them: add the parts"
WHOLE = cbn.Moments(10, [1.0, 2.0], [20.0, 20.0])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (cbn.Moments(11, [1.0, 2.0], [1.0, 1.0]), "part must have at most the whole's count, 10; got 11"),
        (cbn.Moments([3, 12], [1.0, 2.0], [1.0, 1.0]), "part must have at most the whole's count, 10; got 12"),
        (cbn.Moments(10.5, [1.0, 2.0], [1.0, 1.0]), "part must have at most the whole's count, 10; got 10.5"),
        (cbn.Moments(5, [1.0, 2.0], [1.0, 21.0]), OTHERS.format(1)),
        (cbn.Moments(5, [9.0, 2.0], [1.0, 1.0]), OTHERS.format(0)),
        (cbn.Moments(10, [1.0, 2.1], [20.0, 20.0]), OTHERS.format(1)),
        (cbn.Moments(10, [1.0, 2.0], [19.9, 20.0]), OTHERS.format(0)),
        (cbn.Moments(9, [1.0, 2.0], [20.0, 19.0]), OTHERS.format(1)),  # a single value without deviations is left
        (cbn.Moments([0, 9], [0.0, 2.0], [0.0, 19.0]), OTHERS.format(1)),
        (cbn.Moments(5, [1.0, np.nan], [1.0, 1.0]), OTHERS.format(1)),
        (cbn.Moments(5, [1.0, 2.0], [np.inf, 1.0]), OTHERS.format(0)),
        (cbn.Moments(5, [1.0], [1.0]), "part must have 2 channels; got 1"),
    ],
)
def test_what_is_no_part_is_refused(part, message):
    with pytest.raises(ValueError, match=message):
        WHOLE - part
    with pytest.raises(TypeError, match="unsupported operand"):
        WHOLE - 1
    assert WHOLE.count == 10 and WHOLE.m2.tolist() == [20, 20]


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_moments_copy_and_pickle(twin):
    moments = cbn.Moments([3, 4], [1.0, 2.0], [6.0, 7.0])
    other = twin(moments)
    assert repr(other) == repr(moments) and type(other) is cbn.Moments


@pytest.mark.parametrize("counts", [(2**62, 2**62), ([2**62], [2**62]), ([2**62], 2**62), (1e300, 1e300)], ids=str)
def test_counts_that_would_not_fit(counts):
    """In place nothing has changed then."""
    a, b = (cbn.Moments(count, [1.0], [2.0]) for count in counts)
    before = repr(a)
    with pytest.raises(ValueError, match="count must be from 0 to "):
        a + b
    with pytest.raises(ValueError, match="count must be from 0 to "):
        a.merge(b)
    assert repr(a) == before


def test_counts_of_any_type():
    for count in (np.array([3], np.uint64), np.array([3.0], ml_dtypes.bfloat16), np.float16([3]), np.longdouble([3])):
        checked = cbn.Moments(count, [1.0], [2.0]).count
        assert checked == 3 and checked.dtype == (np.int64 if count.dtype.kind == "u" else np.float64)
    assert cbn.Moments(np.uint64(2**63 - 1), [1.0], [2.0]).count == 2**63 - 1
    assert type(cbn.Moments(np.array(2.5, ml_dtypes.bfloat16), [1.0], [2.0]).count) is float


def test_offset_of_a_million_deviations():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((400, 3, 50)) + 1e6).astype(np.float32)
    whole = cbn.moments(x)
    parts = cbn.Moments(0, np.zeros(3), np.zeros(3))
    for part in np.array_split(x, 37):
        parts.merge(cbn.moments(part))
    assert (np.abs(parts.mean - whole.mean) <= 1e-12 * np.abs(whole.mean)).all()
    np.testing.assert_allclose(parts.var(), whole.var(), rtol=1e-10)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_small_parts_with_an_offset(offset):
    """As exact as the docstring says, against all data at once in extended precision."""
    rng = np.random.default_rng(0)
    for size in range(1, 6):
        x = rng.standard_normal((4, size, 200)) + offset
        parts, wide = sum(map(cbn.moments, x), start=cbn.Moments(0, *np.zeros((2, 200)))), x.astype(np.longdouble)
        mean, var = wide.mean(axis=(0, 1)), wide.var(axis=(0, 1))
        assert (np.abs(parts.mean - mean) <= 1e-12 * mean).all()
        assert (np.abs(parts.var() - var) <= (1e-12 + 2e-16 * mean / np.sqrt(var)) * var).all()


def test_a_count_for_each_channel():
    """Merging channel by channel, empty channels too, is merging the channels' own moments."""
    rng = np.random.default_rng(0)
    parts = [[rng.normal(1e3, 1, size) for size in sizes] for sizes in ((0, 5, 0, 3), (4, 0, 0, 7))]
    each = [[cbn.moments(channel[:, None]) for channel in part] for part in parts]
    names = ("count", "mean", "m2")
    a, b = (cbn.Moments(*(np.stack([getattr(m, k) for m in part]).ravel() for k in names)) for part in each)
    expected = [one + other for one, other in zip(*each, strict=True)]
    for total in (a + b, b + a):
        assert total.count.dtype == np.int64 and total.count.tolist() == [4, 5, 0, 10]
        np.testing.assert_allclose(total.mean, [m.mean[0] for m in expected], rtol=1e-15)
        np.testing.assert_allclose(total.m2, [m.m2[0] for m in expected], rtol=1e-12)
    assert (a + cbn.Moments(2, np.ones(4), np.ones(4))).count.tolist() == [2, 7, 2, 5]
    assert (a + cbn.Moments(0.5, np.ones(4), np.ones(4))).count.dtype == np.float64
    copy = cbn.Moments.from_dict(a.to_dict())
    copy.count[...] = 9
    assert a.count.tolist() == [0, 5, 0, 3] and a.to_dict()["count"] is not a.count
    with pytest.raises(ValueError, match="count must be more than ddof = 0 for a variance; got 0"):
        a.var()
    np.testing.assert_allclose(copy.var(), a.m2 / 9)


def test_dict_and_copies():
    moments = cbn.moments(np.arange(12.0).reshape(4, 3))
    other = cbn.Moments.from_dict(moments.to_dict())
    assert (other.count, other.mean.tolist(), other.m2.tolist()) == (4, moments.mean.tolist(), moments.m2.tolist())
    moments.to_dict()["mean"][...] = 9
    assert not (moments.mean == 9).any()
    total = moments + other
    assert total.count == 8 and moments.count == 4
    np.testing.assert_allclose(total.var(1), np.var(np.tile(np.arange(12.0).reshape(4, 3), (2, 1)), axis=0, ddof=1))


def test_values_near_the_largest_float_merge():
    a, b = cbn.Moments(1, [1e150], [0.0]), cbn.Moments(3, [-1e150], [0.0])
    np.testing.assert_allclose((a + b).mean, [-0.5e150])
    np.testing.assert_allclose((a + b).m2, [3e300])


def test_update_running():
    mean, var = np.float32([1]), np.float32([2])
    cbn.update_running(mean, var, cbn.Moments(5, [3.0], [8.0]), 0.5, unbiased=False)
    assert mean[0] == 2 and var[0] == np.float32(1.8)
    cbn.update_running(mean, var, cbn.Moments(0, [3.0], [8.0]), 0.5)
    cbn.update_running(mean, var, cbn.Moments(1, [2.0], [0.0]), 0.0, unbiased=False)
    assert mean[0] == 2 and var[0] == np.float32(1.8)
    with pytest.raises(ValueError, match="momentum must be a number in"):
        cbn.update_running(mean, var, cbn.Moments(5, [3.0], [8.0]), 7)
