"""Flags of the commands: what is not understood, or does not go together, gets one line that says what to do."""

from __future__ import annotations

import shutil

import pytest

TRAIN, SAMPLE = "train.py", "tcw_sample.py"
COUNTS = {  # program and the flags that it needs: flags with whole numbers
    (TRAIN,): "group patch_size batch_size max_steps decay num_gpu print_interval warmup hard_crops seed accumulate",
    (SAMPLE, "--input", "a.png"): "scale group tile quality resize",
    ("div2h5.py", "--source", "a"): "scales workers hold_out",
    ("-m", "inference.app"): "port max_megapixels max_megabytes",
    ("-m", "model.export", "a.pth", "a.onnx"): "scale group",
    ("-m", "evaluation.figure", "--image", "a.png", "--ckpt_path", "a.pth", "--scale", 2, "--out", "b"): "scale crop",
    ("-m", "evaluation.paper"): "scales",
    ("-m", "training.distillation", "--scale", 2, "--source", "a", "--out", "b"): "workers hold_out scale",
    ("-m", "benchmarks.inference"): "rounds sides",
    ("-m", "benchmarks.training"): "rounds",
    ("-m", "benchmarks.op_profile"): "rounds",
    ("-m", "benchmarks.memory"): "size",
    ("-m", "benchmarks.gpu_session", "--images", "a", "--minutes", 1): "batch patch warmup probe_steps print_interval",
}


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ([TRAIN, "--patchsize", 77], "unrecognized argument --patchsize; did you mean --patch_size?"),
        ([SAMPLE, "--self-ensemble"], "unrecognized argument --self-ensemble; did you mean --self_ensemble?"),
        ([SAMPLE, "image.jpg"], "unrecognized argument image.jpg; see --help"),
        ([SAMPLE, "", "image.jpg"], "unrecognized argument ''; see --help"),
        ([TRAIN, "--batch_size", 0], "--batch_size: 0 is not a whole number above zero"),
        ([TRAIN, "--lr", "fast"], "--lr: fast is not a number above zero"),
        ([SAMPLE, "--scale", 5], "--scale: invalid choice: 5"),
        (["-m", "model.checkpoint", "convert", "a.pth", "b.pth"], "required: --format"),
        ([TRAIN, "--lr_schedule", "cosine", "--decay", 1000], "not in halves: leave out --decay"),
        ([TRAIN, "--warmup", 20, "--max_steps", 10], "--warmup 20 is longer than --max_steps 10"),
        ([TRAIN, "--num_gpu", 3, "--batch_size", 2], "must be at least --num_gpu 3"),
        ([SAMPLE, "--model", "bicubic", "--tile", 32, "--self_ensemble"], "leave out --self_ensemble, --tile"),
        ([SAMPLE, "--input", "a.png", "--baseline"], "--input measures nothing: leave out --baseline"),
        ([SAMPLE, "--cuda", "--device", "cpu"], "--cuda is --device cuda: leave out --device"),
    ],
)
def test_what_is_not_understood_or_does_not_go_together_gets_one_line(expect_error, argv, phrase):
    expect_error(phrase, *argv)


@pytest.mark.parametrize("program", [TRAIN, SAMPLE])
def test_help_groups_the_flags_and_gives_the_papers_values(command, program):
    text = " ".join(command(program, "--help").out.split())
    places = [text.index(f" {group}: ") for group in ("the paper's flags", "data", "speed")]
    assert places[0] == min(places) and " output: " in text
    assert ("(paper: 77; default: 64)" if program == TRAIN else "(paper: fp32)") in text


@pytest.mark.parametrize(
    ("program", "phrase"),
    [
        (["div2h5.py"], "scales of the LR images (default: 2 3 4)"),
        (["-m", "benchmarks.memory"], "to measure (default: fp32 bf16)"),
    ],
)
def test_help_shows_a_default_as_it_is_typed(command, program, phrase):
    assert phrase in " ".join(command(*program, "--help").out.split())


@pytest.mark.parametrize("digits", [401, 5001], ids=["no_float", "no_int"])
@pytest.mark.parametrize("program", COUNTS, ids=lambda program: " ".join(map(str, program[:2])))
def test_numbers_of_any_size_are_one_short_line(expect_error, program, digits, tmp_path, monkeypatch):
    """10^400 is too large for a float, and Python reads no number of more than 4300 digits."""
    monkeypatch.chdir(tmp_path)
    number = "1" + "0" * (digits - 1)
    for flag in COUNTS[program].split():
        value = {"size": f"{number}x{number}", "crop": f"0,0,{number},{number}"}.get(flag, number)
        assert len(expect_error("error: ", *program, f"--{flag}", value)) < 300, flag
    assert not any(tmp_path.iterdir())


def test_flags_of_several_values_that_are_given_more_than_once_add_up(command, image_folder, tmp_path):
    flags = ["--shrink", 0.8, "--shrink", 0.5, "--scales", 2, "--scales", 3, "--source", image_folder]
    for name, flag in (("a", "--source"), ("b", "--extra"), ("c", "--extra")):
        (tmp_path / name).mkdir()
        shutil.copy(image_folder / "0000.png", tmp_path / name)
        flags += [flag, tmp_path / name]
    outcome = command("div2h5.py", *flags, "--out", tmp_path / "a.h5")
    assert outcome.code == 0 and "21 images, scales x2, x3," in outcome.out, outcome
