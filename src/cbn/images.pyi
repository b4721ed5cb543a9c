# images: types of uint8 images in, normalized float32 out.

import numpy as np
import numpy.typing as npt

from .layer import BatchNorm

__all__ = ["normalize_images"]

def normalize_images(
    images: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    *,
    layer: BatchNorm | None = None,
    axis: int = -1,
    channels_first: bool = True,
    out: npt.NDArray[np.float32] | None = None,
    num_threads: int | None = None,
) -> npt.NDArray[np.float32]: ...
