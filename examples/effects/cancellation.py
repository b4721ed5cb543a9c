"""Cancellation: the error of y, the farther the mean is from 0
===============================================================

**Expected.** Where the mean is large beside the deviation, float32 sums lose what matters: a mean is rounded by a part
of its own size, not of the deviation's, and E[x²] - E[x]² is the small difference of two large numbers. So a few lines
of NumPy lose digits as the offset grows, and so does torch in both of its memory layouts, in channels_last sooner. cbn
adds up in float64, about a value near the mean, and should lose none in either layout.

The rows of scikit-learn's digits are the channels, 14,376 pixels each; normalized, moved by so many deviations, and
rounded to float32. What those float32 numbers give in extended precision is the truth: the error is the largest
difference from it, relative to its largest value. A curve dips where a rounded mean happens to come near the true one.
torch is measured where it is installed; elsewhere its errors are those that were recorded.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import script
from script import COLORS, followed
from sklearn.datasets import load_digits

import cbn

RECORDED = Path(script.__file__).with_name("torch_recorded.json")
OFFSETS = 10.0 ** np.arange(0, 7.1, 0.5)
EPS = 1e-5
LAYOUTS = {"contiguous": "contiguous_format", "channels last": "channels_last"}  # and what torch calls them


def offset_digits(offset):
    """Images of shape (1797, 8, 4, 2) in float32: each channel has this mean and the deviation 1."""
    x = load_digits().images.reshape(-1, 8, 4, 2)
    x = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / x.std(axis=(0, 2, 3), keepdims=True)
    return (x + offset).astype(np.float32)


def exact(x):
    x = x.astype(np.longdouble)
    d = x - x.mean(axis=(0, 2, 3), keepdims=True)
    return d / np.sqrt(np.square(d).mean(axis=(0, 2, 3), keepdims=True) + EPS)


def cbn_channels_first(x):
    return cbn.batch_norm(x, training=True, eps=EPS)


def cbn_channels_last(x):
    y = cbn.batch_norm(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), training=True, eps=EPS, axis=-1)
    return y.transpose(0, 3, 1, 2)


def numpy_two_passes(x):
    mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + np.float32(EPS))


def numpy_one_pass(x):
    mean = x.mean(axis=(0, 2, 3), keepdims=True)
    var = np.square(x).mean(axis=(0, 2, 3), keepdims=True) - np.square(mean)
    return (x - mean) / np.sqrt(np.maximum(var, 0) + np.float32(EPS))


def of_torch(memory_format):
    import torch

    def normalize(x):
        x = torch.from_numpy(x).contiguous(memory_format=getattr(torch, memory_format))
        return torch.nn.functional.batch_norm(x, None, None, training=True, eps=EPS).numpy()

    return normalize


def errors(function):
    """For each offset the largest error of y, relative to the largest value."""
    results = []
    for offset in OFFSETS:
        x = offset_digits(offset)
        y = exact(x)
        results.append(float(np.abs(function(x) - y).max() / np.abs(y).max()))
    return results


def torch_errors():
    """The errors of torch in both layouts, and its version."""
    from torch import __version__

    return {"version": __version__, "errors": {name: errors(of_torch(layout)) for name, layout in LAYOUTS.items()}}


def measure():
    live = find_spec("torch") is not None
    ours = {
        "cbn, channels first": cbn_channels_first,
        "cbn, channels last": cbn_channels_last,
        "NumPy float32, x.var()": numpy_two_passes,
        "NumPy float32, E[x²] - E[x]²": numpy_one_pass,
    }
    results = {name: errors(function) for name, function in followed(ours.items(), "offsets")}
    torch = torch_errors() if live else json.loads(RECORDED.read_text())
    source = f"torch {torch['version']}{'' if live else ' (recorded)'}"
    return results | {f"{source}, {layout}": values for layout, values in torch["errors"].items()}


def tell(results):
    worst = max(max(values) for name, values in results.items() if name.startswith("cbn"))
    yield worst < 4 * 2**-24, f"cbn's error is at most {worst:.1e} at all offsets, in both layouts."
    place = int(np.argmin(np.abs(OFFSETS - 1e4)))
    for (name, values), least in zip(list(results.items())[2:], (1e-5, 1e-2, 1e-5, 1e-3), strict=True):
        near, far = values[0], values[place]
        lost = ", where no digit is right" if far > 0.5 else ""
        yield (
            far > max(least, 10 * near),
            f"{name}: {near:.0e} at an offset of one deviation, {far:.0e} at 10,000{lost}.",
        )


def draw(figure, results):
    figure.set_size_inches(9, 4.5)
    axes = figure.subplots()
    colors = [COLORS[name] for name in ("with", "third", "without") for _ in range(2)]
    for number, (name, values) in enumerate(results.items()):
        style = {"marker": "o", "markersize": 3} if number % 2 == 0 else {"marker": "s", "ls": "--", "mfc": "none"}
        axes.loglog(OFFSETS, values, color=colors[number], label=name, **style)
    axes.axhline(1, color="grey", linewidth=1)
    axes.annotate("no digit is right", (OFFSETS[0], 1.3), color="grey")
    axes.set(xlabel="mean / deviation", ylabel="largest error of y / largest y", ylim=(1e-8, 1e3))
    figure.suptitle("Training forward in float32: only cbn's error does not grow with the mean")
    figure.legend(loc="outside right center")


if __name__ == "__main__":
    script.run(__doc__, measure, tell, draw)
