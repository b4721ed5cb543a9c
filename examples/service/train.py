"""train: trains the network of examples/digits.py to read digits that people draw, and writes the model file.

The images are scikit-learn's, 1797 of 8 x 8 pixels. Each epoch sees them turned, sheared, scaled, shifted and thinner
or thicker anew, since a drawing on a screen is less regular than they are. Takes some seconds. Exit status 1, and no
file, if the network is not as good as it must be.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # products this small only wait for more; read when NumPy is loaded

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parents[1]))  # examples/
from digits import Linear, Network, initial_weights
from network import SIDE, SIZES, Model, input_norm, save

import cbn

EPOCHS = 60
BATCH = 64
LEARNING_RATE = 0.3
SEED = 0
Labelled = tuple[np.ndarray, np.ndarray]  # images, digits
CHECKED = 16  # images that go into the file, for the self-check of the service
REQUIRED_ACCURACY = 0.97


def load_images(rng: np.random.Generator) -> tuple[Labelled, Labelled]:
    """Images of 0 to 255 as uint8, digits; shuffled, three quarters for training."""
    data = load_digits()
    order = rng.permutation(len(data.target))
    images = np.rint(data.images[order] * (255 / 16)).astype(np.uint8)
    digits, cut = data.target[order], len(order) * 3 // 4
    return (images[:cut], digits[:cut]), (images[cut:], digits[cut:])


def distorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image turned by up to 0.25 radians, sheared, scaled, shifted, thinner or thicker, with some noise."""
    angle, shear = rng.uniform(-0.25, 0.25, 2)
    scale = np.diag(rng.uniform(0.85, 1.2, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, 0], [shear, 1]]) @ scale
    center = np.full(2, (SIDE - 1) / 2)
    moved = affine_transform(image / 255, matrix, center - matrix @ center + rng.uniform(-0.7, 0.7, 2), order=1)
    grey = np.clip(moved * rng.uniform(0.9, 1.4), 0, 1) ** rng.uniform(0.6, 1.6) + rng.normal(0, 0.02, image.shape)
    return np.clip(np.rint(grey * 255), 0, 255)


def batches(images: np.ndarray, digits: np.ndarray, rng: np.random.Generator) -> Iterator[Labelled]:
    """One epoch: each image once, distorted, as float32 (N, 64) of whole numbers; with its digit."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        rows = order[start : start + BATCH]
        x = np.stack([distorted(images[row], rng) for row in rows])
        yield x.reshape(BATCH, -1).astype(np.float32), digits[rows]


def train(epochs: int) -> tuple[Network, Labelled]:
    """Return the trained network, and images and digits that it has not seen."""
    rng = np.random.default_rng(SEED)
    training, test = load_images(rng)
    network = Network(initial_weights(rng, SIZES, np.float32), cbn.BatchNorm1d)
    network.layers.insert(0, input_norm())
    x = test[0].reshape(len(test[0]), -1).astype(np.float32)
    for epoch in range(1, epochs + 1):
        rate = LEARNING_RATE * (1 + np.cos(np.pi * (epoch - 1) / epochs)) / 2
        losses = [network.train_step(*batch, rate) for batch in batches(*training, rng)]
        if epoch % 10 == 0 or epoch == epochs:
            share = network.accuracy(x, test[1])
            print(f"epoch {epoch:3}: loss {np.mean(losses):.4f}, accuracy on unseen images {share:.1%}", flush=True)
    return network, test


def as_model(network: Network, images: np.ndarray, digits: np.ndarray) -> Model:
    """The network as a model file holds it, with some images that it reads right."""
    x = images.reshape(len(images), -1)
    accuracy = network.accuracy(x, digits)
    right = np.flatnonzero(network.train(False)(x).argmax(axis=1) == digits)[:CHECKED]
    linear = [layer for layer in network.layers if isinstance(layer, Linear)]
    bias = linear[-1].bias
    assert bias is not None, "the last layer, which no norm follows, has one"
    pixels, *norms = network.norms
    return Model(pixels, [layer.weight for layer in linear], norms, bias, accuracy, images[right], digits[right])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the images (default {EPOCHS})")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("model.npz"), help="default %(default)s")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; got {args.epochs}")
    network, test = train(args.epochs)
    model = as_model(network, *test)
    if model.accuracy < REQUIRED_ACCURACY:
        print(f"accuracy must be {REQUIRED_ACCURACY:.0%} or more; got {model.accuracy:.1%}", file=sys.stderr)
        return 1
    save(args.out, model)
    print(f"wrote {args.out}, {args.out.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
