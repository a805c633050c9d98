"""Finds what can be measured: the paper's test sets and checkpoints of CFSRCNN. Measures nothing."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import SCALES
from common.errors import FailureLog, InputError, searched_in, translate_access_errors
from common.units import format_count
from dataset.benchmark_set import normalize_name
from dataset.sources import TEST_SETS, download_command
from evaluation.cache import hash_files
from model import model_names
from model.checkpoint import load_model, read_state_dict
from model.key_mapping import inspect_state_dict

OUR_MODEL = "cfsrcnn"
PRETRAINED = re.compile(r"x([234])/cfsrcnn_x\1\.(pth|safetensors)$")
PEERS = ("rlfn", "bsrn")  # small networks of others, in model/, whose published weights can be measured beside ours
PEER_EXAMPLES = "rlfn_x2.pth, bsrn_x4.pth or, for model/NAME.py, NAME_x2.pth"


@dataclass(frozen=True)
class BenchmarkInfo:
    """A test set of the paper: the number of its table, the names its folder may have, its image count if known."""

    number: int
    roman: str
    name: str
    folders: tuple[str, ...]  # as `normalize_name` spells them
    images: int | None
    source: str

    def download_hint(self, data: Path, scales: Sequence[int] = SCALES) -> str:
        """One sentence on how to get it."""
        return f"{self.name} is not in {data}: {self.source}; `{self.command(data, *scales)}`"

    def command(self, data: Path, *scales: int) -> str:
        """The command that downloads it or, if it cannot be downloaded, makes it from a folder of HR images."""
        if self.name in TEST_SETS:
            return download_command(self.name, data, scales)
        out = "" if data == Path("dataset") else f" --out {shlex.quote(str(data))}"
        return f"python -m dataset.prepare --hr FOLDER --name {self.name}{out} --scales {' '.join(map(str, scales))}"


SETS = (
    BenchmarkInfo(4, "IV", "Set5", ("set5",), 5, "5 images of Bevilacqua et al., BMVC 2012"),
    BenchmarkInfo(5, "V", "Set14", ("set14",), 14, "14 images of Zeyde et al., 2010"),
    BenchmarkInfo(6, "VI", "B100", ("b100", "bsd100", "bsds100"), 100, "the 100 test images of Berkeley's BSDS300"),
    BenchmarkInfo(
        7,
        "VII",
        "Urban100",
        ("urban100", "u100"),
        100,
        "100 images of Huang et al., CVPR 2015 (the SelfExSR repository)",
    ),
    BenchmarkInfo(
        8,
        "VIII",
        "720p",
        ("720p", "div2k720p", "test720p"),
        None,
        "the authors' page offers no download of it, so its HR images have to come from them; then",
    ),
)


@dataclass(frozen=True)
class Checkpoint:
    """A weight file. `label`: the name of its rows; `scales`: the scales it supports; `model`: its module in `model/`."""

    path: Path
    label: str
    sha256: str
    scales: tuple[int, ...]
    model: str = OUR_MODEL


def parse_set(text: str) -> BenchmarkInfo:
    """A name for `known_set`, for argparse."""
    if (found := known_set(text)) is None:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(each.name for each in SETS)}")
    return found


def known_set(name: str) -> BenchmarkInfo | None:
    """The test set that a folder of this name holds, in any common spelling; None for other names."""
    return next((each for each in SETS if normalize_name(name) in each.folders), None)


def find_sets(data: Path) -> dict[str, Path]:
    """Name -> folder of the paper's test sets in `data` or `data`/benchmark; the first if two names match."""
    if not data.is_dir():
        raise InputError(
            f"--data {data}: no such folder{searched_in(data)}; name the one that holds Set5, Set14, B100, Urban100, 720p"
        )
    with translate_access_errors(data):
        places = [place for place in (data, data / "benchmark") if place.is_dir()]
        folders = [each for place in places for each in sorted(place.iterdir()) if each.is_dir()]
    found: dict[str, Path] = {}
    for wanted in SETS:
        for spelling in wanted.folders:
            fits = [each for each in folders if normalize_name(each.name) == spelling]
            if fits:
                found.setdefault(wanted.name, fits[0])
    return found


def find_checkpoints(source: Path, failures: FailureLog) -> tuple[list[Checkpoint], list[str]]:
    """The CFSRCNN weight files at or below `source`, and a remark on each file that is skipped; unreadable ones are `failures`.

    Of a training run's NAME_STEP.pth only the last is used, and of identical files only one. Pretrained weights such as
    x2/cfsrcnn_x2.pth are labeled CFSRCNN; a file is labeled by its path if its label is taken at one of its scales.
    """
    if not source.exists():
        raise InputError(
            f"--checkpoints {source}: no such file or folder{searched_in(source)}; name one that holds .pth or "
            ".safetensors files"
        )
    files, remarks = _last_steps([source] if source.is_file() else _weight_files(source, failures))
    found: list[Checkpoint] = []
    for file in sorted(files, key=lambda file: (not PRETRAINED.search(file.as_posix()), str(file))):
        known = len(failures.messages)
        with failures.collect():
            info, sha256 = inspect_state_dict(read_state_dict(file)), hash_files([file], names=False)
        if len(failures.messages) > known:
            continue
        if info is None:
            remarks.append(f"skipped {file}: no checkpoint of CFSRCNN (--peers takes other networks)")
        elif twin := next((each for each in found if each.sha256 == sha256), None):
            remarks.append(f"skipped {file}: the same file as {twin.path}")
        else:
            new = Checkpoint(file, _label(file), sha256, info.scales)
            if any(each.label == new.label and set(each.scales) & set(new.scales) for each in found):
                inside = file.relative_to(source) if source.is_dir() else file
                new = replace(new, label=f"CFSRCNN ({inside.as_posix()})")
            found.append(new)
    return found, remarks


