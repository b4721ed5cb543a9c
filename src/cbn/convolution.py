"""convolution: a convolution by its definition, in NumPy and float64, and how far a folded one is from it."""

import numpy as np

from .arrays import real

__all__ = ["convolve", "difference"]


def convolve(kernel, bias, x, transposed):
    """Return the convolution of x in (N, in, *spatial), or a matrix product where nothing is spatial.

    The kernel is in (groups, out / groups, in / groups, *kernel); stride 1, no padding.
    """
    groups, _, into, *spatial = kernel.shape
    axes = tuple(range(2, x.ndim))
    if transposed:
        x = np.pad(x, [(0, 0), (0, 0), *((k - 1, k - 1) for k in spatial)])
        kernel = np.flip(kernel, axis=tuple(range(3, kernel.ndim)))
    windows = np.lib.stride_tricks.sliding_window_view(x, spatial, axis=axes) if spatial else x
    summed = tuple(range(windows.ndim - len(spatial), windows.ndim))
    parts = []
    for g in range(groups):
        part = windows[:, g * into : (g + 1) * into]
        y = np.tensordot(part, kernel[g], axes=((1, *summed), (1, *range(2, 2 + len(spatial)))))
        parts.append(np.moveaxis(y, -1, 1))
    return np.concatenate(parts, axis=1) + bias.reshape(-1, *(1,) * len(spatial))


def difference(before, after, line, following, transposed, sample):
    """Return the largest difference of two ways, over the largest value.

    `before` and `after` are kernel and bias of the convolution beside a norm (`line`, its scale and shift) and of the
    folded one; `sample` is x, or True for a random one.
    """
    kernel = before[0]
    channels, spatial = kernel.shape[0] * kernel.shape[2], kernel.shape[3:]
    if sample is True:
        sample = np.random.default_rng(0).standard_normal((2, channels, *(k + 2 for k in spatial)))
    sample = real(sample, "verify").astype(np.float64)
    if sample.ndim != 2 + len(spatial) or sample.shape[1] != channels:
        raise ValueError(f"verify must have shape (N, {channels}{', ...' * len(spatial)}); got {sample.shape}")
    if 0 in sample.shape[:1] + sample.shape[2:]:
        raise ValueError(f"verify must have at least one sample and place; got shape {sample.shape}")
    if not transposed and any(s < k for s, k in zip(sample.shape[2:], spatial, strict=True)):
        raise ValueError(f"verify must be at least as large as the kernel {spatial}; got {sample.shape[2:]}")
    with np.errstate(all="ignore"):
        if following:
            wanted = convolve(*before, _normalized(sample, *line), transposed)
        else:
            wanted = _normalized(convolve(*before, sample, transposed), *line)
        largest = np.abs(convolve(*after, sample, transposed) - wanted).max(initial=0)
        return float(largest / (np.abs(wanted).max(initial=0) or 1))


def _normalized(x, scale, shift):
    ones = (1,) * (x.ndim - 2)
    return x * scale.reshape(-1, *ones) + shift.reshape(-1, *ones)
