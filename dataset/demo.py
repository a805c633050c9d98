"""The demo's test set: photographs that scikit-image ships inside its package, in the authors' layout at x2, x3, x4.

Command line: `python -m dataset.demo [--out FOLDER]`; existing folders are kept. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import skimage

from common import SCALES
from common.cli import CliParser
from common.errors import InputError, run_cli
from dataset.prepare import prepare

PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def make_demo_set(folder: Path, scales: list[int]) -> None:
    """Writes `folder`/xS for those of `scales` that it lacks. `InputError` if scikit-image came without its images."""
    files = [Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS]
    if missing := next((file for file in files if not file.is_file()), None):
        raise InputError(f"{missing} is missing: install scikit-image from a wheel of the version in requirements.txt")
    if lacking := [scale for scale in scales if not (folder / f"x{scale}").is_dir()]:
        prepare(files, folder, lacking)


def main() -> None:
    parser = CliParser(prog="python -m dataset.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo/photographs"), help="folder to write")
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES), help="upscaling factors")
    args = parser.parse_args()
    make_demo_set(args.out, sorted(set(args.scales)))


if __name__ == "__main__":
    run_cli(main)
