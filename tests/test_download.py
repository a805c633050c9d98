"""`python -m dataset.download`: whole and checked data sets in the layout that the next command reads."""

from __future__ import annotations

import hashlib
import io
import shlex
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
from serving import HR, as_zip, content_of, png

from dataset import sources
from dataset.images import read_rgb
from dataset.imresize import imresize

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # it is run as a command and imported


def members_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist() if name.endswith(".png") and "._" not in name}


def next_command(out: str) -> list[str]:
    return shlex.split(
        next(line for line in out.splitlines() if line.startswith("next: python "))[len("next: python ") :]
    )


# --- what is downloaded ----------------------------------------------------------------------------------------------


def test_div2k_is_laid_out_as_the_next_command_reads_it(command, data_server, download, tmp_path):
    outcome = command(*download("DIV2K", "--valid"))
    assert outcome.code == 0, outcome
    expected = {n: data for f, a in data_server.files.items() if f.endswith("zip") for n, data in members_of(a).items()}
    assert content_of(tmp_path / "data") == {f"DIV2K/{name}": data for name, data in expected.items()}
    assert not (tmp_path / "data/archives").exists()
    line = next_command(outcome.out)
    assert command(*line).code == 0
    with h5py.File(tmp_path / "data/DIV2K_train.h5") as file:
        assert [len(file[group]) for group in ("HR", "X2", "X3", "X4")] == [3, 3, 3, 3]
        assert np.array_equal(file["X3/1"], read_rgb(tmp_path / "data/DIV2K/DIV2K_train_LR_bicubic/X3/0002x3.png"))


def test_what_is_there_is_not_downloaded_again(command, data_server, download, tmp_path):
    assert command(*download("div2k", "--scales", 2)).code == 0
    assert [name for name, _ in data_server.asked] == [HR, "DIV2K_train_LR_bicubic_X2.zip"]
    outcome = command(*download("DIV2K", "--scales", 2))
    assert outcome.code == 0 and "DIV2K_train_HR already exists" in outcome.out and len(data_server.asked) == 2
    outcome = command(*download("DIV2K", "--scales", 2, 3))
    assert outcome.code == 0 and [name for name, _ in data_server.asked[2:]] == ["DIV2K_train_LR_bicubic_X3.zip"]
    assert next_command(outcome.out)[-3:] == ["--scales", "2", "3"] and command(*next_command(outcome.out)).code == 0


