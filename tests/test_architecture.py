"""The architecture: imports go one way, files and functions are short, and each has a docstring."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT

# Data flows down this list, and each package imports only those above it
ORDER = ("common", "dataset", "model", "inference", "evaluation", "training", "solver", "train", "benchmarks")
FOLDERS = ("", *(each for each in ORDER if (ROOT / each).is_dir()), "evaluation/paper", "docs", "tests", "tests/stress")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).glob("*.py"))
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each Python file by its path."""
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def imported(tree: ast.Module) -> set[str]:
    """The top-level names of all modules that a file imports, at its head or later."""
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    return {name.split(".")[0] for name in names}


def test_imports_go_one_way(trees):
    backwards = set()
    for path, tree in trees.items():
        place = path.split("/")[0].removesuffix(".py")
        if place in ORDER:
            after = set(ORDER[ORDER.index(place) + 1 :]) | {"tests", "tcw_sample", "div2h5"}
            backwards |= {(path, name) for name in imported(tree) & after}
    assert not backwards


def test_every_file_has_a_docstring_and_is_short(trees):
    for path, tree in trees.items():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith('"""') and ast.get_docstring(tree), path
        assert len(lines) <= 400, path
    limits = {"model/cfsrcnn.py": 150, "train.py": 120, "tcw_sample.py": 120, "div2h5.py": 120, "solver.py": 280}
    for path, most in limits.items():
        assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) < most, path


def test_every_function_fits_on_a_screen(trees):
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS) and node.name != "parse_flags":  # a flat list of flags
                assert node.end_lineno - node.lineno < 50, f"{path}: {node.name}"


def test_public_names_have_docstrings(trees):
    undocumented_names = []
    for path, tree in trees.items():
        if not path.startswith("tests/"):
            protocols = [
                node for node in tree.body if isinstance(node, ast.ClassDef) and named(node.bases) == ["Protocol"]
            ]
            documented = {each.name for protocol in protocols for each in protocol.body if isinstance(each, FUNCTIONS)}
            undocumented_names += [
                f"{path}: {name}" for name in undocumented(tree.body, {"main", "forward"} | documented)
            ]
    assert not undocumented_names


def undocumented(body: list[ast.stmt], documented: set[str]) -> list[str]:
    """Public names without a docstring, except those `documented` elsewhere: by a base class or a Protocol."""
    found = []
    for node in body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_"):
            found += [] if ast.get_docstring(node) or node.name in documented else [node.name]
            if isinstance(node, ast.ClassDef) and not node.bases:
                found += undocumented(node.body, documented)
    return found


def named(bases: list[ast.expr]) -> list[str]:
    return [base.id for base in bases if isinstance(base, ast.Name)]


def test_what_the_paper_map_names_is_there():
    text = (ROOT / "docs/paper_map.md").read_text(encoding="utf-8")
    named_things = re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", text)
    assert len(named_things) > 30
    for path, name in named_things:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert all(re.search(rf"\b{part}\b", source) for part in name.split(".") if part), (path, name)
