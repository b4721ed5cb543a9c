"""Initial weights: what their scale does without batch norm, and with it before or after the activation
=====================================================================================================

**Expected.** Batch norm of a layer with weights a W is that of the layer with weights W, and what flows back through
it does not depend on a either (Ioffe and Szegedy 2015, section 3.3). So a network that has batch norm should learn
from initial weights of the wrong scale, where one without sends no signal through its layers, or too large a one. The
paper puts batch norm before the activation. After it, where many put it today, it should serve as well here.

All initial weights of a network with four hidden layers are those that suit ReLU (He et al. 2015) times one number: the
last layer's too, which no batch norm follows. With it, too, accuracy should drop where the scale is far too large: the
last layer's outputs are then as large, and gradients of weights before a batch norm shrink as 1 / scale, so that a step
hardly turns them. All networks learn at the same rate, which suits the one without batch
norm at scale 1. Test accuracy is taken after 100 steps.
"""

import numpy as np
from script import COLORS, band, followed, run

import cbn
from networks import ReLU, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 100, 100, 10)
RATE, BATCH, STEPS = 0.2, 60, 100
SEEDS = range(3)
SCALES = 10.0 ** np.arange(-3, 2.1, 0.5)
ENOUGH = 0.8
BETWEEN = {
    "before": lambda features: [cbn.BatchNorm1d(features), ReLU()],
    "after": lambda features: [ReLU(), cbn.BatchNorm1d(features)],
    "without": lambda features: [ReLU()],
}


def learn(name, scale, seed):
    """Test accuracy after all steps."""
    rng = np.random.default_rng(seed)
    training, test = load_data(rng)
    weights = [np.float32(scale) * weight for weight in initial_weights(rng, SIZES, np.float32)]
    network = Stack(weights, BETWEEN[name])
    with np.errstate(over="ignore", invalid="ignore"):  # where the scale is too large the weights overflow
        for _ in steps(network, training, rng, RATE, BATCH, STEPS):
            pass
        return network.accuracy(*test)


def measure():
    """For each network the accuracies: a row for each seed, a column for each scale."""
    return {
        name: np.transpose([[learn(name, scale, seed) for seed in SEEDS] for scale in followed(SCALES, name)])
        for name in BETWEEN
    }


def tell(results):
    median = {name: np.median(found, axis=0) for name, found in results.items()}
    one = int(np.argmin(abs(np.log(SCALES))))
    less, right, more = median["without"][one - 1 : one + 2]
    yield right > ENOUGH, f"Without batch norm {right:.0%} are right at scale 1,"
    yield (
        max(less, more) < 0.5,
        f"but {less:.0%} at {SCALES[one - 1]:.3g} and {more:.0%} at {SCALES[one + 1]:.3g}.",
    )
    for name, where in (("before", "before the activation"), ("after", "after the activation")):
        enough = np.flatnonzero(median[name] > ENOUGH)
        good = SCALES[enough]
        yield (
            len(good) == np.ptp(enough) + 1 and good.min() < 0.005 and good.max() > 3,
            f"With batch norm {where} more than {ENOUGH:.0%} are right at all scales from {good.min():.3g} to "
            f"{good.max():.3g}.",
        )


def draw(figure, results):
    axes = figure.subplots()
    looks = {
        "without": (COLORS["without"], "without batch norm"),
        "before": (COLORS["with"], "with, before the activation"),
        "after": (COLORS["third"], "with, after the activation"),
    }
    for name, (color, label) in looks.items():
        band(axes, SCALES, results[name], color=color, label=label, marker=".")
    axes.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="scale of the initial weights",
        ylabel=f"test accuracy after {STEPS} steps",
        title="Batch norm makes up for weights that are far too small",
    )
    axes.legend()


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
