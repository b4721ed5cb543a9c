"""Running statistics: moving averages against those of the population
===================================================================

**Expected.** In inference a layer needs mean and variance of what it is given. Ioffe and Szegedy (2015, Algorithm 2)
take them over many batches after training; in practice they are moving averages, kept on the way. With a small momentum
those still hold much of where they began, 0 and 1, after few batches; with a large one they are those of the last
few batches alone; with ``momentum=None`` they are plain averages, of what layers saw at weights long gone too. Wu and
Johnson (2021) advise to compute them anew, from the values of all batches pooled: :func:`cbn.recompute_statistics`.

A network is stopped after some batches, looked at, and trained on. All networks have the same weights, for in training
mode the running statistics have no say. The truth is what the layers are given for all training samples as one batch.
Errors of means are in standard deviations, errors of variances relative, both root mean squares over all channels.
"""

from typing import Literal

import numpy as np
from script import COLORS, band, followed, run

import cbn
from networks import ReLU, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 10)
RATE, BATCH = 0.2, 32
LOOKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # after so many batches
EARLY = LOOKS.index(8)
MOMENTA = (0.01, 0.1, 0.5, None)
MODES: tuple[Literal["pooled", "paper"], ...] = ("pooled", "paper")
SEEDS = range(5)


def statistics(network):
    """Means and variances of all channels of all layers."""
    norms = network.norms
    return np.concatenate([n.running_mean for n in norms]), np.concatenate([n.running_var for n in norms])


def look(network, truth, test):
    """The errors of a network's means and variances, and its test accuracy in inference."""
    (mean, var), (true_mean, true_var) = statistics(network), truth
    errors = (mean - true_mean) / np.sqrt(true_var), var / true_var - 1
    return *(np.sqrt(np.mean(np.square(error))) for error in errors), network.accuracy(*test)


def learn(momentum, seed):
    """What is seen after so many batches: with moving averages, and with population statistics of each mode."""
    rng = np.random.default_rng(seed)
    (x, labels), test = load_data(rng)
    weights = initial_weights(rng, SIZES, np.float32)
    network = Stack(weights, lambda features: [cbn.BatchNorm1d(features, momentum=momentum), ReLU()])
    parts = np.array_split(x, len(x) // BATCH)
    found = []
    for number, _ in steps(network, (x, labels), rng, RATE, BATCH, LOOKS[-1]):
        if number in LOOKS:
            kept = [norm.state_dict() for norm in network.norms]
            cbn.recompute_statistics(network.norms, [x], network, progress=False)
            truth = statistics(network)
            seen = []
            for mode in MODES:
                cbn.recompute_statistics(network.norms, parts, network, mode=mode, progress=False)
                seen.append(look(network, truth, test))
            for norm, state in zip(network.norms, kept, strict=True):
                norm.load_state_dict(state)
            found.append([look(network, truth, test), *seen])
    return found


def measure():
    """By name an array: by seed, look, and of error of means, of variances, and accuracy."""
    runs = {momentum: np.array([learn(momentum, seed) for seed in SEEDS]) for momentum in followed(MOMENTA, "networks")}
    results = {f"momentum {momentum}": found[:, :, 0] for momentum, found in runs.items()}
    population = runs[MOMENTA[0]]  # the same for each momentum
    return results | {mode: population[:, :, 1 + i] for i, mode in enumerate(MODES)}


def tell(results):
    median = {name: np.median(found, axis=0) for name, found in results.items()}
    early, late = ({name: found[when] for name, found in median.items()} for when in (EARLY, -1))
    small, usual, large, average = (f"momentum {momentum}" for momentum in MOMENTA)
    yield (
        early["pooled"][1] < 0.1 < 0.5 < early[usual][1] < early[small][1],
        f"After {LOOKS[EARLY]} batches variances are wrong by {early['pooled'][1]:.1%} with population statistics, "
        f"by {early[usual][1]:.0%} with momentum 0.1, and by {early[small][1]:.0%} with 0.01;",
    )
    yield (
        early["pooled"][2] > max(early[usual][2] + 0.01, early[small][2] + 0.1),
        f"of the test samples {early['pooled'][2]:.0%}, {early[usual][2]:.0%} and {early[small][2]:.0%} are right.",
    )
    yield (
        late["pooled"][0] < 0.02 and late[usual][0] < 0.7 * min(late[large][0], late[small][0], late[average][0]),
        f"After {LOOKS[-1]} batches means are wrong by {late['pooled'][0]:.3f} deviations with population statistics, "
        f"{late[usual][0]:.3f} with momentum 0.1, and more with 0.5 ({late[large][0]:.3f}), with 0.01 "
        f"({late[small][0]:.3f}) and as plain averages ({late[average][0]:.3f});",
    )
    rights = [found[2] for found in late.values()]
    yield (
        max(rights) - min(rights) < 0.03,
        f"but {min(rights):.1%} to {max(rights):.1%} of the test samples are right, with whichever.",
    )
    yield (
        max(median["pooled"][:, 1]) < max(median["paper"][:, 1]) < 0.1,
        f"The paper's average of variances errs by up to {max(median['paper'][:, 1]):.1%}, pooled values by up to "
        f"{max(median['pooled'][:, 1]):.1%}.",
    )


def draw(figure, results):
    figure.set_size_inches(11, 4.5)
    panels = figure.subplots(1, 3)
    colors = [COLORS[name] for name in ("without", "with", "third", "fourth")] + ["black", "gray"]
    for kind, axes in enumerate(panels):
        for (name, found), color in zip(results.items(), colors, strict=True):
            look = {"color": color, "linestyle": "--" if name == "paper" else "-"}
            label = name if name.startswith("momentum") else f"population statistics, {name}"
            band(axes, LOOKS, found[:, :, kind], label=None if kind else label, **look)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="batches trained on", xticks=LOOKS, xticklabels=LOOKS)
    panels[0].set(yscale="log", ylabel="error, in standard deviations", title="Means: large momenta stay noisy")
    panels[1].set(yscale="log", ylabel="relative error", title="Variances: small momenta lag")
    panels[2].set(ylim=(0, 1.02), ylabel="test accuracy", title="Inference: it matters early")
    figure.legend(loc="outside lower center", ncols=3)


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
