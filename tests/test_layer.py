"""test_layer: the layer's modes, state, copies, threads, and that a failed call leaves it as it was."""

import copy
import pickle
import threading

import numpy as np
import pytest
from cases import filled, parameters

import cbn
from cbn import reference


def made(channels=3, layer_class=cbn.BatchNorm, **options):
    layer = layer_class(channels, **options)
    if layer.weight is not None:
        layer.weight[...], bias = parameters(channels, layer.dtype)
        if layer.bias is not None:
            layer.bias[...] = bias
    return layer


def snapshot(layer):
    state = {name: copy.deepcopy(value) for name, value in vars(layer).items() if name != "_saved"}
    return state, layer._saved


def assert_same(before, layer):
    after = snapshot(layer)
    assert before[0].keys() == after[0].keys()
    for name, value in before[0].items():
        np.testing.assert_array_equal(value, after[0][name], err_msg=name)
    assert before[1] is after[1]


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_training_and_evaluation(momentum):
    layer = made(momentum=momentum)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    for step in range(4):
        x, dy = (
            filled((6 + step, 3, 5), 1, np.float32, seed=step),
            filled((6 + step, 3, 5), 1, np.float32, seed=step + 9),
        )
        factor = 1 / (step + 1) if momentum is None else momentum
        y = cbn.batch_norm(x, mean, var, layer.weight, layer.bias, True, factor)
        np.testing.assert_array_equal(layer(x), y)
        dx, dweight, dbias = cbn.batch_norm_backward(dy, x, layer.batch_mean, layer.batch_inv_std, layer.weight)
        np.testing.assert_array_equal(layer.backward(dy), dx)
        np.testing.assert_array_equal(layer.weight_grad, dweight)
        np.testing.assert_array_equal(layer.bias_grad, dbias)
        np.testing.assert_array_equal(layer.running_mean, mean)
        np.testing.assert_array_equal(layer.running_var, var)
        assert layer.num_batches_tracked == step + 1
    state = layer.state_dict()
    assert layer.eval() is layer and not layer.training
    np.testing.assert_array_equal(layer(x), cbn.batch_norm(x, mean, var, layer.weight, layer.bias))
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    assert layer.train() is layer and layer.training


def test_cumulative_average_is_the_plain_mean():
    layer = cbn.BatchNorm(2, momentum=None)
    batches = [filled((5, 2), 1, np.float32, seed=s) for s in range(6)]
    for x in batches:
        layer(x)
    np.testing.assert_allclose(layer.running_mean, np.mean([x.mean(0) for x in batches], axis=0), atol=1e-6)
    np.testing.assert_allclose(layer.running_var, np.mean([x.var(0, ddof=1) for x in batches], axis=0), rtol=1e-5)


def test_without_running_statistics():
    layer = made(track_running_stats=False)
    x = filled((6, 3), 1, np.float32)
    assert layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    y = layer(x)
    np.testing.assert_array_equal(layer.eval()(x), y)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(x[:1])
    with pytest.raises(RuntimeError, match="affine_map must be called on a layer with running statistics; got none"):
        layer.affine_map()
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.check(x).ok


def test_track_running_stats_switched_off_later():
    """As torch: training updates nothing, evaluation still uses the statistics."""
    layer = made()
    layer.track_running_stats = False
    x = filled((6, 3), 1, np.float32)
    layer(x)
    assert layer.num_batches_tracked == 0 and not layer.running_mean.any()
    np.testing.assert_array_equal(
        layer.eval()(x), cbn.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )


@pytest.mark.parametrize(("options", "keys"), [({"affine": False}, []), ({"bias": False}, ["weight"])])
def test_without_parameters(options, keys):
    layer = made(**options)
    x = filled((6, 3, 4), 1, np.float32)
    layer(x)
    layer.backward(np.ones_like(x))
    assert list(layer.state_dict()) == [*keys, "running_mean", "running_var", "num_batches_tracked"]
    assert (layer.weight_grad is None) == (layer.weight is None) and layer.bias_grad is None
    assert layer.check(x).ok


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_check_and_axis(axis, dtype):
    x = filled((6, 5, 4), axis, dtype)
    layer = made(x.shape[axis], axis=axis, dtype=dtype)
    layer(x)
    before = snapshot(layer)
    report = layer.check(x)
    assert report.ok
    assert_same(before, layer)
    assert set(report.max_ulp) == {"forward", "backward", "running", "inference"}
    assert [c.quantity for c in report.comparisons] == [
        "y",
        "mean",
        "inv_std",
        "dx",
        "dweight",
        "dbias",
        "running_mean",
        "running_var",
        "y",
    ]
    assert layer.check(x, np.ones_like(x)).ok
    assert layer.eval().check(x).ok and not layer.training


