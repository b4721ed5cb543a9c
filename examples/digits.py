"""digits: trains a small network on handwritten digits with and without batch norm, in NumPy, and checks every layer.

Both networks start from the same weights and see the same batches at the same learning rate. At the default rate
both get there, the one with batch norm in fewer epochs; at 2 only that one still learns, at 0.05 they are close.
Needs scikit-learn for the data (pip install 'cbn[sklearn]') and, with --plot, matplotlib.
Exit status 1 if the batch-norm network is not as good as it must be, if a layer does not agree with the oracle, or
if a saved and loaded layer answers otherwise than the one that was saved.
"""

import argparse
import copy
import importlib.util
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import cbn

SIZES = (64, 100, 100, 10)
LEARNING_RATE = 0.5
BATCH = 60
SEED = 0
REQUIRED_ACCURACY = 0.95


class Linear:
    """y = x @ weight + bias; without the bias where a batch norm follows, whose own bias takes its role."""

    def __init__(self, weight, bias):
        self.weight = weight.copy()
        self.bias = np.zeros(weight.shape[1], weight.dtype) if bias else None

    def __call__(self, x):
        self.x = x
        y = x @ self.weight
        return y if self.bias is None else y + self.bias

    def backward(self, dy):
        dx = dy @ self.weight.T
        self.weight_grad = self.x.T @ dy
        self.bias_grad = None if self.bias is None else dy.sum(axis=0)
        return dx


class ReLU:
    """y = max(x, 0)."""

    def __call__(self, x):
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy):
        return dy * self.positive


class Network:
    """Linear layers with ReLU between them, and before each ReLU, if asked for, `norm(features)`."""

    def __init__(self, weights, norm=None):
        self.layers: list[Linear | ReLU | cbn.BatchNorm] = []
        for weight in weights[:-1]:
            self.layers.append(Linear(weight, bias=norm is None))
            if norm is not None:
                self.layers.append(norm(weight.shape[1]))
            self.layers.append(ReLU())
        self.layers.append(Linear(weights[-1], bias=True))

    @property
    def norms(self):
        """The batch-norm layers."""
        return [layer for layer in self.layers if isinstance(layer, cbn.BatchNorm)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, x, labels, count):
        """Set the gradients of softmax cross entropy, summed over x and divided by `count`; returns that loss."""
        logits = self(x)
        logits -= logits.max(axis=1, keepdims=True)
        probability = np.exp(logits)
        probability /= probability.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(np.maximum(probability[rows, labels], np.finfo(np.float32).tiny)).sum() / count
        probability[rows, labels] -= 1
        dy = probability / probability.dtype.type(count)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return float(loss)

    def parameters(self):
        """Pairs of a parameter and its gradient."""
        for layer in self.layers:
            for name in ("weight", "bias"):
                if getattr(layer, name, None) is not None:
                    yield getattr(layer, name), getattr(layer, name + "_grad")

    def descend(self, learning_rate):
        """One step of gradient descent, in place."""
        for parameter, gradient in self.parameters():
            parameter -= parameter.dtype.type(learning_rate) * gradient

    def train_step(self, x, labels, learning_rate):
        """One step on the mean loss of a batch, which it returns."""
        loss = self.backward(x, labels, len(labels))
        self.descend(learning_rate)
        return loss

    def train(self, mode=True):
        """Switch every batch norm to training or evaluation, and return the network."""
        for layer in self.norms:
            layer.train(mode)
        return self

    def accuracy(self, x, labels):
        """The share of correct answers, with running statistics."""
        self.train(False)
        share = float((self(x).argmax(axis=1) == labels).mean())
        self.train()
        return share


def load_data(rng):
    """Pixels from 0 to 1 as float32, labels; shuffled, three quarters for training."""
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    x, labels = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    cut = len(x) * 3 // 4
    return (x[:cut], labels[:cut]), (x[cut:], labels[cut:])


def initial_weights(rng, sizes, dtype):
    """Of linear layers between so many features: normal, with the variance that a ReLU keeps (He et al. 2015)."""
    return [rng.normal(0, np.sqrt(2 / m), (m, n)).astype(dtype) for m, n in itertools.pairwise(sizes)]


