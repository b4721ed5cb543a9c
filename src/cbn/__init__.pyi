# __init__: the types of cbn's public names.

from . import conventions, reference
from .conventions import Convention
from .conversion import convert
from .drift import Drift
from .explanation import Explanation, explain
from .features import FeatureNormalizer
from .folding import fold_affine, fold_conv, fold_linear
from .functional import batch_norm, batch_norm_backward, batch_norm_double_backward, batch_norm_forward
from .images import normalize_images
from .layer import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from .population import recompute_statistics
from .report import OracleMismatch, Report
from .runtime import (
    available_isas,
    get_include,
    get_library,
    get_num_threads,
    num_threads,
    set_num_threads,
    show_config,
    use_isa,
)
from .statistics import Moments, moments, update_running
from .streaming import population_moments

__version__: str

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Convention",
    "Drift",
    "Explanation",
    "FeatureNormalizer",
    "Moments",
    "OracleMismatch",
    "Report",
    "available_isas",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "batch_norm_forward",
    "conventions",
    "convert",
    "explain",
    "fold_affine",
    "fold_conv",
    "fold_linear",
    "get_include",
    "get_library",
    "get_num_threads",
    "moments",
    "normalize_images",
    "num_threads",
    "population_moments",
    "recompute_statistics",
    "reference",
    "set_num_threads",
    "show_config",
    "update_running",
    "use_isa",
]
