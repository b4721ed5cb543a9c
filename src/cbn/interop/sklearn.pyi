# sklearn: types of the converters of scikit-learn's StandardScaler, and of what replaces one.

from sklearn.preprocessing import StandardScaler

from .._types import Conversion
from ..conventions import Convention
from ..layer import BatchNorm
from .sklearn_estimator import FeatureNormalizer

__all__ = ["STANDARD_SCALER", "FeatureNormalizer", "from_scaler", "to_scaler"]

STANDARD_SCALER: Convention

def from_scaler(scaler: StandardScaler | FeatureNormalizer) -> BatchNorm: ...
def to_scaler(layer: BatchNorm, *, count: float | None = None, variance: Conversion = "convert") -> StandardScaler: ...
