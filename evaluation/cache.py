"""A cache of results: one JSON file each, reused as long as the inputs it was computed from are unchanged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, translate_access_errors
from common.files import parse_json
from dataset.benchmark_set import BenchmarkSet
from evaluation.evaluate import EvalResult
from evaluation.report import write_results

NON_KEY_FIELDS = {"checkpoint", "device"}  # stored, but moving a file or changing the machine changes no result


@dataclass(frozen=True)
class MeanScores:
    """Mean PSNR (dB) and SSIM on Y over `images` images; `lr_mismatch`: see `evaluate.EvalResult`."""

    psnr: float
    ssim: float
    images: int
    lr_mismatch: float


def get_or_compute(
    path: Path, metadata: dict, compute: Callable[[], EvalResult | None], no_cache: bool
) -> tuple[MeanScores, bool] | None:
    """The scores in `path` if they were computed from what `metadata` describes, else computed now and written there.

    None if `compute` returns None; then nothing is written. The second value is true for scores from the cache. `no_cache`:
    always compute. A file that cannot be read is replaced.
    """
    cached = None if no_cache else _read(path, metadata)
    if cached is not None:
        return cached, True
    if (result := compute()) is None:
        return None
    write_results(path, metadata, result)
    scores = _read(path, metadata)
    assert scores is not None
    return scores, False


def hash_files(files: Iterable[Path], names: bool = True) -> str:
    """SHA-256 of the contents of files and, with `names`, of their names. Part of the key of a cached result."""
    digest = hashlib.sha256()
    for file in files:
        with translate_access_errors(file):
            if not file.exists():
                raise InputError(f"{file}: no such file")
            if not file.is_file():  # reading a pipe would block
                raise InputError(f"{file} is not a regular file but a folder, a pipe or the like: replace or remove it")
            content = file.read_bytes()
        if names:
            digest.update(f"{file.name}\0{len(content)}\0".encode("utf-8", "surrogatepass"))
        digest.update(content)
    return digest.hexdigest()


def hash_test_set(test_set: BenchmarkSet) -> str:
    """`hash_files` of the HR and LR files of a test set."""
    return hash_files(file for pair in test_set.pairs for file in (pair.hr_path, pair.lr_path) if file)


def _read(path: Path, metadata: dict) -> MeanScores | None:
    if not path.is_file():  # reading a pipe would block
        return None
    try:
        content = parse_json(path.read_bytes())
        if any(content[key] != value for key, value in metadata.items() if key not in NON_KEY_FIELDS):
            return None
        psnr, ssim = (content["mean"][key] for key in ("psnr", "ssim"))
        psnr = math.inf if psnr is None else float(psnr)  # JSON has no infinity
        return MeanScores(psnr, float(ssim), len(content["images"]), float(content["lr_mismatch"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
