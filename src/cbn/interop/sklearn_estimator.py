"""sklearn_estimator: FeatureNormalizer as a transformer of scikit-learn, which this module imports."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import assert_all_finite, check_array, check_is_fitted, validate_data

from .. import features
from .._core import unmasked
from ..statistics import moments

__all__ = ["FeatureNormalizer"]

_DTYPES = [np.float64, np.float32, np.float16]  # the first for all others


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
        without both. As StandardScaler's, so that `from_scaler` takes this, too.
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
        return self._learn(X, sample_weight, None)

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
        return self._learn(X, sample_weight, getattr(self, "_moments", None))

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
        return self._fitted().transform(self._finite(X))

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
        return self._fitted().inverse_transform(self._finite(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan != "raise"
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags

    def _normalizer(self, moments):
        options = {"with_mean": self.with_mean, "with_std": self.with_std, "nan": self.nan}
        return features.FeatureNormalizer(**options, moments=moments)

    def _fitted(self):
        check_is_fitted(self)
        return self._normalizer(self._moments)

    def _validated(self, X, first=False):
        if isinstance(X, np.ndarray):
            unmasked(X, "X")  # scikit-learn would take what is under the mask
        if first:
            return check_array(X, dtype=_DTYPES, ensure_all_finite=False, estimator=self, input_name="X")
        return validate_data(self, X, dtype=_DTYPES, ensure_all_finite=False, reset=False)

    def _finite(self, X):
        """X, unless it has what is refused. scikit-learn's own search would take as long as the rest, so it is last."""
        X = self._validated(X)
        if self.nan == "propagate" or np.isfinite(moments(X.ravel(order="K")[None], axis=0).mean[0]):
            return X
        if self.nan == "raise" or np.isinf(X).any():
            assert_all_finite(X, allow_nan=self.nan == "skip", estimator_name=type(self).__name__, input_name="X")
        return X

    def _learn(self, X, sample_weight, before):
        """Add X to the moments before; whatever can raise comes first, also within scikit-learn."""
        normalizer = self._normalizer(before)
        array = self._validated(X, before is None)
        found = normalizer.partial_fit(array, sample_weight=sample_weight).moments  # which tell what is not finite
        if found is None:
            raise ValueError("sample_weight must not be zero for every sample; got no other weight")
        if before is None:
            validate_data(self, X, skip_check_array=True)  # keeps the features' number and names
        self._moments = found
        self.mean_ = normalizer.mean if self.with_mean or self.with_std else None
        self.var_, self.scale_ = (normalizer.var, normalizer.scale) if self.with_std else (None, None)
        counts = np.unique(found.count)
        self.n_samples_seen_ = counts.item() if counts.size == 1 else found.count
        return self
