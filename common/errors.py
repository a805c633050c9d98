"""The one clear line that a user gets for bad input, and the exit codes of every command."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class InputError(Exception):
    """Something the user gave cannot be used: the message says what is wrong, where, and what to do."""


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Puts the file that is at work in front of the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def one_line(error: BaseException) -> str:
    """The message of a foreign exception without its line breaks, for use inside an `InputError`."""
    return plain(" ".join(str(error).split())) or type(error).__name__


def plain(text: str) -> str:
    """A name from outside as it may be shown: what is not printable (line breaks, terminal commands, odd bytes) is escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def run_command(main: Callable[[], None]) -> None:
    """Runs a command line: 0 when done, 2 and one line on stderr for bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: _leave("stopped by SIGTERM", 143))  # so that temporary files go
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    try:
        try:
            main()
        finally:
            if sys.stdout:
                sys.stdout.flush()  # what fails here would fail at the very end, with words of its own and code 120
    except InputError as error:
        _leave(f"error: {one_line(error)}", 2)
    except KeyboardInterrupt:
        _leave("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        _drop_output()
        sys.exit(0)
    except MemoryError as error:
        _leave(f"error: out of memory: {one_line(error)}", 2)
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":  # of PyTorch, which not every command needs
            _leave("error: the GPU is out of memory: free some, or use --device cpu", 2)
        if "can't allocate memory" not in str(error):  # PyTorch's words on the CPU, where it has no type for it
            raise
        _leave("error: out of memory: free some, or ask for less at once, such as a smaller batch, patch or tile", 2)
    except OSError as error:  # disk full, no permission, ...: the system's own words name the file
        _drop_output()
        _leave(f"error: {one_line(error)}", 2)


def _drop_output() -> None:
    """What is still to be printed goes nowhere: the disk or the reader that it was for takes no more."""
    with suppress(OSError, ValueError, AttributeError):  # it may be closed, or no file at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(message: str, code: int) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(message, file=sys.stderr)
    sys.exit(code)
