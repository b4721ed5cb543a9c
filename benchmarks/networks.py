"""networks: ResNet-18, ResNet-50 and MobileNetV2 in torch, as their papers have them."""

from torch import nn

__all__ = ["NETWORKS"]


def convolution(channels, out, kernel, stride=1, groups=1, activation=None):
    """A convolution without bias, its norm, and what follows."""
    layers = [nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([activation] if activation else []))


class Residual(nn.Module):
    """body(x) + shortcut(x), and what follows."""

    def __init__(self, body, shortcut, activation):
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x):
        return self.activation(self.body(x) + self.shortcut(x))


def resnet(depths, bottleneck):
    """ResNet with so many blocks in each of four stages; He et al. 2016, table 1, strides in the 3x3 convolutions."""

    def relu():
        return nn.ReLU(inplace=True)

    layers, channels = [convolution(3, 64, 7, 2, activation=relu()), nn.MaxPool2d(3, 2, 1)], 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        out = 4 * width if bottleneck else width
        for block in range(depth):
            stride = 2 if stage and not block else 1
            if bottleneck:
                body = [
                    convolution(channels, width, 1, activation=relu()),
                    convolution(width, width, 3, stride, activation=relu()),
                    convolution(width, out, 1),
                ]
            else:
                body = [convolution(channels, width, 3, stride, activation=relu()), convolution(width, out, 3)]
            shortcut = nn.Identity() if block or channels == out else convolution(channels, out, 1, stride)
            layers.append(Residual(nn.Sequential(*body), shortcut, relu()))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def mobilenet_v2():
    """Sandler et al. 2018, table 2."""

    def relu6():
        return nn.ReLU6(inplace=True)

    layers, channels = [convolution(3, 32, 3, 2, activation=relu6())], 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for factor, out, depth, first_stride in stages:
        for block in range(depth):
            stride, inner = 1 if block else first_stride, factor * channels
            body = nn.Sequential(
                *([convolution(channels, inner, 1, activation=relu6())] if factor > 1 else []),
                convolution(inner, inner, 3, stride, inner, relu6()),
                convolution(inner, out, 1),
            )
            residual = stride == 1 and channels == out
            layers.append(Residual(body, nn.Identity(), nn.Identity()) if residual else body)
            channels = out
    layers.append(convolution(channels, 1280, 1, activation=relu6()))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


NETWORKS = {
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
    "mobilenet_v2": mobilenet_v2,
}
