"""Images -> the training set as one HDF5 file. Parses flags and wires parts; `dataset/` does the work.

Without flags: DIV2K as downloaded, found in `dataset/` of the working directory, becomes `dataset/DIV2K_train.h5`.
"""

from __future__ import annotations

from pathlib import Path

from common import SCALES
from common.cli import CliParser, non_negative_int
from common.errors import InputError, run_cli, searched_in
from dataset.prepare import add_padding_flag
from dataset.sources import download_command, find_div2k
from dataset.training_set import downscale_factor, write_training_set

ABOUT = (
    "Build the HDF5 training set from DIV2K or any folder of images. If an image cannot be read, all such images are listed, "
    "nothing is written and the exit code is 2."
)


def main(folder: Path = Path("dataset")) -> None:
    """Parses the flags and writes the training set. `folder`: where DIV2K is by default, and where the file goes."""
    parser = CliParser(description=ABOUT)
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        help="folders of HR images, whose LR images are made by dataset/imresize.py, or with DIV2K_train_HR and "
        "DIV2K_train_LR_bicubic/X2..X4 (default: DIV2K as dataset.download leaves it)",
    )
    parser.add_argument("--extra", type=Path, nargs="*", default=[], help="more folders of images to add")
    parser.add_argument("--out", type=Path, default=folder / "DIV2K_train.h5", help="the file to write")
    parser.add_argument(
        "--scales", type=int, nargs="+", default=list(SCALES), choices=SCALES, help="scales of the LR images"
    )
    add_padding_flag(parser, "replicate", "padding of the resize that makes LR images")
    parser.add_argument(
        "--workers", type=non_negative_int, default=0, help="decoding threads (default: one per CPU core)"
    )
    parser.add_argument(
        "--hold_out",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="leave out N images, evenly spaced, and make the test set OUT_held_out of them, for validation",
    )
    parser.add_argument(
        "--shrink",
        type=downscale_factor,
        nargs="+",
        default=[],
        help="add each image again, downscaled (and so sharper) by each of these factors from 0.1 to below 1 (paper: none)",
    )
    args = parser.parse_args()

    sources = args.source or list(filter(None, [find_div2k(folder)]))
    if not sources:
        raise InputError(
            f"DIV2K_train_HR is not in {folder}/ or {folder}/DIV2K/{searched_in(folder)}: download it with "
            f"`{download_command('DIV2K', folder)}`, or name a folder of images with --source"
        )
    write_training_set(
        [*sources, *args.extra],
        args.out,
        sorted(set(args.scales)),
        args.padding,
        args.workers,
        args.hold_out,
        args.shrink,
    )


if __name__ == "__main__":
    run_cli(main)
