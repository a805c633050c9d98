"""The image of the network: it is what `docs/draw_network.py` draws, and has the layers of the network."""

from __future__ import annotations

from xml.etree import ElementTree

from conftest import ROOT

from model.cfsrcnn import FEBS

SVG = ROOT / "docs/network.svg"


def test_the_image_in_docs_is_what_the_script_draws(command, tmp_path):
    assert command("docs/draw_network.py", "--out", tmp_path / "network.svg").code == 0
    assert (tmp_path / "network.svg").read_text() == SVG.read_text(), "run: python docs/draw_network.py"


def test_the_boxes_are_named_as_the_classes():
    tree = ElementTree.parse(SVG)
    labels = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {f"FEB {k}" for k in (1, 2, 3, FEBS - 1, FEBS)} <= set(labels)
    assert (labels.count("FEU"), labels.count("CU")) == (5 + 6 + 5, 4)  # in the FEBs drawn, the EB and the FRB
    assert labels.count("UpsampleBlock") == 2 and labels.count("MeanShift") == 2
    for head in (
        "stacked FEBs: 17 blocks, 33 layers",
        "EB: 6 layers",
        "CB: 1 layer (x4: 2)",
        "FRB: 6 layers, at the SR size",
    ):
        assert head in labels


def test_the_image_knows_light_and_dark_and_needs_nothing_else():
    text = SVG.read_text()
    assert "prefers-color-scheme: dark" in text
    assert "href" not in text and "url(" not in text and "<script" not in text
