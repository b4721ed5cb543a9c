"""Conversion: what a wrong convention does to a model, and how `explain` finds it
==================================================================================

**Expected.** Systems mean different things by the same arrays. A network that was trained in Keras has an eps of 1e-3
inside the root, a biased running variance, and a momentum that weighs the old value. Converted with another meaning it
raises no error: it answers otherwise. An eps in the wrong size or place matters at once where variances are small, as
those of the pixels at an image's border are; the meaning of momentum and of the running variance matters when the model
is trained on, most with small batches. :func:`cbn.explain` names each of these mistakes from one batch.

A digits network with batch norm on its pixels and before each activation, in the convention of Keras with momentum 0.9,
stands for the original. Each port gets its arrays and makes one mistake. Ports whose mistake shows in training are
trained on for 60 batches of 8, as the original is; weights stay the same in both, since training does not look at
running statistics. What counts is the largest difference of a probability of the test digits, and the predictions that
changed, of ten seeds. `explain` is given what the port's first batch norm makes of 8 digits, and the original's
convention.
"""

import copy
import textwrap
from dataclasses import replace

import numpy as np
from script import COLORS, followed, run

import cbn
from networks import ReLU, Stack, batches, initial_weights, load_data

SIZES = (64, 60, 60, 10)
SEEDS, FEW = range(10), 8
KERAS = replace(cbn.conventions.KERAS, momentum=0.9)
MISTAKES = {  # the port's convention, whether it shows in training only, and what explain must say
    "eps 1e-5 for 1e-3": (replace(KERAS, eps=1e-5), False, "eps is 1e-05"),
    "eps outside the root": (replace(KERAS, eps_place="outside"), False, "eps stands outside the root"),
    "momentum weighs the new value": (replace(KERAS, momentum_weighs="new"), True, "old and new are mixed up"),
    "unbiased variance": (replace(KERAS, variance="unbiased"), True, "running_var is unbiased"),
    "averaged deviations": (replace(KERAS, variance="deviation"), True, "running_var is made of averaged deviations"),
}


def original(x, labels, rng):
    """A network trained for ten epochs."""
    network = Stack(initial_weights(rng, SIZES, np.float32), lambda n: [cbn.BatchNorm1d(n, convention=KERAS), ReLU()])
    network.layers.insert(0, cbn.BatchNorm1d(SIZES[0], convention=KERAS))
    train_on(network, x, labels, 60, 220, rng)
    return network


def train_on(network, x, labels, size, count, rng):
    for _, batch in zip(range(count), batches(rng, len(x), size), strict=False):
        network.train_step(x[batch], labels[batch], 0.1 * size / 60)


def ported(network, port):
    """A copy of the network with `port(layer)` for each batch norm."""
    other = copy.deepcopy(network)
    other.layers = [port(layer) if isinstance(layer, cbn.BatchNorm) else layer for layer in other.layers]
    return other


def mistaken(layer, convention):
    """A layer of this convention with the arrays of another."""
    port = cbn.BatchNorm1d(layer.num_features, convention=convention)
    port.load_state_dict(dict(layer.state_dict()))  # without its metadata, with which cbn refuses another convention
    return port


def probabilities(network, x):
    logits = network.train(False)(x).astype(np.float64)
    network.train()
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def explained(norm, x, trains):
    """What explain finds in one call of a batch norm; the differences are those from the original's convention."""
    before = norm.state_dict()
    y = norm.train(trains)(x)
    return cbn.explain(x, y, norm.state_dict(), before=before, assumed=KERAS)


def compared(first, convention, trains, data, order):
    """The largest difference of a probability, the share of changed predictions, and what explain finds."""
    (x, labels), (test, _) = data
    networks = copy.deepcopy(first), ported(first, lambda layer: mistaken(layer, convention))
    if trains:
        for network in networks:
            train_on(network, x, labels, FEW, 60, copy.deepcopy(order))
    right, wrong = (probabilities(network, test) for network in networks)
    changed = (right.argmax(axis=1) != wrong.argmax(axis=1)).mean()
    return np.abs(right - wrong).max(), changed, explained(networks[1].layers[0], x[:FEW], trains)


def measure():
    """For each seed what each mistake does, and whether a port without a mistake gives the same bits."""
    rows, same = [], []
    for seed in followed(SEEDS, "conversions"):
        rng, order = np.random.default_rng(seed).spawn(2)
        data = (x, labels), (test, _) = load_data(rng)
        first = original(x, labels, rng)
        rows.append([compared(first, convention, trains, data, order) for convention, trains, _ in MISTAKES.values()])
        right = ported(first, lambda layer: cbn.convert(layer, "torch", variance="keep"))
        same.append(np.array_equal(probabilities(right, test), probabilities(first, test)))
    return dict(zip(MISTAKES, zip(*rows, strict=True), strict=True)), all(same)


def tell(results):
    mistakes, same = results
    for name, rows in mistakes.items():
        differences, changed, found = zip(*rows, strict=True)
        named = all(len(f.differences) == 1 and MISTAKES[name][2] in f.differences[0] for f in found)
        yield (
            named and np.median(differences) > 0.05,
            f"{name.capitalize()}: the worst digit's probability is off by {np.median(differences):.2f} and "
            f"{np.median(changed):.1%} of the predictions change (medians of {len(SEEDS)} seeds), and explain says: "
            f"{found[0].differences[0]}.",
        )
    yield same, "Ported by cbn.convert(layer, 'torch', variance='keep') the network gives the bits of the original."


def draw(figure, results):
    figure.set_size_inches(10, 5)
    left, right = figure.subplots(1, 2, sharey=True)
    mistakes = results[0]
    for place, rows in enumerate(mistakes.values()):
        differences, changed, _ = zip(*rows, strict=True)
        for axes, values in ((left, differences), (right, 100 * np.array(changed))):
            axes.barh(place, np.median(values), color=COLORS["fourth"], alpha=0.6, height=0.5)
            axes.plot(values, np.full(len(values), place), "|", color="black")
    texts = [f"{name}\n{textwrap.fill('explain: ' + rows[0][2].differences[0], 56)}" for name, rows in mistakes.items()]
    left.set_yticks(range(len(texts)), texts)
    left.invert_yaxis()
    left.set(xlabel="largest difference of a probability", title="The worst of 450 test digits")
    right.set(xlabel="predictions that change, %", title="All of them")
    figure.suptitle("One mistake each, and how explain finds it (bars: median of ten seeds; lines: each)")


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
