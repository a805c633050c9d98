"""The benchmark's `report.html`: one file that opens from disk, with a sortable table and a viewer to compare images.

For each image it embeds bicubic, SR, HR and the error map as lossless PNG, since a lossy preview would hide the details that
are compared by eye, up to 64 MiB of base64 in all (`LIMIT`). For an image beyond that it shows the scores and says which files
to open instead. Layout and behavior are in `report_template.html`, parts shared with other pages in `page.py`.
"""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
from html import escape
from pathlib import Path
from string import Template
from typing import IO

import cv2
import numpy as np
from PIL import Image

from common.files import atomic_write
from dataset.benchmark_set import BenchmarkSet, ImagePair
from dataset.images import read_rgb
from evaluation.evaluate import EvalResult, ImageResult, evaluate
from evaluation.metrics import rgb_to_y
from evaluation.page import html_number, number_cell, shared_fields
from inference.upscaler import BicubicUpscaler

REPORT = "report.html"
LIMIT = 64 << 20  # bytes of embedded images, as base64
ROWS = 256  # of an error map, computed at once
AMPLIFY = 8  # the last color of the error map stands for an error of 255 / 8, about 32 levels of Y, or more
COLORS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]  # 256x3, RGB
FORMATS = {"bicubic_ssim": ".4f", "ssim": ".4f", "gain": "+.2f"}  # all others: two decimals
TEMPLATE = Path(__file__).with_name("report_template.html")


def write_report(
    folder: Path, metadata: dict, test_set: BenchmarkSet, result: EvalResult, limit: int = LIMIT
) -> EvalResult:
    """Writes `folder`/report.html for a run whose images are in `folder`/SR and /HR, and returns the result of bicubic.

    `metadata`: the description of the run in `results.json`. Bicubic is computed and measured here, one image at a time.
    """
    with atomic_write(folder / REPORT) as temporary, tempfile.TemporaryFile(dir=folder) as images:
        embed = Embedder(folder, images, limit)
        bar = f"report on {test_set.name} x{test_set.scale}"
        bicubic = evaluate(BicubicUpscaler(test_set.scale), test_set, embed, check_lr=False, bar=bar)
        fields = page_fields(metadata, test_set, result, bicubic, embed)
        before, after = TEMPLATE.read_text(encoding="utf-8").split("$images")
        with open(temporary, "wb") as file:
            file.write(Template(before).substitute(fields).encode("utf-8", "replace"))
            images.seek(0)
            shutil.copyfileobj(images, file)
            file.write(Template(after).substitute(fields).encode("utf-8", "replace"))
    return bicubic


class Embedder:
    """The `on_image` callback of the evaluation of bicubic: writes the versions of each image to `file` as data URIs.

    Leaves out images with which `file` would exceed `limit` bytes. `sizes`: (width, height) of each image; `embedded`: whether
    its versions were embedded.
    """

    def __init__(self, folder: Path, file: IO[bytes], limit: int):
        self.folder, self.file, self.left = folder, file, limit
        self.sizes: list[tuple[int, int]] = []
        self.embedded: list[bool] = []

    def __call__(self, pair: ImagePair, bicubic: np.ndarray, hr: np.ndarray) -> None:
        index = len(self.sizes)
        self.sizes.append((hr.shape[1], hr.shape[0]))
        pieces = self._pieces(index, pair, bicubic, hr)
        self.embedded.append(bool(pieces))
        self.left -= sum(map(len, pieces))
        self.file.writelines(pieces)

    def _pieces(self, index: int, pair: ImagePair, bicubic: np.ndarray, hr: np.ndarray) -> list[bytes]:
        """A script element with a data URI for each of the four versions of an image; nothing if they do not fit."""
        files = self.folder / "SR" / pair.sr_name, self.folder / "HR" / f"{pair.hr_path.stem}.png"
        if sum(file.stat().st_size for file in files) * 4 / 3 > self.left:
            return []
        pngs = {
            "bicubic": encode_png(Image.fromarray(bicubic)),
            "sr": files[0].read_bytes(),
            "hr": files[1].read_bytes(),
            "error": encode_png(error_map(read_rgb(files[0]), hr)),
        }
        pieces = [
            f'<script type="text/plain" id="image-{index}-{kind}">data:image/png;base64,'.encode()
            + base64.b64encode(png)
            + b"</script>\n"
            for kind, png in pngs.items()
        ]
        return pieces if sum(map(len, pieces)) <= self.left else []


