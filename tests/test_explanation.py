"""test_explanation: explain finds the convention, eps and momentum that made y and the running statistics."""

import ml_dtypes
import numpy as np
import pytest
from test_conventions import FACTS, TRAINABLE

import cbn

RNG = np.random.default_rng(5)


def batch(dtype=np.float64, scale=0.2, shape=(4, 3, 5)):
    """With a variance that lets eps show."""
    return (scale * RNG.standard_normal(shape) + RNG.standard_normal((3, 1))).astype(dtype)


def trained(convention, dtype, x, **options):
    layer = cbn.BatchNorm(3, convention=convention, dtype=dtype, **options)
    layer.weight[...], layer.bias[...] = [1, -2, 0.5], [0, 1, -1]
    return layer, layer(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_training(name, dtype):
    x = batch(dtype)
    layer, y = trained(name, dtype, x)
    found = cbn.explain(x, y, layer.state_dict())
    assert found.normalized_with == ("batch",) or name == "tf_fused"  # whose statistics are those of this batch, then
    assert layer.eps in found.eps and (len(found.eps) == 1 or max(found.eps) <= 1e-6)
    assert "inside" in found.eps_place and found.activation is None
    new = 1 if layer.momentum is None else layer.convention.weight_of_new(layer.momentum)
    assert found.momentum == pytest.approx(new, rel=1e-4) and found.variance == (FACTS[name][1],)
    assert found.conventions == (name,)
    assert (found.differences == ()) == (name == "torch")
    assert cbn.explain(x, y, layer.state_dict(), assumed=name).differences == ()


@pytest.mark.parametrize("momentum", [0.3, 0.05])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 1e-2])
def test_other_numbers(eps, momentum):
    """From a state before, in NHWC, under Keras' names."""
    x = np.moveaxis(batch(), 1, -1).copy()
    layer, _ = trained("keras", np.float64, x, eps=eps, momentum=momentum, axis=-1)
    before = layer.state_dict()
    x = x + RNG.standard_normal(3) + 0.01 * RNG.standard_normal(x.shape)
    y, state = layer(x), layer.state_dict()
    renamed = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = cbn.explain(x, y, {k: state[v] for k, v in renamed.items()}, before=before, axis=-1, assumed="keras")
    assert found.eps == (eps,) and found.variance == ("biased",) and found.normalized_with == ("batch",)
    assert found.momentum == pytest.approx(1 - momentum, rel=1e-6)
    assert len(found.differences) == 2 and "keras" in found.conventions and "torch" not in found.conventions


@pytest.mark.parametrize("name", FACTS)
def test_inference(name):
    layer = cbn.BatchNorm(3, convention=name, dtype=np.float64).eval()
    layer.running_mean[...], layer.running_var[...] = RNG.standard_normal(3), [1e-4, 1e-3, 1e-5]
    x = batch()
    found = cbn.explain(x, layer(x), layer.state_dict(), before=layer.state_dict(), assumed=name)
    assert found.normalized_with == ("running", "running, before") and found.eps == (layer.eps,)
    assert found.eps_place == (layer.convention.eps_place,) and found.momentum is None
    assert name in found.conventions and found.differences == () and "have not moved" in found.notes[0]


def test_parts():
    x = batch()
    layer, y = trained("onnx", np.float64, x)
    state = layer.state_dict()
    found = cbn.explain(x, state=state)
    assert found.normalized_with == () and found.variance == ("biased",) and found.conventions == ("onnx",)
    found = cbn.explain(x, y, {k: state[k] for k in ("weight", "bias")})
    assert found.momentum is None and found.eps == (1e-5,) and {"torch", "onnx", "flax"} <= set(found.conventions)


def test_unbiased_y():
    x = batch()
    y = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), ddof=1, keepdims=True) + 1e-5)
    found = cbn.explain(x, y)
    assert found.normalized_with == ("batch, unbiased",) and "unbiased variance" in found.differences[-1]


def test_relu():
    x = batch()
    found = cbn.explain(
        x, np.maximum(trained("torch", np.float64, x)[1], 0), {"weight": [1, -2, 0.5], "bias": [0, 1, -1]}
    )
    assert found.activation == "relu" and found.eps == (1e-5,) and "followed by relu" in str(found)


