"""The training loop: patches -> network -> loss -> weights, with validation, logs and checkpoints. Parses no flags.

Change the loss in `LOSSES`, the schedule in `SCHEDULES`, the data in `dataset/`, the network in `model/`.
"""

from __future__ import annotations

import argparse
import copy
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

from common.compiled import compiled
from common.device import available_memory
from common.errors import InputError
from common.files import make_folder
from common.memory import keep_freed_memory
from common.progress import progress
from common.scales import SCALES
from dataset.hdf5 import read_hdf5
from dataset.patches import Batch, PatchSampler
from dataset.testset import MissingTestSetError, TestSet, open_test_set
from evaluation.benchmark import evaluate, mean_row
from evaluation.inference import BicubicUpscaler
from model import build_net
from model.checkpoint import load_matching, save_state
from model.init import initialise
from training.guard import KeptBuffers, careful_average, careful_step, marked
from training.log import TrainingLog
from training.muon import MuonAndAdam
from training.parallel import Crew
from training.run_state import RunState
from training.stopping import StopAskedError, StoppableUpscaler

LOSSES = {"MSE": nn.MSELoss, "L1": nn.L1Loss, "SmoothL1": nn.SmoothL1Loss}
SCHEDULES: dict[str, Callable[[int, argparse.Namespace], float]] = {  # the share of --lr at step 0, 1, ...
    "step": lambda step, args: 0.5 ** (step // args.decay),  # the paper's: halved every `decay` steps
    "cosine": lambda step, args: (1 + math.cos(math.pi * min(1.0, step / args.max_steps))) / 2,
}
OPTIMIZERS = {"adam": torch.optim.Adam, "muon": MuonAndAdam}
MOST_SKIPPED_IN_A_ROW = 10  # steps without finite gradients, after which a run is given up
CUDA_CHECK_INTERVAL = 50  # steps between two looks at the loss, each of which waits for the GPU


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """The rate of step 0, 1, ...: by the schedule of `args.lr_schedule`, after a linear warm-up."""
    warm = min(1.0, (step + 1) / args.warmup) if args.warmup else 1.0
    return warm * args.lr * SCHEDULES[args.lr_schedule](step, args)


class Solver:
    """Trains `args.model` as the flags of `train.py` say; `fit()` runs to `args.max_steps`.

    Raises `InputError` for flags, data or checkpoints that do not fit together, before anything is written.
    """

    def __init__(self, args: argparse.Namespace, crew: Crew):
        self.args, self.crew = args, crew
        self.device = self.crew.device
        if self.device.type == "cpu":
            keep_freed_memory()
        if args.batch_size < self.crew.count:
            raise InputError(
                f"--batch_size {args.batch_size} is the whole batch: too small for {self.crew.count} processes"
            )
        self.scales = SCALES if args.scale == 0 else (args.scale,)
        self.folder, self.step, self.seconds = Path(args.ckpt_dir), 0, 0.0
        self.state = RunState(args)
        saved = self.state.find()
        if args.resume and not saved:
            self._say(f"--resume: there is no {self.state.path} yet, so training starts at step 0")

        torch.manual_seed(args.seed)
        net = build_net(args.model, args.scale, multi_scale=args.scale == 0, group=args.group)
        initialise(net, args.init)
        if args.pretrained and not saved:
            self._say(load_matching(net, args.pretrained))
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self._replica = self.crew.wrap(self.net, unused=args.scale == 0)
        self._forward = compiled(self._replica) if args.compile else self._replica
        self.ema_net = copy.deepcopy(self.net).requires_grad_(False) if args.ema else None
        self.parameters = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.fused = self.device.type in ("cpu", "cuda")
        self.optimizer = OPTIMIZERS[args.optimizer](self.parameters, args.lr, fused=self.fused)
        self.loss_fn = LOSSES[args.loss_fn]()
        self.sampler = self._make_sampler()
        self.test_sets = self._open_test_sets()
        self._pending: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms not looked at yet
        self._window: list[tuple[float, float]] = []  # those since the last line of the log
        self._skipped_in_a_row = self._saved_step = 0
        self._asked_to_stop = 0  # the signal, seen by this process
        self._stopped_by = 0  # the signal, once all processes know
        if saved:
            self._restore(saved)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Trains until `max_steps`; after SIGTERM or Ctrl-C the state is saved and the process exits with 143 or 130."""
        args = self.args
        if self.crew.first:
            make_folder(self.folder)
            self._log = TrainingLog(self.folder, args.ckpt_name, self.step)
        handlers = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        hide = not self.crew.first
        self._bar = progress(total=args.max_steps, desc=args.ckpt_name, unit="step", initial=self.step, hide=hide)
        try:
            self._loop()
        except torch.cuda.OutOfMemoryError:
            if self.crew.count > 1:  # it may be this process alone, and only the first may speak
                raise
            raise InputError(
                f"the GPU is out of memory at step {self.step + 1}: use a smaller --batch_size or --patch_size, "
                "--precision bf16 or --preload host"
            ) from None
        finally:
            self._bar.close()
            if self.crew.first:
                self._log.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._stopped_by:
            saved = f"{self.state.path} is saved as of step {self._saved_step}, go on with --resume"
            self._say(f"stopped at step {self.step}: {saved if self._saved_step else 'nothing is saved'}", sys.stderr)
            sys.exit(128 + self._stopped_by)
        if self.crew.first and not self._weights_path().exists():  # resumed past --max_steps, between two intervals
            self._save_weights()
        self._say(f"trained to step {self.step}: {self._weights_path()}")

    def _loop(self) -> None:
        """Step after step, until the last one or until all processes know that they are to stop."""
        args = self.args
        if self._window and self._at_interval():  # the run was stopped while it measured the test sets
            self._finish_interval(rate=None)
        since, images_done = time.perf_counter(), 0
        while self.step < args.max_steps and not self._stopped_by:
            self._pending.append(self.train_step())
            images_done += args.batch_size
            self._bar.update()
            at_interval = self._at_interval()
            asked = self._asked_to_stop and self.crew.count == 1  # several must first agree on the step
            if at_interval or asked or self.device.type != "cuda" or self.step % CUDA_CHECK_INTERVAL == 0:
                self._look_at_losses()
                rate = images_done / (time.perf_counter() - since)
                loss, lr = self._window[-1][0], learning_rate(self.step - 1, args)
                self._bar.set_postfix_str(f"loss {loss:.5f}, lr {lr:.1e}, {rate:.0f} images/s", refresh=False)
            if at_interval:
                self.seconds += time.perf_counter() - since
                self._finish_interval(rate)
                since, images_done = time.perf_counter(), 0
        if self._stopped_by:
            self.seconds += time.perf_counter() - since
            self._look_at_losses()
            self._save_latest()

    def _at_interval(self) -> bool:
        return self.step % self.args.print_interval == 0 or self.step == self.args.max_steps

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One step on one batch; returns the loss and the gradient norm before clipping, on the device.

        If the norm is not finite, the step has changed nothing: see `training/guard.py`.
        """
        args = self.args
        batch = self.sampler.next()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, args)
        buffers = KeptBuffers(self.net)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        norm = nn.utils.clip_grad_norm_(self.parameters, args.clip if args.clip > 0 else math.inf)
        good = norm.isfinite()
        careful_step(self.optimizer, good, self.fused)
        buffers.put_back_unless(good)
        if self.ema_net is not None:
            decay = min(args.ema, (1 + self.step) / (10 + self.step))
            careful_average(self.ema_net, self.net, 1 - decay, good)
        self.step += 1
        return loss, norm

    def _backward(self, batch: Batch) -> Tensor:
        """Leaves the gradients of the batch's loss, in `--accumulate` parts one after the other; returns the loss."""
        args, total = self.args, torch.zeros((), device=self.device)
        size = math.ceil(len(batch.lr) / args.accumulate)
        parts = list(zip(batch.lr.split(size), batch.hr.split(size), strict=True))
        for number, (lr, hr) in enumerate(parts, 1):
            with self.crew.exchange(self._replica, now=number == len(parts)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                    sr = self._forward(lr, batch.scale)
                if sr.shape != hr.shape:
                    raise InputError(
                        f"model/{args.model}.py made {tuple(sr.shape)} of {tuple(lr.shape)} at scale {batch.scale}, not "
                        f"{tuple(hr.shape)}"
                    )
                share = len(lr) / args.batch_size  # the gradients' mean over the processes is then the batch's
                loss = self.loss_fn(sr.float(), hr) * share * self.crew.count
                marked(loss).backward()
            total += loss.detach()
        return total

    # --- once per interval ----------------------------------------------------------------------------------------------

    def _finish_interval(self, rate: float | None) -> None:
        good = [(loss, norm) for loss, norm in self._window if math.isfinite(norm)]
        skipped = len(self._window) - len(good)
        loss, norm = (sum(each) / len(good) for each in zip(*good, strict=True)) if good else (None, None)
        values: dict[str, object] = {
            "loss": loss,
            "grad_norm": norm,
            "lr": learning_rate(self.step - 1, self.args),
            "seconds": round(self.seconds, 1),
        }
        if rate is not None:
            values["images_per_second"] = round(rate, 2)
        line = f"step {self.step}: loss {math.nan if loss is None else loss:.5f}"
        if skipped:
            values["skipped"] = skipped
            line += f", {skipped} steps skipped, their gradients were not finite"
        sound = not self._skipped_in_a_row  # or else the weights may be the reason: nothing good is overwritten by them
        if self.test_sets and sound:
            self._bar.set_description_str(f"{self.args.ckpt_name}, measuring")
            try:
                values["validation"] = validated = self.validate()
            except StopAskedError:  # it is measured again after --resume
                self._stopped_by = self._asked_to_stop
                return
            self._bar.set_description_str(self.args.ckpt_name)
            line += "".join(f", {at} {q['psnr']:.2f}/{q['ssim']:.4f}" for at, q in validated.items())
        self._window = []
        if self.crew.first:
            self._bar.write(line)
            sys.stdout.flush()  # for whoever follows a file that it goes to
            self._log.write(self.step, values)
            if sound or self.step == self.args.max_steps:
                self._save_weights()
        self._save_latest()

    def validate(self) -> dict[str, dict[str, float]]:
        """PSNR (dB) and SSIM of the weights as they would be saved, by the benchmark's code: {"x2": {"psnr", "ssim"}}.

        The images are shared out over the processes; the means are the same whatever their number. `InputError`, in all
        processes, if one of them cannot measure its images. A process that is alone and asked to stop does so after the
        image at hand, by `StopAskedError`.
        """
        net, figures = self.ema_net or self.net, {}
        for number, test_set in enumerate(self.test_sets):
            upscale = StoppableUpscaler(
                net, test_set.scale, self.device, lambda: self._asked_to_stop > 0 and self.crew.count == 1
            )
            own = replace(test_set, pairs=test_set.pairs[self.crew.share(len(test_set))])
            rows, refusal = [], ""
            try:
                if self.crew.first and number == 0:
                    shown = upscale(test_set.pairs[0].read()[1])
                rows = evaluate(upscale, own, check_lr=False).rows if own.pairs else []
            except InputError as error:  # the others wait for this process, and the first alone can say why
                refusal = str(error)
            if refusals := list(filter(None, self.crew.gather([refusal]))):
                raise InputError(
                    f"step {self.step} cannot be validated ({refusals[0]}): {self._last_good()}; if the weights grow without "
                    "bound, try a lower --lr or --clip"
                )
            quality = mean_row(self.crew.gather(rows)).quality
            figures[f"x{test_set.scale}"] = {"psnr": quality.psnr, "ssim": quality.ssim}
        if self.crew.first:
            self._log.picture(self.step, shown)
        net.train()
        return figures

    def _look_at_losses(self) -> None:
        """Moves pending losses and norms to the host. `InputError` if too many steps in a row were skipped.

        The processes add up their shares of the losses, and learn whether one of them was asked to stop.
        """
        if not self._pending:
            return
        shares = torch.stack([loss.float() for loss, _ in self._pending]) / self.crew.count
        stop = shares.new_tensor([self._asked_to_stop])
        *losses, asked = self.crew.sum(torch.cat([shares, stop])).tolist()
        norms = torch.stack([norm for _, norm in self._pending]).tolist()
        first = self.step - len(losses) + 1
        self._pending = []
        if asked:
            self._stopped_by = self._asked_to_stop or signal.SIGTERM
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            self._window.append((loss, norm))
            self._skipped_in_a_row = 0 if math.isfinite(norm) else self._skipped_in_a_row + 1
            if self._skipped_in_a_row > MOST_SKIPPED_IN_A_ROW:
                raise InputError(
                    f"the loss is {loss:.4g} and the gradient norm {norm:.4g} at step {first + number}, the "
                    f"{self._skipped_in_a_row}th in a row that is not finite: {self._last_good()}; try a lower --lr or --clip"
                )

    def _last_good(self) -> str:
        there = self.state.path.exists()
        return f"the last good state is {self.state.path}" if there else "nothing was saved before"

    def _say(self, line: str, file: TextIO | None = None) -> None:
        if self.crew.first:
            print(line, file=file, flush=True)

    # --- saving and resuming --------------------------------------------------------------------------------------------

    def _weights_path(self) -> Path:
        return self.folder / f"{self.args.ckpt_name}_{self.step}.pth"

    def _save_weights(self) -> None:
        save_state((self.ema_net or self.net).state_dict(), self._weights_path())

    def _save_latest(self) -> None:
        if not self.crew.first or self._skipped_in_a_row:
            return
        counters = {"images": self.image_count, "step": self.step, "seconds": self.seconds, "window": self._window}
        self.state.save(counters, self.net, self.ema_net, self.optimizer, self.sampler)
        self._saved_step = self.step

    def _restore(self, saved: dict) -> None:
        self.state.restore(saved, self.image_count, self.net, self.ema_net, self.optimizer, self.sampler)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self._saved_step = self.step
        self._window = saved["window"]
        self._say(f"resumed {self.state.path} at step {self.step}")

    def _ask_to_stop(self, number: int, _frame: object) -> None:
        self._asked_to_stop = number

    # --- data -----------------------------------------------------------------------------------------------------------

    def _make_sampler(self) -> PatchSampler:
        """Loads the images to where `--preload` says and prints the line that tells what is about to happen."""
        args, cuda = self.args, self.device.type == "cuda"
        images = read_hdf5(args.train_data_path, self.scales)
        preload = args.preload
        if preload == "auto":
            fits = images.nbytes < 0.6 * available_memory(self.device)
            preload = (
                "device" if fits and (cuda or self.crew.count == 1) else "host"
            )  # mapped, processes share one copy
        if preload == "device" and not cuda:
            images = images.in_memory()
        self._check_batch()
        self.image_count = len(images)
        place = {"host": "mapped from the file", "device": "on the GPU" if cuda else "in memory"}[preload]
        weights = sum(weight.numel() for weight in self.net.parameters() if weight.requires_grad)
        processes = f" x {self.crew.count} processes" if self.crew.count > 1 else ""
        self._say(
            f"{args.model} {'x2, x3, x4' if args.scale == 0 else f'x{args.scale}'}: {weights:,} parameters | "
            f"{len(images)} images, {images.nbytes / 1e9:.2f} GB {place} | {self.device}{processes}, {args.precision} | "
            f"{args.max_steps:,} steps of {args.batch_size} LR patches of {args.patch_size}x{args.patch_size}"
        )
        if args.verbose:
            self._say(str(self.net))
        return PatchSampler(
            images,
            args.patch_size,
            args.batch_size,
            args.seed,
            self.device,
            on_device=cuda and preload == "device",
            share=self.crew.share(args.batch_size),
        )

    def _check_batch(self) -> None:
        """`InputError` for a batch whose patches alone cannot lie in memory, before the time to draw it is spent."""
        args, free = self.args, available_memory(self.device)
        pixels = -(-args.batch_size // self.crew.count) * args.patch_size**2 * (1 + max(self.scales) ** 2)
        if 12 * pixels > free:  # three values of four bytes each
            raise InputError(
                f"--batch_size {args.batch_size} with --patch_size {args.patch_size}: the patches alone need more than "
                f"the {free / 1e9:.1f} GB of memory that are free, use smaller ones"
            )

    def _open_test_sets(self) -> list[TestSet]:
        """The test sets for validation at the scales that are there; what is missing is said, what is torn is an error."""
        test_sets, missing = [], []
        for scale in self.scales:
            try:
                test_sets.append(open_test_set(self.args.val_data_dir, scale))
            except MissingTestSetError as error:
                missing.append(error)
        if missing:
            self._say(f"training without {'some ' if test_sets else ''}validation: {missing[0]}")
        for test_set in test_sets:  # a pair that cannot be measured is said now, not when an interval would be lost
            bar = f"checking {test_set.name} x{test_set.scale}" if self.crew.first else None
            evaluate(BicubicUpscaler(test_set.scale), test_set, check_lr=False, bar=bar)
        return test_sets
