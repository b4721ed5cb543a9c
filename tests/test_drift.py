"""test_drift: mean shift and variance ratio against NumPy, which channels stand out, and what is refused."""

import json
import pickle
import sys

import numpy as np
import pytest
from states import assert_equal_states

import cbn


def trained(x, **options):
    layer = cbn.BatchNorm(x.shape[options.get("axis", 1)], dtype=np.float64, **options)
    cbn.recompute_statistics(layer, [x])
    return layer


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("convention", ["torch", "keras", "lecture", "notes"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 5), 1), ((8, 5, 3, 2), 1), ((8, 3, 2, 5), -1), ((5, 40), 0)])
def test_against_numpy(shape, axis, convention):
    """And its own population has no shift and a ratio of 1."""
    x, served = 3 * normal(*shape) + 1, 2 * normal(*shape, seed=1) - 1
    layer = cbn.BatchNorm(5, axis=axis, convention=convention, dtype=np.float64)
    rest = tuple(d for d in range(x.ndim) if d != axis % x.ndim)
    ddof = layer.convention.variance == "unbiased"
    layer.running_mean[...], layer.running_var[...] = x.mean(axis=rest), x.var(axis=rest, ddof=ddof)
    drift = layer.drift(served)
    shift = (served.mean(axis=rest) - layer.running_mean) / np.sqrt(layer.running_var)
    np.testing.assert_allclose(drift.mean_shift, shift, rtol=1e-12)
    np.testing.assert_allclose(drift.variance_ratio, served.var(axis=rest, ddof=ddof) / layer.running_var, rtol=1e-12)
    assert drift.count == x.size // 5 and drift.samples == (40 if x.ndim == 2 else 8)
    own = layer.drift(x)
    np.testing.assert_allclose(own.mean_shift, 0, atol=1e-14)
    np.testing.assert_allclose(own.variance_ratio, 1, rtol=1e-13)
    assert own.outstanding.tolist() == []


def test_renorm_stores_the_biased_variance():
    x = normal(10, 3)
    drift = trained(x, renorm=True).drift(x)
    np.testing.assert_allclose(drift.variance_ratio, 1, rtol=1e-12)


def test_the_layer_and_x_stay_as_they_are():
    x = normal(20, 3)
    layer = cbn.BatchNorm(3, dtype=np.float64)
    layer(x)
    for mode in (True, False):
        layer.train(mode)
        before, copy = layer.state_dict(), x.copy()
        layer.drift(x)
        assert_equal_states(layer.state_dict(), before)
        np.testing.assert_array_equal(x, copy)
        assert layer.training is mode
    layer.train()(x)
    layer.drift(x + 1)
    layer.backward(x)


def test_the_channels_that_stand_out():
    """Worst first; one that shifted a little and one whose variance grew a little do not."""
    mean, std = np.array([0, 0.3, -2, 0, 0, 0, 1]), np.array([1, 1, 1, 1.2, 3, 0.1, 1])
    layer = trained(normal(5000, 7))
    drift = layer.drift(normal(1000, 7, seed=1) * std + mean)
    assert drift.outstanding.tolist() == [5, 2, 4, 6] and sorted(drift.order) == list(range(7))
    assert drift.order[:4].tolist() == [5, 2, 4, 6]
    assert (drift.shift_limit, drift.ratio_limits) == (0.5, (0.5, 2.0))
    assert layer.drift(normal(1000, 7, seed=1) * std + mean, max_shift=3, max_ratio=200).outstanding.size == 0
    finer = layer.drift(normal(1000, 7, seed=1) * std + mean, max_shift=0.2, max_ratio=1.1)
    assert sorted(finer.outstanding) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("samples", [2, 5, 20, 300])
