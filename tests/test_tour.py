"""The notebook docs/tour.ipynb runs from its first cell to its last, and the outputs stored in it are those of this code."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

NOTEBOOK = ROOT / "docs/tour.ipynb"
NUMBER = re.compile(r"\d+(?:,\d+)*(?:\.\d+)?(?:e[-+]\d+)?")
RUN = "run: python docs/run_tour.py"


def outputs_of(file, kind):
    """The outputs of one type of each code cell."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[output for output in cell["outputs"] if output["output_type"] == kind] for cell in cells]


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    """The notebook with the outputs of this run."""
    pytest.importorskip("matplotlib")
    file = tmp_path_factory.mktemp("tour") / "tour.ipynb"
    subprocess.run([sys.executable, ROOT / "docs/run_tour.py", "--out", file], check=True)
    return file


def test_what_the_cells_print_is_stored(remade):
    """But for rounding: sums are computed in another order on another CPU."""
    texts = [
        "".join(line for cell in outputs_of(file, "stream") for output in cell for line in output["text"])
        for file in (NOTEBOOK, remade)
    ]
    assert NUMBER.sub("#", texts[0]) == NUMBER.sub("#", texts[1]), RUN
    stored, made = ([float(each.replace(",", "")) for each in NUMBER.findall(text)] for text in texts)
    assert stored == pytest.approx(made, rel=0.07, abs=1e-6), RUN
    scores = re.findall(r"^(bicubic|CFSRCNN) +(\S+) dB, SSIM (\S+)", texts[1], re.MULTILINE)
    (_, *bicubic), (_, *ours) = scores
    assert float(ours[0]) > float(bicubic[0]) + 1 and float(ours[1]) > float(bicubic[1])
    assert len(re.findall(r"mean \|x\|", texts[1])) == 17 + 5 and "1,310,336 parameters" in texts[1]


def test_the_figures_are_stored(remade):
    """But for fonts, which differ between versions of Matplotlib."""
    cells = [outputs_of(file, "display_data") for file in (NOTEBOOK, remade)]
    assert [len(cell) for cell in cells[0]] == [len(cell) for cell in cells[1]], RUN
    stored, made = ([decode(output) for cell in each for output in cell] for each in cells)
    assert len(made) == 2
    for before, after in zip(stored, made, strict=True):
        assert before.shape == after.shape and np.abs(before - after).mean() < 5, RUN


def test_the_notebook_stays_small():
    assert NOTEBOOK.stat().st_size < 300_000


def decode(output):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(output["data"]["image/jpeg"])))).astype(float)