def error_map(sr: np.ndarray, hr: np.ndarray) -> Image.Image:
    """|SR - HR| on Y as in the PSNR, times `AMPLIFY`, as an image with the palette `COLORS`; inputs are uint8 HxWx3."""
    shown = np.empty(sr.shape[:2], np.uint8)
    for top in range(0, len(sr), ROWS):  # in strips, since float64 takes much memory
        error = np.abs(rgb_to_y(sr[top : top + ROWS]) - rgb_to_y(hr[top : top + ROWS]))
        shown[top : top + ROWS] = np.minimum(error * AMPLIFY, 255)
    image = Image.fromarray(shown)
    image.putpalette(COLORS.tobytes())
    return image


def encode_png(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def page_fields(
    metadata: dict, test_set: BenchmarkSet, result: EvalResult, bicubic: EvalResult, embed: Embedder
) -> dict[str, str]:
    """The values of the template's placeholders, as HTML with all file names escaped."""
    run = Path(metadata["checkpoint"]).stem if metadata.get("checkpoint") else metadata["model"]
    run += " + self-ensemble" if metadata.get("self_ensemble") else ""
    mean = image_scores(result.mean, bicubic.mean)
    left_out = embed.embedded.count(False)
    stops = [f"rgb({','.join(map(str, COLORS[at]))})" for at in range(0, 256, 17)]
    rows = [
        image_row(index, Path(row.name).stem, image_scores(row, base), embed)
        for index, (row, base) in enumerate(zip(result.rows, bicubic.rows, strict=True))
    ]
    return {
        **shared_fields(f"{test_set.name} x{test_set.scale}, {run}"),
        "scale": str(test_set.scale),
        "psnr": text("psnr", mean["psnr"]),
        "ssim": text("ssim", mean["ssim"]),
        "gain": text("gain", mean["gain"]),
        "rows": "\n".join(rows),
        "mean": cells(mean),
        "count": f"{len(rows)} image" + "s" * (len(rows) != 1),
        "left_out": f" {left_out} of the images are not embedded, to keep this file small." if left_out else "",
        "run_details": "\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in run_details(metadata)
        ),
        "gradient": ", ".join(stops),
        "error_top": str(round(255 / AMPLIFY)),
    }


def image_scores(row: ImageResult, bicubic: ImageResult) -> dict[str, float]:
    """The scores of an image in the order of the table's columns. `gain`: PSNR minus that of bicubic, in dB."""
    ours, base = row.scores, bicubic.scores
    return {
        "bicubic_psnr": base.psnr,
        "bicubic_ssim": base.ssim,
        "psnr": ours.psnr,
        "ssim": ours.ssim,
        "gain": ours.psnr - base.psnr if ours.psnr != base.psnr else 0.0,  # inf - inf is NaN
        "psnr_rgb": ours.psnr_rgb,
        "seconds": row.seconds,
    }


def image_row(index: int, name: str, values: dict[str, float], embed: Embedder) -> str:
    """A row of the table. Its data-* attributes describe the embedded images for the viewer."""
    width, height = embed.sizes[index]
    left_out = "" if embed.embedded[index] else " data-left-out"
    return (
        f'<tr data-index="{index}" data-width="{width}" data-height="{height}"{left_out}>'
        f'<th scope="row"><button type="button">{escape(name)}</button></th>{cells(values)}</tr>'
    )


def cells(values: dict[str, float]) -> str:
    """Table cells: rounded for display, unrounded for sorting."""
    return "".join(number_cell(text(name, value), value) for name, value in values.items())


def text(name: str, value: float) -> str:
    """A score formatted for display, as HTML."""
    return html_number(format(value, FORMATS.get(name, ".2f")))


def run_details(metadata: dict) -> list[tuple[str, str]]:
    """The description of the run for display, such as ("self ensemble", "no")."""
    words = {True: "yes", False: "no"}
    return [
        (name.replace("_", " "), words[value] if isinstance(value, bool) else str(value))
        for name, value in metadata.items()
        if value is not None
    ]
