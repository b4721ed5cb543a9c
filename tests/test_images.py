"""test_images: uint8 images, normalized on their way to float32: against the oracle and torch, and the same bits."""

import numpy as np
import pytest
from cases import spread

import cbn
from cbn import reference

RNG = np.random.default_rng(7)
SHAPES = [(1, 1), (1, 1, 1), (3, 5), (2, 3, 5), (7, 4, 4), (40, 7, 9), (3, 64, 65), (2, 224, 224), (2, 3, 5, 7)]
CHANNELS = [1, 2, 3, 4, 7, 20]
# (axis, channels_first)
WAYS = [(-1, True), (-1, False), (-3, True), (-3, False), (-2, True), (0, True), (0, False)]


def images_of(shape, channels, axis=-1):
    return np.moveaxis(RNG.integers(0, 256, (*shape, channels), np.uint8), -1, axis).copy()


def numbers(channels):
    return np.linspace(0.3, 0.6, channels), np.linspace(0.2, 0.3, channels)


def layer_of(channels, dtype=np.float32, **options):
    rng = np.random.default_rng(channels)
    layer = cbn.BatchNorm(channels, dtype=dtype, **options).eval()
    layer.running_mean[...] = rng.standard_normal(channels)
    layer.running_var[...] = rng.uniform(0.01, 2, channels)
    if layer.weight is not None:
        layer.weight[...] = rng.standard_normal(channels)
    if layer.bias is not None:
        layer.bias[...] = rng.standard_normal(channels)
    return layer


def assert_images(y, images, mean, std, layer=None, axis=-1, channels_first=True):
    """y within the bound of `batch_norm` in inference."""
    axis = axis % images.ndim
    exact = reference.normalize_images(images, mean, std, layer=layer, axis=axis, channels_first=channels_first)
    assert y.dtype == np.float32 and y.shape == exact.shape
    limit = np.maximum(1, np.abs(exact))
    if layer is not None:
        plain = cbn.BatchNorm(layer.num_features, layer.eps, affine=False, dtype=layer.dtype).eval()
        plain.running_mean[...], plain.running_var[...] = layer.running_mean, layer.running_var
        x_hat = reference.normalize_images(images, mean, std, layer=plain, axis=axis, channels_first=channels_first)
        place = y.ndim - 3 if channels_first else axis
        for size in (
            x_hat * spread(1 if layer.weight is None else layer.weight, y, place),
            spread(0 if layer.bias is None else layer.bias, y, place),
        ):
            limit = np.maximum(limit, np.abs(size))
    assert (np.abs(y - exact) <= 4 * 2.0**-24 * limit).all()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, channels):
    mean, std = numbers(channels)
    for axis, channels_first in WAYS:
        images = images_of(shape, channels, axis)
        way = {"axis": axis, "channels_first": channels_first}
        y = cbn.normalize_images(images, mean, std, **way)
        assert y.flags.c_contiguous and y.flags.owndata
        assert_images(y, images, mean, std, **way)
        layer = layer_of(channels)
        assert_images(cbn.normalize_images(images, mean, std, layer=layer, **way), images, mean, std, layer, **way)


def test_a_large_image(isa):
    images = images_of((1080, 1920), 3)
    assert_images(cbn.normalize_images(images, *numbers(3)), images, *numbers(3))


@pytest.mark.parametrize("channels", [129, 400, 17000])
def test_many_channels(channels):
    """More than are taken apart at once."""
    images = images_of((3, 5, 9), channels)
    assert_images(cbn.normalize_images(images, *numbers(channels)), images, *numbers(channels))


def test_all_values():
    images = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for mean, std in ((0, 1), (0.5, 0.5), (100 / 255, 1e-6), (1e6, 3.0), (-1e-30, 1e-30), (0.1, 1e30)):
        assert_images(cbn.normalize_images(images, [mean], [std]), images, [mean], [std])
    y = cbn.normalize_images(images, [0], [1]).ravel()
    assert y[0] == 0 and y[255] == 1 and (np.diff(y) > 0).all()


LAYOUTS = {
    "crop": lambda x: np.pad(x, [(2, 1)] * (x.ndim - 1) + [(0, 0)])[(slice(2, -1),) * (x.ndim - 1)],
    "flip": lambda x: x[..., ::-1, :].copy()[..., ::-1, :],
    "bgr": lambda x: x[..., ::-1].copy()[..., ::-1],
    "every other": lambda x: np.repeat(x, 2, axis=-2)[..., ::2, :],
    "F": np.asfortranarray,
    "planes below": lambda x: np.moveaxis(np.moveaxis(x, -1, -3).copy(), -3, -1),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 4])
