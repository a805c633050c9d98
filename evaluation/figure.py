"""Visual comparisons as in the paper's Figures 4 to 6: HR, bicubic, CFSRCNN and others side by side, PNG and PDF.

The crop is framed red in each picture and enlarged in a green-framed inset, PSNR/SSIM of the whole image under each.
Command line: `python -m evaluation.figure --image HR.png --scale 2 --ckpt_path FILE --out figure`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import InputError, run_command
from common.files import check_not_read, whole_file
from common.flags import Flags
from common.scales import SCALES
from dataset.images import read_rgb
from dataset.testset import TestPair
from evaluation.compare import matching_sr, parse_compare
from evaluation.inference import BicubicUpscaler, NetworkUpscaler
from evaluation.metrics import measure, rgb_to_y
from model.checkpoint import load_net

RED, GREEN, INK, PAPER = (220, 30, 30), (20, 170, 60), (20, 20, 20), (255, 255, 255)
GAP, TEXT = 12, 18  # pixels
Crop = tuple[int, int, int, int]  # left, top, width, height in HR pixels


@dataclass
class Panel:
    """One picture of a figure: uint8 HxWx3 and the caption under it."""

    image: np.ndarray
    caption: str


def make_panels(pair: TestPair, ckpt_path: Path, compare: dict[str, Path]) -> list[Panel]:
    """HR, bicubic, CFSRCNN, then the SR picture of each folder in `compare`; captions with PSNR (dB) and SSIM."""
    hr, lr = pair.read()
    net = load_net(ckpt_path, scale=pair.scale)
    found = {
        "Bicubic": BicubicUpscaler(pair.scale)(lr),
        "CFSRCNN": NetworkUpscaler(net, pair.scale)(lr),
        **{name: read_rgb(matching_sr(folder, pair)) for name, folder in compare.items()},
    }
    panels = [Panel(hr, "HR (PSNR/SSIM)")]
    for name, sr in found.items():
        quality = measure(sr, hr, pair.scale)
        panels.append(Panel(sr, f"{name} ({quality.psnr:.2f}/{quality.ssim:.4f})"))
    return panels


def pick_crop(a: np.ndarray, b: np.ndarray) -> Crop:
    """The square, a fifth of the shorter side, where two uint8 HxWx3 images of one size differ most in luma."""
    side = max(16, min(a.shape[:2]) // 5)
    difference = cv2.blur(
        np.abs(rgb_to_y(a) - rgb_to_y(b)), (side, side), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT
    )
    inside = difference[: a.shape[0] - side + 1, : a.shape[1] - side + 1]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(left), int(top), side, side


def draw_figure(panels: list[Panel], crop: Crop, columns: int = 3) -> Image.Image:
    """The panels in rows of `columns`, each with the crop framed red and enlarged in the corner farthest from it."""
    left, top, width, height = crop
    pictures = []
    for panel in panels:
        picture = Image.fromarray(panel.image)
        zoom = min(picture.width * 0.55 / width, picture.height * 0.5 / height)
        inset = _enlarge(panel.image, crop, zoom)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline=RED, width=2)
        x = picture.width - inset.width - 3 if left + width / 2 < picture.width * 0.55 else 3
        y = picture.height - inset.height - 3 if top + height / 2 < picture.height * 0.8 else 3
        draw.rectangle((x - 3, y - 3, x + inset.width + 2, y + inset.height + 2), fill=GREEN)
        picture.paste(inset, (x, y))
        pictures.append(picture)
    return _arrange(pictures, [panel.caption for panel in panels], columns)


def draw_crops(panels: list[Panel], crop: Crop, side: int = 280) -> Image.Image:
    """Only the crop of each panel, enlarged without smoothing to `side` pixels, in one row."""
    zoom = side / max(crop[2:])
    return _arrange([_enlarge(panel.image, crop, zoom) for panel in panels], [p.caption for p in panels], len(panels))


def _enlarge(image: np.ndarray, crop: Crop, zoom: float) -> Image.Image:
    left, top, width, height = crop
    piece = Image.fromarray(image[top : top + height, left : left + width])
    return piece.resize((round(width * zoom), round(height * zoom)), Image.Resampling.NEAREST)


def _arrange(pictures: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = (max(size) for size in zip(*(picture.size for picture in pictures), strict=True))
    font = ImageFont.load_default(TEXT)
    step_x, step_y = width + GAP, height + 2 * TEXT
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + number % columns * step_x, GAP + number // columns * step_y
        sheet.paste(picture, (x, y))
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
    parser = Flags(prog="python -m evaluation.figure", description="Compare SR pictures side by side.")
    parser.add_argument("--image", type=Path, required=True, help="the HR picture; its LR is made by our resize")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="weights of CFSRCNN")
    parser.add_argument("--scale", type=int, required=True, choices=SCALES, help="upscaling factor")
    parser.add_argument("--crop", type=parse_crop, help="x,y,w,h in HR pixels (default: where the two differ most)")
    parser.add_argument("--compare", type=parse_compare, action="append", default=[], help="NAME=FOLDER of SR pictures")
    parser.add_argument("--crops_only", action="store_true", help="LR, then the enlarged crops alone, HR last")
    parser.add_argument("--out", type=Path, required=True, help="NAME.png or NAME.pdf; NAME: both are written")
    args = parser.parse_args()
    if args.out.is_dir() or args.out.name in ("", ".."):
        raise InputError(f"--out {args.out} is a folder: name the figure, such as {args.out / 'figure'}")
    both = [args.out.with_name(args.out.name + ending) for ending in (".png", ".pdf")]
    files = [args.out] if args.out.suffix in (".png", ".pdf") else both
    pair, compare = TestPair(args.image, None, args.scale), dict(args.compare)
    for file in files:
        check_not_read(file, [args.image, args.ckpt_path, *(matching_sr(folder, pair) for folder in compare.values())])
    panels = make_panels(pair, args.ckpt_path, compare)
    hr = panels[0].image
    crop = args.crop or pick_crop(panels[1].image, panels[2].image)
    if crop[0] + crop[2] > hr.shape[1] or crop[1] + crop[3] > hr.shape[0]:
        raise InputError(f"--crop {','.join(map(str, crop))} leaves the picture of {hr.shape[1]}x{hr.shape[0]} pixels")
    if args.crops_only:
        lr = np.kron(pair.read()[1], np.ones((args.scale, args.scale, 1), np.uint8))
        figure = draw_crops([Panel(lr, "LR"), *panels[1:], Panel(hr, "HR")], crop)
    else:
        figure = draw_figure(panels, crop)
    for file in files:
        with whole_file(file) as temporary:
            figure.save(temporary)
    print(f"wrote {' and '.join(map(str, files))}, crop {','.join(map(str, crop))}")


if __name__ == "__main__":
    run_command(main)
