"""Feature scaling: gradient descent on raw and on normalized features
===================================================================

**Expected.** The chemical analyses of scikit-learn's wines have features with means from 0.36 (nonflavanoid phenols) to
747 (proline). The loss is then steep in some directions and flat in others: a learning rate that does not diverge along
the steep ones makes no progress along the flat ones. Normalized to mean 0 and deviation 1 over the data set, all
directions are alike, and one learning rate serves them all.

Softmax regression on all samples at once; each of the two gets the learning rate, of powers of two, with which it takes
the fewest steps to the target, or has the least loss after all steps where it never gets there.
"""

import numpy as np
from script import COLORS, followed, run
from sklearn.datasets import load_wine

import cbn

STEPS = 1000
RATES = 2.0 ** np.arange(-21, 6)
TARGET = 0.1  # a loss at which all samples are classified rightly, or nearly so


def descend(x, labels, rate):
    """The losses of softmax regression by gradient descent, from weights of zero: at the start and after each step."""
    weight, bias = np.zeros((x.shape[1], labels.max() + 1)), np.zeros(labels.max() + 1)
    rows, losses = np.arange(len(x)), []
    for _ in range(STEPS + 1):
        logits = x @ weight + bias
        logits -= logits.max(axis=1, keepdims=True)
        probability = np.exp(logits)
        probability /= probability.sum(axis=1, keepdims=True)
        losses.append(-np.log(np.maximum(probability[rows, labels], 1e-300)).mean())
        probability[rows, labels] -= 1
        weight -= rate * (x.T @ probability) / len(x)
        bias -= rate * probability.mean(axis=0)
    return np.array(losses)


def condition(x):
    """How much steeper the steepest direction of a linear layer's weights and bias is than the flattest."""
    return float(np.linalg.cond(np.column_stack([x, np.ones(len(x))])) ** 2)


def needed(losses):
    """The number of steps to the target; infinity where it is not reached."""
    return float(np.argmax(losses <= TARGET)) if losses.min() <= TARGET else np.inf


def measure():
    x, labels = load_wine(return_X_y=True)
    data = {"raw": x, "normalized": cbn.FeatureNormalizer().fit_transform(x)}
    results = {}
    for name, features in data.items():
        curves = [descend(features, labels, rate) for rate in followed(RATES, f"{name} features")]
        best = min(range(len(RATES)), key=lambda i: (needed(curves[i]), curves[i][-1]))
        results[name] = {"rate": RATES[best], "losses": curves[best], "condition": condition(features)}
    return results


def tell(results):
    raw, normalized = results["raw"], results["normalized"]
    inside = [RATES[0] < one["rate"] < RATES[-1] for one in (raw, normalized)]
    yield (
        all(inside) and needed(normalized["losses"]) < 10,
        f"Normalized features reach a loss of {TARGET} in {needed(normalized['losses']):.0f} steps (learning rate "
        f"{normalized['rate']:.2g});",
    )
    yield (
        raw["losses"].min() > TARGET,
        f"raw ones are at {raw['losses'][-1]:.2f} after {STEPS:,} steps (learning rate {raw['rate']:.2g}).",
    )
    steepness, normalized_steepness = (float(f"{one['condition']:.2g}") for one in (raw, normalized))
    yield (
        steepness > 1e4 * normalized_steepness,
        f"The steepest direction is {steepness:,.0f} times as steep as the flattest for raw features, "
        f"{normalized_steepness:.0f} times for normalized ones.",
    )


def draw(figure, results):
    axes = figure.subplots()
    for name, color in (("normalized", COLORS["with"]), ("raw", COLORS["without"])):
        losses = results[name]["losses"]
        axes.loglog(np.arange(1, STEPS + 1), losses[1:], color=color, label=f"{name}, rate {results[name]['rate']:.2g}")
    axes.set(xlabel="step", ylabel="training loss", title="Softmax regression on 178 wines, 13 features")
    axes.legend()


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
