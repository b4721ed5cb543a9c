"""test_conversion: layers as other conventions write them, held against layers trained under those from the start."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import cbn
from cbn import conventions

MOVING = ["torch", "keras", "tf_fused", "tf_contrib", "onnx", "flax", "paper"]
PAIRS = list(itertools.permutations(MOVING, 2))


def batches(number, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(3, 2, (count, 4)) for _ in range(number)]


def trained(convention, xs, new=0.1, dtype=np.float64, **options):
    """A layer that was trained with this weight of the new value."""
    convention = conventions.named(convention)
    kept = new if new is None or convention.momentum_weighs == "new" else 1 - new
    layer = cbn.BatchNorm(4, eps=1e-3, momentum=kept, convention=convention, dtype=dtype, **options)
    for x in xs:
        layer(x.astype(dtype, copy=False))
    return layer


def assert_like(layer, other, tolerance=1e-13):
    assert layer.convention == other.convention and repr(layer) == repr(other)
    np.testing.assert_allclose(layer.running_mean, other.running_mean, rtol=tolerance)
    np.testing.assert_allclose(layer.running_var, other.running_var, rtol=tolerance)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("new", [0.1, 0.375, 1.0, None])
def test_as_if_trained_there(source, target, new):
    """After few batches, when the start still weighs; with few values, where the variances differ most."""
    xs = batches(3, 5)
    layer = trained(source, xs, new)
    before = layer.state_dict()
    converted = cbn.convert(layer, target)
    assert_like(converted, trained(target, xs, new))
    assert_like(cbn.convert(converted, source), layer)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("number", [1, 4])
def test_dtypes(dtype, number):
    """One rounding of the conversion, and those of each batch on both sides."""
    xs = batches(number, 6)
    converted = cbn.convert(trained("keras", xs, dtype=dtype), "torch")
    assert converted.running_var.dtype == dtype
    wanted = trained("torch", xs, dtype=dtype).running_var.astype(float)
    assert (abs(converted.running_var - wanted) <= (number + 1) * float(ml_dtypes.finfo(dtype).eps) * wanted).all()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_count_travels_in_files_and_states(tmp_path, suffix):
    xs = batches(4, 5)
    layer = trained("keras", xs)
    layer.save(tmp_path / f"layer{suffix}")
    loaded = cbn.BatchNorm.load(tmp_path / f"layer{suffix}")
    other = cbn.BatchNorm(4, eps=1e-3, momentum=0.9, convention="keras", dtype=np.float64)
    other.load_state_dict(layer.state_dict())
    assert layer.state_dict()._metadata[""]["count"] == 5
    for same in (loaded, other):
        assert same.count == 5
        assert_like(cbn.convert(same, "torch"), trained("torch", xs))


def test_state_that_does_not_know():
    """A plain dict says nothing of n; its counter and momentum say what the start still weighs."""
    xs = batches(4, 5)
    layer = trained("keras", xs)
    other = cbn.BatchNorm(4, eps=1e-3, momentum=0.9, convention="keras", dtype=np.float64)
    other.load_state_dict(dict(layer.state_dict()))
    assert other.count is None
    with pytest.raises(
        ValueError, match=r"count must be given to make the biased running variance unbiased, .*; got None"
    ):
        cbn.convert(other, "torch")
    assert_like(cbn.convert(other, "torch", count=5), trained("torch", xs))
    other.load_state_dict({**layer.state_dict(), "num_batches_tracked": 0})  # as in old ones: the start is forgotten
    converted = cbn.convert(other, "torch", count=5)
    np.testing.assert_allclose(converted.running_var, other.running_var * 5 / 4, rtol=1e-14)


@pytest.mark.parametrize("batches_known", [True, False])
def test_a_state_that_is_trained_on(batches_known):
    """What its start weighs is settled as it is loaded, whatever momentum and counter do afterwards."""
    xs, layers = batches(6, 5), [trained("keras", []), trained("torch", [])]
    for layer in layers:
        for x in xs[:3]:
            layer(x)
        state = dict(layer.state_dict())
        if not batches_known:
            state["num_batches_tracked"] = np.array(0)
        layer.load_state_dict(state)
        layer.momentum = 0.5
        for x in xs[3:]:
            layer(x)
    converted = cbn.convert(layers[0], "torch", count=5)
    error = abs(converted.running_var - layers[1].running_var).max()
    assert error < 1e-13 if batches_known else 1e-3 < error < 0.9**3 * 0.5**3 / 4 + 1e-13  # that of the start, at most


def test_a_fresh_state_is_fresh():
    """A module that was not trained yet goes through every convention untouched."""
    layer = cbn.BatchNorm(4, dtype=np.float64)
    layer.load_state_dict(dict(layer.state_dict()))
    assert layer.count == 0
    np.testing.assert_array_equal(cbn.convert(layer, "keras").running_var, 1)
    layer(batches(1, 5)[0])
    assert layer.count == 5


def test_filled_by_hand():
    """A running variance that is not 1 when the first batch comes is as one that was loaded."""
    layers = [trained("keras", []), trained("torch", [])]
    layers[0].running_var[...], layers[1].running_var[...] = 4.0, 5.0  # of 5 values
    for layer in layers:
        layer(batches(1, 5)[0])
        assert layer.count is None
    assert_like(cbn.convert(layers[0], "torch", count=5), layers[1])


def test_batches_of_options():
    """A frozen phase and a batch of momentum 0 leave no trace; renorm leaves no average of variances."""
    layer = trained("keras", batches(1, 5))
    layer.frozen = True
    layer(batches(1, 6)[0])
    layer.frozen, layer.momentum = False, 1.0
    layer(batches(1, 6)[0])
    layer.momentum = 0.9
    layer(batches(1, 5)[0])
    assert layer.count == 5
    renormalized = trained("keras", batches(1, 5), renorm=True)
    renormalized.renorm = False
    renormalized(batches(1, 5)[0])
    assert renormalized.count is None


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_know_their_batches(copy_of):
    layer = copy_of(trained("keras", batches(2, 5)))
    assert layer.count == 5
    assert_like(cbn.convert(layer, "torch"), trained("torch", batches(2, 5)))
    layer(batches(1, 6)[0])
    assert layer.count is None


def test_ghost_batches_that_are_skipped():
    xs = batches(2, 6)
    xs[1][0] = np.nan
    xs[1] = xs[1][:5]  # parts of 3, skipped, and 2
    layer = trained("keras", xs[:1], virtual_batch_size=3, nonfinite="skip")
    assert layer.count == 3
    layer(xs[1])
    assert layer.count is None and np.isfinite(layer.running_var).all()


def test_converted_while_it_trains():
    """A copy is one of a moment: its statistics and its history belong together."""
    layer, xs = trained("keras", []), batches(300, 5)
    with ThreadPoolExecutor(2) as pool:
        work = pool.submit(lambda: [layer(x) for x in xs])
        while not work.done():
            converted = cbn.convert(layer, "torch")
            twin = trained("torch", xs[: int(converted.num_batches_tracked)])
            np.testing.assert_allclose(converted.running_var, twin.running_var, rtol=1e-12)


def test_weights_that_sum_to_less_than_one():
    layer = trained("keras", [])
    layer(batches(1, 4)[0], sample_weight=np.full(4, 0.2))
    with pytest.raises(ValueError, match=r"count must be more than 1 for an unbiased variance; got 0\.8"):
        cbn.convert(layer, "torch")


def test_batches_of_several_sizes():
    layer = trained("torch", [*batches(2, 5), *batches(1, 6)])
    assert layer.count is None
    with pytest.raises(ValueError, match="count must be given to make the unbiased running variance biased"):
        cbn.convert(layer, "keras")
    assert cbn.convert(layer, "tf_fused").count is None  # nothing to convert
    assert (cbn.convert(layer, "keras", count=5).running_var < layer.running_var).all()
    layer.reset_running_stats()
    assert layer.count == 0
    layer(batches(1, 6)[0])
    assert layer.count == 6


def test_a_batch_that_weighs_all_starts_anew():
    layer = trained("tf_fused", [*batches(1, 5), *batches(1, 6)], new=1.0)
    assert layer.count == 6
    assert_like(cbn.convert(layer, "keras"), trained("keras", batches(1, 6), new=1.0))


def test_momentum_that_changed():
    xs, layers = batches(4, 5), [trained("keras", []), trained("torch", [])]
    for layer in layers:
        for x, new in zip(xs, (0.5, 0.25, 0.1, 0.0), strict=True):
            layer.momentum = 1 - new if layer is layers[0] else new
            layer(x)
    assert_like(cbn.convert(layers[0], "torch"), layers[1])


@pytest.mark.parametrize("case", ["ghosts", "mask", "weights", "debiased", "empty"])
def test_counts_of_options(case):
    """Ghost batches count singly, masked and weighted ones by what they count; an empty one does not."""
    options, given, xs = {}, {}, batches(3, 6)
    if case == "ghosts":
        options["virtual_batch_size"] = 3
    elif case == "mask":
        given["mask"] = np.arange(6) < 5
    elif case == "weights":
        given["sample_weight"] = np.array([0.5, 1, 1, 0.25, 2, 0])
    elif case == "debiased":
        options["zero_debias"] = True
    else:
        xs.insert(1, np.zeros((0, 4)))
    layers = [trained(name, [], **options) for name in ("keras", "torch")]
    for layer, x in itertools.product(layers, xs):
        layer(x, **given)
    assert layers[0].count == {"ghosts": 3, "mask": 5, "weights": 4.75}.get(case, 6)
    assert_like(cbn.convert(layers[0], "torch"), layers[1])


def test_skipped_and_failed_calls_do_not_count():
    layer = trained("keras", batches(1, 5), nonfinite="skip")
    layer(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="weight must"):
        layer.weight = np.ones(3)
        layer(np.ones((3, 4)))
    layer.weight = np.ones(4)
    assert layer.count == 5


def test_keep_leaves_y_as_it_is():
    layer = trained("keras", [*batches(2, 5), *batches(1, 6)]).eval()
    kept = cbn.convert(layer, "torch", variance="keep")
    assert not kept.training and kept.count is None and kept.momentum == 0.1
    x = batches(1, 7)[0]
    np.testing.assert_array_equal(kept(x), layer(x))


@pytest.mark.parametrize(("source", "target"), [("notes", "onnx"), ("onnx", "notes")])
def test_eps_on_the_other_side_of_the_root(source, target):
    """It is y of evaluation that stays."""
    layer = cbn.BatchNorm(4, eps=0.25, convention=source, dtype=np.float64).eval()
    layer.running_mean[...], layer.running_var[...] = [1, 2, 3, 4], [0, 0.01, 1, 100]
    converted = cbn.convert(layer, target)
    assert converted.eps == 0 and converted.convention.name == target
    x = batches(1, 7)[0]
    np.testing.assert_allclose(converted(x), layer(x), rtol=1e-12)


def test_fresh_and_without_statistics():
    assert cbn.convert(cbn.BatchNorm(4), "keras").momentum == 0.9
    layer = cbn.convert(cbn.BatchNorm(4, track_running_stats=False, momentum=None), "keras")
    assert layer.running_var is None and layer.momentum is None and layer.one_value == "zero_var"
    assert cbn.convert(cbn.BatchNorm(4, one_value="zero_var"), "paper").one_value == "zero_var"


def test_one_value_per_channel():
    """Its variance is 0 in every convention that takes it."""
    layer = trained("keras", batches(2, 1))
    assert layer.count == 1
    np.testing.assert_allclose(cbn.convert(layer, "torch").running_var, layer.running_var)


def test_renormalized_layers_keep_their_own_average():
    layer = trained("keras", batches(2, 5), renorm=True)
    np.testing.assert_array_equal(cbn.convert(layer, "torch").running_var, layer.running_var)


def test_convention_set_on_the_way():
    """From there on the running variance is neither."""
    layer = trained("keras", batches(2, 5))
    layer.convention = "onnx"
    assert layer.count == 5
    layer.convention = "torch"
    assert layer.count is None
    untracked = cbn.BatchNorm(4, track_running_stats=False)
    untracked.convention = "keras"
    with pytest.raises(ValueError, match="track_running_stats must be True with eps outside the root"):
        untracked.convention = "notes"
    assert untracked.convention.name == "keras"


def test_kept_there_and_back():
    """The numbers kept twice: what the start weighs is still known."""
    layer = trained("torch", batches(1, 5))
    layer.momentum = 0.5
    layer(batches(2, 5)[1])
    kept = cbn.convert(cbn.convert(layer, "keras", variance="keep"), "torch", variance="keep")
    np.testing.assert_allclose(
        cbn.convert(kept, "keras", count=5).running_var, cbn.convert(layer, "keras").running_var, rtol=1e-14
    )


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (None, {"convention": "caffe"}, ValueError, "convention must be a Convention or one of"),
        (None, {"variance": "drop"}, ValueError, "variance must be one of convert, keep; got 'drop'"),
        (None, {"count": 1}, ValueError, "count must be a finite number > 1; got 1"),
        (None, {"count": np.inf}, ValueError, "count must be a finite number > 1; got inf"),
        (None, {"count": "5"}, TypeError, "count must be a finite number > 1; got str"),
        (None, {"count": 6}, ValueError, "count must be 5, which the layer has counted; got 6"),
        (None, {"convention": "lecture"}, ValueError, "variance must be 'keep' between averages of deviations and of"),
        (
            0.5,
            {},
            ValueError,
            r"running_var must be at least 0\.81, which its start still weighs; got 0\.5 in channel 0",
        ),
    ],
)
def test_refusals(change, arguments, error, message):
    layer = trained("torch", batches(2, 5))
    if change:
        layer.running_var[...] = change
    with pytest.raises(error, match=message):
        cbn.convert(layer, **{"convention": "keras", **arguments})
    with pytest.raises(TypeError, match="layer must be a BatchNorm; got dict"):
        cbn.convert({}, "keras")


def test_variance_that_the_dtype_cannot_hold():
    layer = cbn.BatchNorm(1, dtype=np.float16, convention="keras")
    layer.running_var[...] = 60000
    with pytest.raises(ValueError, match="running_var must fit float16 after conversion; got 120000"):
        cbn.convert(layer, "torch", count=2)
    layer = cbn.BatchNorm(1, dtype=np.float16, convention="onnx", eps=1e-9)
    layer.running_var[...] = 0
    with pytest.raises(ValueError, match="running_var must fit float16 after conversion; got 1e-09"):
        cbn.convert(layer, "notes")


def test_momenta_are_decimal_numbers():
    for kept, new in ((0.99, 0.01), (0.9999, 0.0001), (1.0, 0.0)):
        assert cbn.convert(cbn.BatchNorm(1, momentum=kept, convention="keras"), "torch").momentum == new


@pytest.mark.parametrize(
    ("own", "error"),
    [
        ({"count": -1}, ValueError),
        ({"count": 2**2000}, ValueError),
        ({"start": 1.5}, ValueError),
        ({"count": "5"}, TypeError),
    ],
)
def test_damaged_metadata_change_nothing(own, error):
    layer = trained("torch", batches(2, 5))
    state = layer.state_dict()
    state._metadata[""].update(own)
    with pytest.raises(error, match=r"state must have a (number for count|count|start)"):
        layer.load_state_dict(state)
    assert layer.count == 5
