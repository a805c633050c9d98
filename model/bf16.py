"""The same network with weights that bfloat16 holds: what rounding them would do to the picture's brightness is undone.

bfloat16 has 8 bits, and weights near 1, which pass the picture on, lie up to 0.4 % off. Rounded as they are, Set5 loses
0.04 dB at x2: a tenth of a level of brightness, which the paper's truncation to 8 bits makes count. Runs nothing itself.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.cfsrcnn import CFSRCNN
from model.ops import FP32Conv2d


def fitted_to_bf16(net: nn.Module) -> nn.Module:
    """A copy of `net` whose convolutions have bfloat16 values in their float32 weights; the function stays, but for that.

    The network's RGB inputs and outputs stay in float32 under autocast. Biases stay as they are.
    """
    net = copy.deepcopy(net)
    if isinstance(net, CFSRCNN):
        _rescale([*net.frb.feus, net.frb.conv])
    for parent in list(net.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, FP32Conv2d) or not isinstance(conv, nn.Conv2d):
                continue
            if conv.in_channels == 3:
                setattr(parent, name, _OnRGB(conv))
            else:
                conv.weight.data = rounded(conv.weight.data)
    return net


@torch.no_grad()
def calibrate(fitted: nn.Module, net: nn.Module, scale: int) -> None:
    """Shifts what `fitted` adds last, in place, so that a picture of random colours gets the brightness it has from `net`.

    Rounded maps cost each channel some hundredths of a level, much the same for any picture. `scale`: 2, 3 or 4.
    Only CFSRCNN is changed, and networks of others stay as they are.
    """
    if not (isinstance(fitted, CFSRCNN) and isinstance(net, CFSRCNN)):
        return
    shift = fitted.add_mean.shifter.bias
    assert shift is not None
    colours = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)).to(shift.device)
    lr = nn.functional.interpolate(colours, size=(96, 96), mode="bicubic").clamp(0, 1)
    lr = lr.contiguous(memory_format=torch.channels_last)
    with torch.autocast(shift.device.type, torch.bfloat16):
        rounded_sr = fitted(lr, scale).float()
    shift += (net(lr, scale) - rounded_sr).mean((0, 2, 3))


def rounded(weight: Tensor) -> Tensor:
    """Kernels OxIxKxK -> the same as bfloat16 values, of nearly the same sum each: what a value loses, a smaller one gets.

    So flat areas, which show a sum that is off as brightness, keep theirs.
    """
    taps, order = weight.flatten(2).abs().sort(-1, descending=True)
    taps = weight.flatten(2).gather(-1, order)
    lost = torch.zeros_like(taps[..., 0])
    for tap in taps.unbind(-1):  # the largest first; each is a view
        wanted = tap + lost
        tap.copy_(wanted.bfloat16())
        lost = wanted - tap
    return torch.empty_like(taps).scatter(-1, order, taps).view_as(weight)


def _rescale(chain: list[nn.Conv2d]) -> None:
    """Makes the largest weight of each filter a bfloat16 value, by a factor for its channel that the next layer takes back.

    For layers without bias that follow one another with ReLU between them, which lets positive factors through.
    """
    for conv, following in pairwise(chain):
        filters = conv.weight.data.flatten(1)
        largest = filters.gather(1, filters.abs().argmax(1, keepdim=True)).view(-1, 1, 1, 1)
        factor = torch.where(largest == 0, 1, largest.bfloat16() / largest)
        conv.weight.data = conv.weight.data * factor
        following.weight.data = following.weight.data / factor.view(1, -1, 1, 1)


class _OnRGB(nn.Module):
    """A convolution that autocast leaves in the precision of its weights, and whose output has autocast's."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        with torch.autocast(kind, enabled=False):
            y = self.conv(x.to(self.conv.weight.dtype))
        return y.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else y
