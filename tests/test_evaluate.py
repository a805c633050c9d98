"""`tcw_sample.py` on a test set: where its output goes, what it reports, what it refuses."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GOLDEN, ROOT, sample_image
from PIL import Image

import evaluation.benchmark_run
import evaluation.evaluate
import model.checkpoint
from dataset.benchmark_set import open_test_set
from dataset.image_writer import write_png
from dataset.images import read_rgb
from evaluation.benchmark_run import run_name
from evaluation.evaluate import evaluate, keep_decoded
from evaluation.metrics import compute_scores
from inference.upscaler import BicubicUpscaler, NetworkUpscaler
from model.checkpoint import load_model, save_state_dict


@pytest.fixture
def butterfly(tmp_path):
    """The butterfly of Set5 as a test set "Fly" with x2 and x3, as published."""
    for scale in (2, 3):
        (tmp_path / f"Fly/x{scale}").mkdir(parents=True)
        for kind in ("HR", "LR"):
            shutil.copy(GOLDEN / f"butterfly/img_003_SRF_{scale}_{kind}.png", tmp_path / f"Fly/x{scale}")
    return tmp_path / "Fly"


def sr_folder(out: str) -> Path:
    """The folder of SR images that the output of `tcw_sample.py` names."""
    return Path(re.search("^SR images: (.+)$", out, re.MULTILINE)[1])


def test_sr_and_hr_images_land_where_the_authors_put_them(command, butterfly, checkpoint, tmp_path):
    argv = ["--test_data_dir", butterfly, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *argv).code == 0
    folder = tmp_path / "out/net/Fly/x2"
    assert [file.name for file in (folder / "SR").iterdir()] == ["img_003_SRF_2_SR.png"]
    hr = read_rgb(folder / "HR/img_003_SRF_2_HR.png")
    assert np.array_equal(hr, read_rgb(butterfly / "x2/img_003_SRF_2_HR.png"))
    results = json.loads((folder / "results.json").read_text())
    written = compute_scores(read_rgb(folder / "SR/img_003_SRF_2_SR.png"), hr, 2)
    assert results["images"][0]["psnr"] == written.psnr and results["mean"]["ssim"] == written.ssim
    assert results["scale"] == 2 and results["protocol"] == "paper" and len(results["checkpoint_sha256"]) == 64


def test_the_table_has_every_image_the_mean_and_both_kinds_of_psnr(command, butterfly, tmp_path):
    argv = ["--model", "bicubic", "--test_data_dir", butterfly, "--scale", 3, "--sample_dir", tmp_path / "out"]
    outcome = command("tcw_sample.py", *argv)
    head, row, _, mean, line, folder, report = outcome.out.splitlines()
    assert head.split() == ["image", "PSNR", "SSIM", "RGB", "PSNR", "seconds"]
    assert row.split()[:4] == ["img_003_SRF_3_SR.png", "24.04", "0.8214", "22.77"]
    assert mean.split()[:4] == ["mean", "24.04", "0.8214", "22.77"]
    assert line == "Fly x3 bicubic, protocol paper: 24.04 dB / 0.8214 on Y (RGB 22.77 dB)"
    assert folder == f"SR images: {tmp_path}/out/bicubic/Fly/x3/SR"
    assert report == f"report: {tmp_path}/out/bicubic/Fly/x3/report.html"


def test_the_baseline_stands_beside(command, butterfly, checkpoint, tmp_path):
    argv = ["--test_data_dir", butterfly, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    outcome = command("tcw_sample.py", *argv, "--baseline")
    assert "bicubic PSNR" in outcome.out
    results = json.loads((tmp_path / "out/net/Fly/x2/results.json").read_text())
    expected = evaluate(BicubicUpscaler(2), open_test_set(butterfly, 2)).mean.scores
    assert results["bicubic"]["mean"]["psnr"] == expected.psnr


def test_no_seconds_include_what_is_done_once(command, image_folder, checkpoint, tmp_path, monkeypatch):
    """A first call that takes long and then fails, as of a network that needs larger images, and further ones of a second."""
    upscale, clock, sizes = NetworkUpscaler.__call__, [0.0], []

    def slow_start(self, lr):
        sizes.append(lr.shape)
        clock[0] += 1 if len(sizes) > 1 else 100
        if len(sizes) == 1:
            raise ValueError("too small")
        return upscale(self, lr)

    monkeypatch.setattr(NetworkUpscaler, "__call__", slow_start)
    monkeypatch.setattr(evaluation.evaluate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    argv = ["--test_data_dir", image_folder, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *argv).code == 0
    results = json.loads((tmp_path / "out/net" / image_folder.name / "x2/results.json").read_text())
    assert [each["seconds"] for each in (*results["images"], results["mean"])] == [1.0] * 5
    assert len(sizes) == 5 and max(sizes[0]) <= 40


def test_the_baseline_is_computed_once(command, image_folder, checkpoint, tmp_path, monkeypatch):
    upscale, sizes = BicubicUpscaler.__call__, []
    monkeypatch.setattr(BicubicUpscaler, "__call__", lambda self, lr: sizes.append(lr.shape) or upscale(self, lr))
    argv = ["--test_data_dir", image_folder, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *argv, "--baseline").code == 0 and len(sizes) == 4


@pytest.mark.parametrize("flags", [[], ["--baseline"]])
def test_each_file_is_decoded_once_and_no_sr_image_is_read_back(
    command, butterfly, checkpoint, tmp_path, decoded, flags
):
    argv = ["--test_data_dir", butterfly, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *argv, *flags).code == 0
    assert decoded == [butterfly / f"x2/img_003_SRF_2_{kind}.png" for kind in ("HR", "LR")]
    folder = tmp_path / "out/net/Fly/x2"
    page = (folder / "report.html").read_text(encoding="utf-8")
    for kind in ("SR", "HR"):
        png = base64.b64encode((folder / f"{kind}/img_003_SRF_2_{kind}.png").read_bytes()).decode()
        assert f'id="image-0-{kind.lower()}">data:image/png;base64,{png}<' in page


def test_the_figures_are_kept_though_the_report_fails(expect_error, image_folder, checkpoint, tmp_path):
    folder = tmp_path / "out/net" / image_folder.name / "x2"
    (folder / "report.html").mkdir(parents=True)
    argv = ["--test_data_dir", image_folder, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    expect_error("report.html is a folder", "tcw_sample.py", *argv, "--baseline")
    assert len(json.loads((folder / "results.json").read_text())["images"]) == 4


def test_decoded_images_are_kept_up_to_a_limit(image_folder, decoded):
    test_set = open_test_set(image_folder, 2)
    size = 72 * 60 * 3 * 5 // 4  # of a pair in bytes
    kept = keep_decoded(test_set, limit=2 * size + 1)
    first, second = (evaluate(BicubicUpscaler(2), kept) for _ in range(2))
    files = [pair.hr_path for pair in test_set.pairs]
    assert decoded == [*files, *files[2:]]
    expected = [row.scores for row in evaluate(BicubicUpscaler(2), test_set).rows]
    assert [row.scores for row in first.rows] == [row.scores for row in second.rows] == expected


def test_a_progress_bar_is_shown_where_it_is_asked_for(butterfly, capsys):
    test_set = open_test_set(butterfly, 2)
    evaluate(BicubicUpscaler(2), test_set, on_image=lambda *_: None)
    assert capsys.readouterr().err == ""
    evaluate(BicubicUpscaler(2), test_set, bar="flying")
    assert "flying: 100%" in capsys.readouterr().err


def test_the_protocol_decides_between_truncating_and_rounding(command, butterfly, checkpoint, tmp_path):
    argv = ["--test_data_dir", butterfly, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    means = {}
    for protocol in ("paper", "rounded"):
        out = command("tcw_sample.py", *argv, "--protocol", protocol).out
        means[protocol] = read_rgb(sr_folder(out) / "img_003_SRF_2_SR.png").mean()
    assert 0.4 < means["rounded"] - means["paper"] < 0.6


@pytest.mark.parametrize(
    ("flags", "run"),
    [
        ([], "net"),
        (["--self_ensemble", "--precision", "fp32", "--backend", "torch", "--tile", "auto"], "net_ensemble"),
        (["--tile", 16, "--precision", "bf16", "--protocol", "rounded"], "net_rounded_bf16_tile16"),
    ],
)
def test_a_folder_is_named_by_what_differs_from_the_paper(command, image_folder, checkpoint, tmp_path, flags, run):
    argv = ["--test_data_dir", image_folder, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *argv, *flags).code == 0
    assert [each.name for each in (tmp_path / "out").iterdir()] == [run]
    assert (tmp_path / "out" / run / image_folder.name / "x2/results.json").is_file()


@pytest.mark.parametrize(
    ("changed", "run"),
    [
        ({"backend": "onnxruntime"}, "net_onnxruntime"),
        ({"precision": "fp16", "tile": "off"}, "net_fp16_untiled"),
        ({"compiled": True, "backend": "torch"}, "net_compiled"),
        ({"self_ensemble": True, "protocol": "rounded", "precision": "bf16", "tile": 256, "backend": "openvino"},
         "net_ensemble_rounded_bf16_tile256_openvino"),
        ({"checkpoint": None, "model": "bicubic", "precision": None, "backend": None}, "bicubic"),
    ],
)  # fmt: skip
def test_the_words_of_a_folder_have_a_fixed_order(changed, run):
    plain = {"model": "cfsrcnn", "checkpoint": "x2/net.pth", "self_ensemble": False, "protocol": "paper"}
    assert run_name(plain | {"precision": "fp32", "backend": "torch", "compiled": False} | changed) == run


def test_results_under_a_name_of_before_are_kept_or_found(command, image_folder, checkpoint, tmp_path):
    """Formerly all settings but the self-ensemble shared a folder, and further ones got a hash."""
    argv = ["--test_data_dir", image_folder, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    first = sr_folder(command("tcw_sample.py", *argv, "--protocol", "rounded").out)
    (tmp_path / "out/net_rounded").rename(tmp_path / "out/net")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}
    outcome = command("tcw_sample.py", *argv)
    assert f"{tmp_path / 'out/net' / image_folder.name / 'x2'} holds other results" in outcome.out
    assert sr_folder(command("tcw_sample.py", *argv, "--protocol", "rounded").out) == first
    assert {file: file.read_bytes() for file in before} == before


def test_a_checkpoint_named_like_a_setting_gets_a_hash(command, image_folder, checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "net_tile16.pth")
    argv = ["--test_data_dir", image_folder, "--scale", 2, "--sample_dir", tmp_path / "out", "--ckpt_path"]
    command("tcw_sample.py", *argv, checkpoint, "--tile", 16)
    assert "net_tile16_" in (out := command("tcw_sample.py", *argv, tmp_path / "net_tile16.pth").out)
    assert "(other tile)" in out and len(list((tmp_path / "out").iterdir())) == 2


def test_results_of_another_checkpoint_of_the_same_name_are_kept(command, butterfly, checkpoint, tmp_path):
    other = load_model(checkpoint)
    other.frb.conv.weight.data *= 0.9
    save_state_dict(other.state_dict(), tmp_path / "other/net.pth")
    argv = ["--test_data_dir", butterfly, "--scale", 2, "--sample_dir", tmp_path / "out", "--ckpt_path"]
    first = sr_folder(command("tcw_sample.py", *argv, checkpoint).out)
    before = {file: file.read_bytes() for file in first.parent.rglob("*") if file.is_file()}
    second = command("tcw_sample.py", *argv, tmp_path / "other/net.pth")
    assert f"{first.parent} holds other results, of {checkpoint}: these go to " in second.out
    assert {file: file.read_bytes() for file in before} == before
    results = json.loads((sr_folder(second.out).parent / "results.json").read_text())
    assert sr_folder(second.out) != first and results["checkpoint"] == str(tmp_path / "other/net.pth")
    for path, folder in ((checkpoint, first), (tmp_path / "other/net.pth", sr_folder(second.out))):
        assert sr_folder(command("tcw_sample.py", *argv, path).out) == folder  # again: the same folder
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("same_set", [True, False])
def test_two_runs_at_once_are_not_mixed(command, butterfly, image_folder, checkpoint, tmp_path, monkeypatch, same_set):
    other = load_model(checkpoint)
    other.frb.conv.weight.data *= 0.9
    save_state_dict(other.state_dict(), tmp_path / "other/net.pth")
    second, outcomes = butterfly if same_set else image_folder, []

    def run(path: Path, data: Path) -> None:
        argv = ["--test_data_dir", data, "--scale", 2, "--sample_dir", tmp_path / "out", "--ckpt_path", path]
        outcomes.append(command("tcw_sample.py", *argv))

    def start_second(_) -> None:
        monkeypatch.setattr(evaluation.benchmark_run, "warm_up", lambda _: None)
        run(tmp_path / "other/net.pth", second)

    monkeypatch.setattr(evaluation.benchmark_run, "warm_up", start_second)
    run(checkpoint, butterfly)
    assert f"{tmp_path / 'out/net/Fly/x2'} is getting other results, of {checkpoint}: " in outcomes[0].out
    folders = [sr_folder(each.out).parent for each in outcomes]
    assert folders[1] == tmp_path / "out/net/Fly/x2" and folders[0].parents[1] != tmp_path / "out/net"
    run(tmp_path / "other/net.pth", second)
    assert sr_folder(outcomes[2].out).parent == folders[0]
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_name_in_the_results_of_others_is_escaped(command, butterfly, tmp_path):
    (tmp_path / "bicubic/Fly/x2").mkdir(parents=True)
    (tmp_path / "bicubic/Fly/x2/results.json").write_text(json.dumps({"checkpoint": "a\x1b[2J\nb"}))
    argv = ["--model", "bicubic", "--scale", 2, "--test_data_dir", butterfly, "--sample_dir", tmp_path]
    assert r"holds other results, of a\x1b[2J\nb: these go to" in command("tcw_sample.py", *argv).out


def test_a_folder_has_the_results_of_one_checkpoint_at_a_scale(command, butterfly, image_folder, checkpoint, tmp_path):
    """A program that reads RUN/SET/xSCALE would else take those of two for one's."""
    other = load_model(checkpoint)
    other.frb.conv.weight.data *= 0.9
    save_state_dict(other.state_dict(), tmp_path / "other/net.pth")

    def folder(path: Path, data: Path) -> str:
        argv = ["--scale", 2, "--sample_dir", tmp_path / "out", "--ckpt_path", path, "--test_data_dir", data]
        return sr_folder(command("tcw_sample.py", *argv).out).parents[2].name

    second = tmp_path / "other/net.pth"
    assert folder(checkpoint, butterfly) == "net" != folder(second, image_folder)
    assert folder(second, butterfly) == folder(second, image_folder) and folder(checkpoint, image_folder) == "net"