@pytest.mark.parametrize("correlated", [True, False])
def test_noise_does_not_stand_out(samples, correlated):
    """Of 100 000 channels without a drift; also where the values of each plane are all the same."""
    channels, planes = 100_000, 1 if not correlated else 4
    x = np.repeat(normal(samples, channels, 1), planes, axis=2)
    layer = cbn.BatchNorm(channels, dtype=np.float64)
    drift = layer.drift(x, max_shift=0, max_ratio=1)
    assert drift.samples == samples
    assert drift.outstanding.size <= 3 * 1e-4 * channels
    if samples > 2 and not correlated:  # the limits are not so wide that nothing could
        assert drift.outstanding.size >= 1e-5 * channels
        assert layer.drift(3 * x + 10, max_shift=0, max_ratio=1).outstanding.size == channels


KURTOSIS = {"exponential": 9, "laplace": 6}


@pytest.mark.parametrize("name", KURTOSIS)
@pytest.mark.parametrize("n", [16, 32, 128])
def test_other_than_normal_values(n, name):
    """Channels without a drift seldom stand out with the number of samples that the docstring gives for such values."""
    channels, rng = 20_000, np.random.default_rng(0)
    x, var = getattr(rng, name)(size=(n, channels)), {"exponential": 1, "laplace": 2}[name]
    layer = cbn.BatchNorm(channels, dtype=np.float64)
    layer.running_mean[...], layer.running_var[...] = name == "exponential", var
    samples = n * 2 / (KURTOSIS[name] - 1)
    assert layer.drift(x, samples=samples).outstanding.size <= 1e-3 * channels
    if n <= 32:  # and often without it
        assert 5e-3 * channels <= layer.drift(x).outstanding.size <= 4e-2 * channels
    assert layer.drift(9 * x + 9 + 36 / np.sqrt(samples), samples=samples).outstanding.size == channels


def test_only_means_or_only_variances():
    layer, x = trained(normal(5000, 3)), normal(500, 3, seed=1) * [1, 9, 1] + [9, 0, 0]
    assert layer.drift(x).outstanding.tolist() == [0, 1]
    assert layer.drift(x, max_ratio=np.inf).outstanding.tolist() == [0]
    drift = layer.drift(x, max_shift=np.inf)
    assert drift.outstanding.tolist() == [1] and drift.order.tolist()[0] == 1
    assert str(drift).splitlines()[-1].split()[:2] == ["limits", "inf"]
    x[0, 2] = np.nan
    assert layer.drift(x, max_shift=np.inf, max_ratio=np.inf).outstanding.tolist() == [2]


def test_images_of_bytes():
    """As in evaluation."""
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), np.uint8)
    layer = trained(x.astype(float))
    drift, wide = layer.drift(x), layer.drift(x.astype(float))
    np.testing.assert_allclose(drift.mean_shift, wide.mean_shift, atol=1e-12)
    np.testing.assert_allclose(drift.variance_ratio, wide.variance_ratio, rtol=1e-12)
    assert (drift.count, drift.samples) == (320, 20)


def test_one_image_says_nothing_of_the_variance():
    drift = cbn.BatchNorm(2).drift(normal(1, 2, 9, 9) * [[[9]], [[1]]])
    assert drift.ratio_limits == (0, np.inf) and drift.shift_limit == 4 and drift.outstanding.size == 0
    assert cbn.BatchNorm(2).drift(normal(1, 2, 9, 9) * [[[9]], [[1]]], samples=81).outstanding.tolist() == [0]


def test_masks_and_weights():
    x, layer = normal(30, 2, 4), trained(normal(30, 2, 4, seed=1))
    mask = np.random.default_rng(0).random((30, 4)) < 0.3
    drift, plain = layer.drift(x, mask=mask), layer.drift(np.moveaxis(x, 1, 2)[mask])
    np.testing.assert_allclose(drift.mean_shift, plain.mean_shift, rtol=1e-12)
    np.testing.assert_allclose(drift.variance_ratio, plain.variance_ratio, rtol=1e-12)
    assert (drift.samples, plain.samples) == (30, mask.sum())
    weighted = layer.drift(x, sample_weight=mask.astype(float))
    np.testing.assert_allclose(weighted.variance_ratio, plain.variance_ratio, rtol=1e-12)
    few = layer.drift(x, mask=np.outer(np.arange(30) < 3, np.arange(4) < 1))
    assert few.count == few.samples == 3


