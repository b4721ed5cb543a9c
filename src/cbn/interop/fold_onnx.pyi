# fold_onnx: types of the folding of ONNX models.

from typing import Generic, NamedTuple, TypeAlias, TypeVar, overload

from onnx import ModelProto
from onnx_ir import Model

from .._types import Path

__all__ = ["Folded", "Folding", "Left", "fold"]

_Model = TypeVar("_Model", ModelProto, Model)
_AnyModel: TypeAlias = Path | ModelProto | Model

class Folded(NamedTuple):
    norm: str
    into: str
    how: str

class Left(NamedTuple):
    norm: str
    reason: str

class Folding(NamedTuple, Generic[_Model]):
    model: _Model
    folded: tuple[Folded, ...]
    left: tuple[Left, ...]

@overload
def fold(model: ModelProto) -> Folding[ModelProto]: ...
@overload
def fold(model: Path | Model) -> Folding[Model]: ...
