# verify_onnx: types of how far a folded ONNX model is from the original one.

from collections.abc import Mapping
from typing import NamedTuple

import numpy.typing as npt

from .fold_onnx import _AnyModel

__all__ = ["Agreement", "Original", "verify"]

class Agreement(NamedTuple):
    error: float
    bound: float
    output: str
    counted: bool = False
    overall: float = 0.0
    notes: tuple[str, ...] = ()
    each: tuple[Agreement, ...] = ()

    @property
    def ok(self) -> bool: ...

def verify(
    original: _AnyModel, folded: _AnyModel, sample: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None
) -> Agreement: ...

class Original:
    def __init__(self, model: _AnyModel, sample: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None) -> None: ...
    def compare(self, folded: _AnyModel) -> Agreement: ...
