"""`python -m evaluation.paper`: every table in four formats, nothing measured twice, nothing left out silently."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluation.paper.methods
from common.errors import FailureLog
from dataset.benchmark_set import open_test_set
from dataset.image_writer import write_png
from dataset.images import list_images, read_rgb
from dataset.prepare import prepare
from evaluation import complexity
from evaluation.evaluate import evaluate
from evaluation.paper import paper_results
from evaluation.paper.discovery import find_checkpoints
from inference.upscaler import BicubicUpscaler, NetworkUpscaler
from model import create_model
from model.cfsrcnn import CFSRCNN
from model.checkpoint import load_model, save_state_dict
from model.init import init_weights

NAMES = ["table4_set5", "table5_set14", "table6_b100", "table7_urban100", "table8_720p"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, image_folder) -> Path:
    """`data`/Set5: two small photographs at x2. `weights`/x2/cfsrcnn_x2.pth: a network that roughly passes them on."""
    folder = tmp_path_factory.mktemp("shelf")
    prepare(list_images(image_folder)[:2], folder / "data/Set5", [2])
    torch.manual_seed(0)
    net = CFSRCNN(2)
    init_weights(net, "identity")
    save_state_dict(net.state_dict(), folder / "weights/x2/cfsrcnn_x2.pth")
    return folder


@pytest.fixture(scope="module")
def counted() -> dict:
    return complexity.count_all()


@pytest.fixture
def argv(shelf, tmp_path, monkeypatch, counted, one_thread):
    """The command with one row for our network; what does not change from run to run is counted once."""
    monkeypatch.setattr(complexity, "count_all", lambda: counted)
    folders = ["--checkpoints", shelf / "weights", "--data", shelf / "data", "--out", tmp_path / "out"]
    return ["-m", "evaluation.paper", *folders, "--no_self_ensemble", "--device", "cpu"]


@pytest.fixture
def measured(monkeypatch):
    """What the progress bars of the measurements say, as they come: the row's name, the test set's and the scale."""
    names = []

    def counting(upscale, test_set, **kwargs):
        names.append(kwargs["bar"])
        return evaluate(upscale, test_set, **kwargs)

    monkeypatch.setattr(evaluation.paper.methods, "evaluate", counting)
    return names


def records(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_every_table_is_written_in_four_formats(command, argv, tmp_path):
    outcome = command(*argv)
    assert outcome.code == 0, outcome.err
    whole, page = ((tmp_path / "out" / name).read_text() for name in ("tables.md", "report.html"))
    for name in (*NAMES, "table9_runtime", "table10_complexity", "overview", "complexity_scales"):
        assert (tmp_path / f"out/{name}.md").read_text() in whole
        assert page.count(f'<h2 id="{name}">') == page.count(f'<a href="#{name}">') == 1
        latex = (tmp_path / f"out/{name}.tex").read_text()
        rows = [line for line in latex.splitlines() if line.endswith(r" \\")]
        assert len({line.count(" & ") for line in rows}) == 1
        assert len(rows) in (len(records(tmp_path / f"out/{name}.csv")) + extra for extra in (1, 2))
        assert all(latex.count(rule) == 1 for rule in (r"\toprule", r"\bottomrule", r"\end{table}"))


def test_our_rows_stand_under_the_papers_with_the_difference(command, argv, shelf, tmp_path):
    outcome = command(*argv)
    rows = records(tmp_path / "out/table4_set5.csv")
    assert [row["model"] for row in rows] == [*paper_results.scores("Set5"), "Bicubic", "CFSRCNN"]
    test_set = open_test_set(shelf / "data/Set5", 2)
    net = load_model(shelf / "weights/x2/cfsrcnn_x2.pth", scale=2)
    for row, upscale, paper in ((rows[-2], BicubicUpscaler(2), 33.66), (rows[-1], NetworkUpscaler(net, 2), 37.79)):
        quality = evaluate(upscale, test_set).mean.scores
        assert float(row["x2_psnr"]) == pytest.approx(quality.psnr, abs=1e-4)
        assert float(row["x2_ssim"]) == pytest.approx(quality.ssim, abs=1e-6)
        assert float(row["x2_db_to_paper"]) == pytest.approx(round(quality.psnr, 2) - paper, abs=1e-9)
        assert row["x3_psnr"] == row["x3_db_to_paper"] == ""
    line = f"| **CFSRCNN (measured)** | {quality.psnr:.2f}/{quality.ssim:.4f} | - | - | {quality.psnr - 37.79:+.2f} |"
    assert line in (tmp_path / "out/table4_set5.md").read_text()
    assert f"Set5 x2 CFSRCNN: {quality.psnr:.2f} dB / {quality.ssim:.4f} (paper 37.79" in outcome.out
    assert "Set5 x2 here has 2 images, not 5: not comparable" in (tmp_path / "out/table4_set5.md").read_text()


def test_a_second_run_measures_nothing(command, argv, measured, tmp_path):
    command(*argv)
    first = (tmp_path / "out/tables.md").read_text()
    assert measured == ["Bicubic, Set5 x2", "CFSRCNN, Set5 x2"]
    outcome = command(*argv)
    assert len(measured) == 2 and outcome.out.count(", cached") == 2
    assert (tmp_path / "out/tables.md").read_text() == first
    for number, torn in enumerate((b"{", b"\xff", b"[" * 100_000), 1):  # cut off by a crash, or no result at all
        next((tmp_path / "out/measured").glob("*bicubic*")).write_bytes(torn)
        assert command(*argv).code == 0
        assert measured[2:] == ["Bicubic, Set5 x2"] * number
    for flag in ("--no_cache", "--fresh"):  # the new and the former name
        command(*argv, flag)
    assert len(measured) == 9


def test_each_file_is_decoded_once_for_all_methods(command, argv, measured, shelf, decoded, tmp_path):
    test_set = open_test_set(shelf / "data/Set5", 2)
    for pair in test_set.pairs:
        write_png(tmp_path / "theirs" / pair.sr_name, pair.read()[0])
    argv.remove("--no_self_ensemble")
    decoded.clear()
    outcome = command(*argv, "--compare", f"A={tmp_path / 'theirs'}", "--compare", f"B={tmp_path / 'theirs'}")
    assert outcome.code == 0 and len(measured) == 3 and outcome.out.count("dB / ") == 5
    files = [file for pair in test_set.pairs for file in (pair.hr_path, pair.lr_path)]
    assert sorted(file for file in decoded if file.parent != tmp_path / "theirs") == sorted(files)


def test_what_changed_is_measured_again(command, argv, measured, shelf, tmp_path):
    shutil.copytree(shelf, tmp_path / "shelf")
    argv = [Path(str(arg).replace(str(shelf), str(tmp_path / "shelf"))) for arg in argv]
    command(*argv)
    net = load_model(shelf / "weights/x2/cfsrcnn_x2.pth")
    net.frb.conv.weight.data *= 0.99
    save_state_dict(net.state_dict(), tmp_path / "shelf/weights/x2/cfsrcnn_x2.pth")
    command(*argv)
    assert measured[2:] == ["CFSRCNN, Set5 x2"]
    lr = next((tmp_path / "shelf/data/Set5/x2").glob("*_LR.png"))
    write_png(lr, 255 - read_rgb(lr))
    outcome = command(*argv)
    assert measured[3:] == ["Bicubic, Set5 x2", "CFSRCNN, Set5 x2"] and outcome.code == 0
    assert "are not the benchmarks' resize" in (tmp_path / "out/table4_set5.md").read_text()
    command(*argv, "--protocol", "rounded")
    assert len(measured) == 7


def test_what_is_missing_keeps_its_row_with_the_way_to_get_it(command, argv, shelf, tmp_path):
    command(*argv)
    for name, table in (("Set14", NAMES[1]), ("B100", NAMES[2]), ("Urban100", NAMES[3]), ("720p", NAMES[4])):
        text = (tmp_path / f"out/{table}.md").read_text()
        assert "| **CFSRCNN (measured)** | - | - | - | - | - | - |" in text and f"| {name} |" in text
        get = f"python -m dataset.download {name} --out {shelf / 'data'}"
        if name == "720p":
            get = f"python -m dataset.prepare --hr FOLDER --name 720p --out {shelf / 'data'} --scales 2 3 4"
        assert f"`{get}`" in text
        page = (tmp_path / "out/report.html").read_text()
        section = page[page.index(f'id="{table}"') :].partition("</section>")[0]
        assert f"<li>{name} is not in" in section and f"<code>{get}</code>" in section
        assert re.search(f'href="#{table}">[^<]+</a> <span>.nothing of ours yet', page)
    assert "has no x3: `python -m dataset.download Set5" in (tmp_path / "out/table4_set5.md").read_text()
    assert "`python -m benchmarks.inference --out" in (tmp_path / "out/table9_runtime.md").read_text()
    rows = records(tmp_path / "out/table10_complexity.csv")
    assert [(row["parameters_k"], row["flops_g"]) for row in rows[-3:]] == [
        ("1200", "11.08"),
        ("1310", "11.08"),
        ("1310", "11.95"),
    ]


def test_without_weights_the_rows_stay_empty(command, argv, tmp_path):
    (tmp_path / "empty").mkdir()
    assert command(*argv, "--checkpoints", tmp_path / "empty", "--data", tmp_path / "empty").code == 0
    text = (tmp_path / "out/table4_set5.md").read_text()
    assert "**CFSRCNN (measured)** | - |" in text and "Set5 is not in" in text


def test_the_self_ensemble_has_its_own_row(command, argv, shelf, tmp_path):
    (tmp_path / "data/Set14").mkdir(parents=True)
    hr = read_rgb(next((shelf / "data/Set5/x2").glob("*_HR.png")))[:36, :36]
    write_png(tmp_path / "data/Set14/one.png", hr)  # a folder of HR images has every scale
    argv.remove("--no_self_ensemble")
    command(*argv, "--data", tmp_path / "data")
    rows = records(tmp_path / "out/table5_set14.csv")[-3:]
    assert [row["model"] for row in rows] == ["Bicubic", "CFSRCNN", "CFSRCNN + self-ensemble"]
    assert float(rows[0]["x3_psnr"]) > 10 and rows[1]["x3_psnr"] == ""
    assert rows[2]["x2_psnr"] not in ("", rows[1]["x2_psnr"])
    assert float(rows[2]["x2_db_to_paper"]) == pytest.approx(round(float(rows[2]["x2_psnr"]), 2) - 33.51, abs=0.011)
    assert "no checkpoint for x3 in" in (tmp_path / "out/table5_set14.md").read_text()


@pytest.mark.parametrize("layout", ["Set5/x2", "set5/X2/SR", "x2", "."])
def test_images_of_others_get_a_row(command, argv, shelf, tmp_path, layout):
    test_set = open_test_set(shelf / "data/Set5", 2)
    for pair in test_set.pairs:
        write_png(tmp_path / "theirs" / layout / pair.sr_name, BicubicUpscaler(2)(pair.read()[1]))
    outcome = command(*argv, "--compare", f"VDSR={tmp_path / 'theirs'}", "--compare", f"A & B_2={tmp_path / 'theirs'}")
    assert outcome.code == 0, outcome.err
    *_, bicubic, _, vdsr, other = records(tmp_path / "out/table4_set5.csv")
    assert vdsr["x2_psnr"] == bicubic["x2_psnr"] == other["x2_psnr"] and other["x2_db_to_paper"] == ""
    assert float(vdsr["x2_db_to_paper"]) == pytest.approx(round(float(vdsr["x2_psnr"]), 2) - 37.53, abs=0.011)
    assert r"A \& B\_2 (measured)" in (tmp_path / "out/table4_set5.tex").read_text()


def test_images_equal_to_the_hr_ones_have_no_finite_psnr(command, argv, shelf, tmp_path):
    for pair in open_test_set(shelf / "data/Set5", 2).pairs:
        write_png(tmp_path / "theirs/Set5/x2" / pair.sr_name, pair.read()[0])
    for _ in range(2):
        assert command(*argv, "--compare", f"HR={tmp_path / 'theirs'}").code == 0
        assert "**HR (measured)** | inf/1.0000 | - | - | - |" in (tmp_path / "out/table4_set5.md").read_text()


def test_images_that_do_not_fit_are_refused(expect_error, argv, shelf, tmp_path):
    pairs = open_test_set(shelf / "data/Set5", 2).pairs
    theirs = tmp_path / "theirs/Set5/x2"
    write_png(theirs / pairs[0].sr_name, pairs[0].read()[0])
    compare = ["--compare", f"EDSR={tmp_path / 'theirs'}"]
    expect_error(f"has neither {pairs[1].sr_name} nor", *argv, *compare)
    write_png(theirs / pairs[1].sr_name, pairs[1].read()[1])
    expect_error("SR is 36x30 but HR 72x60", *argv, *compare)
    expect_error("no such folder", *argv, "--compare", f"EDSR={tmp_path / 'nowhere'}")
    expect_error("there is a row Bicubic already", *argv, "--compare", f"Bicubic={tmp_path / 'theirs'}")
    (tmp_path / "other").mkdir()
    expect_error("none of the test sets found (Set5 x2)", *argv, "--compare", f"EDSR={tmp_path / 'other'}")


def test_a_damaged_image_of_others_ends_no_other_measurement(expect_error, argv, shelf, tmp_path):
    for pair in open_test_set(shelf / "data/Set5", 2).pairs:
        write_png(tmp_path / "theirs" / pair.sr_name, pair.read()[0])
    (broken := min((tmp_path / "theirs").iterdir())).write_bytes(b"no image")
    line = expect_error(f"{broken} is not a readable image", *argv, "--compare", f"EDSR={tmp_path / 'theirs'}")
    assert line.count(str(broken)) == 1
    rows = {
        row["model"]: row["x2_psnr"] for row in records(tmp_path / "out/table4_set5.csv") if row["source"] != "paper"
    }
    assert rows["Bicubic"] and rows["CFSRCNN"] and rows["EDSR"] == ""


def test_a_folder_that_could_be_of_two_sets_is_refused(expect_error, argv, shelf, tmp_path):
    for name in ("Set5", "Set14"):
        shutil.copytree(shelf / "data/Set5", tmp_path / "data" / name)
    for pair in open_test_set(shelf / "data/Set5", 2).pairs:
        write_png(tmp_path / "theirs" / pair.sr_name, pair.read()[0])
    data = ["--data", tmp_path / "data", "--compare", f"EDSR={tmp_path / 'theirs'}"]
    expect_error("would match Set5 x2 and Set14 x2: lay them out as SET/xSCALE/", *argv, *data)


def test_bad_folders_and_files_are_one_line(expect_error, argv, tmp_path, forbidden):
    expect_error("no such folder", *argv, "--data", tmp_path / "nowhere")
    expect_error("no such file or folder", *argv, "--checkpoints", tmp_path / "nowhere")
    (tmp_path / "data/Set5").mkdir(parents=True)
    line = expect_error("Set5 is a test set itself: name the folder", *argv, "--data", tmp_path / "data/Set5")
    assert line.endswith(f"around it, {tmp_path / 'data'}") and not (tmp_path / "out").exists()
    forbidden.add("locked")
    (tmp_path / "locked").mkdir()
    expect_error("locked cannot be opened (Permission denied)", *argv, "--data", tmp_path / "locked")
    (tmp_path / "bad.pth").write_text("no weights")
    expect_error("bad.pth is not a PyTorch weight file", *argv, "--checkpoints", tmp_path / "bad.pth")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/moved.pth").symlink_to("elsewhere.pth")
    expect_error("moved.pth is a link to a file that does not exist", *argv, "--checkpoints", tmp_path / "links")
    (tmp_path / "file").write_text("")
    expect_error("file is a file", *argv, "--out", tmp_path / "file")


def test_peers_get_rows_measured_by_the_same_code(command, argv, measured, shelf, tmp_path):
    for name in ("rlfn", "bsrn"):
        pytest.importorskip(f"model.{name}")
        save_state_dict(create_model(name, 2).state_dict(), tmp_path / f"peers/{name}_x2.pth")
    (tmp_path / "peers/notes.pth").write_text("of something else")
    outcome = command(*argv, "--peers", tmp_path / "peers")
    assert outcome.code == 0 and "skipped " in outcome.out and "notes.pth: not named as weights" in outcome.out
    assert measured == [f"{name}, Set5 x2" for name in ("Bicubic", "CFSRCNN", "RLFN", "BSRN")]
    rows = records(tmp_path / "out/table4_set5.csv")[-2:]
    assert [(row["model"], row["x2_db_to_paper"]) for row in rows] == [("RLFN", ""), ("BSRN", "")]
    upscale = NetworkUpscaler(load_model(tmp_path / "peers/bsrn_x2.pth", "bsrn", 2), 2)
    scores = evaluate(upscale, open_test_set(shelf / "data/Set5", 2)).mean.scores
    assert float(rows[1]["x2_psnr"]) == pytest.approx(scores.psnr, abs=1e-4)
    assert "RLFN" not in (tmp_path / "out/overview.md").read_text()
    assert "- RLFN: `" in (tmp_path / "out/tables.md").read_text()
    assert command(*argv, "--peers", tmp_path / "peers").code == 0 and len(measured) == 4  # from the cache


def test_peers_that_cannot_be_told_apart_are_one_line(expect_error, argv, tmp_path):
    expect_error("no such folder; name one that holds rlfn_x2.pth", *argv, "--peers", tmp_path / "nowhere")
    (tmp_path / "peers").mkdir()
    expect_error("holds no weights named as those of a peer", *argv, "--peers", tmp_path / "peers")
    for name in ("rlfn_x2.pth", "RLFN-DF2K-x2.safetensors"):
        (tmp_path / "peers" / name).write_text("")
    expect_error("are both RLFN x2: leave one there", *argv, "--peers", tmp_path / "peers")


def test_one_bad_item_does_not_end_the_others(command, argv, shelf, tmp_path):
    data, weights = (Path(shutil.copytree(shelf / name, tmp_path / name)) for name in ("data", "weights"))
    (weights / "a.pth").write_text("no weights")
    (weights / "b.safetensors").write_bytes(b"cut off")
    for name in ("Set14", "B100"):
        shutil.copytree(data / "Set5", data / name)
    missing, broken = next((data / "Set14/x2").glob("*_LR.png")), next((data / "B100/x2").glob("*_HR.png"))
    missing.unlink()
    broken.write_bytes(broken.read_bytes()[:500])
    argv[2:6] = ["--checkpoints", weights, "--data", data]
    for cached in (0, 2):
        outcome = command(*argv)
        assert outcome.code == 2 and outcome.err.count("\nfailed: ") + outcome.err.startswith("failed: ") == 4
        last = outcome.err.splitlines()[-1]
        assert last.startswith("error: 4 failures (everything else is in the tables): ")
        assert all(str(file) in last for file in (weights / "a.pth", weights / "b.safetensors", missing, broken))
        assert outcome.out.count(", cached") == cached
        assert [row["x2_psnr"] != "" for row in records(tmp_path / "out/table4_set5.csv")[-2:]] == [True, True]
    assert "Set14 in" in (text := (tmp_path / "out/table5_set14.md").read_text()) and "could not be measured" in text
    assert "B100 x2 in" in (text := (tmp_path / "out/table6_b100.md").read_text()) and "could not be measured" in text


@pytest.mark.parametrize("name", ["x4", "deep.pth", "Set14", "one.png", "inference.json"])
def test_what_may_not_be_read_is_named_and_does_not_end_the_others(
    expect_error, argv, shelf, tmp_path, name, forbidden
):
    data, weights = (Path(shutil.copytree(shelf / name, tmp_path / name)) for name in ("data", "weights"))
    write_png(data / "Set14/one.png", np.zeros((36, 36, 3), np.uint8))
    (weights / "x4").mkdir()
    shutil.copy(weights / "x2/cfsrcnn_x2.pth", weights / "x4/deep.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/inference.json").write_text('{"table9": {"device": "", "hr_256": 1, "hr_512": 1, "hr_1024": 1}}')
    forbidden.add(name)
    argv[2:6] = ["--checkpoints", weights, "--data", data]
    place = next(tmp_path.rglob(name))
    phrase = f"error: {place} cannot be opened (Permission denied): change its permissions (everything else is in the"
    expect_error(phrase, *argv)
    assert [row["x2_psnr"] != "" for row in records(tmp_path / "out/table4_set5.csv")[-2:]] == [True, True]


def test_the_way_to_missing_weights_leads_to_the_folder_that_is_searched(command, argv, shelf, tmp_path):
    weights = shutil.copytree(shelf / "weights", tmp_path / "my weights")
    argv[3] = weights
    (tmp_path / "data/Set14").mkdir(parents=True)
    write_png(tmp_path / "data/Set14/one.png", read_rgb(next((shelf / "data/Set5/x2").glob("*_HR.png"))))
    assert command(*argv, "--data", tmp_path / "data").code == 0
    assert f"`python train.py --scale 3 --ckpt_dir '{weights}/x3'`" in (tmp_path / "out/table5_set14.md").read_text()


def test_names_of_images_that_are_no_text_are_measured(command, argv, tmp_path):
    (tmp_path / "data/Set5").mkdir(parents=True)
    write_png(tmp_path / os.fsdecode(b"data/Set5/\xff.png"), np.zeros((36, 36, 3), np.uint8))
    outcome = command(*argv, "--data", tmp_path / "data")
    assert outcome.code == 0 and "Set5 x2 CFSRCNN: " in outcome.out


def test_pipes_are_not_waited_for(expect_error, argv, shelf, tmp_path):
    (tmp_path / "out/measured").mkdir(parents=True)
    os.mkfifo(tmp_path / "out/measured/Set5_x2_bicubic_paper.json")
    expect_error("Set5_x2_bicubic_paper.json is not a regular file", *argv)
    (tmp_path / "data/Set5").mkdir(parents=True)
    shutil.copy(next((shelf / "data/Set5/x2").glob("*_HR.png")), tmp_path / "data/Set5/a.png")
    os.mkfifo(tmp_path / "data/Set5/pipe.png")
    expect_error("pipe.png is not a regular file", *argv, "--data", tmp_path / "data")


def test_run_times_come_from_the_benchmarks_file(command, expect_error, argv, tmp_path):
    (tmp_path / "out").mkdir()
    seconds = {"device": "a CPU", "hr_256": 0.51234, "hr_512": 2.0, "hr_1024": 8.25}
    (tmp_path / "out/inference.json").write_text(json.dumps({"table9": seconds}))
    command(*argv)
    assert "| **CFSRCNN (measured on a CPU)** | 0.5123 | 2 | 8.25 |" in (tmp_path / "out/table9_runtime.md").read_text()
    for bad in (b"{}", b"\xff", b"[" * 100_000, b'{"table9": {"device": "", "hr_256": 1' + b"0" * 400 + b"}}"):
        (tmp_path / "out/inference.json").write_bytes(bad)
        expect_error("inference.json has no run times for Table IX", *argv)
        assert "| **CFSRCNN (measured)** | - | - | - |" in (tmp_path / "out/table9_runtime.md").read_text()


def test_names_of_folders_that_are_no_text_stand_escaped(command, argv, shelf, tmp_path):
    data = shelf.parent / "b\udcffd"  # the byte 0xff
    data.mkdir()
    assert command(*argv, "--data", data).code == 0
    for name in ("table4_set5.md", "table4_set5.tex", "tables.md"):
        assert r"b\udcffd" in (tmp_path / "out" / name).read_text(), name


def test_weights_are_found_by_what_they_hold(shelf, tmp_path):
    shutil.copytree(shelf / "weights", tmp_path / "w")
    shutil.copy(tmp_path / "w/x2/cfsrcnn_x2.pth", tmp_path / "w/copy.pth")
    save_state_dict({"weight": torch.zeros(1)}, tmp_path / "w/other.pth")
    for file in ("run/cfsrcnn_1000.pth", "run/cfsrcnn_20000.pth"):
        save_state_dict(CFSRCNN(2).state_dict(), tmp_path / "w" / file)
    save_state_dict(CFSRCNN(0, multi_scale=True).state_dict(), tmp_path / "w/cfsrcnn_multi.safetensors")
    found, remarks = find_checkpoints(tmp_path / "w", FailureLog())
    assert [(each.label, each.scales) for each in found] == [
        ("CFSRCNN", (2,)),
        ("CFSRCNN (cfsrcnn_multi)", (2, 3, 4)),
        ("CFSRCNN (run/cfsrcnn_20000.pth)", (2,)),
    ]
    assert ["1 earlier step of" in remarks[0], "same file" in remarks[1], "no checkpoint" in remarks[2]] == [True] * 3
