"""The benchmark is deterministic: threads, tiles, image order and other images in a batch change no digit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from conftest import ROOT, sample_image
from PIL import Image

from dataset.demo import PHOTOGRAPHS
from inference import tiling
from inference.upscaler import to_uint8
from model.checkpoint import load_model

WEIGHTS = ROOT / "checkpoint/x2/cfsrcnn_x2.pth"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A piece of each of the demo's photographs, HR, 88x80 pixels (width x height)."""
    folder = tmp_path_factory.mktemp("digits") / "set"
    folder.mkdir()
    for name in PHOTOGRAPHS:
        assert (Path(skimage.__file__).parent / "data" / name).is_file()
        Image.fromarray(sample_image(name, 80, 88, 150, 180)).save(folder / f"{Path(name).stem}.png")
    return folder


@pytest.fixture
def threads():
    """`threads(2)` until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def benchmark(command, tmp_path):
    """`benchmark(folder, flags...)`: SR images by name, and PSNR by name, as the command leaves them."""
    runs = iter(range(100))

    def run(folder: Path, *flags) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        out = tmp_path / f"run{next(runs)}"
        argv = [
            "--ckpt_path",
            WEIGHTS,
            "--scale",
            2,
            "--device",
            "cpu",
            "--test_data_dir",
            folder,
            "--sample_dir",
            out,
        ]
        outcome = command("tcw_sample.py", *argv, *flags)
        assert outcome.code == 0, outcome.err
        results = next(out.glob("**/results.json"))
        images = {file.stem: np.asarray(Image.open(file)) for file in (results.parent / "SR").iterdir()}
        return images, {each["name"]: each["psnr"] for each in json.loads(results.read_text())["images"]}

    return run


def same(ours: tuple[dict, dict], theirs: tuple[dict, dict]) -> None:
    """The same images in 8 bits, and their PSNR to 1e-4 dB."""
    assert ours[0].keys() == theirs[0].keys() and len(ours[0]) == len(ours[1]) == len(theirs[1]) >= 2
    assert all(np.array_equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert ours[1] == pytest.approx(theirs[1], abs=1e-4)


def test_threads_tiles_and_order_change_no_digit(benchmark, photographs, threads, monkeypatch, tmp_path):
    threads(1)
    expected = benchmark(photographs, "--tile", "off")
    threads(2)
    same(benchmark(photographs, "--tile", "off"), expected)
    threads(1)
    some = {file: f"{9 - number}_{file.name}" for number, file in enumerate(sorted(photographs.iterdir())[:3])}
    other = tmp_path / "set"
    other.mkdir()
    for file, name in some.items():
        (other / name).symlink_to(file)
    renamed = [{each[2:]: value for each, value in part.items()} for part in benchmark(other, "--tile", 17)]
    kept = [{each: part[each] for each in renamed[number]} for number, part in enumerate(expected)]
    same(renamed, kept)
    monkeypatch.setattr(tiling, "CPU_BUDGET", 1)
    monkeypatch.setattr(tiling, "REFINE_SIDE", 32)
    renamed = [{each[2:]: value for each, value in part.items()} for part in benchmark(other)]
    same(renamed, kept)


def test_other_images_in_a_batch_change_no_digit(photographs, one_thread):
    net = load_model(WEIGHTS).eval()
    lrs = [torch.from_numpy(np.asarray(Image.open(file))[:40, :48].copy()) for file in photographs.iterdir()]
    batch = (torch.stack(lrs).permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        together = net(batch, 2)
        for number in range(len(batch)):
            alone = net(batch[number : number + 1], 2)
            assert (together[number] - alone[0]).abs().max() < 1e-6
            assert np.array_equal(*(to_uint8(each.numpy()) for each in (together[number], alone[0])))
