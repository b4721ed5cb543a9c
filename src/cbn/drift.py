"""drift: how far the values that a layer is given are from its running statistics, channel by channel."""

import math
import os
from dataclasses import dataclass

import numpy as np

from . import _core, options
from .libraries import library
from .statistics import Moments

__all__ = ["Drift", "drift_of"]

_ERRORS = 4  # standard errors that sampling noise is granted: normal values leave 1 channel in 16000 beyond
_SHOWN = 10  # channels at most, in the table and with labels in the plot
_TINY = 1e-300  # for 0 where a logarithm is taken
_FAR = 1e9  # the mean shift, and the ratio or its inverse, beyond which the plot shows a point at the edge


@dataclass(frozen=True, eq=False)
class Drift:
    """How far values are from a layer's running statistics: what `BatchNorm.drift` found. It prints as a table.

    Attributes
    ----------
    mean_shift : ndarray of float64, shape (C,)
        ``(mean - running_mean) / sqrt(running_var)``: in standard deviations; 0 for 0 / 0.
    variance_ratio : ndarray of float64, shape (C,)
        ``var / running_var``; 1 for 0 / 0.
    outstanding : ndarray of int64, shape (K,)
        The channels that stand out, worst first.
    order : ndarray of int64, shape (C,)
        All channels, worst first.
    count, samples : int or float
        Values per channel, and how many of them are taken to be independent.
    shift_limit : float
        What abs(mean_shift) may be.
    ratio_limits : tuple of float
        What variance_ratio may be at least and at most.
    """

    mean_shift: np.ndarray
    variance_ratio: np.ndarray
    outstanding: np.ndarray
    order: np.ndarray
    count: float
    samples: float
    shift_limit: float
    ratio_limits: tuple

    def __str__(self):
        channels, found = self.mean_shift.size, self.outstanding.size
        low, high = self.ratio_limits
        given = f"{self.count:g} values per channel, from {self.samples:g} samples"
        lines = [f"{found} of {channels} channels stand out ({given})"]
        lines += [f"{'channel':>8}{'mean shift':>12}{'variance ratio':>20}"]
        for channel in self.order[: min(max(found, 3), _SHOWN)]:
            mark = "  stands out" if channel in self.outstanding else ""
            lines += [f"{channel:8}{self.mean_shift[channel]:12.3g}{self.variance_ratio[channel]:20.3g}{mark}"]
        if found > _SHOWN:
            lines += [f"     and {found - _SHOWN} more that stand out"]
        return "\n".join([*lines, f"{'limits':>8}{self.shift_limit:12.3g}{f'{low:.2g} to {high:.3g}':>20}"])

    def to_dict(self):
        """Return all of it as lists and numbers, which JSON can hold; None for what is not finite."""
        from .files import plain  # which imports zipfile: see `containers`

        names = ("mean_shift", "variance_ratio", "outstanding", "order", "count", "samples", "shift_limit")
        values = {name: np.asarray(getattr(self, name)).tolist() for name in names}
        return plain({**values, "ratio_limits": list(self.ratio_limits)})

    def plot(self, target):
        """Draw the variance ratio over the mean shift, a point for each channel; the worst that stand out have numbers.

        What is 0 or infinite, or beyond a factor of 1e9, is a cross at the edge. NaN is not drawn, and the title says
        so.

        Parameters
        ----------
        target : str, path-like, or matplotlib Axes
            The file to write, whose suffix says the format, or the axes to draw in.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        if not isinstance(target, str | os.PathLike) and not hasattr(target, "scatter"):
            raise TypeError(f"target must be a path or matplotlib Axes; got {type(target).__name__}")
        if hasattr(target, "scatter"):
            return self._draw(target)
        figure = library("matplotlib.figure", "plot").Figure(figsize=(7, 5), layout="constrained")  # without a display
        axes = self._draw(figure.subplots())
        figure.savefig(target)
        return axes

    def _draw(self, axes):
        shift_limit = self.shift_limit if np.isfinite(self.shift_limit) else 1.0
        with np.errstate(divide="ignore"):
            ratios, bounds = np.log2(self.variance_ratio), np.abs(np.log2(self.ratio_limits))
        x, far_x, x_edge = _placed(self.mean_shift, _FAR, [shift_limit])
        y, far_y, y_edge = _placed(ratios, math.log2(_FAR), [2.0, *bounds[bounds < 10]])
        y, drawn, far = np.exp2(y), ~np.isnan(x + y), far_x | far_y
        outside = np.isin(np.arange(x.size), self.outstanding)
        for kind, color, label in ((~outside, "tab:blue", "within the limits"), (outside, "tab:red", "stand out")):
            for some, marker, size, where in ((kind & ~far, "o", 16, ""), (kind & far, "X", 30, ", off the scale")):
                if (drawn & some).any():
                    style = {"s": size, "color": color, "marker": marker, "alpha": 0.7, "clip_on": False}
                    axes.scatter(x[drawn & some], y[drawn & some], **style, label=label + where)
        for draw, limits in ((axes.axvline, (-self.shift_limit, self.shift_limit)), (axes.axhline, self.ratio_limits)):
            for limit in limits:
                draw(limit, color="gray", linestyle="--", linewidth=0.8)
        for channel in self.outstanding[:_SHOWN]:
            if drawn[channel]:
                offset = {"xytext": (4, 3), "textcoords": "offset points"}
                axes.annotate(str(channel), (x[channel], y[channel]), **offset, fontsize=8)
        _scale(axes, shift_limit, x_edge, y_edge)
        missing = [str(channel) for channel in np.flatnonzero(~drawn)]
        note = f"; not drawn: {', '.join(missing[:_SHOWN])}{' ...' * (len(missing) > _SHOWN)}" if missing else ""
        axes.set_title(f"{self.outstanding.size} of {x.size} channels stand out{note}")
        if drawn.any():
            axes.legend()
        return axes


def _placed(values, most, others):
    """Where to draw values, far ones at the edge; which are far; and that edge, which leaves room for others, too."""
    far = np.abs(values) > most
    edge = 1.3 * max([*others, *np.abs(values[np.abs(values) <= most])])
    return np.clip(values, -edge, edge), far, edge


def _scale(axes, shift_limit, x_edge, y_edge):
    """No shift and a ratio of 1 are in the middle."""
    axes.set_xscale("symlog", linthresh=shift_limit)
    axes.set_xlim(-x_edge, x_edge)
    decades = int(np.log10(x_edge / shift_limit))
    ticks = shift_limit * 10.0 ** np.arange(0, decades + 1, decades // 4 + 1)
    axes.set_xticks([*-ticks[::-1], 0, *ticks])
    axes.set_yscale("log", base=2)
    axes.set_ylim(2**-y_edge, 2**y_edge)
    for axis, label in ((axes.xaxis, "mean shift / standard deviations"), (axes.yaxis, "variance ratio")):
        axis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axis.set_label_text(label)


@_core.default_rounding
def drift_of(layer, x, mask, sample_weight, samples, max_shift, max_ratio):
    """What `BatchNorm.drift` returns."""
    if layer.running_mean is None:
        raise RuntimeError("drift must be called on a layer with running statistics; got none")
    max_shift = _number("max_shift", max_shift, 0)
    max_ratio = _number("max_ratio", max_ratio, 1)
    moments, independent = _moments_of(layer, x, mask, sample_weight)
    count = moments.count
    if not count >= 2:  # weights that sum to little more than 1 would make their unbiased variance any number
        raise ValueError(f"x must have 2 values or more per channel, or weights that sum to that; got {count}")
    samples = min(independent, count) if samples is None else _number("samples", samples, 1, count)
    with _core.lock:
        running_mean, running_var = (a.astype(np.float64) for a in (layer.running_mean, layer.running_var))
    _core.check_not_negative(running_var, "running_var")
    var = moments.var(1 if layer.convention.variance == "unbiased" and not layer.renorm else 0)
    step = moments.mean - running_mean
    shift_limit = max(max_shift, _ERRORS / math.sqrt(samples))
    low, high = _noise_of_ratio(samples)
    limits = min(low, 1 / max_ratio), max(high, max_ratio)
    # judged by the deviation that the layer divides by, which includes eps: a channel that hardly varies is no alarm
    excess = _excess(
        _quotient(step, np.sqrt(_divided_by(layer, running_var)), 0.0),
        _quotient(_divided_by(layer, var), _divided_by(layer, running_var), 1.0),
        shift_limit,
        limits,
    )
    order = np.argsort(-excess, kind="stable")
    return Drift(
        mean_shift=_quotient(step, np.sqrt(running_var), 0.0),
        variance_ratio=_quotient(var, running_var, 1.0),
        outstanding=order[excess[order] > 1],
        order=order,
        count=count,
        samples=samples,
        shift_limit=shift_limit,
        ratio_limits=limits,
    )


def _number(name, value, least, most=math.inf):
    if not _core.is_number(value):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}; got {value}")
    return float(value)


def _moments_of(layer, x, mask, sample_weight):
    """The moments, and how many values of a channel are independent: those of a plane hang together."""
    if not isinstance(x, Moments):
        if layer._ranks is not None:
            options.check_rank(layer, x)
        x = _core.unmasked(x, "x")
        if x.dtype == np.uint8:  # as in evaluation
            x = x.astype(np.float32)
        x = _core.laid_out(x, layer.axis, layer.num_features)
        samples = x.shape[1 if layer.axis in (0, -x.ndim) else 0]
        return Moments(*_core.moments(x, layer.axis, None, mask, sample_weight)), samples
    for name, value in (("mask", mask), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(f"{name} must be None with Moments; got {type(value).__name__}")
    if x.mean.size != layer.num_features:
        raise ValueError(f"x must have {layer.num_features} channels; got {x.mean.size}")
    if np.ndim(x.count):
        raise ValueError("x.count must be one number; got one for each channel")
    return x, x.count


def _noise_of_ratio(samples):
    """Between what the variance of so many normal values lies, over the true one (Wilson and Hilferty 1931)."""
    if samples <= 1:
        return 0.0, math.inf
    spread = 2 / (9 * (samples - 1))
    return tuple(max(1 - spread + sign * _ERRORS * math.sqrt(spread), 0.0) ** 3 for sign in (-1, 1))


def _divided_by(layer, var):
    """The square of what the layer divides by, if that is the variance."""
    if layer.convention.eps_place == "inside":
        return var + layer.eps
    return np.square(np.sqrt(var) + layer.eps)


def _quotient(a, b, of_nothing):
    """a / b, and a given value for 0 / 0."""
    with np.errstate(all="ignore"):
        return np.where((a == 0) & (b == 0), of_nothing, a / b)


def _excess(shift, ratio, shift_limit, limits):
    """How far beyond the limits a channel is: within up to 1; infinite if something is not finite."""
    with np.errstate(all="ignore"):
        log, (low, high) = np.log(np.maximum(ratio, _TINY)), np.log(np.maximum(limits, _TINY))
        excess = np.maximum(np.abs(shift) / shift_limit, np.where(log < 0, log / low, log / high))
    return np.where(np.isfinite(shift) & np.isfinite(ratio), excess, np.inf)
