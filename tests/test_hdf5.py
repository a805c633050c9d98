"""The training set's HDF5 file: ours and the authors' are read; any other is refused with a line that says why."""

import resource

import h5py
import numpy as np
import pytest
from conftest import random_images

from common.errors import InputError
from dataset.hdf5 import read_hdf5, write_hdf5

image = random_images()
SIZES = [(4, 6), (8, 2), (3, 3)]  # LR; twice that is the HR size


HR = [image(2 * height, 2 * width) for height, width in SIZES]
LR = [image(height, width) for height, width in SIZES]


@pytest.fixture
def path(tmp_path):
    """Our own file of three images at x2."""
    write_hdf5(tmp_path / "train.h5", zip(HR, ({2: lr} for lr in LR), strict=True))
    return tmp_path / "train.h5"


def as_the_authors(path, hr, lr, **storage) -> None:
    """Writes the file as the authors' script does: a group per kind, then a dataset per image."""
    with h5py.File(path, "w") as file:
        for name, images in {"HR": hr, "X2": lr}.items():
            group = file.create_group(name)
            for number, each in enumerate(images):
                group.create_dataset(str(number), data=each, **storage)


def assert_holds_all(loaded) -> None:
    assert len(loaded) == 3 and set(loaded.lr) == {2}
    for read, written in ((loaded.hr, HR), (loaded.lr[2], LR)):
        assert all(np.array_equal(*pair) for pair in zip(read, written, strict=True))
    assert loaded.nbytes == sum(each.size for each in HR + LR)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(path):
    assert_holds_all(read_hdf5(path, [2]))


def test_more_than_ten_images_keep_their_order(tmp_path):
    """As names they would sort 0, 1, 10, 11, 2."""
    write_hdf5(tmp_path / "a.h5", ((np.full((2, 2, 3), n, np.uint8), {}) for n in range(12)))
    assert [each[0, 0, 0] for each in read_hdf5(tmp_path / "a.h5", []).hr] == list(range(12))


def test_several_scales_are_read_and_those_not_asked_for_left(tmp_path):
    pair = image(12, 24), {2: image(6, 12), 3: image(4, 8), 4: image(3, 6)}
    write_hdf5(tmp_path / "a.h5", [pair])
    assert set(read_hdf5(tmp_path / "a.h5", [2, 3, 4]).lr) == {2, 3, 4}
    loaded = read_hdf5(tmp_path / "a.h5", [3])
    assert set(loaded.lr) == {3} and np.array_equal(loaded.lr[3][0], pair[1][3])


def test_images_are_mapped_not_read(path):
    loaded = read_hdf5(path, [2])
    assert all(isinstance(each, np.memmap) and not each.flags.writeable for each in loaded.hr + loaded.lr[2])


def test_images_can_be_taken_into_memory(path):
    loaded = read_hdf5(path, [2]).load_into_memory()
    path.write_bytes(b"")
    assert not any(isinstance(each, np.memmap) for each in loaded.hr + loaded.lr[2])
    assert_holds_all(loaded)


def test_compressed_images_are_in_memory_once(tmp_path):
    as_the_authors(tmp_path / "a.h5", HR, LR, compression="gzip")
    images = read_hdf5(tmp_path / "a.h5", [2])
    loaded = images.load_into_memory()
    assert_holds_all(loaded)
    assert all(a is b for a, b in zip(images.hr + images.lr[2], loaded.hr + loaded.lr[2], strict=True))