def test_results_of_another_test_set_of_the_same_name_are_kept(command, butterfly, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}/Mine").mkdir(parents=True)
        shutil.copy(GOLDEN / "butterfly/img_003_SRF_2_HR.png", tmp_path / f"{name}/Mine/{name}.png")
    argv = ["--model", "bicubic", "--scale", 2, "--sample_dir", tmp_path / "out", "--test_data_dir"]
    folders = [sr_folder(command("tcw_sample.py", *argv, tmp_path / name / "Mine").out) for name in "aba"]
    assert folders[0] == folders[2] != folders[1] and [file.name for file in folders[0].iterdir()] == ["a.png"]


@pytest.mark.parametrize("kind", ["HR", "LR"])
def test_results_of_other_pixels_under_the_same_names_are_kept(command, butterfly, tmp_path, kind):
    other = Path(shutil.copytree(butterfly, tmp_path / "other/Fly"))
    image = other / f"x2/img_003_SRF_2_{kind}.png"
    write_png(image, 255 - read_rgb(image))
    argv = ["--model", "bicubic", "--scale", 2, "--sample_dir", tmp_path / "out", "--test_data_dir"]
    first = sr_folder(command("tcw_sample.py", *argv, butterfly).out)
    before = {file: file.read_bytes() for file in first.parent.rglob("*") if file.is_file()}
    second = command("tcw_sample.py", *argv, other)
    assert f"{first.parent} holds other results, of bicubic: these go to {tmp_path / 'out/bicubic_'}" in second.out
    assert "(other test_set_sha256)\n" in second.out and sr_folder(second.out) != first
    assert {file: file.read_bytes() for file in before} == before and len(list((tmp_path / "out").iterdir())) == 2


