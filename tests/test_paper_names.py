"""The paper's numbers, the names of its test sets, and how names are written into tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.tables import Table, to_latex, to_markdown
from dataset.benchmark_set import available_scales
from evaluation.paper import paper_results
from evaluation.paper.discovery import find_sets, known_set


def test_the_papers_numbers_are_all_there():
    sizes = {"Set5": 29, "Set14": 29, "B100": 28, "Urban100": 25, "720p": 3}
    assert {name: len(paper_results.scores(name)) for name in sizes} == sizes
    assert paper_results.scores("B100")["CFSRCNN"][4] == paper_results.PaperScore(27.53, 0.7333)
    assert paper_results.scores("Set5")["BTSRN"][2] == paper_results.PaperScore(37.75, None)
    assert 3 not in paper_results.scores("Urban100")["LapSRN"]
    assert paper_results.runtime()["DRRN"] == ["3.063", "8.050", "25.23"]
    assert paper_results.complexity()["CARN-M"] == ("412", "2.50") and len(paper_results.complexity()) == 10


def test_special_characters_are_escaped():
    cells = [r"a_b & 50% $ #1 {~^\} x2 77x77 net_x2", "-1.25", "30.00/0.9000 (-0.16)", "-"]
    table = Table("odd", "Table I. 100%", [(name, "") for name in "abcd"], [cells], 0, [{"a": 1}], 1, ["a\nnote"])
    latex = to_latex(table)
    special = r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"
    assert (
        rf"a\_b \& 50\% \$ \#1 {special} $\times2$ 77$\times$77 net\_x2 & $-1.25$ & 30.00/0.9000 ($-0.16$) & -- \\"
        in latex
    )
    assert r"\caption{100\%}" in latex and latex.startswith("% a note\n")
    assert r"a\|b" in to_markdown(Table("odd", "", [("a", "")], [["a|b"]], 1, [{}]))


def test_the_usual_folder_names_are_known(tmp_path):
    for name, folder in (
        ("B100", "BSDS100"),
        ("Urban100", "urban100"),
        ("720p", "DIV2K-720p"),
        ("Set14", "benchmark/Set14"),
    ):
        (tmp_path / folder / "HR").mkdir(parents=True)
        assert known_set(Path(folder).name).name == name
        assert find_sets(tmp_path)[name] == tmp_path / folder
    assert known_set("Manga109") is None
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "BSDS100/HR/a.png")
    assert available_scales(tmp_path / "BSDS100") == [2, 3, 4] and available_scales(tmp_path / "urban100") == []
    (tmp_path / "BSDS100/LR_bicubic/X3").mkdir(parents=True)
    assert available_scales(tmp_path / "BSDS100") == [3]
