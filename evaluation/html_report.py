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
import time
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np
from PIL import Image

from common.files import atomic_write
from dataset.benchmark_set import BenchmarkSet, ImagePair
from evaluation.evaluate import EvalResult, ImageResult, mean_row
from evaluation.metrics import compute_scores, rgb_to_y
from evaluation.page import html_number, number_cell, shared_fields
from inference.upscaler import BicubicUpscaler

REPORT = "report.html"
LIMIT = 64 << 20  # bytes of embedded images, as base64
ROWS = 256  # of an error map, computed at once
AMPLIFY = 8  # the last color of the error map stands for an error of 255 / 8, about 32 levels of Y, or more
COLORS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]  # 256x3, RGB
FORMATS = {"bicubic_ssim": ".4f", "ssim": ".4f", "gain": "+.2f"}  # all others: two decimals
TEMPLATE = Path(__file__).with_name("report_template.html")


class Report:
    """A context manager that gathers the images of a run while it is measured, and then writes `folder`/report.html.

    Bicubic is computed and measured here. Images with which the embedded ones would exceed `limit` bytes are left out. `sizes`:
    (width, height) of each image; `embedded`: whether its versions were embedded.
    """

    def __init__(self, folder: Path, scale: int, limit: int = LIMIT):
        self._folder, self._upscale, self._left = folder, BicubicUpscaler(scale), limit
        self._rows: list[ImageResult] = []
        self._failure: OSError | None = None
        self.sizes: list[tuple[int, int]] = []
        self.embedded: list[bool] = []

    def __enter__(self) -> Report:
        self._images = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the disk is full, which `write` has reported
            self._images.close()

    def add(self, pair: ImagePair, hr: np.ndarray, lr: np.ndarray, sr: np.ndarray, pngs: dict[str, bytes]) -> None:
        """Adds the next image, uint8 HxWx3. `pngs`: "sr" and "hr" as PNG. A full disk is reported by `write` alone."""
        start = time.perf_counter()
        bicubic = self._upscale(lr)
        seconds = time.perf_counter() - start
        self._rows.append(ImageResult(pair.sr_name, compute_scores(bicubic, hr, pair.scale), seconds))
        pieces = self._pieces(len(self.sizes), hr, bicubic, sr, pngs)
        self.sizes.append((hr.shape[1], hr.shape[0]))
        self.embedded.append(bool(pieces))
        self._left -= sum(map(len, pieces))
        try:
            if not self._failure:
                self._images.writelines(pieces)
        except OSError as error:
            self._failure = error

    def _pieces(
        self, index: int, hr: np.ndarray, bicubic: np.ndarray, sr: np.ndarray, pngs: dict[str, bytes]
    ) -> list[bytes]:
        """A script element with a data URI for each of the four versions of an image; nothing if they do not fit."""
        if sum(map(len, pngs.values())) * 4 / 3 > self._left:
            return []
        versions = {
            "bicubic": encode_png(Image.fromarray(bicubic)),
            "sr": pngs["sr"],
            "hr": pngs["hr"],
            "error": encode_png(error_map(sr, hr)),
        }
        pieces = [
            f'<script type="text/plain" id="image-{index}-{kind}">data:image/png;base64,'.encode()
            + base64.b64encode(png)
            + b"</script>\n"
            for kind, png in versions.items()
        ]
        return pieces if sum(map(len, pieces)) <= self._left else []

    def baseline(self) -> EvalResult:
        """The result of bicubic on the images added."""
        return EvalResult(self._rows, mean_row(self._rows), 0.0)

    def write(self, metadata: dict, test_set: BenchmarkSet, result: EvalResult) -> None:
        """Writes the report. `metadata`: the description of the run in `results.json`."""
        with atomic_write(self._folder / REPORT) as temporary:
            if self._failure:
                raise self._failure
            fields = page_fields(metadata, test_set, result, self)
            before, after = TEMPLATE.read_text(encoding="utf-8").split("$images")
            with open(temporary, "wb") as file:
                file.write(Template(before).substitute(fields).encode("utf-8", "replace"))
                self._images.seek(0)
                shutil.copyfileobj(self._images, file)
                file.write(Template(after).substitute(fields).encode("utf-8", "replace"))


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


def page_fields(metadata: dict, test_set: BenchmarkSet, result: EvalResult, report: Report) -> dict[str, str]:
    """The values of the template's placeholders, as HTML with all file names escaped."""
    run = Path(metadata["checkpoint"]).stem if metadata.get("checkpoint") else metadata["model"]
    run += " + self-ensemble" if metadata.get("self_ensemble") else ""
    bicubic = report.baseline()
    mean = image_scores(result.mean, bicubic.mean)
    left_out = report.embedded.count(False)
    stops = [f"rgb({','.join(map(str, COLORS[at]))})" for at in range(0, 256, 17)]
    rows = [
        image_row(index, Path(row.name).stem, image_scores(row, base), report)
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


def image_row(index: int, name: str, values: dict[str, float], report: Report) -> str:
    """A row of the table. Its data-* attributes describe the embedded images for the viewer."""
    width, height = report.sizes[index]
    left_out = "" if report.embedded[index] else " data-left-out"
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
