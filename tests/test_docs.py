"""The documents: links, files, functions, make targets, commands and flags that they name exist."""

from __future__ import annotations

import ast
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


@cache
def defined_in(file: str) -> set[str]:
    """The functions, classes, and assigned names and attributes of a Python file."""
    nodes = list(ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stored = [node for node in nodes if isinstance(getattr(node, "ctx", None), ast.Store)]
    names |= {node.id for node in stored if isinstance(node, ast.Name)}
    return names | {node.attr for node in stored if isinstance(node, ast.Attribute)}


@cache
def files_with_class(name: str) -> list[str]:
    """The files of ours that define a class of this name."""
    sources = [ROOT / "solver.py", *(file for folder in OURS for file in ROOT.glob(f"{folder}/**/*.py"))]
    paths = [file.relative_to(ROOT).as_posix() for file in sources]
    return [path for path in paths if re.search(rf"^class {name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M)]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_and_files_exist(page):
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.S)
    links = {each.partition("#")[0] for each in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in each}
    assert [each for each in links if not (page.parent / each).exists()] == []
    if page.name != "CHANGELOG.md":  # which also tells of files that are gone
        assert [each for each in FILE.findall(text) if not (ROOT / each).exists() and "NAME" not in each] == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_functions_exist(page):
    """`model/ops.py: relu_` is a function of that file, `FEB.forward` a member of the class."""
    text = text_of(page)
    found = {(file, part) for file, name in re.findall(r"`([\w/]+\.py): ([\w.]+)`", text) for part in name.split(".")}
    members = re.findall(r"`([A-Z]\w+)\.(\w+)", text)
    found |= {(file, member) for owner, member in members for file in files_with_class(owner)}
    assert [(file, name) for file, name in sorted(found) if name not in defined_in(file)] == []


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
