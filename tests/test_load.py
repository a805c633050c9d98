"""Long and large work stays in bounds, in small here; the figures of the whole are those of `python -m benchmarks.load`."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from benchmarks import load
from benchmarks.peak import peak_in

pytestmark = pytest.mark.usefixtures("one_thread")
ROUGHLY = 1  # MiB: Linux counts pages in haste, and its peak of a process may sink by a few


def test_each_part_does_its_work_and_its_memory_is_written_down(monkeypatch, tmp_path, capsys):
    def here(name: str, size: int) -> load.Load:
        return load.PARTS[name](tmp_path / name, size)

    monkeypatch.setattr(load, "run_part", here)
    monkeypatch.setattr(load, "PER_PIXEL", 1000)  # this process has read nothing of that size yet
    words = [
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
    monkeypatch.setattr("sys.argv", ["x", *words])
    with pytest.raises(SystemExit) as leaving:
        load.main()
    content = json.loads((tmp_path / "l.json").read_text())
    assert leaving.value.code == 0 and content.keys() == {"device", *load.PARTS}
    assert all(
        part["in_bounds"] and part["start"] <= part["tenth"] + ROUGHLY and part["tenth"] <= part["end"] + ROUGHLY
        for name, part in content.items()
        if name != "device"
    )
    assert "12 images of 32x32" in capsys.readouterr().out
    assert (
        len(list((tmp_path / "images/run/set/x2/SR").iterdir())) == 12
        and (tmp_path / "training/run/cfsrcnn_4.pth").exists()
    )


def test_what_grows_is_out_of_bounds(monkeypatch):
    peaks = iter([100, 120, 120 + load.GROWTH, 121 + load.GROWTH])
    monkeypatch.setattr(load, "peak", lambda: next(peaks))
    watch = load.Watch(20)
    for _ in range(20):
        watch()
    assert watch.load("flat").in_bounds and not watch.load("grown").in_bounds


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1 << 10), ("darwin", 1)])
def test_a_peak_is_in_mebibytes_on_every_system(monkeypatch, platform, unit):
    monkeypatch.setattr("sys.platform", platform)
    assert peak_in(SimpleNamespace(ru_maxrss=(3 << 20) // unit)) == 3


def test_a_part_runs_in_a_process_of_its_own():
    kept = b"x" * (300 << 20)
    assert load.run_part("sampler", 20).end < load.peak() and kept
