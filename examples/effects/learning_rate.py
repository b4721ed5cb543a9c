"""Learning rates: test accuracy against steps, with batch norm and without
========================================================================

**Expected.** Ioffe and Szegedy (2015, figures 2 and 3) trained Inception at its own learning rate without batch norm
and with it, then with it at 5 and 30 times that rate: each needed far fewer steps than the original to reach its
accuracy, and the original did not train at 5 times its rate. With sigmoid for an activation it stayed at chance without
batch norm, and learned with it.

Here a network of six hidden layers of 100 units learns the digits. Its learning rate is that of ``RATES`` with which it
reaches 95 % in the fewest steps *without* batch norm, chosen on the very test samples the figure shows: the best case
of what batch norm is compared with. Every run is made from several seeds, which decide the split, the weights and the
order of the samples.
"""

import numpy as np
from script import COLORS, band, followed, run, until

import cbn
from networks import ReLU, Sigmoid, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 100, 100, 100, 100, 10)
RATES = (0.025, 0.1, 0.4)
SEEDS = range(3)
STEPS, EVERY, BATCH = 300, 10, 60
LEVEL, CHANCE = 0.95, 0.2  # of ten digits one in ten is right by chance; few networks that know nothing reach 0.2


def between(activation, normalized):
    """What stands after a linear layer."""
    return lambda features: [cbn.BatchNorm1d(features), activation()] if normalized else [activation()]


def learn(seed, rate, activation, normalized):
    """Test accuracies after every so many steps."""
    rng = np.random.default_rng(seed)
    training, test = load_data(rng)
    network = Stack(initial_weights(rng, SIZES, np.float32), between(activation, normalized))
    with np.errstate(over="ignore", invalid="ignore"):  # where the rate is too high the weights overflow
        trained = steps(network, training, rng, rate, BATCH, STEPS)
        return [network.accuracy(*test) for number, _ in trained if number % EVERY == 0]


def reached(curves):
    """The steps to the level: the median of runs, infinity where it was not reached."""
    return float(np.median([(until(curve, LEVEL) or np.inf) * EVERY for curve in curves]))


def measure():
    found = {
        rate: np.array([learn(seed, rate, ReLU, False) for seed in SEEDS])
        for rate in followed(RATES, "learning rates without batch norm")
    }
    rate = min(RATES, key=lambda rate: reached(found[rate]))
    runs = {
        "with": (rate, ReLU, True),
        "with, rate x 5": (5 * rate, ReLU, True),
        "with, rate x 30": (30 * rate, ReLU, True),
        "without, rate x 5": (5 * rate, ReLU, False),
        "sigmoid, with": (rate, Sigmoid, True),
        "sigmoid, without": (rate, Sigmoid, False),
    }
    curves = {name: np.array([learn(seed, *how) for seed in SEEDS]) for name, how in followed(runs.items(), "networks")}
    return {"rate": rate, "curves": {"without": found[rate], **curves}}


def tell(results):
    rate, curves = results["rate"], results["curves"]
    needed = {name: reached(curve) for name, curve in curves.items()}
    best = {name: np.median(curve.max(axis=1)) for name, curve in curves.items()}
    late = curves["without, rate x 5"][:, STEPS // EVERY // 2 :].mean()
    yield (
        np.isfinite(needed["without"]),
        f"Without batch norm {LEVEL:.0%} takes {needed['without']:.0f} steps (the median of {len(SEEDS)} runs) at its "
        f"best learning rate, {rate:g};",
    )
    yield needed["with"] < 0.8 * needed["without"], f"with batch norm it takes {needed['with']:.0f} at the same rate,"
    yield needed["with, rate x 5"] < 0.5 * needed["without"], f"{needed['with, rate x 5']:.0f} at 5 times that rate,"
    yield (
        np.isfinite(needed["with, rate x 30"]),
        f"and {needed['with, rate x 30']:.0f} at 30 times.",
    )
    yield (
        late < 0.9,
        f"Without batch norm training breaks down at 5 times the rate: {late:.0%} are right, on average of the second "
        "half.",
    )
    yield (
        best["sigmoid, without"] < CHANCE,
        f"With sigmoid the network without batch norm stays near chance, {best['sigmoid, without']:.0%} at best;",
    )
    yield (
        best["sigmoid, with"] > 0.9,
        f"with batch norm it reaches {best['sigmoid, with']:.0%}.",
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
    relu, sigmoid = figure.subplots(1, 2, sharey=True)
    x = np.arange(EVERY, STEPS + 1, EVERY)
    for name, look in looks.items():
        band(relu, x, results["curves"][name], label=name.replace("x", "×"), **look)
    for name in ("with", "without"):
        band(sigmoid, x, results["curves"][f"sigmoid, {name}"], color=COLORS[name])
    for axes in (relu, sigmoid):
        axes.axhline(LEVEL, color="gray", linewidth=0.8, linestyle=":")
        axes.set(xlabel="step", ylim=(0, 1.02))
    relu.set(ylabel="test accuracy", title=f"ReLU: batch norm bears 30 times the rate {results['rate']:g}")
    sigmoid.set(title="Sigmoid: only batch norm learns")
    figure.legend(loc="outside lower center", ncols=5, title="batch norm")


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
