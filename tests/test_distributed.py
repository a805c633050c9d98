"""Several processes train as one does: same losses, weights and validation, one log, no hang when one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ROOT, difference
from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from common.errors import InputError, LaunchError
from model.checkpoint import read_state_dict, safe_torch_load
from tests.stress.crash_recovery import log_of
from training import failures
from training.distributed import DistributedContext, is_distributed, launch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
FLAGS = "--patch_size 8 --batch_size 7 --init identity --device cpu --print_interval 3 --lr 1e-3".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def data(training_set, image_folder) -> list[str]:
    """The flags that name a training set and a test set of four small photographs."""
    return ["--train_data_path", str(training_set), "--val_data_dir", str(image_folder)]


def start(data: list[str], folder: Path, *flags: str | int) -> subprocess.Popen:
    argv = [sys.executable, ROOT / "train.py", *data, *FLAGS, "--ckpt_dir", folder, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, argv)), stdout=-1, stderr=-1, text=True, env=environment, cwd=folder.parent)


def start_two(setup: str, data: list[str], folder: Path, *flags: str) -> subprocess.Popen:
    """Six steps of two processes, each of which first runs the code `setup`."""
    script, entry = folder.parent / "start.py", str(ROOT / "train.py")
    imports = f"import atexit, contextlib, os, runpy, sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})"
    script.write_text(f"{imports}\n{setup}\nrunpy.run_path({entry!r}, run_name='__main__')")
    launches = "import sys; from training.distributed import launch; sys.exit(launch(sys.argv[1], sys.argv[2:], 2))"
    argv = [sys.executable, "-c", launches, script, *data, *FLAGS, "--max_steps", 6, "--ckpt_dir", folder, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, argv)), stdout=-1, stderr=-1, text=True, env=environment, cwd=ROOT)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def first_moments(folder: Path) -> list[torch.Tensor]:
    """Adam's first moment of each parameter."""
    state = safe_torch_load(folder / "cfsrcnn_latest.train.pt")["optimizer"]["state"]
    return [each["exp_avg"] for each in state.values()]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """Six steps by one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert finish(start(data, folder, "--max_steps", 6))[0] == 0
    return folder


def test_several_processes_train_as_one(data, alone, tmp_path):
    """Three, so that neither the batch of 7 nor the 4 test images can be sharded evenly."""
    processes = 3
    code, out, err = finish(start(data, tmp_path / "run", "--max_steps", 6, "--num_gpu", processes))
    assert code == 0, err
    assert f"cpu x {processes} processes" in out and out.count("trained to step 6") == 1
    (record,) = json.loads((tmp_path / "run/cfsrcnn.json").read_text())["starts"]
    assert record["processes"] == processes
    ours, theirs = log_of(tmp_path / "run"), log_of(alone)
    assert [line["step"] for line in ours] == [3, 6]
    for line, expected in zip(ours, theirs, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert line["validation"]["x2"]["psnr"] == pytest.approx(expected["validation"]["x2"]["psnr"], abs=1e-3)
    state, expected = read_state_dict(tmp_path / "run/cfsrcnn_6.pth"), read_state_dict(alone / "cfsrcnn_6.pth")
    for (
        name,
        weight,
    ) in expected.items():  # Adam makes whole steps of gradients that are rounding and nothing else: a few
        assert torch.isclose(state[name], weight, atol=1e-5).float().mean() > 0.999, name
    for moment, theirs in zip(first_moments(tmp_path / "run"), first_moments(alone), strict=True):
        assert difference(moment, theirs) < 1e-4  # of all gradients


def test_torchrun_goes_on_where_one_process_stopped(data, alone, tmp_path):
    """As on several nodes, and with another number of processes than before."""
    shutil.copytree(alone, tmp_path / "run")
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", ROOT / "train.py", *data, *FLAGS]
    argv += ["--ckpt_dir", tmp_path / "run", "--max_steps", 7, "--resume"]
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "at step 6" in done.stdout and [line["step"] for line in log_of(tmp_path / "run")] == [3, 6, 7]


@pytest.mark.parametrize(
    ("in_the_way", "flags", "phrase"),
    [
        (None, ["--patch_size", 50], "--patch_size 50"),
        ("cfsrcnn.json", ["--resume"], "cfsrcnn.json is not the record of a run"),
    ],
)
def test_an_error_is_reported_once_and_has_its_exit_code(data, tmp_path, in_the_way, flags, phrase):
    if in_the_way:
        (tmp_path / "run" / in_the_way).mkdir(parents=True)
    code, out, err = finish(start(data, tmp_path / "run", "--max_steps", 6, "--num_gpu", 2, *flags))
    lines = [line for line in (out + err).splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and phrase in lines[0] and "Traceback" not in out + err, out + err


@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_of_communication_is_left_at_the_exit(data, tmp_path, fails):
    """Gloo's could abort the process then. The first process fails after some steps, or none does."""
    if fails:
        (tmp_path / "run/cfsrcnn_3.pth").mkdir(parents=True)
    setup = """def print_threads():
    for name in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            print(name.read_text())
atexit.register(print_threads)"""
    code, out, err = finish(start_two(setup, data, tmp_path / "run", "--resume"))
    errors = [line.split("/")[-1] for line in err.splitlines() if line.startswith("error: ")]
    assert errors == ["cfsrcnn_3.pth is a folder, but a file is to be written there: name a file"] * fails, err
    assert code == (2 if fails else 0) and "gloo" not in out, out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_is_the_only_line_and_the_exit_code(data, tmp_path, failing):
    """As of a machine that lacks a file, which the others notice as a lost connection, or as the launcher's SIGTERM."""
    setup = f'sys.argv += ["--train_data_path", "missing.h5"] if os.environ["RANK"] == "{failing}" else []'
    code, _, err = finish(start_two(setup, data, tmp_path / "run"))
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "missing.h5 does not exist" in lines[0], err
    assert "Traceback" not in err


