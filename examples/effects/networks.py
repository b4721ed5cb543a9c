"""networks: networks of the digits example with anything between their linear layers, and layers for that."""

import itertools
import sys
from pathlib import Path

import numpy as np

import cbn

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the digits example stands
from digits import Linear, Network, ReLU, initial_weights, load_data

__all__ = ["Dropout", "Linear", "Noise", "ReLU", "Sigmoid", "Stack"]
__all__ += ["batches", "initial_weights", "load_data", "sigmoid_weights", "steps"]


class Sigmoid:
    """y = 1 / (1 + exp(-x))."""

    def __call__(self, x):
        self.y = 0.5 + 0.5 * np.tanh(0.5 * x)
        return self.y

    def backward(self, dy):
        return dy * self.y * (1 - self.y)


class Random:
    """A layer that multiplies by a factor which it draws anew in each training call, and else returns x."""

    factor: np.ndarray

    def __init__(self, rng):
        self.rng, self.training = rng, True

    def train(self, mode=True):
        self.training = mode
        return self

    def backward(self, dy):
        return dy * self.factor


class Dropout(Random):
    """In training each value is 0 with this probability, and the others grow so that the mean stays."""

    def __init__(self, probability, rng):
        super().__init__(rng)
        self.probability = probability

    def __call__(self, x):
        if not self.training:
            return x
        kept = self.rng.random(x.shape) >= self.probability
        self.factor = kept.astype(x.dtype) / x.dtype.type(1 - self.probability)
        return x * self.factor


class Noise(Random):
    """In training y = x * a + b; each call draws a mean of a and b for each unit, and about it those of each sample.

    So no two batches come out with the same mean and variance (the experiment of Santurkar et al. 2018).
    """

    def __call__(self, x):
        if not self.training:
            return x
        units = x.shape[1]
        self.factor = self.rng.normal(self.rng.uniform(1, 1.25, units), 0.1, x.shape).astype(x.dtype)
        shift = self.rng.uniform(-0.75, 0.75, units) + self.rng.uniform(-0.1, 0.1, x.shape)
        return x * self.factor + shift.astype(x.dtype)


class Stack(Network):
    """Linear layers, and after each but the last what `between(features)` lists.

    A linear layer has no bias where a batch norm follows, whose own bias takes its role.
    """

    def __init__(self, weights, between):
        self.layers = []
        for weight in weights[:-1]:
            following = between(weight.shape[1])
            self.layers += [Linear(weight, bias=not isinstance(following[0], cbn.BatchNorm)), *following]
        self.layers.append(Linear(weights[-1], bias=True))

    def train(self, mode=True):
        """Switch all layers that have modes, and return the network."""
        for layer in self.layers:
            if hasattr(layer, "train"):
                layer.train(mode)
        return self


def sigmoid_weights(rng, sizes, dtype):
    """Weights as `initial_weights` gives them for ReLU, for sigmoid: those of Glorot and Bengio (2010) times 4.

    Those suit a slope of 1 at 0; that of a sigmoid is a quarter.
    """
    return [4 * rng.normal(0, np.sqrt(2 / (m + n)), (m, n)).astype(dtype) for m, n in itertools.pairwise(sizes)]


def batches(rng, count, size):
    """Yield the numbers of the samples of one batch after another, for ever: every epoch in a new order."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def steps(network, training, rng, rate, size, count):
    """Train on `count` batches of `size` samples; yield each step's number, from 1, and its loss."""
    x, labels = training
    for number, batch in enumerate(itertools.islice(batches(rng, len(x), size), count), 1):
        yield number, network.train_step(x[batch], labels[batch], rate)
