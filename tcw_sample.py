"""Benchmarks a checkpoint on a test set, or upscales pictures. Parses flags and wires parts; `evaluation/` does the work."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

import numpy as np

from common.device import pick_device
from common.errors import InputError, plain, run_command
from common.files import folder_inside
from dataset.hdf5 import SCALES
from dataset.images import say_conversions, write_png
from dataset.testset import TestPair, TestSet, open_test_set
from evaluation.backends import BACKENDS, ENGINES
from evaluation.benchmark import evaluate
from evaluation.html_report import write_report
from evaluation.inference import PRECISIONS, BicubicUpscaler, NetworkUpscaler, Upscale
from evaluation.metrics import PROTOCOLS
from evaluation.photos import upscale_photos
from evaluation.report import format_mean, format_table, write_results
from model.checkpoint import load_net


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Super-resolve a test set and measure it, or upscale pictures (--input).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    paper = parser.add_argument_group("the authors' flags")
    paper.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net, or bicubic")
    paper.add_argument("--ckpt_path", type=Path, help="weights, .pth or .safetensors")
    paper.add_argument("--group", type=int, default=1, help="groups of the convolutions (cfsrcnn: 1)")
    paper.add_argument("--sample_dir", type=Path, default=Path("sample"), help="where SR images and results go")
    paper.add_argument("--test_data_dir", type=Path, default=Path("dataset/Urban100"), help="the test set's folder")
    paper.add_argument("--cuda", action="store_true", help="the same as --device cuda")
    paper.add_argument("--scale", type=int, default=4, choices=SCALES, help="upscaling factor")
    paper.add_argument("--shave", type=int, default=20, help="accepted; tiles overlap by what the network sees")

    ours = parser.add_argument_group("measuring")
    ours.add_argument("--protocol", choices=PROTOCOLS, default="paper", help="SR to 8 bits: truncated or rounded")
    ours.add_argument("--baseline", action="store_true", help="measure bicubic too and put it beside")
    ours.add_argument("--self_ensemble", action="store_true", help="mean over the 8 flips and turns")
    ours.add_argument("--input", type=Path, help="upscale this picture or folder instead; nothing is measured")

    speed = parser.add_argument_group("speed")
    speed.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    speed.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="of the network")
    speed.add_argument(
        "--backend", choices=BACKENDS, default="torch", help="what computes; auto: the fastest installed"
    )
    speed.add_argument("--tile", type=tile, default="auto", help="side of a tile in LR pixels, auto or off")
    return parser.parse_args()


def main() -> None:
    args = parse_flags()
    upscale = make_upscaler(args)
    if args.input:
        written = upscale_photos(args.input, args.sample_dir, upscale)
        print(
            f"wrote {plain(str(written[0])) if len(written) == 1 else f'{len(written)} pictures to {args.sample_dir}'}"
        )
        return
    test_set = open_test_set(args.test_data_dir, args.scale)
    run = "bicubic" if args.model == "bicubic" else args.ckpt_path.stem + "_ensemble" * args.self_ensemble
    folder = args.sample_dir / run / test_set.name / f"x{args.scale}"
    for kind in ("SR", "HR"):
        folder_inside(args.sample_dir, folder / kind)

    def keep(pair: TestPair, sr: np.ndarray, hr: np.ndarray) -> None:
        write_png(folder / "SR" / pair.sr_name, sr)
        write_png(folder / "HR" / f"{pair.hr_path.stem}.png", hr)

    result = evaluate(upscale, test_set, keep)
    baseline = evaluate(BicubicUpscaler(args.scale), test_set, check_lr=False) if args.baseline else None
    about = describe(args, test_set, upscale)
    write_results(folder / "results.json", about, result, baseline)
    print(format_table(result, baseline))
    print(format_mean(f"{test_set.name} x{args.scale} {run}, protocol {args.protocol}", result))
    if note := say_conversions((pair.hr_path.name, pair.hr_info) for pair in test_set.pairs):
        print(note)
    if result.foreign_lr:
        print(
            f"warning: {result.foreign_lr:.1%} of the LR values are not the benchmarks' resize of their HR: made with "
            "another tool, so these figures are not comparable with published ones"
        )
    print(f"SR images: {folder / 'SR'}")
    print(f"report: {write_report(folder, about, test_set, result)}")


def make_upscaler(args: argparse.Namespace) -> Upscale:
    """What turns LR into SR: bicubic, or the network of --model with the weights of --ckpt_path."""
    if args.model == "bicubic":
        return BicubicUpscaler(args.scale)
    if args.ckpt_path is None:
        raise InputError(
            f"--model {args.model} needs weights: --ckpt_path checkpoint/x{args.scale}/cfsrcnn_x{args.scale}.pth"
        )
    if not args.ckpt_path.exists():
        raise InputError(f"{args.ckpt_path} does not exist: {meant_file(args.ckpt_path, args.scale)}")
    net = load_net(args.ckpt_path, args.model, args.scale, args.group)
    protocol = "rounded" if args.input else args.protocol
    device = "cpu" if args.device == "auto" and args.backend in ENGINES else args.device
    return NetworkUpscaler(
        net,
        args.scale,
        pick_device("cuda" if args.cuda else device),
        args.precision,
        args.tile,
        protocol,
        args.self_ensemble,
        args.backend,
    )


def meant_file(path: Path, scale: int) -> str:
    """What the user of a path that does not exist may have meant: the same path with `scale` in it, or what there is."""
    meant = Path(re.sub(r"(?<![A-Za-z0-9])x[234](?![0-9])", f"x{scale}", str(path)))
    if meant != path:
        return f"for --scale {scale} you mean {meant}" + ("" if meant.is_file() else ", which is not there yet either")
    there = sorted(map(str, Path("checkpoint").glob("**/*.pth")))
    return f"there are {', '.join(there)}" if there else "train one with train.py"


def describe(args: argparse.Namespace, test_set: TestSet, upscale: Upscale) -> dict:
    """What `results.json` says of the run, so that its figures can be found again."""
    weights = args.ckpt_path.read_bytes() if args.ckpt_path and args.model != "bicubic" else None
    return {
        "model": args.model,
        "checkpoint": str(args.ckpt_path) if weights else None,
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest() if weights else None,
        "test_set": test_set.name,
        "scale": args.scale,
        "protocol": args.protocol,
        "precision": args.precision,
        "backend": getattr(upscale, "backend", None),
        "self_ensemble": args.self_ensemble,
    }


def tile(text: str) -> int | str:
    """--tile: "auto", "off" or a number of LR pixels from 16 on."""
    if text in ("auto", "off"):
        return text
    if not text.isdigit() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"{text} is not auto, off or a whole number from 16 on")
    return int(text)


if __name__ == "__main__":
    run_command(main)
