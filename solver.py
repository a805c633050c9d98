"""The training loop: patches -> network -> loss -> weights, with validation, logs and checkpoints. Parses no flags.

Change the loss in `training/losses.py`, the schedule in `training/schedule.py`, data in `dataset/`, the network in `model/`.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common import SCALES
from common.device import compile_module, fixed_shapes, is_out_of_memory, tf32_convolutions, translate_compile_errors
from common.errors import InputError
from common.files import make_dir
from common.progress import print_above, progress
from dataset.patches import Batch
from model import create_model
from model.checkpoint import load_compatible_weights, save_state_dict
from model.init import init_weights
from training.config import TrainConfig, check_machine
from training.cuda_graph import GraphedUpdate
from training.data import build_sampler, load_images, start_line
from training.distributed import DistributedContext
from training.intervals import IntervalLosses
from training.log import TrainingLog, Values, summary_line
from training.losses import BatchLoss
from training.memory import explain_out_of_memory, resolve_micro_batches
from training.muon import MuonWithAuxAdam
from training.nonfinite import BufferSnapshot, propagate_nonfinite, step_if_finite, update_ema
from training.run_record import RunRecord
from training.schedule import Clock, learning_rate
from training.state import TrainingState
from training.stopping import StopRequestedError, StopSignals
from training.trial import try_network
from training.validation import Validation

OPTIMIZERS = {"adam": torch.optim.Adam, "muon": MuonWithAuxAdam}


class Solver:
    """Trains `args.model` with the flags of `train.py`; `fit()` runs until `args.max_steps` or `args.max_minutes`.

    Raises `InputError` for flags, data or checkpoints that do not fit together, before anything is written.
    """

    def __init__(self, args: TrainConfig, context: DistributedContext):
        self.args, self.context = args, context
        self.device = self.context.device
        check_machine(args, context)
        self.scales = SCALES if args.scale == 0 else (args.scale,)
        self.folder, self.seconds = Path(args.ckpt_dir), 0.0
        self.step = self._saved_step = 0
        self.clock, self.lr = Clock(args.max_minutes, args.max_steps), 0.0
        self.state = TrainingState(args)
        saved = self.state.find()
        if args.resume and not saved:
            self.context.print(self.state.describe_absence())

        torch.manual_seed(args.seed)
        net = create_model(args.model, args.scale, multi_scale=args.scale == 0, group=args.group)
        init_weights(net, args.init)
        if args.pretrained and not saved:
            self.context.print(load_compatible_weights(net, args.pretrained))
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.batch_loss = BatchLoss(self.net, args.model, args.loss_fn, args.precision)
        self._replica = self.context.wrap_ddp(self.batch_loss, multi_scale=args.scale == 0)
        self._loss = compile_module(self._replica, mode=args.compile_mode) if args.compile else self._replica
        self.ema_net = copy.deepcopy(self.net).requires_grad_(False) if args.ema else None
        self.parameters = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.fused = self.device.type in ("cpu", "cuda")
        self.optimizer = OPTIMIZERS[args.optimizer](self.parameters, args.lr, fused=self.fused)
        if args.compile and isinstance(self.optimizer, MuonWithAuxAdam):
            self.optimizer.compile_update(args.compile_mode)
        self._update = GraphedUpdate(self._update_eagerly, self.optimizer) if args.cuda_graph else self._update_eagerly
        images, preload = load_images(args, context, self.scales)
        self.image_count = len(images)
        self.context.print(start_line(args, context, self.net, images, preload))
        self.stop = StopSignals()
        self.validation = Validation(args.val_data_dir, self.scales, context, self.stop)
        self.sampler = build_sampler(args, context, images, preload)  # --hard_crops may take minutes
        if args.model != "cfsrcnn":  # our own takes any size
            try_network(args.model, self.net, self.device, args.patch_size, self.scales, self.validation.test_sets)
        self.losses = IntervalLosses(context)
        self.args = resolve_micro_batches(replace(args, preload=preload), context, self.batch_loss)
        if saved:
            self._restore(saved)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Trains until `max_steps` or `max_minutes`.

        After SIGTERM, Ctrl-C or SIGHUP the state is saved and the process exits with 143, 130 or 129.
        """
        with self.stop:  # before all first agree, and to the end: a launcher asks again once another process has ended
            args, main = self.args, self.context.is_main_process
            self.clock.start(self.step, self.clock.elapsed())
            self._sync(stepping=False)  # the main process's time counts for all, from the first step on
            with self.context.fail_together():
                if main:
                    record = RunRecord(make_dir(self.folder) / f"{args.ckpt_name}.json")
                    unfinished = bool(self.losses.steps) and self._at_interval()  # its line is written anew
                    self._log = TrainingLog(self.folder, args.ckpt_name, self.step - unfinished, print_above)
            self._bar = progress(None, args.max_steps, args.ckpt_name, "step", initial=self.step, hide=not main)
            try:
                with self.context.fail_together():
                    if main:
                        record.add(self.state.args, args, self.context, self.step, self.image_count)
                with tf32_convolutions(args.tf32):
                    self._loop()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise explain_out_of_memory(self.args, self.context, self.step + 1) from None
            finally:
                self._bar.close()
                gaps = self._log.close() if main else ""
            if self.stop.agreed:
                saved = self.state.describe_saved(self._saved_step)
                self.context.print(f"stopped at step {self.step}: {saved}{gaps and f'; {gaps}'}", sys.stderr)
                sys.exit(128 + self.stop.agreed)
            if main and not self._weights_path().exists():  # resumed past --max_steps
                self._save_weights()
            why = ", the end of --max_minutes" if self.clock.is_over(self.step) and self.step < args.max_steps else ""
            self.context.print(f"trained to step {self.step}{why}: {self._weights_path()}")
            if gaps:
                raise InputError(f"the training is complete, but not its log: {gaps}")

    def _loop(self) -> None:
        """Runs steps until the last one, or until all processes agree to stop."""
        if self.losses.steps and self._at_interval():  # the run was stopped during validation
            self._finish_interval(rate=None)
        since, images_done = time.perf_counter(), 0
        while self.step < self.args.max_steps and not self.clock.is_over(self.step) and not self.stop.agreed:
            self.losses.append(*self.train_step())
            images_done += self.args.batch_size
            self._bar.update()
            asked = self.stop.received and self.context.world_size == 1  # several must first agree on the step
            if self._at_interval() or asked or self.clock.is_due(self.step):
                self._sync()
                rate = images_done / (time.perf_counter() - since)
                loss = self.losses.steps[-1][0]
                self._bar.set_postfix_str(f"loss {loss:.5f}, lr {self.lr:.1e}, {rate:.0f} images/s", refresh=False)
            if self._at_interval():
                self.seconds += time.perf_counter() - since
                self._finish_interval(rate)
                self._sync(stepping=False)
                since, images_done = time.perf_counter(), 0
        if self.stop.agreed and self.step:
            self.seconds += time.perf_counter() - since
            self._save_latest()

    def _at_interval(self) -> bool:
        last = self.step == self.args.max_steps or self.clock.is_over(self.step)
        return last or self.step % self.args.print_interval == 0

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One step on one batch; returns the loss and the gradient norm before clipping, on the device.

        A step whose norm is not finite changes nothing: see `training/nonfinite.py`.
        """
        batch = next(self.sampler)
        self.lr = learning_rate(self.step, self.args, self.clock.schedule_step(self.step))
        decay = min(self.args.ema, (1 + self.step) / (10 + self.step))
        with fixed_shapes(self.device), translate_compile_errors():
            loss, norm = self._update(batch, self.lr, 1 - decay)
        self.step += 1
        return loss, norm

    def _update_eagerly(self, batch: Batch, lr: float | Tensor, ema_weight: float | Tensor) -> tuple[Tensor, Tensor]:
        """Gradients, clipping, weights and EMA: all of a step that runs on the device. Never waits for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        buffers = BufferSnapshot(self.net)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.args.clip if self.args.clip > 0 else math.inf)
        is_finite = norm.isfinite()
        step_if_finite(self.optimizer, is_finite, self.fused)
        buffers.restore_unless(is_finite)
        if self.ema_net is not None:
            update_ema(self.ema_net, self.net, ema_weight, is_finite)
        return loss, norm

    def _backward(self, batch: Batch) -> Tensor:
        """Computes the gradients of the batch's loss in `--accumulate` micro-batches; returns the loss."""
        args, total = self.args, torch.zeros((), device=self.device)
        size = math.ceil(len(batch.lr) / args.accumulate)
        parts = list(zip(batch.lr.split(size), batch.hr.split(size), strict=True))
        for number, (lr, hr) in enumerate(parts, 1):
            with self.context.grad_sync(self._replica, now=number == len(parts)):
                fraction = len(lr) / args.batch_size  # DDP's mean over the processes is then the batch's
                loss = self._loss(lr, batch.scale, hr) * fraction * self.context.world_size
                propagate_nonfinite(loss).backward()
            total += loss.detach()
        return total

    # --- once per interval ----------------------------------------------------------------------------------------------

    def _finish_interval(self, rate: float | None) -> None:
        """Saves, then measures and logs, so that no failure of these costs a step; the saved state says what is left to do."""
        # if the last steps were skipped, the weights may be the cause and must not overwrite good ones
        healthy = not self.losses.consecutive_skips
        net = self.ema_net or self.net
        if healthy and (refusal := self.validation.find_overflow(net, self.args.patch_size)):
            raise InputError(
                f"step {self.step} cannot be validated ({refusal}): {self.state.last_good()}; if the weights grow "
                f"without bound, {self.args.divergence_advice()}"
            )
        with self.context.fail_together():
            if self.context.is_main_process and (healthy or self.step == self.args.max_steps):
                self._save_weights()
            self._save_latest()
        values: Values = {**self.losses.summarize(), "lr": self.lr, "seconds": round(self.seconds, 1)}
        if rate is not None:
            values["images_per_second"] = round(rate, 2)
        if self.validation.test_sets and healthy:
            self._bar.set_description_str(f"{self.args.ckpt_name}, measuring")
            try:
                values["validation"], values["bicubic"] = self.validation.measure(net), self.validation.bicubic
            except StopRequestedError:  # validated again after --resume
                return
            except InputError as error:
                values["validation_error"] = str(error)
            self._bar.set_description_str(self.args.ckpt_name)
        self.losses.steps = []
        if rate is not None:
            values["seconds_left"] = self.clock.seconds_left(self.step)
        if self.context.is_main_process:
            self._bar.write(summary_line(self.step, values))
            sys.stdout.flush()  # for anyone following a redirected log
            if "validation" in values:
                self._log.log_image(self.step, self.validation.shown)
            self._log.write(self.step, values)
        self._save_latest()

    def _sync(self, stepping: bool = True) -> None:
        """Reads the losses from the device, and agrees with the other processes on the time and on whether to stop.
        `stepping`: since the last time they trained; a validation takes time, but says nothing on the speed of steps."""
        own = [self.clock.elapsed() if self.context.is_main_process else 0.0, *self.stop.votes()]
        elapsed, *votes = self.losses.read(self.step, own, f"{self.state.last_good()}; {self.args.divergence_advice()}")
        self.clock.agree(self.step, elapsed, stepping)
        self.stop.agree(votes)

    # --- saving and resuming --------------------------------------------------------------------------------------------

    def _weights_path(self) -> Path:
        return self.folder / f"{self.args.ckpt_name}_{self.step}.pth"

    def _save_weights(self) -> None:
        save_state_dict((self.ema_net or self.net).state_dict(), self._weights_path())

    def _save_latest(self) -> None:
        if not self.context.is_main_process or self.losses.consecutive_skips:
            return
        counters = {
            "images": self.image_count,
            "step": self.step,
            "seconds": self.seconds,
            "elapsed": self.clock.elapsed(),
            "lr": self.lr,
            "window": self.losses.steps,
        }
        self.state.save(counters, self.net, self.ema_net, self.optimizer, self.sampler)
        self._saved_step = self.step

    def _restore(self, saved: dict) -> None:
        self.state.restore(saved, self.image_count, self.net, self.ema_net, self.optimizer, self.sampler)
        self.step, self.seconds, self.lr = saved["step"], saved["seconds"], saved["lr"]
        self.clock.start(self.step, saved["elapsed"])
        self._saved_step, self.losses.steps = self.step, saved["window"]
        self.context.print(f"resumed {self.state.path} at step {self.step}{self.state.describe_changes(saved)}")
