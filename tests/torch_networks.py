"""torch_networks: a network like ResNet-18, its data and its training, for tests of torch modules."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        shortcut = nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(*shortcut)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


RESNET18 = (8, 8, 8, 16, 16, 32, 32, 64, 64)  # an eighth of its widths


def network(widths=RESNET18, dtype=torch.float32, momentum=0.1):
    """ResNet-18 but for its widths and its stem, or a part of it."""
    torch.manual_seed(0)
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0], momentum=momentum), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10), nn.BatchNorm1d(10)]
    return nn.Sequential(*stem, *blocks, *head).to(dtype)


def data(steps, dtype, layout=torch.contiguous_format, samples=8):
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x = torch.randn(samples + step % 3, 3, 16, 16, generator=generator).to(dtype).contiguous(memory_format=layout)
        yield x, torch.randint(0, 10, (len(x),), generator=generator)


def losses(model, batches, call=None):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for x, labels in batches:
        loss = F.cross_entropy((call or model)(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
