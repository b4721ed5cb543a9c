"""torch_modules: cbn's drop-in modules against torch's own: layers, training steps of networks, and exactness."""

import argparse
import functools
import math

import torch
from torch import nn
from torch.nn import functional as F

import cbn
import cbn.interop.torch
import machine
import timing
from common import Progress, add_json_option, check, run_main, write_json
from rows import RESNET50

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OFFSETS = (0, 1e2, 1e4, 1e5, 1e6)
