"""Regularization: batch norm and dropout, against overfitting
===========================================================

**Expected.** Ioffe and Szegedy (2015, sections 3.4 and 4.2.1) hold that batch norm regularizes: a sample's output hangs
on the others of its batch, which differ from step to step. Dropout, they found, can then be weakened or left out, and
without it Inception with batch norm did not overfit more. So batch norm alone should do here what dropout does.

Four networks learn 400 digits, with nothing, batch norm, dropout of half of the hidden units, and both: once with the
right labels, which takes far fewer steps than they get, and once with random ones for 20 % of the samples, which can be
learned only by heart.
"""

import numpy as np
from script import COLORS, band, followed, run

import cbn
from networks import Dropout, ReLU, Stack, initial_weights, load_data, steps

SIZES = (64, 100, 100, 10)
RATE, BATCH, STEPS, EVERY = 0.1, 20, 800, 40
SAMPLES, DRAWN, DROPPED = 400, 0.2, 0.5
SEEDS = range(4)
LOOKS = {
    "nothing": COLORS["without"],
    "batch norm": COLORS["with"],
    "dropout": COLORS["third"],
    "both": COLORS["fourth"],
}
CASES = {"right labels": 0.0, "a fifth at random": DRAWN}
TITLES = "Right labels: little to regularize", "A fifth at random: dropout helps"


def between(name, rng):
    """What stands after a linear layer."""
    norms = (cbn.BatchNorm1d,) if name in ("batch norm", "both") else ()
    drops = (DROPPED,) if name in ("dropout", "both") else ()
    return lambda n: [*(norm(n) for norm in norms), ReLU(), *(Dropout(share, rng) for share in drops)]


def learn(name, drawn, seed):
    """Pairs of accuracy, as the training labels have it and on test samples, after every so many steps."""
    rng = np.random.default_rng(seed)
    (x, labels), test = load_data(rng)
    x, labels = x[:SAMPLES], labels[:SAMPLES]
    labels = np.where(rng.random(SAMPLES) < drawn, rng.integers(0, 10, SAMPLES), labels)
    network = Stack(initial_weights(rng, SIZES, np.float32), between(name, rng))
    trained = steps(network, (x, labels), rng, RATE, BATCH, STEPS)
    return [(network.accuracy(x, labels), network.accuracy(*test)) for number, _ in trained if number % EVERY == 0]


def measure():
    """For each case and network the accuracies: by run, by time, and of training and test samples."""
    return {
        case: {name: np.array([learn(name, drawn, seed) for seed in SEEDS]) for name in followed(LOOKS, case)}
        for case, drawn in CASES.items()
    }


def tell(results):
    """The claims hold for averages of the runs over the last quarter of the steps."""
    late = STEPS // EVERY // 4
    right, drawn = (
        {name: found[:, -late:].mean(axis=(0, 1)) for name, found in results[case].items()} for case in CASES
    )
    tests = [test for _, test in right.values()]
    yield (
        max(tests) - min(tests) < 0.04 and min(train for train, _ in right.values()) > 0.97,
        f"Where all labels are right all four get the training samples right, and {min(tests):.1%} to {max(tests):.1%} "
        "of the test samples: little is left to regularize.",
    )
    yield (
        right["batch norm"][1] > right["dropout"][1] - 0.01,
        f"Batch norm alone, with {right['batch norm'][1]:.1%}, does not miss dropout, with {right['dropout'][1]:.1%}.",
    )
    train, test = drawn["nothing"]
    yield (
        train > 0.83 and test < right["nothing"][1] - 0.04,
        f"Where a fifth is random, with nothing against it {train:.0%} of the training labels are learned, wrong ones "
        f"by heart, and {test:.0%} of the test samples are right.",
    )
    train, normed = drawn["batch norm"]
    yield (
        train > drawn["nothing"][0] + 0.05 and normed < test,
        f"Batch norm alone is worse than nothing there, since it learns faster: in as many steps {train:.0%} of the "
        f"labels, where without it learning is not over, and {normed:.0%} of the test samples are right.",
    )
    for name, text in (("dropout", "Dropout hinders that"), ("both", "Beside batch norm it still does")):
        train, dropped = drawn[name]
        yield train < 0.9 and dropped > normed + 0.03, f"{text}: {train:.0%} and {dropped:.0%}."


def draw(figure, results):
    figure.set_size_inches(9, 6.5)
    x = np.arange(EVERY, STEPS + 1, EVERY)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for column, (found, title) in enumerate(zip(results.values(), TITLES, strict=True)):
        for row, kind in enumerate(("training", "test")):
            for name, color in LOOKS.items():
                label = None if row or column else name
                band(axes[row, column], x, found[name][:, :, row], color=color, label=label)
            axes[row, column].set(ylabel=f"{kind} accuracy", xlabel="step", ylim=(0.7, 1.01))
            axes[row, column].label_outer()
        axes[0, column].set(title=title)
    figure.legend(loc="outside lower center", ncols=4)


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