def test_moments_in_the_place_of_x():
    layer, batches = trained(normal(50, 3)), [normal(n, 3, seed=n) for n in (5, 10)]
    drift = layer.drift(cbn.moments(batches[0]) + cbn.moments(batches[1]))
    whole = layer.drift(np.concatenate(batches))
    np.testing.assert_allclose(drift.mean_shift, whole.mean_shift, rtol=1e-12)
    np.testing.assert_allclose(drift.variance_ratio, whole.variance_ratio, rtol=1e-12)
    assert drift.samples == whole.samples == 15
    assert layer.drift(cbn.moments(batches[0]), samples=2).samples == 2
    assert cbn.BatchNorm2d(3).drift(cbn.moments(batches[0])).count == 5


def test_channels_without_a_variance():
    """What eps hides is no alarm; a channel that begins to vary is."""
    layer = cbn.BatchNorm(5, dtype=np.float64)
    layer.running_mean[...], layer.running_var[...] = [3, 0.1, 3, 3, 0], [0, 0, 0, 0, 1e-30]
    x = np.column_stack([np.full(50, 3.0), np.full(50, 0.1 + 1e-9), normal(50), np.full(50, 4.0), np.zeros(50)])
    drift = layer.drift(x)
    assert drift.mean_shift.tolist() == [0, np.inf, -np.inf, np.inf, 0]
    assert drift.variance_ratio.tolist() == [1, 1, np.inf, 1, 0] and sorted(drift.outstanding) == [2, 3]
    layer.eps = 0.0
    assert sorted(layer.drift(x).outstanding) == [1, 2, 3, 4]


@pytest.mark.parametrize(("convention", "found"), [("torch", []), ("notes", [0])])
def test_eps_hides_where_it_stands(convention, found):
    """A shift of 0.1 is one of y's units where 0.1 is added to the deviation, and a third where to the variance."""
    layer = cbn.BatchNorm(1, eps=0.1, convention=convention)
    layer.running_var[...] = 0
    assert layer.drift(np.full((1000, 1), 0.1)).outstanding.tolist() == found


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stands_out(bad):
    x = normal(50, 4)
    layer = trained(x)
    x[7, 2] = bad
    layer.running_var[1] = bad
    drift = layer.drift(x)
    assert sorted(drift.outstanding) == [1, 2] and np.isfinite(drift.mean_shift).tolist()[::3] == [True, True]
    assert "nan" in str(drift) and json.loads(json.dumps(drift.to_dict(), allow_nan=False))["count"] == 50
    layer.running_mean[0] = bad
    assert sorted(layer.drift(x).outstanding) == [0, 1, 2]


