"""folding: batch norm in evaluation mode, folded into the linear operation before or after it, as arrays."""

import warnings
from typing import NamedTuple

import numpy as np

from . import _core, options
from .arrays import array_of, check_floats, real
from .convolution import difference
from .layer import BatchNorm

__all__ = ["fold_affine", "fold_conv", "fold_linear"]


class _Arrays(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


class Folded(_Arrays):
    """``weight, bias`` of the folded operation; `error` is what `verify` found, else None."""

    error = None


@_core.default_rounding
def fold_affine(first, second):
    """Return one affine map by channel for two, one after the other.

    Parameters
    ----------
    first, second : BatchNorm or (scale, shift)
        Layers in evaluation mode, or pairs of arrays of shape (C,), as `BatchNorm.affine_map` returns them.

    Returns
    -------
    scale, shift : ndarray of float64, shape (C,)
        ``second(first(x)) = scale * x + shift``.

    Raises
    ------
    TypeError, ValueError
        If an argument is neither, has an activation, or if their channels differ.
    RuntimeError
        For a layer in training mode or without running statistics.

    Notes
    -----
    ``scale = scale2 * scale1`` and ``shift = scale2 * shift1 + shift2``, in float64.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> cbn.fold_affine((np.array([2.0]), np.array([1.0])), (np.array([10.0]), np.array([5.0])))
    (array([20.]), array([15.]))
    """
    scale, shift = _line(first, "first")
    next_scale, next_shift = _line(second, "second")
    if scale.shape != next_scale.shape:
        raise ValueError(f"second must have {scale.size} channels, as first has; got {next_scale.size}")
    with np.errstate(all="ignore"):
        return next_scale * scale, next_scale * shift + next_shift


@_core.default_rounding
def fold_conv(weight, bias, norm, *, groups=1, transposed=False, axis=None, following=False, padding=None, verify=None):
    """Return weight and bias of one convolution that does what a convolution and a batch norm do.

    Parameters
    ----------
    weight : array_like of float, rank >= 3
        Of the convolution: ``(out, in / groups, *kernel)`` as in torch and ONNX; ``(in, out / groups, *kernel)`` if
        `transposed`. Any number of spatial axes.
    bias : array_like of float, shape (out,), or None
        None is 0.
    norm : BatchNorm or (scale, shift)
        A layer in evaluation mode without an activation, or a pair of arrays of shape (C,), as
        `BatchNorm.affine_map` returns it.
    groups : int
        Of the convolution.
    transposed : bool
        Whether it is a transposed convolution.
    axis : int, optional
        The axis of `weight` that has the output channels: 0 or 1, the other being that of the input channels, or -1
        or -2, likewise. By default 0, or 1 if `transposed`. -1 is for Keras' Conv kernels
        ``(*kernel, in / groups, out)``, -2 for its transposed ones ``(*kernel, out, in)``.
    following : bool
        Whether the convolution comes after the norm instead of before it.
    padding : int or tuple of int, >= 0, optional
        Zeros at the borders of a `following` convolution's input; 0 says that there are none.
    verify : ndarray or bool, optional
        A sample in ``(N, in, *spatial)``, or True for a random one. Both ways are computed in float64 from what is
        returned (stride 1, no padding), and `error` is the largest difference over the largest value.

    Returns
    -------
    weight, bias : ndarray
        In `weight`'s dtype and layout; a tuple with the attribute `error`, None without `verify`.

    Raises
    ------
    TypeError, ValueError
        For wrong shapes or dtypes; a `following` convolution with padding, or transposed, behind a norm with a shift.
    RuntimeError
        For a layer in training mode or without running statistics.

    Warns
    -----
    UserWarning
        If the convolution follows a norm with a shift and `padding` is not given: zeros that are padded after the norm
        are no zeros before it, so that the fold would be wrong at the borders.

    Notes
    -----
    Before the norm ``weight * scale`` by output channel and ``bias * scale + shift``. After it ``weight * scale`` by
    input channel, and ``bias + sum(weight * shift)``. In float64, rounded once to `weight`'s dtype.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> rng = np.random.default_rng(0)
    >>> weight, bias = rng.standard_normal((8, 3, 3, 3)), rng.standard_normal(8)
    >>> layer = cbn.BatchNorm(8, dtype=np.float64)
    >>> y = layer(rng.standard_normal((4, 8, 5, 5)))
    >>> folded = cbn.fold_conv(weight, bias, layer.eval(), verify=True)
    >>> folded.weight.shape, folded.bias.shape, folded.error < 1e-14
    ((8, 3, 3, 3), (8,), True)
    """
    transposed = _core.check_flag(transposed, "transposed")
    given = _weight(weight, 3)
    axis = int(transposed) if axis is None else axis
    return _fold(given, bias, norm, axis, following, verify, groups, transposed, padding)


@_core.default_rounding
def fold_linear(weight, bias, norm, *, axis=0, following=False, verify=None):
    """Return weight and bias of one linear layer that does what a linear layer and a batch norm do.

    Parameters
    ----------
    weight : array_like of float, rank 2
        (out, in), as in torch.
    bias, norm, following, verify
        As in `fold_conv`, `verify` being a sample in (N, in). There is no padding to warn of.
    axis : int
        The axis of `weight` that has the outputs; 1 or -1 for Keras' Dense kernels (in, out).

    Returns
    -------
    weight, bias : ndarray
        As in `fold_conv`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `fold_conv`.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> norm = np.array([2.0, 10.0]), np.array([1.0, 0.0])          # scale, shift
    >>> weight, bias = cbn.fold_linear(np.ones((2, 3)), None, norm)
    >>> weight[:, 0], bias
    (array([ 2., 10.]), array([1., 0.]))
    """
    return _fold(_weight(weight, 2, 2), bias, norm, axis, following, verify)


# --- checks ---


def _line(norm, name="norm"):
    """Scale and shift in float64."""
    if isinstance(norm, BatchNorm):
        options.check_evaluation(norm, name)
        if norm.activation is not None:
            raise ValueError(f"{name} must have no activation, which would be lost; got {norm.activation!r}")
        return norm.affine_map()
    if not isinstance(norm, tuple | list) or len(norm) != 2:
        raise TypeError(f"{name} must be a BatchNorm or a pair of scale and shift; got {type(norm).__name__}")
    scale, shift = (real(value, f"{name}[{k}]").astype(np.float64) for k, value in enumerate(norm))
    if scale.ndim != 1 or scale.shape != shift.shape:
        raise ValueError(f"{name} must have two arrays of one shape (C,); got {scale.shape} and {shift.shape}")
    return scale, shift


def _weight(weight, least, most=None):
    weight = array_of(weight, "weight")
    check_floats(weight, "weight")
    if weight.ndim < least or (most is not None and weight.ndim > most):
        raise ValueError(f"weight must have rank {least}{'' if most else ' or more'}; got shape {weight.shape}")
    return weight


def _axes(axis):
    """The axes of the output and the input channels."""
    pairs = {0: (0, 1), 1: (1, 0), -1: (-1, -2), -2: (-2, -1)}
    if _core.check_integer(axis, "axis") not in pairs:
        raise ValueError(f"axis must be 0, 1, -1 or -2; got {axis}")
    return pairs[axis]


# --- kernels as (groups, out / groups, in / groups, *kernel), in float64 ---


def _grouped(moved, groups, transposed):
    """From (out, in / groups, *kernel), or (out / groups, in, *kernel) if transposed."""
    if transposed:
        moved = np.swapaxes(moved, 0, 1)
    if not 1 <= _core.check_integer(groups, "groups") <= max(len(moved), 1) or len(moved) % groups:
        channels = "input" if transposed else "output"
        raise ValueError(f"groups must divide the {len(moved)} {channels} channels of weight; got {groups}")
    kernel = moved.reshape(groups, len(moved) // groups, *moved.shape[1:])
    return np.swapaxes(kernel, 1, 2) if transposed else kernel


def _ungrouped(kernel, transposed):
    if transposed:
        kernel = np.swapaxes(kernel, 1, 2)
    flat = kernel.reshape(kernel.shape[0] * kernel.shape[1], *kernel.shape[2:])
    return np.swapaxes(flat, 0, 1) if transposed else flat


def _fold(given, bias, norm, axis, following, verify, groups=1, transposed=False, padding=0):
    axes = _axes(axis)
    kernel = _grouped(np.moveaxis(given.astype(np.float64), axes, (0, 1)), groups, transposed)
    out, into, *spatial = kernel.shape[1:]
    if 0 in spatial:
        raise ValueError(f"weight must have a kernel of at least one value; got shape {given.shape}")
    scale, shift = _line(norm)
    of, channels = ("input", groups * into) if _core.check_flag(following, "following") else ("output", groups * out)
    if scale.size != channels:
        raise ValueError(f"norm must have {channels} channels, the {of} channels of weight; got {scale.size}")
    bias = np.zeros(groups * out) if bias is None else real(bias, "bias").astype(np.float64)
    if bias.shape != (groups * out,):
        raise ValueError(f"bias must have shape ({groups * out},), one value per output channel; got {bias.shape}")
    padded = None if padding is None else _is_padded(padding)
    if following and shift.any():
        _check_borders(transposed, padded)
    with np.errstate(all="ignore"):
        new, new_bias = _scaled(kernel, bias, scale, shift, following)
        new, new_bias = new.astype(given.dtype), new_bias.astype(given.dtype)
    result = np.moveaxis(_ungrouped(new, transposed), (0, 1), axes)
    folded = Folded(np.ascontiguousarray(result), new_bias)
    if verify is not None and verify is not False:
        rounded = new.astype(np.float64), new_bias.astype(np.float64)
        folded.error = difference((kernel, bias), rounded, (scale, shift), following, transposed, verify)
    return folded


def _scaled(kernel, bias, scale, shift, following):
    groups, out, into, *spatial = kernel.shape
    ones = (1,) * len(spatial)
    if not following:
        return kernel * scale.reshape(groups, out, 1, *ones), bias * scale + shift
    scale, shift = (values.reshape(groups, 1, into, *ones) for values in (scale, shift))
    return kernel * scale, bias + (kernel * shift).sum(axis=tuple(range(2, kernel.ndim))).reshape(-1)


def _is_padded(padding):
    values = padding if isinstance(padding, tuple | list) else (padding,)
    if any(_core.check_integer(value, "padding") < 0 for value in values):
        raise ValueError(f"padding must be >= 0; got {padding}")
    return any(values)


def _check_borders(transposed, padded):
    """Of a convolution that follows a norm with a shift."""
    if transposed:
        raise ValueError("transposed must be False for a following convolution, unless norm has no shift; got True")
    if padded is None:
        warnings.warn(
            "padding was not given: if the convolution pads with zeros, the folded one is wrong at the borders, "
            "since those zeros come after the norm's shift; padding=0 says that it does not",
            stacklevel=4,
        )
    elif padded:
        raise ValueError("padding must be 0 for a following convolution, unless norm has no shift; got more")
