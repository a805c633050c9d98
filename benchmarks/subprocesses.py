"""Python in processes of their own, whose output goes to a file and is shown while they are waited for."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
GRACE_SECONDS = 15  # after SIGTERM
POLL_SECONDS = 0.2  # between two looks at the output


class SectionError(Exception):
    """A section of a session, or a process of it, failed; the text says why."""


class PythonProcess:
    """Runs Python with `argv` in the project's folder. What it prints goes to the file `log` at once.

    `niceness`: above 0 it leaves the CPU to the processes that have less.
    """

    def __init__(self, argv: Sequence[object], log: Path, niceness: int = 0):
        self._log, self._read, self._text, self._asked = log, 0, "", False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}  # or lines would come in blocks of 8 KiB
        with open(log, "wb") as stream:
            command = [sys.executable, *map(str, argv)]
            self._process = subprocess.Popen(command, cwd=ROOT, env=unbuffered, stdout=stream, stderr=stream)
        if niceness:
            with suppress(OSError):  # it is already over
                os.setpriority(os.PRIO_PROCESS, self._process.pid, niceness)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def show(self, limit: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Shows the output, once, while it comes: until the process ends, but for at most `limit` seconds.

        `meanwhile` is called five times a second.
        """
        end = time.monotonic() + limit
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
            over = not self.running() or time.monotonic() >= end  # before the last reading
            self._show_new()
            meanwhile()
            if over:
                return

    def finish(self, limit: float, meanwhile: Callable[[], object] = lambda: None) -> str:
        """`show`, then returns all the output. `SectionError` if the process fails; it is stopped after `limit` seconds."""
        self.show(max(1.0, limit), meanwhile)
        late = self.running()
        self.stop()
        self._show_new()
        if late or self._process.returncode:
            last = (self._text.strip().splitlines() or ["nothing was printed"])[-1]
            why = f"stopped after {limit:.0f} s" if late else f"exit code {self._process.returncode}"
            raise SectionError(f"{why}: {last[:300]}")
        return self._text

    def terminate(self) -> None:
        """Asks it to end by SIGTERM, on which a training run saves its state. Once: a second one would interrupt that."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def stop(self) -> None:
        """Ends it, at once if it is over: `terminate`, and what is not over in `GRACE_SECONDS` is killed."""
        self.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _show_new(self) -> None:
        with open(self._log, "rb") as stream:
            stream.seek(self._read)
            new = stream.read()
        self._read += len(new)
        text = self._decoder.decode(new)
        self._text += text
        print(text, end="", flush=True)
