"""A training set with anything in it is a training set or one line that names it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from dataset.hdf5 import read_hdf5, write_hdf5
from dataset.patches import PatchSampler
from tests.stress.fuzzing import bounded, cases, changed, changes

SIZES = [(4, 6), (5, 4), (4, 4)]
STORAGE = [
    {},
    {"chunks": (4, 4, 3)},
    {"chunks": True, "compression": "gzip"},
    {"chunks": (4, 4, 3), "shuffle": True, "fletcher32": True},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hdf5")


@pytest.fixture(scope="module")
def seeds(folder) -> list[bytes]:
    """Small training sets: ours, the authors', chunked, packed, and by the newest version of the format."""
    random, made = np.random.default_rng(0), []
    lrs = [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    hrs = [random.integers(0, 256, (2 * height, 2 * width, 3), np.uint8) for height, width in SIZES]
    path = folder / "seed.h5"
    write_hdf5(path, ((hr, {2: lr}) for hr, lr in zip(hrs, lrs, strict=True)))
    made.append(path.read_bytes())
    for number, storage in enumerate(STORAGE):
        with h5py.File(path, "w", libver="latest" if number % 2 else None) as file:
            for name, images in {"HR": hrs, "X2": lrs}.items():
                for place, image in enumerate(images):
                    file.create_dataset(f"{name}/{place}", data=image, **storage)
        made.append(path.read_bytes())
    return made


@cases(500)
@given(which=st.integers(0, len(STORAGE)), steps=changes(), other=st.integers(0, len(STORAGE)))
def test_changed_files_are_training_sets_or_refused(folder, seeds, which, steps, other):
    path = folder / "fuzzed.h5"
    path.write_bytes(changed(seeds[which], steps, seeds[other]))
    with bounded("training sets"):
        try:
            images = read_hdf5(path, [2])
        except InputError as error:
            assert steps and path.name in str(error) and "\n" not in str(error)
            return
        assert len(images) == len(images.lr[2]) > 0
        assert images.nbytes < 100 * path.stat().st_size + (1 << 22)
        for hr, lr in zip(images.hr, images.lr[2], strict=True):
            assert hr.dtype == lr.dtype == np.uint8 and hr.shape == (2 * lr.shape[0], 2 * lr.shape[1], 3)
        batch = next(PatchSampler(images.load_into_memory(), 1, 2, seed=0))
        assert batch.lr.shape == (2, 3, 1, 1) and batch.hr.shape == (2, 3, 2, 2)
