"""sklearn_estimator: FeatureNormalizer as a transformer of scikit-learn, which this module imports."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from .. import features
from .._core import unmasked
from ..missing import check_policy, check_values
from ..statistics import moments

__all__ = ["FeatureNormalizer"]

_DTYPES = ["float64", "float32", "float16"]  # the first for all others


class _Normalizer(features.FeatureNormalizer):
    """With the name that scikit-learn gives to data."""

    __slots__ = ()
    _name = "X"


class FeatureNormalizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """`cbn.FeatureNormalizer` in the place of scikit-learn's StandardScaler.

    Parameters
    ----------
    with_mean, with_std : bool
        Whether the mean is subtracted, and whether the rest is divided by the deviation.
    nan : "skip", "raise" or "propagate"
        What NaN does to the statistics, see `cbn.FeatureNormalizer`. "skip" is what StandardScaler does. "raise"
        refuses it in `transform`, too. Infinite values are refused but for "propagate".

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of float64, shape (n_features,), or None
        Mean, biased variance and what is divided by, of which the last two are None without `with_std`, and the mean
        without both. As StandardScaler's, so that `from_scaler` takes this, too. They follow the options, also when
        these are set later. New arrays each time.
    n_samples_seen_ : int, float, or ndarray, shape (n_features,)
        The number of samples, or the sum of their weights; one for each feature where these differ, because of NaN.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If X had names.

    See Also
    --------
    cbn.FeatureNormalizer : the same for arrays of any rank, without scikit-learn; with the bounds of accuracy.

    Examples
    --------
    >>> import numpy as np
    >>> from cbn.interop.sklearn import FeatureNormalizer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = np.array([[0.0, 1e6], [1.0, 1e6], [2.0, 3e6], [3.0, 3e6]]), [0, 0, 1, 1]
    >>> model = make_pipeline(FeatureNormalizer(), LogisticRegression()).fit(X, y)
    >>> model.predict([[0.5, 1e6]]), model[0].mean_
    (array([0]), array([1.5e+00, 2.0e+06]))
    """

    def __init__(self, *, with_mean=True, with_std=True, nan="skip"):
        self.with_mean = with_mean
        self.with_std = with_std
        self.nan = nan

    def fit(self, X, y=None, sample_weight=None):
        """Take the statistics of X.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            float16, float32 and float64 are taken as they are, other numbers as float64.
        y : None
            Ignored.
        sample_weight : array_like, shape (n_samples,), optional
            How often each sample counts: 0, or from 1e-100 to 1e100.

        Returns
        -------
        FeatureNormalizer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit. Statistics are as they were then.
        """
        return self._keep(X, None, self._learned(X, sample_weight, None)[1])

    def partial_fit(self, X, y=None, sample_weight=None):
        """Add the data of X to those so far.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        FeatureNormalizer
            Itself.
        """
        before = getattr(self, "_moments", None)
        return self._keep(X, before, self._learned(X, sample_weight, before)[1])

    def fit_transform(self, X, y=None, sample_weight=None):
        """Return ``fit(X, sample_weight=sample_weight).transform(X)``.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            As from `transform`.

        Raises
        ------
        ValueError, TypeError
            As there. Statistics are as they were then.
        """
        array, normalizer = self._learned(X, sample_weight, None)
        if sample_weight is not None:  # else the statistics have told
            self._check_values(array)
        normalized = normalizer.transform(array)
        self._keep(X, None, normalizer)
        return normalized

    def transform(self, X):
        """Return ``(X - mean_) / scale_``.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            A new one, or what `set_output` says.
        """
        normalizer, array = self._fitted(), self._array(X, as_fitted=True)
        self._check_values(array)
        return normalizer.transform(array)

    def inverse_transform(self, X):
        """Return ``X * scale_ + mean_``.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Normalized data.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
        """
        normalizer, array = self._fitted(), self._array(X, as_fitted=False)  # which has no names
        self._check_values(array)
        return normalizer.inverse_transform(array)

    @property
    def mean_(self):
        return self._fitted().mean if self.with_mean or self.with_std else None

    @property
    def var_(self):
        return self._fitted().var if self.with_std else None

    @property
    def scale_(self):
        return self._fitted().scale if self.with_std else None

    @property
    def n_samples_seen_(self):
        counts = self._fitted().moments.count
        different = np.unique(counts)
        return different.item() if different.size == 1 else counts

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan != "raise"
        tags.transformer_tags.preserves_dtype = _DTYPES
        return tags

    def _normalizer(self, known, nan):
        return _Normalizer(with_mean=self.with_mean, with_std=self.with_std, nan=nan, moments=known)

    def _fitted(self):
        """What transforms, to which `nan` means nothing; the statistics may be from before it was set."""
        check_is_fitted(self)
        return self._normalizer(self._moments, "propagate")

    def _array(self, X, as_fitted):
        """X, which must have the number and the names of the features that were fitted, or may have others."""
        if isinstance(X, np.ndarray):
            unmasked(X, "X")  # scikit-learn would take what is under the mask
        options = {"dtype": _DTYPES, "ensure_all_finite": False}
        if as_fitted:
            return validate_data(self, X, reset=False, **options)
        return check_array(X, estimator=self, input_name="X", **options)

    def _check_values(self, array):
        """Search for what is refused. The sum shows whether there is anything, in a fraction of the time."""
        nan = check_policy(self.nan)
        if nan != "propagate" and not np.isfinite(moments(array.ravel(order="K")[None], axis=0).mean[0]):
            check_values(array, 1, nan, "X")

    def _learned(self, X, sample_weight, before):
        """X as an array, and what comes of the moments before with it. Nothing has been kept."""
        normalizer = self._normalizer(before, self.nan)
        array = self._array(X, as_fitted=before is not None)
        normalizer.partial_fit(array, sample_weight=sample_weight)
        if normalizer.moments is None:
            raise ValueError("sample_weight must not be zero for every sample; got no other weight")
        return array, normalizer

    def _keep(self, X, before, normalizer):
        if before is None:
            validate_data(self, X, skip_check_array=True)  # keeps the features' number and names; may raise
        self._moments = normalizer.moments
        return self
