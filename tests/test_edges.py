"""test_edges: what mutants of the code showed that no other test would notice."""

import importlib.util
import io
import sys

import numpy as np
import pytest
from cases import DTYPES, HALVES, filled

import cbn
from cbn import files, reading


def test_reset_sets_the_statistics_of_renorm():
    layer = cbn.BatchNorm(3, renorm=True)
    layer(filled((8, 3), 1, np.float32, "offset-1e3"))
    assert (layer.renorm_mean != 0).all() and (layer.renorm_std != 1).all()
    layer.reset_running_stats()
    assert layer.renorm_mean.tolist() == [0] * 3 and layer.renorm_std.tolist() == [1] * 3


@pytest.mark.parametrize(("arguments", "name"), [(("a", [1.0]), "mean"), (([1.0], "a"), "m2")], ids=["mean", "m2"])
def test_moments_name_what_is_no_number(arguments, name):
    with pytest.raises(TypeError, match=f"^{name} must be an array of real numbers; got <U1"):
        cbn.Moments(2, *arguments)


def test_features_on_the_first_axis():
    x = np.arange(12.0).reshape(3, 4)
    x[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"got one in feature 1$"):
        cbn.FeatureNormalizer(axis=0, nan="raise").fit(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("shape", [(6, 2, 40), (90, 2, 3), (60, 2)], ids=str)
def test_what_weighs_nothing_is_no_anchor(shape, dtype):
    """The first values of all, which are not finite, weigh 0."""
    x = filled(shape, 1, dtype)
    weights = np.ones((shape[0], *shape[2:]))
    weights.flat[:5] = 0
    expected = cbn.moments(x, sample_weight=weights)
    for bad in (np.nan, np.inf):
        other = np.where(np.expand_dims(weights, 1) == 0, dtype(bad), x)
        got = cbn.moments(other, sample_weight=weights)
        np.testing.assert_array_equal([got.mean, got.m2], [expected.mean, expected.m2])


@pytest.mark.parametrize("shape", [(6, 3, 5), (6, 3, 4, 5), (6, 3, 2, 4, 5)], ids=str)
def test_every_second_sample_of_channels_last(shape):
    """C order with the channels last in each sample, but not from one sample to the next."""
    x = np.moveaxis(filled(np.moveaxis(np.empty(shape), 1, -1).shape, -1, np.float32), -1, 1)
    for part in (x[::2], x[:, :, ::2], x[..., ::2]):
        y, mean, inv_std = cbn.batch_norm_forward(part)
        expected = cbn.batch_norm_forward(np.ascontiguousarray(part))
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_allclose([mean, inv_std], expected[1:], rtol=1e-12)


def test_the_count_is_that_of_all_batches_or_unknown():
    layer = cbn.BatchNorm(2)
    for samples, count in ((8, 8), (8, 8), (4, None)):
        layer(filled((samples, 2), 1, np.float32))
        assert layer.count == count


def test_a_momentum_of_one_forgets_what_was_before():
    layer = cbn.BatchNorm(2, momentum=1.0)
    for samples in (8, 4):
        layer(filled((samples, 2), 1, np.float32))
        assert layer.count == samples


@pytest.mark.parametrize("nan", [np.array(["skip"]), None, 1, ["skip"]], ids=["array", "None", "number", "list"])
def test_a_policy_is_a_string(nan):
    with pytest.raises(ValueError, match=r"^nan must be 'skip', 'raise' or 'propagate'; got"):
        cbn.FeatureNormalizer(nan=nan)


@pytest.mark.parametrize(("dtype", "tie"), [(HALVES[0], 2**-11), (HALVES[1], 2**-8)], ids=["f16", "bf16"])
def test_statistics_that_lie_between_two_numbers_go_to_the_even_one(dtype, tie):
    running = np.zeros(2, dtype), np.ones(2, dtype)
    moments = cbn.Moments(2, [1 + tie, 1 + 3 * tie], [1 + tie, 1 + 3 * tie])
    cbn.update_running(*running, moments, 1.0)
    assert running[0].tolist() == running[1].tolist() == [1, 1 + 4 * tie]


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("shape", [(2, 3, 40), (70, 2, 3), (60, 3)], ids=str)
def test_an_infinite_dy_passes_fixed_statistics_with_weights(shape, dtype):
    """dx does not depend on x then, so that nothing is taken off; of an infinite value it would be NaN."""
    x, dy = filled(shape, 1, dtype), filled(shape, 1, dtype, seed=4)
    dy.reshape(-1)[::7] = np.inf
    arguments = (dy, x, np.zeros(shape[1]), np.ones(shape[1]))
    expected, *_ = cbn.batch_norm_backward(*arguments, training=False)
    assert np.isinf(expected).any() and not np.isnan(expected).any()
    weighted, *_ = cbn.batch_norm_backward(*arguments, training=False, sample_weight=2.5)
    np.testing.assert_array_equal(weighted, expected)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_out_over_a_parameter_names_it(name, training):
    buffer = np.ones(12, np.float32)
    given = {other: np.ones(3, np.float32) for other in ("weight", "bias", "running_mean", "running_var")}
    given[name] = buffer[3:6]
    with pytest.raises(ValueError, match=f"^out must share no memory with {name}; got an overlap"):
        cbn.batch_norm(np.ones((4, 3), np.float32), training=training, out=buffer.reshape(4, 3), **given)
    assert (buffer == 1).all()


def test_a_part_may_differ_from_its_whole_by_rounding():
    """By 1e-11 of the deviation and of the squares, whatever their size, and by no more."""
    rest = cbn.Moments(4, [1e-17], [1.0]) - cbn.Moments(4, [0.0], [1.0])
    assert (rest.count, rest.mean, rest.m2) == (0, 0, 0)
    rest = cbn.Moments(5, [0.0], [1e12]) - cbn.Moments(3, [0.0], [1e12 + 0.5])
    assert (rest.count, rest.mean, rest.m2) == (2, 0, 0)
    for whole, part in ((1e12, 1e12 + 50), (1e-3, 1e-3 + 5e-12)):
        with pytest.raises(ValueError, match="part must hold only values of the whole"):
            cbn.Moments(5, [0.0], [whole]) - cbn.Moments(3, [0.0], [part])


@pytest.mark.parametrize("shape", [(5, 6), (1, 6), (3, 4, 5), (2, 3, 1, 4), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
def test_any_axis_backwards_or_in_steps(shape, channels_last):
    """Of arrays in each native layout: strides that fit it in all axes but one."""
    running = np.linspace(-1, 1, shape[1]), np.linspace(1, 2, shape[1])
    for axis in range(len(shape)):
        for step in (-1, 2, -2):
            larger = [n * abs(step) if d == axis else n for d, n in enumerate(shape)]
            x = filled(larger, 1, np.float64)
            if channels_last:
                x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
            part = x[tuple(slice(None, None, step) if d == axis else slice(None) for d in range(len(shape)))]
            y = cbn.batch_norm(part, *running)
            np.testing.assert_array_equal(y, cbn.batch_norm(np.ascontiguousarray(part), *running))


def test_a_file_that_ends_while_it_is_read():
    class Cut(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(buffer[: len(buffer) // 2])

    written = io.BytesIO()
    np.save(written, np.arange(3.0))
    with pytest.raises(ValueError, match=r"^x must have 24 bytes of data; got 12"):
        reading.npy(Cut(written.getvalue()), len(written.getvalue()), "x", lambda shape, dtype: None)


def test_statistics_of_no_channels_may_be_seen_through_another_type():
    class Array(np.ndarray):
        pass

    running = np.zeros(0).view(Array), np.ones(0).view(Array)
    assert cbn.batch_norm(np.zeros((4, 0)), *running, training=True).shape == (4, 0)


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_statistics_over_what_is_read_name_it(name, statistic):
    x = np.ones((4, 3), np.float32)
    given = {other: np.ones(3, np.float32) for other in ("weight", "bias", "running_mean", "running_var")}
    given[statistic] = x[0] if name == "x" else given[name]
    with pytest.raises(ValueError, match=f"^{statistic} must share no memory with {name}; got an overlap"):
        cbn.batch_norm(x, training=True, **given)


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [("torch", "onnx", None), ("onnx", "torch", None), ("torch", "torch", 8), ("keras", "onnx", 8)],
)
def test_another_variance_forgets_the_count(before, after, count):
    layer = cbn.BatchNorm(2, convention=before)
    layer(filled((8, 2), 1, np.float32))
    layer.convention = after
    assert layer.count == count


def test_bounds_of_renorm_are_a_dict():
    with pytest.raises(TypeError, match=r"^renorm_clipping must be a dict or None; got int"):
        cbn.BatchNorm(2, renorm=True, renorm_clipping=3)


def test_a_missing_library_is_named_with_the_extra(monkeypatch, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\2\0\0\0\0\0\0\0{}")
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "safetensors" else find(name))
    with pytest.raises(files.UserError, match=r"pip install 'cbn\[safetensors\]'"):
        files.read_arrays(path, "x")


@pytest.mark.parametrize("flag", [2, "yes", None, 1.0], ids=repr)
def test_unbiased_is_a_flag(flag):
    with pytest.raises(TypeError, match=r"^unbiased must be True or False; got"):
        cbn.update_running(np.zeros(1), np.ones(1), cbn.Moments(2, [0.0], [1.0]), 0.5, unbiased=flag)
