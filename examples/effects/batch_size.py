"""Batch size: how far training mode is from inference
===================================================

**Expected.** In training a sample is normalized with the statistics of its batch, in inference with the running ones.
The fewer samples a batch has, the more those differ: the network is trained on what it never sees when it is used.
Ioffe (2017) describes it, and mends it by batch renormalization, which normalizes with the running statistics in
training too, and lets gradients pass as if the batch's had been used.

Networks are trained for as many steps in batches of each size, and then answer for the same test samples in both
modes: in inference, and in training mode in batches of that size, of which the average over several shufflings is
taken. Their gap is the loss in training mode less that in inference.
"""

import numpy as np
from script import COLORS, band, followed, run

import cbn
from networks import ReLU, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 10)
BATCHES = (2, 4, 8, 16, 64, 256)
RATE, STEPS, SHUFFLINGS = 0.1, 300, 3
SEEDS = range(3)
NETWORKS = {"batch norm": {}, "renormalized": {"renorm": True, "renorm_momentum": 0.1}}


def seen(network, x, labels):
    """Mean loss of samples, and the share that is right."""
    logits = network(x).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(axis=1) == labels).mean()


def learn(options, size, seed):
    """Loss and accuracy on the test samples: in inference, and in training mode."""
    rng = np.random.default_rng(seed)
    training, (x, labels) = load_data(rng)
    weights = initial_weights(rng, SIZES, np.float32)
    network = Stack(weights, lambda features: [cbn.BatchNorm1d(features, **options), ReLU()])
    for _ in steps(network, training, rng, RATE, size, STEPS):
        pass
    inference = seen(network.train(False), x, labels)
    network.train()  # its calls move the running statistics, so that inference had to come first
    parts = [
        seen(network, x[part], labels[part])
        for _ in range(SHUFFLINGS)
        for part in np.split(rng.permutation(len(x))[: len(x) // size * size], len(x) // size)
    ]
    return inference, np.mean(parts, axis=0)


def measure():
    """For each network an array: by seed, batch size, mode (inference, training), and of loss and accuracy."""
    return {
        name: np.array([[learn(options, size, seed) for size in BATCHES] for seed in followed(SEEDS, name)])
        for name, options in NETWORKS.items()
    }


def tell(results):
    plain, renormalized = (dict(zip(BATCHES, np.median(results[name], axis=0), strict=True)) for name in NETWORKS)
    gap = {size: training[0] - inference[0] for size, (inference, training) in plain.items()}
    mended = renormalized[4][1, 0] - renormalized[4][0, 0]
    yield (
        gap[4] > 0.2 and gap[4] > 2 * gap[16] > 4 * gap[256],
        f"The gap is {gap[4]:.2f} in batches of 4, {gap[16]:.2f} of 16, {gap[64]:.2f} of 64, "
        f"and {gap[256]:.2f} of 256.",
    )
    yield (
        plain[2][0, 1] < 0.8 < 0.9 < plain[16][0, 1],
        f"A network trained in batches of 2 gets {plain[2][0, 1]:.0%} of the test samples right in inference, one in "
        f"batches of 16 {plain[16][0, 1]:.0%}.",
    )
    yield (
        abs(mended) < gap[4] / 2 and renormalized[2][0, 1] > plain[2][0, 1] + 0.1,
        f"Renormalized, the gap is {mended:.2f} for batches of 4, and those of 2 give {renormalized[2][0, 1]:.0%}.",
    )


def draw(figure, results):
    figure.set_size_inches(9, 4.5)
    panels = figure.subplots(1, 2)
    for name, color in (("batch norm", COLORS["with"]), ("renormalized", COLORS["third"])):
        for mode, (label, style) in enumerate((("inference", "-"), ("training mode", "--"))):
            for kind, axes in enumerate(panels):
                look = {"color": color, "linestyle": style, "label": None if kind else f"{name}, {label}"}
                band(axes, BATCHES, results[name][:, :, mode, kind], marker=".", **look)
    for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="batch size in training", xticks=BATCHES, xticklabels=BATCHES, ylabel=f"test {what}")
    panels[0].set(yscale="log", title="The smaller the batch, the wider the gap")
    panels[1].set(ylim=(0, 1.02), title="Small batches: worse in both modes")
    figure.legend(loc="outside lower center", ncols=2)


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
