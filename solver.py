"""The training loop: patches -> network -> loss -> weights, with validation, logs and checkpoints. Parses no flags.

Change the loss in `LOSSES`, the schedule in `training/schedule.py`, the data in `dataset/`, the network in `model/`.
"""

from __future__ import annotations

import copy
import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor, nn

from common import SCALES
from common.device import check_precision, compile_module, fixed_shapes
from common.errors import InputError, stop_signals, summarize_exception
from common.files import make_dir
from common.malloc import tune_malloc
from common.progress import progress
from dataset.benchmark_set import BenchmarkSet
from dataset.patches import Batch
from evaluation.evaluate import evaluate, mean_row
from inference.upscaler import NetworkUpscaler
from model import create_model
from model.checkpoint import load_compatible_weights, save_state_dict
from model.init import init_weights
from training.config import TrainConfig
from training.cuda_graph import GraphedUpdate, check_cuda_graph
from training.data import build_sampler, load_images, open_validation_sets, start_line
from training.distributed import DistributedContext
from training.log import TrainingLog
from training.muon import MuonWithAuxAdam
from training.nonfinite import BufferSnapshot, propagate_nonfinite, step_if_finite, update_ema
from training.schedule import Clock, learning_rate
from training.state import TrainingState, describe_changes
from training.stopping import InterruptibleUpscaler, StopRequestedError
from training.trial import try_network

LOSSES = {"MSE": nn.MSELoss, "L1": nn.L1Loss, "SmoothL1": nn.SmoothL1Loss}
OPTIMIZERS = {"adam": torch.optim.Adam, "muon": MuonWithAuxAdam}
MAX_CONSECUTIVE_SKIPS = 10  # consecutive steps without finite gradients before a run is aborted
LOSS_SYNC_INTERVAL = 50  # steps between reads of the loss on CUDA, each of which synchronizes