def test_the_default_folder_is_that_of_the_next_command(command, data_server, download, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [each for each in download("DIV2K", "--scales", 2) if each not in ("--out", tmp_path / "data")]
    outcome = command(*flags)
    assert outcome.code == 0 and next_command(outcome.out) == ["div2h5.py", "--scales", "2"]
    assert command(*next_command(outcome.out)).code == 0 and (tmp_path / "dataset/DIV2K_train.h5").is_file()


@pytest.mark.parametrize("place", ["DIV2K_train", "."])
def test_div2k_elsewhere_in_the_folder_is_completed_there(command, data_server, download, tmp_path, place):
    folder = tmp_path / "data" / place
    assert command(*download("DIV2K", "--scales", 4)).code == 0
    folder.mkdir(exist_ok=True)
    for each in (tmp_path / "data/DIV2K").iterdir():
        each.rename(folder / each.name)
    outcome = command(*download("DIV2K", "--scales", 2))
    assert outcome.code == 0 and (folder / "DIV2K_train_LR_bicubic/X2/0003x2.png").is_file()
    assert command(*next_command(outcome.out)).code == 0


def test_an_incomplete_folder_is_named(expect_error, data_server, download, tmp_path):
    folder = tmp_path / "data/DIV2K/DIV2K_train_HR"
    folder.mkdir(parents=True)
    expect_error(f"{folder} has 0 images instead of 3: remove it", *download("DIV2K"))
    assert not data_server.asked


def test_test_sets_come_from_one_archive_with_lr_images_of_ours(
    command, data_server, download, tmp_path, small_archives
):
    outcome = command(*download("Set14", "setfive"))
    assert outcome.code == 0 and data_server.asked == [("benchmark.tar", 0)], outcome
    for scale in (2, 3, 4):
        hr, lr = (read_rgb(tmp_path / f"data/Set5/x{scale}/1_SRF_{scale}_{kind}.png") for kind in ("HR", "LR"))
        assert np.array_equal(lr, imresize(hr, 1 / scale)) and hr.shape[0] == 37 // scale * scale
        assert np.array_equal(hr, read_rgb(small_archives.originals / "Set5/1.png")[: hr.shape[0], : hr.shape[1]])
    assert {"Set5 x4 LR: as published (2 images)", "Set14 x3 HR: as published (2 images)"} <= set(
        outcome.out.splitlines()
    )
    assert "Set14 x4: not verified" in outcome.out
    assert [each.name for each in sorted((tmp_path / "data").iterdir())] == ["Set14", "Set5"]
    line = next_command(outcome.out)
    line[line.index("cfsrcnn")] = "bicubic"
    del line[line.index("--ckpt_path") :]
    assert command(*line, "--sample_dir", tmp_path / "sr").code == 0


def test_a_scale_can_be_added_to_a_test_set(command, data_server, download, tmp_path):
    assert command(*download("Set14", "--scales", 4)).code == 0
    before = content_of(tmp_path / "data")
    outcome = command(*download("Set14", "--scales", 2, 4))
    assert outcome.code == 0 and before.items() < content_of(tmp_path / "data").items() and len(data_server.asked) == 2
    assert command(*download("Set14", "--scales", 2, 4)).code == 0 and len(data_server.asked) == 2


def test_a_test_set_in_another_layout_is_checked(
    command, expect_error, data_server, download, tmp_path, small_archives
):
    for name in ("HR", "LR_bicubic/X2"):
        (tmp_path / "data/Set5" / name).mkdir(parents=True)
    for file in (small_archives.originals / "Set5").iterdir():
        (tmp_path / "data/Set5/HR" / file.name).write_bytes(file.read_bytes())
        lr = small_archives.originals / f"made/Set5/x2/{file.stem}_SRF_2_LR.png"
        (tmp_path / f"data/Set5/LR_bicubic/X2/{file.stem}x2.png").write_bytes(lr.read_bytes())
    outcome = command(*download("Set5", "--scales", 2))
    assert outcome.code == 0 and "Set5 x2 LR: as published" in outcome.out
    expect_error("has no x3, which cannot be added to its layout", *download("Set5", "--scales", 2, 3))
    (tmp_path / "data/Set5/LR_bicubic/X2/0x2.png").write_bytes(png(18, 21, 0))
    expect_error("Set5 is not as published (x2 LR)", *download("Set5", "--scales", 2))
    assert not data_server.asked


def test_archives_are_kept_if_asked_for_and_taken_if_there(command, data_server, download, tmp_path):
    place = tmp_path / "data/archives"
    assert command(*download("Set5", "--keep_archives")).code == 0
    assert content_of(place) == {"benchmark.tar": data_server.files["benchmark.tar"]}
    outcome = command(*download("Set14"))
    assert outcome.code == 0 and len(data_server.asked) == 1 and f"kept {place / 'benchmark.tar'}" in outcome.out
    assert content_of(place) == {"benchmark.tar": data_server.files["benchmark.tar"]}


def test_a_trap_on_a_mirror_leaves_no_trace(expect_error, data_server, download, tmp_path, monkeypatch):
    data = as_zip({"DIV2K_train_HR/0001.png": png(8, 8, 0), "../../evil.png": b"x"})
    data_server.files[HR] = data
    archive = sources.Archive("https://example.org/" + HR, len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    monkeypatch.setattr(sources, "DIV2K_HR", replace(sources.DIV2K_HR, archive=archive))
    expect_error("points outside the archive", *download("DIV2K"))
    assert not list(tmp_path.rglob("*.png"))


# --- flags and hints ------------------------------------------------------------------------------------------------


def test_flags_that_make_no_sense_are_rejected(expect_error, data_server, download):
    expect_error("Set6 cannot be downloaded: choose from DIV2K", *download("Set6"))
    expect_error("only DIV2K has validation images: leave out --valid", *download("Set5", "--valid"))
    for url in (
        "example.org",
        "ftp://example.org/a",
        "file:///etc",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://[::1",
    ):
        expect_error(f"{url} is not an http or https URL", *download("Set5"), "--base_url", url)
    assert not data_server.asked


def test_a_file_in_the_way_is_known_before(expect_error, data_server, download, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/Set5").write_text("mine")
    expect_error("Set5 is a file, but a folder is needed there", *download("Set5"))
    (tmp_path / "data/DIV2K").write_text("mine")
    expect_error("DIV2K is a file, but a folder is needed there", *download("DIV2K"))
    assert not data_server.asked


def test_the_published_archives_are_well_formed():
    known = [sources.DIV2K_HR, sources.DIV2K_VALID, *sources.DIV2K_LR.values(), *sources.TEST_SETS.values()]
    for each in known:
        kind, _, value = each.archive.digest.partition(":")
        assert len(bytes.fromhex(value)) == {"sha256": 32, "md5": 16}[kind]
        assert each.archive.url.startswith("https://") and each.archive.size > 2e8
    assert len({each.archive for each in known}) == 6
