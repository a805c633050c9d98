"""The losses and gradient norms of the steps between two lines of the log: read from the device, checked, averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import InputError
from training.distributed import DistributedContext

MAX_CONSECUTIVE_SKIPS = 10  # consecutive steps without finite gradients before a run is aborted


class IntervalLosses:
    """Loss and gradient norm of each step since the last line of the log, the means over all processes.

    Those of the latest steps are still on the device, since reading them waits for it.
    """

    def __init__(self, context: DistributedContext):
        self.steps: list[tuple[float, float]] = []
        self.consecutive_skips = 0  # steps without finite gradients up to now
        self._context = context
        self._unread: list[tuple[Tensor, Tensor]] = []

    def append(self, loss: Tensor, norm: Tensor) -> None:
        """Adds a step: this process's loss, and the norm, which is the same in all."""
        self._unread.append((loss, norm))

    def read(self, step: int, others: list[float], advice: str) -> list[float]:
        """Waits for the device and for the other processes: `step` is done. Returns the sums of `others` over all processes.

        `InputError` after more than `MAX_CONSECUTIVE_SKIPS` steps without finite gradients, which ends with `advice`.
        """
        losses = [loss.float() / self._context.world_size for loss, _ in self._unread]
        norms = torch.stack([norm for _, norm in self._unread]).tolist() if self._unread else []  # one read for all
        own = torch.tensor(others, device=self._context.device).unbind()
        sums = self._context.all_reduce(torch.stack([*losses, *own])).tolist()
        first, self._unread = step - len(norms) + 1, []
        for number, (loss, norm) in enumerate(zip(sums, norms, strict=False), first):
            self.steps.append((loss, norm))
            self.consecutive_skips = 0 if math.isfinite(norm) else self.consecutive_skips + 1
            if self.consecutive_skips > MAX_CONSECUTIVE_SKIPS:
                raise InputError(
                    f"the loss is {loss:.4g} and the gradient norm {norm:.4g} at step {number}, the "
                    f"{self.consecutive_skips}th in a row that is not finite: {advice}"
                )
        return sums[len(norms) :]

    def summarize(self) -> dict[str, float | None]:
        """The means over the steps with finite gradients, "loss" and "grad_norm" (None without any); "skipped": the others."""
        finite = [(loss, norm) for loss, norm in self.steps if math.isfinite(norm)]
        loss, norm = (sum(each) / len(finite) for each in zip(*finite, strict=True)) if finite else (None, None)
        skipped = len(self.steps) - len(finite)
        return {"loss": loss, "grad_norm": norm, **({"skipped": skipped} if skipped else {})}
