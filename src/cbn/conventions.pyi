# conventions: types of what other systems mean by momentum, running variance, eps and one value per channel.

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, overload

from ._types import AnyConvention, ConventionName, EpsPlace, OneValue, Variance

__all__ = [
    "FLAX",
    "KERAS",
    "LECTURE",
    "NAMES",
    "NOTES",
    "ONNX",
    "PAPER",
    "PLACES",
    "TF_CONTRIB",
    "TF_FUSED",
    "TORCH",
    "Convention",
    "complement",
    "known",
    "named",
    "one_of",
]

NAMES: tuple[ConventionName, ...]
PLACES: tuple[EpsPlace, ...]

def complement(weight: float) -> float: ...
def one_of(name: str, value: object, allowed: Iterable[str]) -> str: ...

@dataclass(frozen=True)
class Convention:
    name: str
    momentum_weighs: Literal["new", "old"] = "new"
    variance: Variance = "unbiased"
    eps_place: EpsPlace = "inside"
    eps: float = 1e-5
    momentum: float | None = 0.1
    one_value: OneValue = "error"

    def __post_init__(self) -> None: ...
    @overload
    def weight_of_new(self, momentum: None) -> None: ...
    @overload
    def weight_of_new(self, momentum: float) -> float: ...
    def to_dict(self) -> dict[str, Any]: ...

TORCH: Convention
KERAS: Convention
TF_FUSED: Convention
TF_CONTRIB: Convention
ONNX: Convention
FLAX: Convention
PAPER: Convention
LECTURE: Convention
NOTES: Convention

def known(convention: Convention) -> bool: ...
def named(convention: AnyConvention) -> Convention: ...
