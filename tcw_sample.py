"""Benchmarks a checkpoint on a test set, or upscales pictures. Parses flags and wires parts; `evaluation/` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.device import pick_device
from common.errors import InputError, run_command
from common.flags import Flags
from common.scales import SCALES
from dataset.testset import open_test_set
from evaluation.backends import BACKENDS, ENGINES, pick_precision
from evaluation.benchmark_run import run_benchmark
from evaluation.inference import PRECISIONS, BicubicUpscaler, NetworkUpscaler, Upscale
from evaluation.inventory import hash_files
from evaluation.metrics import PROTOCOLS
from evaluation.photos import say_written, upscale_photos
from model.checkpoint import load_net

NETWORK_ONLY = ("ckpt_path", "group", "self_ensemble", "precision", "backend", "compile", "tile", "baseline")


def parse_flags() -> argparse.Namespace:
    """The flags of the command line. `InputError` for those that do not go together."""
    parser = Flags(description="Super-resolve a test set and measure it, or upscale pictures (--input).")
    paper = parser.add_argument_group("the paper's flags", "defaults are those of the authors' code")
    paper.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net, or bicubic")
    paper.add_argument("--scale", type=int, default=4, choices=SCALES, help="upscaling factor")
    paper.add_argument("--group", type=int, default=1, help="groups of the convolutions (paper: 1)")
    paper.add_argument("--ckpt_path", type=Path, help="weights, .pth or .safetensors")
    paper.add_argument("--test_data_dir", type=Path, default=Path("dataset/Urban100"), help="the test set's folder")
    paper.add_argument("--sample_dir", type=Path, default=Path("sample"), help="folder for SR images and results")
    paper.add_argument("--cuda", action="store_true", help="the same as --device cuda")
    paper.add_argument("--shave", type=int, default=20, help="without effect: tiles overlap by what is needed")

    data = parser.add_argument_group("data")
    data.add_argument("--input", type=Path, help="upscale this picture or folder instead; nothing is measured")

    output = parser.add_argument_group("output")
    to_8_bits = "SR to 8 bits: truncated (paper) or, as --input, rounded"
    output.add_argument("--protocol", choices=PROTOCOLS, default="paper", help=to_8_bits)
    output.add_argument("--self_ensemble", action="store_true", help="mean over the 8 flips and turns (paper: off)")
    output.add_argument("--baseline", action="store_true", help="measure bicubic too and put it beside")

    speed = parser.add_argument_group("speed")
    speed.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    auto = "of the network; auto: fp32 to measure (paper: fp32), for --input fp16 on CUDA and bf16 on a CPU that has it"
    speed.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=auto)
    speed.add_argument("--backend", choices=BACKENDS, default="torch", help="what computes; auto: the fastest here")
    speed.add_argument("--compile", action="store_true", help="by TorchInductor: slow to start, no gain on a CPU")
    speed.add_argument("--tile", type=tile, default="auto", help="side of a tile in LR pixels, auto or off")
    args = parser.parse_args()
    if args.model == "bicubic":
        parser.refuse(args, "--model bicubic has no network and is the baseline", *NETWORK_ONLY, "protocol")
    if args.input:
        parser.refuse(args, "--input measures nothing", "test_data_dir", "baseline")
    if args.cuda:
        parser.refuse(args, "--cuda is --device cuda", *(() if args.device == "cuda" else ("device",)))
    return args


def main() -> None:
    args = parse_flags()
    upscale = make_upscaler(args)
    if args.input:
        print(say_written(upscale_photos(args.input, args.sample_dir, upscale), upscale))
        return
    test_set = open_test_set(args.test_data_dir, args.scale)
    run = "bicubic" if args.model == "bicubic" else args.ckpt_path.stem + "_ensemble" * args.self_ensemble
    about = describe(args, test_set.name, upscale)
    run_benchmark(upscale, test_set, args.sample_dir, run, about, args.baseline)


def make_upscaler(args: argparse.Namespace) -> Upscale:
    """What turns LR into SR: bicubic, or the network of --model with the weights of --ckpt_path."""
    if args.model == "bicubic":
        return BicubicUpscaler(args.scale)
    if args.ckpt_path is None:
        example = f"checkpoint/x{args.scale}/cfsrcnn_x{args.scale}.pth"
        raise InputError(f"--model {args.model} needs weights: --ckpt_path {example}")
    net = load_net(args.ckpt_path, args.model, args.scale, args.group)
    protocol = "rounded" if args.input else args.protocol
    place = "cpu" if args.device == "auto" and args.backend in ENGINES else args.device
    device = pick_device("cuda" if args.cuda else place)
    precision = pick_precision(args.precision, device, args.backend, measured=not args.input)
    how = (precision, args.tile, protocol, args.self_ensemble, args.backend, args.compile)
    return NetworkUpscaler(net, args.scale, device, *how)


def describe(args: argparse.Namespace, test_set: str, upscale: Upscale) -> dict:
    """What `results.json` says of the run, so that its figures can be found again."""
    return {
        "model": args.model,
        "checkpoint": str(args.ckpt_path) if args.ckpt_path else None,
        "checkpoint_sha256": hash_files([args.ckpt_path], names=False) if args.ckpt_path else None,
        "test_set": test_set,
        "scale": args.scale,
        "protocol": args.protocol,
        "precision": getattr(upscale, "precision", None),
        "backend": getattr(upscale, "backend", None),
        "compiled": args.compile,
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