def test_layouts(layout, channels):
    images, (mean, std) = images_of((3, 19, 21), channels), numbers(channels)
    given = LAYOUTS[layout](images)
    expected = cbn.normalize_images(images, mean, std)
    np.testing.assert_array_equal(cbn.normalize_images(given, mean, std), expected)
    nchw = np.moveaxis(given, -1, 1)
    np.testing.assert_array_equal(cbn.normalize_images(nchw, mean, std, axis=1), expected)
    for view, axis in ((given, -1), (nchw, 1)):
        y = cbn.normalize_images(view, mean, std, axis=axis, channels_first=False)
        np.testing.assert_array_equal(np.moveaxis(y, axis, 1), expected)
        assert y.flags.c_contiguous or y.strides == tuple(4 * stride for stride in view.strides)


LAYERS = {
    "affine": lambda: layer_of(3),
    "no bias": lambda: layer_of(3, bias=False),
    "no weight": lambda: layer_of(3, weight=False),
    "float16": lambda: layer_of(3, np.float16),
    "not affine": lambda: layer_of(3, affine=False),
    "float64, axis": lambda: layer_of(3, np.float64, axis=-1),
    "eps": lambda: layer_of(3, eps=0.5),
    "relu": lambda: layer_of(3, activation="relu"),
    "leaky_relu": lambda: layer_of(3, activation="leaky_relu", negative_slope=0.2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, isa):
    layer, images = LAYERS[name](), images_of((2, 33, 35), 3)
    for axis, channels_first in ((-1, True), (-1, False), (1, True)):
        way = {"layer": layer, "axis": axis, "channels_first": channels_first}
        given = np.moveaxis(images, -1, axis).copy()
        y = cbn.normalize_images(given, *numbers(3), **way)
        assert_images(y, given, *numbers(3), **way)
    assert (y < 0).any() == (name != "relu")


def test_a_layer_of_extremes(isa):
    """A mean of many deviations, a channel without variance, and one that needs doubles."""
    layer, images = layer_of(4, eps=0), images_of((2, 33, 35), 4)
    layer.running_mean[...], layer.running_var[...] = [1e6, 2, 1, 0], [1, 1e-8, 0, 1]
    layer.weight[...] = [1, 1, 1, 1e35]
    assert_images(cbn.normalize_images(images, *numbers(4), layer=layer), images, *numbers(4), layer)
    layer.running_mean[0] = np.nan
    y = cbn.normalize_images(images, *numbers(4), layer=layer)
    assert np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1:]).all()


@pytest.mark.parametrize(
    ("shape", "channels"), [((3, 200, 211), 3), ((900, 9, 9), 2), ((1, 300, 301), 4), ((5, 40, 50), 20)]
)
def test_same_bits(shape, channels):
    images, layer = images_of(shape, channels), layer_of(channels, activation="leaky_relu")
    layer.weight[0] = 1e35  # in doubles
    expected = None
    for isa in cbn.available_isas():
        for num_threads in (1, 2, 3, 7):
            for offset in (0, 1, 13):  # of 4-byte values from what the allocator gives
                out = np.empty(images.size + 16, np.float32)[offset:][: images.size]
                out = out.reshape(shape[0], channels, *shape[1:])
                with cbn.use_isa(isa):
                    cbn.normalize_images(images, *numbers(channels), layer=layer, out=out, num_threads=num_threads)
                expected = out.tobytes() if expected is None else expected
                assert out.tobytes() == expected, (isa, num_threads, offset)
    nchw = np.moveaxis(images, -1, 1).copy()
    assert cbn.normalize_images(nchw, *numbers(channels), layer=layer, axis=1).tobytes() == expected


def test_out():
    images = images_of((2, 9, 10), 3)
    expected = cbn.normalize_images(images, *numbers(3))
    out = np.empty((2, 3, 9, 10), np.float32)
    assert cbn.normalize_images(images, *numbers(3), out=out) is out
    np.testing.assert_array_equal(out, expected)
    out = np.empty((2, 9, 10, 3), np.float32)
    assert cbn.normalize_images(images, *numbers(3), channels_first=False, out=out) is out
    np.testing.assert_array_equal(np.moveaxis(out, -1, 1), expected)
    oracle = reference.normalize_images(images, *numbers(3), channels_first=False, out=out)
    assert oracle is out


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 5, 0)])
def test_empty(shape):
    y = cbn.normalize_images(np.empty(shape, np.uint8), *numbers(shape[-1]))
    assert y.shape == (shape[0], shape[3], *shape[1:3]) and y.dtype == np.float32


