"""features: feature normalization, (x - mean) / std per feature over a whole data set that may come in batches."""

import numpy as np

from . import _core, missing
from .scaling import Scaling, in_c_order
from .statistics import Moments

__all__ = ["FeatureNormalizer"]

_OF_MOMENTS = "moments must be finite unless nan='propagate'; got {value} in feature {feature}"
_OF_DATA = "must have a variance that float64 can hold; got a larger one in feature {feature}"


class FeatureNormalizer:
    """Normalize each feature (channel) with its mean and deviation over all data seen so far.

    Parameters
    ----------
    axis : int
        The axis of the features: 1 for samples x features, as for every (N, C, ...).
    with_mean, with_std : bool
        Whether the mean is subtracted, and whether the rest is divided by the deviation.
    nan : "skip", "raise" or "propagate"
        What a NaN does to the statistics of its feature: "skip" leaves it out, "raise" refuses it, "propagate" makes
        them NaN, as infinite values do then, which else are refused. Other features are never touched by it. In
        `transform` and `inverse_transform` NaN stays NaN, whatever this is.
    moments : Moments, optional
        Statistics to start with: saved ones, or the sum of those of several normalizers. Copied. Finite, unless nan
        is "propagate".

    Attributes
    ----------
    moments : Moments or None
        Count, mean and sum of squared deviations of all data so far, a copy; None before the first.
    mean, var : ndarray of float64, shape (C,)
        Mean and biased variance (m2 / count) of each feature; NaN where it had no value.
    scale : ndarray of float64, shape (C,)
        What ``x - mean`` is divided by: ``sqrt(var)``, but 1 for a constant feature, and without `with_std`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        For wrong options; when mean, var or scale is asked for before the first data.

    Notes
    -----
    A feature is constant if its deviation is at most 10 * 2**-52 of its mean, as rounding alone can make it, for any
    number of samples. Deviations below 1e-150 lose digits or count as none, as their squares underflow.

    Fitting reads x once, and features with NaN two more times. Statistics are within the bounds of `moments`. Batches
    add up to the whole: the mean within 1e-12 of ``abs(mean) + std``, the variance within 1e-12 of it for means of up
    to 1e3 deviations, and within 1e-9 up to 1e6.

    x may be float16, bfloat16, float32 or float64 of any rank >= 2; y has its dtype. The same bits for any number of
    threads, see `get_num_threads`. Threads may share a normalizer: no batch is lost, but the order in which they are
    added may change the last digits.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> normalizer = cbn.FeatureNormalizer()
    >>> for batch in ([[1.0, 5.0], [2.0, np.nan]], [[6.0, 5.0]]):
    ...     _ = normalizer.partial_fit(batch)
    >>> normalizer.mean, normalizer.scale, normalizer.moments.count
    (array([3., 5.]), array([2.1602469, 1.       ]), array([3, 2]))
    >>> y = normalizer.transform([[3.0, 7.0]])
    >>> y, normalizer.inverse_transform(y)
    (array([[0., 2.]]), array([[3., 7.]]))
    """

    __slots__ = ("_axis", "_nan", "_state", "_with_mean", "_with_std")
    _name = "x"  # in errors

    def __init__(self, *, axis=1, with_mean=True, with_std=True, nan="skip", moments=None):
        if moments is not None and not isinstance(moments, Moments):
            raise TypeError(f"moments must be a Moments; got {type(moments).__name__}")
        self._axis = _core.check_integer(axis, "axis")
        self._with_mean = _core.check_flag(with_mean, "with_mean")
        self._with_std = _core.check_flag(with_std, "with_std")
        self._nan = missing.check_policy(nan)
        self._state = None if moments is None else self._state_of(_copied(moments), _OF_MOMENTS)

    def __repr__(self):
        options = f"axis={self._axis}, with_mean={self._with_mean}, with_std={self._with_std}, nan={self._nan!r}"
        fitted = "not fitted" if self._state is None else f"of {self._state.mean.size} features"
        return f"FeatureNormalizer({options}), {fitted}"

    @property
    def moments(self):
        return None if self._state is None else _copied(self._state.moments)

    @property
    def mean(self):
        return _fitted(self._state, "mean").mean.copy()

    @property
    def var(self):
        return _fitted(self._state, "var").var.copy()

    @property
    @_core.default_rounding
    def scale(self):
        return np.sqrt(_fitted(self._state, "scale").square)

    def fit(self, x, *, sample_weight=None):
        """Forget all data so far, and take the statistics of x.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64, shape (N, C) or any other of rank >= 2
            Without samples it leaves the normalizer as if it were new.
        sample_weight : array_like of numbers that are 0 or from 1e-100 to 1e100, optional
            How often each sample counts: shape (N,), or as in `batch_norm`.

        Returns
        -------
        FeatureNormalizer
            Itself.

        Raises
        ------
        TypeError, ValueError
            If x or sample_weight does not fit; for NaN with ``nan="raise"``; and but for "propagate" if a value is
            infinite, or the variance too large for float64. The error names the first feature of the kind. Nothing
            has been changed then.

        Examples
        --------
        >>> import numpy as np, cbn
        >>> cbn.FeatureNormalizer().fit([[1.0], [4.0]], sample_weight=[2, 1]).mean
        array([2.])
        """
        state = self._grown(None, self._moments_of(x, sample_weight))
        with _core.lock:
            self._state = state
        return self

    def partial_fit(self, x, *, sample_weight=None):
        """Add the data of x to those so far.

        Parameters
        ----------
        x, sample_weight
            As in `fit`; with as many features as before. Without samples it changes nothing.

        Returns
        -------
        FeatureNormalizer
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`, and for another number of features.

        Examples
        --------
        >>> import numpy as np, cbn
        >>> cbn.FeatureNormalizer().partial_fit([[1.0]]).partial_fit([[2.0], [3.0]]).moments
        Moments(count=3, mean=array([2.]), m2=array([2.]))
        """
        found = self._moments_of(x, sample_weight)
        with _core.lock:
            self._state = self._grown(self._state, found)
        return self

    def transform(self, x, *, out=None):
        """Return x normalized: ``(x - mean) / scale``.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64
            With as many features as the data.
        out : ndarray, optional
            Where y is written, which may be x: as in `batch_norm`.

        Returns
        -------
        ndarray
            Of x's shape and dtype, and its memory layout, see `batch_norm`; Fortran order, too, for rank 2. `out`
            if that was given.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            If there were no data yet; if x or out does not fit. Nothing has been written then.

        Notes
        -----
        In one pass over memory. ``abs(y - exact) <= 4 * 2**-24 * max(abs(y), 1)`` for float32, also for a mean of 1e6
        deviations; for float64 with 2**-52, times ``1 + abs(mean) / scale``; 16 bits as float32, then rounded once.
        Exact is what follows from `mean` and `scale`, which have bounds of their own.

        Examples
        --------
        >>> import numpy as np, cbn
        >>> cbn.FeatureNormalizer().fit([[1.0], [5.0]]).transform([[3.0], [7.0]])
        array([[0.],
               [2.]])
        """
        state = _fitted(self._state, "transform")
        return state.applied(*self._checked(state, x), out)

    def inverse_transform(self, x, *, out=None):
        """Return what `transform` makes x of: ``x * scale + mean``.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64
            Normalized data.
        out : ndarray, optional
            As in `transform`.

        Returns
        -------
        ndarray
            As from `transform`, within ``4 * 2**-24 * (abs(x * scale) + abs(mean))`` for float32 (2**-52 for
            float64). Exact for the values of a constant feature.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `transform`.
        """
        state = _fitted(self._state, "inverse_transform")
        return state.undone(*self._checked(state, x), out)

    def fit_transform(self, x, *, sample_weight=None, out=None):
        """Return ``fit(x, sample_weight=sample_weight).transform(x, out=out)``.

        Parameters
        ----------
        x, sample_weight, out
            As there. Nothing has been changed if anything does not fit.

        Returns
        -------
        ndarray
        """
        state = _fitted(self._grown(None, self._moments_of(x, sample_weight)), "transform")
        y = state.applied(*self._checked(state, x), out)
        with _core.lock:
            self._state = state
        return y

    def __getstate__(self):
        return super().__getstate__()  # of its own, or the oldest protocols refuse a class with slots

    def _checked(self, state, x):
        """x and its axis of features, of which there must be as many as in the state, if any."""
        x = _core.as_array(x, self._name)
        axis = _core.channel_axis(self._axis, x, self._name)
        self._check_size(state, x.shape[axis])
        return x, axis

    def _check_size(self, state, size):
        if state is not None and size != state.mean.size:
            raise ValueError(f"{self._name} must have {state.mean.size} features on axis {self._axis}; got {size}")

    def _moments_of(self, x, sample_weight):
        x, axis = in_c_order(*self._checked(None, x))
        return missing.moments_of(x, axis, sample_weight, self._nan, self._name)

    def _grown(self, state, found):
        """The state after values of which these moments were found."""
        self._check_size(state, found.mean.size)
        if not np.ndim(found.count) and not found.count:  # no samples, while an array of 0 stands for samples of NaN
            return state
        total = found if state is None else state.moments + found
        return self._state_of(total, f"{self._name} {_OF_DATA}")

    def _state_of(self, total, rule):
        if self._nan != "propagate":
            missing.check_finite(total, rule)
        return Scaling.of(total, self._with_mean, self._with_std)


def _copied(moments):
    return Moments.from_dict(moments.to_dict())


def _fitted(state, wanted):
    if state is None:
        raise RuntimeError(f"the normalizer must have seen data before {wanted}; got none yet")
    return state
