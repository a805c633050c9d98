"""`python -m evaluation.paper` for some of the sets and scales, and for one's own network beside ours."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

import evaluation.paper.methods
from dataset.benchmark_set import open_test_set
from dataset.image_writer import write_png
from dataset.images import list_images
from dataset.prepare import prepare
from evaluation import complexity
from evaluation.evaluate import evaluate
from evaluation.paper import paper_results
from inference.upscaler import NetworkUpscaler
from model import create_model
from model.checkpoint import load_model, save_state_dict

MINE = """
import torch


class Net(torch.nn.Module):
    def __init__(self, scale, multi_scale, group):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3 * scale**2, 3, padding=1)

    def forward(self, x, scale):
        return torch.nn.functional.pixel_shuffle(self.conv(x), scale)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory, image_folder) -> Path:
    """Set5 and B100 at x2 and x4, of one small photograph each."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("Set5", "B100")):
        prepare(list_images(image_folder)[number : number + 1], folder / name, [2, 4])
    return folder


@pytest.fixture(scope="module")
def counted() -> dict:
    return complexity.count_all()


@pytest.fixture
def argv(checkpoint, data, tmp_path, monkeypatch, counted, one_thread):
    """The command with the x2 network on two sets; what does not change from run to run is counted once."""
    monkeypatch.setattr(complexity, "count_all", lambda: counted)
    folders = ["--checkpoints", checkpoint, "--data", data, "--out", tmp_path / "out"]
    return ["-m", "evaluation.paper", *folders, "--no_self_ensemble", "--device", "cpu"]


@pytest.fixture
def mine(plug_in, tmp_path):
    """`mine("name", 2)`: the file NAME_x2.pth, weights of the network model/NAME.py, in tmp_path/peers."""

    def write(name: str, scale: int, file: str = "") -> Path:
        plug_in(name, MINE)
        torch.manual_seed(len(name) + scale)
        path = tmp_path / "peers" / (file or f"{name}_x{scale}.pth")
        save_state_dict(create_model(name, scale).state_dict(), path)
        return path

    return write


def records(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def measured(out: str) -> list[str]:
    """What was measured, such as "Set5 x2 Bicubic", in this order."""
    return [line.partition(":")[0] for line in out.splitlines() if " dB / " in line]


def test_only_the_named_sets_and_scales_are_measured_and_listed(command, argv, tmp_path):
    outcome = command(*argv, "--sets", "bsd100", "--scales", 4, 2, 4)
    assert outcome.code == 0, outcome.err
    assert measured(outcome.out) == ["B100 x2 Bicubic", "B100 x2 CFSRCNN (net)", "B100 x4 Bicubic"]
    tables = {file.stem for file in (tmp_path / "out").glob("*.csv")}
    assert tables == {"overview", "table6_b100", "table9_runtime", "table10_complexity", "complexity_scales"}
    rows = records(tmp_path / "out/table6_b100.csv")
    assert list(rows[0])[3:] == ["x2_psnr", "x2_ssim", "x2_db_to_paper", "x4_psnr", "x4_ssim", "x4_db_to_paper"]
    assert len(rows) == len(paper_results.scores("B100")) + 2
    text = (tmp_path / "out/tables.md").read_text()
    assert "for x2 and x4 upscaling on B100" in text and "Set14" not in text and "x3" not in text.split("Table IX")[0]
    overview = records(tmp_path / "out/overview.csv")
    assert [(row["dataset"], row["scale"]) for row in overview] == [("B100", "2"), ("B100", "4")]
    outcome = command(*argv, "--scales", 2)
    assert [line for line in measured(outcome.out) if "Bicubic" in line] == ["Set5 x2 Bicubic", "B100 x2 Bicubic"]
    assert outcome.out.count(", cached") == 2  # of another choice


@pytest.mark.parametrize("protocol", ["paper", "rounded"])
def test_each_table_says_whether_it_is_measured_like_the_papers(command, argv, tmp_path, protocol):
    assert command(*argv, "--sets", "Set5", "--scales", 2, "--protocol", protocol).code == 0
    for name in ("overview.md", "overview.tex", "table4_set5.md", "table4_set5.tex"):
        text = (tmp_path / "out" / name).read_text()
        assert ("the paper truncates SR to 8 bits: not comparable" in text) == (protocol == "rounded"), name


def test_an_unknown_set_or_scale_is_one_line(expect_error, argv, tmp_path):
    expect_error("Set6 is none of Set5, Set14, B100, Urban100, 720p", *argv, "--sets", "Set5", "Set6")
    expect_error("invalid choice: 5 (choose from 2, 3, 4)", *argv, "--scales", 2, 5)
    assert not (tmp_path / "out").exists()


def test_a_named_set_or_scale_that_is_missing_does_not_go_unnoticed(expect_error, argv, data, tmp_path):
    line = expect_error("Set14 is not in", *argv, "--sets", "Set5", "Set14", "--scales", 2)
    assert f"`python -m dataset.download Set14 --out {data} --scales 2`" in line
    assert records(tmp_path / "out/table4_set5.csv")[-1]["x2_psnr"]
    expect_error(f"Set5 in {data} has no x3", *argv, "--sets", "Set5", "--scales", 3)


def test_a_network_that_does_not_upscale_by_its_scale_is_named(expect_error, argv, plug_in, tmp_path):
    plug_in("twice", MINE.replace("3 * scale**2", "12").replace("self.conv(x), scale", "self.conv(x), 2"))
    file = tmp_path / "peers/twice_x4.pth"
    save_state_dict(create_model("twice", 4).state_dict(), file)
    line = expect_error("it does not upscale by 4", *argv, "--sets", "Set5", "--scales", 4, "--peers", file)
    assert f"{file} (model/twice.py): the network made" in line


def test_ones_own_network_gets_a_row_beside_ours(command, argv, data, mine, tmp_path):
    files = [mine("mine", 2), mine("mine", 4)]
    argv += ["--sets", "Set5", "--peers", tmp_path / "peers"]
    outcome = command(*argv)
    assert outcome.code == 0, outcome.err
    rows = records(tmp_path / "out/table4_set5.csv")[-3:]
    assert [row["model"] for row in rows] == ["Bicubic", "CFSRCNN (net)", "mine"]
    for scale, file in zip((2, 4), files, strict=True):
        upscale = NetworkUpscaler(load_model(file, "mine", scale), scale)
        scores = evaluate(upscale, open_test_set(data / "Set5", scale)).mean.scores
        assert float(rows[-1][f"x{scale}_psnr"]) == pytest.approx(scores.psnr, abs=1e-4)
    assert rows[-1]["x2_db_to_paper"] == "" and "mine" not in (tmp_path / "out/overview.md").read_text()


def test_its_results_are_measured_again_if_its_code_changes(command, argv, mine, plug_in, tmp_path):
    """Also in modules that it imports, and if `Net` is not a class of its own module."""
    mine("mine", 2)
    argv += ["--sets", "Set5", "--scales", 2, "--peers", tmp_path / "peers"]
    half, imports = (
        MINE.replace("self.conv(x)", "self.conv(x) * 0.5"),
        "from . import mine_b\nNet = lambda **how: mine_b.Net(**how)",
    )
    psnr = []
    for mine_b, source in ("", MINE), ("", MINE), ("", half), (MINE, imports), (MINE, imports), (half, imports):
        plug_in("mine_b", mine_b)
        plug_in("mine", source)
        outcome = command(*argv)
        assert outcome.code == 0, outcome.err
        psnr.append((records(tmp_path / "out/table4_set5.csv")[-1]["x2_psnr"], outcome.out.count(", cached")))
    full, other = psnr[0][0], psnr[2][0]
    assert full != other and psnr == [(full, 0), (full, 3), (other, 2), (full, 2), (full, 3), (other, 2)]


def test_a_training_run_of_ones_own_network_is_found_by_its_last_step(command, argv, mine, tmp_path):
    mine("mine", 2, "mine_500.pth")
    last = mine("mine", 2, "mine_1000.pth")
    mine("mine_b", 2, "mine_b_x2.pth")
    mine("mine", 2, "other/mine_x2.safetensors")
    outcome = command(*argv, "--sets", "Set5", "--peers", tmp_path / "peers")
    assert outcome.code == 0 and f"skipped 1 earlier step of {last}" in outcome.out, outcome.err
    rows = [name.removeprefix("Set5 x2 ") for name in measured(outcome.out) if "x2" in name]
    assert rows[2:] == ["mine", "mine (other/mine_x2.safetensors)", "mine_b"]


def test_a_single_file_of_ones_own_network_is_taken(command, argv, mine):
    outcome = command(*argv, "--sets", "Set5", "--scales", 2, "--peers", mine("mine", 2))
    assert measured(outcome.out)[2:] == ["Set5 x2 mine"]


def test_a_network_may_be_named_like_a_published_one_and_more(command, argv, mine):
    outcome = command(*argv, "--sets", "Set5", "--scales", 2, "--peers", mine("rlfn_wide", 2))
    assert measured(outcome.out)[2:] == ["Set5 x2 rlfn_wide"], outcome.err


def test_weights_that_do_not_fit_ones_own_network_are_one_line(expect_error, argv, mine, checkpoint, tmp_path):
    mine("mine", 2)
    shutil.copy(checkpoint, tmp_path / "peers/mine_x4.pth")
    shutil.copy(checkpoint, tmp_path / "peers/mine_9.pth")
    line = expect_error("mine_x4.pth does not fit --model mine --scale 4", *argv, "--peers", tmp_path / "peers")
    assert line.count("does not fit") == 2 and "mine_9.pth does not fit --model mine" in line
    assert records(tmp_path / "out/table4_set5.csv")[-1]["x2_psnr"]


def test_why_the_images_of_others_belong_to_no_set_is_said(expect_error, argv, data, tmp_path):
    def refused(why: str) -> None:
        line = expect_error(why, *argv, "--scales", 2, "--compare", f"EDSR={tmp_path / 'theirs'}")
        assert f"--compare EDSR={tmp_path / 'theirs'}: holds SR images of none" in line and "(Set5 x2, B100 x2)" in line

    pair = open_test_set(data / "Set5", 2).pairs[0]
    place = tmp_path / "theirs/x2/SR"
    place.mkdir(parents=True)
    refused(f"{tmp_path / 'theirs'} has neither {pair.sr_name} nor")
    refused("it holds no images, nor do SET/x2/SR, SET/x2, x2/SR, x2 and SR in it")
    write_png(place / "other.png", pair.read()[0])
    refused(f"{place} has neither {pair.sr_name} nor")
    refused("it holds images of other names or suffixes, such as other.png")
    write_png(place / pair.sr_name, pair.read()[1])
    refused(f"{place / pair.sr_name} is 36x30, but {pair.hr_path.name} 72x60")


@pytest.mark.parametrize("lacking", [0, 1])
def test_an_image_of_others_that_is_missing_at_one_scale_does_not_go_unnoticed(
    expect_error, argv, image_folder, tmp_path, lacking
):
    prepare(list_images(image_folder)[:2], tmp_path / "two/Set5", [2, 4])
    for scale in (2, 4):
        for number, pair in enumerate(open_test_set(tmp_path / "two/Set5", scale).pairs):
            if (scale, number) == (4, lacking):
                missing = pair.sr_name
            else:
                write_png(tmp_path / f"theirs/x{scale}" / pair.sr_name, pair.read()[0])
    argv += ["--data", tmp_path / "two", "--compare", f"EDSR={tmp_path / 'theirs'}"]
    expect_error(f"{tmp_path / 'theirs/x4'} has neither {missing} nor", *argv)
    last = records(tmp_path / "out/table4_set5.csv")[-1]
    assert last["model"] == "EDSR" and last["x2_psnr"] == "inf" and last["x4_psnr"] == ""


def test_weights_replaced_meanwhile_are_not_measured_as_the_former_ones(
    expect_error, command, argv, checkpoint, tmp_path, monkeypatch
):
    weights, other = tmp_path / "weights/x2/cfsrcnn_x2.pth", load_model(checkpoint)
    other.frb.conv.weight.data *= 0.9
    weights.parent.mkdir(parents=True)
    shutil.copy(checkpoint, weights)

    def replacing(upscale, *args, **kwargs):
        save_state_dict(other.state_dict(), weights)
        return evaluate(upscale, *args, **kwargs)

    argv = [*argv, "--checkpoints", weights.parent, "--sets", "Set5", "--scales", 2]
    monkeypatch.setattr(evaluation.paper.methods, "evaluate", replacing)
    expect_error(f"{weights} was replaced while this command ran: run it again", *argv)
    lines = command(*argv).out.splitlines()
    bicubic, ours = (
        next(each for each in lines if each.startswith(f"Set5 x2 {row}:")) for row in ("Bicubic", "CFSRCNN")
    )
    assert bicubic.endswith(", cached") and not ours.endswith(", cached")
