"""Feature scaling: gradient descent on raw and on normalized features
===================================================================

**Expected.** The chemical analyses of scikit-learn's wines have features from 0.3 (of flavanoids) to 1,000 (proline).
The loss is then steep in some directions and flat in others: a learning rate that does not diverge along the steep ones
makes no progress along the flat ones. Normalized to mean 0 and deviation 1 over the data set, all directions are alike,
and one learning rate serves them all.

Softmax regression on all samples at once; each of the two gets the learning rate, of powers of four, that gives it the
least loss after all steps.
"""

import numpy as np
from script import COLORS, followed, run
from sklearn.datasets import load_wine

import cbn

STEPS = 1000
RATES = 4.0 ** np.arange(-12, 3)
TARGET = 0.1  # a loss at which all samples are classified rightly, or nearly so


def descend(x, labels, rate):
    """The losses of softmax regression by gradient descent, from weights of zero."""
    weight, bias = np.zeros((x.shape[1], labels.max() + 1)), np.zeros(labels.max() + 1)
    rows, losses = np.arange(len(x)), []
    for _ in range(STEPS):
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


def measure():
    x, labels = load_wine(return_X_y=True)
    data = {"raw": x, "normalized": cbn.FeatureNormalizer().fit_transform(x)}
    results = {}
    for name, features in data.items():
        curves = [descend(features, labels, rate) for rate in followed(RATES, f"{name} features")]
        best = min(range(len(RATES)), key=lambda i: curves[i][-1])
        results[name] = {"rate": RATES[best], "losses": curves[best], "condition": condition(features)}
    return results


def tell(results):
    raw, normalized = results["raw"], results["normalized"]
    steps = int(np.argmax(normalized["losses"] <= TARGET)) + 1
    yield (
        normalized["losses"][-1] < TARGET,
        f"Normalized features reach a loss of {TARGET} in {steps} steps (learning rate {normalized['rate']:g});",
    )
    yield (
        raw["losses"][-1] > TARGET,
        f"raw ones are at {raw['losses'][-1]:.2f} after {STEPS:,} steps (learning rate {raw['rate']:.1g}, above which "
        "the loss is worse).",
    )
    yield (
        raw["condition"] > 1e4 * normalized["condition"],
        f"The steepest direction is {raw['condition']:.0e} times as steep as the flattest for raw features, "
        f"{normalized['condition']:.0f} times for normalized ones.",
    )


def draw(figure, results):
    axes = figure.subplots()
    for name, color in (("normalized", COLORS["with"]), ("raw", COLORS["without"])):
        losses = results[name]["losses"]
        axes.loglog(np.arange(1, STEPS + 1), losses, color=color, label=f"{name}, rate {results[name]['rate']:.2g}")
    axes.set(xlabel="step", ylabel="training loss", title="Softmax regression on 178 wines, 13 features")
    axes.legend()


if __name__ == "__main__":
    run(__doc__, measure, tell, draw)
