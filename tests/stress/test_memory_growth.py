"""Memory stays in bounds, tested here on little work; `python -m tests.stress.memory_growth` does the whole."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from benchmarks.peak_rss import peak_rss_in
from tests.stress import memory_growth

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 1  # MiB: Linux counts pages imprecisely, and the peak of a process may sink by a few


def test_each_part_does_its_work_and_its_memory_is_written_down(monkeypatch, tmp_path, capsys):
    def here(name: str, size: int) -> memory_growth.Measurement:
        return memory_growth.PARTS[name](tmp_path / name, size)

    monkeypatch.setattr(memory_growth, "run_part", here)
    monkeypatch.setattr(memory_growth, "PER_PIXEL", 1000)  # this process has read nothing of that size yet
    argv = [
        "--images",
        "12",
        "--large",
        "1",
        "--sampler",
        "2000",
        "--training",
        "4",
        "--out",
        str(tmp_path / "l.json"),
    ]
    monkeypatch.setattr("sys.argv", ["x", *argv])
    with pytest.raises(SystemExit) as leaving:
        memory_growth.main()
    content = json.loads((tmp_path / "l.json").read_text())
    assert leaving.value.code == 0 and content.keys() == {"device", *memory_growth.PARTS}
    assert all(
        part["in_bounds"] and part["start"] <= part["tenth"] + TOLERANCE and part["tenth"] <= part["end"] + TOLERANCE
        for name, part in content.items()
        if name != "device"
    )
    assert "12 images of 32x32" in capsys.readouterr().out
    assert (
        len(list((tmp_path / "images/memory_growth/set/x2/SR").iterdir())) == 12
        and (tmp_path / "training/run/cfsrcnn_4.pth").exists()
    )


def test_what_grows_is_out_of_bounds(monkeypatch):
    peaks = iter([100, 120, 120 + memory_growth.GROWTH, 121 + memory_growth.GROWTH])
    monkeypatch.setattr(memory_growth, "peak_rss", lambda: next(peaks))
    probe = memory_growth.MemoryProbe(20)
    for _ in range(20):
        probe()
    assert probe.measurement("flat").in_bounds and not probe.measurement("grown").in_bounds


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1 << 10), ("darwin", 1)])
def test_a_peak_is_in_mebibytes_on_every_system(monkeypatch, platform, unit):
    monkeypatch.setattr("sys.platform", platform)
    assert peak_rss_in(SimpleNamespace(ru_maxrss=(3 << 20) // unit)) == 3


def test_a_part_runs_in_a_process_of_its_own():
    kept = b"x" * (300 << 20)
    assert memory_growth.run_part("sampler", 20).end < memory_growth.peak_rss() and kept
