"""Random training patches in whole batches, as the authors draw them. No files, no network.

Each image comes once per epoch, in random order, with one random crop and one random dihedral transform (flips and
90-degree rotations). What is drawn depends on the seed alone, not on where the pixels are: on a GPU that holds the images,
the augmented LR and HR batches are one gather each with computed indices (`_DeviceCropper`); otherwise slices are copied
into one uint8 batch (`_HostCropper`). A test verifies that both give the same batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from dataset.hard_crops import ErrorTable
from dataset.hdf5 import TrainingImages

HR = 1  # the HR images are those of scale 1


@dataclass
class Batch:
    """`lr` Nx3xPxP and `hr` Nx3x(scale*P)x(scale*P), float32 RGB in [0, 1], channels_last, on the training device."""

    lr: Tensor
    hr: Tensor
    scale: int


class _Images(Protocol):
    def crop(self, scale: int, image: np.ndarray, corner: np.ndarray, dihedral: np.ndarray, patch: int) -> Tensor: ...


class PatchSampler:
    """An infinite iterator of batches. With several LR scales in `images`, the scale of each batch is drawn at random.

    `device`: of the batches. `on_device`: the images are kept there, too.
    `shard`: this process's part of each batch; all processes draw the same whole batches.
    `hard_crops` K: each crop is drawn among K candidates by how much bicubic interpolation misses in them
    (`dataset/hard_crops.py`); 1 is the paper's uniform choice. `hide`: no progress bar while the table for it is made.
    Raises `InputError` if the patch does not fit into every image, naming those that are too small.
    """

    def __init__(
        self,
        images: TrainingImages,
        patch_size: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        on_device: bool = False,
        shard: slice = slice(None),
        hard_crops: int = 1,
        hide: bool = False,
    ):
        self.scales = tuple(sorted(images.lr))
        self.patch_size, self.batch_size = patch_size, batch_size
        self._sizes = {scale: np.array([x.shape[:2] for x in images.lr[scale]]) for scale in self.scales}
        self._check_sizes()
        self._source: _Images = _DeviceCropper(images, device) if on_device else _HostCropper(images, device)
        self._shard, self._candidates = shard, hard_crops
        self._errors = {
            scale: ErrorTable(images.hr, images.lr[scale], scale, hide) for scale in self.scales if hard_crops > 1
        }
        self._random = np.random.default_rng(seed)
        self._remaining = np.empty(0, np.int64)  # the images left in this epoch

    def __iter__(self) -> PatchSampler:
        return self

    def __next__(self) -> Batch:
        """Draws a batch: image numbers, corners and dihedral transforms on the host, then the pixels."""
        count, patch = self.batch_size, self.patch_size
        scale = int(self._random.choice(self.scales)) if len(self.scales) > 1 else self.scales[0]
        image = self._next_images(count)
        corner = self._draw_corners(scale, image)
        dihedral = self._random.integers(0, 2, (count, 3)).astype(bool)  # transpose, flip_y, flip_x: all 8
        image, corner, dihedral = (each[self._shard] for each in (image, corner, dihedral))
        lr = self._source.crop(scale, image, corner, dihedral, patch)
        hr = self._source.crop(HR, image, corner * scale, dihedral, patch * scale)
        return Batch(lr, hr, scale)

    def _draw_corners(self, scale: int, image: np.ndarray) -> np.ndarray:
        """(N, 2): LR row and LR column of a crop of each image."""
        limit, count = self._sizes[scale][image] - self.patch_size + 1, self._candidates
        if count == 1:
            return self._random.integers(0, limit)
        corner = self._random.integers(0, limit[:, None], (len(image), count, 2))
        return self._errors[scale].choose(image, corner, self.patch_size, self._random.random(len(image)))

    def state_dict(self) -> str:
        """The position in the stream, as JSON for `load_state_dict`."""
        return json.dumps({"random": self._random.bit_generator.state, "order": self._remaining.tolist()})

    def load_state_dict(self, state: str) -> None:
        """Continues from a `state_dict`. Raises any exception for other text."""
        loaded = json.loads(state)
        order = np.array(loaded["order"], np.int64)
        if order.ndim != 1 or not np.isin(order, np.arange(len(self._sizes[self.scales[0]]))).all():
            raise ValueError("the rest of the epoch has images that are not in the training set")
        self._random.bit_generator.state, self._remaining = loaded["random"], order

    def _next_images(self, count: int) -> np.ndarray:
        images = len(self._sizes[self.scales[0]])
        epochs = [self._random.permutation(images) for _ in range(-(-(count - len(self._remaining)) // images))]
        self._remaining = np.concatenate([self._remaining, *epochs])
        image, self._remaining = self._remaining[:count], self._remaining[count:]
        return image

    def _check_sizes(self) -> None:
        for scale in reversed(self.scales):  # the smallest images first: what fits into these fits into all
            sizes = self._sizes[scale]
            small = np.flatnonzero(sizes.min(1) < self.patch_size)
            if len(small):
                named = ", ".join(f"{i} ({sizes[i][1]}x{sizes[i][0]})" for i in small[:5])
                more = f" and {len(small) - 5} more" if len(small) > 5 else ""
                fits = int(sizes.min())
                raise InputError(
                    f"--patch_size {self.patch_size} is larger than the X{scale} images {named}{more}: "
                    f"use --patch_size {fits} or smaller, or leave these images out"
                )


class _HostCropper:
    """Transforms each crop directly into one uint8 batch by OpenCV, far faster than NumPy on 3-byte pixels."""

    def __init__(self, images: TrainingImages, device: torch.device | str):
        self._images = {HR: images.hr, **images.lr}
        self._device = torch.device(device)

    def crop(self, scale: int, image: np.ndarray, corner: np.ndarray, dihedral: np.ndarray, patch: int) -> Tensor:
        pinned = self._device.type == "cuda"
        batch = torch.empty(len(image), patch, patch, 3, dtype=torch.uint8, pin_memory=pinned)
        images, view = self._images[scale], batch.numpy()
        for out, i, (y, x), flags in zip(view, image.tolist(), corner.tolist(), dihedral.tolist(), strict=True):
            _augment_into(out, images[i][y : y + patch, x : x + patch], *flags)
        return _to_float(batch.to(self._device, non_blocking=pinned))


def _augment_into(out: np.ndarray, crop: np.ndarray, transpose: bool, flip_y: bool, flip_x: bool) -> None:
    # flipping rows is far faster than flipping columns, so the columns of a transposed patch are flipped as its rows
    if flip_y:
        crop = cv2.flip(crop, 0, None if transpose else out)
    if transpose:
        crop = cv2.transpose(crop, out)
    if flip_x:
        cv2.flip(crop, 0 if transpose else 1, out)
    elif crop is not out:
        out[:] = crop


class _DeviceCropper:
    """Keeps all images as one uint8 table of pixels on the device; a batch is one gather with computed indices."""

    def __init__(self, images: TrainingImages, device: torch.device | str):
        self._device = torch.device(device)
        self._pixels, self._layout = {}, {}
        for scale, group in {HR: images.hr, **images.lr}.items():
            sizes = [image.shape[0] * image.shape[1] for image in group]
            table = torch.empty(sum(sizes), 3, dtype=torch.uint8, device=self._device)
            start = np.cumsum([0, *sizes])
            staging = torch.empty(max(sizes), 3, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            for image, begin, size in zip(group, start, sizes, strict=False):
                staging.numpy()[:size] = image.reshape(-1, 3)  # from the file, if mapped, to where the GPU reads it
                table[begin : begin + size] = staging[:size]
            self._pixels[scale] = table
            self._layout[scale] = start[:-1], np.array([image.shape[1] for image in group])

    def crop(self, scale: int, image: np.ndarray, corner: np.ndarray, dihedral: np.ndarray, patch: int) -> Tensor:
        start, width = (each[image] for each in self._layout[scale])
        transpose, flip_y, flip_x = dihedral.T
        # pixel (i, j) of a patch is start + down * i + right * j: a flip negates a step, transposing swaps the two
        down, right = np.where(flip_y, -width, width), np.where(flip_x, -1, 1)
        start = start + (corner[:, 0] + flip_y * (patch - 1)) * width + corner[:, 1] + flip_x * (patch - 1)
        down, right = np.where(transpose, right, down), np.where(transpose, down, right)
        numbers = torch.from_numpy(np.stack([start, down, right]))
        if self._device.type == "cuda":
            numbers = numbers.pin_memory().to(self._device, non_blocking=True)
        first, down_step, right_step = numbers.to(self._device).view(3, -1, 1, 1)
        step = torch.arange(patch, device=self._device)
        index = first + down_step * step[:, None] + right_step * step
        return _to_float(self._pixels[scale][index])


def _to_float(batch: Tensor) -> Tensor:
    """uint8 NxHxWx3 -> float32 Nx3xHxW in [0, 1]; the memory stays as it is, which is channels_last."""
    return batch.permute(0, 3, 1, 2).float().div_(255)
