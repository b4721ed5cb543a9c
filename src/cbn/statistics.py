"""statistics: count, mean and sum of squared deviations per channel, which merge, and move running statistics."""

from collections.abc import Mapping

import numpy as np

from . import _core, arrays, containers, merging

__all__ = ["Moments", "moments", "update_running"]

_FORM = "cbn.Moments"  # of files


class Moments:
    """Count, mean and sum of squared deviations of each channel; the moments of parts merge to those of the whole.

    Parameters
    ----------
    count : int, float, or array_like of such, shape (C,)
        Values per channel, 0 or more; a float where it is a sum of sample weights, an array where channels differ.
    mean : array_like of float, shape (C,)
        Mean of each channel; 0 where count is 0.
    m2 : array_like of float, shape (C,)
        Sum of squared deviations from the mean: ``var(ddof) = m2 / (count - ddof)``. 0 or more (or NaN).

    Attributes
    ----------
    count : int, float, or ndarray of int64 or float64, shape (C,)
    mean, m2 : ndarray of float64, shape (C,)

    Raises
    ------
    TypeError, ValueError
        For a count below 0, above 2**63 - 1 (as a float 1e300) or NaN, also where adding makes it so; for arrays of
        different or wrong shapes, or of anything but real numbers, and negative m2.

    Notes
    -----
    ``a + b`` are the moments of both parts together, and ``whole - part`` those of the rest: new ones, as `merge` and
    `update` are in place. Moments pickle and copy.

    Merging follows Chan, Golub and LeVeque (1983), in float64; parts merged in any order equal the whole to 1e-12
    of ``abs(mean) + std``, and to ``1e-12 + 2e-16 * abs(mean) / std`` of the variance, since the parts' means are
    rounded: at an offset of 1e6 deviations these are 2e-10.

    Subtracting loses digits where little remains, by the ratio of the sums of squares, ``whole.m2 / rest.m2``: after
    one large outlier has gone the rest knows little of its variance. With u = 1e-15, s = abs(mean) + std of whole and
    part, and f = whole.count / rest.count, the rest's mean is off by at most ``u * s * f``, and its m2 by
    ``u * s * f`` times ``sqrt(whole.count * whole.m2) + u * s * f * whole.count``, on top of what whole and part are
    off themselves. A value that is not finite never leaves. A rest without values has mean and m2 0.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.arange(24.0).reshape(4, 3, 2)
    >>> parts = cbn.moments(x[:1]) + cbn.moments(x[1:])
    >>> parts.count, parts.mean
    (8, array([ 9.5, 11.5, 13.5]))
    >>> bool(np.allclose(parts.var(), x.var(axis=(0, 2))))
    True
    >>> (parts - cbn.moments(x[:1])).mean, cbn.moments(x[1:]).mean
    (array([12.5, 14.5, 16.5]), array([12.5, 14.5, 16.5]))
    """

    __slots__ = ("count", "m2", "mean")

    @_core.default_rounding
    def __init__(self, count, mean, m2):
        count = merging.checked_counts(count)
        with np.errstate(all="ignore"):  # from a wider dtype; what does not fit is infinite
            mean = np.array(arrays.real(mean, "mean"), dtype=np.float64)
            m2 = np.array(arrays.real(m2, "m2"), dtype=np.float64)
        if mean.ndim != 1:
            raise ValueError(f"mean must have shape (C,); got {mean.shape}")
        if m2.shape != mean.shape:
            raise ValueError(f"m2 must have shape {mean.shape}, as mean has; got {m2.shape}")
        if np.ndim(count) and count.shape != mean.shape:
            raise ValueError(f"count must be a number or have shape {mean.shape}, as mean has; got {count.shape}")
        if (m2 < 0).any():
            raise ValueError(f"m2 must be >= 0 in every channel; got {m2.min()}")
        self.count, self.mean, self.m2 = count, mean, m2

    def __repr__(self):
        return f"Moments(count={self.count}, mean={self.mean!r}, m2={self.m2!r})"

    def __add__(self, other):
        if not isinstance(other, Moments):
            return NotImplemented
        return Moments(*merging.merged(self, other))

    def __sub__(self, part):
        if not isinstance(part, Moments):
            return NotImplemented
        return Moments(*merging.without(self, part))

    def __getstate__(self):
        return {**getattr(self, "__dict__", {}), **{name: getattr(self, name) for name in Moments.__slots__}}

    def __setstate__(self, state):
        own = dict(state)
        Moments.__init__(self, *(own.pop(name) for name in ("count", "mean", "m2")))  # which checks them
        for name, value in own.items():  # of a class that derives from this
            setattr(self, name, value)

    def merge(self, other):
        """Add the values that `other` stands for, in place.

        Parameters
        ----------
        other : Moments
            With the same number of channels.
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other must be a Moments; got {type(other).__name__}")
        total = self + other
        self.count, self.mean, self.m2 = total.count, total.mean, total.m2

    def update(self, x, axis=1):
        """Add the values of an array, in place.

        Parameters
        ----------
        x : ndarray of float16, bfloat16, float32 or float64
            Any rank from 2 on, with as many channels as this has.
        axis : int
            The channel axis.
        """
        self.merge(Moments(*_core.moments(x, axis, None)))

    @_core.default_rounding
    def var(self, ddof=0):
        """Return the variance of each channel.

        Parameters
        ----------
        ddof : int
            0 for the biased variance, 1 for the unbiased one; the sum of squares is divided by ``count - ddof``.

        Returns
        -------
        ndarray of float64, shape (C,)

        Raises
        ------
        TypeError, ValueError
            If ddof is no integer, or count not more than it.
        """
        _core.check_integer(ddof, "ddof")
        if np.any(self.count <= ddof):
            raise ValueError(f"count must be more than ddof = {ddof} for a variance; got {np.min(self.count)}")
        return self.m2 / (self.count - ddof)

    def to_dict(self):
        """Return ``{"count": int, float or ndarray, "mean": ndarray, "m2": ndarray}``, copies."""
        count = self.count.copy() if np.ndim(self.count) else self.count
        return {"count": count, "mean": self.mean.copy(), "m2": self.m2.copy()}

    @classmethod
    def from_dict(cls, values):
        """Return the Moments that `to_dict` described.

        Raises
        ------
        TypeError, ValueError
            If values is no dict, if a key is missing, or one too many, and as for `Moments`.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a dict of count, mean and m2; got {type(values).__name__}")
        if set(values) != {"count", "mean", "m2"}:
            raise ValueError(
                f"values must have the keys count, mean and m2; got {', '.join(map(str, values)) or 'none'}"
            )
        return cls(values["count"], values["mean"], values["m2"])

    def save(self, path):
        """Write the moments to a file. An existing file is replaced at once.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.npz``, or in ``.safetensors``, which needs the library of that name; other programs find mean
            and m2 in both.

        Raises
        ------
        TypeError, ValueError
            If an attribute has been changed to what `load` would refuse. An old file stays as it was.
        ImportError
            If safetensors is needed and not installed.
        """
        self._save(path)

    def _save(self, path, run=None, mean_rest=None):
        """With what a run needs to go on, which `load` does not heed: a dict, and what the mean was rounded by."""
        values = Moments(self.count, self.mean, self.m2).to_dict()
        count = None if np.ndim(values["count"]) else values.pop("count")
        meta = {"channels": values["mean"].size, "count": count}
        if run is not None:
            meta["run"], values["mean_rest"] = run, mean_rest
        containers.save(path, _FORM, meta, values, self._of_file)

    @classmethod
    def load(cls, path):
        """Read moments from a file that `save` wrote. Nothing in the file is ever executed.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.npz`` or ``.safetensors``.

        Raises
        ------
        ValueError
            If the file is no such file, or is damaged.
        """
        return containers.load(path, _FORM, cls._of_file)

    @classmethod
    def _load_run(cls, path, name):
        """Return the moments, and what `_save` was given besides, or None twice. Errors call the file `name`."""

        def build(meta, file):
            found = cls._of_file(meta, file)
            return found, meta.get("run"), file.array("mean_rest", found.mean.shape) if "run" in meta else None

        return containers.load(path, _FORM, build, name)

    @classmethod
    def _of_file(cls, meta, file):
        """One count for all channels stands in the text, be it an int or a float, and others in an array."""
        names, shape = ["mean", "m2"], (_core.check_size(meta["channels"], "channels"),)
        if meta["count"] is None:
            names.append("count")
        containers.check_names(file, [*names, "mean_rest"] if "run" in meta else names)
        values = {name: file.array(name, shape) for name in names}
        return cls.from_dict({"count": meta["count"], **values})


