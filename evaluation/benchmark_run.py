"""A benchmark run: SR and HR images, `results.json` and `report.html` in a folder, the table on stdout.

Measuring is in `evaluation/evaluate.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import escape_unprintable
from common.files import (
    TEMP_PREFIX,
    atomic_write,
    make_dir,
    make_dir_within,
    parse_json,
    temporary_dir,
    translate_write_errors,
)
from common.locks import locked
from dataset.benchmark_set import BenchmarkSet, ImagePair
from dataset.images import conversion_summary
from evaluation.cache import NON_KEY_FIELDS
from evaluation.evaluate import evaluate
from evaluation.html_report import REPORT, Report, encode_png
from evaluation.report import format_mean, format_table, write_results
from inference.upscaler import Upscale, warm_up

RESULTS = "results.json"


def run_benchmark(upscale: Upscale, test_set: BenchmarkSet, folder: Path, metadata: dict, baseline: bool) -> None:
    """Upscales and measures `test_set`, writes to `folder`/RUN/SET/xSCALE, prints the results; with `baseline` also bicubic's.

    `metadata`: the description of the run in `results.json`; its "protocol" is printed too. RUN is `run_name(metadata)`. If
    other results are there, of another checkpoint or test set of the same name for example, or are being written there, a hash
    is appended.
    """
    with _claimed(folder, test_set, metadata) as (run, folder), Report(folder, test_set.scale) as report:

        def write_images(pair: ImagePair, hr: np.ndarray, lr: np.ndarray, sr: np.ndarray) -> None:
            pngs = {"sr": encode_png(Image.fromarray(sr)), "hr": encode_png(Image.fromarray(hr))}
            for file, png in (f"SR/{pair.sr_name}", pngs["sr"]), (f"HR/{pair.hr_path.stem}.png", pngs["hr"]):
                with atomic_write(folder / file) as temporary:
                    temporary.write_bytes(png)
            report.add(pair, hr, lr, sr, pngs)

        warm_up(upscale)
        result = evaluate(upscale, test_set, write_images, bar=f"{test_set.name} x{test_set.scale}")
        bicubic = report.baseline() if baseline else None
        write_results(folder / RESULTS, metadata, result, bicubic)  # before the report, which may fail
        report.write(metadata, test_set, result)
    print(format_table(result, bicubic))
    print(format_mean(f"{test_set.name} x{test_set.scale} {run}, protocol {metadata['protocol']}", result))
    if note := conversion_summary((pair.hr_path.name, pair.hr_info) for pair in test_set.pairs):
        print(note)
    if result.lr_mismatch:
        print(
            f"warning: {result.lr_mismatch:.1%} of the LR values are not the benchmarks' resize of their HR: made with "
            "another tool, so these results are not comparable with published ones"
        )
    print(f"SR images: {folder / 'SR'}")
    print(f"report: {folder / REPORT}")


def run_name(metadata: dict) -> str:
    """The checkpoint's name, or bicubic, and a word for each setting that is not the paper's: "net_ensemble_rounded_bf16"."""
    if not metadata["checkpoint"]:
        return metadata["model"]
    tile = metadata.get("tile", "auto")
    words = {
        "ensemble": metadata["self_ensemble"],
        metadata["protocol"]: metadata["protocol"] != "paper",
        metadata["precision"]: metadata["precision"] != "fp32",
        "untiled" if tile == "off" else f"tile{tile}": tile != "auto",
        metadata["backend"]: metadata["backend"] != "torch",
        "compiled": metadata["compiled"],
    }
    return "_".join([Path(metadata["checkpoint"]).stem, *(word for word, differs in words.items() if differs)])


@contextmanager
def _claimed(top: Path, test_set: BenchmarkSet, metadata: dict) -> Iterator[tuple[str, Path]]:
    """RUN and the folder `top`/RUN/SET/xSCALE, with a note in it until the block ends: what is being measured there."""
    with ExitStack() as stack:
        with locked(make_dir(top)):
            run = _free_name(top, run_name(metadata), test_set, metadata)
            folder = top / run / test_set.name / f"x{test_set.scale}"
            for kind in ("SR", "HR"):
                make_dir_within(top, folder / kind)
            note = stack.enter_context(temporary_dir(folder)) / RESULTS
            with translate_write_errors(folder / RESULTS):
                note.write_text(json.dumps(metadata))
        yield run, folder


def _free_name(folder: Path, run: str, test_set: BenchmarkSet, metadata: dict) -> str:
    """`run`; with a hash appended if its folder holds or gets results of another checkpoint or setting at this scale.

    Or those of another test set in the same place. The hash is of the checkpoint and settings, so that the test sets share a
    folder; if that one is taken too, of all `metadata`.
    """
    key = {name: value for name, value in metadata.items() if name not in NON_KEY_FIELDS}
    settings = {name: value for name, value in key.items() if name not in ("test_set", "test_set_sha256")}

    def conflict(name: str) -> tuple[str, str] | None:
        own = folder / name / test_set.name / f"x{test_set.scale}"
        if files := _result_files(own):
            return next(filter(None, (_difference(own, file, key) for file in files)), None)
        beside = sorted((folder / name).glob(f"*/{own.name}"))
        found = (_difference(each, file, settings) for each in beside for file in _result_files(each))
        return next(filter(None, found), None)

    if (found := conflict(run)) is None:
        return run
    hashes = (hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()[:8] for each in (settings, key))
    first, second = (f"{run}_{each}" for each in hashes)
    other = second if conflict(first) else first
    what, differing = found
    print(f"{what}: these go to {folder / other} (other {differing})")
    return other


def _result_files(folder: Path) -> list[Path]:
    """The notes of runs that are writing to `folder`, then the results there: a run removes its note after it writes them."""
    return [file for file in (*folder.glob(f"{TEMP_PREFIX}*/{RESULTS}"), folder / RESULTS) if file.is_file()]


def _difference(folder: Path, file: Path, key: dict) -> tuple[str, str] | None:
    """What the results in `file`, of `folder`, are, and in which fields they differ from `key`; None if in none."""
    try:
        found = parse_json(file.read_bytes())
        names = dict.fromkeys((*key, "tile"))  # which is there only if it was chosen
        differing = [name for name in names if found.get(name) != key.get(name)]
        what = escape_unprintable(f"of {found.get('checkpoint') or found['model']}")
    except FileNotFoundError:  # a note, whose run has just ended
        return None if file == folder / RESULTS else _difference(folder, folder / RESULTS, key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        differing, what = ["format"], "that cannot be read"
    verb = "holds" if file.parent == folder else "is getting"
    return (f"{folder} {verb} other results, {what}", ", ".join(differing)) if differing else None