IMAGES = images_of((2, 4, 5), 3)
SHARED = np.zeros(2 * 4 * 5 * 3, np.float32)
GOOD = {"images": IMAGES, "mean": [0.5] * 3, "std": [0.5] * 3}
WRONG = [
    ({"images": IMAGES.astype(np.float32)}, TypeError, r"images must be uint8; got float32: .*astype\(np.uint8\)"),
    ({"images": IMAGES.astype(np.int64)}, TypeError, "images must be uint8; got int64"),
    ({"images": IMAGES > 3}, TypeError, "images must be uint8; got bool"),
    ({"images": IMAGES.astype(object)}, TypeError, "images must be uint8; got object$"),
    ({"images": np.ma.masked_array(IMAGES)}, TypeError, "images must be an array without a mask"),
    ({"images": IMAGES[0, 0]}, ValueError, r"images must have rank 3 or more; got shape \(5, 3\)"),
    ({"axis": 4}, ValueError, "axis must lie between -4 and 3 for images of rank 4; got 4"),
    ({"axis": 1.0}, TypeError, "axis must be an integer; got float"),
    ({"mean": [0.5] * 4}, ValueError, r"mean must have shape \(3,\), one value per channel; got \(4,\)"),
    ({"mean": 0.5}, ValueError, r"mean must have shape \(3,\)"),
    ({"mean": [0, np.nan, 0]}, ValueError, "mean must be finite in every channel; got"),
    ({"mean": np.ma.masked_array([0, 1, 2])}, TypeError, "mean must be an array without a mask"),
    ({"std": ["a"] * 3}, TypeError, "std must be an array of real numbers; got <U1"),
    ({"std": [1j] * 3}, TypeError, "std must be an array of real numbers; got complex128"),
    ({"std": [1, 0, 1]}, ValueError, r"std must be > 0 in every channel; got \[1. 0. 1.\]"),
    ({"std": [1, np.inf, 1]}, ValueError, "std must be finite in every channel"),
    ({"layer": 3}, TypeError, "layer must be a BatchNorm; got int"),
    ({"layer": cbn.BatchNorm(3)}, RuntimeError, "layer must be in evaluation mode; got one in training mode"),
    (
        {"layer": cbn.BatchNorm(3, track_running_stats=False).eval()},
        RuntimeError,
        "layer must have running statistics; got one with track_running_stats=False",
    ),
    ({"layer": cbn.BatchNorm(4).eval()}, ValueError, "layer must have 3 channels, as images have; got 4"),
    ({"out": np.empty((2, 4, 5, 3), np.float32)}, ValueError, r"out must have shape \(2, 3, 4, 5\), as y has; got"),
    ({"out": np.empty((2, 3, 4, 5))}, TypeError, "out must have dtype float32 for images; got float64"),
    ({"out": [1]}, TypeError, "out must be a NumPy array without a mask; got list"),
    ({"out": np.empty((2, 3, 4, 5), np.float32, order="F")}, ValueError, "out must be an aligned array in C order"),
    (
        {"images": SHARED.view(np.uint8)[:120].reshape(2, 4, 5, 3), "out": SHARED.reshape(2, 3, 4, 5)},
        ValueError,
        "out must share no memory with images; got an overlap",
    ),
    ({"num_threads": 0}, ValueError, "num_threads must be an integer from 1 to 65536; got 0"),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[f"{list(w[0])}-{i}" for i, w in enumerate(WRONG)])
def test_wrong_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        cbn.normalize_images(**{**GOOD, **changes})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_torch(channels):
    torch = pytest.importorskip("torch")
    images, (mean, std) = images_of((3, 65, 67), channels), numbers(channels)
    y = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    y = y.sub(torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
    y = y.div(torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)).numpy()
    np.testing.assert_allclose(cbn.normalize_images(images, mean, std), y, rtol=1e-6, atol=1e-6)


# --- uint8 in inference ---


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 3, 30, 31), 1), ((2, 20, 7, 7), 1), ((5, 9, 11, 3), -1), ((70, 33), 1)]
)
def test_batch_norm(shape, axis, isa):
    x = RNG.integers(0, 256, shape, np.uint8)
    channels = shape[axis]
    mean, var = RNG.uniform(0, 255, channels), RNG.uniform(1, 5000, channels)
    weight, bias = RNG.standard_normal((2, channels)).astype(np.float32)
    residual = RNG.standard_normal(shape).astype(np.float32)
    parameters = mean, var, weight, bias
    size = np.abs(reference.batch_norm(x, mean, var, weight, axis=axis))
    size = np.maximum(np.maximum(size, 1), np.abs(spread(bias, x, axis)))
    for extras in ({}, {"residual": residual, "activation": "relu"}):
        exact = reference.batch_norm(x, *parameters, axis=axis, **extras)
        bound = 4 * 2.0**-24 * np.maximum(np.maximum(size, np.abs(residual)) if extras else size, np.abs(exact))
        for num_threads in (1, 3):
            y = cbn.batch_norm(x, *parameters, axis=axis, num_threads=num_threads, **extras)
            assert y.dtype == np.float32 and (np.abs(y - exact) <= bound).all()


def test_batch_norm_is_not_in_place():
    """Images and out that begin at one address overlap, whatever their shapes."""
    out = np.empty((4, 3), np.float32)
    x = out.view(np.uint8).ravel()[:12].reshape(4, 3)
    with pytest.raises(ValueError, match="out must be x itself or share no memory with it; got a partial overlap"):
        cbn.batch_norm(x, np.zeros(3), np.ones(3), out=out)
