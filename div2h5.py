"""Pictures -> the training set as one HDF5 file. Parses flags and wires parts; `dataset/` does the work.

Without flags: DIV2K as downloaded, found in `dataset/`, becomes `dataset/DIV2K_train.h5`.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError, run_command
from common.flags import Flags, checked, natural
from common.scales import SCALES
from dataset.imresize import EDGES
from dataset.pairs import write_training_set

HERE = Path(__file__).parent / "dataset"
shrinking = checked(float, lambda value: 0.1 <= value < 1, "a number from 0.1 to below 1, such as 0.6")
DIV2K_PLACES = [HERE / "DIV2K", HERE / "DIV2K_train", HERE]


def main() -> None:
    parser = Flags(description="Build the HDF5 training set from DIV2K or any folder of pictures.")
    parser.add_argument(
        "--source",
        type=Path,
        help="a folder of pictures, whose LR images are then made by dataset/imresize.py, or one with DIV2K_train_HR "
        "and DIV2K_train_LR_bicubic/X2..X4 (default: DIV2K in dataset/, as downloaded)",
    )
    parser.add_argument("--extra", type=Path, nargs="*", default=[], help="more folders of pictures to add")
    parser.add_argument(
        "--out", type=Path, default=HERE / "DIV2K_train.h5", help="the file to write (default: dataset/DIV2K_train.h5)"
    )
    parser.add_argument(
        "--scales", type=int, nargs="+", default=list(SCALES), choices=SCALES, help="of the LR images; default: 2 3 4"
    )
    parser.add_argument("--edge", choices=EDGES, default="clamp", help="how made LR images treat the border")
    parser.add_argument("--workers", type=natural, default=0, help="decoding threads (default: one per CPU core)")
    parser.add_argument(
        "--hold_out",
        type=natural,
        default=0,
        metavar="N",
        help="leave N pictures out, evenly spread, and make a test set OUT_held_out of them to validate on",
    )
    parser.add_argument(
        "--shrink",
        type=shrinking,
        nargs="+",
        default=[],
        help="add each picture again at these shares of its size, 0.1 to below 1, at which it is sharper (paper: none)",
    )
    args = parser.parse_args()

    source = args.source or find_div2k()
    write_training_set(
        [source, *args.extra], args.out, sorted(set(args.scales)), args.edge, args.workers, args.hold_out, args.shrink
    )


def find_div2k() -> Path:
    """The folder in `dataset/` that holds DIV2K_train_HR."""
    for place in DIV2K_PLACES:
        if (place / "DIV2K_train_HR").is_dir():
            return place
    raise InputError(
        "DIV2K_train_HR is not in dataset/ or dataset/DIV2K/: unpack DIV2K's archives there (see README.md, "
        "Training data) or name a folder of pictures with --source"
    )


if __name__ == "__main__":
    run_command(main)
