"""conversion: a layer as another convention writes it down, with the same meaning."""

import copy

import numpy as np

from . import _core, conventions, options
from .layer import BatchNorm

__all__ = ["convert"]

_START = 1.0  # what a running variance is before the first batch


@_core.default_rounding
def convert(layer, convention, *, count=None, variance="convert"):
    """Return a copy of a layer as another convention writes it down: momentum, running variance and eps.

    Parameters
    ----------
    layer : BatchNorm
        It stays as it is.
    convention : Convention or str
        That of the copy.
    count : int or float > 1, optional
        Values per channel of the batches that the running variance comes from, where the layer does not know it
        (`BatchNorm.count`); needed to convert between biased and unbiased.
    variance : "convert" or "keep"
        "convert" makes the running variance what training under the other convention would have made it, for training
        to go on with. "keep" leaves its numbers, for evaluation to give the same y.

    Returns
    -------
    BatchNorm
        Of the same class, in the same mode, without what `backward` needs. ``momentum`` gives the new value the same
        weight as before. ``one_value`` becomes the other convention's, unless it was chosen otherwise than by default.

    Raises
    ------
    TypeError, ValueError
        If the variances differ and the count is needed but not known, as after batches of several sizes; if an average
        of deviations (or renorm's) would have to become one of variances; for wrong arguments.

    Notes
    -----
    A running variance is ``start + s``: what its first value, 1, still weighs, and the batches' variances, all of which
    ``n / (n - 1)`` makes unbiased where all have n values. So the conversion is exact, up to the roundings of the
    layer's dtype, which for 16 bits add up over the batches. The layer counts `start` along; for a state that does not
    have it, it is computed from num_batches_tracked and momentum as the state is loaded, and is 0 where that counter
    is 0.

    With eps on the other side of the root, the whole denominator goes into the running variance, and eps becomes 0.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> layer = cbn.BatchNorm(1, convention="keras", dtype=np.float64)
    >>> y = layer(np.array([[0.0], [4.0], [5.0]]))
    >>> other = cbn.convert(layer, "torch")
    >>> other.momentum, layer.running_var.round(6), other.running_var.round(6), other.count
    (0.01, array([1.036667]), array([1.06]), 3)
    """
    if not isinstance(layer, BatchNorm):
        raise TypeError(f"layer must be a BatchNorm; got {type(layer).__name__}")
    convention = conventions.named(convention)
    conventions.one_of("variance", variance, ("convert", "keep"))
    converted = copy.deepcopy(layer)
    if count is not None and layer.count not in (None, 0, _core.check_batch_count(count)):
        raise ValueError(f"count must be {layer.count}, which the layer has counted; got {count}")
    if layer.running_var is not None:
        _convert_statistics(converted, convention, count, variance == "keep")
    converted._convention = convention
    if layer.momentum is not None and convention.momentum_weighs != layer.convention.momentum_weighs:
        converted.momentum = conventions.complement(_core.check_momentum(layer.momentum))
    if layer.one_value == layer.convention.one_value:
        converted.one_value = convention.one_value
    options.check_together(converted)
    return converted


def _convert_statistics(layer, convention, count, keep):
    """Running variance, its history, and eps if it changes its place."""
    running, own = layer.running_var.astype(np.float64), layer.convention
    fresh = layer.count == 0 and (running == _START).all()
    if convention.variance != own.variance and not fresh and not layer.renorm:  # which has its own average
        if keep:
            layer._forget_count()
        else:
            running = _other_variance(layer, running, convention.variance, count)
    if convention.eps_place != own.eps_place:
        running = running + layer.eps if own.eps_place == "inside" else np.square(np.sqrt(running) + layer.eps)
        layer.eps = 0.0
        layer._history[...] = np.nan, 0  # what came from the start is no longer 1
    with np.errstate(all="ignore"):
        rounded = running.astype(layer.dtype)
    lost = np.isfinite(running) & (~np.isfinite(rounded) | ((running > 0) & (rounded == 0)))
    if lost.any():
        raise ValueError(f"running_var must fit {layer.dtype} after conversion; got {running[lost][0]}")
    layer.running_var = rounded


def _other_variance(layer, running, target, count):
    """The running variance as the other kind, by the count of all batches."""
    source = layer.convention.variance
    if "deviation" in (source, target):
        raise ValueError("variance must be 'keep' between averages of deviations and of variances; got 'convert'")
    n = count or layer.count
    if not n:
        raise ValueError(
            f"count must be given to make the {source} running variance {target}, since that of the batches is unknown "
            "or was not the same for all; got None (variance='keep' needs none, and keeps y in evaluation)"
        )
    start = layer._history[1] if layer._history[0] != 0 else 0.0  # filled by hand, if there was no batch
    part = running - start * _START
    rounding = (1e-3 if layer.dtype.itemsize > 2 else 0.1) * start * _START  # of one batch after the other
    if n <= 1 and (np.abs(part) > rounding).any():
        raise ValueError(f"count must be more than 1 for an unbiased variance; got {n}, of sample weights")
    if (part < -rounding).any():
        channel = int(part.argmin())
        raise ValueError(
            f"running_var must be at least {start:.6g}, which its start still weighs; got {running[channel]:.6g} in "
            f"channel {channel}: it comes from elsewhere (variance='keep' takes it as it is)"
        )
    layer._history[...] = n, start
    factor = n / (n - 1) if n > 1 else 1.0  # of one value there is no variance, and nothing to convert
    return start * _START + part * (factor if target == "unbiased" else 1 / factor)
