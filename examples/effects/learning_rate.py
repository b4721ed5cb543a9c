"""Learning rates: test accuracy against steps, with batch norm and without
========================================================================

**Expected.** Ioffe and Szegedy (2015, figures 2 and 3) trained Inception at its own learning rate without batch norm
and with it, then with it at 5 and 30 times that rate: each needed far fewer steps than the original to reach its
accuracy, and the original did not train at 5 times its rate. With sigmoid for an activation it stayed at chance without
batch norm, and learned with it.

Here a network of six hidden layers of 100 units learns the digits, from initial weights that suit its activation. Its
learning rate is that of a grid with which it reaches ``LEVEL`` in the fewest steps *without* batch norm, chosen on the
very test samples the figure shows: the best case of what batch norm is compared with. Every run is made from several
seeds, which decide the split, the weights and the order of the samples.
"""

import numpy as np
from script import COLORS, band, followed, run, until

import cbn
from networks import ReLU, Sigmoid, Stack, initial_weights, load_data, sigmoid_weights, steps

SIZES = (64, 100, 100, 100, 100, 100, 100, 10)
RATES = {ReLU: (0.05, 0.07, 0.1, 0.14, 0.2), Sigmoid: (0.05, 0.1, 0.2, 0.4)}
SEEDS = {ReLU: range(5), Sigmoid: range(3)}
LEVEL = {ReLU: 0.95, Sigmoid: 0.8}
WEIGHTS = {ReLU: initial_weights, Sigmoid: sigmoid_weights}
STEPS = {ReLU: 200, Sigmoid: 250}
EVERY, BATCH = 10, 60


def between(activation, normalized):
    """What stands after a linear layer."""
    return lambda features: [cbn.BatchNorm1d(features), activation()] if normalized else [activation()]


def learn(seed, rate, activation, normalized):
    """Test accuracies after every so many steps."""
    rng = np.random.default_rng(seed)
    training, test = load_data(rng)
    network = Stack(WEIGHTS[activation](rng, SIZES, np.float32), between(activation, normalized))
    with np.errstate(over="ignore", invalid="ignore"):  # where the rate is too high the weights overflow
        trained = steps(network, training, rng, rate, BATCH, STEPS[activation])
        return [network.accuracy(*test) for number, _ in trained if number % EVERY == 0]


def runs(*how):
    """Test accuracies, a row for each seed."""
    return np.array([learn(seed, *how) for seed in SEEDS[how[1]]])


def needed(curves, activation):
    """The steps to the activation's level: the median of runs, infinity where it was not reached."""
    return float(np.median([(until(curve, LEVEL[activation]) or np.inf) * EVERY for curve in curves]))


def measure():
    """For each activation the rates tried, the best without batch norm, and the curves by name."""
    results = {}
    for activation, rates in RATES.items():
        name = activation.__name__
        tried = {rate: runs(rate, activation, False) for rate in followed(rates, f"{name} without batch norm")}
        rate = min(rates, key=lambda rate: needed(tried[rate], activation))
        how = {"with": (rate, activation, True)}
        if activation is ReLU:
            how["with, rate x 5"], how["with, rate x 30"] = (5 * rate, ReLU, True), (30 * rate, ReLU, True)
            how["without, rate x 5"] = 5 * rate, ReLU, False
        curves = {key: runs(*values) for key, values in followed(how.items(), f"{name} with batch norm")}
        results[activation] = rate, {"without": tried[rate]} | curves
    return results


def tell(results):
    rate, curves = results[ReLU]
    took = {name: needed(curve, ReLU) for name, curve in curves.items()}
    late = {name: curve[:, curve.shape[1] // 2 :].mean() for name, curve in curves.items()}
    yield (
        min(RATES[ReLU]) < rate < max(RATES[ReLU]) and np.isfinite(took["without"]),
        f"ReLU without batch norm reaches {LEVEL[ReLU]:.0%} in {took['without']:.0f} steps (the median of "
        f"{len(SEEDS[ReLU])} runs) at the best rate of the grid, {rate:g};",
    )
    yield took["with"] < 0.85 * took["without"], f"with batch norm in {took['with']:.0f} at the same rate,"
    yield took["with, rate x 5"] < 0.7 * took["without"], f"and in {took['with, rate x 5']:.0f} at 5 times that."
    yield (
        late["without, rate x 5"] < 0.85 < 0.93 < late["with, rate x 5"],
        f"There the network without batch norm has {late['without, rate x 5']:.0%} right, on average of the second "
        f"half of the steps; with it {late['with, rate x 5']:.0%}.",
    )
    reached = sum(until(curve, LEVEL[ReLU]) is not None for curve in curves["with, rate x 30"])
    yield (
        late["with, rate x 30"] > max(0.6, late["without, rate x 5"] + 0.1),
        f"At 30 times the rate batch norm still learns: {late['with, rate x 30']:.0%} are right, and {reached} of "
        f"{len(SEEDS[ReLU])} runs reach {LEVEL[ReLU]:.0%}.",
    )
    rate, curves = results[Sigmoid]
    took = {name: needed(curve, Sigmoid) for name, curve in curves.items()}
    best = {name: np.median(curve.max(axis=1)) for name, curve in curves.items()}
    yield (
        took["with"] < 0.5 * took["without"] < np.inf and best["with"] > best["without"] + 0.03,
        f"Sigmoid learns without batch norm, too: {LEVEL[Sigmoid]:.0%} takes {took['without']:.0f} steps at its best "
        f"rate, {rate:g}, and {best['without']:.0%} is what it gets to in {STEPS[Sigmoid]}; with batch norm "
        f"{took['with']:.0f} steps, and {best['with']:.0%}.",
    )


def draw(figure, results):
    looks = {
        "without": {"color": COLORS["without"]},
        "without, rate x 5": {"color": COLORS["without"], "linestyle": "--"},
        "with": {"color": COLORS["with"]},
        "with, rate x 5": {"color": COLORS["third"]},
        "with, rate x 30": {"color": COLORS["fourth"]},
    }
    figure.set_size_inches(9, 4.5)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (activation, (rate, curves)) in zip(panels, results.items(), strict=True):
        x = np.arange(EVERY, STEPS[activation] + 1, EVERY)
        for name, curve in curves.items():
            label = name.replace("x", "×") if activation is ReLU else None
            band(axes, x, curve, label=label, **looks[name])
        axes.axhline(LEVEL[activation], color="gray", linewidth=0.8, linestyle=":")
        axes.set(xlabel="step", ylim=(0, 1.02), title=f"{activation.__name__}, rate {rate:g}")
    panels[0].set(ylabel="test accuracy")
    figure.suptitle("Batch norm learns faster, and bears higher rates")
    figure.legend(loc="outside lower center", ncols=5, title="batch norm")


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
