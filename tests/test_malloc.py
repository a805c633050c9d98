"""The commands tune malloc for networks; a program that imports the package keeps the malloc that it has."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer"
)
# glibc maps a block of 64 MB by itself, unless it is tuned to take it from the heap
MAPS_LARGE_BLOCKS = """
import ctypes, runpy, sys

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

def maps_large_blocks():
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype, libc.malloc.restype = MallInfo, ctypes.c_void_p
    before = libc.mallinfo2().hblks
    block = libc.malloc(ctypes.c_size_t(64 << 20))
    mapped = libc.mallinfo2().hblks > before
    libc.free(ctypes.c_void_p(block))
    return mapped

"""


def run(code: str, *argv: object) -> str:
    argv = [sys.executable, "-c", MAPS_LARGE_BLOCKS + code, *map(str, argv)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240).stdout


def test_upscaling_and_training_in_a_program_leave_malloc_as_it_was(checkpoint, training_set, tmp_path):
    code = """
import numpy as np
from inference import load
from solver import Solver
from train import parse_flags
from training.distributed import DistributedContext
import torch
load(sys.argv[1], device="cpu").upscale(np.zeros((8, 8, 3), np.uint8))
Solver(parse_flags(sys.argv[2:]), DistributedContext(torch.device("cpu"))).fit()
print("mapped", maps_large_blocks())
"""
    flags = ["--train_data_path", training_set, "--ckpt_dir", tmp_path, "--device", "cpu", "--patch_size", 4]
    assert run(code, checkpoint, *flags, "--batch_size", 1, "--max_steps", 1).endswith("mapped True\n")


def test_a_command_takes_large_blocks_from_the_heap(checkpoint, image_folder, tmp_path):
    code = "runpy.run_path('tcw_sample.py', run_name='__main__')\nprint('mapped', maps_large_blocks())"
    flags = ["--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path, "--device", "cpu"]
    assert run(code, *flags, "--input", image_folder / "0000.png").endswith("mapped False\n")