def test_check_with_two_values_empty_and_cumulative():
    for shape in [(2, 3), (0, 3), (2, 3, 4), (4, 0), (0, 0)]:
        for dtype in (np.float32, np.float64):
            assert made(shape[1], dtype=dtype, momentum=None).check(filled(shape, 1, dtype)).ok


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-38, 1e-30, 1e30, 1e37])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_check_at_the_ends_of_float32(scale, eps):
    x = (np.random.default_rng(0).uniform(-1, 1, (20, 3, 4)) * scale).astype(np.float32)
    assert made(eps=eps).check(x).ok


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_check_with_a_bad_value(bad):
    x = filled((6, 3, 4), 1, np.float32)
    x[2, 1, 3] = bad
    layer = made()
    with np.errstate(all="ignore"):
        assert layer.check(x).ok
        layer(x)
        assert layer.check(x).ok


@pytest.mark.parametrize("quantity", ["batch_norm_backward", "_affine", "_inverse_std"])
def test_check_finds_a_difference(monkeypatch, quantity):
    original = getattr(reference, quantity)

    def wrong(*args, **kwargs):
        result = original(*args, **kwargs)
        return tuple(r * (1 + 1e-3) for r in result) if isinstance(result, tuple) else result * (1 + 1e-3)

    layer = made()
    x = filled((6, 3), 1, np.float32)
    monkeypatch.setattr(reference, quantity, wrong)
    with pytest.raises(cbn.OracleMismatch, match="TOO LARGE") as caught:
        layer.check(x)
    assert not caught.value.report.ok


def test_float32_layer_takes_float64():
    assert cbn.BatchNorm(3)(np.random.default_rng(0).random((8, 3))).dtype == np.float64
    layer = made()
    x = filled((6, 3), 1, np.float64)
    assert layer.check(x).ok
    layer(x)
    assert layer.backward(x).dtype == np.float64 and layer.weight_grad.dtype == np.float32


def test_float64_layer_takes_float32():
    layer, x = made(dtype=np.float64), filled((6, 3), 1, np.float32)
    assert layer.check(x).ok
    assert layer(x).dtype == np.float32
    assert layer.backward(x).dtype == np.float32 and layer.weight_grad.dtype == np.float64


def test_lists():
    layer = cbn.BatchNorm(2)
    y = layer([[1.0, 2.0], [3.0, 6.0]])
    np.testing.assert_allclose(y, [[-1, -1], [1, 1]], atol=1e-4)
    assert layer.backward([[1.0, 0.0], [0.0, 0.0]]).shape == (2, 2)


@pytest.mark.parametrize(
    ("layer_class", "good", "text"),
    [
        (cbn.BatchNorm1d, (2, 3), "expected 2D or 3D input"),
        (cbn.BatchNorm2d, (4,), "expected 4D input"),
        (cbn.BatchNorm3d, (5,), "expected 5D input"),
    ],
)
def test_ranks(layer_class, good, text):
    layer = layer_class(3)
    for rank in range(6):
        x = np.random.default_rng(0).random((2,) * rank if rank < 2 else (4, 3, *(2,) * (rank - 2)), dtype=np.float32)
        if rank in good:
            assert layer(x).shape == x.shape
        else:
            with pytest.raises(ValueError, match=rf"^{text} \(got {rank}D input\)"):
                layer(x)


def test_repr():
    assert repr(cbn.BatchNorm2d(3)) == (
        "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)"
    )
    assert repr(cbn.BatchNorm(3, affine=False, momentum=None, axis=-1, dtype=np.float64)) == (
        "BatchNorm(3, eps=1e-05, momentum=None, affine=False, bias=False, track_running_stats=True, axis=-1, "
        "dtype=float64)"
    )