def test_a_lost_connection_is_one_line_and_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with pytest.raises(InputError, match="another process has ended"), DistributedContext(torch.device("cpu")):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:47525.")
    with pytest.raises(RuntimeError, match="cannot be multiplied"), DistributedContext(torch.device("cpu")):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_does_not_keep_a_process_from_leaving_the_others_in_good_order(monkeypatch):
    """As the launcher's, once another one has ended."""
    left = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr(
        "torch.distributed.destroy_process_group", lambda: (signal.raise_signal(signal.SIGINT), left.append(1))
    )
    for error in (None, InputError("bad")):
        with suppress(InputError), DistributedContext(torch.device("cpu")):
            if error:
                raise error
    assert left == [1, 1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ({0: 2, 1: -9}, 1, "error: process 1 was killed by signal 9\n"),  # found by the launcher at one moment
        ({1: 2, 0: -15}, 2, ""),  # which sends SIGTERM itself
    ],
)
def test_the_first_of_the_processes_to_fail_is_named_though_others_end_with_it(monkeypatch, capsys, codes, code, said):
    def fail(*_) -> None:
        failures = {rank: ProcessFailure(rank, 1, each, "") for rank, each in codes.items()}
        for each in failures.values():
            each.timestamp = 7
        raise ChildFailedError("train.py", failures)

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: fail)
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_SIGNALS_TO_HANDLE"):  # which it would set
        monkeypatch.setenv(name, "1")
    assert launch("train.py", [], 2) == code and capsys.readouterr().err == said


