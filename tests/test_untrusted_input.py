"""Untrusted files: whatever is wrong, one line names the file, nothing in it runs, nothing is written elsewhere.

What belongs to one reader alone is tried in its own tests: damaged weights in test_checkpoint.py, images in test_images.py,
groups and sizes in test_hdf5.py, names in a page in test_html_report.py.
"""

from __future__ import annotations

import json
import os
import zipfile

import h5py
import numpy as np
import pytest
import torch
from conftest import sample_image
from PIL import Image

from common.errors import InputError, escape_unprintable
from dataset.hdf5 import read_hdf5, write_hdf5
from dataset.images import read_image, read_rgb
from model.checkpoint import read_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")
COLOR = sample_image("astronaut.png", 24, 30)
SMALL = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--val_data_dir", "none"]
ODD_NAMES = ["two words", "line\nbreak", "Bildgröße 图像 صورة", "..x", "-rf", "%s{0}$(x)`y`", "\x1b[31mred", "q" * 200]


@pytest.fixture
def training_set(tmp_path):
    pairs = [(np.full((16, 16, 3), number, np.uint8), {2: np.full((8, 8, 3), number, np.uint8)}) for number in range(3)]
    write_hdf5(tmp_path / "train.h5", pairs)
    return tmp_path / "train.h5"


def bicubic(source, out, kind="--input") -> list:
    return ["tcw_sample.py", "--model", "bicubic", "--scale", 2, kind, source, "--sample_dir", out]


# --- training sets --------------------------------------------------------------------------------------------------


def test_a_training_set_cut_off_at_any_byte_is_refused(training_set):
    whole = training_set.read_bytes()
    for length in (*range(0, len(whole), 61), len(whole) - 1):
        training_set.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a readable HDF5 file"):
            read_hdf5(training_set, [2])


def test_pixels_from_another_file_are_not_taken(training_set, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16 * 16 * 3))
    with h5py.File(training_set, "a") as file:
        del file["HR/1"]
        file.create_dataset("HR/1", (16, 16, 3), np.uint8, external=str(tmp_path / "secret"))
    with pytest.raises(InputError, match="HR/1 takes its pixels from another file"):
        read_hdf5(training_set, [2])
    with h5py.File(training_set, "a") as file:
        del file["HR/1"]
        layout = h5py.VirtualLayout((16, 16, 3), np.uint8)
        layout[:] = h5py.VirtualSource(str(training_set), "HR/0", (16, 16, 3))
        file.create_virtual_dataset("HR/1", layout)
    with pytest.raises(InputError, match="HR/1 takes its pixels from another file"):
        read_hdf5(training_set, [2])


@pytest.mark.parametrize("place", ["HR", "HR/1"])
def test_links_into_another_file_are_not_followed(training_set, tmp_path, place):
    other = tmp_path / "other.h5"
    other.write_bytes(training_set.read_bytes())
    with h5py.File(training_set, "a") as file:
        del file[place]
        file[place] = h5py.ExternalLink(str(other), place)
    with pytest.raises(InputError, match=r"has no group HR|no image 1"):
        read_hdf5(training_set, [2])


def test_an_image_that_unpacks_to_more_than_there_is_memory_is_refused(training_set):
    with h5py.File(training_set, "a") as file:
        del file["HR/1"]
        file.create_dataset("HR/1", (1 << 20, 1 << 20, 3), np.uint8, chunks=(1024, 1024, 3), compression="gzip")
    with pytest.raises(InputError, match="HR/1 has an implausible compression ratio"):
        read_hdf5(training_set, [2])


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)], ids=str)
def test_an_image_of_any_shape_is_upscaled(command, checkpoint, tmp_path, size):
    Image.fromarray(COLOR).resize(size).save(tmp_path / "a.png")
    argv = ["tcw_sample.py", "--scale", 2, "--ckpt_path", checkpoint, "--device", "cpu", "--input", tmp_path / "a.png"]
    assert command(*argv, "--sample_dir", tmp_path).code == 0
    assert Image.open(tmp_path / "a_x2.png").size == (2 * size[0], 2 * size[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 4000)], ids=str)
