"""Initial weights. The paper's default lets the signal vanish along the 17 FEBs; the others train far faster."""

from __future__ import annotations

import torch
from torch import nn

from common.errors import InputError
from model.cfsrcnn import CFSRCNN
from model.ops import UpsampleBlock

INITS = ("default", "he", "identity")
HE_GAIN = 0.7  # of He's standard deviation sqrt(2 / fan in)
NOISE = 0.3  # of the He weights on top of an identity


def initialise(net: nn.Module, how: str) -> None:
    """Sets the weights of `net` in place from PyTorch's global random stream.

    "default": PyTorch's own, as the authors. "he": convolution weights He normal times 0.7, biases as they are.
    "identity" (CFSRCNN only): "he", but the FRB and the last five FEUs of the EB pass their input on plus 0.3 of their He
    weights, and the upsampler repeats it into the sub-pixels likewise, with zero bias. Mean shifts stay as they are.
    """
    if how == "default":
        return
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data.mul_(HE_GAIN)
    if how == "identity":
        if not isinstance(net, CFSRCNN):
            raise InputError("--init identity is made for cfsrcnn: use --init he with other models")
        for conv in (*net.eb.feus[1:], *net.frb.feus, net.frb.conv):
            _add_identity(conv, repeat=1)
        for module in net.modules():
            if isinstance(module, UpsampleBlock):
                for conv in (each for each in module.modules() if isinstance(each, nn.Conv2d)):
                    _add_identity(conv, repeat=conv.out_channels // conv.in_channels)
                    if conv.bias is not None:
                        conv.bias.data.zero_()


def _add_identity(conv: nn.Conv2d, repeat: int) -> None:
    identity = torch.zeros_like(conv.weight)
    for out in range(conv.out_channels):
        identity[out, out // repeat, 1, 1] = 1
    conv.weight.data.mul_(NOISE).add_(identity)
