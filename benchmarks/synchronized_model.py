"""synchronized_model: the latency-bandwidth model of a gathering, its fit, and what it predicts for ResNet-50."""

import itertools
import math

import numpy as np

import cbn
import timing
from cbn import merging
from cbn.interop.communicators import ThreadCommunicator
from cbn.interop.mpi import SyncBatchNorm
from synchronized_rank import gatherings, trainer

# (channels, height and width, how many such layers): the 53 batch norms of ResNet-50 for images of 224x224, as
# networks.py has them
RESNET50 = [
    (64, 112, 1),
    (64, 56, 6),
    (256, 56, 4),
    (128, 56, 1),
    (128, 28, 7),
    (512, 28, 5),
    (256, 28, 1),
    (256, 14, 11),
    (1024, 14, 7),
    (512, 14, 1),
    (512, 7, 5),
    (2048, 7, 4),
]
# Assumed, not measured: seconds per message and per byte, a rank on each machine.
LINKS = {"10 Gbit/s, 30 us": (30e-6, 8 / 10e9), "100 Gbit/s, 2 us": (2e-6, 8 / 100e9)}
CLUSTERS = (8, 16, 64, 256)
# How many messages a rank waits for, one after the other: Bruck or recursive doubling, and a ring.
FORMS = {"log2 P": lambda ranks: (ranks - 1).bit_length(), "P - 1": lambda ranks: ranks - 1}


def gathers_of(rows, transport, most=math.inf):
    """The least seconds of the single gatherings of up to so many ranks, by (ranks, bytes), in order."""
    found = {}
    for row in rows:
        if row["transport"] == transport and row["ranks"] <= most:
            for size, seconds in row["gathers"].items():
                key = row["ranks"], size
                found[key] = min(seconds, found.get(key, seconds))
    return dict(sorted(found.items()))


def modelled(fit, ranks, size):
    """The model's seconds for one gathering; the bytes of all others come in, whatever the form."""
    return fit["alpha0"] + fit["alpha"] * FORMS[fit["form"]](ranks) + fit["beta"] * (ranks - 1) * size


def fitted(points):
    """The form that fits best to the seconds by (ranks, bytes), or None if there is too little.

    alpha0 is what one rank alone needs for the smallest gathering, alpha the time of a message, beta that of a byte:
    the least squares of the relative errors on two ranks and more.
    """
    alone = {size: t for (ranks, size), t in points.items() if ranks == 1}
    several = {key: t for key, t in points.items() if key[0] > 1}
    if not alone or len(several) < 2:
        return None
    alpha0, seconds = alone[min(alone)], np.array(list(several.values()))
    fits = []
    for form, messages in FORMS.items():
        terms = np.array([[messages(ranks), (ranks - 1) * size] for ranks, size in several]) / seconds[:, None]
        scale = terms.max(0)  # bytes and messages differ by orders of magnitude
        alpha, beta = np.linalg.lstsq(terms / scale, 1 - alpha0 / seconds, rcond=None)[0] / scale
        fit = {"form": form, "alpha0": alpha0, "alpha": float(alpha), "beta": float(beta)}
        errors = [modelled(fit, *key) / t - 1 for key, t in several.items()]
        fits.append(fit | {"rms": float(np.sqrt(np.mean(np.square(errors)))), "worst": max(errors, key=abs)})
    return min(fits, key=lambda fit: fit["rms"]) | {"decided": max(ranks for ranks, _ in several) > 2}


def layer_seconds(samples, repeats):
    """Forward and backward of each of ResNet-50's layers on one thread, by row of RESNET50.

    A pair: without synchronization, and what a synchronized layer takes longer on one rank, which sends nothing.
    """
    found = []
    (comm,) = ThreadCommunicator.group(1)
    for channels, side, _ in RESNET50:
        x, dy = np.random.default_rng(0).standard_normal((2, samples, channels, side, side), np.float32)
        layers = {"sync": SyncBatchNorm(channels, comm=comm), "alone": cbn.BatchNorm(channels)}
        measured = timing.measure({name: trainer(layer, x, dy) for name, layer in layers.items()}, repeats)
        longer = float(np.nanmedian(measured["sync"].seconds - measured["alone"].seconds))
        found.append((measured["alone"].median, longer))
    return found


def merging_seconds(ranks, channels, repeats):
    """Merging what all ranks have sent in one step, forward and backward."""
    rng = np.random.default_rng(0)
    counts, parts, sums = [100] * ranks, rng.random((3, ranks, channels)), rng.random((ranks, 2 * channels))

    def merge():
        merging.merged_parts(counts, *parts)
        merging.in_order(sums)

    return timing.measure({"merge": merge}, repeats)["merge"].median


def predictions(alpha0, local, total, repeats):
    """A list of dicts: what synchronizing adds to a training step of ResNet-50 on larger clusters, in seconds.

    local is what it adds on one rank, total the time of the layers without it.
    """
    layers = [(channels, count) for channels, _, count in RESNET50]
    found = []
    for ranks in CLUSTERS:
        cost = {c: merging_seconds(ranks, c, repeats) - merging_seconds(1, c, repeats) for c in dict(layers)}
        merging = sum(cost[channels] * count for channels, count in layers)
        for (link, (alpha, beta)), form in itertools.product(LINKS.items(), FORMS):
            assumed = {"form": form, "alpha0": alpha0, "alpha": alpha, "beta": beta}
            messages = sum(
                count * modelled(assumed, ranks, n) for channels, count in layers for n in gatherings(channels)
            )
            more = local + messages + merging
            parts = {"messages": messages, "merging": merging, "more": more, "share": more / total}
            found.append({"ranks": ranks, "link": link, "form": form} | parts)
    return found