@pytest.mark.parametrize(
    ("layer", "x", "options", "error", "message"),
    [
        (
            cbn.BatchNorm(3, track_running_stats=False),
            np.ones((4, 3)),
            {},
            RuntimeError,
            "drift must be called on a lay",
        ),
        (cbn.BatchNorm(3), np.ones((1, 3)), {}, ValueError, "x must have 2 values or more per channel, .*; got 1"),
        (cbn.BatchNorm(3), np.ones((0, 3)), {}, ValueError, "x must have 2 values or more per channel, .*; got 0"),
        (cbn.BatchNorm(3), np.ones((4, 2)), {}, ValueError, "x must have 3 channels"),
        (cbn.BatchNorm2d(3), np.ones((4, 3)), {}, ValueError, r"expected 4D input \(got 2D input\)"),
        (cbn.BatchNorm(3), np.ones((4, 3), int), {}, TypeError, "x must"),
        (cbn.BatchNorm(3), "x", {}, TypeError, "x must"),
        (cbn.BatchNorm(3), np.ones((4, 3)), {"mask": np.ones(4)}, TypeError, "mask must"),
        (cbn.BatchNorm(3), np.ones((4, 3)), {"mask": np.zeros(4, bool)}, ValueError, "x must have 2 values or more"),
        (cbn.BatchNorm(3), np.ones((4, 3)), {"max_shift": -1}, ValueError, "max_shift must be from 0 to inf; got -1"),
        (cbn.BatchNorm(3), np.ones((4, 3)), {"max_shift": "1"}, TypeError, "max_shift must be a number; got str"),
        (
            cbn.BatchNorm(3),
            np.ones((4, 3)),
            {"max_ratio": 0.5},
            ValueError,
            "max_ratio must be from 1 to inf; got 0.5",
        ),
        (cbn.BatchNorm(3), np.ones((4, 3)), {"samples": 0}, ValueError, "samples must be from 1 to 4; got 0"),
        (
            cbn.BatchNorm(3),
            np.ones((4, 3)),
            {"samples": np.nan},
            ValueError,
            "samples must be from 1 to 4; got nan",
        ),
        (cbn.BatchNorm(3), np.ones((4, 3)), {"samples": 5}, ValueError, "samples must be from 1 to 4; got 5"),
        (
            cbn.BatchNorm(3),
            np.ones((4, 3)),
            {"sample_weight": np.full(4, 0.255)},
            ValueError,
            "x must have 2 values or more per channel, or weights that sum to that; got 1.02",
        ),
        (cbn.BatchNorm(3), np.ma.ones((4, 3), np.uint8), {}, TypeError, "x must be an array without a mask"),
        (cbn.BatchNorm(3), cbn.moments(np.ones((4, 2))), {}, ValueError, "x must have 3 channels; got 2"),
        (
            cbn.BatchNorm(3),
            cbn.Moments([2, 3, 4], *np.ones((2, 3))),
            {},
            ValueError,
            "x.count must be one number; got one",
        ),
        (
            cbn.BatchNorm(3),
            cbn.Moments(1, *np.ones((2, 3))),
            {},
            ValueError,
            "x must have 2 values or more per channel",
        ),
        (
            cbn.BatchNorm(1),
            cbn.Moments(4, [1], [1]),
            {"mask": 1},
            ValueError,
            "mask must be None with Moments; got int",
        ),
    ],
)
def test_wrong_arguments(layer, x, options, error, message):
    with pytest.raises(error, match=message):
        layer.drift(x, **options)


def test_a_negative_running_variance():
    layer = cbn.BatchNorm(3)
    layer.running_var[1] = -1
    with pytest.raises(ValueError, match="running_var must be >= 0"):
        layer.drift(normal(9, 3))


# --- what it tells ---


def shifted(channels, shifts):
    mean = np.zeros(channels)
    mean[list(shifts)] = list(shifts.values())
    return trained(normal(500, channels)).drift(normal(500, channels, seed=1) + mean)


def test_the_table():
    text = str(shifted(30, {17: 3.0, 4: -2.0})).splitlines()
    assert text[0] == "2 of 30 channels stand out (500 values per channel, from 500 samples)"
    assert [line.split()[0] for line in text[1:5]] == ["channel", "17", "4", text[4].split()[0]]
    assert [line.endswith("  stands out") for line in text] == [False, False, True, True, False, False]
    assert text[-1].split() == ["limits", "0.5", "0.5", "to", "2"]
    many = str(shifted(30, dict.fromkeys(range(15), 2.0))).splitlines()
    assert many[-2].strip() == "and 5 more that stand out" and len(many) == 14
    assert str(cbn.BatchNorm(0).drift(np.ones((4, 0)))).startswith("0 of 0 channels stand out (4 values")


def test_the_dict_and_copies():
    drift = shifted(5, {3: 1.0})
    values = json.loads(json.dumps(drift.to_dict()))
    assert values["outstanding"] == [3] and values["mean_shift"] == drift.mean_shift.tolist()
    assert values["ratio_limits"] == [0.5, 2.0] and (values["count"], values["samples"]) == (500, 500)
    assert str(pickle.loads(pickle.dumps(drift))) == str(drift)