def find_peers(source: Path, failures: FailureLog) -> tuple[list[Checkpoint], list[str]]:
    """The weight files of other networks at or below `source`, and a remark on each file that is skipped.

    A file is named after its network: NAME_x2.pth or, of a training run, of which only the last step is used, NAME_600000.pth
    for `model/NAME.py`. A scale in the name, such as x2, is its only one; else it has all at which the network accepts its
    weights. Unreadable files are `failures`. Raises `InputError` if there is none, or two of one published network and scale.
    """
    if not source.exists():
        raise InputError(f"--peers {source}: no such folder; name one that holds {PEER_EXAMPLES}")
    files, remarks = _last_steps([source] if source.is_file() else _weight_files(source, failures))
    found: dict[tuple[str, int], Checkpoint] = {}  # by label and scale
    matched = False
    for file in sorted(files):
        if (model := _peer_model(file.stem)) is None:
            remarks.append(f"skipped {file}: not named as weights of a peer, such as {PEER_EXAMPLES}")
            continue
        matched, peer = True, None
        with failures.collect():
            sha256 = hash_files([file], names=False)
            peer = Checkpoint(
                file, model.upper() if model in PEERS else model, sha256, _peer_scales(file, model), model
            )
        if peer is None:
            continue
        twin = next((found[peer.label, scale] for scale in peer.scales if (peer.label, scale) in found), None)
        if twin and model in PEERS:
            what = f"{peer.label} x{peer.scales[0]}"
            raise InputError(f"--peers {source}: {twin.path} and {file} are both {what}: leave one there")
        if twin:
            inside = file.relative_to(source) if source.is_dir() else file
            peer = replace(peer, label=f"{model} ({inside.as_posix()})")
        found |= {(peer.label, scale): peer for scale in peer.scales}
    if not matched:
        raise InputError(f"--peers {source}: holds no weights named as those of a peer, such as {PEER_EXAMPLES}")
    published = [name.upper() for name in PEERS]
    order = sorted(found, key=lambda key: (published.index(key[0]) if key[0] in published else len(published), key))
    return list(dict.fromkeys(found[key] for key in order)), remarks


def _peer_model(stem: str) -> str | None:
    """The module in `model/` that a weight file is named after, by the longest name that fits."""
    names = set(model_names()) - {OUR_MODEL}
    return max((each for each in names if _name_in(stem, each)), key=lambda each: (len(each), each), default=None)


def _name_in(stem: str, model: str) -> re.Match[str] | None:
    return re.search(rf"(?<![a-z]){re.escape(model)}(?![a-z])", stem, re.IGNORECASE)


def _peer_scales(file: Path, model: str) -> tuple[int, ...]:
    """The scale in the file's name, or else those at which the network takes its weights. `InputError` if it takes none."""
    name = _name_in(file.stem, model)
    if name and (scale_match := re.search(r"x([234])(?!\d)", file.stem[name.end() :], re.IGNORECASE)):
        return (int(scale_match[1]),)
    scales: list[int] = []
    for scale in SCALES:
        try:
            load_model(file, model, scale)
            scales.append(scale)
        except InputError:
            if scale == SCALES[-1] and not scales:
                raise
    return tuple(scales)


def _weight_files(folder: Path, failures: FailureLog) -> list[Path]:
    """The weight files at or below `folder`; folders that may not be read are `failures`."""

    def note(error: OSError) -> None:
        with failures.collect(), translate_access_errors(error.filename):
            raise error

    found = [Path(top, name) for top, _, names in os.walk(folder, onerror=note) for name in names]
    found = [file for file in found if file.suffix in (".pth", ".safetensors") and not file.name.startswith(".")]
    return [file for file in found if file.is_file() or file.is_symlink()]  # of a broken link users will want to hear


def _last_steps(files: list[Path]) -> tuple[list[Path], list[str]]:
    runs: dict[tuple[Path, str], list[tuple[int, Path]]] = {}  # (step, file) of each run
    for file in files:
        step = re.fullmatch(r"(.+)_(\d+)", file.stem)
        run = (file.parent, f"{step[1]}_*{file.suffix}" if step else file.name)
        runs.setdefault(run, []).append((int(step[2]) if step else 0, file))
    last = [max(run)[1] for run in runs.values()]
    fewer = [(len(run) - 1, max(run)[1]) for run in runs.values() if len(run) > 1]
    return last, [f"skipped {format_count(count, 'earlier step')} of {file}" for count, file in fewer]


def _label(file: Path) -> str:
    """ "CFSRCNN" for cfsrcnn_x2 or cfsrcnn_600000, else "CFSRCNN (NAME)", without scale and step."""
    name = re.sub(r"_\d+$", "", file.stem)
    name = re.sub(r"[-_]?x[234]$", "", name)
    return "CFSRCNN" if name.lower() in ("cfsrcnn", "") else f"CFSRCNN ({name})"
