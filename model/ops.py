"""What the blocks of `model/cfsrcnn.py` are made of: mean shift, sub-pixel convolution, float32 convolution, fast ReLU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from common import SCALES

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB mean of the DIV2K training images, [0, 1]
BITS_OF_MINUS_INFINITY = -128  # of bfloat16, read as int16; those of NaN with a sign are -127 to -1


def relu_(x: Tensor) -> Tensor:
    """In-place ReLU, any shape. Two equivalent implementations; a test compares them on every bfloat16 value.

    On a CPU PyTorch converts each bfloat16 to float32 and back, which takes longer than the preceding convolution. There
    the bits are compared as integers instead, four times as fast: everything from -0 to minus infinity becomes 0, NaN stays.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return relu(x, inplace=True)
    if x.requires_grad and torch.is_grad_enabled():
        return _BitwiseReLU.apply(x)
    torch.threshold_(x.view(torch.int16), BITS_OF_MINUS_INFINITY, 0)
    return x


class _BitwiseReLU(torch.autograd.Function):
    """The bfloat16 `relu_` with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        torch.threshold_(x.view(torch.int16), BITS_OF_MINUS_INFINITY, 0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        bits = grads[0].view(torch.int16), ctx.saved_tensors[0].view(torch.int16)
        return torch.ops.aten.threshold_backward(*bits, 0).view(torch.bfloat16)


class FP32Conv2d(nn.Conv2d):
    """A convolution that autocast does not touch: it runs in the precision of its weights. For RGB input and output."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class MeanShift(nn.Module):
    """Subtracts (`sub=True`) or adds an RGB mean, NxCxHxW -> NxCxHxW, in the precision of its parameters.

    The parameters are those of the authors' frozen 1x1 convolution, so that weight files keep their keys. Its kernel is the
    identity, so it is computed as an addition, which a GPU does faster; loaded weights with another kernel, such as a
    division by a standard deviation, are applied as the convolution. A test checks that both give the same result.
    """

    def __init__(self, mean_rgb: tuple[float, float, float] = DIV2K_MEAN, sub: bool = True):
        super().__init__()
        self.shifter = FP32Conv2d(3, 3, 1)
        self.shifter.weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1))
        self.shifter.bias = nn.Parameter(torch.tensor(mean_rgb) * (-1.0 if sub else 1.0))
        self.requires_grad_(False)
        self.only_shifts = True
        self.register_load_state_dict_post_hook(_note_kernel)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.shifter.bias
        if bias is None or not self.only_shifts:
            return self.shifter(x)
        return x.to(bias.dtype) + bias.view(1, -1, 1, 1)


def _note_kernel(shift: nn.Module, _incompatible_keys: object) -> None:
    """Notes after loading, once, whether the kernel is the identity: a check at each call would synchronize a GPU."""
    assert isinstance(shift, MeanShift)
    kernel = shift.shifter.weight.detach()[..., 0, 0]
    shift.only_shifts = torch.equal(kernel, torch.eye(3, dtype=kernel.dtype, device=kernel.device))


def nhwc_pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """`nn.PixelShuffle(factor)` of Nx(C*factor^2)xHxW for maps in channels_last, whose result is channels_last too.

    On CUDA PyTorch's own, which has no kernel there, returns NCHW, and all that follows loses the layout.
    """
    n, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).view(n, height, width, channels // factor**2, factor, factor)
    x = x.permute(0, 1, 4, 2, 5, 3)  # N x H x factor x W x factor x C
    return x.reshape(n, height * factor, width * factor, channels // factor**2).permute(0, 3, 1, 2)


class PixelShuffle(nn.PixelShuffle):
    """`nn.PixelShuffle` that keeps channels_last on CUDA. Two equivalent implementations; a test compares them."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda" and x.is_contiguous(memory_format=torch.channels_last):
            return nhwc_pixel_shuffle(x, self.upscale_factor)
        return super().forward(x)


class _SubPixel(nn.Module):
    """Sub-pixel convolution for one scale: one convolution and pixel shuffle for x2 and x3, two x2 steps for x4."""

    def __init__(self, channels: int, scale: int, group: int):
        super().__init__()
        step = 3 if scale == 3 else 2
        self.body = nn.Sequential()
        for _ in range(round(math.log(scale, step))):
            self.body.append(nn.Conv2d(channels, step * step * channels, 3, padding=1, groups=group))
            self.body.append(PixelShuffle(step))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward_sum(self, a: Tensor, b: Tensor) -> Tensor:
        x = a + b
        for layer in self.body:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                x = nn.functional.conv2d(x, layer.weight, 2 * layer.bias, padding=1, groups=layer.groups)
            else:
                x = layer(x)
        return x


class UpsampleBlock(nn.Module):
    """The sub-pixel convolution of Figures 1 and 2, NxCxHxW -> NxCx(scale*H)x(scale*W), without activations.

    With `multi_scale=True` it holds one per scale, and `forward` takes the scale of the batch: 2, 3 or 4.
    """

    def __init__(self, n_channels: int, scale: int = 0, multi_scale: bool = False, group: int = 1):
        super().__init__()
        self.scale, self.multi_scale = scale, multi_scale
        if multi_scale:
            self.up2, self.up3, self.up4 = (_SubPixel(n_channels, each, group) for each in SCALES)
        else:
            self.up = _SubPixel(n_channels, scale, group)

    def _at(self, scale: int | None) -> _SubPixel:
        if not self.multi_scale:
            if scale not in (None, self.scale):
                raise ValueError(f"this network is for scale {self.scale}, not {scale}")
            return self.up
        if scale not in SCALES:
            raise ValueError(f"a multi-scale network needs a scale of 2, 3 or 4, not {scale}")
        return getattr(self, f"up{scale}")

    def forward(self, x: Tensor, scale: int | None = None) -> Tensor:
        return self._at(scale)(x)

    def forward_sum(self, a: Tensor, b: Tensor, scale: int | None = None) -> Tensor:
        """`self(a) + self(b)` in one pass. The upsampler is affine, so this is its linear part on a + b with doubled biases."""
        return self._at(scale).forward_sum(a, b)
