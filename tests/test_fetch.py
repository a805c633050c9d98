"""A download that breaks, a server that errs, a disk that is full: one line, and what has arrived is not lost."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest
from conftest import largest_file
from serving import HR, content_of

from common.errors import InputError
from common.locks import try_lock
from dataset.fetch import fetch

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # it is run as a command and imported


# --- breaks ----------------------------------------------------------------------------------------------------------


def test_a_broken_connection_goes_on_where_it_broke(command, data_server, download, tmp_path):
    data_server.breaks = 2
    outcome = command(*download("DIV2K", "--scales", 2))
    assert outcome.code == 0 and "retrying in 0 s" in outcome.err
    first, second, third = (start for name, start in data_server.asked if name == HR)
    assert first == 0 < second < third <= len(data_server.files[HR])
    assert (tmp_path / "data/DIV2K/DIV2K_train_HR/0001.png").is_file()


def test_after_too_many_breaks_the_next_call_goes_on(command, expect_error, data_server, download, tmp_path):
    part = tmp_path / f"data/archives/{HR}.part"
    data_server.breaks, data_server.break_after = 100, 0
    assert "kept" not in expect_error("the connection ended after ", *download("DIV2K"))
    assert len(data_server.asked) == 3 and not (tmp_path / "data").exists()
    data_server.break_after = 70_000
    data_server.at_break = lambda: setattr(data_server, "break_after", 0)
    assert f"{part} is kept: run the same command to resume" in expect_error(
        "the connection ended after ", *download("DIV2K")
    )
    arrived = part.read_bytes()
    assert data_server.files[HR].startswith(arrived) and 0 < len(arrived) <= 70_000
    data_server.breaks, data_server.asked = 0, []
    assert command(*download("DIV2K")).code == 0 and data_server.asked[0] == (HR, len(arrived))
    assert not part.parent.exists()


def test_ctrl_c_keeps_what_has_arrived(command, data_server, download, tmp_path, ctrl_c):
    part = tmp_path / f"data/archives/{HR}.part"

    def press() -> None:
        deadline = time.monotonic() + 30
        while part.stat().st_size < 65536 and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    data_server.breaks, data_server.at_break = 1, press
    outcome = command(*download("DIV2K", "--scales", 2))
    assert outcome.code == 130 and f"{part} is kept" in outcome.err and "stopped by Ctrl-C" in outcome.err
    size = part.stat().st_size
    assert command(*download("DIV2K", "--scales", 2)).code == 0 and data_server.asked[1] == (HR, size)


def leave_part(tmp_path: Path, data: bytes) -> Path:
    part = tmp_path / f"data/archives/{HR}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data)
    return part


def test_a_server_that_cannot_go_on_sends_all_again(command, data_server, download, tmp_path):
    leave_part(tmp_path, data_server.files[HR][:100_000])
    data_server.ranges = False
    outcome = command(*download("DIV2K", "--scales", 2))
    assert outcome.code == 0 and "resumes at 0 instead of 100,000 bytes" in outcome.err
    assert data_server.asked[0] == (HR, 100_000)


@pytest.mark.parametrize("shift", [-50_000, 1])
def test_a_server_that_sends_another_piece(command, expect_error, data_server, download, tmp_path, shift):
    part = leave_part(tmp_path, data_server.files[HR][:100_000])
    data_server.shift = shift
    if shift < 0:
        assert command(*download("DIV2K", "--scales", 2)).code == 0
    else:
        expect_error("the server cannot resume at 100,000 bytes", *download("DIV2K"))
        assert part.stat().st_size == 100_000


def test_a_complete_part_is_only_checked(command, data_server, download, tmp_path):
    leave_part(tmp_path, data_server.files[HR])
    assert command(*download("DIV2K", "--scales", 2)).code == 0 and HR not in dict(data_server.asked)


def test_a_part_of_another_file_is_dropped(command, expect_error, data_server, download, tmp_path):
    leave_part(tmp_path, b"x" * (len(data_server.files[HR]) + 1))
    assert command(*download("DIV2K", "--scales", 2)).code == 0 and data_server.asked[0] == (HR, 0)
    shutil.rmtree(tmp_path / "data/DIV2K/DIV2K_train_HR")
    part = leave_part(tmp_path, b"x" * 1000)
    expect_error(f"{HR} is not the published file: its SHA-256 is wrong. The download was removed", *download("DIV2K"))
    assert not part.exists()
    assert command(*download("DIV2K", "--scales", 2)).code == 0


def test_a_download_that_goes_on_elsewhere_is_left_alone(expect_error, data_server, download, tmp_path):
    part = leave_part(tmp_path, b"")
    with open(part, "ab") as file:
        assert try_lock(file.fileno())
        expect_error("is being downloaded by another process", *download("DIV2K"))
    assert not data_server.asked


@pytest.mark.parametrize("name", ["benchmark.tar", "benchmark.tar.part"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path.parent.parent / "precious", path)])
def test_nothing_but_a_file_is_written_to(expect_error, data_server, download, tmp_path, make, name):
    (tmp_path / "data/archives").mkdir(parents=True)
    (tmp_path / "data/precious").mkdir()
    make(tmp_path / "data/archives" / name)
    expect_error(f"archives/{name} is not a regular file", *download("Set5"))
    assert not data_server.asked


def test_a_link_in_place_of_the_part_is_not_followed(expect_error, data_server, download, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    part = leave_part(tmp_path, b"")
    part.unlink()
    part.symlink_to(precious)
    expect_error(f"{HR}.part is not a regular file", *download("DIV2K"))
    assert precious.read_text() == "mine" and not data_server.asked


def test_the_level_of_poochs_log_is_as_before(data_server, tmp_path, monkeypatch):
    content = data_server.files["benchmark.tar"]
    monkeypatch.setattr(pooch.get_logger(), "level", logging.INFO)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert fetch(f"{data_server.url}/benchmark.tar", tmp_path / "a.tar", len(content), digest)
    assert pooch.get_logger().level == logging.INFO


# --- what a server can do wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "tries", "phrase"),
    [(404, 1, "404 Not Found"), (410, 1, "410 Gone"), (403, 1, "403 Forbidden"), (503, 3, "503 Service Unavailable")],
)
def test_an_answer_that_is_no_file(expect_error, data_server, download, tmp_path, status, tries, phrase):
    data_server.status = status
    line = expect_error(phrase, *download("Set5"))
    assert f"{data_server.url}/benchmark.tar" in line and "--base_url" in line
    assert len(data_server.asked) == tries and not (tmp_path / "data").exists()


def test_no_network_is_one_line(expect_error, data_server, download, tmp_path):
    with socket.socket() as deaf:  # bound, so that nobody else takes the port, but it listens to nobody
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        line = f"{url}/benchmark.tar: no connection (Connection refused): try again later"
        expect_error(line, *download("Set5"), "--base_url", url)
    assert not (tmp_path / "data").exists()


def test_a_wrong_hash_leaves_nothing(expect_error, data_server, download, tmp_path):
    data_server.files["benchmark.tar"] = bytes(len(data_server.files["benchmark.tar"]))
    expect_error("its MD5 is wrong. The download was removed", *download("Set5"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_another_size_is_not_the_published_one(expect_error, data_server, download, tmp_path, ranges, length):
    """Such as a page to log in to the network: it must not cost what has arrived before."""
    data_server.ranges, data_server.length = ranges, length
    for content in (b"<html>", data_server.files[HR] + b"more"):
        data_server.files[HR] = content
        expect_error("so it is not the published file", *download("DIV2K"))
        assert not (tmp_path / "data").exists()
        part = leave_part(tmp_path, b"12345")
        expect_error("so it is not the published file", *download("DIV2K"))
        assert part.read_bytes() == b"12345"
        shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize("estimate", [0.9, 1.1])
@pytest.mark.parametrize("arrived", [0, 70_000])
def test_an_estimated_size_gives_way_to_the_servers(data_server, tmp_path, estimate, arrived):
    content, target = data_server.files[HR], tmp_path / "archive.zip"
    target.with_name("archive.zip.part").write_bytes(content[:arrived])
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    url = f"{data_server.url}/{HR}"
    assert fetch(url, target, int(estimate * len(content)), digest, exact_size=False)
    assert target.read_bytes() == content and data_server.asked == [(HR, arrived)]


def test_an_estimate_far_off_is_another_file(data_server, tmp_path):
    with pytest.raises(InputError, match="so it is not the published file"):
        fetch(f"{data_server.url}/{HR}", tmp_path / "a.zip", 10, f"sha256:{'0' * 64}", exact_size=False)


# --- a disk that is full --------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_known_before(expect_error, data_server, download, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=900_000))
    expect_error("1.04 MB are needed but only 900 KB free", *download("DIV2K"))
    assert not data_server.asked and not (tmp_path / "data").exists()


def test_a_disk_that_fills_up_keeps_what_has_arrived(command, expect_error, data_server, download, tmp_path):
    part = tmp_path / f"data/archives/{HR}.part"
    with largest_file(100_000):
        line = expect_error(f"{part} cannot grow beyond 100,000 bytes (File too large)", *download("DIV2K"))
    assert "to resume" in line and part.read_bytes() == data_server.files[HR][:100_000]
    assert command(*download("DIV2K", "--scales", 2)).code == 0 and data_server.asked[1] == (HR, 100_000)


@pytest.mark.parametrize(("name", "archive"), [("DIV2K", HR), ("Set5", "benchmark.tar")])
def test_a_disk_that_fills_up_while_unpacking(command, expect_error, data_server, download, tmp_path, name, archive):
    part = leave_part(tmp_path, b"").with_name(f"{archive}.part")
    part.with_name(f"{HR}.part").unlink()
    part.write_bytes(data_server.files[archive])
    with largest_file(1000):
        expect_error("cannot be written (File too large)", *download(name))
    assert content_of(tmp_path / "data") == {f"archives/{part.name}": data_server.files[archive]}
    assert command(*download(name)).code == 0 and archive not in dict(data_server.asked) and not part.parent.exists()
