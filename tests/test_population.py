"""test_population: recompute_statistics: its modes against Algorithm 2 and the pooled data; what it leaves alone."""

import copy

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from states import assert_equal_states

import cbn

MODES = ("pooled", "paper", "update_bn")
UNEVEN = (7, 20, 3, 20)


def made(sizes=UNEVEN, channels=4, seed=0, shape=(3, 2)):
    rng = np.random.default_rng(seed)
    return [rng.normal(rng.uniform(-3, 3), rng.uniform(0.5, 3), (n, channels, *shape)) for n in sizes]


def expected(batches, mode, variance="unbiased"):
    """By the definitions, channel by channel, in extended precision."""
    flat = [np.moveaxis(b, 1, 0).reshape(b.shape[1], -1).astype(np.longdouble) for b in batches]
    if mode == "pooled":
        x = np.concatenate(flat, axis=1)
        return x.mean(axis=1), x.var(axis=1, ddof=variance == "unbiased")
    mean = np.mean([b.mean(axis=1) for b in flat], axis=0)
    if variance == "deviation":
        return mean, np.square(np.mean([b.std(axis=1) for b in flat], axis=0))
    if mode == "update_bn":
        return mean, np.mean([b.var(axis=1, ddof=variance == "unbiased") for b in flat], axis=0)
    m = np.mean([b.shape[1] for b in flat])
    return mean, np.mean([b.var(axis=1) for b in flat], axis=0) * (m / (m - 1) if variance == "unbiased" else 1)


def snapshot(layer):
    return copy.deepcopy((layer.state_dict(), layer._history, layer.training, layer.batch_mean, layer.batch_inv_std))


def assert_untouched(layer, before):
    assert_equal_states(layer.state_dict(), before[0])
    np.testing.assert_array_equal(layer._history, before[1])
    assert layer.training is before[2] and layer._collect is None
    np.testing.assert_array_equal(layer.batch_mean, before[3])


@pytest.mark.parametrize("convention", ["torch", "keras", "lecture"])
@pytest.mark.parametrize("sizes", [UNEVEN, (10, 10, 10), (50,)], ids=["uneven", "equal", "one"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(mode, sizes, convention):
    """Whatever was there before, and in either mode of the layer; a generator will do."""
    layer, batches = cbn.BatchNorm(4, convention=convention, dtype=np.float64), made(sizes)
    layer(made(seed=1)[0])
    layer.eval()
    assert cbn.recompute_statistics(layer, (b for b in batches), mode=mode) is None
    mean, var = expected(batches, mode, layer.convention.variance)
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.running_var, var.astype(float), rtol=1e-12)
    assert layer.num_batches_tracked == len(sizes) and not layer.training


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(MODES), st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_any_number_of_batches_of_any_sizes(sizes, mode, seed):
    """Planes have 6 values; without them a batch of one value is refused, as in training."""
    layer, batches = cbn.BatchNorm(2, dtype=np.float64), made(sizes, 2, seed)
    cbn.recompute_statistics(layer, batches, mode=mode)
    mean, var = expected(batches, mode)
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.running_var, var.astype(float), rtol=1e-12)


def test_equal_batches_make_paper_and_update_bn_one():
    layers = [cbn.BatchNorm(4, dtype=np.float64) for _ in MODES]
    for layer, mode in zip(layers, MODES, strict=True):
        cbn.recompute_statistics(layer, made((10,) * 5), mode=mode)
    np.testing.assert_allclose(layers[1].running_var, layers[2].running_var, rtol=1e-13)
    np.testing.assert_allclose(layers[0].running_mean, layers[2].running_mean, rtol=1e-13)
    assert (layers[0].running_var > layers[1].running_var).all()  # the means of the batches differ
    assert [layer.count for layer in layers] == [300, 60, 60]


def test_lists_are_arrays():
    layer = cbn.BatchNorm(1, dtype=np.float64)
    cbn.recompute_statistics(layer, [[[1], [2.0]], ((3,), (6.0,))])
    assert (layer.running_mean[0], layer.running_var[0]) == (3, 14 / 3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [UNEVEN, (10, 10)], ids=["uneven", "equal"])
