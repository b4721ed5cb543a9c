"""test_flax: variables of Flax' batch norms, in and out, against Flax itself; linen and NNX."""

import numpy as np
import pytest

import cbn
import cbn.interop.flax as interop

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
from flax import linen, nnx  # noqa: E402

OPTIONS = [{}, {"momentum": 0.75, "epsilon": 1e-3}, {"use_scale": False}, {"use_scale": False, "use_bias": False}]


def data(seed):
    return np.random.default_rng(seed).normal(1, 0.5, (5, 2, 3)).astype(np.float32)


def numbers(options):
    names = {"eps": "epsilon", "momentum": "momentum"}
    return {own: options[name] for own, name in names.items() if name in options}


class Model(linen.Module):
    """A norm below another module."""

    options: dict

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Dense(3, name="dense")(x)
        return linen.BatchNorm(use_running_average=not train, name="norm", **self.options)(x)


@pytest.mark.parametrize("options", OPTIONS)
def test_linen(options):
    """The layer goes on from Flax' state as Flax does, and what it has become goes back."""
    model = Model(options)
    variables = model.init(jax.random.key(0), data(0))

    def step(variables, seed):
        return {**variables, **model.apply(variables, data(seed), mutable=["batch_stats"])[1]}

    def dense(seed):
        return np.asarray(linen.Dense(3).apply({"params": variables["params"]["dense"]}, data(seed)))

    variables = step(variables, 1)
    layer = interop.from_variables(variables, "norm", **numbers(options))
    variables = step(variables, 2)
    layer(dense(2))
    back = interop.to_variables(layer, "norm")
    for collection, arrays in back.items():
        for name, array in arrays["norm"].items():
            np.testing.assert_allclose(array, variables[collection]["norm"][name], rtol=1e-5, atol=1e-6)
    assert set(back["batch_stats"]["norm"]) == {"mean", "var"}
    merged = {**variables, "batch_stats": back["batch_stats"]}
    wanted = model.apply(merged, data(3), train=False)
    np.testing.assert_allclose(layer.eval()(dense(3)), wanted, rtol=1e-5, atol=1e-5)


class Nested(nnx.Module):
    """Norms in a list."""

    def __init__(self, **options):
        self.norms = nnx.List([nnx.BatchNorm(3, rngs=nnx.Rngs(0), **options) for _ in range(2)])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pure", [False, True])
def test_nnx(options, pure):
    """From the state itself and from its pure dict; back by replace_by_pure_dict."""
    model = Nested(**options)
    for seed in (1, 2):
        model.norms[1](data(seed))
    state = nnx.state(model)
    layer = interop.from_variables(nnx.to_pure_dict(state) if pure else state, "norms/1", **numbers(options))
    model.norms[1](data(3))
    y = layer(data(3))
    fresh = Nested(**options)
    target = nnx.state(fresh.norms[1])
    nnx.replace_by_pure_dict(target, interop.to_variables(layer, nnx=True))
    nnx.update(fresh.norms[1], target)
    for got, wanted in zip(
        jax.tree.leaves(nnx.state(fresh.norms[1])), jax.tree.leaves(nnx.state(model.norms[1])), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    for norm in (fresh.norms[1], model.norms[1]):
        norm.eval()
        np.testing.assert_allclose(layer.eval()(data(4)), norm(data(4)), rtol=1e-5, atol=1e-5)
    assert y.shape == (5, 2, 3)


def test_from_torchs_convention():
    """As if Flax had trained it."""
    layer, peer = cbn.BatchNorm(3, momentum=0.25, axis=-1), nnx.BatchNorm(3, momentum=0.75, rngs=nnx.Rngs(0))
    for seed in (1, 2):
        layer(data(seed)), peer(data(seed))
    variables = interop.to_variables(layer, nnx=True)
    np.testing.assert_allclose(variables["var"], peer.var[...], rtol=1e-6)
    np.testing.assert_allclose(variables["mean"], peer.mean[...], rtol=1e-6)


def test_convention():
    """FLAX is what both do: momentum, variance, eps, over batches of several sizes."""
    layer, peer = cbn.BatchNorm(3, convention="flax", axis=-1), nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    for seed, size in enumerate((5, 3, 1)):
        x = data(seed)[:size]
        np.testing.assert_allclose(layer(x), peer(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.running_var, peer.var[...], rtol=1e-5)
    np.testing.assert_allclose(layer.running_mean, peer.mean[...], rtol=1e-5)


def test_explain():
    peer = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    x = (0.05 * data(1)).astype(np.float32)
    found = cbn.explain(x, np.asarray(peer(x)), nnx.to_pure_dict(nnx.state(peer)), axis=-1)
    assert found.conventions == ("flax",), str(found)
