"""Weight initialization. With PyTorch's default, which the authors use, the signal vanishes along the 17 FEBs of CFSRCNN.

The other two train far faster.
"""

from __future__ import annotations

import torch
from torch import nn

from common.errors import InputError
from model.cfsrcnn import CFSRCNN
from model.ops import UpsampleBlock

INITS = ("default", "kaiming", "identity")
KAIMING_GAIN = 0.7  # times Kaiming's standard deviation sqrt(2 / fan_in)
NOISE = 0.3  # fraction of the Kaiming weights added to an identity


def parse_init(text: str) -> str:
    """--init: a member of `INITS`. "he", the former name of "kaiming", is still accepted."""
    return {"he": "kaiming"}.get(text, text)


def init_weights(net: nn.Module, how: str) -> None:
    """Initializes the weights of `net` in place from PyTorch's global random generator.

    "default": PyTorch's own, as in the authors' code. "kaiming": Kaiming normal convolution weights times 0.7, same biases.
    "identity" (CFSRCNN only): "kaiming", but the FRB and the last five FEUs of the EB start as the identity plus 0.3 of
    their Kaiming weights. The upsampler starts as pixel repetition in the same way, with zero bias. Mean shifts stay unchanged.
    """
    if how == "default":
        return
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data.mul_(KAIMING_GAIN)
    if how == "identity":
        if not isinstance(net, CFSRCNN):
            raise InputError("--init identity is made for cfsrcnn: use --init kaiming with other models")
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
