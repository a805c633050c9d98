"""`benchmarks.copier`: what of a session is copied while it runs, and that it is few and no large files."""

from __future__ import annotations

import os

from benchmarks import copier
from benchmarks.copier import Copier


def test_of_the_weights_in_a_folder_only_the_newest_are_kept(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "x2").mkdir(parents=True)
    copies = Copier(source, target)
    for step in (1000, 2000):
        (source / f"x2/net_{step}.pth").write_bytes(b"weights")
        os.utime(source / f"x2/net_{step}.pth", (step, step))
        copies.copy()
        assert [file.name for file in (target / "x2").iterdir()] == [f"net_{step}.pth"]


def test_large_files_and_others_are_not_copied(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "x2").mkdir(parents=True)
    monkeypatch.setattr(copier, "MAX_BYTES", 10)
    monkeypatch.setattr(copier, "COPY_SECONDS", 0.05)
    for name, size in (("x2/a.pth", 10), ("x2/b.pth", 11), ("state.tmp", 1)):
        (source / name).write_bytes(b"x" * size)
    with Copier(source, target):
        pass
    assert [file.relative_to(target).as_posix() for file in target.rglob("*.*")] == ["x2/a.pth"]
    (source / "x2/a.pth").write_bytes(b"new")
    Copier(source, target).copy()
    assert (target / "x2/a.pth").read_bytes() == b"new"


def test_only_tables_logs_and_weights_are_copied(tmp_path):
    copied = ["session.json", "session.md", "x2/log.jsonl", "x2/net_1.pth"]
    for name in (*copied, "training.json", "x2/net.json", "x2/events.txt", "x2/net_latest.train.pt"):
        file = tmp_path / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("content")
    Copier(tmp_path / "source", tmp_path / "target").copy()
    found = [file.relative_to(tmp_path / "target").as_posix() for file in (tmp_path / "target").rglob("*.*")]
    assert sorted(found) == copied
