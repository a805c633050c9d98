"""Two runs never write to one place: the error for the second names the first, and a crashed run blocks nobody."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from common.errors import InputError
from common.files import atomic_write
from common.locks import locked
from training.run_lock import run_lock

HOLD = "import sys, time; from pathlib import Path; from training.run_lock import run_lock\n"
HOLD += "with run_lock(Path(sys.argv[1]), 'run'): print('held', flush=True); time.sleep(600)"


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of "run" in tmp_path/runs."""
    argv = [sys.executable, "-c", HOLD, str(tmp_path / "runs")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_flock(monkeypatch):
    """As on a file system without locks."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_the_second_run_is_told_who_the_first_is(expect_error, other, tmp_path):
    line = expect_error("a run called run that is still going on", "train.py", *flags(tmp_path), "--resume")
    assert f"process {other.pid} on {socket.gethostname()}" in line and "--ckpt_name" in line
    assert json.loads((tmp_path / "runs/run.lock").read_text())["pid"] == other.pid
    assert os.listdir(tmp_path / "runs") == ["run.lock"]


def test_several_processes_are_refused_with_one_line_too(other, tmp_path):
    argv = ["train.py", *flags(tmp_path), "--num_gpu", 2, "--batch_size", 2]
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, cwd=ROOT, timeout=240)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and f"process {other.pid}" in lines[0], done
    assert "Traceback" not in done.stderr


def test_a_killed_run_blocks_nobody(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "runs/run.lock").exists()
    with run_lock(tmp_path / "runs", "run"):
        assert json.loads((tmp_path / "runs/run.lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "runs/run.lock").exists()


def test_runs_of_other_names_may_share_the_folder(other, tmp_path):
    with run_lock(tmp_path / "runs", "another"):
        assert sorted(os.listdir(tmp_path / "runs")) == ["another.lock", "run.lock"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not JSON",
        "[" * 4000,
        '{"host": 1}',
        '{"host": "elsewhere", "pid": 1, "start": "then"}',
        '{"host": "elsewhere", "pid": 1e999, "start": "then"}',
    ],
)
def test_what_stands_in_a_file_that_nobody_holds_does_not_matter(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    with run_lock(tmp_path, "run"):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_new_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with run_lock(tmp_path / "a/b", "run"):
        assert (tmp_path / "a/b/run.lock").exists()
    assert not (tmp_path / "a").exists()


def test_a_lock_file_that_leads_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), run_lock(tmp_path / "runs", "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_named_and_not_waited_for(expect_error, tmp_path, make):
    (tmp_path / "runs").mkdir()
    make(tmp_path / "runs/run.lock")
    expect_error("run.lock is not a regular file", "train.py", *flags(tmp_path))
    assert os.listdir(tmp_path / "runs") == ["run.lock"]


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize(
    ("host", "pid", "free"), [(None, os.getppid(), False), (None, 2**22 + 1, True), ("elsewhere", 1, False)]
)
def test_without_locks_the_file_is_believed_while_its_process_lives(tmp_path, host, pid, free):
    holder = {"host": host or socket.gethostname(), "pid": pid, "start": "then"}
    (tmp_path / "run.lock").write_text(json.dumps(holder))
    if free:
        with run_lock(tmp_path, "run"):
            return
    with pytest.raises(InputError, match=f"process {pid} on"), run_lock(tmp_path, "run"):
        pass


def flags(folder) -> list:
    where = ["--ckpt_dir", folder / "runs", "--ckpt_name", "run", "--train_data_path", folder / "none.h5"]
    return [*where, "--device", "cpu"]


def test_where_every_lock_fails_as_held_a_run_starts_and_no_files_pile_up(monkeypatch, capsys, tmp_path):
    """As `flock` on some network mounts: EAGAIN although nobody holds the lock."""

    def flock(*_):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("training.run_lock.POLL", 0)
    monkeypatch.setattr("common.locks.WAIT", 0.0)
    with run_lock(tmp_path / "runs", "run"), atomic_write(tmp_path / "runs/file.txt") as temporary:
        temporary.write_text("whole")
        with locked(tmp_path):
            pass
    assert os.listdir(tmp_path / "runs") == ["file.txt"]
    assert capsys.readouterr().err.count("file locks do not work here") == 2  # once per folder


def test_without_locks_it_is_said_once(no_flock, capsys, tmp_path):
    for _ in range(2):
        with run_lock(tmp_path / "other_runs", "run"):
            pass
    assert capsys.readouterr().err.count(f"{tmp_path / 'other_runs'}: file locks do not work here") == 1


FAILING_FLOCK = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls;

int flock(int handle, int operation) {
    if (calls++ < atoi(getenv("FLOCK_FAILURES"))) {
        errno = atoi(getenv("FLOCK_ERRNO"));
        return -1;
    }
    return syscall(SYS_flock, handle, operation);
}
"""


@pytest.fixture(scope="module")
def failing_flock(tmp_path_factory):
    """`failing_flock(errno, times)`: the environment in which the C library's `flock` fails so, for the first `times` calls."""
    if not (sys.platform == "linux" and shutil.which("gcc")):
        pytest.skip("no gcc to compile the failing flock with")
    folder = tmp_path_factory.mktemp("flock")
    (folder / "flock.c").write_text(FAILING_FLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "flock.so", folder / "flock.c"], check=True)
    return lambda code, times: {
        **os.environ,
        "LD_PRELOAD": str(folder / "flock.so"),
        "FLOCK_ERRNO": str(code),
        "FLOCK_FAILURES": str(times),
    }


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOLCK, errno.EIO, errno.EINTR])
def test_a_run_ends_well_where_the_system_has_no_locks(failing_flock, training_set, tmp_path, code):
    """Not only where Python's `flock` is replaced: as on network mounts, below all libraries."""
    where = [
        "--ckpt_dir",
        tmp_path / "runs",
        "--ckpt_name",
        "run",
        "--train_data_path",
        training_set,
        "--device",
        "cpu",
    ]
    argv = ["train.py", *where, "--max_steps", 2, "--print_interval", 1, "--batch_size", 1, "--patch_size", 4]
    interrupted = code == errno.EINTR  # passes, so that Python tries again
    env = failing_flock(code, 3 if interrupted else 1_000_000_000)
    done = subprocess.run(
        [sys.executable, *map(str, argv)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("file locks do not work here") == (0 if interrupted else 1)
    lines = (tmp_path / "runs/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    left = {name for name in os.listdir(tmp_path / "runs") if not name.startswith("run_")}
    assert left == {"log.jsonl", "run.json"} and (tmp_path / "runs/run_2.pth").is_file()


def test_after_one_vain_wait_for_a_folder_it_is_waited_for_no_more(tmp_path, capsys, monkeypatch):
    """A training run locks its log at every interval."""
    monkeypatch.setattr("common.locks.WAIT", 0.1)
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        monkeypatch.setattr("common.locks.WAIT", 1e9)
        with locked(tmp_path):
            pass
    assert capsys.readouterr().err.count("file locks do not work here") == 1