def test_what_cannot_be_told():
    """eps beside a large variance in float32, and variances of many values."""
    x = batch(np.float32, scale=100)
    found = cbn.explain(x, trained("torch", np.float32, x)[1], {"weight": [1, -2, 0.5], "bias": [0, 1, -1]})
    assert {0.0, 1e-6, 1e-5} <= set(found.eps) and "these apart" in found.notes[0]
    x = batch(np.float32, shape=(4096, 3, 1024))
    found = cbn.explain(x, state=trained("torch", np.float32, x)[0].state_dict())
    assert {"unbiased", "biased"} <= set(found.variance) and "told apart" in found.notes[0]


def test_what_does_not_fit():
    x = batch()
    layer, y = trained("torch", np.float64, x)
    assert "nothing gives y; the nearest, " in cbn.explain(x, y + x**2, layer.state_dict()).notes[0]
    assert "nothing gives y; the nearest, " in cbn.explain(x, y).notes[0]  # without weight and bias
    layer(batch())
    assert "running_mean is no average" in cbn.explain(x, state=layer.state_dict()).notes[0]
    state = trained("torch", np.float64, x)[0].state_dict()
    state["running_var"] *= 1.5
    assert "running_var fits no variance" in cbn.explain(x, state=state).notes[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    """The other channels answer; without any it is an error."""
    x = batch()
    x[0, 1, 0] = bad
    layer, y = trained("torch", np.float64, x)
    found = cbn.explain(x, y, layer.state_dict())
    assert found.notes == ("channel 1 is left out: not all values are finite",) and found.conventions == ("torch",)
    assert found.eps == (1e-5,) and found.variance == ("unbiased",)
    x[:] = bad
    with pytest.raises(ValueError, match="x and y must have a channel in which all values are finite; got none"):
        cbn.explain(x, y)


def test_half_precision():
    x = batch(np.float16)
    layer, y = trained("keras", np.float16, x)
    found = cbn.explain(x, y, layer.state_dict(), assumed="keras")
    assert found.normalized_with[0] == "batch" and 1e-3 in found.eps and "biased" in found.variance


def manual(x, inverse, new=0.1, unbiased=True):
    mean = x.mean((0, 2), keepdims=True)
    state = {"running_mean": new * mean.ravel(), "running_var": 1 - new + new * x.var((0, 2), ddof=unbiased)}
    return (x - mean) * inverse, state


@pytest.mark.parametrize("eps", [2e-5, 5e-4, 3e-3, 0.02])
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_unusual_eps(eps, scale):
    x = batch(scale=scale)
    y, state = manual(x, 1 / np.sqrt(x.var((0, 2), keepdims=True) + eps))
    found = cbn.explain(x, y, state)
    assert (
        found.eps == (pytest.approx(eps, rel=1e-9),) and found.eps_place == ("inside",) and "torch" in found.conventions
    )


def test_refuted_by_one_of_both():
    """No convention is named that y or the statistics speak against."""
    x = batch()
    var = x.var((0, 2), keepdims=True)
    y, state = manual(x, 1 / np.sqrt(var + 1e-5))
    assert cbn.explain(x, y, state).conventions == ("torch",)
    assert cbn.explain(x, y**3, state).conventions == ()
    assert cbn.explain(x, y, {**state, "running_var": 2 * state["running_var"]}).conventions == ()
    assert cbn.explain(x, *manual(x, 1 / np.sqrt(x.var((0, 2), ddof=1, keepdims=True) + 1e-5))).conventions == ()
    assert cbn.explain(x, *manual(x, 1 / (np.sqrt(var) + 1e-3))).conventions == ()  # and nothing trains so


def test_y_that_is_only_positive():
    x = batch()
    layer, _ = trained("torch", np.float64, x)
    layer.bias += 10
    assert cbn.explain(x, layer(x), {"weight": layer.weight, "bias": layer.bias}).activation is None


def test_several_calls():
    x = batch()
    layer, _ = trained("torch", np.float64, x)
    found = cbn.explain(x, layer(x), layer.state_dict())
    assert any("0.81 is 0.9**2: as after 2 calls" in note for note in found.notes)


def test_evaluation_without_before():
    layer = cbn.BatchNorm(1, dtype=np.float64).eval()
    layer.running_mean[...], layer.running_var[...] = 3, 0.5
    x = RNG.standard_normal((8, 1, 5))
    found = cbn.explain(x, layer(x), layer.state_dict())
    assert found.momentum is None and found.normalized_with == ("running",) and "`before` is needed" in found.notes[-1]
    found = cbn.explain(x, state=layer.state_dict())
    assert found.momentum is None and found.conventions == () and "no average" in found.notes[0]


def test_rounding_of_the_states():
    """A mean that hardly moves shows momentum badly, and that is said; no wrong variance."""
    x = (10 + 0.01 * RNG.standard_normal((8, 3, 20))).astype(np.float32)
    layer = cbn.BatchNorm(3, momentum=0.001)
    layer.running_mean[...], layer.running_var[...] = x.mean((0, 2)) + 1e-4, 1e-4
    before = layer.state_dict()
    layer(x)
    found = cbn.explain(x, state=layer.state_dict(), before=before)
    assert found.momentum is None or any("moved too little" in note for note in found.notes)
    assert found.momentum is None or "unbiased" in found.variance


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_half_precision_states(name):
    for seed in range(30):
        x = np.random.default_rng(seed).standard_normal((4, 3, 25)).astype(np.float16)
        layer = cbn.BatchNorm(3, convention=name, dtype=np.float16)
        y = layer(x)
        found = cbn.explain(x, y, layer.state_dict())
        assert found.momentum == pytest.approx(0.1, rel=0.05) and FACTS[name][1] in found.variance


def test_eps_that_could_also_stand_outside():
    """Beside a variance near 1, half an eps outside the root is the same: both are said, and no wrong default fits."""
    x = RNG.standard_normal((32, 8, 256)).astype(np.float32)
    layer = cbn.BatchNorm(8, eps=2e-3).eval()
    found = cbn.explain(x, layer(x), layer.state_dict())
    assert {(way.eps, way.eps_place) for way in found.ways if way.normalized_with == "running"} == {
        ((0.002,), "inside"),
        ((0.001,), "outside"),
    }
    assert not found.by_default and "fits, with another eps or momentum: torch" in str(found)
    assert any("eps is 0.002" in text for text in found.differences)
    layer = cbn.BatchNorm(8, eps=2e-5).eval()
    found = cbn.explain(x, layer(x), layer.state_dict())
    (inside,) = (way for way in found.ways if (way.normalized_with, way.eps_place) == ("running", "inside"))
    assert inside.least <= 2e-5 <= inside.most and not inside.is_sure and "fits)" in str(found)


@pytest.mark.parametrize("eps", [2e-5, 3e-4, 2e-3, 0.07])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_true_eps_is_in_the_range(eps, relu, training):
    """Of few values, with means that are large or not, float32 or not."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        dtype = (np.float32, np.float64)[seed % 2]
        shape = (int(rng.integers(2, 9)), 3)
        x = (rng.standard_normal(shape) * rng.choice([0.01, 1, 10]) + rng.choice([0, 1, 30])).astype(dtype)
        layer = cbn.BatchNorm(3, eps=eps, dtype=dtype, activation="relu" if relu else None)
        layer.weight[...], layer.bias[...] = [1, -2, 0.5], [0, 1, -1]
        layer.running_mean[...], layer.running_var[...] = x.mean(0) + 0.1, 0.5 + rng.random(3)
        parameters = {"weight": layer.weight.copy(), "bias": layer.bias.copy()}
        if not training:
            parameters |= {"running_mean": layer.running_mean.copy(), "running_var": layer.running_var.copy()}
        found = cbn.explain(x, layer.train(training)(x), parameters)
        source = "batch" if training else "running"
        ways = [w for w in found.ways if (w.normalized_with, w.eps_place) == (source, "inside")]
        assert len(ways) == 1 and ways[0].least * (1 - 1e-9) <= eps <= ways[0].most * (1 + 1e-9), (seed, found)


@pytest.mark.parametrize("change", ["constant", "offset", "no weight"])
def test_one_channel_does_not_ruin_the_others(change):
    x, weight = (0.3 * RNG.standard_normal((16, 6))).astype(np.float32), np.ones(6, np.float32)
    if change == "constant":
        x[:, 2] = 1000
    elif change == "offset":
        x[:, 2] += 1e4
    else:
        weight[2] = 0
    found = cbn.explain(x, cbn.batch_norm(x, weight=weight, training=True), {"weight": weight})
    assert found.eps == (1e-5,) and found.normalized_with == ("batch",) and found.eps_place == ("inside",)


def test_hints_where_y_does_not_fit():
    x = batch()
    layer, y = trained("torch", np.float64, x)
    state = layer.state_dict()
    assert "are weight and bias missing?" in cbn.explain(x, y).notes[1]
    assert "other weight and bias than those given" in cbn.explain(x, y, {**state, "bias": np.zeros(3)}).notes[1]
    found = cbn.explain(x, 1.5 * y, {**state, "bias": 1.5 * state["bias"]})
    assert "its slope 1.5 to 1.5 times what that gives" in found.notes[1]
    assert "is rounding" in cbn.explain(x, y.round(4), state).notes[1]
    far = RNG.standard_normal((40, 3)) + 1000
    off = (far - far.mean(0)) / np.sqrt(far.var(0) * [1.01, 1.02, 0.99] + 1e-5)
    assert any("E[x^2] - E[x]^2?" in note for note in cbn.explain(far, off).notes)
    assert "no straight line over x" in cbn.explain(x, np.tanh(y), state).notes[1]
    square = 0.2 * RNG.standard_normal((16, 6, 6)) + RNG.standard_normal(6)
    y = cbn.batch_norm(square, training=True, axis=-1)
    assert "with axis=2 it fits" in cbn.explain(square, y).notes
    y = cbn.batch_norm(square[:, :4], training=True, axis=-1)  # of another size, which no array contradicts
    assert "with axis=2 it fits" in cbn.explain(square[:, :4], y).notes


def test_hints_about_states():
    x = batch()
    layer, y = trained("torch", np.float64, x)
    state = layer.state_dict()
    assert cbn.explain(x, y, {**state, "gain": state["weight"]}).notes[0] == "state has what is not used: gain"
    found = cbn.explain(x, y, state, before=state)  # as of torch, whose state dicts are no copies
    assert any("or `before` is no copy" in note for note in found.notes)
    layer(batch())
    notes = cbn.explain(x, state=layer.state_dict()).notes
    assert any(
        "`before` was not given and taken as 0 and 1; was there one call only (it has had 2)" in n for n in notes
    )


def test_renorm_is_named():
    layer = cbn.BatchNorm(3, renorm=True, dtype=np.float64)
    y = layer(batch())
    notes = cbn.explain(batch(), y, layer.state_dict()).notes
    assert notes[0] == "state is that of a layer with renorm, which is not looked for"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_that_were_computed_more_coarsely(dtype):
    """And were widened on the way: torch's bfloat16 comes to NumPy as float32 only."""
    x = batch(np.dtype(dtype) if dtype != "bfloat16" else np.dtype(ml_dtypes.bfloat16))
    layer = cbn.BatchNorm(3, dtype=x.dtype, momentum=0.5)
    y = layer(x)
    for wide in (np.float32, np.float64):
        state = {name: value.astype(wide) for name, value in layer.state_dict().items() if name.startswith("running")}
        found = cbn.explain(x.astype(wide), y.astype(wide), state)
        assert "batch" in found.normalized_with and "inside" in found.eps_place, found
        assert found.momentum is None or found.momentum == pytest.approx(0.5, rel=0.05)


def test_sums_of_another_system_in_float64():
    """Their mean is off by some units, which at 1000 deviations is many of y's."""
    x = RNG.normal(1000, 1, (4000, 3))
    mean = x.mean(0) * (1 + 3e-16)
    found = cbn.explain(x, (x - mean) / np.sqrt(x.var(0) + 1e-5))
    assert found.normalized_with == ("batch",) and found.eps_place == ("inside",)


def test_what_shows_nothing():
    """A weight of 0, a constant x, a relu that lets nothing through."""
    x = batch()
    note = "y shows nothing: in every channel weight is 0, x is constant or y is 0"
    cases = [
        (x, np.zeros_like(x), {"weight": np.zeros(3)}),
        (np.ones_like(x), np.zeros_like(x), {}),
        (x, np.zeros_like(x), {"bias": np.full(3, -1e9)}),
    ]
    for given, y, state in cases:
        found = cbn.explain(given, y, {"weight": np.ones(3), **state})
        assert found.ways == () and found.notes == (note,)


def test_one_sample_in_evaluation():
    layer = cbn.BatchNorm(3, dtype=np.float64, eps=1e-3).eval()
    layer.running_mean[...], layer.running_var[...] = [1, 2, 3], [0.01, 0.02, 0.03]
    x = RNG.standard_normal((1, 3))
    found = cbn.explain(x, layer(x), layer.state_dict())
    assert found.normalized_with == ("running",) and found.eps == (1e-3,) and "keras" in found.conventions


def test_eps_outside_where_it_is_assumed():
    layer = cbn.BatchNorm(3, convention="notes", eps=5e-4).eval()
    x = batch(np.float32)
    for assumed in ("torch", "notes"):
        found = cbn.explain(x, layer(x), layer.state_dict(), assumed=assumed)
        places = {(way.eps, way.eps_place) for way in found.ways}
        assert (((0.0005,), "outside") in places) == (assumed == "notes")


def test_evaluation_that_a_batch_could_have_given():
    """Two values per channel: some eps makes nearly every y one of training; the running statistics still count."""
    layer = cbn.BatchNorm(1, dtype=np.float64).eval()
    layer.running_mean[...], layer.running_var[...] = 0.5, 300.0
    x = np.array([[0.0], [1.0]])
    found = cbn.explain(x, layer(x), layer.state_dict())
    assert "running" in found.normalized_with and "torch" in found.conventions


def test_mixed_up_momentum():
    x = batch()
    layer, y = trained("torch", np.float64, x, momentum=0.9)
    (text,) = cbn.explain(x, y, layer.state_dict()).differences
    assert text.endswith("keeps 0.9: the weights of old and new are mixed up (0.9 and 0.1)")


def test_plain_average():
    layer, _ = trained("paper", np.float64, batch())
    before, x = layer.state_dict(), batch()
    found = cbn.explain(x, layer(x), layer.state_dict(), before=before)
    assert "0.5 is 1 / 2, num_batches_tracked: a plain average, momentum=None" in found.notes


@pytest.mark.parametrize(
    ("dtype", "offset", "advice"), [(np.float16, 0, "in 16 bits"), (np.float32, 1e3, "nearer to 0")]
)
def test_advice(dtype, offset, advice):
    x = (RNG.standard_normal((16, 3)) + offset).astype(dtype)
    assert advice in cbn.explain(x, cbn.batch_norm(x, training=True)).notes[0]


class Tensor:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


X, STATE = np.ones((4, 3)), {"running_mean": np.ones(3), "running_var": np.ones(3)}
FAULTS = [
    ({}, ValueError, "y or state must be given, state with running statistics; got neither"),
    ({"state": {"weight": np.ones(3)}}, ValueError, "y or state must be given"),
    ({"y": X[:2]}, ValueError, "y must have shape (4, 3), as x has; got (2, 3)"),
    ({"y": X.astype(str)}, TypeError, "y must be an array of real numbers; got <U"),
    ({"x": np.ma.array(X), "y": X}, TypeError, "x must be an array without a mask; got a masked array"),
    ({"x": np.ones(3), "y": X}, ValueError, "x must have rank 2 or more; got shape (3,)"),
    ({"x": X[:1], "y": X[:1]}, ValueError, "x must have a channel, and 2 or more values in each; got shape (1, 3)"),
    (
        {"x": X[:, :0], "y": X[:, :0]},
        ValueError,
        "x must have a channel, and 2 or more values in each; got shape (4, 0)",
    ),
    ({"y": X, "axis": 2}, ValueError, "axis must lie between -2 and 1 for x of rank 2; got 2"),
    ({"y": X, "axis": "1"}, TypeError, "axis must be an integer; got str"),
    ({"y": Tensor()}, TypeError, "y must be an array of real numbers; got Tensor: Can't call numpy()"),
    ({"y": [[1], [1, 2]]}, TypeError, "y must be an array of real numbers; got list: "),
    ({"state": {"bn.weight": [1]}}, ValueError, "state must have arrays like weight or running_mean; got bn.weight"),
    ({"state": [1]}, TypeError, "state must be a dict of arrays; got list: of Keras' weights cbn.interop.keras.from"),
    ({"state": cbn.BatchNorm(3)}, TypeError, "state must be a dict of arrays; got BatchNorm: give its state_dict()"),
    ({"y": X.T}, ValueError, "y must have shape (4, 3), as x has; got (3, 4), which has the axes in another order"),
    (
        {"state": {"weight": np.ones(4)}, "y": X},
        ValueError,
        "state['weight'] must have shape (3,), the channels of axis 1 of x; got (4,) (axis 0 has so many)",
    ),
    (
        {"state": {"bn.running_mean": [1]}},
        ValueError,
        "state must have arrays like weight or running_mean; got bn.running_mean: of a model's state cbn.interop.torch",
    ),
    ({"y": X, "before": 3}, TypeError, "before must be a dict of arrays; got int"),
    (
        {"state": {**STATE, "running_var": np.ones(2)}},
        ValueError,
        "state['running_var'] must have shape (3,), the channels of axis 1 of x; got (2,)",
    ),
    ({"state": {"moving_mean": np.ones(3)}}, ValueError, "state must have both running statistics or neither; got"),
    ({"y": X, "assumed": "caffe"}, ValueError, "convention must be a Convention or one of torch,"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), FAULTS, ids=[message[:40] for *_, message in FAULTS])
def test_faults(arguments, error, message):
    with pytest.raises(error) as caught:
        cbn.explain(**{"x": X, **arguments})
    assert str(caught.value).startswith(message)
