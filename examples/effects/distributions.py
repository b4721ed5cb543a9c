"""Distributions: what the last hidden layer is given, over training
=================================================================

**Expected.** Ioffe and Szegedy (2015, figure 1) followed the input of one sigmoid in the last of three hidden layers of
100 units, while a network learned MNIST in batches of 60: with batch norm its 15th, 50th and 85th percentiles were
steady throughout; without, mean and variance changed much as training went on, and the network learned more slowly.

Here the same network learns scikit-learn's digits, from weights that suit sigmoid, at a learning rate that suits the
one without batch norm. The percentiles are over the test samples, in inference mode, and before each look the running
statistics are set to those of all training samples: what is seen is then the weights of that very step. How steady a
unit is, is told by how far its median moves, from least to largest, over its average width, the distance of its 15th
from its 85th percentile; and by its largest width over its least. The figure shows, of the first run, the unit whose
median's move is the middle one: half of the units move less.
"""

import numpy as np
from script import COLORS, band, followed, run, until

import cbn
from networks import Sigmoid, Stack, load_data, sigmoid_weights, steps

SIZES = (64, 100, 100, 100, 10)
RATE, BATCH, STEPS, EVERY, LEVEL = 0.3, 60, 800, 20, 0.9
SEEDS = range(3)
PERCENTILES = (15, 50, 85)
BETWEEN = {
    "with": lambda features: [cbn.BatchNorm1d(features), Sigmoid()],
    "without": lambda features: [Sigmoid()],
}


def last_inputs(network, x):
    """What the last hidden layer's sigmoids are given in inference mode."""
    network.train(False)
    for layer in network.layers[:-2]:
        x = layer(x)
    network.train()
    return x


def learn(name, seed):
    """Percentiles of all units at the start and after every so many steps, and the test accuracies there."""
    rng = np.random.default_rng(seed)
    training, test = load_data(rng)
    network = Stack(sigmoid_weights(rng, SIZES, np.float32), BETWEEN[name])

    def look():
        if network.norms:
            cbn.recompute_statistics(network.norms, [training[0]], network, progress=False)
        return np.percentile(last_inputs(network, test[0]), PERCENTILES, axis=0), network.accuracy(*test)

    seen = [look()]
    for number, _ in steps(network, training, rng, RATE, BATCH, STEPS):
        if number % EVERY == 0:
            seen.append(look())
    percentiles, accuracies = zip(*seen, strict=True)
    return np.array(percentiles), np.array(accuracies)


def measure():
    results = {}
    for name in ("with", "without"):
        runs = [learn(name, seed) for seed in followed(SEEDS, f"{name} batch norm")]
        percentiles = np.array([found for found, _ in runs])  # run, look, percentile, unit
        widths = percentiles[:, :, 2] - percentiles[:, :, 0]
        results[name] = {
            "percentiles": percentiles[0],
            "accuracies": np.array([accuracies for _, accuracies in runs]),
            "spread": np.median(widths.max(axis=1) / widths.min(axis=1)),
            "move": np.ptp(percentiles[:, :, 1], axis=1) / widths.mean(axis=1),
        }
    return results


def tell(results):
    normed, plain = results["with"], results["without"]
    move, plain_move = np.median(normed["move"]), np.median(plain["move"])
    yield move < 0.2, f"With batch norm a typical unit's median moves by {move:.0%} of its average width,"
    yield plain_move > 4 * move, f"without by {plain_move:.0%}."
    spread, plain_spread = normed["spread"], plain["spread"]
    yield (
        plain_spread > 1.5 * spread,
        f"At its widest it is {spread:.1f} times as wide as at its narrowest, without {plain_spread:.1f} times.",
    )
    took, plain_took = (
        float(np.median([((until(curve, LEVEL) or np.inf) - 1) * EVERY for curve in one["accuracies"]]))
        for one in (normed, plain)
    )
    yield (
        took < 0.7 * plain_took < np.inf,
        f"{LEVEL:.0%} of the test samples are right after {took:.0f} steps with it, after {plain_took:.0f} without.",
    )


def draw(figure, results):
    figure.set_size_inches(10, 4.3)
    left, middle, right = figure.subplots(1, 3)
    middle.sharey(left)
    x = np.arange(0, STEPS + 1, EVERY)
    panels = (left, "with", "With batch norm: the median stays"), (middle, "without", "Without: the median moves")
    for axes, name, title in panels:
        color = COLORS[name]
        move = results[name]["move"][0]
        unit = np.argsort(move)[len(move) // 2]
        low, median, high = results[name]["percentiles"][:, :, unit].T
        axes.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
        axes.plot(x, median, color=color, label=name)
        axes.set(xlabel="step", title=title)
        band(right, x, results[name]["accuracies"], color=color)
    left.set(ylabel="input of a sigmoid: percentiles 15, 50, 85")
    right.set(xlabel="step", ylabel="test accuracy", ylim=(0, 1.02), title="What they learn meanwhile")
    figure.legend(loc="outside lower center", ncols=2, title="batch norm")


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
