"""BSRN, a small network with well-trained public weights: a teacher for distillation and a peer in the tables.

Not part of the paper. Li et al., "Blueprint Separable Residual Network for Efficient Image Super-Resolution", CVPR Workshops
2022. Parameter names are those of the published weights, which load as they are; docs/training.md says where to get them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from model import esa

CHANNELS = 64
DISTILLED = CHANNELS // 2
BLOCKS = 8
RGB_COPIES = 4  # of the input, along the channels


class BSConv(nn.Module):
    """Blueprint separable convolution: 1x1 (`pw`, no bias), then 3x3 depthwise (`dw`)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, padding: int = 1):
        super().__init__()
        self.pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.dw = nn.Conv2d(outputs, outputs, 3, stride, padding, groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.dw(self.pw(x))


class ESA(esa.ESA):
    """ESA of blueprint separable convolutions, three of them with GELU at the small size."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.conv2 = BSConv(esa.HIDDEN, esa.HIDDEN, stride=2, padding=0)
        self.conv_max = BSConv(esa.HIDDEN, esa.HIDDEN)
        self.conv3 = BSConv(esa.HIDDEN, esa.HIDDEN)
        self.conv3_ = BSConv(esa.HIDDEN, esa.HIDDEN)

    def coarse(self, x: Tensor) -> Tensor:
        """The small map, Nx16xhxw, before it is enlarged."""
        return self.conv3_(gelu(self.conv3(gelu(self.conv_max(x)))))


class CCA(nn.Module):
    """Contrast-aware channel attention: NxCxHxW times a factor per channel, from its standard deviation plus its mean.

    Both are taken over the whole image: no receptive field is large enough to compute it in tiles.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)  # Nx64x1x1
        return x * self.conv_du(variance.sqrt() + mean)


class ESDB(nn.Module):
    """Efficient separable distillation block: four stages that each set channels aside, then ESA, CCA and a skip."""

    def __init__(self) -> None:
        super().__init__()
        for stage in (1, 2, 3):
            self.add_module(f"c{stage}_d", nn.Conv2d(CHANNELS, DISTILLED, 1))
            self.add_module(f"c{stage}_r", BSConv(CHANNELS, CHANNELS))
        self.c4 = BSConv(CHANNELS, DISTILLED)
        self.c5 = nn.Conv2d(4 * DISTILLED, CHANNELS, 1)
        self.esa = ESA(CHANNELS)
        self.cca = CCA(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        rest, distilled = x, []
        for stage in (1, 2, 3):
            distilled.append(gelu(getattr(self, f"c{stage}_d")(rest)))  # Nx32xHxW
            rest = gelu(getattr(self, f"c{stage}_r")(rest) + rest)
        distilled.append(gelu(self.c4(rest)))
        return self.cca(self.esa(self.c5(torch.cat(distilled, 1)))) + x


class BSRN(nn.Module):
    """LR batch Nx3xHxW, RGB in [0, 1] -> SR batch Nx3x(scale*H)x(scale*W), about [0, 1], not clamped.

    331,628, 340,283 and 352,400 parameters at x2, x3 and x4; weights are published for all three. `forward` raises
    `InputError` for images under 15x15 pixels, the constructor for several scales in one network and for groups.
    """

    def __init__(self, scale: int = 2, multi_scale: bool = False, group: int = 1):
        super().__init__()
        esa.check_options("bsrn", scale, multi_scale, group)
        self.fea_conv = BSConv(3 * RGB_COPIES, CHANNELS)
        for number in range(1, BLOCKS + 1):
            self.add_module(f"B{number}", ESDB())
        self.c1 = nn.Conv2d(BLOCKS * CHANNELS, CHANNELS, 1)
        self.c2 = BSConv(CHANNELS, CHANNELS)
        self.upsampler = nn.ModuleDict(
            {"upsampleOneStep": nn.Sequential(nn.Conv2d(CHANNELS, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))}
        )

    def check_input(self, lr: Tensor) -> None:
        """Raises `InputError` for a batch NxCxHxW under 15x15 pixels."""
        esa.check_size("bsrn", lr)

    def forward(self, lr: Tensor, scale: int | None = None) -> Tensor:
        self.check_input(lr)
        shallow = self.fea_conv(lr.repeat(1, RGB_COPIES, 1, 1))  # Nx12xHxW -> Nx64xHxW
        features, deep = [], shallow
        for number in range(1, BLOCKS + 1):
            deep = getattr(self, f"B{number}")(deep)
            features.append(deep)
        deep = self.c2(gelu(self.c1(torch.cat(features, 1)))) + shallow  # Nx512xHxW -> Nx64xHxW
        return self.upsampler["upsampleOneStep"](deep)


Net = BSRN  # the name by which `--model bsrn` finds it