def test_an_image_too_small_to_train_on_or_to_measure_is_named(expect_error, tmp_path, size):
    (tmp_path / "in").mkdir()
    Image.new("RGB", size).save(tmp_path / "in/dot.png")
    expect_error("dot.png is", "div2h5.py", "--source", tmp_path / "in", "--out", tmp_path / "a.h5")
    expect_error("dot.png", *bicubic(tmp_path / "in", tmp_path / "out", "--test_data_dir"))


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, ending):
    others = [Image.new("RGB", (30, 24), color) for color in ("red", "blue")]
    Image.fromarray(COLOR).save(tmp_path / f"a.{ending}", save_all=True, append_images=others, lossless=True)
    assert np.array_equal(read_rgb(tmp_path / f"a.{ending}"), COLOR)


def test_a_jpeg_for_print_becomes_rgb(tmp_path):
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    decoded = read_image(tmp_path / "a.jpg")
    assert decoded.converted == "CMYK" and abs(decoded.rgb.astype(int) - COLOR).mean() < 6


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PDF"])
def test_other_kinds_of_files_under_an_images_name_are_refused(tmp_path, kind):
    """To decode EPS, Pillow would start Ghostscript."""
    Image.fromarray(COLOR).save(tmp_path / "a.png", format=kind)
    with pytest.raises(InputError, match=r"a\.png is not a readable image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("width", [30_000, 2**31 - 1])
def test_a_header_that_promises_too_much_costs_no_memory(expect_error, tmp_path, width):
    data = bytearray(b"P6 %d 30000 255\n" % width)
    (tmp_path / "a.ppm").write_bytes(data)
    expect_error("more than 256 megapixels are refused", *bicubic(tmp_path / "a.ppm", tmp_path / "out"))


def test_a_pipe_is_not_waited_for_and_not_replaced(expect_error, image_folder, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    expect_error("a.png is not a readable image", *bicubic(tmp_path / "a.png", tmp_path / "out"))
    expect_error("a.png is not a regular file", "div2h5.py", "--source", image_folder, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").is_fifo()


# --- names and links ------------------------------------------------------------------------------------------------


def test_any_name_of_an_image_is_taken_and_shown_without_what_is_no_text(command, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ODD_NAMES:
        Image.fromarray(COLOR).save(tmp_path / f"in/x{name}.png")
    Image.fromarray(COLOR).save(os.fsencode(tmp_path) + b"/in/x\xff.png", format="PNG")  # no text in any coding
    outcome = command(*bicubic(tmp_path / "in", tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    names = sorted(os.listdir(os.fsencode(tmp_path / "out")))
    assert names == sorted([*(f"x{name}_x2.png".encode() for name in ODD_NAMES), b"x\xff_x2.png"])
    outcome = command(*bicubic(tmp_path / "in", tmp_path / "measured", "--test_data_dir"))
    assert outcome.code == 0 and "\x1b" not in outcome.out and "xline\\nbreak.png" in outcome.out, outcome.err
    results = json.loads((tmp_path / "measured/bicubic/in/x2/results.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in results["images"]] == sorted([*(f"x{n}.png" for n in ODD_NAMES), "x\udcff.png"])


def test_a_name_in_an_error_is_shown_on_one_line(expect_error, tmp_path):
    name = "a\n\x1b[31m\udcff.png"
    (tmp_path / name).write_text("no image")
    line = expect_error("is not a readable image", *bicubic(tmp_path / name, tmp_path / "out"))
    assert "\\x1b[31m\\udcff.png" in line and line.isprintable()
    assert escape_unprintable("Größe \x07") == "Größe \\x07"


@pytest.mark.parametrize("folder", ["SR", "HR"])
def test_results_are_not_written_through_a_link_that_leads_out(expect_error, image_folder, tmp_path, folder):
    place, elsewhere = tmp_path / f"out/bicubic/{image_folder.name}/x2", tmp_path / "elsewhere"
    elsewhere.mkdir()
    place.mkdir(parents=True)
    (place / folder).symlink_to(elsewhere)
    expect_error(f"{folder} leads out of", *bicubic(image_folder, tmp_path / "out", "--test_data_dir"))
    assert not list(elsewhere.iterdir())


def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(command, image_folder, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/0000_x2.png").symlink_to(tmp_path / "precious")
    assert command(*bicubic(image_folder / "0000.png", tmp_path / "out")).code == 0
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "out/0000_x2.png").is_symlink()


@pytest.mark.parametrize("name", ["log.jsonl", "cfsrcnn_tensorboard"])
def test_a_run_writes_through_no_link(command, training_set, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--max_steps", 1]
    outcome = command(*argv)
    assert outcome.code == 2 and "Traceback" not in outcome.err and not (tmp_path / "elsewhere").exists()


def test_links_in_a_circle_and_names_that_are_no_text_are_one_line(expect_error, image_folder, training_set, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for kind in ("--input", "--test_data_dir"):
        expect_error("loop", *bicubic(image_folder, tmp_path / "loop", kind))
    argv = ["train.py", "--train_data_path", training_set, *SMALL, "--max_steps", 1, "--ckpt_dir", tmp_path / "run"]
    expect_error("has bytes that are not text", *argv, "--ckpt_name", "a\udcff")
    expect_error("from 0 to 2^64 - 1", *argv, "--seed", 1 << 64)
    assert not (tmp_path / "run").exists()


def test_the_names_of_weights_may_go_up_but_not_out(command, training_set, tmp_path):
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "a/run", *SMALL, "--max_steps", 1]
    assert command(*argv, "--ckpt_name", "..").code == 0
    assert (tmp_path / "a/run/.._1.pth").exists() and os.listdir(tmp_path / "a") == ["run"]


def test_an_sr_folder_that_is_a_file_is_named(expect_error, image_folder, tmp_path):
    (tmp_path / "bicubic").write_text("mine")
    expect_error("bicubic is a file, but a folder is needed", *bicubic(image_folder, tmp_path, "--test_data_dir"))
    assert (tmp_path / "bicubic").read_text() == "mine"


# --- weights and states ---------------------------------------------------------------------------------------------


def test_a_tensor_of_one_value_that_stands_for_many_is_refused(expect_error, tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds no weights"):
        read_state_dict(tmp_path / "a.pth")
    expect_error("holds no weights", "-m", "model.checkpoint", "show", tmp_path / "a.pth")


def spoiled(state: dict) -> dict[str, dict]:
    """Training states that are readable and wrong, by what is wrong with them."""
    optimizer = {**state["optimizer"], "state": {0: {**state["optimizer"]["state"][0], "exp_avg": torch.zeros(7)}}}
    return {
        "options": state | {"options": [1, 2]},
        "unknown option": state | {"options": state["options"] | {"rm": "-rf"}},
        "step": state | {"step": "seven"},
        "window": state | {"window": [1]},
        "weights": state | {"net": {"a": torch.zeros(3)}},
        "optimizer": state | {"optimizer": optimizer},
        "no optimizer": state | {"optimizer": {}},
        "patches": state | {"sampler": "{}"},
        "order": state | {"sampler": json.dumps(json.loads(state["sampler"]) | {"order": [10**9]})},
        "random": state | {"random": torch.zeros(3)},
        "no dict": {"a": 1},
    }


def test_a_training_state_that_is_wrong_inside_is_one_line(command, expect_error, training_set, tmp_path):
    argv = [
        "train.py",
        "--train_data_path",
        training_set,
        "--ckpt_dir",
        tmp_path,
        *SMALL,
        "--max_steps",
        1,
        "--resume",
    ]
    assert command(*argv).code == 0
    latest = tmp_path / "cfsrcnn_latest.train.pt"
    for what, state in spoiled(torch.load(latest, weights_only=True)).items():
        torch.save(state, latest)
        expect_error("has --rm" if what == "unknown option" else "cannot be read", *argv)
    torch.save([os.getcwd], latest)
    expect_error("could run code: refused", *argv)
    with zipfile.ZipFile(latest, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(32 << 20))
    expect_error("implausible compression ratio", *argv)
