"""The command-line parser of every command: one-line errors with a suggestion, compact help, numeric argument types."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from common.errors import InputError

PATHS = "Relative paths, defaults too, are relative to the working directory."
Number = TypeVar("Number", int, float)
MAX_INT = 10**15  # exact as a float, too
LONG_WORD = re.compile(r"(\S{40})\S{160,}")  # a value that nobody would want to read in full


class CliParser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `InputError` and suggests the closest flag for an unrecognized argument.

    `example`: a command, the last line of the help.
    """

    def __init__(self, example: str = "", **options: Any):
        super().__init__(**{"formatter_class": _Help, "epilog": PATHS, **options})
        self.register("action", None, _store)
        self._example = f"\nexample:\n  {example}\n" if example else ""

    def format_help(self) -> str:
        return super().format_help() + self._example

    def error(self, message: str) -> NoReturn:
        """Raises argparse's message as an `InputError`."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.partition(" ")[0].partition("=")[0] or "''"
            shown = [name for name, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
            near = get_close_matches(flag, shown, 1)
            message = f"unrecognized argument {flag}; " + (f"did you mean {near[0]}?" if near else "see --help")
        raise InputError(LONG_WORD.sub(r"\1...", message.removeprefix("argument ")))

    def reject(self, args: argparse.Namespace, why: str, *names: str) -> None:
        """Raises `InputError` "WHY: leave out --A, --B" if any of these flags is not at its default."""
        given = [f"--{name}" for name in names if getattr(args, name) != self.get_default(name)]
        if given:
            raise InputError(f"{why}: leave out {', '.join(given)}")


def bounded(kind: type[Number], fits: Callable[[Number], bool], what: str) -> Callable[[str], Number]:
    """An argparse `type`: parses a number of type `kind` for which `fits` is true; otherwise "TEXT is not WHAT"."""

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not {what}") from None
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    return parse


positive_int = bounded(int, lambda value: 1 <= value <= MAX_INT, "a whole number above zero, 10^15 at most")
non_negative_int = bounded(int, lambda value: 0 <= value <= MAX_INT, "a whole number, zero or above, 10^15 at most")


def _store(nargs: Any = None, **options: Any) -> argparse.Action:
    return (_StoreAll if nargs in ("+", "*") else argparse._StoreAction)(nargs=nargs, **options)


class _StoreAll(argparse.Action):
    """Stores all values of a flag that takes several, also of one given more than once; argparse keeps the last ones."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _flag: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


class _Help(argparse.HelpFormatter):
    """One line per flag where it fits, such as `--patch_size SIZE`, with its help beside it rather than below."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.dest.rpartition("_")[2].upper()

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default:" in text or default is None or default is False or default in ([], argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else "%(default)s"
        return f"{text[:-1]}; default: {shown})" if text.endswith(")") else f"{text} (default: {shown})"