def test_torch_attributes():
    layer = cbn.BatchNorm2d(16)
    assert {"affine", "eps", "momentum", "num_features", "track_running_stats", "training"} <= vars(layer).keys()
    layer(filled((1, 16, 7, 7), 1, np.float32))
    assert layer.num_batches_tracked.dtype == np.int64 and layer.num_batches_tracked.shape == ()


FAILING = {
    "channels": (lambda layer, x: layer(x[:, :2]), ValueError, r"x must have 3 channels on axis 1; got 2"),
    "dtype": (
        lambda layer, x: layer(x.astype(int)),
        TypeError,
        "x must be float32, float64, float16 or bfloat16; got int64",
    ),
    "one value": (lambda layer, x: layer(x[:1, :, :1]), ValueError, "Expected more than 1 value per channel"),
    "out": (lambda layer, x: layer(x, out=np.zeros((1, 3), np.float32)), ValueError, "out must have shape"),
    "masked": (lambda layer, x: layer(np.ma.masked_array(x)), TypeError, "x must be an array without a mask"),
    "dy shape": (lambda layer, x: layer.backward(x[:1]), ValueError, "dy must have shape"),
    "dy dtype": (lambda layer, x: layer.backward(x.astype(float)), TypeError, "dy must have dtype float32"),
    "dx out": (lambda layer, x: layer.backward(x, out=x[:1].copy()), ValueError, "out must have shape"),
    "state": (lambda layer, x: layer.load_state_dict({}), ValueError, "state must have exactly the keys"),
}


@pytest.mark.parametrize(("call", "error", "message"), FAILING.values(), ids=FAILING)
def test_a_failed_call_changes_nothing(call, error, message):
    layer = made()
    x = filled((4, 3, 5), 1, np.float32)
    layer(x)
    layer.backward(x)
    before = snapshot(layer)
    with pytest.raises(error, match=message):
        call(layer, x)
    assert_same(before, layer)


def test_damaged_statistics_are_refused_before_anything_is_written():
    layer = made()
    x = filled((4, 3, 5), 1, np.float32)
    layer.running_var = np.ones(2, np.float32)
    before = snapshot(layer)
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match=r"running_var must have shape \(3,\)"):
        layer(x, out=out)
    assert_same(before, layer)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("counter", "error", "message"),
    [
        (None, TypeError, "num_batches_tracked must be an int64 array of one value; got None"),
        (3, TypeError, "num_batches_tracked must be an int64 array of one value; got 3"),
        (np.array(0, np.int32), TypeError, "num_batches_tracked must be an int64 array of one value"),
        (np.array(0.0), TypeError, "num_batches_tracked must be an int64 array of one value"),
        (np.array(-1), ValueError, r"num_batches_tracked must lie between 0 and 2\*\*62; got -1"),
        (
            np.array(2**63 - 1),
            ValueError,
            r"num_batches_tracked must lie between 0 and 2\*\*62; got 9223372036854775807",
        ),
        (np.array(0, ">i8"), TypeError, "num_batches_tracked must be an int64 array of one value"),
    ],
    ids=str,
)
def test_damaged_counter(counter, error, message):
    layer = made(momentum=None)
    layer.num_batches_tracked = counter
    before = snapshot(layer)
    with pytest.raises(error, match=message):
        layer(filled((4, 3, 5), 1, np.float32))
    assert_same(before, layer)


def test_read_only_counter():
    layer = made()
    layer.num_batches_tracked.flags.writeable = False
    with pytest.raises(ValueError, match="num_batches_tracked must be aligned and writeable"):
        layer(filled((4, 3, 5), 1, np.float32))


def test_check_does_not_look_through_a_mask():
    x = filled((4, 3, 5), 1, np.float32)
    with pytest.raises(TypeError, match="x must be an array without a mask"):
        made().check(np.ma.masked_array(x, x > 0))


def test_affine_map_of_a_negative_variance():
    layer = made()
    layer.running_var[1] = -1
    with pytest.raises(ValueError, match=r"running_var must be >= 0 in every channel; got -1.0 in channel 1"):
        layer.affine_map()


