"""HR images -> a test set in the authors' layout: NAME/x2/IMAGE_SRF_2_HR.png beside IMAGE_SRF_2_LR.png, and so on.

Command line: `python -m dataset.prepare --hr FOLDER --name NAME --scales 2 3 4` writes `dataset/NAME`.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from common.errors import InputError, run_command
from common.files import whole_folder
from common.progress import progress
from dataset.hdf5 import SCALES
from dataset.images import list_images, read_picture, say_conversions, write_png
from dataset.imresize import EDGES, imresize


def prepare(hr_files: list[Path], folder: Path, scales: list[int], edge: str = "clamp") -> None:
    """Writes `folder`/xS for each scale: HR cropped to a multiple of it, LR by `imresize`; RGB PNG files.

    Each xS folder appears when all of its images are written. Raises `InputError` if one stands there already, if two
    files have one stem, or naming a picture that is broken or too small.
    """
    stems = [file.stem for file in hr_files]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(f"two pictures are called {twice}: rename one of them")
    for scale in scales:
        if (folder / f"x{scale}").exists():
            raise InputError(f"{folder / f'x{scale}'} exists: remove it or choose another --name")
    pictures = []
    for scale in scales:
        with whole_folder(folder / f"x{scale}") as unfinished:
            for file in progress(hr_files, desc=f"{folder.name} x{scale}", unit="image"):
                picture = read_picture(file)
                pictures.append((file.name, picture))
                height, width = (size // scale * scale for size in picture.rgb.shape[:2])
                if not height or not width:
                    raise InputError(f"{file} is smaller than {scale}x{scale}: remove it")
                hr = picture.rgb[:height, :width]
                write_png(unfinished / f"{file.stem}_SRF_{scale}_HR.png", hr)
                write_png(unfinished / f"{file.stem}_SRF_{scale}_LR.png", imresize(hr, Fraction(1, scale), edge))
    if note := say_conversions(pictures[: len(hr_files)]):
        print(note)
    print(f"wrote {folder}: {len(hr_files)} images, scales {', '.join(f'x{scale}' for scale in scales)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dataset.prepare", description="Make a test set from HR images.")
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR pictures")
    parser.add_argument("--name", required=True, help="name of the test set, its folder's too")
    parser.add_argument("--out", type=Path, default=Path("dataset"), help="where the folder goes (default: dataset)")
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES), help="default: 2 3 4")
    parser.add_argument("--edge", choices=EDGES, default="clamp", help="border rule; the published sets have clamp")
    args = parser.parse_args()
    if Path(args.name).name != args.name or args.name in ("", ".", ".."):
        raise InputError(f"--name {args.name!r} must be a plain name, not a path")
    prepare(list_images(args.hr), args.out / args.name, sorted(set(args.scales)), args.edge)


if __name__ == "__main__":
    run_command(main)
