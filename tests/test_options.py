"""test_options: what a layer's options do: policies, frozen, ghost batches, renormalization, zero_debias."""

import re

import numpy as np
import pytest
from cases import filled, parameters

import cbn
from cbn import reference
from cbn.ghosts import ghost_slices

SHAPES = [((37, 3), 1), ((12, 5, 7, 7), 1), ((9, 4, 20, 21), 1), ((10, 6, 5, 4), -1)]


def made(channels, axis=1, seed=1, **options):
    """A layer with weight, bias and running statistics that are not the default."""
    layer = cbn.BatchNorm(channels, axis=axis, **options)
    weight, bias = parameters(channels, layer.dtype, seed)
    if layer.weight is not None:
        layer.weight[...] = weight
    if layer.bias is not None:
        layer.bias[...] = bias
    if layer.running_mean is not None:
        layer.running_mean[...] = np.linspace(-1, 1, channels)
        layer.running_var[...] = np.linspace(0.5, 2, channels)
    return layer


def state(layer):
    return {name: value.tobytes() for name, value in layer.state_dict().items()}


# --- policies ---


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "options", [{}, {"virtual_batch_size": 2}, {"renorm": True}], ids=["plain", "ghosts", "renorm"]
)
@pytest.mark.parametrize("out", [False, True])
def test_nonfinite(bad, options, out):
    x = filled((4, 3, 5), 1, np.float32)
    x[3, 1, 2] = bad
    target = np.full_like(x, 7)
    arguments = {"out": target} if out else {}
    raising = made(3, nonfinite="raise", **options)
    before = state(raising)
    with pytest.raises(ValueError, match=r"x must have a finite mean and variance in every channel, .* in channel 1"):
        raising(x, **arguments)
    assert state(raising) == before and (target == 7).all()
    skipping = made(3, nonfinite="skip", **options)
    y = skipping(x, **arguments)
    assert np.isnan(y[3, 1, 2]) and np.isfinite(y[:, [0, 2]]).all()
    if options.get("virtual_batch_size"):  # the first of the two batches is sound
        assert skipping.num_batches_tracked == 1 and np.isfinite(skipping.running_mean).all()
    else:
        assert state(skipping) == before
    spoilt = made(3, **options)
    spoilt(x)
    assert np.isnan(spoilt.running_mean[1]) and np.isfinite(spoilt.running_mean[[0, 2]]).all()


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_finite_batches_pass(policy):
    x = filled((4, 3, 5), 1, np.float32)
    plain, layer = made(3), made(3, nonfinite=policy)
    np.testing.assert_array_equal(layer(x), plain(x))
    assert state(layer) == state(plain)


@pytest.mark.parametrize(
    "options", [{}, {"virtual_batch_size": 2}, {"renorm": True}], ids=["plain", "ghosts", "renorm"]
)
def test_one_value(options):
    x = filled((1, 3), 1, np.float32)
    layer = made(3, **options)
    before = state(layer)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        layer(x)
    assert state(layer) == before
    layer = made(3, one_value="zero_var", momentum=0.5, **options)
    before = layer.running_var.copy()
    y = layer(x)
    if not options.get("renorm"):
        np.testing.assert_array_equal(y[0], layer.bias)
        np.testing.assert_array_equal(layer.running_var, before / 2)
    np.testing.assert_array_equal(layer.backward(x), np.zeros((1, 3)))


def test_scale_only_and_shift_only():
    x, dy = filled((20, 3), 1, np.float32), filled((20, 3), 1, np.float32, seed=2)
    scale, shift = made(3, bias=False), made(3, weight=False)
    assert (scale.bias, shift.weight) == (None, None)
    assert list(shift.state_dict()) == ["bias", "running_mean", "running_var", "num_batches_tracked"]
    exact = reference.batch_norm_forward(x, scale.weight)[0]
    np.testing.assert_allclose(scale(x), exact, atol=1e-6)
    exact = reference.batch_norm_forward(x, None, shift.bias)[0]
    np.testing.assert_allclose(shift(x), exact, atol=1e-6)
    shift.backward(dy)
    assert shift.weight_grad is None and shift.bias_grad.shape == (3,)
    assert shift.check(x, dy).ok and scale.check(x, dy).ok


