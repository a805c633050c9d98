"""Time to quality: the tables say what the logs say, the page in docs/ is up to date, and mistakes in the list are one line."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from training.records import BEGIN, END

LOG = [("a", 10, 1800), ("a", 20, 3600), ("b", 5, 600), ("gpu", 7, 300)]
IN_LOG = {"log": "logs/x2.jsonl"}
STAGES = [
    {**IN_LOG, "name": "first", "scale": 2, "run": "a", "threads": 2, "set5": {"10": 37.0, "20": 37.1}},
    {"name": "targets", "scale": 3, "seconds": 900, "threads": 4},
    {**IN_LOG, "name": "x3", "scale": 3, "run": "b", "threads": 1, "after": ["first", "targets"], "set5": {"5": 33.4}},
    {**IN_LOG, "name": "x2gpu", "scale": 2, "run": "gpu", "gpus": 2, "after": ["first"], "set5": {"7": 38.0}},
]


@pytest.fixture
def records(tmp_path):
    """`records(stages)`: a records file with them and the log that they name."""
    (tmp_path / "logs").mkdir()
    lines = [{"run": run, "step": step, "seconds": seconds, "loss": 0.1, "lr": 1e-3} for run, step, seconds in LOG]
    (tmp_path / "logs/x2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def write(stages: list[dict]):
        path = tmp_path / "records.json"
        about = {"command": "make it", "commit": "abc", "hardware": "box"}
        targets = {"x2": [37.0, 37.05, 39.0], "x3": [33.4]}
        path.write_text(json.dumps({"targets": targets, "stages": [about | stage for stage in stages]}))
        return path

    return write


def test_the_cheapest_run_to_each_psnr_with_all_it_builds_on(command, records):
    outcome = command("-m", "training.records", records(STAGES))
    assert outcome.code == 0, outcome.err
    rows = [line.split("|")[1:6] for line in outcome.out.splitlines() if line.startswith("| 3")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["37.00", "1.00", "", "37.00", "first"],  # 1,800 seconds of 2 threads
        ["37.00", "2.00", "10.0", "38.00", "x2gpu"],  # 300 seconds of 2 GPUs, after an hour of 2 threads
        ["37.05", "2.00", "", "37.10", "first"],
        ["37.05", "2.00", "10.0", "38.00", "x2gpu"],
        ["39.00", "not reached yet", "", "", ""],
        ["33.40", "3.17", "", "33.40", "x3"],  # 600 seconds, after 2 hours and after 900 seconds of 4 threads
    ]
    assert "- **x3**, after first and targets: `make it`" in outcome.out


def test_the_page_is_up_to_date(command):
    outcome = command("-m", "training.records", ROOT / "docs/records.json", "--check", ROOT / "docs/records.md")
    assert outcome.code == 0, outcome.err


def test_tables_are_written_between_the_markers(command, expect_error, records, tmp_path):
    page, argv = tmp_path / "page.md", ["-m", "training.records", records(STAGES)]
    page.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n")
    expect_error("page.md is out of date", *argv, "--check", page)
    assert command(*argv, "--update", page).code == 0
    written = page.read_text()
    assert (
        written.startswith(f"head\n{BEGIN}\n\n| Set5 x2")
        and written.endswith(f"\n{END}\ntail\n")
        and "old" not in written
    )
    assert command(*argv, "--check", page).code == 0
    page.write_text("no markers")
    expect_error(f"page.md: there are no lines {BEGIN}", *argv, "--update", page)
    assert page.read_text() == "no markers"


@pytest.mark.parametrize(
    ("number", "change", "phrase"),
    [
        (0, {"run": "z"}, "stage first: logs/x2.jsonl has no run 'z', only a, b, gpu"),
        (0, {"set5": {"15": 37}}, "stage first: logs/x2.jsonl has no line for step 15 of a"),
        (0, {"log": "none.jsonl"}, "none.jsonl does not exist"),
        (0, {"after": ["x2gpu"]}, "it comes after itself"),
        (0, {"after": ["nobody"]}, "there is no stage nobody"),
        (0, {"gpus": 1}, "stage first needs either threads or gpus"),
        (1, {"seconds": 0}, "stage targets needs either log and run, or seconds"),
        (1, {"wattage": 100}, "is not a records file"),
    ],
)
def test_a_mistake_in_the_list_is_one_line(expect_error, records, number, change, phrase):
    stages = [dict(stage) for stage in STAGES]
    stages[number] |= change
    expect_error(phrase, "-m", "training.records", records(stages))


def test_a_missing_or_broken_file_is_one_line(expect_error, tmp_path):
    expect_error("none.json does not exist", "-m", "training.records", tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("[1, 2")
    expect_error("broken.json is not a records file", "-m", "training.records", tmp_path / "broken.json")
