"""Flags of every command: errors of one line that suggest what was meant, help without empty defaults, kinds of numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from common.errors import InputError

Number = TypeVar("Number", int, float)


class Flags(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `InputError`; a flag that it does not know is answered with the nearest one."""

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str) -> NoReturn:
        """Raises argparse's message as an `InputError`."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.partition(" ")[0].partition("=")[0] or "an empty word"
            near = get_close_matches(flag, self._option_string_actions, 1)
            message = f"{flag} is no flag here: " + (f"do you mean {near[0]}?" if near else "--help lists them all")
        raise InputError(message.removeprefix("argument "))

    def refuse(self, args: argparse.Namespace, why: str, *names: str) -> None:
        """`InputError` "WHY: leave out --A, --B" if flags of these names are not at their defaults."""
        given = [f"--{name}" for name in names if getattr(args, name) != self.get_default(name)]
        if given:
            raise InputError(f"{why}: leave out {', '.join(given)}")


def checked(kind: type[Number], fits: Callable[[Number], bool], what: str) -> Callable[[str], Number]:
    """A `type` for flags: the text as a number of that kind that `fits`; else the error is "TEXT is not WHAT"."""

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not {what}") from None
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    return parse


positive = checked(int, lambda value: value >= 1, "a whole number above zero")
natural = checked(int, lambda value: value >= 0, "a whole number, zero or above")


class _Help(argparse.HelpFormatter):
    """A flag to a line where it fits: `--patch_size SIZE` with its meaning beside it, not below."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.dest.rpartition("_")[2].upper()

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default:" in text or default is None or default is False or default in ([], argparse.SUPPRESS):
            return text
        return f"{text[:-1]}; default: %(default)s)" if text.endswith(")") else f"{text} (default: %(default)s)"
