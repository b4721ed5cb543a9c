"""test_hazards_sizes: no values, one value, and sizes that no memory holds."""

import resource
from pathlib import Path

import numpy as np
import pytest
from cases import ALL_DTYPES, LAYOUTS
from hazards import KINDS, layer_of
from hypothesis import given, settings
from hypothesis import strategies as st

import cbn

F32 = np.float32


@st.composite
def empty(draw):
    """x without values, and an axis: zeros in every position."""
    shape = draw(st.lists(st.integers(0, 3), min_size=2, max_size=5).filter(lambda sizes: 0 in sizes))
    axis = draw(st.integers(0, len(shape) - 1))
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    return LAYOUTS[layout](np.zeros(shape, draw(st.sampled_from(ALL_DTYPES))), axis), axis


def positions_of(x, axis):
    return x.shape[:axis] + x.shape[axis + 1 :]


def unchanged(layer, before):
    return all(array.tobytes() == before[name].tobytes() for name, array in layer.state_dict().items())


@given(empty(), st.booleans(), st.sampled_from([None, "relu"]), st.booleans())
@settings(deadline=None, max_examples=200, derandomize=True)
def test_functions_of_nothing(case, training, activation, weighted):
    x, axis = case
    channels, positions = x.shape[axis], positions_of(x, axis)
    none_counts = 0 in positions
    running = np.full(channels, 0.5, F32), np.full(channels, 2, F32)
    weights = {"mask": np.ones(positions, bool), "sample_weight": np.ones(positions)} if weighted else {}
    options = {"axis": axis, "activation": activation, **weights}
    dtype = x.dtype.newbyteorder("=")
    if np.prod(positions) == 1 and training:  # one position, of no channels: nothing is asked of it
        assert channels == 0
    y = cbn.batch_norm(x, *running, training=training, residual=x, **options)
    assert y.shape == x.shape and y.dtype == dtype
    assert (running[0] == 0.5).all() and (running[1] == 2).all()
    y, mean, inv_std = cbn.batch_norm_forward(x, **options)
    assert y.shape == x.shape and (mean == 0).all() and (inv_std == 1 / np.sqrt(1e-5)).all()
    dx, dweight, dbias, dresidual = cbn.batch_norm_backward(
        x, x, mean, inv_std, training=training, y=x, residual=True, **options
    )
    assert dx.shape == dresidual.shape == x.shape and not dweight.any() and not dbias.any()
    ddy, dx, dweight = cbn.batch_norm_double_backward(x, None, None, x, x, mean, inv_std, training=training, axis=axis)
    assert ddy.shape == dx.shape == x.shape and not dweight.any()
    moments = cbn.moments(x, axis=axis, **weights)
    assert moments.mean.shape == (channels,) and not moments.m2.any()
    assert (moments.count == 0) == none_counts
    before = running[0].copy(), running[1].copy()
    if none_counts:
        cbn.update_running(*running, moments, 0.5)
        assert (running[0] == before[0]).all() and (running[1] == before[1]).all()


@given(empty(), st.sampled_from(sorted(KINDS)), st.booleans(), st.sampled_from(["propagate", "raise", "skip"]))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_layers_of_nothing(case, kind, out, nonfinite):
    x, axis = case
    if kind == "ghosts" and axis == 0:
        axis = 1  # along which no ghost batches are cut
    x = x.astype(F32)
    layer = layer_of(kind, x.shape[axis], axis=axis)
    layer.nonfinite = nonfinite
    before = layer.state_dict()
    out = {"out": np.zeros(x.shape, F32)} if out else {}
    y = layer(np.ascontiguousarray(x), residual=x, **out)
    assert y.shape == x.shape
    if 0 in positions_of(x, axis):
        assert unchanged(layer, before)
    dx, dresidual = layer.backward(np.zeros(x.shape, F32))
    assert dx.shape == dresidual.shape == x.shape
    assert not layer.weight_grad.any() and not layer.bias_grad.any()
    before = layer.state_dict()
    assert layer.eval()(x).shape == x.shape and unchanged(layer, before)
    if 0 in positions_of(x, axis):
        with pytest.raises(ValueError, match="must"):
            cbn.recompute_statistics(layer.train(), [x], progress=False)
        with pytest.raises(ValueError, match="must"):
            layer.drift(x)
    assert unchanged(layer, before)


@given(empty(), st.sampled_from(["skip", "raise", "propagate"]))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_features_of_nothing(case, nan):
    x, axis = case
    normalizer = cbn.FeatureNormalizer(axis=axis, nan=nan)
    if 0 in positions_of(x, axis):
        assert normalizer.fit(x).moments is None
    one = np.moveaxis(np.arange(2.0 * x.shape[axis]).reshape(2, -1), 1, 0 if axis == 0 else 1)
    normalizer = cbn.FeatureNormalizer(axis=0 if axis == 0 else 1, nan=nan).fit(one)
    before = repr(normalizer.moments)
    if axis <= 1:
        normalizer.partial_fit(x)
        assert normalizer.transform(x).shape == normalizer.inverse_transform(x).shape == x.shape
        if 0 in positions_of(x, axis):
            assert repr(normalizer.moments) == before


