"""Enhanced spatial attention (ESA), which RLFN and BSRN share, and their common limits. Not part of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common import SCALES
from common.errors import InputError

HIDDEN = 16  # channels of the mask's branch
MIN_SIZE = 15  # pixels: below, the unpadded convolution of stride 2 leaves less than the 7 that the pooling takes


class ESA(nn.Module):
    """NxCxHxW times a mask in (0, 1), most of which is computed at a sixth of the size; H and W at least `MIN_SIZE`.

    A subclass replaces `conv2` (16 channels, stride 2, no padding) and `coarse` (16 channels at the small size).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, HIDDEN, 1)
        self.conv_f = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.conv2: nn.Module = nn.Conv2d(HIDDEN, HIDDEN, 3, stride=2)
        self.conv3: nn.Module = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.conv4 = nn.Conv2d(HIDDEN, channels, 1)

    def coarse(self, x: Tensor) -> Tensor:
        """The small map, Nx16xhxw, before it is enlarged."""
        return self.conv3(x)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)  # Nx16xHxW
        small = self.coarse(functional.max_pool2d(self.conv2(narrow), 7, stride=3))  # Nx16xhxw, h about H / 6
        wide = functional.interpolate(small, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(wide + self.conv_f(narrow)))


def check_options(name: str, scale: int, multi_scale: bool, group: int) -> None:
    """Raises `InputError` where `Net(scale=, multi_scale=, group=)` asks for what the network `name` does not have."""
    if multi_scale or scale not in SCALES:
        raise InputError(f"{name} is a network for one scale: use --scale 2, 3 or 4")
    if group != 1:
        raise InputError(f"{name} has no grouped variant: use --group 1, not {group}")


def check_size(name: str, lr: Tensor) -> None:
    """Raises `InputError` for an LR batch NxCxHxW that is too small for ESA."""
    height, width = lr.shape[-2:]
    if min(height, width) < MIN_SIZE:
        raise InputError(f"{name} needs images of at least {MIN_SIZE}x{MIN_SIZE} pixels, not {width}x{height}")
