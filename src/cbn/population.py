"""population: the statistics of many batches, as those that layers infer with."""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from . import _core, conventions
from .console import followed
from .layer import BatchNorm
from .statistics import Moments

__all__ = ["MODES", "Population", "recompute_statistics"]

MODES = ("pooled", "paper", "update_bn")

# what training calls change in a layer beside its arrays
_MEANWHILE = "training", "batch_mean", "batch_inv_std", "_saved", "_why_none", "_collect"


class Population:
    """Takes the moments of batches, one after the other, and makes one mean and variance of them.

    `mode` is that of `recompute_statistics`, `variance` a `Convention`'s. Where deviations are averaged, `eps` stands
    under their root, as in batch renormalization.
    """

    def __init__(self, mode, variance, eps=0.0):
        self.mode, self.variance, self.eps = conventions.one_of("mode", mode, MODES), variance, eps
        self.batches = 0  # those that held values
        self._values, self._equal = 0, None  # of all batches; those of each, NaN once they differ
        self._whole = None  # pooled: the moments of all values
        self._average = 0.0  # else: the averages of the batches' means and variances, or deviations

    @_core.default_rounding
    def add(self, count, mean, m2):
        """Take count, mean and m2 of one batch, as those of `Moments`; one of 0 values counts for nothing."""
        if not count:
            return
        self.batches += 1
        self._values += count
        self._equal = count if self._equal in (None, count) else np.nan
        batch = Moments(count, mean, m2)
        if self.mode == "pooled":
            self._whole = batch if self._whole is None else self._whole + batch
            return
        with np.errstate(all="ignore"):
            spread = _variance(count, batch.m2, self.mode == "update_bn" and self.variance == "unbiased")
            if self.variance == "deviation":
                spread = np.sqrt(spread + self.eps)
            share = 1 / self.batches
            self._average = (1 - share) * self._average + share * np.stack([batch.mean, spread])

    def result(self):
        """Return mean, variance, and the count n whose ``n / (n - 1)`` makes it unbiased: NaN if no number does."""
        count, unbiased = self._values, self.variance == "unbiased"
        if self.mode == "pooled":
            return self._whole.mean, _variance(count, self._whole.m2, unbiased), count
        mean, var = self._average
        count /= self.batches
        with np.errstate(all="ignore"):
            if self.variance == "deviation":
                var = np.maximum(np.square(var) - self.eps, 0)
            elif self.mode == "paper":
                var = _variance(count, count * var, unbiased)
        return mean, var, count if self.mode == "paper" else self._equal


def _variance(count, m2, unbiased):
    """As a layer's training has it: one value has a variance of 0."""
    if unbiased and count <= 1 and (m2 > 0).any():
        raise ValueError(f"sample_weight must sum to more than 1 for an unbiased variance; got {count}")
    return m2 / (count - 1 if unbiased and count > 1 else count)


def recompute_statistics(layers, batches, forward=None, *, mode="pooled", progress=True):
    """Set the running statistics of layers to those of a whole population: Algorithm 2 of the paper, lines 7 to 12.

    Parameters
    ----------
    layers : BatchNorm, or a list or dict of them
        All that are to be set, in one run.
    batches : iterable
        The data, in batches of any sizes. A generator will do; whatever has a length shows how much is left.
    forward : callable, optional
        ``forward(batch)`` runs the network on one batch, and calls each of the layers; what it returns is not used.
        For a single layer by default ``layer(batch)``, and the batches are arrays.
    mode : "pooled", "paper" or "update_bn"
        "pooled": mean and variance of all values that a layer saw, each value weighing the same. "paper": the average
        of the batches' means, and m / (m - 1) times the average of their biased variances, each batch weighing the
        same; with batches of several sizes, m is the average one. "update_bn": what torch.optim.swa_utils.update_bn
        does: the averages of the batches' means and of their unbiased variances.
    progress : bool
        Whether the batches are counted on stderr if that is a terminal, with rich's bar if that is installed.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        For wrong arguments, a frozen layer or one without running statistics, no batch, or a layer that was not called
        with values, or that forward froze or took out of training mode; for a batch of one value per channel, such as
        the last of 65 samples in batches of 64 (merge it with another, or let the layer's `one_value` be "zero_var");
        for what a layer's `nonfinite` refuses; and whatever forward raises. No layer has been changed.

    Notes
    -----
    Every layer is in training mode meanwhile: it normalizes with the batch's own statistics, as its options say (a
    renorm layer's correction is that of its renorm_mean and renorm_std), and its running statistics stay as they are
    until all batches are through. Its mode, and what `backward` needs, then come back. Do not call the layers from
    elsewhere during the run.

    Masks, sample weights and `nonfinite` are heeded. Every call of a layer, and every ghost batch, is a batch. The
    variance that is set is of the convention's kind: with "biased", m / (m - 1) is left out (and "update_bn" is
    "paper"); with "deviation", and in renorm layers, "paper" and "update_bn" average deviations. The pooled moments
    are as exact as merged `Moments`, before they are rounded to the layer's dtype. `num_batches_tracked` becomes the
    number of batches; `count`, by which `convert` goes, that of all values in mode "pooled", m in mode "paper", and in
    mode "update_bn" that of each batch: None if they differ, since no factor then makes one kind of variance the other.
    renorm_mean and renorm_std are set likewise. With momentum None, training goes on averaging from there.

    Ioffe & Szegedy 2015, Algorithm 2; Wu & Johnson 2021, "Rethinking Batch in BatchNorm", for "pooled".

    Examples
    --------
    >>> import numpy as np, cbn
    >>> layer = cbn.BatchNorm(1, dtype=np.float64)
    >>> batches = [np.array([[0.0], [2.0], [4.0]]), np.array([[10.0], [12.0]])]
    >>> for mode in ("pooled", "paper", "update_bn"):
    ...     cbn.recompute_statistics(layer, batches, mode=mode)
    ...     print(mode, layer.running_mean.round(3), layer.running_var.round(3))
    pooled [5.6] [26.8]
    paper [6.5] [3.056]
    update_bn [6.5] [3.]
    """
    named = _named(layers)
    conventions.one_of("mode", mode, MODES)
    _core.check_flag(progress, "progress")
    if forward is None and len(named) > 1:
        raise ValueError(f"forward must be given for more than one layer; got None for {len(named)}")
    if forward is not None and not callable(forward):
        raise TypeError(f"forward must be callable; got {type(forward).__name__}")
    if hasattr(batches, "shape") or not isinstance(batches, Iterable):  # an array's parts would be its samples
        raise TypeError(f"batches must be an iterable of batches, [x] for a single one; got {type(batches).__name__}")
    populations = {layer: _population(layer, mode) for layer in named}
    run, number = forward or partial(_alone, *named), 0
    before = [(vars(layer), {name: vars(layer).get(name) for name in _MEANWHILE}) for layer in named]
    try:
        for layer, population in populations.items():
            layer.training, layer._collect = True, population.add
        with followed(batches, "statistics", progress) as seen:
            for batch in seen:
                run(batch)
                number += 1
                _check_still_collecting(named)
    finally:
        _core.put_back(before)
    if not number:
        raise ValueError("batches must hold one batch or more; got none (a generator gives its batches only once)")
    for layer, name in named.items():
        if not populations[layer].batches:
            raise ValueError(
                f"{name} must be called in training mode with values; got no such call in {number} batches"
            )
    _set(populations)


