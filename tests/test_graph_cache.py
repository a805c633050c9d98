"""Exported graphs are kept between starts: only for the very same network, whole, a few, and never in the way."""

from __future__ import annotations

import copy
import errno
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import COLOR, ROOT, Doubled
from torch import nn

import model
from common.device import is_installed
from common.errors import InputError
from inference import graph_cache, load
from inference.backends import RUNTIMES
from inference.graph_cache import cache_folder, cached_onnx
from model import create_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, which does not exist yet."""
    monkeypatch.setenv("CFSRCNN_CACHE", str(tmp_path / "new/cache"))
    return tmp_path / "new/cache"


@pytest.fixture
def exports(monkeypatch) -> list[bytes]:
    """The graphs that were made from now on, in place of an export."""
    made: list[bytes] = []
    monkeypatch.setattr(graph_cache, "version", lambda package: "1.0")

    def export(*_: object) -> bytes:
        made.append(b"graph %d" % len(made))
        return made[-1]

    monkeypatch.setattr(graph_cache, "to_onnx", export)
    return made


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_second_start_exports_nothing_and_gives_the_same_image(checkpoint, monkeypatch, backend):
    if not is_installed(*RUNTIMES[backend].packages):
        pytest.skip(f"no {backend}: pip install -r requirements-backends.txt")
    expected = load(checkpoint, backend=backend).upscale(COLOR)
    monkeypatch.setattr(graph_cache, "to_onnx", lambda *_: pytest.fail("exported again"))
    assert np.array_equal(load(checkpoint, backend=backend).upscale(COLOR), expected)


def test_a_graph_is_kept_for_the_same_network_alone(folder, exports, monkeypatch):
    net, multi = create_model("cfsrcnn", 2), create_model("cfsrcnn", 0, multi_scale=True)
    for given in (net, 2), (net, 2, "extract"), (multi, 2), (multi, 3), (copy.deepcopy(net).double(), 2):
        first = cached_onnx(*given)
        assert first is exports[-1] and cached_onnx(*given) == first
    assert len(exports) == len(list(folder.iterdir())) == 5
    with torch.no_grad():
        net.frb.conv.weight[0, 0, 0, 0] += 1
    assert cached_onnx(net, 2) == b"graph 5"
    monkeypatch.setattr(graph_cache, "version", lambda package: "1.1")
    assert cached_onnx(net, 2) == b"graph 6" == cached_onnx(net, 2)
    monkeypatch.setattr(graph_cache, "CODE", [b"changed"])
    assert cached_onnx(net, 2) == b"graph 7" == cached_onnx(net, 2)


def test_the_code_of_a_graph_is_the_imported_one(folder, exports, monkeypatch, tmp_path):
    """An edit of a file while a process runs does not keep the process's graphs for those of the edited file."""
    net = create_model("cfsrcnn", 2)
    cached_onnx(net, 2)
    sources = [(ROOT / "model" / name).read_bytes() for name in ("cfsrcnn.py", "ops.py", "export.py")]
    assert all(source in graph_cache.CODE for source in sources)
    shutil.copytree(ROOT / "model", tmp_path / "model")
    (tmp_path / "model/cfsrcnn.py").write_text("edited = 1")
    monkeypatch.setattr(model, "__path__", [str(tmp_path / "model")])
    assert cached_onnx(net, 2) == b"graph 0"


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: content + b"x"])
def test_a_damaged_file_is_made_anew(folder, exports, damage):
    net = create_model("cfsrcnn", 2)
    cached_onnx(net, 2)
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cached_onnx(net, 2) == b"graph 1" == cached_onnx(net, 2)


def test_a_folder_that_cannot_be_written_changes_nothing(folder, exports, monkeypatch):
    net = create_model("cfsrcnn", 2)
    folder.parent.mkdir()
    folder.write_text("a file")
    assert cached_onnx(net, 2) == b"graph 0" and folder.read_text() == "a file"

    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CFSRCNN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert cached_onnx(net, 2) == b"graph 1"


def test_the_least_recently_used_files_are_removed(folder, exports, monkeypatch):
    monkeypatch.setattr(graph_cache, "MAX_FILES", 2)
    net = create_model("cfsrcnn", 0, multi_scale=True)
    for number, scale in enumerate((2, 3)):
        cached_onnx(net, scale)
        (file,) = [file for file in folder.iterdir() if file.read_bytes().endswith(exports[-1])]
        os.utime(file, (number, number))
    mine = folder / "mine.onnx"  # the user's own, and older
    mine.write_bytes(b"mine")
    os.utime(mine, (0, 0))
    cached_onnx(net, 2)
    cached_onnx(net, 4)
    assert len(exports) == 3 and len({*folder.iterdir()} - {mine}) == 2 and mine.read_bytes() == b"mine"
    assert cached_onnx(net, 2) == b"graph 0" and cached_onnx(net, 4) == b"graph 2"


def test_networks_whose_code_may_be_anywhere_are_not_kept(folder, exports):
    hooked, changed, own = (create_model("cfsrcnn", 2) for _ in range(3))
    hooked.eb.register_forward_hook(lambda *_: None)
    changed.frb.conv = Doubled()
    own.frb.forward = nn.Identity().forward
    for net in Doubled(), hooked, changed, own:
        cached_onnx(net, 2)
    assert len(exports) == 4 and not folder.exists()


def test_errors_of_the_export_are_told(folder, monkeypatch):
    def fail(*_: object) -> None:
        raise InputError("no graph")

    monkeypatch.setattr(graph_cache, "to_onnx", fail)
    with pytest.raises(InputError, match="no graph"):
        cached_onnx(create_model("cfsrcnn", 2), 2)


def test_a_folder_that_cannot_be_made_or_written_changes_nothing_either(exports, monkeypatch, tmp_path):
    net = create_model("cfsrcnn", 2)
    monkeypatch.setenv("CFSRCNN_CACHE", str(tmp_path / ("x" * 300) / "graphs"))
    assert cached_onnx(net, 2) == b"graph 0"

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv("CFSRCNN_CACHE", str(tmp_path))
    monkeypatch.setattr("os.open", denied)
    assert cached_onnx(net, 2) == b"graph 1" and not any(tmp_path.iterdir())


def test_where_graphs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CFSRCNN_CACHE", "~/graphs")
    assert cache_folder() == tmp_path / "graphs"
    monkeypatch.delenv("CFSRCNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cfsrcnn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache/cfsrcnn"