def test_a_set_of_more_images_than_a_process_may_open_files_is_mapped(tmp_path):
    write_hdf5(tmp_path / "a.h5", ((HR[0], {2: LR[0]}) for _ in range(300)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        loaded = read_hdf5(tmp_path / "a.h5", [2])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(loaded) == 300 and np.array_equal(loaded.lr[2][299], LR[0])


def test_a_file_by_the_authors_script_is_read_and_mapped(tmp_path):
    as_the_authors(tmp_path / "a.h5", HR, LR)
    loaded = read_hdf5(tmp_path / "a.h5", [2])
    assert_holds_all(loaded)
    assert isinstance(loaded.hr[0], np.memmap)


@pytest.mark.parametrize("storage", [{"chunks": True}, {"compression": "gzip"}], ids=["chunked", "compressed"])
def test_a_file_stored_in_chunks_or_compressed_is_read(tmp_path, storage):
    as_the_authors(tmp_path / "a.h5", HR, LR, **storage)
    assert_holds_all(read_hdf5(tmp_path / "a.h5", [2]))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"gone\.h5 does not exist: make it with `python div2h5\.py`"):
        read_hdf5(tmp_path / "gone.h5", [2])
    with pytest.raises(InputError, match=rf"{tmp_path} is a folder: .* `python div2h5\.py --source {tmp_path} --out "):
        read_hdf5(tmp_path, [2])


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.95])
def test_a_file_cut_off_is_refused(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"train\.h5 is not a readable HDF5 file"):
        read_hdf5(path, [2])


def test_a_file_that_is_no_hdf5_is_refused(path):
    path.write_text("something else")
    with pytest.raises(InputError, match=r"train\.h5 is not a readable HDF5 file"):
        read_hdf5(path, [2])


def test_a_scale_that_the_file_lacks_is_named_with_those_it_has(path):
    with pytest.raises(InputError, match=r"train\.h5 has no group X3 \(it has HR, X2\)"):
        read_hdf5(path, [3])


def test_a_dataset_in_the_place_of_a_group_is_refused(path):
    with h5py.File(path, "a") as file:
        file["X3"] = LR[0]
    with pytest.raises(InputError, match="has no group X3"):
        read_hdf5(path, [3])


def test_an_empty_file_says_that_it_has_nothing(path):
    h5py.File(path, "w").close()
    with pytest.raises(InputError, match=r"has no group HR \(it has nothing\)"):
        read_hdf5(path, [2])


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (LR[1].astype(np.float32), r"float32\(8, 2, 3\)"),
        (LR[1][:, :, 0], r"uint8\(8, 2\)"),
        (LR[1].transpose(2, 0, 1), r"uint8\(3, 8, 2\)"),
        (np.zeros((0, 2, 3), np.uint8), r"uint8\(0, 2, 3\)"),
    ],
    ids=["float", "gray", "channels first", "no pixels"],
)
def test_an_image_of_another_type_or_shape_is_named(tmp_path, wrong, found):
    as_the_authors(tmp_path / "a.h5", HR, [LR[0], wrong, LR[2]])
    with pytest.raises(InputError, match=rf"X2/1 is {found}, not uint8 \(H, W, 3\)"):
        read_hdf5(tmp_path / "a.h5", [2])


def test_unequal_numbers_of_images_are_told(tmp_path):
    as_the_authors(tmp_path / "a.h5", HR, LR[:2])
    with pytest.raises(InputError, match="3 HR images but 2 at X2"):
        read_hdf5(tmp_path / "a.h5", [2])


def test_sizes_that_do_not_match_are_named(tmp_path):
    as_the_authors(tmp_path / "a.h5", HR, [LR[0], LR[1][:-1], LR[2]])
    with pytest.raises(InputError, match=r"the sizes of image 1 do not match \(HR 4x16, X2 2x7\)"):
        read_hdf5(tmp_path / "a.h5", [2])


def test_an_empty_group_is_told(tmp_path):
    as_the_authors(tmp_path / "a.h5", [], [])
    with pytest.raises(InputError, match="group HR is empty"):
        read_hdf5(tmp_path / "a.h5", [2])


def test_images_not_named_by_their_number_are_refused(path):
    with h5py.File(path, "a") as file:
        file.move("X2/1", "X2/butterfly")
    with pytest.raises(InputError, match="X2 has 3 entries but no image 1"):
        read_hdf5(path, [2])


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
def test_writing_that_breaks_off_leaves_the_old_file(path, failure):
    def pairs():
        yield HR[0], {2: LR[0]}
        raise failure

    with pytest.raises(type(failure)):
        write_hdf5(path, pairs())
    assert_holds_all(read_hdf5(path, [2]))
    assert [each.name for each in path.parent.iterdir()] == ["train.h5"]
