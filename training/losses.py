"""The loss of a batch as one module: DistributedDataParallel and `torch.compile` see the network and the loss together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import InputError

LOSSES = {"MSE": nn.MSELoss, "L1": nn.L1Loss, "SmoothL1": nn.SmoothL1Loss}


class BatchLoss(nn.Module):
    """The network and the loss `LOSSES[loss_fn]`: `forward(lr, scale, hr)` is the loss of a batch, a float32 scalar.

    The paper trains with "MSE" (docs/paper_map.md, "loss").
    `name`: the network's, for errors. `precision`: "bf16" runs the network under autocast; the loss is always in float32.
    """

    def __init__(self, net: nn.Module, name: str, loss_fn: str, precision: str):
        super().__init__()
        self.net, self.name, self.loss_fn = net, name, LOSSES[loss_fn]()
        self.is_bf16 = precision == "bf16"

    def forward(self, lr: Tensor, scale: int, hr: Tensor) -> Tensor:
        """`lr`: N x 3 x H x W; `hr`: N x 3 x sH x sW; both in [0, 1]. `InputError` if the network's output is not like `hr`."""
        with torch.autocast(lr.device.type, torch.bfloat16, enabled=self.is_bf16):
            sr = self.net(lr, scale)
        if sr.shape != hr.shape:
            raise InputError(
                f"model/{self.name}.py made {tuple(sr.shape)} of {tuple(lr.shape)} at scale {scale}, not {tuple(hr.shape)}"
            )
        return self.loss_fn(sr.float(), hr)
