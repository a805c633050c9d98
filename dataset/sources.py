"""Where the published data sets come from: archives with their sizes and hashes, and the download command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import SCALES


@dataclass(frozen=True)
class Archive:
    """A file on its official server: `size` in bytes, `digest` as "sha256:HEX" or "md5:HEX".

    `exact_size`: whether `size` is the published one; otherwise it is an estimate and the hash alone decides.
    """

    url: str
    size: int
    digest: str
    exact_size: bool = True

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class ImageFolder:
    """A folder inside an archive, and how many images lie directly in it."""

    archive: Archive
    folder: str
    images: int


_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
_EDSR = Archive(
    "https://cv.snu.ac.kr/research/EDSR/benchmark.tar",
    250_112_000,
    "md5:4ace41d33c2384b97e6b320cd0afd6ba",
    exact_size=False,
)


def _div2k(name: str, size: int, sha256: str, folder: str, images: int = 800) -> ImageFolder:
    return ImageFolder(Archive(f"{_DIV2K}/{name}.zip", size, f"sha256:{sha256}"), folder, images)


DIV2K_HR = _div2k(
    "DIV2K_train_HR",
    3_530_603_713,
    "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    "DIV2K_train_HR",
)
DIV2K_LR = {
    2: _div2k(
        "DIV2K_train_LR_bicubic_X2",
        925_390_592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
        "DIV2K_train_LR_bicubic/X2",
    ),
    3: _div2k(
        "DIV2K_train_LR_bicubic_X3",
        427_847_282,
        "ad5c8e5507e2765823d3c2c5bd0934842efcd487c5370604c224090898b3163a",
        "DIV2K_train_LR_bicubic/X3",
    ),
    4: _div2k(
        "DIV2K_train_LR_bicubic_X4",
        246_914_039,
        "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a",
        "DIV2K_train_LR_bicubic/X4",
    ),
}
DIV2K_VALID = _div2k(
    "DIV2K_valid_HR",
    448_993_893,
    "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    "DIV2K_valid_HR",
    100,
)
# HR images only: LR images are made from them, equal to the published ones
TEST_SETS = {
    name: ImageFolder(_EDSR, f"{name}/HR", images)
    for name, images in (("Set5", 5), ("Set14", 14), ("B100", 100), ("Urban100", 100))
}


def find_div2k(folder: Path) -> Path | None:
    """The folder that contains DIV2K_train_HR: `folder`/DIV2K, `folder`/DIV2K_train or `folder`; None if there is none."""
    places = (folder / "DIV2K", folder / "DIV2K_train", folder)
    return next((place for place in places if (place / DIV2K_HR.folder).is_dir()), None)


def download_command(name: str, out: Path | str = "dataset", scales: Sequence[int] = SCALES) -> str:
    """The shell command that downloads a data set, or several, to the folder `out`."""
    where = "" if Path(out) == Path("dataset") else f" --out {shlex.quote(str(out))}"
    some = "" if set(scales) == set(SCALES) else f" --scales {' '.join(map(str, scales))}"
    return f"python -m dataset.download {name}{where}{some}"