def train_both(networks, training, test, args, rng):
    """Print and return, for each epoch, loss and test accuracy of each network."""
    x, labels = training
    curves = []
    print(f"{'':7}{'with batch norm':>20}{'without':>20}")
    print(f"{'epoch':7}" + f"{'loss':>10}{'accuracy':>10}" * 2)
    for epoch in range(1, args.epochs + 1):
        order = rng.permutation(len(x))
        batches = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
        row = []
        for network in networks:
            losses = [network.train_step(x[b], labels[b], args.learning_rate) for b in batches]
            row += [float(np.mean(losses)), network.accuracy(*test)]
        curves.append(row)
        cells = "".join(f"{loss:10.4f}{share:10.1%}" for loss, share in (row[:2], row[2:]))
        print(f"{epoch:<7}{cells}", flush=True)
    return np.array(curves)


def check_layers(network, x):
    """Hold every batch norm against the oracle on its real input; returns whether all agree."""
    good, number = True, 0
    for layer in copy.deepcopy(network.train()).layers:  # a copy, since training calls move the running statistics
        if isinstance(layer, cbn.BatchNorm):
            number += 1
            print(f"\nbatch norm {number} on its input of shape {x.shape}, against the oracle:")
            try:
                print(layer.check(x))
            except cbn.OracleMismatch as error:
                print(error)
                good = False
        x = layer(x)
    return good


def serve(network, x):
    """Save every batch norm, load it again, and compare the predictions of both networks, bit by bit."""
    expected = network.train(False)(x)
    with tempfile.TemporaryDirectory() as folder:
        for i, layer in enumerate(network.layers):
            if isinstance(layer, cbn.BatchNorm):
                path = Path(folder) / f"norm{i}.npz"
                layer.save(path)
                network.layers[i] = cbn.BatchNorm1d.load(path).eval()
    same = np.array_equal(network(x), expected)
    print(f"\nserving after save and load: {'the same bits' if same else 'DIFFERENT predictions'} for {len(x)} images")
    return same


def epochs_to(curve, accuracy):
    """The first epoch that reached an accuracy, as text."""
    reached = np.flatnonzero(curve >= accuracy)
    return f"{reached[0] + 1}" if reached.size else "none"


def plot(curves, path):
    """Write both learning curves to an image file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), constrained_layout=True)
    epochs = np.arange(1, len(curves) + 1)
    for axis, first, name in zip(axes, (0, 1), ("training loss", "test accuracy"), strict=True):
        axis.plot(epochs, curves[:, first], label="with batch norm")
        axis.plot(epochs, curves[:, first + 2], label="without")
        axis.set(xlabel="epoch", ylabel=name)
    axes[0].set_yscale("log")
    axes[1].legend()
    figure.savefig(path)
    print(f"\nwrote {path}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images (default 20)")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help=f"default {LEARNING_RATE}")
    parser.add_argument("--plot", metavar="FILE", help="write the learning curves to an image file")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; got {args.epochs}")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'cbn[plot]'")
    return args


def main():
    args = parse_args()
    rng = np.random.default_rng(SEED)
    training, test = load_data(rng)
    weights = initial_weights(rng, SIZES, np.float32)
    networks = [Network(weights, norm) for norm in (cbn.BatchNorm1d, None)]
    print(
        f"{len(training[0])} training and {len(test[0])} test images, network {'-'.join(map(str, SIZES))}, "
        f"batches of {BATCH}, learning rate {args.learning_rate}"
    )
    curves = train_both(networks, training, test, args, rng)
    print(
        f"\nfirst epoch with {REQUIRED_ACCURACY:.0%} test accuracy: {epochs_to(curves[:, 1], REQUIRED_ACCURACY)} "
        f"with batch norm, {epochs_to(curves[:, 3], REQUIRED_ACCURACY)} without"
    )
    agree = check_layers(networks[0], training[0][:BATCH])
    same = serve(networks[0], test[0])
    if args.plot:
        plot(curves, args.plot)
    reached = networks[0].accuracy(*test)
    enough = reached >= REQUIRED_ACCURACY
    print(
        f"\ntest accuracy with running statistics {reached:.1%}, required {REQUIRED_ACCURACY:.0%}: "
        f"{'reached' if enough else 'NOT reached'}"
    )
    print(f"oracle: {'every layer agrees' if agree else 'a layer does NOT agree'}")
    return 0 if enough and agree and same else 1


if __name__ == "__main__":
    sys.exit(main())
