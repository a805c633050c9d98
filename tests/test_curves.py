"""`python -m training.curves`: what a training log says is what the image shows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from training.curves import draw_curves, read_log, read_logs

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # it is run as a command and imported

CURVES = ("-m", "training.curves")


def write_log(path: Path, run: str, scales: tuple[str, ...] = ("x2",), steps: int = 4) -> Path:
    """A log of `steps` lines, 100 training steps and half an hour each; validated at every second one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for number in range(1, steps + 1):
            line = {"run": run, "step": 100 * number, "loss": 1 / number, "lr": 1e-3 / number, "seconds": 1800 * number}
            if number % 2 == 0 and scales:
                line["validation"] = {scale: {"psnr": 30.0 + number, "ssim": 0.9} for scale in scales}
            file.write(json.dumps(line) + "\n")
    return path


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_ending_decides_what_is_written(command, tmp_path, ending, start):
    log = write_log(tmp_path / "log.jsonl", "first")
    outcome = command(*CURVES, log, "--out", tmp_path / f"new/curves{ending}")
    assert outcome.code == 0 and "first (400 steps)" in outcome.out, outcome
    assert (tmp_path / f"new/curves{ending}").read_bytes().startswith(start)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [f"curves{ending}"]
    if ending == ".png":
        assert Image.open(tmp_path / "new/curves.png").width == 1800  # 9 inches of 200 dots


def test_each_panel_has_the_numbers_of_the_log_and_its_unit(tmp_path):
    figure = draw_curves(read_log(write_log(tmp_path / "log.jsonl", "first")))
    left, right = figure.axes[0::2], figure.axes[1::2]
    assert [axes.get_ylabel() for axes in left] == [
        "loss (mean of the interval)",
        "learning rate",
        "validation PSNR on Y (dB)",
    ]
    assert (left[2].get_xlabel(), right[2].get_xlabel()) == ("training steps", "hours of training")
    assert left[0].get_lines()[0].get_xydata().tolist() == [[100 * n, 1 / n] for n in (1, 2, 3, 4)]
    assert right[1].get_lines()[0].get_xydata().tolist() == [[0.5 * n, 1e-3 / n] for n in (1, 2, 3, 4)]
    assert left[2].get_lines()[0].get_xydata().tolist() == [[200, 32], [400, 34]]
    assert right[2].get_lines()[0].get_xydata().tolist() == [[1, 32], [2, 34]]


@pytest.mark.parametrize(
    ("steps", "seconds", "unit", "labels"),
    [
        (1, 0.2, "seconds", ["0", "1"]),
        (20, 3.9, "seconds", ["0", "5", "10", "15", "20"]),
        (200, 70, "seconds", ["0", "50", "100", "150", "200"]),
        (200, 130, "minutes", ["0", "50", "100", "150", "200"]),
        (21_000, 5600, "hours", ["0", "5,000", "10,000", "15,000", "20,000"]),
        (600_000, 300_000, "hours", ["0", "200,000", "400,000", "600,000"]),
    ],
)
def test_the_labels_of_short_and_long_runs_are_apart_and_true(tmp_path, steps, seconds, unit, labels):
    (tmp_path / "log.jsonl").write_text(line(step=steps, seconds=seconds))
    figure = draw_curves(read_log(tmp_path / "log.jsonl"))
    FigureCanvasAgg(figure).draw()
    left, right = figure.axes[-2:]
    assert right.get_xlabel() == f"{unit} of training"
    assert right.get_lines()[0].get_xdata() == pytest.approx(
        [seconds / {"seconds": 1, "minutes": 60, "hours": 3600}[unit]]
    )
    assert [each.get_text() for each in left.get_xticklabels()][: len(labels)] == labels
    for axes in (left, right):
        boxes = [each.get_window_extent() for each in axes.get_xticklabels()]
        assert len(boxes) > 1 and all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_runs_and_scales_are_told_apart_in_the_legend(tmp_path):
    both = write_log(tmp_path / "a/log.jsonl", "first")
    write_log(both, "second", ("x2", "x3"))
    again = write_log(tmp_path / "b/log.jsonl", "first", ())
    figure = draw_curves(read_logs([both, again]))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["a/first", "second", "b/first", "second, x2", "second, x3"]
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(styles) == 3


def test_many_runs_of_one_name_are_told_apart(command, tmp_path):
    logs = [write_log(tmp_path / f"{folder}/base/{number}.jsonl", "run") for folder in "ab" for number in range(5)]
    logs.append(write_log(tmp_path / "c/log.jsonl", "run"))
    outcome = command(*CURVES, *logs, "--out", tmp_path / "a.png")
    assert f"{logs[0]}: run (400 steps), {logs[1]}: run (400 steps)," in outcome.out
    assert outcome.out.endswith(", c/run (400 steps)\n"), outcome
    lines = draw_curves(read_logs(logs)).axes[0].get_lines()
    assert len({line.get_label() for line in lines}) == len(logs)
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == len(logs)


def test_without_validation_there_is_no_psnr_panel(tmp_path):
    figure = draw_curves(read_log(write_log(tmp_path / "log.jsonl", "first", ())))
    assert len(figure.axes) == 4


def line(**changes) -> str:
    return json.dumps({"run": "run", "step": 1, "loss": 0.1, "lr": 1e-4, "seconds": 1.0} | changes)


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_any_name_of_a_run_is_shown_as_text(command, tmp_path, ending):
    for number, name in enumerate((r"$\frac{$ a_^", "a\nb\x1b[31m", "\udcff", None, "$x$")):
        (tmp_path / f"{number}.jsonl").write_text(line(run=name) + "\n")
    outcome = command(*CURVES, *sorted(tmp_path.glob("*.jsonl")), "--out", tmp_path / f"a{ending}")
    assert outcome.code == 0 and (tmp_path / f"a{ending}").exists(), outcome.err
    assert (
        r"$\frac{$ a_^ (1 steps), a\nb\x1b[31m (1 steps), \udcff (1 steps)" in outcome.out and "\x1b" not in outcome.out
    )
    legend = draw_curves(read_log(tmp_path / "4.jsonl")).axes[0].get_lines()[0].get_label()
    assert legend == r"\$x\$"


def test_an_unusable_log_or_ending_is_one_line(expect_error, tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", "first"), tmp_path / "a.png"
    expect_error("none.jsonl does not exist", *CURVES, log, tmp_path / "none.jsonl", "--out", out)
    expect_error(f"{tmp_path} is a folder: name the log.jsonl in it", *CURVES, tmp_path, "--out", out)
    (tmp_path / "empty.jsonl").touch()
    expect_error("empty.jsonl is empty", *CURVES, tmp_path / "empty.jsonl", "--out", out)
    expect_error("must end in .png, .svg, .pdf", *CURVES, log, "--out", tmp_path / "a.txt")
    good = log.read_text()
    for bad in (
        '{"run": "first", "st',
        '{"run": "first", "step": 500}',
        "[1]",
        '"run"',
        '{"run": 1, "validation": 2}',
        "[" * 100_000,
        line(step=10**400),
    ):
        log.write_text(good + bad)
        expect_error("log.jsonl, line 5 is not a line of a training log", *CURVES, log, "--out", out)
    log.write_bytes(b"\xff\xfe\x00")
    expect_error("line 1 is not a line", *CURVES, log, "--out", out)
    assert not out.exists()
