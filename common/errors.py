"""One-line error messages for bad input, and the exit codes of every command."""

from __future__ import annotations

import atexit
import ctypes
import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

CUDA_OUT_OF_MEMORY = "CUDA error: out of memory"  # of a `RuntimeError`, as where others have filled the GPU before
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
READ_ERRNOS = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class InputError(Exception):
    """Unusable input from the user; the message says what is wrong, where, and what to do about it."""


class LaunchError(InputError):
    """An error of one of several processes that this one prints whatever its rank, which may itself be wrong."""


def searched_in(path: Path) -> str:
    """Where a missing `path` was looked for, to follow its name: " in WORKING_DIRECTORY", or "" if it is absolute."""
    return "" if path.is_absolute() else f" in {Path.cwd()}"


@contextmanager
def error_context(path: Path | str) -> Iterator[None]:
    """Prefixes the message of an `InputError` raised in the block with the file being processed."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def explain_access_error(path: Path | str, error: BaseException) -> InputError | None:
    """The line for "permission denied" and for errors of the disk on reading `path`; None for any other exception."""
    if isinstance(error, PermissionError):
        reason = os.strerror(error.errno or errno.EACCES)
        return InputError(f"{path} cannot be opened ({reason}): change its permissions")
    if isinstance(error, OSError) and error.errno in READ_ERRNOS:
        return InputError(f"{path} cannot be read ({os.strerror(error.errno)}): check the disk or the network mount")
    return None


@contextmanager
def translate_access_errors(path: Path | str) -> Iterator[None]:
    """Raises the `InputError` of `explain_access_error` in handlers that would otherwise call the file damaged."""
    try:
        yield
    except OSError as error:
        if explained := explain_access_error(path, error):
            raise explained from None
        raise


class _Stopped(SystemExit):
    """SIGTERM or SIGHUP asks the command to end."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class FailureLog:
    """The failed items of a batch, which goes on with the next item and reports them at its end."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Prints and keeps the message of an `InputError` raised in the block, once each, instead of raising it."""
        try:
            yield
        except InputError as error:
            if (message := summarize_exception(error)) in self.messages:
                return
            self.messages.append(message)
            if os.environ.get("RANK", "0") == "0":
                print(f"failed: {message}", file=sys.stderr, flush=True)

    def raise_if_any(self, rest: str) -> None:
        """Raises an `InputError` with the number of failures, their messages and what became of the `rest`, if any failed."""
        if len(self.messages) == 1:
            raise InputError(f"{self.messages[0]} ({rest})")
        if self.messages:
            raise InputError(f"{len(self.messages)} failures ({rest}): {'; '.join(self.messages)}")


def summarize_exception(error: BaseException) -> str:
    """The message of a library's exception on one line, for use in an `InputError`."""
    return escape_unprintable(" ".join(str(error).split())) or type(error).__name__


def escape_unprintable(text: str) -> str:
    """Untrusted text made safe to print: line breaks, terminal escape codes and undecodable bytes are escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def run_cli(main: Callable[[], None]) -> None:
    """Runs a command. Exit code 0 on success, 2 and one line on stderr for bad input, 130 on Ctrl-C, 143 on
    SIGTERM, 129 on SIGHUP (a closed terminal), which `nohup` makes it ignore."""
    if threading.current_thread() is threading.main_thread():
        for number in stop_signals():
            if number != signal.SIGINT:
                signal.signal(number, _leave_on_signal)  # removes temporary files
        atexit.unregister(_end_at_once_on_signals)
        atexit.register(_end_at_once_on_signals)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged metadata, which no user can mend
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # likewise
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed when Python started
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names the terminal cannot show
    try:
        try:
            main()
        finally:
            if sys.stdout:
                sys.stdout.flush()  # or it would fail at interpreter exit, with a traceback and exit code 120
    except _Stopped as stop:
        _leave(f"stopped by {signal.Signals(stop.number).name}", 128 + stop.number)
    except InputError as error:
        _leave(f"error: {summarize_exception(error)}", 2, everywhere=isinstance(error, LaunchError))
    except KeyboardInterrupt:
        _leave("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # the reader of the pipe has exited, as `| head` does
        _drop_output()
        sys.exit(0)
    except MemoryError as error:
        _leave(f"error: out of memory: {summarize_exception(error)}", 2)
    except RuntimeError as error:
        # PyTorch's, which not every command imports
        if type(error).__name__ == "OutOfMemoryError" or CUDA_OUT_OF_MEMORY in str(error):
            _leave("error: the GPU is out of memory: free some, or use --device cpu", 2)
        if "can't allocate memory" not in str(error):  # PyTorch's CPU out-of-memory message
            raise
        _leave("error: out of memory: free some, or ask for less at once, such as a smaller batch, patch or tile", 2)
    except OSError as error:  # disk full, no permission, ...: the message of the system names the file
        _drop_output()
        _leave(f"error: {summarize_exception(error)}", 2)


def stop_signals() -> list[signal.Signals]:
    """The signals that end a command in good order: Ctrl-C, SIGTERM and, unless it is ignored as under `nohup`, SIGHUP."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, hangup]


def end_with_parent() -> None:
    """From now on this process gets SIGTERM when the one that started it ends, even by SIGKILL. On Linux; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def ignored_stop_signals() -> Iterator[None]:
    """In the block, short work that a process does as it ends anyway, the signals of `stop_signals` do nothing."""
    in_main = threading.current_thread() is threading.main_thread()  # only there are signals handled
    handlers = {number: signal.signal(number, lambda *_: None) for number in (stop_signals() if in_main else ())}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave_on_signal(number: int, _frame: object) -> None:
    """Prints nothing: the signal may have come in the midst of printing. The cleaning up is not cut off by a second one."""
    for each in stop_signals():
        if each != signal.SIGINT:
            signal.signal(each, lambda *_: None)
    raise _Stopped(number)


def _end_at_once_on_signals() -> None:
    """At the interpreter's exit, when an exception of `_leave_on_signal` would be shown with a traceback."""
    for number in stop_signals():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: os._exit(128 + number))


def _drop_output(stream: TextIO | None = None) -> None:
    """Discards pending output, by default stdout's: the disk is full or the reader of the pipe has exited."""
    with suppress(OSError, ValueError, AttributeError):  # stdout may be closed, or not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def _leave(message: str, code: int, everywhere: bool = False) -> None:
    main = "0" in (os.environ.get("RANK") or "0", os.environ.get("LOCAL_RANK"))  # one of the processes on each machine
    if everywhere or main:
        try:
            if sys.stderr:
                print(message, file=sys.stderr)
        except OSError:  # its terminal is closed: the exit code remains
            _drop_output(sys.stderr)
    sys.exit(code)
