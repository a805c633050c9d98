"""Runs `docs/tour.ipynb` and stores its outputs in it, for readers who see the notebook without running it.

Command line: `python docs/run_tour.py [--out FILE]`. Needs Matplotlib, but no Jupyter: each cell is plain Python.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a file, from any folder

from common.cli import CliParser
from common.device import import_optional
from common.errors import run_cli
from common.files import atomic_write

NOTEBOOK = Path(__file__).resolve().parent / "tour.ipynb"
DPI = 80  # of the stored images, JPEG, which keeps the file small


def run_tour() -> dict:
    """The notebook with the outputs of its cells, which run one after the other in one namespace."""
    import_optional("matplotlib", "the tour")
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), names)
        outputs: list[dict[str, Any]] = []
        if text := printed.getvalue():
            outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
        for figure in map(pyplot.figure, pyplot.get_fignums()):
            outputs.append({"data": _encode(figure), "metadata": {}, "output_type": "display_data"})
        pyplot.close("all")
        cell["execution_count"], cell["outputs"] = number, outputs
    return notebook


def _encode(figure: Any) -> dict:
    """A Matplotlib figure as the data of a notebook's output."""
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=DPI)
    size = "x".join(str(round(side * DPI)) for side in figure.get_size_inches())
    return {"image/jpeg": base64.b64encode(file.getvalue()).decode(), "text/plain": [f"<Figure size {size}>"]}


def main() -> None:
    parser = CliParser(prog="python docs/run_tour.py", description="Store the outputs of the notebook in it.")
    parser.add_argument("--out", type=Path, default=NOTEBOOK, help="the file to write")
    out = parser.parse_args().out.absolute()
    os.chdir(NOTEBOOK.parent)  # in which the first cell looks for the code
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(run_tour(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
