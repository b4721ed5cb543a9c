"""network: the trained network from its file, as it serves: in NumPy, with cbn layers."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cbn

SIDE = 8  # pixels of an image's side
SIZES = (SIDE * SIDE, 100, 100, 10)
# in squared grey levels: a pixel that is blank in nearly all images is then not blown up where somebody draws on it
INPUT_EPS = 1000.0
FOLD_ERROR = 1e-5  # of the largest value; float32 weights give some 1e-7


class Model(NamedTuple):
    """What a model file holds."""

    pixels: cbn.BatchNorm1d  # the input stage, which takes the pixels as they are
    weights: list[np.ndarray]  # (in, out)
    norms: list[cbn.BatchNorm1d]  # after each linear layer but the last
    bias: np.ndarray  # of the last linear layer
    accuracy: float  # on images that were not trained on
    check_images: np.ndarray  # some of those
    check_digits: np.ndarray  # and what they show
    file: Path = Path()  # that it was read from
    sha256: str = ""  # of the file


def input_norm() -> cbn.BatchNorm1d:
    return cbn.BatchNorm1d(SIZES[0], eps=INPUT_EPS, weight=False, bias=False)


def save(path: str | Path, model: Model) -> None:
    """Write a model file: plain arrays under the names that `load` reads."""
    arrays: dict[str, Any] = {f"weight.{i}": weight for i, weight in enumerate(model.weights)}
    for i, norm in enumerate([model.pixels, *model.norms]):
        arrays.update({f"norm.{i}.{key}": value for key, value in norm.state_dict().items()})
    names = ("bias", "accuracy", "check_images", "check_digits")
    np.savez(path, **arrays, **{name: getattr(model, name) for name in names})


def load(path: str | Path) -> Model:
    """Read a model file, once, so that the sum is that of what was read."""
    contents = Path(path).read_bytes()
    with np.load(io.BytesIO(contents), allow_pickle=False) as file:
        arrays = dict(file)
    norms = [input_norm(), *(cbn.BatchNorm1d(size) for size in SIZES[1:-1])]
    for i, norm in enumerate(norms):
        prefix = f"norm.{i}."
        norm.load_state_dict({key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)})
        norm.eval()
    return Model(
        norms[0],
        [arrays[f"weight.{i}"] for i in range(len(SIZES) - 1)],
        norms[1:],
        arrays["bias"],
        float(arrays["accuracy"]),
        arrays["check_images"],
        arrays["check_digits"],
        Path(path),
        hashlib.sha256(contents).hexdigest(),
    )


def folded(model: Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each linear layer with the norm behind it folded in."""
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for weight, norm in zip(model.weights[:-1], model.norms, strict=True):
        layer = cbn.fold_linear(weight, None, norm, axis=-1, verify=True)
        if not layer.error < FOLD_ERROR:
            raise ArithmeticError(f"the folded layer must agree to {FOLD_ERROR}; got {layer.error}")
        layers.append((layer.weight, layer.bias))
    return [*layers, (model.weights[-1], model.bias)]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, in the memory of the logits."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


class Folded:
    """The network that serves.

    One pass of cbn makes normalized float32 of uint8 pixels. It stays a layer: folded into the weights it would leave
    the conversion behind, a pass of its own. All later norms are in the weights.
    """

    def __init__(self, model: Model):
        self.pixels, self.layers = model.pixels, folded(model)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (N, 10) of uint8 images (N, 8, 8)."""
        x = self.pixels(images.reshape(len(images), -1))
        for weight, bias in self.layers[:-1]:
            x = x @ weight
            x += bias
            np.maximum(x, 0, out=x)
        weight, bias = self.layers[-1]
        x = x @ weight
        x += bias
        return softmax(x)


class Unfolded:
    """The network as it was trained, to compare: each norm and the ReLU behind it are one pass of cbn."""

    def __init__(self, model: Model):
        self.model = model
        self.norms = [cbn.BatchNorm1d(norm.num_features, activation="relu") for norm in model.norms]
        for fused, norm in zip(self.norms, model.norms, strict=True):
            fused.load_state_dict(norm.state_dict())
            fused.eval()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (N, 10) of uint8 images (N, 8, 8)."""
        x = self.model.pixels(images.reshape(len(images), -1))
        for weight, norm in zip(self.model.weights[:-1], self.norms, strict=True):
            x = x @ weight
            x = norm(x, out=x)
        x = x @ self.model.weights[-1]
        x += self.model.bias
        return softmax(x)
