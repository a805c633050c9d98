"""Archives that are traps are rejected whole; of the others the images of one folder are unpacked and nothing else."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest
from serving import as_tar, as_zip, content_of

from common.errors import InputError
from dataset.unpack import unpack_images

# --- archives that are traps ----------------------------------------------------------------------------------------


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str) -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO(as_zip({"set/a.png": b"image"}))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/a.png", bytes(1 << 20))
    return file.getvalue()


def lying(size: int) -> bytes:
    """A zip archive whose member says it is of another size."""
    data = as_zip({"set/a.png": b"image of 18 bytes."})
    return data.replace((18).to_bytes(4, "little"), size.to_bytes(4, "little"))


GOOD = {"set/a.png": b"image"}
TRAPS = {
    "parent.zip": (as_zip({**GOOD, "set/../../b.png": b"x"}), "points outside the archive"),
    "absolute.zip": (as_zip({**GOOD, "/set/b.png": b"x"}), "points outside the archive"),
    "backslash.zip": (as_zip({**GOOD, "set\\..\\b.png": b"x"}), "points outside the archive"),
    "link.zip": (zip_link("set/b.png"), "is a link"),
    "bomb.zip": (bomb(), "decompression bomb"),
    "short.zip": (lying(30), "damaged"),
    "long.zip": (lying(5), "damaged"),
    "twice.zip": (as_zip({**GOOD, "other/set/A.PNG": b"x"}), "holds 2 images in set instead of 1"),
    "none.zip": (as_zip({"other/a.png": b"x"}), "holds 0 images in set instead of 1"),
    "cut.zip": (as_zip(GOOD)[:-10], "damaged"),
    "changed.zip": (as_zip(GOOD).replace(b"image", b"imaje"), "damaged"),
    "parent.tar": (as_tar({**GOOD, "../b.png": b"x"}), "points outside the archive"),
    "absolute.tar": (as_tar({**GOOD, "/b.png": b"x"}), "points outside the archive"),
    "link.tar": (as_tar({"set/a.png": link("set/a.png", tarfile.SYMTYPE)}), "is a link"),
    "hard.tar": (as_tar({**GOOD, "b": link("set/b.png", tarfile.LNKTYPE, "../x")}), "is a link"),
    "pipe.tar": (as_tar({**GOOD, "b": link("set/b.png", tarfile.FIFOTYPE)}), "is a link"),
    "device.tar": (as_tar({**GOOD, "b": link("set/b.png", tarfile.BLKTYPE)}), "is a link"),
    "sparse.tar": (as_tar({**GOOD, "b": link("set/b.png", tarfile.GNUTYPE_SPARSE)}), "is a link"),
    "cut.tar": (as_tar({"set/a.png": bytes(5000)})[:3000], "damaged"),
    "noise.tar": (bytes(range(256)) * 4, "damaged"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_rejected_whole(tmp_path, name):
    data, phrase = TRAPS[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out/inner").mkdir(parents=True)
    with pytest.raises(InputError, match=f"{name}.*{phrase}"):
        unpack_images(tmp_path / name, "set", tmp_path / "out/inner", 1)
    assert [each.name for each in tmp_path.iterdir() if each.name != name] == ["out"]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["inner"]


@pytest.mark.parametrize("kind", [as_zip, as_tar])
def test_images_of_the_folder_and_nothing_else_are_unpacked(tmp_path, kind):
    others = {"./deep/set/b.png": b"2", "set/c.txt": b"x", "set/d/e.png": b"x", "set/.f.png": b"x", "reset/g.png": b"x"}
    archive = tmp_path / f"a.{kind.__name__[3:]}"
    archive.write_bytes(kind({**GOOD, **others}))
    (tmp_path / "out").mkdir()
    unpack_images(archive, "set", tmp_path / "out", 2)
    assert content_of(tmp_path / "out") == {"a.png": b"image", "b.png": b"2"}
