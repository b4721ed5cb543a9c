"""The loss landscape: smoother with batch norm, and not because distributions stand still
==========================================================================================

**Expected.** Santurkar et al. (2018) looked at the loss along each step's gradient, and found that batch norm makes it
smoother: over a range of step sizes the loss varies less and the gradient changes less, so that it tells more about
where to go. They also found that distributions need not stand still for that: with random noise after each batch norm,
whose mean and variance change at every step, a layer's inputs shift more than without batch norm, and training goes
as well.

Three networks with three hidden layers, from the same weights, with the same batches and learning rate. At each step
the network is probed at four step sizes along the gradient, from half the learning rate to four times it: the range of
the losses (the paper's loss variation), the range of the distances between the gradient there and here (gradient
predictiveness), and the largest ratio of the gradient's change to the distance walked (effective smoothness). Each
probe works on a copy of the network, so that running statistics stay as they are and the noise is the step's own. The
shift is how far the means of the last layer's inputs move from one step to the next on the same 100 digits, in
deviations.

All that at a learning rate where all three learn fast; with and without batch norm also at a fifth of it.
"""

import copy
import itertools

import numpy as np
from matplotlib.ticker import LogLocator
from script import COLORS, followed, run

import cbn
from networks import Noise, ReLU, Stack, batches, initial_weights, load_data

SIZES = (64, 60, 60, 60, 10)
FAST, SLOW, STEPS, BATCH, SEEDS = 0.1, 0.02, 80, 60, (0, 1, 2)
PROBED = np.array([0.5, 1, 2, 4])  # of the learning rate
NAMES = {"with": "batch norm", "without": "without", "third": "batch norm, then noise"}
RUNS = [(FAST, "with"), (FAST, "without"), (FAST, "third"), (SLOW, "with"), (SLOW, "without")]
MEASURES = (
    "range of the loss",
    "range of the gradient's distance",
    "gradient's change by distance",
    "shift of the last layer's inputs",
    "training loss",
)


def streams(seed):
    """Independent generators: of the split, the order of the samples, the weights, and the noise."""
    return np.random.default_rng(seed).spawn(4)


def networks(seed):
    """The three networks, by the name of their colour."""
    *_, weights_rng, noise = streams(seed)
    weights = initial_weights(weights_rng, SIZES, np.float32)
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
    means, _ = last_inputs(network, x[:100])
    for batch in order:
        row = probe(network, x[batch], labels[batch], rate * PROBED)
        loss = network.train_step(x[batch], labels[batch], rate)
        before, (means, deviation) = means, last_inputs(network, x[:100])
        yield *row, np.sqrt(np.square(means - before).mean()) / deviation, loss


def measure():
    """Of each learning rate and network an array by seed, step and measure."""
    results: dict[tuple[float, str], list[list[tuple[float, ...]]]] = {key: [] for key in RUNS}
    for seed, (rate, name) in followed(list(itertools.product(SEEDS, RUNS)), "landscapes"):
        split, order_rng, *_ = streams(seed)
        (x, labels), _ = load_data(split)
        order = itertools.islice(batches(order_rng, len(x), BATCH), STEPS)
        results[rate, name].append(list(followed_training(networks(seed)[name], x, labels, order, rate)))
    return {key: np.array(values) for key, values in results.items()}


def tell(results):
    mean = {key: values.mean(axis=(0, 1)) for key, values in results.items()}
    for number, least in enumerate((2, 3, 2)):
        with_norm, without, noise = (mean[FAST, name][number] for name in ("with", "without", "third"))
        yield (
            without > least * with_norm and without > least * noise,
            f"{'The' if number else f'At a learning rate of {FAST:g} the'} mean {MEASURES[number]} is {with_norm:.2g} "
            f"with batch norm, {noise:.2g} with noise after it, {without:.2g} without.",
        )
    with_norm, without, noise = (mean[FAST, name][3] for name in ("with", "without", "third"))
    yield (
        noise > 1.1 * without > 5 * with_norm,
        f"With the noise the means of the last layer's inputs move by {noise:.2f} deviations a step, more than without "
        f"batch norm ({without:.2f}); with batch norm alone by {with_norm:.3f}.",
    )
    with_norm, without, noise = (results[FAST, name][:, -20:, 4].mean() for name in ("with", "without", "third"))
    yield (
        with_norm < noise < without,
        f"The noise costs a part of the advantage, not all: the last 20 steps have a loss of {with_norm:.2f} with "
        f"batch norm, {noise:.2f} with noise after it, {without:.2f} without.",
    )
    with_norm, without = (results[FAST, name][:, :10, 0].mean() for name in ("with", "without"))
    yield (
        with_norm > 1.5 * without,
        f"Not all is smoother: in the first ten steps the loss varies more with batch norm ({with_norm:.2f}, without "
        f"{without:.2f}),",
    )
    (with_norm, *_, loss), (without, *_, loss_without) = mean[SLOW, "with"], mean[SLOW, "without"]
    yield (
        with_norm > 1.5 * without and loss < loss_without,
        f"and at a learning rate of {SLOW:g} in all ({with_norm:.2f}, without {without:.2f}), since it falls faster "
        f"(mean loss {loss:.2f}, without {loss_without:.2f}).",
    )


def draw(figure, results):
    figure.set_size_inches(10, 6)
    axes = figure.subplots(2, 3)
    steps = np.arange(1, STEPS + 1)
    for number, (text, one) in enumerate(zip(MEASURES, axes.flat, strict=False)):
        for name, label in NAMES.items():
            values = results[FAST, name][:, :, number]
            one.fill_between(steps, values.min(axis=0), values.max(axis=0), color=COLORS[name], alpha=0.25, lw=0)
            one.semilogy(steps, np.median(values, axis=0), color=COLORS[name], label=label)
        one.set(xlabel="step", title=text)
        one.yaxis.set_major_formatter("{x:g}")
        one.yaxis.set_minor_locator(LogLocator(subs=(3,)))
        one.yaxis.set_minor_formatter("{x:g}")
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", title="median of 3 seeds, and range")
    figure.suptitle(f"Learning rate {FAST:g}: after the first steps the landscape is smoother with batch norm")


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
