"""Validation during training: the same sets and the same code as the benchmark, sharded over the processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from common.errors import InputError, summarize_exception
from dataset.benchmark_set import BenchmarkSet, MissingTestSetError, open_test_set
from evaluation.evaluate import ImageResult, evaluate, mean_row
from inference.upscaler import BicubicUpscaler, NetworkUpscaler
from training.distributed import DistributedContext
from training.stopping import InterruptibleUpscaler, StopChecks, StopRequestedError, StopSignals

DEFAULT_SET = "dataset/Set5"
NO_SET = "none"  # as --val_data_dir: train without validation
Quality = dict[str, dict[str, float]]  # {"x2": {"psnr": dB, "ssim": ...}}, the means over the images


class Validation:
    """The set in `folder`, which is `--val_data_dir`, at those of `scales` that it has; missing scales are reported.

    "none": no set, on purpose. None, without the flag: `DEFAULT_SET`, which may be missing. Raises `InputError` if a set that
    is named is missing or has none of `scales`, and if a set is incomplete or has images that cannot be measured.
    """

    def __init__(self, folder: str | None, scales: tuple[int, ...], context: DistributedContext, stop: StopSignals):
        self.test_sets: list[BenchmarkSet] = []
        self.bicubic: Quality = {}  # of bicubic interpolation on the same images, to compare with
        self.shown: np.ndarray  # the first SR image of the last `measure`, uint8 HxWx3, in the main process
        self._context, self._stop = context, stop
        missing = []
        for scale in () if folder == NO_SET else scales:
            try:
                self.test_sets.append(open_test_set(DEFAULT_SET if folder is None else folder, scale))
            except MissingTestSetError as error:
                missing.append(error)
        if missing and folder is not None and not self.test_sets:
            raise InputError(f"--val_data_dir: {missing[0]}; or train without validation by --val_data_dir {NO_SET}")
        if missing:
            some, another = ("some ", "") if self.test_sets else ("", "; or name another set by --val_data_dir")
            context.print(f"training without {some}validation: {missing[0]}{another}")
        for test_set in self.test_sets:  # an unusable pair fails now, not after the first interval
            bar = f"checking {test_set.name} x{test_set.scale}" if context.is_main_process else None
            bicubic = evaluate(BicubicUpscaler(test_set.scale), test_set, check_lr=False, bar=bar)
            self.bicubic[f"x{test_set.scale}"] = _quality(bicubic.rows)

    def find_overflow(self, net: nn.Module, size: int) -> str:
        """Why a gray image of `size` x `size` cannot be upscaled, as by finite weights whose output is not; "" if it can."""
        failure = ""
        if self.test_sets and self._context.is_main_process:
            try:
                gray = np.full((size, size, 3), 128, np.uint8)
                NetworkUpscaler(net, self.test_sets[0].scale, self._context.device, tile="off")(gray)
            except Exception as error:  # a third-party network may fail in any other way, which `measure` reports
                failure = str(error) if isinstance(error, InputError) else ""
            finally:
                net.train()
        return self._context.all_gather([failure])[0]

    def measure(self, net: nn.Module) -> Quality:
        """PSNR (dB) and SSIM of each set. The means do not depend on the number of processes.

        If one process cannot evaluate its images, all of them raise `InputError`. If one was asked to stop, all raise
        `StopRequestedError` before their next image.
        """
        try:
            return {f"x{each.scale}": self._measure_on(each, net) for each in self.test_sets}
        finally:
            net.train()

    def _measure_on(self, test_set: BenchmarkSet, net: nn.Module) -> dict[str, float]:
        context = self._context
        own = replace(test_set, pairs=test_set.pairs[context.shard(len(test_set))])
        checks = StopChecks(self._stop, context, -(-len(test_set) // context.world_size) + 1)
        rows, failure = [], ""
        try:
            upscale = InterruptibleUpscaler(net, test_set.scale, context.device, checks)
            if context.is_main_process and test_set is self.test_sets[0]:
                self.shown = upscale(test_set.pairs[0].read()[1])
            rows = evaluate(upscale, own, check_lr=False).rows if own.pairs else []
        except StopRequestedError:
            raise
        except InputError as error:  # the others wait for this process, and only the main one prints
            failure = str(error)
        except Exception as error:  # third-party networks and file systems may fail in any way
            failure = f"{test_set.name} x{test_set.scale}: {type(error).__name__}: {summarize_exception(error)}"
        checks.finish()
        if failures := list(filter(None, context.all_gather([failure]))):
            raise InputError(failures[0])
        return _quality(context.all_gather(rows))


def _quality(rows: list[ImageResult]) -> dict[str, float]:
    scores = mean_row(rows).scores
    return {"psnr": scores.psnr, "ssim": scores.ssim}
