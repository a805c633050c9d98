"""What only Unix or Linux has is not needed: demo, training and benchmark run where it is missing."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

# Windows lacks these modules and names; hiding them shows what an import or a command depends on
HIDE = """
import builtins, os, pathlib, runpy, signal, sys
real_import = builtins.__import__

def hidden(name, globals=None, *args, **kwargs):
    caller = (globals or {}).get("__name__", "")
    if name.split(".")[0] in ("fcntl", "resource", "pwd", "grp", "termios") and caller.split(".")[0] in OURS:
        raise ImportError(f"{name} is hidden from {caller}")
    return real_import(name, globals, *args, **kwargs)

OURS = "common dataset model inference evaluation training benchmarks solver train tcw_sample __main__".split()
builtins.__import__ = hidden
for name in ("O_NOFOLLOW", "sysconf", "pread", "pwrite"):
    delattr(os, name)
del signal.SIGHUP
import common.device
for name in ("CPUINFO", "MEMINFO", "CGROUP_OF_SELF"):
    setattr(common.device, name, pathlib.Path("/nowhere"))
if sys.argv[1] == "-m":
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_hidden(*argv: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_training_and_benchmark_run_without_what_only_unix_has(training_set, tmp_path):
    demo = tmp_path / "demo"
    run_hidden("-m", "dataset.demo", "--scales", 2, "--out", demo)
    small = [
        "--max_steps",
        2,
        "--print_interval",
        1,
        "--batch_size",
        1,
        "--patch_size",
        16,
        "--val_data_dir",
        "none",
    ]
    run = ["--ckpt_dir", tmp_path / "run", "--ckpt_name", "net", "--device", "cpu"]
    out = run_hidden("train.py", "--train_data_path", training_set, *run, *small, "--max_steps", 2)
    assert "trained to step 2" in out
    run_hidden("train.py", "--train_data_path", training_set, *run, *small, "--max_steps", 3, "--resume")
    weights = tmp_path / "run/net_3.pth"
    argv = ["--model", "cfsrcnn", "--scale", 2, "--ckpt_path", weights, "--sample_dir", tmp_path / "samples"]
    hr = sorted((demo / "x2").glob("*_HR.png"))[0]
    out = run_hidden("tcw_sample.py", *argv, "--input", hr.with_name(hr.name.replace("HR", "LR")))
    assert sorted((tmp_path / "samples").iterdir())
