"""How every command ends: its exit code, one line, and nothing of Python's own, wherever its output goes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from conftest import ROOT

from common.errors import InputError, run_cli, stop_signals
from dataset.hdf5 import read_hdf5

PRINTS = "from common.errors import run_cli; run_cli(lambda: print('some words'))"


def ended(output) -> tuple[int, str]:
    """The exit code and stderr of a small command whose stdout is `output`, buffered as ever."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", PRINTS], stdout=output, stderr=subprocess.PIPE, cwd=ROOT, env=env)
    return done.returncode, done.stderr.decode()


def test_output_that_goes_to_a_full_disk_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        assert ended(full) == (2, "error: [Errno 28] No space left on device\n")


def test_a_reader_that_has_gone_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    assert ended(write) == (0, "")
    os.close(write)


def test_main_memory_that_runs_out_is_one_line(capsys):
    """PyTorch has no kind of error of its own for it."""
    with pytest.raises(SystemExit) as leaving:
        run_cli(lambda: torch.empty(1 << 52))
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of memory: free some")


def test_a_gpu_that_others_have_filled_is_one_line(capsys):
    """PyTorch raises its own kind of error only for its own allocations, not where CUDA cannot even start."""

    def fail() -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    with pytest.raises(SystemExit) as leaving:
        run_cli(fail)
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: the GPU is out of memory: free some, or use --device cpu\n"


def test_other_errors_of_pytorch_are_not_hidden():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_cli(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


@pytest.mark.parametrize(("rank", "local_rank", "prints"), [("0", "0", True), ("3", "0", True), ("3", "1", False)])
def test_one_of_the_processes_on_each_machine_prints_an_error(monkeypatch, capsys, rank, local_rank, prints):
    """Also one that only another machine has, such as a missing GPU."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as leaving:
        run_cli(lambda: (_ for _ in ()).throw(InputError("no GPU")))
    assert leaving.value.code == 2 and capsys.readouterr().err == ("error: no GPU\n" if prints else "")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_ends_a_command_and_nohup_keeps_it():
    sends = "import os, signal; from common.errors import run_cli; "
    sends += "run_cli(lambda: (os.kill(os.getpid(), signal.SIGHUP), print('went on')))"
    for prefix, code, out, err in [([], 129, "", "stopped by SIGHUP\n"), (["nohup"], 0, "went on\n", "")]:
        argv = [*prefix, sys.executable, "-c", sends]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


class Interrupted(io.RawIOBase):
    """A terminal that is just written to when SIGTERM arrives."""

    def __init__(self):
        super().__init__()
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if not self.text:
            self.text = "interrupted "
            signal.raise_signal(signal.SIGTERM)
        self.text += bytes(data).decode()
        return len(data)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals are handled as before when the test is over."""
    before = {number: signal.getsignal(number) for number in stop_signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_in_the_midst_of_printing_ends_a_command_with_one_line(monkeypatch):
    terminal = Interrupted()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(terminal), line_buffering=True))
    with pytest.raises(SystemExit) as leaving:
        run_cli(lambda: print("a line", file=sys.stderr))
    assert leaving.value.code == 143 and terminal.text == "interrupted a line\nstopped by SIGTERM\n"


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_does_not_keep_a_command_from_cleaning_up(capsys):
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(1)

    with pytest.raises(SystemExit) as leaving:
        run_cli(work)
    assert cleaned and leaving.value.code == 143 and capsys.readouterr().err == "stopped by SIGTERM\n"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
def test_a_command_started_without_output_does_its_work(image_folder, tmp_path, closed):
    argv = [sys.executable, ROOT / "div2h5.py", "--source", image_folder, "--out", tmp_path / "train.h5"]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *argv], cwd=ROOT, capture_output=True, timeout=240)
    assert done.returncode == 0
    assert len(read_hdf5(tmp_path / "train.h5", [2])) == 4


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_sigterm_while_the_interpreter_exits_ends_it_without_a_traceback():
    code = """import atexit, os, signal, time
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)))
from common.errors import run_cli
run_cli(lambda: None)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_process_ends_with_the_one_that_started_it():
    child = "import time; from common.errors import end_with_parent, run_cli; "
    child += "run_cli(lambda: (end_with_parent(), print('ready', flush=True), time.sleep(600)))"
    parent = f"""import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(os.getpid(), signal.SIGKILL)"""
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "stopped by SIGTERM\n")  # of which the child has a copy
