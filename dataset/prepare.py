"""HR images -> a test set in the authors' layout: NAME/x2/IMAGE_SRF_2_HR.png beside IMAGE_SRF_2_LR.png, and so on.

Command line: `python -m dataset.prepare --hr FOLDER --name NAME --scales 2 3 4` writes `dataset/NAME`.
`--verify FOLDER` checks a test set instead: see `dataset/verify.py`.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError, run_command
from common.files import whole_folder
from common.flags import Flags
from common.progress import progress
from common.scales import SCALES
from dataset.images import read_picture, say_conversions, write_png
from dataset.imresize import EDGES
from dataset.testset import list_hr_images, make_pair
from dataset.verify import verify


def prepare(hr_files: list[Path], folder: Path, scales: list[int], edge: str = "clamp") -> None:
    """Writes `folder`/xS for each scale: HR cropped to a multiple of it, LR by `imresize`; RGB PNG files.

    Each xS folder appears when all of its images are written. Raises `InputError` if one stands there already, if two
    files have one stem, or naming a picture that is broken or too small.
    """
    for scale in scales:
        if (folder / f"x{scale}").exists():
            raise InputError(f"{folder / f'x{scale}'} exists: remove it or choose another --name")
    write_pairs(hr_files, folder, scales, edge)
    say_prepared(hr_files, folder, scales)


def write_pairs(hr_files: list[Path], folder: Path, scales: list[int], edge: str) -> None:
    """What `prepare` writes, into an empty folder; says nothing but what it had to convert."""
    by_stem: dict[str, Path] = {}
    for file in hr_files:
        if (other := by_stem.setdefault(file.stem, file)) is not file:
            raise InputError(f"two pictures are called {file.stem} ({other} and {file}): rename one of them")
    pictures = []
    for scale in scales:
        with whole_folder(folder / f"x{scale}") as unfinished:
            for file in progress(hr_files, desc=f"LR and HR at x{scale}", unit="image"):
                picture = read_picture(file)
                pictures.append((file.name, picture.without_pixels()))
                hr, lr = make_pair(file, picture.rgb, scale, edge)
                write_png(unfinished / f"{file.stem}_SRF_{scale}_HR.png", hr)
                write_png(unfinished / f"{file.stem}_SRF_{scale}_LR.png", lr)
    if note := say_conversions(pictures[: len(hr_files)]):
        print(note)


def say_prepared(hr_files: list[Path], folder: Path, scales: list[int]) -> None:
    """The line on a test set that is written."""
    print(f"wrote {folder}: {len(hr_files)} images, scales {', '.join(f'x{scale}' for scale in scales)}")


def main() -> None:
    parser = Flags(prog="python -m dataset.prepare", description="Make a test set from HR images, or check one.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--hr", type=Path, metavar="FOLDER", help="make a test set from the HR pictures in FOLDER")
    task.add_argument("--verify", type=Path, metavar="FOLDER", help="check a test set against the published one")
    parser.add_argument("--name", help="with --hr: name of the test set, its folder's too")
    parser.add_argument("--out", type=Path, help="with --hr: where the folder goes (default: dataset)")
    parser.add_argument("--edge", choices=EDGES, help="with --hr: border rule (default: clamp, as the published sets)")
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        choices=SCALES,
        help="upscaling factors, default: 2 3 4; with --verify: those that are there",
    )
    args = parser.parse_args()
    scales = sorted(set(args.scales or ())) or None
    if args.verify:
        parser.refuse(args, "--verify only looks", "name", "out", "edge")
        verify(args.verify, scales)
        return
    if args.name is None:
        raise InputError("--hr needs --name, the name of the test set")
    if Path(args.name).name != args.name or args.name in ("", ".", ".."):
        raise InputError(f"--name {args.name!r} must be a plain name, not a path")
    folder = (args.out or Path("dataset")) / args.name
    prepare(list_hr_images(args.hr), folder, scales or list(SCALES), args.edge or "clamp")


if __name__ == "__main__":
    run_command(main)
