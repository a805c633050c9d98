"""The training set as one HDF5 file in the authors' layout: writing it and reading it. No crops, no batches.

Groups `HR`, `X2`, `X3`, `X4`, each with a dataset per image named by its number in file-name order ("0", "1", ...),
uint8 HxWx3. Our datasets are stored contiguously, so that they can be mapped into memory instead of read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from common.errors import InputError, searched_in, summarize_exception, translate_access_errors
from common.files import DeferredErrorFile, atomic_write
from dataset.sources import download_command

MAX_COMPRESSION_RATIO = 100  # of an image's pixels to its bytes in the file; more is taken for a decompression bomb


@dataclass
class TrainingImages:
    """`hr[i]` and `lr[scale][i]` are uint8 HxWx3; scale * the LR size is the HR size."""

    hr: list[np.ndarray]
    lr: dict[int, list[np.ndarray]]

    def __len__(self) -> int:
        return len(self.hr)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return sum(image.nbytes for images in (self.hr, *self.lr.values()) for image in images)

    def load_into_memory(self) -> TrainingImages:
        """The same with every image in memory. Only mapped ones are copied, once, as reading them would copy them."""

        def load(images: list[np.ndarray]) -> list[np.ndarray]:
            return [np.array(image) if isinstance(image, np.memmap) else image for image in images]

        return TrainingImages(load(self.hr), {scale: load(lr) for scale, lr in self.lr.items()})


def write_hdf5(path: Path, pairs: Iterable[tuple[np.ndarray, dict[int, np.ndarray]]]) -> None:
    """Writes (HR, {scale: LR}) one after the other; `path` appears only when all are written (atomic write)."""
    with atomic_write(path) as temporary, DeferredErrorFile(temporary) as plain, h5py.File(plain, "w") as file:
        for number, (hr, lrs) in enumerate(pairs):
            plain.check()
            file.create_dataset(f"HR/{number}", data=hr)
            for scale, lr in lrs.items():
                file.create_dataset(f"X{scale}/{number}", data=lr)


def read_hdf5(path: Path | str, scales: Iterable[int]) -> TrainingImages:
    """The HR images and the LR images of `scales` as a memory map: pixels are read from the file when they are used.

    Chunked and compressed images cannot be mapped and are read into memory. Raises `InputError` if the file is missing or
    damaged, or if its groups, types, counts or sizes are not those of a training set.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder: name the file that `python div2h5.py --source {path} --out FILE.h5` makes of images in it"
        )
    if not path.is_file():
        raise InputError(
            f"{path} does not exist{searched_in(path)}: make it with `python div2h5.py`, from DIV2K "
            f"(`{download_command('DIV2K')}`) or any folder of images (--source)"
        )
    try:
        with translate_access_errors(path), open(path, "rb"):
            pass
        mapped = np.memmap(path, np.uint8, "r")  # a single map: one per image would exceed the limit of open files
        with h5py.File(path, "r", locking=False) as file:
            hr = _read_group(path, file, mapped, "HR")
            lr = {scale: _read_group(path, file, mapped, f"X{scale}") for scale in scales}
    except InputError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, ... on damaged files
        raise InputError(f"{path} is not a readable HDF5 file ({summarize_exception(error)}): make it again") from None
    for scale, images in lr.items():
        _check_pairs(path, hr, scale, images)
    return TrainingImages(hr, lr)


def _read_group(path: Path, file: h5py.File, mapped: np.memmap, name: str) -> list[np.ndarray]:
    if not isinstance(file.get(name), h5py.Group) or not isinstance(file.get(name, getlink=True), h5py.HardLink):
        have = ", ".join(file.keys()) or "nothing"
        raise InputError(f"{path} has no group {name} (it has {have}): make it again with `python div2h5.py`")
    group = file[name]
    images = []
    for number in range(len(group)):
        dataset = group.get(str(number))
        here = isinstance(group.get(str(number), getlink=True), h5py.HardLink)
        if not isinstance(dataset, h5py.Dataset) or not here:
            raise InputError(f"{path}: {name} has {len(group)} entries but no image {number}: make it again")
        if dataset.dtype != np.uint8 or dataset.ndim != 3 or dataset.shape[2] != 3 or 0 in dataset.shape:
            raise InputError(f"{path}: {name}/{number} is {dataset.dtype}{dataset.shape}, not uint8 (H, W, 3)")
        if dataset.external or dataset.is_virtual:
            raise InputError(f"{path}: {name}/{number} takes its pixels from another file: refused")
        offset = dataset.id.get_offset() if dataset.chunks is None else None
        if offset is None:
            if dataset.size > max(1 << 20, MAX_COMPRESSION_RATIO * dataset.id.get_storage_size()):
                raise InputError(
                    f"{path}: {name}/{number} has an implausible compression ratio (decompression bomb): refused"
                )
            images.append(dataset[()])
        else:
            images.append(mapped[offset : offset + dataset.size].reshape(dataset.shape))
    if not images:
        raise InputError(f"{path}: group {name} is empty: make it again with `python div2h5.py`")
    return images


def _check_pairs(path: Path, hr: list[np.ndarray], scale: int, lr: list[np.ndarray]) -> None:
    if len(hr) != len(lr):
        raise InputError(f"{path}: {len(hr)} HR images but {len(lr)} at X{scale}: make it again")
    for number, (high, low) in enumerate(zip(hr, lr, strict=True)):
        if high.shape[:2] != (low.shape[0] * scale, low.shape[1] * scale):
            sizes = f"HR {high.shape[1]}x{high.shape[0]}, X{scale} {low.shape[1]}x{low.shape[0]}"
            raise InputError(f"{path}: the sizes of image {number} do not match ({sizes}): make it again")
