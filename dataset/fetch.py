"""Resumable downloads with pooch, verified by hash. A partial download stays in a .part file; pooch alone would start over.

Unpacks nothing.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import NewConnectionError, ProtocolError

from common.errors import InputError, summarize_exception
from common.files import DISK_FULL_ERRNOS, ensure_free_space, temporary_dir
from common.locks import try_lock
from common.progress import progress
from common.units import format_bytes

RETRY_DELAYS = (1, 2, 4, 8, 16)  # seconds before each retry; starts over once data have arrived
TIMEOUTS = (30, 60)  # seconds to connect, and to wait for data
PART_SUFFIX = ".part"  # of a file that is not complete or not verified yet
SIZE_TOLERANCE = 0.25  # of an estimated size, beyond which the file is taken for another one
CHUNK_SIZE = 1 << 16  # bytes; at most this much is lost when the connection breaks
GONE = {404: "Not Found", 410: "Gone"}
NOT_PUBLISHED = "not the published file: it was moved or replaced, or the network answers with a login page"


def fetch(url: str, target: Path, size: int, digest: str, exact_size: bool = True) -> bool:
    """Downloads `url`, of `size` bytes, to `target`. Returns False, and downloads nothing, if `target` has that hash already.

    `digest`: "sha256:HEX" or "md5:HEX". `exact_size` False: `size` is an estimate, and a file within 25% of it is accepted if
    its hash is right. A broken connection is retried a few times. After that, after Ctrl-C or on a full
    disk the partial download stays in `target`.part, where the next call resumes. Raises `InputError` if the server cannot
    be reached, does not have the file or keeps breaking the connection; if the disk is full; if another process is
    downloading the file; if `target` or `target`.part is not a regular file; and if the hash is wrong, in which case the
    download is removed.
    """
    algorithm, _, expected = digest.partition(":")
    part, finished = target.with_name(f"{target.name}{PART_SUFFIX}"), False
    for each in (part, target):
        if (each == part and each.is_symlink()) or (each.exists() and not each.is_file()):
            raise InputError(f"{each} is not a regular file, but the download goes there: move it away")
    if target.exists() and pooch.file_hash(str(target), algorithm) == expected:
        return False
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        with temporary_dir(target.parent) as place:  # pooch's own temporary file would survive a kill
            os.replace(
                pooch.retrieve(url, digest, target.name, place, downloader=_ResumingDownloader(part, size, exact_size)),
                target,
            )
        finished = True
    except ValueError:  # from pooch: the hash is wrong
        finished = True
        kind = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
        raise InputError(
            f"{url} is not the published file: its {kind} is wrong. The download was removed; run the command "
            "again or use another server with --base_url"
        ) from None
    except KeyboardInterrupt:
        if part.exists() and part.stat().st_size:
            print(f"{part} is kept: run the same command to resume", file=sys.stderr)
        raise
    finally:
        logger.setLevel(level)
        if finished:
            part.unlink(missing_ok=True)
    return True


class _TransferError(Exception):
    """The transfer ended early and may be retried. `reachable`: a connection was made."""

    def __init__(self, reason: str, reachable: bool = True):
        super().__init__(reason)
        self.reachable = reachable


class _ResumingDownloader:
    """A pooch downloader that appends to `part` and hands it over once it is complete."""

    def __init__(self, part: Path, size: int, exact_size: bool = True):
        self.part, self.size, self.exact_size = part, size, exact_size

    def __call__(self, url: str, output_file: str, _: object = None) -> None:
        """Writes the content of `url` to `output_file`."""
        with open(self.part, "ab", buffering=0) as file:
            if try_lock(file.fileno()) is False:
                raise InputError(f"{self.part} is being downloaded by another process: wait until it is done")
            try:
                if self.exact_size and file.tell() > self.size:  # a part of another file
                    file.truncate(0)
                have = file.seek(0, os.SEEK_END)
                ensure_free_space(self.part.parent, self.size - have)
                with progress(None, self.size, self.part.stem, "B", have, unit_scale=True) as bar:
                    self._download(url, file, bar)
                os.fsync(file.fileno())
            finally:
                if not os.fstat(file.fileno()).st_size:
                    self.part.unlink(missing_ok=True)
        os.unlink(output_file)
        try:
            os.link(self.part, output_file)  # a hard link: nothing is lost if hashing is interrupted
        except OSError:  # a file system without hard links
            os.replace(self.part, output_file)

    def _download(self, url: str, file: io.FileIO, bar: tqdm) -> None:
        waits, begun = iter(RETRY_DELAYS), bar.n
        while (have := file.tell()) < self.size or not self.exact_size:
            try:
                self._request(url, file, bar)
            except _TransferError as error:
                waits = iter(RETRY_DELAYS) if file.tell() > have else waits
                wait = next(waits, None) if error.reachable or bar.n > begun else None
                if wait is None:
                    kept = f". {self.part} is kept: run the same command to resume" if file.tell() else ""
                    raise InputError(
                        f"{url}: {error}: try again later or use another server with --base_url{kept}"
                    ) from None
                bar.write(f"{url}: {error}; retrying in {wait} s", sys.stderr)
                time.sleep(wait)

    def _request(self, url: str, file: io.FileIO, bar: tqdm) -> None:
        """Requests the missing bytes and writes those that arrive. Raises `_TransferError` if a retry may help."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={file.tell()}-"} if file.tell() else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
                start = self._resume_offset(url, response, file.tell())
                if start < file.tell():
                    bar.write(f"{url}: the server resumes at {start:,} instead of {file.tell():,} bytes", sys.stderr)
                    file.truncate(start)
                    file.seek(0, os.SEEK_END)
                if response.status_code == 416:
                    return
                for piece in response.iter_content(CHUNK_SIZE):
                    self._write(url, file, piece)
                    bar.update(file.tell() - bar.n)
        except (requests.exceptions.SSLError, requests.TooManyRedirects, ValueError) as error:
            raise InputError(f"{url} cannot be used ({_reason(error)}): use another server with --base_url") from None
        except requests.exceptions.ChunkedEncodingError:  # the connection broke; older versions of urllib3 do not raise
            pass
        except requests.RequestException as error:
            absent = isinstance(error, (requests.ConnectTimeout, requests.exceptions.ProxyError))
            absent |= any(isinstance(each, NewConnectionError) for each in _causes(error))
            raise _TransferError(f"no connection ({_reason(error)})", not absent) from None
        if file.tell() < self.size:
            raise _TransferError(f"the connection ended after {file.tell():,} of {self.size:,} bytes")

    def _resume_offset(self, url: str, response: requests.Response, have: int) -> int:
        """The offset of the response's first byte, at most `have`. Raises `InputError` if a retry would not help."""
        status, total, start = response.status_code, response.headers.get("Content-Length"), 0
        if status == 206 or (status == 416 and have):
            found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
            total = found[2] if found and found[2] != "*" else None
            if status == 206:
                start = int(found[1]) if found and found[1] else have + 1
        elif status in GONE:
            raise InputError(f"{url}: {status} {GONE[status]}: use another server with --base_url")
        elif status == 429 or status >= 500:
            raise _TransferError(f"the server answers {status} {response.reason}")
        elif status != 200:
            raise InputError(
                f"{url}: the server answers {status} {response.reason}: use another server with --base_url"
            )
        if status == 200 and total is None:
            raise InputError(f"{url}: the server does not send the size of the file, so it is {NOT_PUBLISHED}")
        if total is not None and not self.exact_size and abs(int(total) - self.size) <= SIZE_TOLERANCE * self.size:
            self.size, self.exact_size = int(total), True
        if total is not None and int(total) != self.size:
            raise InputError(f"{url} has {int(total):,} bytes instead of {self.size:,}, so it is {NOT_PUBLISHED}")
        if start > have or (start < have and total is None):
            raise InputError(
                f"{url}: the server cannot resume at {have:,} bytes: use another server with --base_url or remove {self.part}"
            )
        return start

    def _write(self, url: str, file: io.FileIO, piece: bytes) -> None:
        if file.tell() + len(piece) > self.size:
            file.truncate(0)
            raise InputError(f"{url} has more than {self.size:,} bytes, so it is {NOT_PUBLISHED}")
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            if error.errno not in DISK_FULL_ERRNOS:
                raise
            raise InputError(
                f"{self.part} cannot grow beyond {file.tell():,} bytes ({os.strerror(error.errno)}): free "
                f"{format_bytes(self.size - file.tell())} and run the same command to resume"
            ) from None


def _reason(error: BaseException) -> str:
    """The root cause in the exceptions of requests and urllib3, such as "Connection refused"."""
    chain = list(_causes(error))
    if system := next((each.strerror for each in chain if isinstance(each, OSError) and each.strerror), None):
        return system
    if any(isinstance(each, (TimeoutError, requests.Timeout)) for each in chain):
        return "timed out"
    cause = next((each for each in chain if isinstance(each, ProtocolError)), error)
    return summarize_exception(Exception(cause.args[0])) if cause.args else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    now: BaseException | None = error
    while now is not None:
        yield now
        now = now.__cause__ or now.__context__
