"""test_keras_weights: weights of Keras' BatchNormalization, in and out, against Keras (on torch)."""

import os

import numpy as np
import pytest

import cbn
import cbn.interop.keras as interop

os.environ.setdefault("KERAS_BACKEND", "torch")
torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")

# Keras' own get_weights() on torch
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CONFIGS = [
    {},
    {"momentum": 0.75, "epsilon": 0.01},
    {"center": False},
    {"scale": False},
    {"center": False, "scale": False, "axis": 1},
    {"dtype": "float64", "trainable": False},
    {
        "renorm": True,
        "momentum": 0.9,
        "renorm_momentum": 0.8,
        "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0},
    },
]


def data(seed, shape=(6, 5, 4)):
    return (2 * np.random.default_rng(seed).standard_normal(shape) + 1).astype(np.float32)


def peer_of(config, calls=3):
    """A Keras layer with parameters that show, and moved statistics."""
    peer = keras.layers.BatchNormalization(**config)
    peer.build((None, 5, 4))
    rng = np.random.default_rng(7)
    trainable = peer.trainable
    for weight in peer.trainable_weights:
        weight.assign(rng.uniform(0.5, 2, weight.shape))
    peer.trainable = True
    for seed in range(calls):
        peer(data(seed), training=True)
    peer.trainable = trainable
    return peer


def y_of(peer, x, training):
    return peer(x, training=training).detach().numpy()


@pytest.mark.parametrize("config", CONFIGS)
def test_there_and_back(config):
    """In: evaluation and training agree. Out: a new Keras layer of that configuration is the same one."""
    peer = peer_of(config)
    layer = interop.from_weights(peer.get_weights(), peer.get_config())
    weights, own = interop.to_weights(layer)
    twin = keras.layers.BatchNormalization(**own)
    twin.build((None, 5, 4))
    twin.set_weights(weights)
    for got, wanted in zip(twin.get_weights(), peer.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    for name in ("axis", "momentum", "epsilon", "center", "scale", "trainable", "renorm", "renorm_momentum"):
        assert twin.get_config()[name] == peer.get_config()[name]
    for training in (False, True):
        x = data(9)
        np.testing.assert_allclose(layer.train(training)(x), y_of(peer, x, training), rtol=1e-4, atol=1e-5)
        y_of(twin, x, training)
    for mine, hers, twins in (
        (layer.running_mean, peer.moving_mean, twin.moving_mean),
        (layer.running_var, peer.moving_variance, twin.moving_variance),
    ):
        np.testing.assert_allclose(mine, hers.value.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(twins.value.numpy(), hers.value.numpy(), rtol=1e-5, atol=1e-6)


def test_by_names():
    peer = peer_of({})
    arrays = {weight.name: weight.value.detach().numpy() for weight in peer.weights}
    layer = interop.from_weights(arrays)
    np.testing.assert_allclose(layer.eval()(data(3)), y_of(peer, data(3), False), rtol=1e-5, atol=1e-5)


def test_from_torch_to_keras():
    """As if Keras had trained it; and with the numbers kept, y of evaluation is the same."""
    torch_norm = torch.nn.BatchNorm1d(4, momentum=0.25)
    layer, peer = cbn.BatchNorm1d(4, momentum=0.25), keras.layers.BatchNormalization(momentum=0.75, epsilon=1e-5)
    for seed in range(3):
        x = data(seed, (6, 4))
        layer(x), peer(x, training=True), torch_norm(torch.from_numpy(x))
    weights, config = interop.to_weights(layer)
    for got, wanted in zip(weights, peer.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    kept, config = interop.to_weights(layer, variance="keep")
    twin = keras.layers.BatchNormalization(**{**config, "axis": -1})
    twin.build((None, 4))
    twin.set_weights(kept)
    x = data(9, (7, 4))
    wanted = torch_norm.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(y_of(twin, x, False), wanted, rtol=1e-5, atol=1e-5)