@given(st.lists(st.integers(0, 3), min_size=3, max_size=4).filter(lambda sizes: 0 in sizes), st.booleans())
@settings(deadline=None, max_examples=50, derandomize=True)
def test_images_of_nothing(shape, channels_first):
    images = np.zeros(shape, np.uint8)
    numbers = np.ones(shape[-1]), np.ones(shape[-1])
    y = cbn.normalize_images(images, *numbers, channels_first=channels_first)
    assert y.shape == (np.moveaxis(images, -1, -3).shape if channels_first else images.shape)


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (4, 0, 3, 3), (4, 2, 0, 3), (0, 0, 0, 0)], ids=str)
def test_folds_of_nothing(shape):
    before, after = layer_of(channels=shape[1]).eval(), layer_of(channels=shape[0]).eval()
    for norm, following in ((after, True), (before, False)):
        for kernel in (np.zeros(shape, F32), np.zeros(shape[:2], F32)):
            fold = cbn.fold_conv if kernel.ndim > 2 else cbn.fold_linear
            padding = {"padding": 0} if kernel.ndim > 2 and not following else {}
            try:
                weight, bias = fold(kernel, None, norm, following=following, **padding)
            except ValueError as error:
                assert "must" in str(error)
            else:
                assert weight.shape == kernel.shape and bias.shape == shape[:1]
    scale, shift = cbn.fold_affine(before, before)
    assert scale.shape == shift.shape == shape[1:2]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"frozen"}))
@given(st.integers(2, 5), st.data())
@settings(deadline=None, max_examples=20, derandomize=True)
def test_one_value_per_channel(kind, rank, data):
    axis = data.draw(st.integers(1, rank - 1))
    shape = [1] * rank
    shape[axis] = data.draw(st.integers(1, 4))
    x, layer = np.ones(shape, F32), layer_of(kind, shape[axis], axis=axis)
    before, out = layer.state_dict(), np.full(shape, 7, F32)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        layer(x, out=out)
    assert unchanged(layer, before) and (out == 7).all()
    mask = np.zeros((2, *positions_of(x, axis)[1:]), bool)
    mask[1] = True
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        layer(np.ones([2, *shape[1:]], F32), mask=mask)
    assert unchanged(layer, before)
    assert layer.eval()(x).shape == x.shape


# --- sizes that no memory holds: no crash, and nothing has changed ---

ABSURD = {
    "no samples of 2**61 channels": lambda: np.empty((0, 2**61), np.float16),
    "no samples of 2**60 channels": lambda: np.empty((0, 2**60), F32),
    "no channels of 2**62 samples": lambda: np.empty((2**60, 0), F32),
    "no values in the midst": lambda: np.empty((2**30, 3, 0, 2**29), F32),
    "one value, 2**40 times": lambda: np.broadcast_to(F32(1), (2**40, 3)),
    "one value in a plane of 2**41": lambda: np.broadcast_to(F32(1), (2, 3, 2**41)),
    "one value on many axes": lambda: np.broadcast_to(F32(1), (2**10, 2**10, 2**10, 2**10, 2**10, 2**9)),
    "windows": lambda: np.lib.stride_tricks.as_strided(np.zeros(8, F32), (2**41, 3), (0, 4)),
}


@pytest.fixture
def address_space():
    """4 GB more than now, lest a machine that promises more memory than it has kills the tests."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**32, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("address_space")
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes(name):
    x = ABSURD[name]()
    layer = cbn.BatchNorm(3)
    before = layer.state_dict()
    ones = np.ones(3)
    calls = [
        lambda: cbn.batch_norm(x, training=True),
        lambda: cbn.batch_norm(x, ones, ones),
        lambda: cbn.batch_norm(x, ones.copy(), ones.copy(), training=True),
        lambda: cbn.batch_norm(x, training=True, mask=True, sample_weight=1.0),
        lambda: cbn.batch_norm_backward(x, x, ones, ones),
        lambda: cbn.batch_norm_double_backward(x, None, None, x, x, ones, ones),
        lambda: cbn.moments(x),
        lambda: layer(x),
        lambda: cbn.BatchNorm(3, virtual_batch_size=2)(x),
        lambda: cbn.BatchNorm(3, renorm=True)(x),
        lambda: cbn.FeatureNormalizer().fit(x),
        lambda: layer.drift(x),
    ]
    refused = 0
    for call in calls:
        try:
            call()
        except (MemoryError, ValueError):
            refused += 1
    assert unchanged(layer, before)
    if x.size:
        assert refused == len(calls)


def test_a_layer_of_more_channels_than_memory_has():
    with pytest.raises((MemoryError, ValueError)):
        cbn.BatchNorm(2**40)
