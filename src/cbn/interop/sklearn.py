"""sklearn: scikit-learn's StandardScaler as a layer, a layer as a StandardScaler, and what replaces one."""

import numpy as np

from ..conventions import Convention
from ..libraries import library, on_demand
from .layers import build, exported

__all__ = ["STANDARD_SCALER", "FeatureNormalizer", "from_scaler", "to_scaler"]  # noqa: F822

STANDARD_SCALER = Convention("standard_scaler", variance="biased", eps=0.0, momentum=None, one_value="zero_var")


# its bases are scikit-learn's
__getattr__ = on_demand(__name__, {"FeatureNormalizer": "cbn.interop.sklearn_estimator"}, "sklearn")


def __dir__():
    return sorted({*globals(), *__all__})


def from_scaler(scaler):
    """Return the layer that does in evaluation what a fitted StandardScaler does.

    Parameters
    ----------
    scaler : sklearn.preprocessing.StandardScaler or FeatureNormalizer
        Fitted.

    Returns
    -------
    BatchNorm
        In evaluation mode, float64, without weight, bias and eps, for arrays (N, C). running_mean is ``mean_``;
        running_var is ``var_``, or the square of ``scale_`` where that is another deviation, as for constant features,
        which a scaler leaves undivided. `BatchNorm.count` is ``n_samples_seen_`` if all features were divided.

    Raises
    ------
    TypeError
        If it is no fitted StandardScaler, or one that was switched to what it has not been fitted for.

    Notes
    -----
    A scaler pools all samples that it has seen; further training of a layer would weigh every batch the same instead.
    Into other systems the layer goes with ``variance="keep"``, for the same y.

    Examples
    --------
    >>> import numpy as np, cbn.interop.sklearn
    >>> from sklearn.preprocessing import StandardScaler
    >>> layer = cbn.interop.sklearn.from_scaler(StandardScaler().fit([[0.0], [4.0]]))
    >>> layer(np.array([[6.0]])), layer.running_var, layer.count
    (array([[2.]]), array([4.]), 2)
    """
    features = getattr(scaler, "n_features_in_", None)
    needed = ("mean_", "var_", "scale_", "with_mean", "with_std")
    if not all(hasattr(scaler, name) for name in needed) or features is None:
        raise TypeError(f"scaler must be a fitted StandardScaler; got {scaler!r}")
    mean = scaler.mean_ if scaler.with_mean else np.zeros(features)
    scale, var = (scaler.scale_, scaler.var_) if scaler.with_std else np.ones((2, features))
    if mean is None or scale is None:
        raise TypeError(f"scaler must be fitted with the options that it has now; got {scaler!r}")
    undivided = (scale != np.sqrt(var)) | (not scaler.with_std)
    var = np.where(undivided, np.square(scale), var)
    seen = np.unique(getattr(scaler, "n_samples_seen_", ()))  # by features, if some had NaN
    given = {"running_mean": ("mean_", mean), "running_var": ("var_", var), "num_batches_tracked": ("", np.array(1))}
    known = {"count": seen.item() if seen.size == 1 and not undivided.any() else None, "start": 0.0}
    return build(given, STANDARD_SCALER, metadata=known, axis=-1).eval()


def to_scaler(layer, *, count=None, variance="convert"):
    """Return a fitted StandardScaler that does what a layer does in evaluation.

    Parameters
    ----------
    layer : BatchNorm
        Of any convention, with weights of 1 and biases of 0, which a scaler does not have.
    count, variance
        How an unbiased running variance becomes a scaler's, see `convert`.

    Returns
    -------
    sklearn.preprocessing.StandardScaler
        ``scale_`` has the layer's eps in it, or 1 where that would be 0. ``n_samples_seen_``, with which `partial_fit`
        goes on, is there if one batch made the running statistics, and all of them.

    Raises
    ------
    TypeError, ValueError
        As `convert`; for other weights and biases, an activation, or no running statistics.
    ImportError
        If scikit-learn is not installed.

    Examples
    --------
    >>> import numpy as np, cbn.interop.sklearn
    >>> scaler = cbn.interop.sklearn.to_scaler(cbn.BatchNorm(2, eps=0))
    >>> scaler.transform([[1.0, 2.0]])
    array([[1., 2.]])
    """
    preprocessing = library("sklearn.preprocessing", "sklearn")
    layer = exported(layer, STANDARD_SCALER, "StandardScaler", count=count, variance=variance)
    for name, neutral in (("weight", 1), ("bias", 0)):
        values = getattr(layer, name)
        if values is not None and not (values == neutral).all():
            raise ValueError(f"{name} must be {neutral} in every channel, as in StandardScaler; got others")
    scaler = preprocessing.StandardScaler()
    scaler.mean_, scaler.var_ = layer.running_mean.astype(np.float64), layer.running_var.astype(np.float64)
    scale = np.sqrt(scaler.var_ + layer.eps)
    scaler.scale_ = np.where(scale == 0, 1.0, scale)
    scaler.n_features_in_ = layer.num_features
    if layer.count and layer.num_batches_tracked == 1 and layer._history[1] == 0:
        scaler.n_samples_seen_ = np.array(layer.count)[()]
    return scaler
