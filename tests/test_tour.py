"""The notebook docs/tour.ipynb runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import json
import sys

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "docs/tour.ipynb"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    """The code cells."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stripped(cells):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_every_cell_runs(cells, monkeypatch, capsys):
    """Each cell is plain Python, so they run one after the other in one namespace, without a kernel."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), names)
    assert len(pyplot.get_fignums()) == 2
    pyplot.close("all")
    scores = names["scores"]
    assert scores["CFSRCNN"].psnr > scores["bicubic"].psnr + 1 and scores["CFSRCNN"].ssim > scores["bicubic"].ssim
    assert len(names["features"]) == 17 + 5 and "1,310,336 parameters" in capsys.readouterr().out
