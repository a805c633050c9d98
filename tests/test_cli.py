"""Flags of the commands: what is not understood, or does not go together, gets one line that says what to do."""

from __future__ import annotations

import pytest

TRAIN, SAMPLE = "train.py", "tcw_sample.py"


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