def test_what_was_set_converts_exactly(mode, sizes):
    """To what a layer of the other convention would have been set to, and training goes on from there."""
    layers = [cbn.BatchNorm(4, convention=name, dtype=np.float64) for name in ("torch", "keras")]
    for layer in layers:
        layer(made(seed=3)[0])
        cbn.recompute_statistics(layer, made(sizes), mode=mode)
    if mode == "update_bn" and sizes == UNEVEN:
        for layer, other in zip(layers, ("keras", "torch"), strict=True):
            assert layer.count is None
            with pytest.raises(ValueError, match="count must be given"):
                cbn.convert(layer, other)
        return
    converted = cbn.convert(layers[0], "keras")
    np.testing.assert_allclose(converted.running_var, layers[1].running_var, rtol=1e-14)
    np.testing.assert_allclose(cbn.convert(layers[1], "torch").running_var, layers[0].running_var, rtol=1e-14)
    loaded = cbn.BatchNorm(4, dtype=np.float64)
    loaded.load_state_dict(layers[0].state_dict())
    assert loaded.count == layers[0].count


def network(layers):
    """Two linear maps, each normalized, by the second layer twice."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(3, 4)), rng.normal(size=(4, 4))

    def forward(batch):
        hidden = np.maximum(layers[0](batch @ first), 0) @ second
        return layers[1](layers[1](hidden) ** 3)

    return forward


@pytest.mark.parametrize("mode", MODES)
def test_a_network_in_one_run(mode):
    """Each layer gets what the layers before make of each batch by its own statistics."""
    layers = [cbn.BatchNorm1d(4, dtype=np.float64) for _ in range(2)]
    layers[0].running_mean[...] = np.nan  # stale statistics have no part in it
    batches = [np.random.default_rng(n).normal(n, 1, (n, 3)) for n in (8, 5, 13)]
    seen = {0: [], 1: []}
    copies = [copy.deepcopy(layer) for layer in layers]
    recorded = [lambda x, k=k: seen[k].append(x) or copies[k](x) for k in (0, 1)]
    for batch in batches:
        network(recorded)(batch)
    layers[1].eval()
    cbn.recompute_statistics({"a": layers[0], "b": layers[1]}, batches, network(layers), mode=mode)
    for k in (0, 1):
        mean, var = expected(seen[k], mode)
        np.testing.assert_allclose(layers[k].running_mean, mean.astype(float), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(layers[k].running_var, var.astype(float), rtol=1e-12)
    assert [int(layer.num_batches_tracked) for layer in layers] == [3, 6]
    assert [layer.training for layer in layers] == [True, False]


def test_what_backward_needs_comes_back():
    x, dy = made()[:2]
    layer, twin = (cbn.BatchNorm(4, dtype=np.float64) for _ in range(2))
    for one in (layer, twin):
        one(x)
    cbn.recompute_statistics([layer, layer], made(seed=2), layer)
    np.testing.assert_array_equal(layer.backward(x**2), twin.backward(x**2))
    np.testing.assert_array_equal(layer.batch_mean, twin.batch_mean)
    fresh = cbn.BatchNorm(4)
    cbn.recompute_statistics(fresh, made())
    with pytest.raises(RuntimeError, match="backward must follow a training call that kept x; got none"):
        fresh.backward(dy)


@pytest.mark.parametrize("name", ["mask", "sample_weight"])
@pytest.mark.parametrize("mode", MODES)
def test_masks_and_weights(mode, name):
    """Weights that are whole numbers repeat values, a mask those that are there once or not at all."""
    rng, layer = np.random.default_rng(0), cbn.BatchNorm(4, dtype=np.float64)
    pairs = [(b, rng.integers(0, 2 if name == "mask" else 4, (len(b), 3, 2))) for b in made()]
    repeated = [np.repeat(np.moveaxis(b, 1, 0).reshape(4, -1), times.ravel(), axis=1).T for b, times in pairs]
    kind = bool if name == "mask" else float
    cbn.recompute_statistics(layer, pairs, lambda pair: layer(pair[0], **{name: pair[1].astype(kind)}), mode=mode)
    mean, var = expected(repeated, mode)
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var.astype(float), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_ghost_batches_are_batches(mode):
    layer, batches = cbn.BatchNorm(4, virtual_batch_size=6, dtype=np.float64), made((12, 18))
    cbn.recompute_statistics(layer, batches, mode=mode)
    mean, var = expected([part for b in batches for part in np.split(b, len(b) // 6)], mode)
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var.astype(float), rtol=1e-12)
    assert layer.num_batches_tracked == 5


@pytest.mark.parametrize("mode", MODES)
def test_renorm_averages_deviations_with_eps(mode):
    """As its training does: momentum None would have come to the same in "paper" and "update_bn"."""
    layer = cbn.BatchNorm(4, eps=0.5, renorm=True, momentum=None, dtype=np.float64)
    trained, batches = copy.deepcopy(layer), made()
    for batch in batches:
        trained(batch)
    cbn.recompute_statistics(layer, batches, mode=mode)
    if mode == "pooled":
        mean, var = expected(batches, mode, "biased")
    else:
        mean, var = trained.running_mean, trained.running_var
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var.astype(float), rtol=1e-12)
    np.testing.assert_allclose(layer.renorm_mean, layer.running_mean)
    np.testing.assert_allclose(layer.renorm_std, np.sqrt(layer.running_var + 0.5))
    assert layer.count is None


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_rounded_once(dtype):
    layer, batches = cbn.BatchNorm(4, dtype=dtype), [b.astype(dtype) for b in made()]
    cbn.recompute_statistics(layer, batches)
    mean, var = expected(batches, "pooled")
    np.testing.assert_array_equal(layer.running_mean, mean.astype(float).astype(dtype))
    np.testing.assert_array_equal(layer.running_var, var.astype(float).astype(dtype))


def test_an_average_goes_on():
    """With momentum None the next batch is one more of the average; with zero_debias it counts as the t-th."""
    batches = made((10,) * 4)
    layer, other = (cbn.BatchNorm(4, momentum=None, dtype=np.float64) for _ in range(2))
    cbn.recompute_statistics(layer, batches[:3], mode="update_bn")
    layer(batches[3])
    cbn.recompute_statistics(other, batches, mode="update_bn")
    np.testing.assert_allclose(layer.running_mean, other.running_mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, other.running_var, rtol=1e-12)
    assert layer.count == other.count == 60
    layer = cbn.BatchNorm(4, zero_debias=True, dtype=np.float64)
    cbn.recompute_statistics(layer, batches[:3], mode="paper")
    before = layer.running_mean.copy()
    layer(batches[3])
    factor = 0.1 / (1 - 0.9**4)
    mean = (1 - factor) * before + factor * batches[3].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)


# --- what is not finite, and what has no values ---


def with_nan():
    batches = made()
    batches[1][0, 2, 0, 0] = np.nan
    return batches


def test_nonfinite_propagates_to_its_channel():
    layer = cbn.BatchNorm(4, dtype=np.float64)
    cbn.recompute_statistics(layer, with_nan())
    assert np.isnan(layer.running_mean).tolist() == np.isnan(layer.running_var).tolist() == [False, False, True, False]


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 50}], ids=str)
def test_nonfinite_skips_its_batch(options):
    """Statistics that are not finite beforehand do not count."""
    layer = cbn.BatchNorm(4, nonfinite="skip", dtype=np.float64, **options)
    layer.running_mean[...] = np.nan
    cbn.recompute_statistics(layer, with_nan())
    mean, _ = expected([b for b in with_nan() if np.isfinite(b).all()], "pooled")
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12)
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 50}], ids=str)
def test_nonfinite_raises(options):
    layer = cbn.BatchNorm(4, nonfinite="raise", dtype=np.float64, **options)
    before = snapshot(layer)
    with pytest.raises(ValueError, match=r"x must have a finite mean and variance .* got others in channel 2"):
        cbn.recompute_statistics(layer, with_nan())
    assert_untouched(layer, before)


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_what_the_dtype_cannot_hold(nonfinite):
    layer = cbn.BatchNorm(4, nonfinite=nonfinite, dtype=np.float16)
    before, batches = snapshot(layer), [(1000 * b).astype(np.float16) for b in made()]
    with pytest.raises(ValueError, match="leave the running statistics finite; got others in channel 0"):
        cbn.recompute_statistics(layer, batches)
    assert_untouched(layer, before)
    layer = cbn.BatchNorm(4, dtype=np.float16)
    cbn.recompute_statistics(layer, batches)
    assert np.isinf(layer.running_var).all()


@pytest.mark.parametrize("mode", MODES)
def test_empty_batches_count_for_nothing(mode):
    layer, other = (cbn.BatchNorm(4, dtype=np.float64) for _ in range(2))
    empty = np.empty((0, 4, 3, 2))
    cbn.recompute_statistics(layer, [empty, *made(), empty], mode=mode)
    cbn.recompute_statistics(other, made(), mode=mode)
    assert_equal_states(layer.state_dict(), other.state_dict())
    with pytest.raises(ValueError, match="layers must be called in training mode with values; got no such call in 2"):
        cbn.recompute_statistics(layer, [empty, empty], mode=mode)


@pytest.mark.parametrize(("mode", "var"), [("pooled", 2.0), ("paper", 0.0), ("update_bn", 0.0)])
def test_batches_of_one_value(mode, var):
    layer = cbn.BatchNorm(1, one_value="zero_var", dtype=np.float64)
    cbn.recompute_statistics(layer, [np.full((1, 1), v) for v in (1.0, 3.0)], mode=mode)
    assert (layer.running_mean[0], layer.running_var[0]) == (2, var)


@pytest.mark.parametrize("mode", MODES)
def test_a_last_batch_of_one_value(mode):
    """Of 65 samples in batches of 64: refused, but for the ways out that the docstring names."""
    x = np.random.default_rng(0).normal(size=(65, 4))
    layer, batches = cbn.BatchNorm(4, dtype=np.float64), [x[:64], x[64:]]
    before = snapshot(layer)
    with pytest.raises(
        ValueError, match=r"Expected more than 1 value per channel when training, got input size \(1, 4"
    ):
        cbn.recompute_statistics(layer, batches, mode=mode)
    assert_untouched(layer, before)
    cbn.recompute_statistics(layer, [x[:33], x[33:]], mode=mode)
    layer.one_value = "zero_var"
    cbn.recompute_statistics(layer, batches, mode=mode)
    if mode == "pooled":
        np.testing.assert_allclose(layer.running_var, x.var(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_sum_to_less_than_one(mode):
    """They have no unbiased variance, unless they are pooled with others."""
    layer = cbn.BatchNorm(4, dtype=np.float64)
    before = snapshot(layer)
    run = lambda x: layer(x, sample_weight=np.full((len(x), 3, 2), 1 / 100))  # noqa: E731
    if mode == "pooled":
        cbn.recompute_statistics(layer, made(), run)
        mean, var = expected(made(), "pooled", "biased")
        np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12)
        np.testing.assert_allclose(layer.running_var, (var * 3 / 2).astype(float), rtol=1e-12)
        return
    with pytest.raises(ValueError, match="sample_weight must sum to more than 1 for an unbiased variance; got 0"):
        cbn.recompute_statistics(layer, made(), run, mode=mode)
    assert_untouched(layer, before)


# --- all or nothing ---


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("where", ["forward", "batches"])
def test_an_error_changes_nothing(error, where):
    layers = [cbn.BatchNorm(4), cbn.BatchNorm(4, virtual_batch_size=5), cbn.BatchNorm(4, renorm=True)]
    for layer in layers:
        layer(made(seed=9)[1])
    layers[1].eval()
    before = [snapshot(layer) for layer in layers]

    def batches():
        yield made()[0]
        if where == "batches":
            raise error

    def forward(x):
        for layer in layers:
            layer(x)
        if where == "forward":
            raise error

    with pytest.raises(error):
        cbn.recompute_statistics(layers, batches(), forward)
    for layer, one in zip(layers, before, strict=True):
        assert_untouched(layer, one)
    layers[0].backward(made()[1])
    layers[0](made()[0])
    assert layers[0].num_batches_tracked == 2


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(("change", "now"), [("eval", "in evaluation mode"), ("freeze", "frozen")])
def test_a_layer_that_forward_switches_is_not_left_out(change, now, number):
    layers = [cbn.BatchNorm(4), cbn.BatchNorm(4)]
    before, calls = [snapshot(layer) for layer in layers], []

    def forward(x):
        for layer in layers:
            layer(x)
        if len(calls) == number:
            layers[1].eval() if change == "eval" else setattr(layers[1], "frozen", True)
        calls.append(x)

    with pytest.raises(RuntimeError, match=rf"layers\[1\] must stay in training mode, not frozen, .* got it {now}"):
        cbn.recompute_statistics(layers, made(), forward)
    assert len(calls) == number + 1
    for layer, one in zip(layers, before, strict=True):
        assert_untouched(layer, one)


GOOD = cbn.BatchNorm(4)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((1, []), {}, TypeError, "layers must be a cbn.BatchNorm, or a list or dict of them; got int"),
        (([], []), {}, ValueError, "layers must hold one layer or more; got none"),
        (([GOOD, 1], []), {}, TypeError, r"layers\[1\] must be a cbn.BatchNorm; got int"),
        (({"a": 1}, []), {}, TypeError, r"layers\['a'\] must be a cbn.BatchNorm; got int"),
        ((cbn.BatchNorm(4, frozen=True), []), {}, ValueError, "layers must not be frozen; got one that is"),
        (
            ([GOOD, cbn.BatchNorm(4, track_running_stats=False)], []),
            {},
            ValueError,
            r"layers\[1\] must have running statistics; got one with track_running_stats=False",
        ),
        (
            ([GOOD, cbn.BatchNorm(4)], []),
            {},
            ValueError,
            "forward must be given for more than one layer; got None for 2",
        ),
        ((GOOD, [], 1), {}, TypeError, "forward must be callable; got int"),
        ((GOOD, 1), {}, TypeError, r"batches must be an iterable of batches, \[x\] for a single one; got int"),
        ((GOOD, np.ones((3, 4))), {}, TypeError, "batches must be an iterable of batches, .* got ndarray"),
        (
            (GOOD, [(np.ones((3, 4)), np.ones(3))]),
            {},
            TypeError,
            "forward must be given where .* a batch of type tuple",
        ),
        ((GOOD, [[np.ones((3, 4)), np.ones((3, 4))]]), {}, TypeError, "forward must be given where .* of type list"),
        ((GOOD, {"x": np.ones((3, 4))}), {}, TypeError, "forward must be given where .* of type str"),
        ((GOOD, []), {}, ValueError, "batches must hold one batch or more; got none"),
        ((GOOD, [1], abs), {}, ValueError, "layers must be called in training mode with values; got no such call in 1"),
        ((GOOD, [np.ones((3, 5))]), {}, ValueError, "x must have 4 channels"),
        ((GOOD, []), {"mode": "exact"}, ValueError, "mode must be one of pooled, paper, update_bn; got 'exact'"),
        ((GOOD, []), {"progress": "no"}, TypeError, "progress must be"),
    ],
)
def test_wrong_arguments(arguments, options, error, message):
    before = snapshot(GOOD)
    with pytest.raises(error, match=message):
        cbn.recompute_statistics(*arguments, **options)
    assert_untouched(GOOD, before)


def test_layers_that_cannot_be_written():
    layer = cbn.BatchNorm(4)
    layer.running_var.flags.writeable = False
    with pytest.raises(ValueError, match="running_var must be writeable"):
        cbn.recompute_statistics(layer, made())
    layer = cbn.BatchNorm(4, convention="notes")
    with pytest.raises(ValueError, match="convention must have eps inside the root for training; got 'notes'"):
        cbn.recompute_statistics(layer, made())


def test_runs_do_not_nest():
    layer = cbn.BatchNorm(4)
    with pytest.raises(
        RuntimeError, match="layers must not be in another run of recompute_statistics; got one that is"
    ):
        cbn.recompute_statistics(layer, made(), lambda x: cbn.recompute_statistics(layer, [x]))
    assert layer.num_batches_tracked == 0 and layer._collect is None


def test_a_copy_made_meanwhile_is_a_layer_of_its_own():
    layer = cbn.BatchNorm(4, dtype=np.float64)
    cbn.recompute_statistics(layer, made(), lambda x: (copy.deepcopy(layer)(x + 1), layer.check(x), layer(x)))
    mean, _ = expected(made(), "pooled")
    np.testing.assert_allclose(layer.running_mean, mean.astype(float), rtol=1e-12)
