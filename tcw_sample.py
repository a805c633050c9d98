"""Benchmarks a checkpoint on a test set, or upscales images. Parses flags; `inference/` and `evaluation/` do the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from common import SCALES
from common.cli import CliParser
from common.errors import InputError, run_cli
from common.malloc import tune_malloc
from dataset.benchmark_set import BenchmarkSet, open_test_set
from evaluation.benchmark_run import run_benchmark
from evaluation.cache import hash_files, hash_test_set
from inference.backends import BACKENDS, pick_backend_device, resolve_precision
from inference.flags import add_file_flags, check_file_flags, output_options, tile_size
from inference.upscale_images import raise_failures, upscale_images, written_summary
from inference.upscaler import PRECISIONS, PROTOCOLS, BicubicUpscaler, NetworkUpscaler, Upscale
from model.checkpoint import load_model, suggest_weights

NETWORK_ONLY = ("ckpt_path", "group", "self_ensemble", "precision", "backend", "compile", "tile", "baseline")


def parse_flags() -> argparse.Namespace:
    """The flags of the command line. `InputError` for those that do not go together."""
    parser = CliParser(description="Super-resolve a test set and measure it, or upscale images (--input).")
    paper = parser.add_argument_group("the paper's flags", "defaults are those of the authors' code")
    paper.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net, or bicubic")
    paper.add_argument("--scale", type=int, default=4, choices=SCALES, help="upscaling factor")
    paper.add_argument("--group", type=int, default=1, help="groups of the convolutions (paper: 1)")
    paper.add_argument("--ckpt_path", type=Path, help="weights, .pth or .safetensors")
    paper.add_argument("--test_data_dir", type=Path, default=Path("dataset/Urban100"), help="the test set's folder")
    paper.add_argument("--sample_dir", type=Path, default=Path("sample"), help="folder for SR images and results")
    paper.add_argument("--cuda", action="store_true", help="the same as --device cuda")
    paper.add_argument("--shave", type=int, default=20, help="ignored; kept for compatibility")

    data = parser.add_argument_group("data")
    data.add_argument("--input", type=Path, nargs="+", help="upscale these images or folders instead; measures nothing")
    add_file_flags(parser)

    output = parser.add_argument_group("output")
    to_8_bits = "SR to 8 bits: truncated (paper) or rounded, as with --input"
    output.add_argument("--protocol", choices=PROTOCOLS, default="paper", help=to_8_bits)
    output.add_argument("--self_ensemble", action="store_true", help="mean of 8 dihedral transforms (paper: off)")
    output.add_argument("--baseline", action="store_true", help="measure bicubic too")

    speed = parser.add_argument_group("speed")
    speed.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    auto = "auto: fp32 to measure (paper: fp32); for --input fp16 on CUDA, bf16 on CPUs with support, else fp32"
    speed.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=auto)
    speed.add_argument(
        "--backend", choices=BACKENDS, default="torch", help="auto: openvino, onnxruntime, or else torch"
    )
    speed.add_argument("--compile", action="store_true", help="TorchInductor: slow start, no gain on a CPU")
    speed.add_argument("--tile", type=tile_size, default="auto", help="tile size in LR pixels, auto or off")
    args = parser.parse_args()
    if args.model == "bicubic":
        parser.reject(args, "--model bicubic has no network and is the baseline", *NETWORK_ONLY, "protocol")
    if args.input:
        parser.reject(args, "--input measures nothing", "test_data_dir", "baseline")
    check_file_flags(parser, args)
    if args.cuda:
        parser.reject(args, "--cuda is --device cuda", *(() if args.device == "cuda" else ("device",)))
    return args


def main() -> None:
    args = parse_flags()
    upscale = make_upscaler(args)
    if args.input:
        summary = upscale_images(args.input, args.sample_dir, upscale, output_options(args))
        print(written_summary(summary, upscale))
        raise_failures(summary)
        return
    test_set = open_test_set(args.test_data_dir, args.scale)
    run_benchmark(upscale, test_set, args.sample_dir, describe(args, test_set, upscale), args.baseline)


def make_upscaler(args: argparse.Namespace) -> Upscale:
    """The upscaler: bicubic, or the network of --model with the weights of --ckpt_path."""
    if args.model == "bicubic":
        return BicubicUpscaler(args.scale)
    if args.ckpt_path is None:
        raise InputError(f"--model {args.model} needs weights: --ckpt_path {suggest_weights(args.model, args.scale)}")
    net = load_model(args.ckpt_path, args.model, args.scale, args.group)
    protocol = "rounded" if args.input else args.protocol
    device = pick_backend_device("cuda" if args.cuda else args.device, args.backend)
    precision = resolve_precision(args.precision, device, args.backend, measured=not args.input)
    how = (precision, args.tile, protocol, args.self_ensemble, args.backend, args.compile)
    if device.type == "cpu":
        tune_malloc()
    return NetworkUpscaler(net, args.scale, device, *how)


def describe(args: argparse.Namespace, test_set: BenchmarkSet, upscale: Upscale) -> dict:
    """The description of the run in `results.json`, with all that is needed to reproduce it."""
    return {
        "model": args.model,
        "checkpoint": str(args.ckpt_path) if args.ckpt_path else None,
        "checkpoint_sha256": hash_files([args.ckpt_path], names=False) if args.ckpt_path else None,
        "test_set": test_set.name,
        "test_set_sha256": hash_test_set(test_set),
        "scale": args.scale,
        "protocol": args.protocol,
        "precision": getattr(upscale, "precision", None),
        "backend": getattr(upscale, "backend", None),
        "compiled": args.compile,
        "self_ensemble": args.self_ensemble,
        **({} if args.tile == "auto" else {"tile": args.tile}),
    }


if __name__ == "__main__":
    run_cli(main)