# --- frozen ---


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("activation", [None, "leaky_relu"])
def test_frozen(shape, axis, activation):
    x, dy = filled(shape, axis, np.float32), filled(shape, axis, np.float32, seed=2)
    layer = made(shape[axis], axis, frozen=True, activation=activation)
    before = state(layer)
    y = layer(x)
    assert state(layer) == before
    np.testing.assert_array_equal(y, made(shape[axis], axis, activation=activation).eval()(x))
    dx = layer.backward(dy)
    inv_std = 1 / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
    fixed = {"axis": axis, "training": False, "activation": activation, "y": y}
    exact = reference.batch_norm_backward(dy, x, layer.running_mean, inv_std, layer.weight, **fixed)
    for got, wanted in zip((dx, layer.weight_grad, layer.bias_grad), exact, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    layer.frozen = False
    layer(x)
    assert state(layer) != before


# --- ghost batches ---


@pytest.mark.parametrize("samples", range(1, 30))
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_ghost_slices(samples, size):
    slices = ghost_slices(samples, size, 4)
    covered = [i for part in slices for i in range(samples)[part]]
    lengths = [part.stop - part.start for part in slices]
    assert covered == list(range(samples))
    assert max(lengths) <= size and len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0]
    alone = ghost_slices(samples, size, 1)
    assert samples == 1 or size == 1 or min(part.stop - part.start for part in alone) > 1


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("size", [2, 4, 5, 100])
def test_ghost_batches(shape, axis, size):
    """As a plain layer that is called with one part after the other."""
    x, dy = filled(shape, axis, np.float32), filled(shape, axis, np.float32, seed=2)
    residual = filled(shape, axis, np.float32, seed=3)
    options = {"activation": "relu"}
    layer, plain = made(shape[axis], axis, virtual_batch_size=size, **options), made(shape[axis], axis, **options)
    y = layer(x, residual=residual)
    dx, dresidual = layer.backward(dy)
    dweight = dbias = 0
    for part in ghost_slices(shape[0], size, x[0].size // shape[axis]):
        np.testing.assert_array_equal(y[part], plain(x[part], residual=residual[part]))
        dx_part, dresidual_part = plain.backward(dy[part])
        np.testing.assert_array_equal(dx[part], dx_part)
        np.testing.assert_array_equal(dresidual[part], dresidual_part)
        dweight, dbias = dweight + plain.weight_grad.astype(float), dbias + plain.bias_grad.astype(float)
    assert state(layer) == state(plain)
    np.testing.assert_allclose(layer.weight_grad, dweight, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(layer.bias_grad, dbias, rtol=1e-6, atol=1e-5)
    outs = np.empty_like(dx), np.empty_like(dx)
    layer.backward(dy, out=outs)
    np.testing.assert_array_equal(outs[0], dx)
    np.testing.assert_array_equal(outs[1], dresidual)


def test_ghost_batches_with_mask_layouts_and_out():
    x = np.moveaxis(filled((9, 6, 5, 4), -1, np.float32), -1, 1)
    mask = np.arange(6) < 4
    mask = np.broadcast_to(mask[:, None], (6, 5))
    layer, plain = made(4, virtual_batch_size=4), made(4)
    out = np.empty_like(x)
    assert layer(x, mask=mask, out=out) is out and out.strides == x.strides
    for part in ghost_slices(9, 4, 30):
        np.testing.assert_array_equal(out[part], plain(x[part], mask=mask))
    assert state(layer) == state(plain)
    layer(x, out=x)
    with pytest.raises(RuntimeError, match="the training call overwrote x"):
        layer.backward(out)
    assert layer(x[:0]).shape == (0, 4, 6, 5)


# --- batch renormalization ---


def renormalized(layer, x, axis):
    """y, r and d in float64, by the paper's formula."""
    count, mean, m2 = reference.statistics(x, axis)
    std = np.sqrt(m2 / count + layer.eps)
    bounds = {"rmin": 0, "rmax": np.inf, "dmax": np.inf, **(layer.renorm_clipping or {})}
    r = np.clip(std / layer.renorm_std, bounds["rmin"], bounds["rmax"])
    d = np.clip((mean - layer.renorm_mean) / layer.renorm_std, -bounds["dmax"], bounds["dmax"])
    x_hat = (np.moveaxis(x.astype(np.float64), axis, -1) - mean) / std
    return np.moveaxis((x_hat * r + d) * layer.weight + layer.bias, -1, axis), r, d, mean, std


@pytest.mark.parametrize("clipping", [None, {"rmax": 1.1, "rmin": 0.9, "dmax": 0.2}], ids=["free", "clipped"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_renorm(shape, axis, clipping):
    layer = made(shape[axis], axis, renorm=True, renorm_clipping=clipping, momentum=0.3, renorm_momentum=0.2)
    for step in range(3):
        x = (3 * filled(shape, axis, np.float32, seed=step) + 1).astype(np.float32)
        dy = filled(shape, axis, np.float32, seed=9)
        exact, r, d, mean, std = renormalized(layer, x, axis)
        before = {name: value.astype(float) for name, value in layer.state_dict().items()}
        np.testing.assert_allclose(layer(x), exact, rtol=1e-5, atol=1e-5)
        dx = layer.backward(dy)
        plain = reference.batch_norm_backward(dy, x, mean, 1 / std, r * layer.weight, axis=axis)
        np.testing.assert_allclose(dx, plain[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.weight_grad, r * plain[1] + d * plain[2], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(layer.bias_grad, plain[2], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(layer.renorm_mean, 0.8 * before["renorm_mean"] + 0.2 * mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.renorm_std, 0.8 * before["renorm_std"] + 0.2 * std, rtol=1e-5)
        np.testing.assert_allclose(layer.running_mean, 0.7 * before["running_mean"] + 0.3 * mean, rtol=1e-5, atol=1e-6)
        running = 0.7 * np.sqrt(before["running_var"] + layer.eps) + 0.3 * std
        np.testing.assert_allclose(layer.running_var, running**2 - layer.eps, rtol=1e-5)
        assert layer.num_batches_tracked == step + 1


# --- zero_debias ---


def test_zero_debias():
    """TensorFlow keeps a biased mean and corrects it; cbn does the same without the biased one."""
    layer, plain = cbn.BatchNorm(3, momentum=0.1, zero_debias=True), cbn.BatchNorm(3, momentum=0.1)
    biased = np.zeros(3)
    for step in range(1, 6):
        x = filled((20, 3), 1, np.float32, seed=step) + np.float32(5)
        np.testing.assert_array_equal(layer(x), plain(x))
        biased = 0.9 * biased + 0.1 * x.astype(float).mean(axis=0)
        np.testing.assert_allclose(layer.running_mean, biased / (1 - 0.9**step), rtol=1e-6)
        np.testing.assert_array_equal(layer.running_var, plain.running_var)
    never = cbn.BatchNorm(3, momentum=0.0, zero_debias=True)
    never(x)
    np.testing.assert_array_equal(never.running_mean, np.zeros(3))


# --- arguments ---

REFUSED = [
    ({"nonfinite": "ignore"}, ValueError, "nonfinite must be one of propagate, raise, skip; got 'ignore'"),
    ({"one_value": None}, ValueError, "one_value must be one of error, zero_var; got None"),
    ({"activation": "gelu"}, ValueError, "activation must be None, 'relu' or 'leaky_relu'; got 'gelu'"),
    ({"negative_slope": -0.1}, ValueError, "negative_slope must be a number from 0 to 3.4e38; got -0.1"),
    ({"virtual_batch_size": 0}, ValueError, "virtual_batch_size must be 1 or more; got 0"),
    ({"virtual_batch_size": 2.0}, TypeError, "virtual_batch_size must be an integer; got float"),
    ({"virtual_batch_size": 2, "axis": 0}, ValueError, "axis must not be 0, along which ghost batches are cut; got 0"),
    ({"renorm_clipping": {"max": 1}}, ValueError, "renorm_clipping must be a dict with keys from rmin, rmax and dmax"),
    ({"renorm_clipping": {"rmax": "3"}}, ValueError, "renorm_clipping must have numbers >= 0; got rmax='3'"),
    ({"renorm_clipping": {"rmax": 1, "rmin": 2}}, ValueError, "renorm_clipping must have rmin <= rmax; got"),
    ({"renorm_momentum": 2}, ValueError, "renorm_momentum must be a number in [0, 1]; got 2"),
    ({"renorm": True, "virtual_batch_size": 2}, ValueError, "virtual_batch_size must be None with renorm; got 2"),
    ({"renorm": True, "zero_debias": True}, ValueError, "zero_debias must be False with renorm; got True"),
    (
        {"frozen": True, "track_running_stats": False},
        ValueError,
        "frozen must be False without running statistics; got True",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=[m[:45] for _, _, m in REFUSED])
def test_refused(options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        cbn.BatchNorm(3, **options)


EVERYTHING = [
    {"activation": "leaky_relu", "negative_slope": 0.2, "weight": False, "dtype": np.float16},
    {"nonfinite": "skip", "one_value": "zero_var", "frozen": True},
    {"virtual_batch_size": 4, "zero_debias": True, "bias": False},
    {"renorm": True, "renorm_clipping": {"rmax": 3.0, "dmax": 5.0}, "renorm_momentum": 0.05},
]


@pytest.mark.parametrize("options", EVERYTHING, ids=lambda options: next(iter(options)))
def test_options_survive_repr_and_files(options, tmp_path):
    layer = made(3, **options)
    layer.save(tmp_path / "layer.npz")
    loaded = cbn.BatchNorm.load(tmp_path / "layer.npz")
    assert repr(loaded) == repr(layer) and state(loaded) == state(layer)
    for name, value in options.items():
        shown = "float16" if name == "dtype" else repr(value)
        assert f"{name}={shown}" in repr(layer)
    x = filled((8, 3), 1, np.float32 if layer.dtype == np.float32 else np.float16)
    np.testing.assert_array_equal(loaded(x), layer(x))
    assert state(loaded) == state(layer)


def test_bfloat16_layer(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    layer = made(3, dtype=bfloat16)
    x = filled((40, 3), 1, np.float32).astype(bfloat16)
    assert layer(x).dtype == bfloat16 and layer.backward(x).dtype == bfloat16 == layer.weight_grad.dtype
    layer.save(tmp_path / "layer.npz")
    loaded = cbn.BatchNorm.load(tmp_path / "layer.npz")
    assert loaded.dtype == bfloat16 and state(loaded) == state(layer)
    wide = cbn.BatchNorm(3)
    wide.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(wide.weight, layer.weight.astype(np.float32))