def test_affine_map_of_damaged_statistics():
    layer = made()
    layer.running_var = np.ones(3, np.int32)  # half as long in memory as what a float64 reader would expect
    with pytest.raises(TypeError, match="running_var must be float32, float64, float16 or bfloat16; got int32"):
        layer.affine_map()
    layer.running_var = np.array([1, -9, 2, -9, 3, -9], np.float32)[::2]
    assert layer.affine_map()[0].shape == (3,)


def test_empty_batch_changes_nothing():
    layer = made()
    layer(filled((4, 3), 1, np.float32))
    state = layer.state_dict()
    assert layer(np.empty((0, 3), np.float32)).shape == (0, 3)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    assert layer.backward(np.empty((0, 3), np.float32)).shape == (0, 3)
    assert not layer.weight_grad.any()


def test_backward_needs_a_training_call():
    x = filled((4, 3), 1, np.float32)
    message = "backward must follow a training call that kept x; got "
    for prepare, got in [
        (lambda layer: None, "none"),
        (lambda layer: layer.eval()(x), "none"),
        (lambda layer: (layer(x), layer.eval()), "none"),
        (lambda layer: layer(x.copy(), out=x.copy()) is None, None),
        (lambda layer: layer(same := x.copy(), out=same), "the training call overwrote x"),
        (lambda layer: layer(same := x.copy(), out=same[:]), "the training call overwrote x"),
    ]:
        layer = made()
        prepare(layer)
        if got is None:
            layer.backward(x)
            continue
        with pytest.raises(RuntimeError, match=message + got):
            layer.backward(x)
    layer = made()
    layer(kept := x.copy())
    layer.backward(x, out=kept)
    with pytest.raises(RuntimeError, match="the last backward overwrote x"):
        layer.backward(x)
    with pytest.raises(RuntimeError, match="a copy of a layer"):
        copy.copy(layer).backward(x)


def test_backward_keeps_x_by_reference():
    layer = made()
    x = filled((4, 3), 1, np.float32)
    layer(x)
    assert layer._saved.x is x
    assert (layer.eval()._saved, layer.batch_mean) == (None, None)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in range(6))]
)
def test_copies(duplicate):
    layer = made(momentum=0.3, eps=1e-3, axis=-1)
    x = filled((4, 5, 3), -1, np.float32)
    layer(x)
    twin = duplicate(layer)
    assert type(twin) is type(layer) and repr(twin) == repr(layer)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[key], value)
        assert not np.shares_memory(getattr(twin, key), getattr(layer, key))
    np.testing.assert_array_equal(twin(x), layer(x))
    layer.running_mean[...] = 77
    assert not (twin.running_mean == 77).any()


def test_reset():
    layer = made()
    layer(filled((4, 3), 1, np.float32))
    layer.reset_running_stats()
    assert not layer.running_mean.any() and (layer.running_var == 1).all() and layer.num_batches_tracked == 0
    assert layer.bias.any()
    layer.reset_parameters()
    assert (layer.weight == 1).all() and not layer.bias.any()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"eps": 0.0}])
def test_affine_map(options):
    layer = made(**options)
    x = filled((40, 3), 1, np.float32)
    layer(x)
    if options.get("eps") == 0:
        layer.running_var[1] = 0
    scale, shift = layer.affine_map()
    assert scale.dtype == shift.dtype == np.float64 and scale.shape == shift.shape == (3,)
    np.testing.assert_allclose(x.astype(np.float64) * scale + shift, layer.eval()(x), rtol=0, atol=1e-5)


def test_many_threads_on_one_layer():
    """No update is lost: with cumulative averaging the order of the batches does not matter (but to rounding)."""
    layer = cbn.BatchNorm(8, momentum=None, dtype=np.float64)
    batches = [filled((50, 8, 30), 1, np.float64, seed=s) for s in range(40)]
    expected = cbn.BatchNorm(8, momentum=None, dtype=np.float64)
    for x in batches:
        expected(x)
    results = {}

    def work(first):
        for i in range(first, 40, 4):
            results[i] = layer(batches[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.num_batches_tracked == 40
    np.testing.assert_allclose(layer.running_mean, expected.running_mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(layer.running_var, expected.running_var, rtol=1e-13)
    for i, x in enumerate(batches):
        np.testing.assert_array_equal(results[i], cbn.batch_norm(x, training=True))
