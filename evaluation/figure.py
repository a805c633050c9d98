"""Visual comparisons as in the paper's Figures 4 to 6: HR, bicubic, a network and others side by side, as PNG and PDF.

In each image the crop has a red frame and is enlarged in an inset with a green frame; PSNR/SSIM of the whole image stand below.
Command line: `python -m evaluation.figure --image HR.png --scale 2 --ckpt_path FILE --out figure`.
"""

from __future__ import annotations

import argparse
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common import SCALES
from common.cli import CliParser
from common.errors import InputError, error_context, run_cli
from common.files import atomic_write, ensure_not_input
from common.malloc import tune_malloc
from dataset.benchmark_set import ImagePair
from dataset.images import EXTENSIONS, read_rgb
from evaluation.compare import add_compare_flag, check_names, require_sr
from evaluation.metrics import compute_scores, rgb_to_y
from evaluation.paper.discovery import OUR_MODEL, PEERS
from inference.upscaler import BicubicUpscaler, NetworkUpscaler, Upscale, translate_upscale_errors
from model.checkpoint import load_model

RED, GREEN, INK, PAPER = (220, 30, 30), (20, 170, 60), (20, 20, 20), (255, 255, 255)
GAP, TEXT = 12, 18  # pixels
RESERVED = ("hr", "lr", "bicubic")  # captions of the other panels, in lower case
Crop = tuple[int, int, int, int]  # left, top, width, height in HR pixels


@dataclass
class Panel:
    """One image of a figure, uint8 HxWx3, and the caption below it."""

    image: np.ndarray
    caption: str


def make_panels(hr: np.ndarray, lr: np.ndarray, upscalers: dict[str, Upscale], compare: dict[str, Path]) -> list[Panel]:
    """HR, the output of each of `upscalers`, the SR image in each file of `compare`; captions with PSNR (dB) and SSIM.

    `hr`, `lr`: uint8 HxWx3. Raises an `InputError` that names a file whose image has another size than `hr`.
    """
    scale = len(hr) // len(lr)
    found = {name: upscale(lr) for name, upscale in upscalers.items()}
    found |= {name: read_rgb(file) for name, file in compare.items()}
    panels = [Panel(hr, "HR (PSNR/SSIM)")]
    for name, sr in found.items():
        with error_context(compare[name]) if name in compare else nullcontext():
            scores = compute_scores(sr, hr, scale)
        panels.append(Panel(sr, f"{name} ({scores.psnr:.2f}/{scores.ssim:.4f})"))
    return panels


def pick_crop(a: np.ndarray, b: np.ndarray) -> Crop:
    """The square, a fifth of the shorter side, in which two uint8 HxWx3 images of equal size differ most in luma."""
    side = max(16, min(a.shape[:2]) // 5)
    difference = cv2.blur(
        np.abs(rgb_to_y(a) - rgb_to_y(b)), (side, side), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT
    )
    inside = difference[: a.shape[0] - side + 1, : a.shape[1] - side + 1]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(left), int(top), side, side


def draw_figure(panels: list[Panel], crop: Crop) -> Image.Image:
    """The panels in a grid, each with a red frame around the crop, enlarged in the corner farthest from it.

    Up to three panels stand in one row, four to eight in two, nine to fifteen in three, and so on.
    """
    left, top, width, height = crop
    images = []
    for panel in panels:
        drawn = Image.fromarray(panel.image)
        zoom = min(drawn.width * 0.55 / width, drawn.height * 0.5 / height)
        inset = _enlarge(panel.image, crop, zoom)
        draw = ImageDraw.Draw(drawn)
        draw.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline=RED, width=2)
        x = drawn.width - inset.width - 3 if left + width / 2 < drawn.width * 0.55 else 3
        y = drawn.height - inset.height - 3 if top + height / 2 < drawn.height * 0.8 else 3
        draw.rectangle((x - 3, y - 3, x + inset.width + 2, y + inset.height + 2), fill=GREEN)
        drawn.paste(inset, (x, y))
        images.append(drawn)
    columns = math.ceil(len(images) / math.isqrt(len(images)))
    return _arrange(images, [panel.caption for panel in panels], columns)


def draw_crops(panels: list[Panel], crop: Crop, side: int = 280) -> Image.Image:
    """Only the crop of each panel, enlarged to `side` pixels by nearest neighbor, in one row."""
    zoom = side / max(crop[2:])
    return _arrange([_enlarge(panel.image, crop, zoom) for panel in panels], [p.caption for p in panels], len(panels))


