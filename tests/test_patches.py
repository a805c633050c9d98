"""Training patches: matching crops in all eight dihedral transforms, each image once per epoch, the same from every source."""

import json

import numpy as np
import pytest
import torch
from conftest import sample_image

from common.errors import InputError
from dataset.hdf5 import TrainingImages, read_hdf5, write_hdf5
from dataset.patches import PatchSampler

SIZES = [(6, 9), (8, 5), (5, 5), (7, 12), (10, 6)]  # LR


def coordinates(height: int, width: int, number: int) -> np.ndarray:
    """An image whose pixels say where they are: (row, column, number of the image)."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([y, x, np.full_like(y, number)]).astype(np.uint8)


def coordinate_images(*scales: int, sizes=SIZES) -> TrainingImages:
    """HR and LR images of coordinates; HR sizes are those of the largest scale's, LR the same at every scale."""
    step = int(np.lcm.reduce(scales))
    hr = [coordinates(h * step, w * step, n) for n, (h, w) in enumerate(sizes)]
    lr = {s: [coordinates(h * step // s, w * step // s, n) for n, (h, w) in enumerate(sizes)] for s in scales}
    return TrainingImages(hr, lr)


def random_pairs(*scales: int) -> TrainingImages:
    """Arbitrary pixels: HR and LR of equal sizes as above, but unrelated."""
    step, random = int(np.lcm.reduce(scales)), np.random.default_rng(1)

    def images(scale: int) -> list[np.ndarray]:
        return [random.integers(0, 256, (h * step // scale, w * step // scale, 3), np.uint8) for h, w in SIZES]

    return TrainingImages(images(1), {scale: images(scale) for scale in scales})


def as_bytes(batch: torch.Tensor) -> np.ndarray:
    """Nx3xHxW in [0, 1] -> the uint8 pixels NxHxWx3 it was made from."""
    return (batch * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def numbers(sampler: PatchSampler, batches: int) -> list[int]:
    """Which images the next batches are from, by the number in their pixels."""
    return [int(patch[0, 0, 2]) for _ in range(batches) for patch in as_bytes(next(sampler).lr)]


def assert_equal_streams(one: PatchSampler, other: PatchSampler, batches: int = 6) -> None:
    for _ in range(batches):
        a, b = next(one), next(other)
        assert a.scale == b.scale and torch.equal(a.lr, b.lr) and torch.equal(a.hr, b.hr)


# --- what a batch is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("scales", [(2,), (3,), (4,), (2, 3, 4)], ids=str)
def test_batches_are_float32_in_0_to_1_and_channels_last(scales, on_device):
    sampler = PatchSampler(random_pairs(*scales), 5, 7, seed=0, on_device=on_device)
    for _ in range(4):
        batch = next(sampler)
        assert batch.scale in scales
        assert batch.lr.shape == (7, 3, 5, 5) and batch.hr.shape == (7, 3, 5 * batch.scale, 5 * batch.scale)
        for each in (batch.lr, batch.hr):
            assert each.dtype == torch.float32 and each.is_contiguous(memory_format=torch.channels_last)
            assert each.min() >= 0 and each.max() <= 1


@pytest.mark.parametrize("on_device", [False, True])
def test_0_becomes_0_and_255_becomes_1(on_device):
    black_and_white = np.zeros((4, 4, 3), np.uint8)
    black_and_white[:, 2:] = 255
    images = TrainingImages([np.kron(black_and_white, np.ones((2, 2, 1), np.uint8))], {2: [black_and_white]})
    batch = next(PatchSampler(images, 4, 1, seed=0, on_device=on_device))
    assert batch.lr.unique().tolist() == batch.hr.unique().tolist() == [0, 1]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("scales", [(2,), (3,), (4,), (2, 3, 4)], ids=str)
def test_the_hr_patch_is_the_matching_one_with_the_same_dihedral_transform(scales, on_device):
    sampler = PatchSampler(coordinate_images(*scales), 4, 40, seed=1, on_device=on_device)
    seen = set()
    for _ in range(6):
        batch = next(sampler)
        lr, hr, scale = as_bytes(batch.lr), as_bytes(batch.hr), batch.scale
        enlarged = lr.repeat(scale, axis=1).repeat(scale, axis=2)
        assert np.array_equal(enlarged[..., :2], hr[..., :2] // scale)  # an LR pixel covers scale x scale HR pixels
        assert np.array_equal(enlarged[..., 2], hr[..., 2])
        seen.add(scale)
    assert seen == set(scales)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_patch_is_a_dihedral_transform_of_a_crop_of_its_image(on_device):
    images = coordinate_images(2)
    batch = next(PatchSampler(images, 4, 50, seed=2, on_device=on_device))
    for group, patches in ((images.lr[2], as_bytes(batch.lr)), (images.hr, as_bytes(batch.hr))):
        for patch in patches:
            y, x, number = patch.min((0, 1))  # its top left corner, and the image's number
            piece = group[number][y : y + len(patch), x : x + len(patch)]
            transforms = [np.rot90(each, quarter) for each in (piece, piece.swapaxes(0, 1)) for quarter in range(4)]
            assert sum(np.array_equal(patch, each) for each in transforms) == 1


def dihedral_of(patch: np.ndarray) -> tuple[int, int, int, int]:
    """How row and column of the image change one step down and one step right in the patch."""
    y, x = patch[..., 0].astype(int), patch[..., 1].astype(int)
    return y[1, 0] - y[0, 0], x[1, 0] - x[0, 0], y[0, 1] - y[0, 0], x[0, 1] - x[0, 0]


@pytest.mark.parametrize("on_device", [False, True])
def test_all_eight_dihedral_transforms_occur_about_equally_often(on_device):
    sampler = PatchSampler(coordinate_images(2), 4, 400, seed=3, on_device=on_device)
    counts: dict[tuple, int] = {}
    for patch in as_bytes(next(sampler).lr):
        counts[dihedral_of(patch)] = counts.get(dihedral_of(patch), 0) + 1
    straight = {(a, 0, 0, b) for a in (-1, 1) for b in (-1, 1)}
    transposed = {(0, a, b, 0) for a in (-1, 1) for b in (-1, 1)}
    assert set(counts) == straight | transposed
    assert min(counts.values()) > 25  # of 50 expected


def test_every_corner_of_an_image_is_reached():
    sampler = PatchSampler(coordinate_images(2, sizes=[(6, 9)]), 5, 200, seed=4)
    corners = {(patch[..., 0].min(), patch[..., 1].min()) for patch in as_bytes(next(sampler).lr)}
    assert corners == {(y, x) for y in range(2) for x in range(5)}


# --- epochs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(2,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 13])
def test_each_image_comes_once_per_epoch_whether_or_not_the_batch_size_divides(batch_size, scales):
    epochs = 2 * batch_size  # a whole number of batches
    sampler = PatchSampler(coordinate_images(*scales), 4, batch_size, seed=5)
    drawn = numbers(sampler, epochs * len(SIZES) // batch_size)
    orders = [drawn[start : start + len(SIZES)] for start in range(0, len(drawn), len(SIZES))]
    assert len(orders) == epochs and all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)


def test_each_epoch_has_an_order_of_its_own():
    drawn = numbers(PatchSampler(coordinate_images(2), 4, 5, seed=6), 20)
    assert len({tuple(drawn[start : start + 5]) for start in range(0, 100, 5)}) > 10


def test_with_several_scales_each_is_drawn_about_equally_often():
    sampler = PatchSampler(coordinate_images(2, 3, 4), 4, 1, seed=7)
    drawn = [next(sampler).scale for _ in range(120)]
    assert {scale: drawn.count(scale) > 25 for scale in set(drawn)} == {2: True, 3: True, 4: True}


# --- the same from every source -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(2,), (3,), (4,), (2, 3, 4)], ids=str)
def test_gathering_by_index_equals_slicing_bit_for_bit(scales):
    images = random_pairs(*scales)
    assert_equal_streams(*(PatchSampler(images, 4, 9, seed=8, on_device=each) for each in (False, True)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("scales", [(2,), (3,), (4,), (2, 3, 4)], ids=str)
def test_on_a_gpu_gathering_equals_slicing_bit_for_bit_and_the_cpu_draws_the_same_pixels(scales):
    images = random_pairs(*scales)
    assert_equal_streams(*(PatchSampler(images, 4, 9, seed=8, device="cuda", on_device=each) for each in (False, True)))
    on_gpu, on_cpu = PatchSampler(images, 4, 9, 8, "cuda", on_device=True), PatchSampler(images, 4, 9, 8)
    for _ in range(6):
        a, b = next(on_gpu), next(on_cpu)
        assert a.lr.is_cuda and a.hr.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(as_bytes(a.lr.cpu()), as_bytes(b.lr)) and np.array_equal(
            as_bytes(a.hr.cpu()), as_bytes(b.hr)
        )


@pytest.mark.parametrize("on_device", [False, True])
def test_images_mapped_from_the_file_give_the_batches_of_images_in_memory(tmp_path, on_device):
    images = random_pairs(2, 3)
    pairs = ((hr, {2: images.lr[2][n], 3: images.lr[3][n]}) for n, hr in enumerate(images.hr))
    write_hdf5(tmp_path / "a.h5", pairs)
    mapped = read_hdf5(tmp_path / "a.h5", [2, 3])
    assert_equal_streams(PatchSampler(images, 4, 9, seed=9), PatchSampler(mapped, 4, 9, seed=9, on_device=on_device))


def test_what_is_drawn_depends_on_the_seed_alone():
    one, other = (PatchSampler(random_pairs(2), 4, 6, seed=10) for _ in range(2))
    for _ in range(3):
        a = next(one)
        np.random.seed(0)
        torch.manual_seed(0)
        assert torch.equal(a.lr, next(other).lr)


def test_another_seed_draws_other_patches():
    one, other = (next(PatchSampler(random_pairs(2), 4, 6, seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.lr, other.lr)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_images_themselves_stay_as_they_are(on_device):
    images = TrainingImages([sample_image("coffee.png", 20, 20)], {2: [sample_image("coffee.png", 10, 10)]})
    before = [each.copy() for each in (images.hr[0], images.lr[2][0])]
    batch = next(PatchSampler(images, 8, 4, seed=0, on_device=on_device))
    batch.lr.zero_(), batch.hr.zero_()
    assert all(np.array_equal(*pair) for pair in zip(before, (images.hr[0], images.lr[2][0]), strict=True))


# --- going on where a run stopped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [0, 1, 2, 5])
@pytest.mark.parametrize("scales", [(2,), (2, 3, 4)], ids=str)
def test_a_restored_stream_goes_on_exactly(scales, stop_after):
    """Stops within an epoch, too: 3 of 5 images to a batch."""
    images = random_pairs(*scales)
    first = PatchSampler(images, 4, 3, seed=11)
    for _ in range(stop_after):
        next(first)
    state = first.state_dict()
    json.loads(state)  # a plain text that any file can hold
    second = PatchSampler(images, 4, 3, seed=99)
    next(second)
    second.load_state_dict(state)
    assert_equal_streams(first, second)


def test_taking_the_state_changes_nothing():
    one, other = (PatchSampler(random_pairs(2), 4, 3, seed=12) for _ in range(2))
    one.state_dict()
    assert_equal_streams(one, other)


def test_a_restored_stream_may_go_on_from_another_source():
    images = random_pairs(2)
    first, second = (PatchSampler(images, 4, 3, seed=13, on_device=each) for each in (False, True))
    next(first)
    second.load_state_dict(first.state_dict())
    assert_equal_streams(first, second)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_device", [False, True])
def test_a_patch_that_does_not_fit_names_the_images_and_the_size_that_fits(on_device):
    with pytest.raises(InputError) as error:
        PatchSampler(coordinate_images(2), 6, 4, seed=0, on_device=on_device)
    assert str(error.value).startswith("--patch_size 6 is larger than the X2 images 1 (5x8), 2 (5x5): ")
    assert "use --patch_size 5 or smaller" in str(error.value)
    next(PatchSampler(coordinate_images(2), 5, 4, seed=0, on_device=on_device))


def test_with_several_scales_the_smallest_lr_images_decide():
    with pytest.raises(InputError, match=r"--patch_size 16 is larger than the X4 images 2 \(15x15\)"):
        PatchSampler(coordinate_images(2, 3, 4, sizes=[(6, 9), (8, 6), (5, 5)]), 16, 4, seed=0)


def test_with_several_scales_the_size_that_fits_is_one_for_all():
    images = coordinate_images(2, 3, 4, sizes=[(6, 9), (8, 6), (5, 5)])
    with pytest.raises(InputError, match="use --patch_size 15 or smaller"):
        PatchSampler(images, 100, 4, seed=0)
    next(PatchSampler(images, 15, 4, seed=0))


def test_of_many_images_that_are_too_small_five_are_named_and_the_others_counted():
    with pytest.raises(InputError, match=r"4 \(3x4\) and 7 more"):
        PatchSampler(coordinate_images(2, sizes=[(4, 3)] * 12), 5, 4, seed=0)
