"""The flags of `tcw_sample.py` for the files of --input, and the argument types of others that concern upscaling."""

from __future__ import annotations

import argparse

from common.cli import CliParser, bounded
from common.errors import InputError
from dataset.image_writer import FORMATS
from inference.upscale_images import OutputOptions

MAX_SIDE = 1_000_000
quality_percent = bounded(int, lambda value: 1 <= value <= 100, "a whole number from 1 to 100")

FILE_FLAGS = ("recursive", "skip_existing", "format", "quality", "resize", "strip_metadata")


def add_file_flags(parser: CliParser) -> None:
    """Adds the flags that say which files --input reads and how the upscaled ones are written."""
    group = parser.add_argument_group("files of --input")
    group.add_argument(
        "--recursive", action="store_true", help="folders with their subfolders, mirrored in --sample_dir"
    )
    group.add_argument("--skip_existing", action="store_true", help="skip images whose output exists")
    own = "auto: tif for TIFF, lossless webp for WebP, png for all others"
    group.add_argument("--format", choices=("auto", *FORMATS), default="auto", help=own)
    lossy = "1 to 100, of --format jpg (default: 95) and webp (default: lossless)"
    group.add_argument("--quality", type=quality_percent, help=lossy)
    group.add_argument(
        "--resize", type=output_size, metavar="WxH|LONGEST", help="to a size in pixels, after the network"
    )
    group.add_argument("--strip_metadata", action="store_true", help="leave out ICC profile, EXIF, XMP, PNG text")


def check_file_flags(parser: CliParser, args: argparse.Namespace) -> None:
    """Raises `InputError` for flags of `add_file_flags` that do not go with the others."""
    if not args.input:
        parser.reject(args, "only --input takes them", *FILE_FLAGS)
    if args.format not in ("jpg", "webp"):
        parser.reject(args, "only --format jpg and webp have a quality", "quality")


def output_options(args: argparse.Namespace) -> OutputOptions:
    """The values of the flags of `add_file_flags`."""
    kept = not args.strip_metadata
    return OutputOptions(args.format, args.quality, kept, args.resize, args.recursive, args.skip_existing)


def tile_size(text: str) -> int | str:
    """--tile: "auto", "off" or a number of LR pixels from 16 on."""
    try:
        return check_tile(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_tile(tile: int | str) -> int | str:
    """`tile` as `NetworkUpscaler` takes it. Raises `InputError` unless it is "auto", "off" or a whole number from 16 on."""
    if tile in ("auto", "off"):
        return tile
    if not (text := str(tile)).isdecimal() or int(text) < 16:
        raise InputError(f"{text} is not auto, off or a whole number from 16 on")
    return int(text)


def output_size(text: str) -> tuple[int, int] | int:
    """--resize: "800x600" -> (800, 600), width and height; "800" -> 800, the longest side."""
    sides = [
        int(each) if each.isascii() and each.isdigit() and len(each) < 8 else 0 for each in text.lower().split("x")
    ]
    if len(sides) not in (1, 2) or not all(1 <= each <= MAX_SIDE for each in sides):
        raise argparse.ArgumentTypeError(f"{text} is not a size: use WIDTHxHEIGHT such as 800x600, or the longest side")
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]
