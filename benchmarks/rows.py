"""rows: the shapes that are measured, and where each comes from."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from common import UserError


@dataclass(frozen=True)
class Row:
    """One array to normalize."""

    source: str
    shape: tuple  # as (N, C, *spatial), whatever the layout
    layout: str = "NCHW"  # channels first; "NHWC": channels last; "NC": no spatial axes
    dtype: str = "float32"

    @property
    def name(self):
        return f"{self.source} {self.layout} {self.dtype} {'x'.join(map(str, self.shape))}"

    @property
    def axis(self):
        return -1 if self.layout == "NHWC" else 1

    @property
    def memory_shape(self):
        n, c, *spatial = self.shape
        return (n, *spatial, c) if self.layout == "NHWC" else self.shape


# The speed contract is about the geometric mean over these.
RESNET50 = [(32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 2048, 7, 7)]

# Batches of 32, unless the name says otherwise or such arrays would be much larger or smaller than the others.
ROWS = [
    *[Row("resnet50", shape, layout) for layout in ("NCHW", "NHWC") for shape in RESNET50],
    Row("resnet50", (32, 1024, 14, 14)),
    Row("resnet50", (32, 512, 28, 28), dtype="float64"),
    # batch 1: a single image in a service
    Row("resnet50-batch1", (1, 64, 112, 112)),
    Row("resnet50-batch1", (1, 2048, 7, 7)),
    Row("resnet50-batch1", (1, 64, 112, 112), "NHWC"),
    # MobileNetV3-Large: after the first layer, and expanded layers at 56, 14 and 7
    Row("mobilenetv3", (32, 16, 112, 112)),
    Row("mobilenetv3", (32, 72, 56, 56)),
    Row("mobilenetv3", (32, 184, 14, 14)),
    Row("mobilenetv3", (32, 960, 7, 7)),
    Row("mobilenetv3", (32, 72, 56, 56), "NHWC"),
    # DenseNet-121: concatenated features in the blocks at 56 and at 14
    Row("densenet121", (32, 96, 56, 56)),
    Row("densenet121", (32, 992, 14, 14)),
    # 3-D U-Net, second level of the analysis path, for its own input of 132x132x116
    Row("unet3d", (1, 64, 62, 62, 54)),
    Row("unet3d", (1, 64, 62, 62, 54), "NHWC"),
    # fully connected layers, the last with one feature
    Row("mlp", (256, 1024), "NC"),
    Row("mlp", (1024, 4096), "NC"),
    Row("mlp", (256, 1024), "NC", "float64"),
    Row("mlp", (1024, 1), "NC"),
    # M5 on 32000 samples of raw audio: after the first 1-D convolution, and after the last
    Row("m5-audio", (16, 128, 8000)),
    Row("m5-audio", (16, 512, 125)),
    # images themselves, and one frame of video
    Row("images", (32, 3, 224, 224)),
    Row("images", (32, 3, 224, 224), "NHWC"),
    Row("mnist", (64, 1, 28, 28)),
    Row("frame", (1, 3, 1080, 1920)),
    Row("frame", (1, 3, 1080, 1920), "NHWC"),
    # no network's: odd sizes, planes of one value, a large batch
    Row("odd", (7, 33, 17, 19)),
    Row("odd", (13, 101, 31, 37)),
    Row("odd", (13, 101, 31, 37), "NHWC"),
    Row("plane1x1", (32, 2048, 1, 1)),
    Row("batch1024", (1024, 32, 7, 7)),
    Row("batch1024", (1024, 19, 5, 5), "NHWC"),
]

QUICK = [
    Row("mlp", (256, 1024), "NC"),
    Row("resnet50", (32, 2048, 7, 7)),
    Row("resnet50-batch1", (1, 64, 112, 112), "NHWC"),
    Row("odd", (7, 33, 17, 19)),
]


def matches(row, pattern):
    """Whether a row's name contains the pattern, in which * stands for anything, in upper or lower case."""
    return fnmatchcase(row.name.casefold(), f"*{pattern.casefold()}*")


def select(rows, patterns):
    """The rows whose name matches one of the patterns."""
    for pattern in patterns:
        if not any(matches(row, pattern) for row in rows):
            names = "\n  ".join(row.name for row in rows)
            raise UserError(f"--rows must match a row; got {pattern!r}; there are\n  {names}")
    return [row for row in rows if not patterns or any(matches(row, pattern) for pattern in patterns)]
