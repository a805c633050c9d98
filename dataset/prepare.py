"""HR images -> a test set in the authors' layout: NAME/x2/IMAGE_SRF_2_HR.png beside IMAGE_SRF_2_LR.png, and so on.

Command line: `python -m dataset.prepare --hr FOLDER --name NAME --scales 2 3 4` writes `dataset/NAME`.
`--verify FOLDER` checks a test set instead: see `dataset/verify.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import SCALES
from common.cli import CliParser
from common.errors import FailureLog, InputError, run_cli
from common.files import atomic_dir
from common.progress import progress
from common.units import format_count
from dataset.benchmark_set import list_hr_images, modcrop_and_downscale
from dataset.image_writer import write_png
from dataset.images import conversion_summary, read_image
from dataset.imresize import PADDING_MODES
from dataset.verify import verify


def prepare(hr_files: list[Path], folder: Path, scales: list[int], padding: str = "replicate") -> None:
    """Writes `folder`/xS for each scale as RGB PNG files: HR is modcropped, LR is `imresize` of it.

    Each xS folder appears when all of its images are written. Raises `InputError` if one exists already, if two files
    have the same stem, or if an image is broken or too small.
    """
    for scale in scales:
        if (folder / f"x{scale}").exists():
            raise InputError(
                f"{folder / f'x{scale}'} exists: remove it, leave {scale} out of --scales or choose another --name"
            )
    write_pairs(hr_files, folder, scales, padding, FailureLog())
    say_prepared(hr_files, folder, scales)


def write_pairs(hr_files: list[Path], folder: Path, scales: list[int], padding: str, failures: FailureLog) -> None:
    """What `prepare` writes, into an empty folder; prints only which images were converted, and collects `failures`."""
    by_stem: dict[str, Path] = {}
    for file in hr_files:
        if (other := by_stem.setdefault(file.stem, file)) is not file:
            raise InputError(f"two images are called {file.stem} ({other} and {file}): rename one of them")
    images = []
    for scale in scales:
        with atomic_dir(folder / f"x{scale}") as unfinished:
            for file in progress(hr_files, desc=f"LR and HR at x{scale}", unit="image"):
                with failures.collect():
                    image = read_image(file)
                    images.append((file.name, image.metadata_only()))
                    hr, lr = modcrop_and_downscale(file, image.rgb, scale, padding)
                if failures.messages:  # look for others; nothing will be written
                    continue
                write_png(unfinished / f"{file.stem}_SRF_{scale}_HR.png", hr)
                write_png(unfinished / f"{file.stem}_SRF_{scale}_LR.png", lr)
            failures.raise_if_any(f"{folder.name} x{scale} is not written")
    if note := conversion_summary(images[: len(hr_files)]):
        print(note)


def say_prepared(hr_files: list[Path], folder: Path, scales: list[int]) -> None:
    """Prints one line on the test set that was written."""
    print(
        f"wrote {folder}: {format_count(len(hr_files), 'image')}, scales {', '.join(f'x{scale}' for scale in scales)}"
    )


def add_padding_flag(parser: CliParser, default: str | None, description: str) -> None:
    """Adds `--padding`, and hidden its former spelling `--edge clamp|mirror`."""
    former = {"clamp": "replicate", "mirror": "symmetric"}
    parser.add_argument("--padding", choices=PADDING_MODES, default=default, help=description)
    parser.add_argument(
        "--edge",
        dest="padding",
        type=lambda text: former.get(text, text),
        choices=PADDING_MODES,
        default=default,
        help=argparse.SUPPRESS,
    )


def main() -> None:
    parser = CliParser(prog="python -m dataset.prepare", description="Make a test set from HR images, or check one.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--hr", type=Path, metavar="FOLDER", help="make a test set from the HR images in FOLDER")
    task.add_argument("--verify", type=Path, metavar="FOLDER", help="check a test set against the published one")
    parser.add_argument("--name", help="with --hr: name of the test set and of its folder")
    parser.add_argument("--out", type=Path, help="with --hr: where the folder goes (default: dataset)")
    add_padding_flag(parser, None, "with --hr: padding of the resize (default: replicate, as the published sets)")
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        choices=SCALES,
        help="upscaling factors (default: 2 3 4; with --verify, those that exist)",
    )
    args = parser.parse_args()
    scales = sorted(set(args.scales or ())) or None
    if args.verify:
        parser.reject(args, "--verify only looks", "name", "out", "padding")
        verify(args.verify, scales)
        return
    if args.name is None:
        raise InputError("--hr needs --name, the name of the test set")
    if Path(args.name).name != args.name or args.name == ".." or not args.name.strip() or not args.name.isprintable():
        raise InputError(f"--name {args.name!r} must be a plain name, not a path")
    folder = (args.out or Path("dataset")) / args.name
    prepare(list_hr_images(args.hr), folder, scales or list(SCALES), args.padding or "replicate")


if __name__ == "__main__":
    run_cli(main)
