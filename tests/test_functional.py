"""test_functional: edge cases, output arrays, layouts and threads of the functional interface."""

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, filled, parameters

import cbn
from cbn import reference

EMPTY = [((0, 3), 1), ((0, 3, 4), 1), ((2, 3, 0), 1), ((5, 0), 1), ((0, 0), 1), ((2, 0, 3, 4), -1), ((1, 0, 1), 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(("shape", "axis"), EMPTY)
def test_empty(shape, axis, dtype, isa):
    x, channels = np.empty(shape, dtype), shape[axis]
    running = np.full(channels, 0.5, dtype), np.full(channels, 2.0, dtype)
    y, mean, inv_std = cbn.batch_norm_forward(x, axis=axis)
    assert y.shape == shape and mean.shape == inv_std.shape == (channels,)
    assert (mean == 0).all()
    assert (inv_std == 1 / np.sqrt(1e-5)).all()
    assert cbn.batch_norm(x, *running, training=True, axis=axis).shape == shape
    assert (running[0] == 0.5).all() and (running[1] == 2).all()
    assert cbn.batch_norm(x, *running, axis=axis).shape == shape
    for training in (True, False):
        dx, dweight, dbias = cbn.batch_norm_backward(x, x, mean, inv_std, axis=axis, training=training)
        assert dx.shape == shape and (dweight == 0).all() and (dbias == 0).all()
        assert dweight.dtype == dtype
    assert not cbn.moments(x, axis=axis).m2.any()


@pytest.mark.parametrize(("shape", "axis"), [((1, 3), 1), ((1, 3, 1, 1), 1), ((4, 1), 0), ((1, 1, 5), -1)])
def test_one_value_per_channel(shape, axis):
    x = np.ones(shape, np.float32)
    running = np.zeros(shape[axis], np.float32), np.ones(shape[axis], np.float32)
    out = np.full(shape, 7, np.float32)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        cbn.batch_norm(x, *running, training=True, axis=axis, out=out)
    assert (out == 7).all() and not running[0].any()
    np.testing.assert_allclose(cbn.batch_norm(x, *running, axis=axis), x, rtol=1e-5)  # inference does not mind


@pytest.mark.parametrize("layout", ["C", "channels_last"])
@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (2, 3, 40, 41), (9, 300, 3, 3)])
def test_out(shape, layout):
    x = LAYOUTS[layout](filled(shape, 1, np.float32), 1)
    dy = LAYOUTS[layout](filled(shape, 1, np.float32, seed=2), 1)
    weight, bias = parameters(shape[1], np.float32)
    y, mean, inv_std = cbn.batch_norm_forward(x, weight, bias)
    out = np.empty_like(x)
    assert cbn.batch_norm_forward(x, weight, bias, out=out)[0] is out
    np.testing.assert_array_equal(out, y)
    dx = cbn.batch_norm_backward(dy, x, mean, inv_std, weight)[0]
    assert cbn.batch_norm_backward(dy, x, mean, inv_std, weight, out=out)[0] is out
    np.testing.assert_array_equal(out, dx)
    for target in ("dy", "x"):
        a, b = dy.copy(order="K"), x.copy(order="K")
        cbn.batch_norm_backward(a, b, mean, inv_std, weight, out=a if target == "dy" else b)
        np.testing.assert_array_equal(a if target == "dy" else b, dx)
    same = x.copy(order="K")
    assert cbn.batch_norm(same, training=True, weight=weight, bias=bias, out=same) is same
    np.testing.assert_array_equal(same, y)
    alias = x.copy(order="K")
    cbn.batch_norm(alias, training=True, weight=weight, bias=bias, out=alias.view())
    np.testing.assert_array_equal(alias, y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dy_layout", LAYOUTS)
def test_backward_mixes_layouts(layout, dy_layout):
    x, dy = filled((4, 5, 6, 7), 1, np.float32), filled((4, 5, 6, 7), 1, np.float32, seed=2)
    _, mean, inv_std = cbn.batch_norm_forward(x)
    expected = reference.batch_norm_backward(dy, x, mean, inv_std)[0]
    dx = cbn.batch_norm_backward(LAYOUTS[dy_layout](dy, 1), LAYOUTS[layout](x, 1), mean, inv_std)[0]
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
def test_fixed_statistics_backward(dtype, isa):
    for shape, axis in [((4, 5, 12, 13), 1), ((50, 7), 1), ((6, 5, 3, 3), 1)]:
        x, dy = filled(shape, axis, dtype), filled(shape, axis, dtype, seed=2)
        weight, _ = parameters(shape[axis], dtype)
        mean, inv_std = np.linspace(-1, 1, shape[axis]), np.linspace(0.5, 2, shape[axis])
        got = cbn.batch_norm_backward(dy, x, mean, inv_std, weight, axis=axis, training=False)
        exact = reference.batch_norm_backward(dy, x, mean, inv_std, weight, axis=axis, training=False)
        for value, wanted in zip(got, exact, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=4 * np.finfo(dtype).eps, atol=40 * np.finfo(dtype).eps)


def test_float64_input_with_float32_parameters():
    x = filled((20, 3), 1, np.float64)
    weight, bias = parameters(3, np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    y = cbn.batch_norm(x, mean, var, weight, bias, training=True)
    assert y.dtype == np.float64 and mean.dtype == np.float32
    np.testing.assert_allclose(
        y, reference.batch_norm(x, None, None, weight, bias, True).astype(float), rtol=1e-14, atol=1e-14
    )
    _, batch_mean, inv_std = cbn.batch_norm_forward(x, weight, bias)
    dx, dweight, dbias = cbn.batch_norm_backward(np.ones_like(x), x, batch_mean, inv_std, weight)
    assert dx.dtype == np.float64 and dweight.dtype == dbias.dtype == np.float32


def test_parameters_may_be_strided_and_read_only():
    x = filled((20, 3), 1, np.float32)
    table = np.float32([[1, 9], [2, 9], [3, 9]])
    table.flags.writeable = False
    np.testing.assert_array_equal(
        cbn.batch_norm(x, weight=table[:, 0], training=True),
        cbn.batch_norm(x, weight=np.float32([1, 2, 3]), training=True),
    )


def test_outputs_seen_through_other_objects():
    """What np.asarray turns into a view is as much an alias as an array."""
    buffer = np.zeros(31, np.float32)
    x = filled((5, 6), 1, np.float32)
    buffer[:30] = x.ravel()
    y = cbn.batch_norm(x, training=True)
    view = memoryview(buffer[:30].reshape(5, 6))
    with pytest.raises(ValueError, match="out must be x itself or share no memory with it; got a partial overlap"):
        cbn.batch_norm(view, training=True, out=buffer[1:].reshape(5, 6))
    with pytest.raises(ValueError, match="out must be dy itself or share no memory with it; got a partial overlap"):
        cbn.batch_norm_backward(view, x, np.zeros(6), np.ones(6), out=buffer[1:].reshape(5, 6))
    out = buffer[:30].reshape(5, 6)
    np.testing.assert_array_equal(cbn.batch_norm(view, training=True, out=out), y)


def test_in_place_whatever_the_strides_of_axes_of_one():
    table = filled((8, 3), 1, np.float32)
    y = cbn.batch_norm(table, training=True)
    cbn.batch_norm(table[:, :, None], training=True, out=table.reshape(8, 3, 1))
    np.testing.assert_array_equal(table, y)


def test_update_from_its_own_arrays():
    moments = cbn.Moments(5, [3.0], [8.0])
    var = np.ones(1)
    cbn.update_running(moments.m2, var, moments, 0.5)
    assert moments.m2[0] == 5.5 and var[0] == 1.5


def test_lists_memmaps_and_subclasses(tmp_path):
    values = filled((6, 3), 1, np.float64)
    y = cbn.batch_norm(values, training=True)
    np.testing.assert_array_equal(cbn.batch_norm(values.tolist(), training=True), y)
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=values.shape)
    mapped[...] = values
    np.testing.assert_array_equal(cbn.batch_norm(mapped, training=True), y)
    assert type(cbn.batch_norm(mapped, training=True)) is np.ndarray
    out = np.memmap(tmp_path / "y", np.float64, "w+", shape=values.shape)
    assert cbn.batch_norm(values, training=True, out=out) is out
    np.testing.assert_array_equal(out, y)
    subclass = type("Subclass", (np.ndarray,), {})
    np.testing.assert_array_equal(cbn.batch_norm(values.view(subclass), training=True), y)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_momentum(momentum):
    x = filled((20, 3), 1, np.float32)
    mean, var = np.full(3, 0.5, np.float32), np.full(3, 3, np.float32)
    cbn.batch_norm(x, mean, var, training=True, momentum=momentum)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, (1 - momentum) * 0.5 + momentum * wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, (1 - momentum) * 3 + momentum * wide.var(0, ddof=1), rtol=1e-6)


def test_course_example():
    """BatchNorm1d(16) on uniform rand(100, 16, 784): running_mean near 0.05, running_var near 0.9083."""
    layer = cbn.BatchNorm1d(16)
    layer(np.random.default_rng(0).random((100, 16, 784), dtype=np.float32))
    np.testing.assert_allclose(layer.running_mean, 0.05, atol=5e-4)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 / 12, atol=5e-4)
    assert layer.num_batches_tracked == 1