def _named(layers):
    """{layer: what texts call it}, each once, and each one that can be set."""
    if isinstance(layers, BatchNorm):
        named = [("layers", layers)]
    elif isinstance(layers, Mapping):
        named = [(f"layers[{key!r}]", layer) for key, layer in layers.items()]
    elif isinstance(layers, Iterable):
        named = [(f"layers[{number}]", layer) for number, layer in enumerate(layers)]
    else:
        raise TypeError(f"layers must be a cbn.BatchNorm, or a list or dict of them; got {type(layers).__name__}")
    if not named:
        raise ValueError("layers must hold one layer or more; got none")
    for name, layer in named:
        if not isinstance(layer, BatchNorm):
            raise TypeError(f"{name} must be a cbn.BatchNorm; got {type(layer).__name__}")
        if layer.running_mean is None or not layer.track_running_stats:
            raise ValueError(f"{name} must have running statistics; got one with track_running_stats=False")
        if layer.frozen:
            raise ValueError(f"{name} must not be frozen; got one that is")
        if layer._collect is not None:
            raise RuntimeError(f"{name} must not be in another run of recompute_statistics; got one that is")
        _core.checked_running(layer, np.empty(0, layer.dtype))
    return {layer: name for name, layer in named}


def _alone(layer, batch):
    """The forward pass of a single layer. Pairs, as of data and labels, would be taken for one array."""
    mixed = isinstance(batch, list | tuple) and any(hasattr(part, "shape") for part in batch)
    if mixed or isinstance(batch, Mapping | str):
        raise TypeError(
            f"forward must be given where batches are no arrays; got a batch of type {type(batch).__name__}"
        )
    layer(batch)


def _population(layer, mode):
    return Population(mode, "deviation", layer.eps) if layer.renorm else Population(mode, layer.convention.variance)


def _check_still_collecting(named):
    """What a layer sees from now on would be missing."""
    for layer, name in named.items():
        if not layer.training or layer.frozen:
            now = "frozen" if layer.frozen else "in evaluation mode"
            raise RuntimeError(f"{name} must stay in training mode, not frozen, while forward runs; got it {now}")


@_core.default_rounding
def _set(populations):
    """All layers, in one piece."""
    targets, values = [], []
    for layer, population in populations.items():
        mean, var, count = population.result()
        history = (np.nan if layer.renorm else count, 0)
        pairs = [(layer.running_mean, mean), (layer.running_var, var), (layer._history, history)]
        pairs += [(layer.num_batches_tracked, population.batches)]
        with np.errstate(all="ignore"):
            if layer.renorm:
                pairs += [(layer.renorm_mean, mean), (layer.renorm_std, np.sqrt(var + layer.eps))]
            own = [np.asarray(value).astype(target.dtype) for target, value in pairs]
        if layer.nonfinite != "propagate":
            _core.refuse_channel(_core.first_not_finite(*own[:2]))
        targets += [target for target, _ in pairs]
        values += own
    _core.assign(targets, values)
