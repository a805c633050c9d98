"""Photographs with the clean, strong edges of drawings: flattened by mean shift, with more saturation and contrast.

Command line, for training and for a test set:
    python -m dataset.flatten PHOTOGRAPHS flat 1 --mosaics
    python -m dataset.flatten runs/images_held_out flat_held_out 2
Mosaics: images too small for patches of 32x32 at x4 after --shrink 0.6 are put together, four or nine to an image.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from dataset.images import read_image
from dataset.imresize import imresize


def flatten(photo: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A flat version of an HxWx3 uint8 photograph, at 1, 0.7, 0.5 or 0.35 of its size, cut to multiples of 12."""
    image = cv2.pyrMeanShiftFiltering(photo, int(random.integers(5, 12)), int(random.integers(25, 60)))
    size = Fraction(str(random.choice([1, 0.7, 0.5, 0.35])))
    image = _stretch(image, image.mean(2, keepdims=True), random.uniform(1, 2))
    contrast = random.uniform(1, 2.2)
    if random.random() < 0.5:
        image = _stretch(image, image.mean(), contrast)
    if size < 1:
        image = imresize(image, size)
    if random.random() < 0.5:
        image = _stretch(image, image.mean(), min(contrast, 1.6))
    height, width = (side // 12 * 12 for side in image.shape[:2])
    return image[:height, :width]


def _stretch(image: np.ndarray, middle: np.ndarray | float, factor: float) -> np.ndarray:
    return np.clip((image - middle) * factor + middle, 0, 255).round().astype(np.uint8)


def mosaics(images: list[np.ndarray], rows: int, height: int, width: int) -> list[np.ndarray]:
    """Images of `rows` times `rows` of the given ones, each cut to height x width."""
    wide = [image if image.shape[0] <= image.shape[1] else image.transpose(1, 0, 2) for image in images]
    cut = [image[:height, :width] for image in wide if image.shape[0] >= height and image.shape[1] >= width]
    groups = [cut[i : i + rows * rows] for i in range(0, len(cut) - rows * rows + 1, rows * rows)]
    return [
        np.concatenate([np.concatenate(group[i : i + rows], 1) for i in range(0, rows * rows, rows)])
        for group in groups
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("versions", type=int)
    parser.add_argument("--mosaics", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    small: dict[int, list[np.ndarray]] = {2: [], 3: []}
    for number, file in enumerate(sorted(args.source.iterdir())):
        photo = read_image(file).rgb
        if max(photo.shape) > 900:
            photo = imresize(photo, Fraction(1, 2))
        for version in range(args.versions):
            random = np.random.default_rng([number, version, args.versions - 1])
            image = flatten(photo, random)
            if args.mosaics and min(image.shape[:2]) < 220:
                small[3 if min(image.shape[:2]) < 130 else 2].append(image)
            else:
                cv2.imwrite(str(args.out / f"{file.stem}_{version}.png"), image[..., ::-1])
    for rows, height, width in ((2, 156, 228), (3, 104, 156)):
        for number, image in enumerate(mosaics(small[rows], rows, height, width)):
            cv2.imwrite(str(args.out / f"mosaic_{rows}_{number}.png"), image[..., ::-1])


if __name__ == "__main__":
    main()
