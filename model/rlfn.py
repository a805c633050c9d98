"""RLFN, a small network with well-trained public weights: a teacher for distillation and a peer in the tables.

Not part of the paper. Kong et al., "Residual Local Feature Network for Efficient Super-Resolution", CVPR Workshops 2022.
Parameter names are those of the published weights, which load as they are; docs/training.md says where to get them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from model.esa import ESA, check_options, check_size

CHANNELS = 52
BLOCKS = 6
SLOPE = 0.05  # of LeakyReLU


class RLFB(nn.Module):
    """Residual local feature block: three 3x3 convolutions with LeakyReLU, a skip, a 1x1 convolution and ESA."""

    def __init__(self) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.c2_r = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.c3_r = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.c5 = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.esa = ESA(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            out = functional.leaky_relu(conv(out), SLOPE)
        return self.esa(self.c5(out + x))


class RLFN(nn.Module):
    """LR batch Nx3xHxW, RGB in [0, 1] -> SR batch Nx3x(scale*H)x(scale*W), about [0, 1], not clamped.

    526,856 parameters at x2, 543,740 at x4; weights are published for these two scales. `forward` raises `InputError` for
    images under 15x15 pixels, the constructor for several scales in one network and for groups.
    """

    def __init__(self, scale: int = 2, multi_scale: bool = False, group: int = 1):
        super().__init__()
        check_options("rlfn", scale, multi_scale, group)
        self.conv_1 = nn.Conv2d(3, CHANNELS, 3, padding=1)
        for number in range(1, BLOCKS + 1):
            self.add_module(f"block_{number}", RLFB())
        self.conv_2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(CHANNELS, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def check_input(self, lr: Tensor) -> None:
        """Raises `InputError` for a batch NxCxHxW under 15x15 pixels."""
        check_size("rlfn", lr)

    def forward(self, lr: Tensor, scale: int | None = None) -> Tensor:
        self.check_input(lr)
        shallow = self.conv_1(lr * 255)  # computes in 0..255
        deep = shallow
        for number in range(1, BLOCKS + 1):
            deep = getattr(self, f"block_{number}")(deep)
        return self.upsampler(self.conv_2(deep) + shallow) / 255


Net = RLFN  # the name by which `--model rlfn` finds it
