"""The documents: links, files, make targets, commands and flags that they name exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("checkpoint/*.md")])
OURS = (
    "common",
    "dataset",
    "model",
    "inference",
    "evaluation",
    "training",
    "benchmarks",
    "tests",
    "docs",
    "checkpoint",
)
FILE = re.compile(rf"`((?:(?:{'|'.join(OURS)})/)[\w/.-]+\.(?:py|md|json|csv|html|js|ipynb|svg|pth))\b")
COMMAND = re.compile(r"\bpython (?:-m ([\w.]+(?: convert)?)|([\w/]+\.py))([^`|#;\n]*)")
OTHERS = {"pip", "pytest", "venv", "ruff", "mypy"}  # modules that are not ours


def text_of(page: Path) -> str:
    """A page with the lines of each command joined."""
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


@cache
def flags_by_command() -> dict[tuple[str, str], set[str]]:
    """(module or file, page) -> the flags that the page gives it."""
    found: dict[tuple[str, str], set[str]] = {}
    for page in PAGES:
        for module, file, rest in COMMAND.findall(text_of(page)):
            if module.split(".")[0] not in OTHERS:
                flags = found.setdefault((module or file, page.relative_to(ROOT).as_posix()), set())
                flags |= set(re.findall(r"(?<=\s)--[a-z]\w*", rest))
    return found


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_and_files_exist(page):
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.S)
    links = {each.partition("#")[0] for each in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in each}
    assert [each for each in links if not (page.parent / each).exists()] == []
    if page.name != "CHANGELOG.md":  # which also tells of files that are gone
        assert [each for each in FILE.findall(text) if not (ROOT / each).exists() and "NAME" not in each] == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {
        each for line in re.findall(r"(?:^|`)make ([a-z][a-z0-9 -]*)", text_of(page), re.M) for each in line.split()
    }
    assert named <= targets


@pytest.mark.parametrize("program", sorted({program for program, _ in flags_by_command()}))
def test_commands_and_their_flags_exist(command, program):
    argv = [program] if program.endswith(".py") else ["-m", *program.split()]
    text = command(*argv, "--help").out
    assert "usage: " in text
    known = set(re.findall(r"--\w+", text))
    for (named, page), flags in flags_by_command().items():
        if named == program:
            assert flags <= known, page
