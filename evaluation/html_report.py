"""The benchmark's `report.html`: one file that opens from disk, with a sortable table and the pictures side by side.

For each image it embeds bicubic, SR, HR and the error map as PNG, all lossless, until they come to 64 MiB of text in all
(`LIMIT`): a picture that is compared by eye for its last detail must not be a lossy preview. An image that no longer fits
keeps its figures and says which files to open instead. Layout and behaviour are in `report_template.html`, what it shares
with other pages in `page.py`.
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

from common.files import whole_file
from dataset.images import read_rgb
from dataset.testset import TestPair, TestSet
from evaluation.benchmark import Result, Row, evaluate
from evaluation.inference import BicubicUpscaler
from evaluation.metrics import rgb_to_y
from evaluation.page import number_cell, readable, shared_fields

REPORT = "report.html"
LIMIT = 64 << 20  # bytes of embedded pictures, as base64
ROWS = 256  # of an error map, computed at once
AMPLIFY = 8  # the error map's last colour stands for 255 / 8, about 32 levels of Y, and more
COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]  # 256x3, RGB
FORMATS = {"bicubic_ssim": ".4f", "ssim": ".4f", "gain": "+.2f"}  # all others: two decimals
TEMPLATE = Path(__file__).with_name("report_template.html")


def write_report(folder: Path, about: dict, test_set: TestSet, result: Result, limit: int = LIMIT) -> Result:
    """Writes `folder`/report.html on a run whose pictures lie in `folder`/SR and /HR, and returns bicubic's figures.

    `about`: what `results.json` says of the run. Bicubic is made and measured here, one image at a time.
    """
    with whole_file(folder / REPORT) as temporary, tempfile.TemporaryFile(dir=folder) as pictures:
        embed = Embedder(folder, pictures, limit)
        bar = f"report on {test_set.name} x{test_set.scale}"
        bicubic = evaluate(BicubicUpscaler(test_set.scale), test_set, embed, check_lr=False, bar=bar)
        fields = page_fields(about, test_set, result, bicubic, embed)
        before, after = TEMPLATE.read_text(encoding="utf-8").split("$pictures")
        with open(temporary, "wb") as file:
            file.write(Template(before).substitute(fields).encode("utf-8", "replace"))
            pictures.seek(0)
            shutil.copyfileobj(pictures, file)
            file.write(Template(after).substitute(fields).encode("utf-8", "replace"))
    return bicubic


class Embedder:
    """The `keep` of an evaluation of bicubic: writes each image's pictures to `file` as data URIs while `limit` allows.

    `sizes`: (width, height) of each image seen; `embedded`: whether its pictures are in.
    """

    def __init__(self, folder: Path, file: IO[bytes], limit: int):
        self.folder, self.file, self.left = folder, file, limit
        self.sizes: list[tuple[int, int]] = []
        self.embedded: list[bool] = []

    def __call__(self, pair: TestPair, bicubic: np.ndarray, hr: np.ndarray) -> None:
        index = len(self.sizes)
        self.sizes.append((hr.shape[1], hr.shape[0]))
        pieces = self._pieces(index, pair, bicubic, hr)
        self.embedded.append(bool(pieces))
        self.left -= sum(map(len, pieces))
        self.file.writelines(pieces)

    def _pieces(self, index: int, pair: TestPair, bicubic: np.ndarray, hr: np.ndarray) -> list[bytes]:
        """A script element that holds nothing but a data URI for each of the four pictures; none where they don't fit."""
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
            f'<script type="text/plain" id="picture-{index}-{kind}">data:image/png;base64,'.encode()
            + base64.b64encode(png)
            + b"</script>\n"
            for kind, png in pngs.items()
        ]
        return pieces if sum(map(len, pieces)) <= self.left else []


def error_map(sr: np.ndarray, hr: np.ndarray) -> Image.Image:
    """|SR - HR| on Y as in the PSNR, times `AMPLIFY`, as a picture with a palette of `COLOURS`; uint8 HxWx3 each."""
    shown = np.empty(sr.shape[:2], np.uint8)
    for top in range(0, len(sr), ROWS):  # a large image needs little in float64
        error = np.abs(rgb_to_y(sr[top : top + ROWS]) - rgb_to_y(hr[top : top + ROWS]))
        shown[top : top + ROWS] = np.minimum(error * AMPLIFY, 255)
    image = Image.fromarray(shown)
    image.putpalette(COLOURS.tobytes())
    return image


def encode_png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def page_fields(about: dict, test_set: TestSet, result: Result, bicubic: Result, embed: Embedder) -> dict[str, str]:
    """What the template's $names stand for; each is HTML, with everything that came from a file's name escaped."""
    run = Path(about["checkpoint"]).stem if about.get("checkpoint") else about["model"]
    run += " + self-ensemble" if about.get("self_ensemble") else ""
    mean = figures(result.mean, bicubic.mean)
    left_out = embed.embedded.count(False)
    stops = [f"rgb({','.join(map(str, COLOURS[at]))})" for at in range(0, 256, 17)]
    rows = [
        image_row(index, Path(row.name).stem, figures(row, base), embed)
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
        "left_out": f" The pictures of {left_out} are not embedded, to keep this file small." if left_out else "",
        "facts": "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts(about)),
        "gradient": ", ".join(stops),
        "error_top": str(round(255 / AMPLIFY)),
    }


def figures(row: Row, bicubic: Row) -> dict[str, float]:
    """An image's figures in the order of the table's columns; `gain`: PSNR over bicubic in dB."""
    ours, base = row.quality, bicubic.quality
    return {
        "bicubic_psnr": base.psnr,
        "bicubic_ssim": base.ssim,
        "psnr": ours.psnr,
        "ssim": ours.ssim,
        "gain": ours.psnr - base.psnr if ours.psnr != base.psnr else 0.0,  # inf - inf would be no number
        "psnr_rgb": ours.psnr_rgb,
        "seconds": row.seconds,
    }


def image_row(index: int, name: str, values: dict[str, float], embed: Embedder) -> str:
    """A row of the table; its data-* attributes tell the viewer of the pictures."""
    width, height = embed.sizes[index]
    left_out = "" if embed.embedded[index] else " data-left-out"
    return (
        f'<tr data-index="{index}" data-width="{width}" data-height="{height}"{left_out}>'
        f'<th scope="row"><button type="button">{escape(name)}</button></th>{cells(values)}</tr>'
    )


def cells(values: dict[str, float]) -> str:
    """Table cells: rounded to read, unrounded to sort by."""
    return "".join(number_cell(text(name, value), value) for name, value in values.items())


def text(name: str, value: float) -> str:
    """A figure as it is read, as HTML."""
    return readable(format(value, FORMATS.get(name, ".2f")))


def facts(about: dict) -> list[tuple[str, str]]:
    """All that is known of the run, to be read by people: ("self ensemble", "no")."""
    said = {True: "yes", False: "no"}
    return [
        (name.replace("_", " "), said[value] if isinstance(value, bool) else str(value))
        for name, value in about.items()
        if value is not None
    ]
