# _types: the types that the stubs share; for type checkers only, there is no such module at run time.

import os
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .conventions import Convention
from .options import _Default

Array: TypeAlias = npt.NDArray[Any]  # of a float dtype; that of bfloat16 is no type of NumPy's
Doubles: TypeAlias = npt.NDArray[np.float64]
Wide: TypeAlias = npt.NDArray[np.floating[Any]]  # float64 or longdouble, as the oracle computes
Path: TypeAlias = str | os.PathLike[str]

Default: TypeAlias = _Default  # for an argument that is not given: what the convention says
Activation: TypeAlias = Literal["relu", "leaky_relu"]
EpsPlace: TypeAlias = Literal["inside", "outside"]
NanPolicy: TypeAlias = Literal["skip", "raise", "propagate"]
Nonfinite: TypeAlias = Literal["propagate", "raise", "skip"]
OneValue: TypeAlias = Literal["error", "zero_var"]
Variance: TypeAlias = Literal["unbiased", "biased", "deviation"]
Conversion: TypeAlias = Literal["convert", "keep"]  # what becomes of a running variance
Source: TypeAlias = Literal["batch", "batch, unbiased", "running", "running, before"]  # of what y is normalized with
ConventionName: TypeAlias = Literal[
    "torch", "keras", "tf_fused", "tf_contrib", "onnx", "flax", "paper", "lecture", "notes"
]
AnyConvention: TypeAlias = Convention | ConventionName
