"""Downloads DIV2K and the usual test sets, verified, in the layout that the other commands read.

Command line: `python -m dataset.download NAME... [--out FOLDER]`. Existing data are not downloaded again.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from common import SCALES
from common.cli import CliParser
from common.errors import InputError, run_cli
from common.files import (
    atomic_dir,
    ensure_free_space,
    mkdir_remove_if_empty,
    realpath,
    temporary_dir,
    translate_write_errors,
)
from dataset.benchmark_set import available_scales, list_hr_images, normalize_name
from dataset.fetch import PART_SUFFIX, fetch
from dataset.prepare import prepare
from dataset.sources import DIV2K_HR, DIV2K_LR, DIV2K_VALID, TEST_SETS, Archive, ImageFolder, find_div2k
from dataset.unpack import unpack_images
from dataset.verify import published_set, verify

NAMES = ("DIV2K", *TEST_SETS)


@dataclass
class _Part:
    """What is taken from an archive: `unpack`, given the archive's path, does it."""

    source: ImageFolder
    unpack: Callable[[Path], None]


def download(
    names: list[str], out: Path, scales: list[int], valid: bool = False, base_url: str | None = None, keep: bool = False
) -> None:
    """Downloads what `out` lacks of the data sets `names` at `scales`, verifies the test sets and prints the next command.

    DIV2K goes to `out`/DIV2K/DIV2K_train_HR and DIV2K_train_LR_bicubic/X2..X4 and, with `valid`, DIV2K_valid_HR; a test
    set to `out`/NAME/x2..x4. Archives are stored in `out`/archives and removed once they are unpacked, unless `keep` is set or
    they were there before. `base_url`: a mirror to download the archives from.
    Raises `InputError` as `fetch`, `unpack_images`, `prepare` and `verify` do; parts completed by then stay.
    """
    parts = [part for name in names for part in _lacking(name, out, scales, valid)]
    archives: dict[Archive, list[_Part]] = {}
    for part in parts:
        archives.setdefault(part.source.archive, []).append(part)
    place = out / "archives"
    ensure_free_space(out, _space_needed(list(archives), place, keep))
    for archive, wanted in archives.items():
        with mkdir_remove_if_empty(place):
            _get(archive, wanted, place, base_url, keep)
    with suppress(OSError):  # not there, or not empty
        place.rmdir()
    _check([name for name in names if name in TEST_SETS], out, scales)
    for name in names:
        print(f"next: {_next_command(name, out, scales)}")


def _get(archive: Archive, wanted: list[_Part], place: Path, base_url: str | None, keep: bool) -> None:
    """Downloads an archive and unpacks what is wanted from it."""
    if base_url:
        archive = replace(archive, url=f"{base_url.rstrip('/')}/{archive.name}")
    file = place / archive.name
    if file.exists():
        print(f"checking {file}", flush=True)
    else:
        verb = "resuming" if file.with_name(f"{file.name}{PART_SUFFIX}").exists() else "downloading"
        print(f"{verb} {archive.url}, {tqdm.format_sizeof(archive.size)}B", flush=True)
    fetched = fetch(archive.url, file, archive.size, archive.digest, archive.exact_size)
    try:
        for part in wanted:
            part.unpack(file)
    except BaseException:
        if fetched and not keep:  # the next run unpacks it, and then removes it
            file.rename(file.with_name(f"{file.name}{PART_SUFFIX}"))
        raise
    if fetched and not keep:
        file.unlink()
    else:
        print(f"kept {file}")


def _lacking(name: str, out: Path, scales: list[int], valid: bool) -> list[_Part]:
    if name == "DIV2K":
        return _lacking_div2k(out, scales, valid)
    folder, source = out / name, TEST_SETS[name]
    there = available_scales(folder) if folder.is_dir() else []
    lacking = [scale for scale in scales if scale not in there]
    if not lacking:
        print(f"{folder} already exists")
        return []
    with mkdir_remove_if_empty(folder):  # fails early if it cannot be created
        pass
    if there and not any((folder / f"x{scale}").is_dir() for scale in SCALES):
        raise InputError(
            f"{folder} has no {', '.join(f'x{scale}' for scale in lacking)}, which cannot be added to its layout: "
            "move it away or leave these out of --scales"
        )

    def unpack(archive: Path) -> None:
        with translate_write_errors(folder), temporary_dir(archive.parent) as high:
            unpack_images(archive, source.folder, high, source.images)
            prepare(list_hr_images(high), folder, lacking)

    return [_Part(source, unpack)]


