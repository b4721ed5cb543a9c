# folding: types of batch norm folded into the linear operation before or after it.

from typing import Literal, NamedTuple, TypeAlias, overload, type_check_only

import numpy.typing as npt
from typing_extensions import disjoint_base

from ._types import Array, Doubles
from .layer import BatchNorm

__all__ = ["fold_affine", "fold_conv", "fold_linear"]

_Norm: TypeAlias = BatchNorm | tuple[npt.ArrayLike, npt.ArrayLike]

class _Arrays(NamedTuple):
    weight: Array
    bias: Array

@disjoint_base
class Folded(_Arrays):
    error: float | None

@type_check_only
class _Verified(Folded):
    error: float

def fold_affine(first: _Norm, second: _Norm) -> tuple[Doubles, Doubles]: ...
@overload
def fold_conv(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    norm: _Norm,
    *,
    groups: int = 1,
    transposed: bool = False,
    axis: int | None = None,
    following: bool = False,
    padding: int | tuple[int, ...] | None = None,
    verify: Literal[True] | Array,
) -> _Verified: ...
@overload
def fold_conv(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    norm: _Norm,
    *,
    groups: int = 1,
    transposed: bool = False,
    axis: int | None = None,
    following: bool = False,
    padding: int | tuple[int, ...] | None = None,
    verify: Array | bool | None = None,
) -> Folded: ...
@overload
def fold_linear(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    norm: _Norm,
    *,
    axis: int = 0,
    following: bool = False,
    verify: Literal[True] | Array,
) -> _Verified: ...
@overload
def fold_linear(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    norm: _Norm,
    *,
    axis: int = 0,
    following: bool = False,
    verify: Array | bool | None = None,
) -> Folded: ...
