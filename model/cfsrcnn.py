"""CFSRCNN in the order of the paper's Figures 1 (blocks) and 2 (layers): stacked FEBs, EB, CB, FRB.

Tian et al., "Coarse-to-Fine CNN for Image Super-Resolution", IEEE TMM 23 (2021). 46 layers (47 at x4), 64 channels, no bias
outside the sub-pixel convolutions. `docs/paper_map.md` maps each box to the code and lists where figures and code differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common import SCALES
from common.errors import InputError
from model.ops import FP32Conv2d, MeanShift, UpsampleBlock, relu_

CHANNELS = 64
FEBS = 17


class FEU(nn.Conv2d):
    """Feature extraction unit, a blue box in Figure 1: a 3x3 convolution to 64 channels. The block around it has the ReLU."""

    def __init__(self, channels: int = CHANNELS):
        super().__init__(channels, CHANNELS, 3, padding=1, bias=False)


class CU(nn.Conv2d):
    """Compression unit, an olive box in Figure 1: a 1x1 convolution to 64 channels and a ReLU."""

    def __init__(self, channels: int):
        super().__init__(channels, CHANNELS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return relu_(super().forward(x))


class FEB(nn.Module):
    """Feature extraction block k, a green box in Figure 1: FEU, concatenation with the previous FEU's output, ReLU, CU.

    The first (k = 1) has no previous FEU, the last (k = 17) no CU. Returns the next block's input, the rectified FEU output,
    and for the EB the sum of the FEU outputs so far, of which only the first is rectified.

    The ReLU is applied before the concatenation, which is equivalent: each FEU output is rectified once instead of twice.
    """

    def __init__(self, k: int):
        super().__init__()
        self.feu = FEU(3 if k == 1 else CHANNELS)
        self.cu = nn.Identity() if k == FEBS else CU(CHANNELS if k == 1 else 2 * CHANNELS)

    def forward(self, x: Tensor, previous: Tensor | None, feu_sum: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        feu = self.feu(x)
        if previous is None or feu_sum is None:
            feu = relu_(feu)  # unlike in Figure 2, the sum gets the rectified output of the first FEU
            return self.cu(feu), feu, feu.clone()  # the sum, which grows in place
        feu_sum += feu
        feu = relu_(feu)
        return self.cu(torch.cat([previous, feu], 1)), feu, feu_sum  # cat: Nx128xHxW


class EB(nn.Module):
    """Enhancement block (Figures 1 and 2, right): FEU, plus the sum of all 17 FEU outputs, ReLU; five FEUs, each with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.feus = nn.ModuleList([FEU(2 * CHANNELS)] + [FEU() for _ in range(5)])

    def forward(self, x: Tensor, feu_sum: Tensor) -> Tensor:
        x = relu_(self.feus[0](x) + feu_sum)
        for feu in self.feus[1:]:
            x = relu_(feu(x))
        return x


class CB(nn.Module):
    """Construction block, purple in Figures 1 and 2: one shared sub-pixel upsampler for two inputs, their sum, and a ReLU.

    The inputs are the outputs of the EB and of the first FEU. The figures do not show the ReLU.
    Computed by `upsample.forward_sum`, in one pass instead of two (7% fewer MACs at x2, 14% at x4). `merge = False`
    selects the reference computation of Figure 2; a test checks that both give the same result.
    """

    merge = True

    def __init__(self, scale: int, multi_scale: bool):
        super().__init__()
        self.upsample = UpsampleBlock(CHANNELS, scale, multi_scale)

    def forward(self, deep: Tensor, first: Tensor, scale: int | None) -> Tensor:
        if self.merge:
            return relu_(self.upsample.forward_sum(deep, first, scale))
        return relu_(self.upsample(deep, scale) + self.upsample(first, scale))


class FRB(nn.Module):
    """Feature refinement block (Figures 1 and 2, lower left), at SR size: five FEUs, each with ReLU; 3x3 convolution to RGB."""

    def __init__(self) -> None:
        super().__init__()
        self.feus = nn.ModuleList([FEU() for _ in range(5)])
        self.conv = FP32Conv2d(CHANNELS, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for feu in self.feus:
            x = relu_(feu(x))
        return self.conv(x)


class CFSRCNN(nn.Module):
    """LR batch Nx3xHxW, RGB in [0, 1] -> SR batch Nx3x(scale*H)x(scale*W), about [0, 1], not clamped.

    `scale` is 2, 3 or 4; with `multi_scale=True` one network serves all three and `forward` takes the scale.
    Raises `InputError` for other scales and for `group` other than 1, which the paper does not have.
    """

    def __init__(self, scale: int = 2, multi_scale: bool = False, group: int = 1):
        super().__init__()
        if group != 1:
            raise InputError(
                f"cfsrcnn has no grouped convolutions: --group {group} must be 1 (other models may differ)"
            )
        if not multi_scale and scale not in SCALES:
            raise InputError(f"cfsrcnn knows the scales 2, 3 and 4 (0: all three in one network), not {scale}")
        self.sub_mean = MeanShift(sub=True)
        self.febs = nn.ModuleList([FEB(k) for k in range(1, FEBS + 1)])
        self.eb = EB()
        self.cb = CB(scale, multi_scale)
        self.frb = FRB()
        self.add_mean = MeanShift(sub=False)

    def forward(self, lr: Tensor, scale: int | None = None) -> Tensor:
        return self.refine(*self.extract(lr), scale)

    def extract(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """The part at LR size: the stacked FEBs and the EB. Returns the outputs of the EB and of the first FEU."""
        x, first, feu_sum = self.febs[0](self.sub_mean(lr), None, None)
        feu = first
        for feb in self.febs[1:]:
            x, feu, feu_sum = feb(x, feu, feu_sum)
        return self.eb(x, feu_sum), first

    def refine(self, deep: Tensor, first: Tensor, scale: int | None = None) -> Tensor:
        """The part from LR to SR size: the CB and the FRB."""
        return self.add_mean(self.frb(self.cb(deep, first, scale)))


Net = CFSRCNN  # `--model cfsrcnn` looks for this name
