"""Batch size: how far training mode is from inference
===================================================

**Expected.** In training a sample is normalized with the statistics of its batch, in inference with the running ones.
The fewer samples a batch has, the more those differ: the network is trained on what it never sees when it is used.
Ioffe (2017) describes it, and mends it by batch renormalization, which normalizes with the running statistics in
training too, and lets gradients pass as if the batch's had been used.

Networks are trained for 300 steps in batches of each size, and then answer for the same test samples in inference, and
those with batch norm also in training mode in batches of that size, of which the average over several shufflings is
taken. The gap is the loss in training mode less that in inference, of the same samples and network. So many steps of
small batches see few samples, and go in noisy directions: how much that alone costs is shown by networks without batch
norm, which are trained on the same batches.
"""

import numpy as np
from script import COLORS, band, followed, run

import cbn
from networks import ReLU, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 10)
BATCHES = (2, 4, 8, 16, 64, 256)
RATE, STEPS, SHUFFLINGS = 0.1, 300, 3
SEEDS = range(3)
NETWORKS = {
    "batch norm": lambda features: [cbn.BatchNorm1d(features), ReLU()],
    "renormalized": lambda features: [cbn.BatchNorm1d(features, renorm=True, renorm_momentum=0.1), ReLU()],
    "without": lambda features: [ReLU()],
}
LOOKS = {"batch norm": COLORS["with"], "renormalized": COLORS["third"], "without": COLORS["without"]}


def seen(network, x, labels):
    """The loss of each sample, and the share that is right."""
    logits = network(x).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return losses, (logits.argmax(axis=1) == labels).mean()


def gap(network, x, labels, size, losses, rng):
    """The mean loss in training mode, in batches of this size, less that of the same samples in inference."""
    for norm in network.train().norms:  # which look at test samples, and must not learn from them
        norm.momentum = norm.renorm_momentum = 0.0
    parts = [
        part
        for _ in range(SHUFFLINGS)
        for part in np.split(rng.permutation(len(x))[: len(x) // size * size], len(x) // size)
    ]
    return np.mean([seen(network, x[part], labels[part])[0] - losses[part] for part in parts])


def learn(name, size, seed):
    """Loss, accuracy and gap on the test samples; no layer of the network without batch norm has modes, nor a gap."""
    rng = np.random.default_rng(seed)
    training, (x, labels) = load_data(rng)
    network = Stack(initial_weights(rng, SIZES, np.float32), NETWORKS[name])
    for _ in steps(network, training, rng, RATE, size, STEPS):
        pass
    losses, right = seen(network.train(False), x, labels)
    return losses.mean(), right, gap(network, x, labels, size, losses, rng) if network.norms else 0.0


def measure():
    """For each network an array: by seed, batch size, and of loss, accuracy and gap."""
    return {
        name: np.array([[learn(name, size, seed) for size in BATCHES] for seed in followed(SEEDS, name)])
        for name in NETWORKS
    }


def tell(results):
    rights = {
        name: dict(zip(BATCHES, np.median(found[:, :, 1], axis=0), strict=True)) for name, found in results.items()
    }
    gaps = dict(zip(BATCHES, np.median(results["batch norm"][:, :, 2], axis=0), strict=True))
    larger = ", ".join(f"{gaps[size]:.2g} of {size}" for size in BATCHES[1:])
    yield (
        gaps[2] > 2 * gaps[16] and gaps[4] > 2 * gaps[16] > 4 * gaps[256],
        f"With batch norm the gap is {gaps[2]:.2g} in batches of 2, {larger} (medians of {len(SEEDS)} seeds).",
    )
    plain, renormalized, without = (right[2] for right in rights.values())
    yield (
        plain < without - 0.1,
        f"Trained in batches of 2 it gets {plain:.0%} of the test samples right in inference, a network without batch "
        f"norm {without:.0%}: few samples are not all that hinders it.",
    )
    plain_16, without_16 = (rights[name][16] for name in ("batch norm", "without"))
    yield plain_16 > without_16, f"In batches of 16 it is ahead, {plain_16:.1%} to {without_16:.1%}."
    yield (
        np.abs(results["renormalized"][:, :, 2]).max() < 1e-4 and renormalized > plain + 0.1,
        f"Renormalized there is no gap, for training normalizes with the running statistics, and batches of 2 give "
        f"{renormalized:.0%}.",
    )


def draw(figure, results):
    figure.set_size_inches(11, 4.3)
    panels = figure.subplots(1, 3)
    for name, color in LOOKS.items():
        band(panels[0], BATCHES, results[name][:, :, 0], color=color, label=name, marker=".")
        band(panels[1], BATCHES, results[name][:, :, 1], color=color, marker=".")
    for name in ("batch norm", "renormalized"):
        band(panels[2], BATCHES, results[name][:, :, 2], color=LOOKS[name], marker=".")
    titles = (
        "Test loss in inference",
        "Test accuracy in inference",
        "Gap: test loss in training mode\nless that in inference",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="batch size in training", xticks=BATCHES, xticklabels=BATCHES, title=title)
    panels[0].set(yscale="log")
    panels[1].set(ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=3)


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
