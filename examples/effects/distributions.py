"""Distributions: what the last hidden layer is given, over training
=================================================================

**Expected.** Ioffe and Szegedy (2015, figure 1) followed the input of one sigmoid in the last of three hidden layers of
100 units, while a network learned MNIST in batches of 60: with batch norm its 15th, 50th and 85th percentiles were
steady throughout; without, mean and variance changed much as training went on, and the network learned more slowly.

Here the same network learns scikit-learn's digits. The percentiles are over the test samples, in inference mode, and
before each look the running statistics are set to those of all training samples: what is seen is then the weights of
that very step. How steady a unit is, is told by the widest distance of its 15th from its 85th percentile over the
narrowest, and by how far its median moves, from least to largest, over its average width. The figure has, of the first
run, the unit whose median moves as far as half of the units' do.
"""

import numpy as np
from script import COLORS, band, followed, run

import cbn
from networks import Sigmoid, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 100, 10)
RATE, BATCH, STEPS, EVERY = 1.0, 60, 1500, 20
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
    network = Stack(initial_weights(rng, SIZES, np.float32), BETWEEN[name])

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
    spread, plain_spread = normed["spread"], plain["spread"]
    yield (
        spread < 3,
        f"With batch norm a typical unit's input is {spread:.1f} times as wide at its widest as at its narrowest,",
    )
    yield plain_spread > 10, f"without {plain_spread:.0f} times."
    move, plain_move = np.median(normed["move"]), np.median(plain["move"])
    yield move < 0.4, f"Its median moves by {move:.0%} of its average width with it,"
    yield plain_move > max(0.6, 2 * move), f"and by {plain_move:.0%} without."
    index = STEPS // EVERY // 10
    right, plain_right = (np.median(one["accuracies"][:, index]) for one in (normed, plain))
    yield (
        right > plain_right + 0.2,
        f"After {index * EVERY} steps {right:.0%} of the test samples are right with it, {plain_right:.0%} without.",
    )


def draw(figure, results):
    figure.set_size_inches(10, 4.3)
    left, middle, right = figure.subplots(1, 3)
    middle.sharey(left)
    x = np.arange(0, STEPS + 1, EVERY)
    panels = (left, "with", "With batch norm: steady"), (middle, "without", "Without: it moves, and widens")
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