def test_lr_images_of_another_tool_get_one_warning_with_their_share(command, butterfly, tmp_path):
    argv = ["--model", "bicubic", "--test_data_dir", butterfly, "--scale", 2, "--sample_dir", tmp_path / "out"]
    assert "warning" not in command("tcw_sample.py", *argv).out
    lr = butterfly / "x2/img_003_SRF_2_LR.png"
    Image.open(butterfly / "x2/img_003_SRF_2_HR.png").resize((128, 128), Image.Resampling.BICUBIC).save(lr)
    outcome = command("tcw_sample.py", *argv)
    assert outcome.code == 0 and outcome.out.count("warning: ") == 1 and "% of the LR values" in outcome.out


def test_a_folder_of_hr_images_is_a_test_set(command, image_folder, tmp_path):
    argv = ["--model", "bicubic", "--test_data_dir", image_folder, "--scale", 4, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *argv).code == 0
    assert len(list((tmp_path / "out/bicubic" / image_folder.name / "x4/SR").iterdir())) == 4


def test_gray_images_are_converted_and_reported_once(command, tmp_path):
    (tmp_path / "Gray").mkdir()
    Image.fromarray(sample_image("coffee.png", 48, 48)).convert("L").save(tmp_path / "Gray/a.png")
    argv = ["--model", "bicubic", "--test_data_dir", tmp_path / "Gray", "--scale", 2, "--sample_dir", tmp_path / "out"]
    assert "converted to 8-bit RGB: 1 grayscale (a.png)" in command("tcw_sample.py", *argv).out


