"""The loss landscape: smoother with batch norm, and not because distributions stand still
==========================================================================================

**Expected.** Santurkar et al. (2018) looked at the loss along each step's gradient, and found that batch norm makes it
smoother: over a range of step sizes the loss varies less and the gradient changes less, so that it tells more about
where to go. They also found that distributions need not stand still for that: with random noise after each batch norm,
whose mean and variance change at every step, a layer's inputs shift more than without batch norm, and training goes
as well.

Three networks with three hidden layers, from the same weights, with the same batches and learning rate. At each step
the network is probed at four step sizes along the gradient, from half the learning rate to four times it: the range of
the losses, the range of the distances between the gradient there and here, and the largest ratio of such a distance to
the way (effective smoothness). Each probe works on a copy of the network, so that running statistics stay as they are
and the noise is the step's own. The shift is how far the means of the last layer's inputs move from one step to the
next on the same 256 digits, in deviations.

All that at a learning rate where all three learn fast, and at a fifth of it.
"""

import copy
import itertools

import numpy as np
from networks import Noise, ReLU, Stack, batches, initial_weights, load_data
from script import COLORS, followed, run

import cbn

SIZES = (64, 60, 60, 60, 10)
RATES, STEPS, BATCH, SEEDS = {"fast": 0.1, "slow": 0.02}, 100, 60, (0, 1, 2)
PROBED = np.array([0.5, 1, 2, 4])  # of the learning rate
NAMES = {"with": "batch norm", "without": "without", "third": "batch norm, then noise"}
MEASURES = ("loss variation", "gradient predictiveness", "effective smoothness", "shift", "training loss")


def networks(seed):
    """The three networks, by the name of their colour."""
    weights = initial_weights(np.random.default_rng(seed), SIZES, np.float32)
    noise = np.random.default_rng(seed)
    between = {
        "with": lambda n: [cbn.BatchNorm1d(n), ReLU()],
        "without": lambda n: [ReLU()],
        "third": lambda n: [cbn.BatchNorm1d(n), Noise(noise), ReLU()],
    }
    return {name: Stack(weights, layers) for name, layers in between.items()}


def gradient(network):
    return np.concatenate([values.ravel() for _, values in network.parameters()]).astype(np.float64)


def moved(network, here, step):
    """A copy of the network, a step of this size along the gradients of `here` away."""
    there = copy.deepcopy(network)
    for layer, known in zip(there.layers, here.layers, strict=True):
        for name in ("weight", "bias"):
            if getattr(layer, name, None) is not None:
                getattr(layer, name)[...] -= np.float32(step) * getattr(known, name + "_grad")
    return there


def probe(network, x, labels, steps):
    """Loss variation, gradient predictiveness and effective smoothness along the gradient."""
    here = copy.deepcopy(network)
    here.backward(x, labels, len(x))
    start, losses, distances = gradient(here), [], []
    for step in steps:
        there = moved(network, here, step)
        losses.append(there.backward(x, labels, len(x)))
        distances.append(np.linalg.norm(gradient(there) - start))
    return np.ptp(losses), np.ptp(distances), (distances / steps).max() / np.linalg.norm(start)


def last_inputs(network, x):
    """The means of the last layer's inputs, and their common deviation."""
    there = copy.deepcopy(network)
    there(x)
    inputs = there.layers[-1].x
    return inputs.mean(axis=0), np.sqrt(inputs.var(axis=0).mean())


def followed_training(network, x, labels, order, rate):
    """All measures at each step."""
    means, _ = last_inputs(network, x[:256])
    for batch in order:
        row = probe(network, x[batch], labels[batch], rate * PROBED)
        loss = network.train_step(x[batch], labels[batch], rate)
        before, (means, deviation) = means, last_inputs(network, x[:256])
        yield *row, np.sqrt(np.square(means - before).mean()) / deviation, loss


def measure():
    """Of each learning rate and network an array by seed, step and measure."""
    results = {(rate, name): [] for rate in RATES for name in NAMES}
    for seed, rate in followed(list(itertools.product(SEEDS, RATES)), "landscapes"):
        (x, labels), _ = load_data(np.random.default_rng(seed))
        order = list(itertools.islice(batches(np.random.default_rng(seed), len(x), BATCH), STEPS))
        for name, network in networks(seed).items():
            results[rate, name].append(list(followed_training(network, x, labels, order, RATES[rate])))
    return {key: np.array(values) for key, values in results.items()}


def tell(results):
    mean = {key: dict(zip(MEASURES, values.mean(axis=(0, 1)), strict=True)) for key, values in results.items()}
    fast, slow = ({name: mean[rate, name] for name in NAMES} for rate in RATES)
    end = {name: results["fast", name][:, -20:, -1].mean() for name in NAMES}
    for text, least in zip(MEASURES[:3], (2, 3, 2), strict=True):
        with_norm, without, noise = (fast[name][text] for name in ("with", "without", "third"))
        yield (
            without > least * with_norm and without > least * noise,
            f"At a learning rate of {RATES['fast']:g} the mean {text} is {with_norm:.2g} with batch norm, {noise:.2g} "
            f"with noise after it, {without:.2g} without.",
        )
    yield (
        fast["third"]["shift"] > 1.1 * fast["without"]["shift"] and fast["with"]["shift"] < fast["without"]["shift"] / 5,
        f"With the noise the means move by {fast['third']['shift']:.2f} deviations a step, more than without batch norm "
        f"({fast['without']['shift']:.2f}); with batch norm alone by {fast['with']['shift']:.3f}.",
    )
    yield (
        end["with"] < end["third"] < end["without"],
        f"The noise costs a part of the advantage, not all: the loss of the last 20 steps is {end['with']:.2f} with "
        f"batch norm, {end['third']:.2f} with noise after it, {end['without']:.2f} without.",
    )
    yield (
        slow["with"]["loss variation"] > slow["without"]["loss variation"],
        f"The learning rate matters: at {RATES['slow']:g} the loss varies more with batch norm "
        f"({slow['with']['loss variation']:.2f}, without {slow['without']['loss variation']:.2f}), since there it falls "
        "faster, and the landscape without is not rough yet.",
    )


def draw(figure, results):
    figure.set_size_inches(10, 6)
    axes = figure.subplots(2, 3, sharex=True)
    for number, (text, one) in enumerate(zip(MEASURES, axes.flat, strict=False)):
        for name, label in NAMES.items():
            values = results["fast", name][:, :, number]
            one.fill_between(
                np.arange(1, STEPS + 1), values.min(axis=0), values.max(axis=0), color=COLORS[name], alpha=0.25, lw=0
            )
            one.semilogy(np.arange(1, STEPS + 1), np.median(values, axis=0), color=COLORS[name], label=label)
        one.set(xlabel="step", title=text)
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", title="median of 3 seeds, and range")
    figure.suptitle(f"Along the gradient, at steps of {PROBED[0]:g} to {PROBED[-1]:g} x the learning rate, {RATES['fast']}")


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