def _enlarge(image: np.ndarray, crop: Crop, zoom: float) -> Image.Image:
    left, top, width, height = crop
    piece = Image.fromarray(image[top : top + height, left : left + width])
    return piece.resize((round(width * zoom), round(height * zoom)), Image.Resampling.NEAREST)


def _arrange(images: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    rows = -(-len(images) // columns)
    width, height = (max(size) for size in zip(*(image.size for image in images), strict=True))
    font = ImageFont.load_default(TEXT)
    step_x, step_y = width + GAP, height + 2 * TEXT
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = GAP + number % columns * step_x, GAP + number // columns * step_y
        sheet.paste(image, (x, y))
        draw.text((x + width / 2, y + height + TEXT * 0.3), caption, fill=INK, font=font, anchor="ma")
    return sheet


def parse_crop(text: str) -> Crop:
    """ "x,y,w,h" in HR pixels, for argparse."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts) or min(map(int, parts[2:])) < 4:
        raise argparse.ArgumentTypeError(f"{text} is not x,y,width,height in HR pixels")
    left, top, width, height = map(int, parts)
    return left, top, width, height


def main() -> None:
    tune_malloc()
    parser = CliParser(prog="python -m evaluation.figure", description="Compare SR images side by side.")
    parser.add_argument("--image", type=Path, required=True, help="the HR image; its LR is made by our resize")
    parser.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="weights of the network")
    parser.add_argument("--label", help="its caption (default: CFSRCNN, or the name of another --model)")
    parser.add_argument("--scale", type=int, required=True, choices=SCALES, help="upscaling factor")
    parser.add_argument("--crop", type=parse_crop, help="x,y,w,h in HR pixels (default: where the two differ most)")
    add_compare_flag(parser)
    parser.add_argument("--crops_only", action="store_true", help="LR, then the enlarged crops alone, HR last")
    parser.add_argument("--out", type=Path, required=True, help="NAME.png or NAME.pdf; NAME: both are written")
    args = parser.parse_args()
    if args.out.is_dir() or args.out.name in ("", ".."):
        raise InputError(f"--out {args.out} is a folder: name the figure, such as {args.out / 'figure'}")
    if args.out.suffix.lower() in EXTENSIONS - {".png"}:
        raise InputError(f"--out {args.out}: a figure is written as .png, .pdf or, without an ending, both")
    both = [args.out.with_name(args.out.name + suffix) for suffix in (".png", ".pdf")]
    files = [args.out] if args.out.suffix.lower() in (".png", ".pdf") else both
    name = args.model.upper() if args.model in (OUR_MODEL, *PEERS) else args.model
    label = " ".join((args.label or "").split()) or name
    if label.casefold() in RESERVED:
        raise InputError(f"--label {label}: there is a panel of this name already, give it another")
    check_names(args.compare, (*RESERVED, label))
    pair = ImagePair(args.image, None, args.scale)
    compare = {name: require_sr(folder, pair) for name, folder in args.compare}
    for file in files:
        ensure_not_input(file, [args.image, args.ckpt_path, *compare.values()])
    hr, lr = pair.read()
    network = NetworkUpscaler(load_model(args.ckpt_path, args.model, args.scale), args.scale)
    with translate_upscale_errors(args.image):
        panels = make_panels(hr, lr, {"Bicubic": BicubicUpscaler(args.scale), label: network}, compare)
    crop = args.crop or pick_crop(panels[1].image, panels[2].image)
    if crop[0] + crop[2] > hr.shape[1] or crop[1] + crop[3] > hr.shape[0]:
        raise InputError(f"--crop {','.join(map(str, crop))} leaves the image of {hr.shape[1]}x{hr.shape[0]} pixels")
    if args.crops_only:
        enlarged = np.kron(lr, np.ones((args.scale, args.scale, 1), np.uint8))
        figure = draw_crops([Panel(enlarged, "LR"), *panels[1:], Panel(hr, "HR")], crop)
    else:
        figure = draw_figure(panels, crop)
    for file in files:
        with atomic_write(file) as temporary:
            figure.save(temporary)
    print(f"wrote {' and '.join(map(str, files))}, crop {','.join(map(str, crop))}")


if __name__ == "__main__":
    run_cli(main)