def test_the_table_is_aligned():
    """Also with limits that have many digits."""
    lines = str(shifted(3, {1: 9.0})).splitlines(), str(trained(normal(9, 3)).drift(normal(9, 3), max_ratio=123456.0))
    assert (
        len({len(line.removesuffix("  stands out")) for text in (lines[0], lines[1].splitlines()) for line in text[1:]})
        == 1
    )


@pytest.fixture
def axes():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    return Figure().subplots()


def drawn(axes):
    """{label: points} of a plot, whose legend names them all."""
    found = {points.get_label(): points.get_offsets().tolist() for points in axes.collections}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(found)
    return found


def test_the_plot(tmp_path, axes):
    layer, x = cbn.BatchNorm(4), normal(50, 4) + np.array([0, 3, 0, 0])
    x[0, 3] = np.nan
    drift = layer.drift(x)
    for suffix in ("png", "svg"):
        own = drift.plot(tmp_path / f"drift.{suffix}")
        assert (tmp_path / f"drift.{suffix}").stat().st_size > 1000
    assert [text.get_text() for text in own.texts] == ["1"]
    assert own.get_title() == "2 of 4 channels stand out; not drawn: 3"
    assert drift.plot(axes) is axes
    points = drawn(axes)
    assert sorted(points) == ["stand out", "within the limits"]
    np.testing.assert_allclose(points["stand out"], [[drift.mean_shift[1], drift.variance_ratio[1]]], rtol=1e-12)
    assert len(points["within the limits"]) == 2
    with pytest.raises(TypeError, match="target must be a path or matplotlib Axes; got int"):
        drift.plot(1)


def test_the_plot_shows_what_is_zero_or_infinite(axes):
    """A dead channel, one that was constant, and a shift that only eps hides, at the edge; finite ones inside."""
    layer = cbn.BatchNorm(5, dtype=np.float64)
    layer.running_var[[1, 2]], layer.running_mean[2] = 0, 1e-4
    x = normal(50, 5)
    x[:, 0], x[:, 2], x[:, 3] = 0, 0, x[:, 3] + 1000
    drift = layer.drift(x)
    assert sorted(drift.outstanding) == [0, 1, 3] and drift.mean_shift[2] == -np.inf
    drift.plot(axes)
    points, (left, right), (low, high) = drawn(axes), axes.get_xlim(), axes.get_ylim()
    assert left < -1000 and right > 1000 and axes.get_xscale() == "symlog"
    np.testing.assert_allclose(points["within the limits, off the scale"], [[left, 1]], rtol=1e-12)
    (zero, least), (_, most) = sorted(points["stand out, off the scale"], key=lambda point: point[1])
    np.testing.assert_allclose([zero, least, most], [0, low, high], rtol=1e-12)
    assert len(points["stand out"]) == len(points["within the limits"]) == 1
    assert sorted(text.get_text() for text in axes.texts) == ["0", "1", "3"]


@pytest.mark.parametrize("options", [{}, {"max_shift": np.inf}, {"max_ratio": np.inf}, {"samples": 1}], ids=str)
def test_the_plot_has_ticks_on_both_sides(axes, options):
    """Whatever the limits are, and where nothing stands out; the legend names only what is there."""
    layer = cbn.BatchNorm(3)
    drift = layer.drift(normal(500, 3), **options)
    drift.plot(axes)
    assert list(drawn(axes)) == ["within the limits"]
    for ticks, (low, high), middle in (
        (axes.get_xticks(), axes.get_xlim(), 0),
        (axes.get_yticks(), axes.get_ylim(), 1),
    ):
        assert sum((low < ticks) & (ticks < middle)) and sum((middle < ticks) & (ticks < high))


def test_the_plot_of_no_channels(axes):
    cbn.BatchNorm(0).drift(np.ones((4, 0))).plot(axes)
    assert axes.get_title() == "0 of 0 channels stand out" and axes.get_legend() is None


def test_the_plot_needs_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib must be installed \(pip install 'cbn\[plot\]'\)"):
        shifted(3, {}).plot(tmp_path / "drift.png")
