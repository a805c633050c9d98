"""The progress bar of every command: live on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm


class _Lines:
    """A stream for a bar in a log file: each state of it is a line of its own, without the codes that rewrite a line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress(
    iterable: Iterable | None = None,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
    initial: int = 0,
    hide: bool = False,
    unit_scale: bool = False,
) -> tqdm:
    """A tqdm bar on stderr; where that is not a terminal, a new line every 20 seconds.

    `unit_scale`: 3,530,603,713 is shown as 3.53G.
    """
    live = sys.stderr.isatty()
    return tqdm(
        iterable,
        file=sys.stderr if live else _Lines(sys.stderr),
        total=total,
        desc=desc,
        unit=unit,
        unit_scale=unit_scale,
        initial=initial,
        mininterval=0.2 if live else 20,
        maxinterval=1 if live else 60,
        dynamic_ncols=live,
        ascii=not live,
        disable=hide,
    )


def print_above(line: str) -> None:
    """Prints a line on stderr, above the bars that are shown."""
    tqdm.write(line, file=sys.stderr)
