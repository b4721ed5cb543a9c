# onnx: types of the converters of ONNX models.

from typing import NamedTuple

from onnx import ModelProto, NodeProto, TensorProto

from .._types import Conversion
from ..layer import BatchNorm
from .fold_onnx import _AnyModel, fold
from .verify_onnx import verify

__all__ = ["OnnxNode", "fold", "from_model", "to_model", "to_node", "verify"]

class OnnxNode(NamedTuple):
    node: NodeProto
    initializers: list[TensorProto]

def from_model(model: _AnyModel, name: str | None = None) -> BatchNorm: ...
def to_model(
    model: _AnyModel,
    layer: BatchNorm,
    name: str | None = None,
    *,
    count: float | None = None,
    variance: Conversion = "convert",
) -> ModelProto: ...
def to_node(
    layer: BatchNorm,
    x: str = "x",
    y: str = "y",
    *,
    name: str = "norm",
    opset: int = 15,
    count: float | None = None,
    variance: Conversion = "convert",
) -> OnnxNode: ...
