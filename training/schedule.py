"""The learning rate of each step, and how far a run has come: by its steps or, with `--max_minutes`, by the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from common.errors import InputError
from training.config import TrainConfig

AGREE_SECONDS, MAX_AGREE_STEPS = 2.0, 50  # between two agreements of the processes, each of which waits for the GPU

SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {  # fraction of --lr at step 0, 1, ...
    "step": lambda step, args: 0.5 ** (step // args.decay),  # the paper's: halved every `decay` steps
    "cosine": lambda step, args: (1 + math.cos(math.pi * min(1.0, step / args.max_steps))) / 2,
}


def learning_rate(step: int, args: TrainConfig, schedule_step: float | None = None) -> float:
    """The learning rate of step 0, 1, ...: the schedule of `args.lr_schedule` after a linear warm-up.

    `schedule_step`: where the schedule is, if the clock drives it (`Clock.schedule_step`); the warm-up counts real steps.
    """
    warm = min(1.0, (step + 1) / args.warmup) if args.warmup else 1.0
    return warm * args.lr * SCHEDULES[args.lr_schedule](step if schedule_step is None else schedule_step, args)


class Clock:
    """The wall time of a run, validation included, against `--max_minutes`; `minutes` None: the run has no time limit.

    Several processes must take the same learning rates and stop at the same step. So only times that all of them have
    agreed on count (`agree`), and between two agreements the time is extrapolated by the steps taken.
    """

    def __init__(self, minutes: float | None, max_steps: int):
        self.limit, self._max_steps = (None if minutes is None else 60 * minutes), max_steps
        self._agreed = self._before = self._seconds_per_step = 0.0
        self._step = 0
        self._started = time.perf_counter()
        self._mark = 0, 0.0  # step and time of the last `seconds_left`

    def start(self, step: int, elapsed: float) -> None:
        """Continues at `step` after `elapsed` seconds of earlier processes."""
        self._agreed = self._before = elapsed
        self._step, self._started, self._mark = step, time.perf_counter(), (step, elapsed)

    def elapsed(self) -> float:
        """Seconds so far by this process's own clock."""
        return self._before + time.perf_counter() - self._started

    def agree(self, step: int, elapsed: float, stepping: bool = True) -> None:
        """Sets the agreed time: `elapsed` seconds at `step`. `stepping`: only training steps ran since the last call.

        Raises `InputError` if the time is up at step 0, before anything was trained.
        """
        if stepping and step > self._step:
            self._seconds_per_step = (elapsed - self._agreed) / (step - self._step)
        self._agreed, self._step = elapsed, step
        if self.limit is not None and elapsed >= self.limit and not step:
            minutes = f"--max_minutes {self.limit / 60:g}"
            raise InputError(
                f"{minutes}: the time is up before the first step, the start took {elapsed:.0f} s: allow more"
            )

    def is_due(self, step: int) -> bool:
        """Whether to agree at `step`: about every two seconds by the speed of the steps so far, at least every 50 steps."""
        pace = self._seconds_per_step
        steps = min(MAX_AGREE_STEPS, max(1, int(AGREE_SECONDS / pace))) if pace > 0 else 1
        return step - self._step >= steps

    def schedule_step(self, step: int) -> float | None:
        """Where the schedule is at `step`: the larger of the steps and of the fraction of time times `max_steps`."""
        if self.limit is None:
            return None
        return max(float(step), min(1.0, self._at(step) / self.limit) * self._max_steps)

    def is_over(self, step: int) -> bool:
        """Whether the time is up at `step`."""
        return self.limit is not None and self._at(step) >= self.limit

    def seconds_left(self, step: int) -> int:
        """The time until the last step or the limit, whichever is first, at the speed since the last call, with validation."""
        (last_step, before), now = self._mark, self.elapsed()
        self._mark = step, now
        left = (self._max_steps - step) * (now - before) / max(1, step - last_step)
        return round(left if self.limit is None else max(0.0, min(left, self.limit - now)))

    def _at(self, step: int) -> float:
        return self._agreed + (step - self._step) * self._seconds_per_step