def test_a_failure_of_nccl_is_not_taken_for_a_lost_connection_alone(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    text = (
        "NCCL error in: NCCLUtils.cpp:94, unhandled system error\nncclSystemError: System call failed.\nLast error:\n"
    )
    match = r"has ended before its time, or NCCL failed \(/dev/shm/nccl-x: No space left on device\)"
    with pytest.raises(InputError, match=match), DistributedContext(torch.device("cpu")):
        raise torch.distributed.DistBackendError(f"{text}/dev/shm/nccl-x: No space left on device")


def test_a_gpu_that_others_have_filled_is_one_line_of_its_process(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    context = DistributedContext(torch.device("cpu"))
    context.rank = 3
    with pytest.raises(LaunchError, match="the GPU of process 3 is out of memory: free some"), context:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")


def test_sigterm_saves_the_state_and_a_process_that_dies_ends_the_run_within_a_minute(data, tmp_path):
    flags = ["--max_steps", 100_000, "--num_gpu", 2, "--print_interval", 2]
    process = start(data, tmp_path / "run", *flags)
    wait_for(tmp_path / "run/cfsrcnn_2.pth", process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143 and "go on with --resume" in err
    state = torch.load(tmp_path / "run/cfsrcnn_latest.train.pt", weights_only=True)

    process = start(data, tmp_path / "run", *flags, "--resume")
    wait_for(tmp_path / f"run/cfsrcnn_{state['step'] // 2 * 2 + 2}.pth", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    begin = time.monotonic()
    code, _, err = finish(process)
    assert time.monotonic() - begin < 60
    assert code != 0 and "was killed by signal 9" in err


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.1)


def test_too_few_gpus_are_said_by_the_first_process_too(monkeypatch):
    """torchrun starts as many as it is told to; only the main process prints."""
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4, "RANK": 0, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="this machine has 2 GPUs, too few"):
        DistributedContext(torch.device("cuda"))


@pytest.fixture
def become(monkeypatch) -> Iterator[Callable[..., None]]:
    """`become(RANK=0)`: this process is that one of two, which one launcher started on two machines."""
    store = TCPStore("localhost", 0, is_master=True)
    there = {"TORCHELASTIC_USE_AGENT_STORE": True, "MASTER_ADDR": "localhost", "MASTER_PORT": store.port}

    def become(**own: int) -> None:
        for name, value in {**there, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0, **own}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("GROUP_RANK", str(own["RANK"]))

    yield become
    failures._connect.cache_clear()


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("gpus", "flags", "own", "phrase"),
    [
        (1, ["--model", "missing"], {}, "there is no model 'missing'"),
        (0, ["--device", "cuda"], {}, "PyTorch finds no CUDA GPU here"),
        (1, ["--device", "cuda"], {"LOCAL_WORLD_SIZE": 2}, "this machine has 1 GPUs, too few"),
    ],
)
def test_an_error_on_one_machine_before_they_meet_ends_those_on_the_others(
    data, tmp_path, expect_error, become, monkeypatch, failing, gpus, flags, own, phrase
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    argv = ["train.py", *data, *FLAGS, "--ckpt_dir", tmp_path / "run"]
    become(RANK=failing, **own)
    line = expect_error(phrase, *argv, *flags)
    become(RANK=1 - failing)
    assert expect_error(phrase, *argv) == line and not (tmp_path / "run").exists()


def test_a_process_that_the_launcher_starts_again_reports_anew_and_ends_no_others(data, tmp_path, expect_error, become):
    argv = ["train.py", *data, *FLAGS, "--ckpt_dir", tmp_path / "run"]
    for attempt, model in enumerate(("first", "second")):
        become(RANK=1, TORCHELASTIC_RESTART_COUNT=attempt, TORCHELASTIC_MAX_RESTARTS=2)
        expect_error(f"there is no model '{model}'", *argv, "--model", model)
    failures.await_others(0, 2)


def test_a_batch_smaller_than_the_processes_is_refused(expect_error):
    expect_error("it must be at least --num_gpu 4", "train.py", "--batch_size", 3, "--num_gpu", 4)


def test_torchrun_with_more_processes_than_patches_is_refused(data, tmp_path, expect_error, monkeypatch):
    for name, value in {"WORLD_SIZE": 9, "RANK": 0, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend: None)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 9)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr(DistributedContext, "all_gather", lambda context, items: items)
    expect_error("too small for 9 processes", "train.py", *data, *FLAGS, "--ckpt_dir", tmp_path / "run")


@pytest.mark.parametrize(
    ("variables", "phrase"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a whole number from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"LOCAL_WORLD_SIZE": "1.5"}, "LOCAL_WORLD_SIZE is '1.5'"),
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE is 3"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "1"}, "LOCAL_RANK is 1"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR"),
    ],
)
def test_a_bad_launch_environment_is_one_line(data, tmp_path, expect_error, monkeypatch, variables, phrase):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expect_error(phrase, "train.py", *data, *FLAGS, "--ckpt_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_address_that_is_in_use_is_one_line(data, tmp_path, expect_error, monkeypatch):
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        variables = {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": other.getsockname()[1]}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        line = expect_error("the processes cannot meet (", "train.py", *data, *FLAGS, "--ckpt_dir", tmp_path / "run")
    assert line.endswith("): start them by torchrun or --num_gpu") and not (tmp_path / "run").exists()


def test_an_empty_launch_environment_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert not is_distributed() and DistributedContext(torch.device("cpu")).world_size == 1