class Solver:
    """Trains `args.model` with the flags of `train.py`; `fit()` runs until `args.max_steps` or `args.max_minutes`.

    Raises `InputError` for flags, data or checkpoints that do not fit together, before anything is written.
    """

    def __init__(self, args: TrainConfig, context: DistributedContext):
        self.args, self.context = args, context
        self.device = self.context.device
        if self.device.type == "cpu":
            tune_malloc()
        check_precision(self.device, args.precision)
        if args.cuda_graph:
            check_cuda_graph(self.device, context.world_size, args.scale)
        if args.batch_size < self.context.world_size:
            raise InputError(
                f"--batch_size {args.batch_size} is the whole batch: too small for {self.context.world_size} processes"
            )
        self.scales = SCALES if args.scale == 0 else (args.scale,)
        self.folder, self.step, self.seconds = Path(args.ckpt_dir), 0, 0.0
        self.clock, self.lr = Clock(args.max_minutes, args.max_steps), 0.0
        self.state = TrainingState(args)
        saved = self.state.find()
        if args.resume and not saved:
            self._print_main(f"--resume: there is no {self.state.path} yet, so training starts at step 0")

        torch.manual_seed(args.seed)
        net = create_model(args.model, args.scale, multi_scale=args.scale == 0, group=args.group)
        init_weights(net, args.init)
        if args.pretrained and not saved:
            self._print_main(load_compatible_weights(net, args.pretrained))
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self._replica = self.context.wrap_ddp(self.net, unused=args.scale == 0)
        self._forward = compile_module(self._replica, mode=args.compile_mode) if args.compile else self._replica
        self.ema_net = copy.deepcopy(self.net).requires_grad_(False) if args.ema else None
        self.parameters = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.fused = self.device.type in ("cpu", "cuda")
        self.optimizer = OPTIMIZERS[args.optimizer](self.parameters, args.lr, fused=self.fused)
        self.loss_fn = LOSSES[args.loss_fn]()
        self._update = GraphedUpdate(self._update_eagerly, self.optimizer) if args.cuda_graph else self._update_eagerly
        images, preload = load_images(args, context, self.scales)
        self.image_count = len(images)
        self._print_main(start_line(args, context, self.net, images, preload))
        if args.verbose:
            self._print_main(str(self.net))
        self.sampler = build_sampler(args, context, images, preload)
        self.test_sets = open_validation_sets(args, context, self.scales)
        if args.model != "cfsrcnn":  # our own takes any size
            try_network(args.model, self.net, self.device, args.patch_size, self.scales, self.test_sets)
        self._pending: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms still on the device
        self._interval_losses: list[tuple[float, float]] = []  # loss and norm of each step since the last log line
        self._consecutive_skips = self._saved_step = 0
        self._stop_signal = 0  # the signal that this process received, or 0
        self._stopped_by = 0  # the same, once all processes agree to stop
        if saved:
            self._restore(saved)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Trains until `max_steps` or `max_minutes`.

        After SIGTERM, Ctrl-C or SIGHUP the state is saved and the process exits with 143, 130 or 129.
        """
        args = self.args
        self.clock.start(self.step, self.clock.elapsed())
        if self.context.is_main_process:
            make_dir(self.folder)
            unfinished = bool(self._interval_losses) and self._at_interval()  # the line of this step is written anew
            self._log = TrainingLog(self.folder, args.ckpt_name, self.step - unfinished)
        handlers = {number: signal.signal(number, self._handle_signal) for number in stop_signals()}
        hide = not self.context.is_main_process
        self._bar = progress(total=args.max_steps, desc=args.ckpt_name, unit="step", initial=self.step, hide=hide)
        try:
            self._loop()
        except torch.cuda.OutOfMemoryError:
            if self.context.world_size > 1:  # only this process may have failed, and only the main one prints
                raise
            raise InputError(
                f"the GPU is out of memory at step {self.step + 1}: use a smaller --batch_size or --patch_size, "
                "--precision bf16 or --preload host"
            ) from None
        finally:
            self._bar.close()
            if self.context.is_main_process:
                self._log.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._stopped_by:
            saved = f"{self.state.path} is saved as of step {self._saved_step}, go on with --resume"
            saved = saved if self._saved_step else "nothing is saved"
            self._print_main(f"stopped at step {self.step}: {saved}", sys.stderr)
            sys.exit(128 + self._stopped_by)
        if self.context.is_main_process and not self._weights_path().exists():  # resumed past --max_steps
            self._save_weights()
        why = ", the end of --max_minutes" if self.clock.is_over(self.step) and self.step < args.max_steps else ""
        self._print_main(f"trained to step {self.step}{why}: {self._weights_path()}")

    def _loop(self) -> None:
        """Runs steps until the last one, or until all processes agree to stop."""
        args = self.args
        if self._interval_losses and self._at_interval():  # the run was stopped during validation
            self._finish_interval(rate=None)
        since, images_done = time.perf_counter(), 0
        while self.step < args.max_steps and not self.clock.is_over(self.step) and not self._stopped_by:
            self._pending.append(self.train_step())
            images_done += args.batch_size
            self._bar.update()
            at_interval = self._at_interval()
            asked = self._stop_signal and self.context.world_size == 1  # several must first agree on the step
            if at_interval or asked or self.device.type != "cuda" or self.step % LOSS_SYNC_INTERVAL == 0:
                self._sync_losses()
                rate = images_done / (time.perf_counter() - since)
                loss = self._interval_losses[-1][0]
                self._bar.set_postfix_str(f"loss {loss:.5f}, lr {self.lr:.1e}, {rate:.0f} images/s", refresh=False)
            if self._at_interval():
                self.seconds += time.perf_counter() - since
                self._finish_interval(rate)
                self._agree_on_time()
                since, images_done = time.perf_counter(), 0
        if self._stopped_by:
            self.seconds += time.perf_counter() - since
            self._sync_losses()
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
        with fixed_shapes(self.device):
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
                with torch.autocast(self.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                    sr = self._forward(lr, batch.scale)
                if sr.shape != hr.shape:
                    raise InputError(
                        f"model/{args.model}.py made {tuple(sr.shape)} of {tuple(lr.shape)} at scale {batch.scale}, not "
                        f"{tuple(hr.shape)}"
                    )
                fraction = len(lr) / args.batch_size  # DDP's mean over the processes is then the batch's
                loss = self.loss_fn(sr.float(), hr) * fraction * self.context.world_size
                propagate_nonfinite(loss).backward()
            total += loss.detach()
        return total

    # --- once per interval ----------------------------------------------------------------------------------------------

    def _finish_interval(self, rate: float | None) -> None:
        """Saves, then measures and logs, so that no failure of these costs a step; the saved state says what is left to do."""
        healthy = not self._consecutive_skips  # else the weights may be the cause and must not overwrite good ones
        if healthy:
            self._check_output()
        if self.context.is_main_process and (healthy or self.step == self.args.max_steps):
            self._save_weights()
        self._save_latest()
        values, line = self._summarize_interval()
        if rate is not None:
            values["images_per_second"] = round(rate, 2)
        if self.test_sets and healthy:
            self._bar.set_description_str(f"{self.args.ckpt_name}, measuring")
            try:
                values["validation"] = validated = self.validate()
                line += "".join(f", {at} {q['psnr']:.2f}/{q['ssim']:.4f}" for at, q in validated.items())
            except StopRequestedError:  # validated again after --resume
                self._stopped_by = self._stop_signal
                return
            except InputError as error:
                values["validation_error"] = str(error)
                line += f", validation failed, training goes on: {error}"
            self._bar.set_description_str(self.args.ckpt_name)
        self._interval_losses = []
        if self.context.is_main_process:
            self._bar.write(line)
            sys.stdout.flush()  # for anyone following a redirected log
            self._log.write(self.step, values)
        self._save_latest()

    def _summarize_interval(self) -> tuple[dict[str, object], str]:
        """The means since the last line of the log: the values of the next one, and the text that is printed."""
        finite = [(loss, norm) for loss, norm in self._interval_losses if math.isfinite(norm)]
        skipped = len(self._interval_losses) - len(finite)
        loss, norm = (sum(each) / len(finite) for each in zip(*finite, strict=True)) if finite else (None, None)
        values = {"loss": loss, "grad_norm": norm, "lr": self.lr, "seconds": round(self.seconds, 1)}
        line = f"step {self.step}: loss {math.nan if loss is None else loss:.5f}"
        if skipped:
            values["skipped"] = skipped
            line += f", {skipped} steps skipped, their gradients were not finite"
        return values, line

    def _check_output(self) -> None:
        """`InputError` if weights that were finite make values that are not, before they overwrite good ones."""
        if not self.test_sets:
            return
        net, refusal = self.ema_net or self.net, ""
        if self.context.is_main_process:
            size = self.args.patch_size
            try:
                gray = np.full((size, size, 3), 128, np.uint8)
                NetworkUpscaler(net, self.test_sets[0].scale, self.device, tile="off")(gray)
            except Exception as error:  # a third-party network may fail in any other way, which validation reports
                refusal = str(error) if isinstance(error, InputError) else ""
            finally:
                net.train()
        if refusal := self.context.all_gather([refusal])[0]:
            raise InputError(
                f"step {self.step} cannot be validated ({refusal}): {self._last_good()}; if the weights grow "
                "without bound, try a lower --lr or --clip"
            )

    def validate(self) -> dict[str, dict[str, float]]:
        """PSNR (dB) and SSIM of the weights that would be saved, by the benchmark's code: {"x2": {"psnr", "ssim"}}.

        The images are sharded over the processes; the means do not depend on their number. If one process cannot evaluate
        its images, all of them raise `InputError`. A single process that was asked to stop raises `StopRequestedError`
        before the next image.
        """
        net, scores = self.ema_net or self.net, {}
        try:
            for test_set in self.test_sets:
                scores[f"x{test_set.scale}"] = self._validate_on(test_set, net)
        finally:
            net.train()
        return scores

    def _validate_on(self, test_set: BenchmarkSet, net: nn.Module) -> dict[str, float]:
        own = replace(test_set, pairs=test_set.pairs[self.context.shard(len(test_set))])
        rows, refusal, shown = [], "", None
        try:
            upscale = InterruptibleUpscaler(
                net, test_set.scale, self.device, lambda: self._stop_signal > 0 and self.context.world_size == 1
            )
            if self.context.is_main_process and test_set is self.test_sets[0]:
                shown = upscale(test_set.pairs[0].read()[1])
            rows = evaluate(upscale, own, check_lr=False).rows if own.pairs else []
        except StopRequestedError:
            raise
        except InputError as error:  # the others wait for this process, and only the main one prints
            refusal = str(error)
        except Exception as error:  # third-party networks and file systems may fail in any way
            refusal = f"{test_set.name} x{test_set.scale}: {type(error).__name__}: {summarize_exception(error)}"
        if refusals := list(filter(None, self.context.all_gather([refusal]))):
            raise InputError(refusals[0])
        if shown is not None:
            self._log.log_image(self.step, shown)
        quality = mean_row(self.context.all_gather(rows)).scores
        return {"psnr": quality.psnr, "ssim": quality.ssim}

    def _sync_losses(self) -> None:
        """Copies pending losses and norms to the host. `InputError` after too many consecutive skipped steps.

        Sums the losses over the processes, which also learn whether one of them was asked to stop.
        """
        if not self._pending:
            return
        local_losses = torch.stack([loss.float() for loss, _ in self._pending]) / self.context.world_size
        elapsed = self.clock.elapsed() if self.context.is_main_process else 0.0
        others = local_losses.new_tensor([self._stop_signal, elapsed])
        *losses, asked, elapsed = self.context.all_reduce(torch.cat([local_losses, others])).tolist()
        self.clock.agree(self.step, elapsed)
        norms = torch.stack([norm for _, norm in self._pending]).tolist()
        first, self._pending = self.step - len(losses) + 1, []
        if asked:
            self._stopped_by = self._stop_signal or signal.SIGTERM
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            self._interval_losses.append((loss, norm))
            self._consecutive_skips = 0 if math.isfinite(norm) else self._consecutive_skips + 1
            if self._consecutive_skips > MAX_CONSECUTIVE_SKIPS:
                raise InputError(
                    f"the loss is {loss:.4g} and the gradient norm {norm:.4g} at step {first + number}, the "
                    f"{self._consecutive_skips}th in a row that is not finite: {self._last_good()}; try a lower --lr or --clip"
                )

    def _agree_on_time(self) -> None:
        """After validation: the time that it took counts, but says nothing on the speed of the steps."""
        if self.clock.limit is not None:
            elapsed = self.clock.elapsed() if self.context.is_main_process else 0.0
            total = self.context.all_reduce(torch.tensor([elapsed], device=self.device))
            self.clock.agree(self.step, total.item(), stepping=False)

    def _last_good(self) -> str:
        there = self.state.path.exists()
        return f"the last good state is {self.state.path}" if there else "nothing was saved before"

    def _print_main(self, line: str, file: TextIO | None = None) -> None:
        if self.context.is_main_process:
            print(line, file=file, flush=True)

    # --- saving and resuming --------------------------------------------------------------------------------------------

    def _weights_path(self) -> Path:
        return self.folder / f"{self.args.ckpt_name}_{self.step}.pth"

    def _save_weights(self) -> None:
        save_state_dict((self.ema_net or self.net).state_dict(), self._weights_path())

    def _save_latest(self) -> None:
        if not self.context.is_main_process or self._consecutive_skips:
            return
        counters = {
            "images": self.image_count,
            "step": self.step,
            "seconds": self.seconds,
            "elapsed": self.clock.elapsed(),
            "lr": self.lr,
            "window": self._interval_losses,
        }
        self.state.save(counters, self.net, self.ema_net, self.optimizer, self.sampler)
        self._saved_step = self.step

    def _restore(self, saved: dict) -> None:
        self.state.restore(saved, self.image_count, self.net, self.ema_net, self.optimizer, self.sampler)
        self.step, self.seconds, self.lr = saved["step"], saved["seconds"], saved["lr"]
        self.clock.start(self.step, saved["elapsed"])
        self._saved_step, self._interval_losses = self.step, saved["window"]
        self._print_main(f"resumed {self.state.path} at step {self.step}")
        if changes := describe_changes(saved["settings"], self.args):
            self._print_main(changes)

    def _handle_signal(self, number: int, _frame: object) -> None:
        self._stop_signal = number