def _lacking_div2k(out: Path, scales: list[int], valid: bool) -> list[_Part]:
    place = find_div2k(out) or out / "DIV2K"
    parts = []
    for source in [DIV2K_HR, *(DIV2K_LR[scale] for scale in scales), *([DIV2K_VALID] if valid else [])]:
        folder = place / source.folder
        if not folder.is_dir():
            with mkdir_remove_if_empty(folder):
                pass
            parts.append(_Part(source, partial(_unpack, source, folder)))
        elif (count := len(list(folder.glob("*.png")))) != source.images:
            raise InputError(f"{folder} has {count} images instead of {source.images}: remove it to download it again")
        else:
            print(f"{folder} already exists")
    return parts


def _unpack(source: ImageFolder, folder: Path, archive: Path) -> None:
    with mkdir_remove_if_empty(folder.parent), atomic_dir(folder) as unfinished:
        unpack_images(archive, source.folder, unfinished, source.images)
    print(f"wrote {folder}: {source.images} images")


def _space_needed(archives: list[Archive], place: Path, keep: bool) -> int:
    """The peak disk usage in bytes: images take about the size of their archive, which is removed afterwards."""
    used = most = 0
    for archive in archives:
        files = [place / archive.name, place / f"{archive.name}{PART_SUFFIX}"]
        there = next((file.stat().st_size for file in files if file.exists()), 0)
        most = max(most, used + max(0, archive.size - there) + archive.size)
        used += archive.size * (2 if keep else 1)
    return most


def _check(names: list[str], out: Path, scales: list[int]) -> None:
    """Runs `verify` at the scales with a published hash; raises `InputError` after all test sets are checked."""
    wrong = []
    for name in names:
        known = [scale for scale in scales if f"x{scale}" in published_set(name)[1]]
        try:
            if known:
                verify(out / name, known)
        except InputError as error:
            wrong.append(str(error))
        if rest := [f"x{scale}" for scale in scales if scale not in known]:
            print(f"{name} {', '.join(rest)}: not verified, no hash is published")
    if wrong:
        raise InputError("; ".join(wrong))


def _next_command(name: str, out: Path, scales: list[int]) -> str:
    if name in TEST_SETS:
        weights = f"checkpoint/x{scales[0]}/cfsrcnn_x{scales[0]}.pth"
        folder = shlex.quote(str(out / name))
        return (
            f"python tcw_sample.py --model cfsrcnn --test_data_dir {folder} --scale {scales[0]} --ckpt_path {weights}"
        )
    some = "" if set(scales) == set(SCALES) else f" --scales {' '.join(map(str, scales))}"
    if realpath(out) == realpath(Path("dataset")):  # where div2h5.py looks by default
        return f"python div2h5.py{some}"
    source, file = (shlex.quote(str(path)) for path in (find_div2k(out), out / "DIV2K_train.h5"))
    return f"python div2h5.py --source {source} --out {file}{some}"


def _name(text: str) -> str:
    try:
        return "DIV2K" if normalize_name(text) == "div2k" else published_set(text)[0]
    except InputError:
        raise argparse.ArgumentTypeError(f"{text} cannot be downloaded: choose from {', '.join(NAMES)}") from None


def _server(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # from `port`, which must be a number, or for brackets that do not match
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text} is not an http or https URL, such as https://example.org/data")
    return text


def main() -> None:
    parser = CliParser(prog="python -m dataset.download", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="+",
        type=_name,
        metavar="NAME",
        help=f"{', '.join(NAMES)}; the test sets share an archive of 250 MB: download them together",
    )
    parser.add_argument("--out", type=Path, default=Path("dataset"), help="where the folders go (default: dataset)")
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES), help="upscaling factors")
    parser.add_argument("--valid", action="store_true", help="with DIV2K: also the 100 validation images")
    parser.add_argument(
        "--keep_archives", action="store_true", help="keep the archives in OUT/archives after unpacking"
    )
    parser.add_argument(
        "--base_url",
        type=_server,
        metavar="URL",
        help="a mirror: download URL/ARCHIVE instead of using the official servers",
    )
    args = parser.parse_args()
    names = [name for name in NAMES if name in args.names]
    if "DIV2K" not in names:
        parser.reject(args, "only DIV2K has validation images", "valid")
    download(names, args.out, sorted(set(args.scales)), args.valid, args.base_url, args.keep_archives)


if __name__ == "__main__":
    run_cli(main)
