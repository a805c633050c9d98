"""Copies the results of a session on a borrowed machine while they are written."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

from common.errors import InputError
from common.files import atomic_write, make_dir

COPIED, MAX_BYTES, COPY_SECONDS = ("session.json", "session.md", "log.jsonl", "*.pth"), 16 << 20, 20


class Copier:
    """Copies what is new in one folder to another every `COPY_SECONDS`, and at the end: what is `COPIED`, since a borrowed
    machine may give back few files. Files above 16 MiB stay, and of the weights in a folder only the newest are kept there."""

    def __init__(self, source: Path, target: Path):
        self.source, self.target = source, target
        self._copied: dict[Path, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def _loop(self) -> None:
        while not self._stop.wait(COPY_SECONDS):
            self.copy()

    def copy(self) -> None:
        """Copies once; a file that vanishes or cannot be copied is tried again the next time."""
        for file in sorted(self.source.rglob("*")):
            try:
                if file.suffix == ".pth" and file != _newest_weights(file.parent):
                    (self.target / file.relative_to(self.source)).unlink(missing_ok=True)
                    continue
                stat = file.stat()
                state = stat.st_mtime_ns, stat.st_size
                if any(map(file.match, COPIED)) and stat.st_size <= MAX_BYTES and self._copied.get(file) != state:
                    target = self.target / file.relative_to(self.source)
                    make_dir(target.parent)
                    with atomic_write(target) as temporary:
                        shutil.copyfile(file, temporary)
                    self._copied[file] = state
            except (OSError, InputError) as error:
                print(f"{file} is not copied: {error}", file=sys.stderr)

    def __enter__(self) -> Copier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.copy()


def _newest_weights(folder: Path) -> Path | None:
    files = [file for file in folder.glob("*.pth") if file.stat().st_size <= MAX_BYTES]
    return max(files, key=os.path.getmtime, default=None)
