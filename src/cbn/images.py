"""images: uint8 images in, normalized float32 out, in one pass over memory."""

import numpy as np

from . import _core, options
from .layer import BatchNorm

__all__ = ["normalize_images"]


def _of_layer(layer):
    """What the compiled function takes of a layer: its channels, its line in float64, its activation."""
    if not isinstance(layer, BatchNorm):
        raise TypeError(f"layer must be a BatchNorm; got {type(layer).__name__}")
    options.check_evaluation(layer, "layer")
    with _core.lock:
        bias = 0.0 if layer.bias is None else layer.bias.astype(np.float64)
        line = layer.running_mean.astype(np.float64), layer.affine_map()[0], bias
    return layer.num_features, line, layer.activation, layer.negative_slope


def normalize_images(images, mean, std, *, layer=None, axis=-1, channels_first=True, out=None, num_threads=None):
    """Normalize images as torchvision's ``ToTensor`` and ``Normalize(mean, std)`` do, and apply a layer after that.

    Parameters
    ----------
    images : array_like of uint8, shape (H, W, C), (N, H, W, C) or any other of rank >= 3
    mean, std : array_like of real numbers, shape (C,)
        In units of ``images / 255``. std must be > 0.
    layer : BatchNorm, optional
        A layer of C channels in evaluation mode, which is applied after the normalization, with its activation, in the
        same pass. Its own axis and dtype do not matter.
    axis : int
        The channel axis of images; 1 or -3 for images that are channels-first.
    channels_first : bool
        Whether y has the channel axis moved to -3: (N, C, H, W) from (N, H, W, C).
    out : ndarray of float32, optional
        Where y is written: of y's shape and memory layout. It may share no memory with images.
    num_threads : int, optional
        At most so many threads; see `get_num_threads` for the default. It never changes a bit of the result.

    Returns
    -------
    y : ndarray of float32
        ``(images / 255 - mean) / std``, with a layer ``activation((that - running_mean) / sqrt(running_var + eps) *
        weight + bias)``. In C order, with channels_first; else of images' shape, and in the memory layout that
        `batch_norm` gives. `out` if that was given.

    Raises
    ------
    TypeError
        If images are not uint8, mean or std no real numbers, layer no BatchNorm, or out not float32.
    ValueError
        For wrong shapes or ranges. Whenever an error is raised nothing has been changed.
    RuntimeError
        If the layer is in training mode or has no running statistics.

    Notes
    -----
    All that happens to a channel is one ``(images - center) * scale + shift``, with numbers computed in float64.
    ``abs(y - exact) <= 4 * 2**-24 * max(abs(y), abs(x_hat * weight), abs(bias), 1)``, as for `batch_norm`; without a
    layer ``x_hat * weight`` is y. This holds while y changes by less than 2**24 from black to white. The same bits for
    any number of threads, instruction set and alignment. images are read once and y is written once. Images that are
    neither in C order nor so once their channel axis is moved (last or to -3) are first copied once.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> images = np.array([[[0, 51, 255], [255, 51, 0]]], dtype=np.uint8)  # (H, W, C) = (1, 2, 3)
    >>> cbn.normalize_images(images, [0.5, 0.2, 0.0], [0.5, 0.5, 0.25])
    array([[[-1.,  1.]],
    <BLANKLINE>
           [[ 0.,  0.]],
    <BLANKLINE>
           [[ 4.,  0.]]], dtype=float32)
    """
    _core.check_flag(channels_first, "channels_first")
    extras = () if layer is None else _of_layer(layer)
    return _core.normalize_images(images, mean, std, axis, channels_first, out, num_threads, *extras)