def test_an_unusable_pair_is_named_and_never_skipped(expect_error, butterfly, tmp_path):
    argv = ["tcw_sample.py", "--model", "bicubic", "--test_data_dir", butterfly, "--sample_dir", tmp_path / "out"]
    shutil.copy(butterfly / "x3/img_003_SRF_3_LR.png", butterfly / "x2/img_003_SRF_2_LR.png")
    expect_error("img_003_SRF_2_LR.png is 85x85", *argv, "--scale", 2)
    Image.fromarray(sample_image("coffee.png", 12, 12)).save(butterfly / "x3/tiny_HR.png")
    Image.fromarray(sample_image("coffee.png", 4, 4)).save(butterfly / "x3/tiny_LR.png")
    expect_error("too small to measure", *argv, "--scale", 3)


def test_a_network_without_weights_is_told_how_to_name_them(expect_error):
    expect_error("needs weights: --ckpt_path checkpoint/x2/cfsrcnn_x2.pth", "tcw_sample.py", "--scale", 2)
    expect_error("--model rlfn needs weights: --ckpt_path FILE", "tcw_sample.py", "--scale", 2, "--model", "rlfn")


def test_the_weights_that_are_named_are_there(expect_error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expect_error(f"--ckpt_path {ROOT / 'checkpoint/x3/cfsrcnn_x3.pth'}", "tcw_sample.py", "--scale", 3)
    for step in range(8):
        save_state_dict({"a": torch.zeros(1)}, tmp_path / f"checkpoint/run/a_{step}.pth")
    line = "needs weights: --ckpt_path FILE; there are checkpoint/run/a_0.pth, checkpoint/run/a_1.pth, "
    assert expect_error(line, "tcw_sample.py", "--scale", 3).endswith("checkpoint/run/a_5.pth and 2 more")
    shutil.rmtree(tmp_path / "checkpoint")
    monkeypatch.setattr(model.checkpoint, "__file__", str(tmp_path / "model/checkpoint.py"))
    expect_error("--ckpt_path FILE; there are none in checkpoint/", "tcw_sample.py", "--scale", 3)


def test_files_that_may_not_be_read_are_told_from_damaged_ones(expect_error, butterfly, tmp_path, forbidden):
    argv = ["--model", "bicubic", "--test_data_dir", butterfly, "--scale", 2, "--sample_dir", tmp_path / "out"]
    forbidden.add("img_003_SRF_2_LR.png")
    expect_error("LR.png cannot be opened (Permission denied): change its permissions", "tcw_sample.py", *argv)


def test_an_image_for_which_memory_is_too_little_is_named(expect_error, image_folder, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BicubicUpscaler, "__call__", fail)
    argv = ["--model", "bicubic", "--test_data_dir", image_folder, "--scale", 2, "--sample_dir", tmp_path / "out"]
    expect_error("0000.png: there is too little free memory for it on the GPU: free some", "tcw_sample.py", *argv)


def test_a_wrong_checkpoint_name_gets_the_one_that_is_meant(expect_error):
    argv = ["tcw_sample.py", "--model", "cfsrcnn", "--ckpt_path", "checkpoint/x3/cfsrcnn_x4.pth"]
    expect_error("you mean checkpoint/x4/cfsrcnn_x4.pth", *argv, "--scale", 4)
    expect_error("you mean checkpoint/x3/cfsrcnn_x3.pth", *argv, "--scale", 3)


def test_what_does_not_fit_together_is_one_line(expect_error, butterfly, checkpoint, tmp_path):
    argv = ["tcw_sample.py", "--test_data_dir", butterfly, "--sample_dir", tmp_path / "out"]
    expect_error("is an x2 CFSRCNN checkpoint", *argv, "--scale", 3, "--ckpt_path", checkpoint)
    expect_error("needs weights: --ckpt_path", *argv, "--scale", 2)
    expect_error("must be 1", *argv, "--scale", 2, "--ckpt_path", checkpoint, "--group", 2)
    expect_error("has x2, x3 but no x4", *argv, "--scale", 4, "--model", "bicubic")
    (tmp_path / "file").write_text("")
    expect_error("file is a file", *argv, "--scale", 2, "--model", "bicubic", "--sample_dir", tmp_path / "file")