def moments(x, *, axis=1, mask=None, sample_weight=None, num_threads=None):
    """Return count, mean and sum of squared deviations per channel.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64, rank >= 2
    axis : int
        The channel axis.
    mask, sample_weight
        Which positions count, and how often, as in `batch_norm`.
    num_threads : int, optional
        As in `batch_norm`.

    Returns
    -------
    Moments
        In float64: the mean within 1e-11 * (abs(mean) + std) of the exact one, m2 within 1e-11 relative, whatever
        the layout and the offset (up to 1e6 deviations). An empty x gives count 0, mean 0, m2 0. The count is the
        sum of the weights: a float with sample_weight, else an int.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> cbn.moments(np.array([[1.0, 2.0], [3.0, 6.0]]))
    Moments(count=2, mean=array([2., 4.]), m2=array([2., 8.]))
    """
    return Moments(*_core.moments(x, axis, num_threads, mask, sample_weight))


def update_running(running_mean, running_var, moments, momentum, *, unbiased=True):
    """Move running statistics towards the moments of a batch, in place.

    Parameters
    ----------
    running_mean, running_var : ndarray of float32, float64, float16 or bfloat16, shape (C,)
        Both of one dtype, writeable and contiguous.
    moments : Moments
        Of the batch. Count 0 changes nothing.
    momentum : float in [0, 1]
        Weight of the new value: ``running = (1 - momentum) * running + momentum * new``.
    unbiased : bool
        Whether the new variance is ``m2 / (count - 1)`` (torch) or ``m2 / count``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; nothing has been changed then.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> mean, var = np.zeros(1), np.ones(1)
    >>> cbn.update_running(mean, var, cbn.Moments(3, [2.0], [8.0]), 0.5)
    >>> mean, var
    (array([1.]), array([2.5]))
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments must be a Moments; got {type(moments).__name__}")
    if np.ndim(moments.count):
        raise ValueError("moments.count must be one number for running statistics; got one for each channel")
    _core.check_flag(unbiased, "unbiased")
    _core.update_running(running_mean, running_var, moments.mean, moments.m2, moments.count, momentum, unbiased)
