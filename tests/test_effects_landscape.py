"""test_effects_landscape: the noise after batch norm, and probes of the loss landscape, which change nothing."""

import copy

import numpy as np
import pytest
from effects import imported

landscape = imported("landscape")


def test_noise_has_the_gradient_of_its_draw():
    noise, rng = landscape.Noise(np.random.default_rng(0)), np.random.default_rng(1)
    x, dy, step = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    other = copy.deepcopy(noise)  # draws the same
    change = other(x + step) - noise(x)
    np.testing.assert_allclose((noise.backward(dy) * step).sum(), (dy * change).sum(), rtol=1e-12)


def test_noise_moves_each_batch_in_training_only():
    noise, x = landscape.Noise(np.random.default_rng(0)), np.random.default_rng(1).normal(size=(1000, 3))
    first, second = noise(x), noise(x)
    assert (np.abs(first.mean(axis=0) - second.mean(axis=0)) > 0.01).all()
    assert noise.train(False)(x) is x


@pytest.mark.parametrize("name", ["with", "without", "third"])
def test_a_probe_leaves_the_network_as_it_was(name):
    network, x, labels = landscape.networks(0)[name], np.ones((6, 64), np.float32), np.arange(6)
    x[:, :6] += np.eye(6, dtype=np.float32)
    untouched = copy.deepcopy(network)
    assert all(np.isfinite(landscape.probe(network, x, labels, np.array([0.1, 0.2]))))
    assert network.train_step(x, labels, 0.1) == untouched.train_step(x, labels, 0.1)
    for layer, other in zip(network.layers, untouched.layers, strict=True):
        for key in ("weight", "bias", "running_mean", "running_var"):
            np.testing.assert_array_equal(getattr(layer, key, None), getattr(other, key, None))


def test_the_loss_along_the_gradient_is_that_of_a_step_of_this_size():
    network, x, labels = landscape.networks(0)["without"], np.eye(10, 64, dtype=np.float32), np.arange(10)
    here = copy.deepcopy(network)
    here.backward(x, labels, len(x))
    there = landscape.moved(network, here, 0.1)
    network.train_step(x, labels, 0.1)
    assert there.backward(x, labels, 10) == network.backward(x, labels, 10)
