"""Small archives in place of the published data sets, a server for them on the loopback address, and what it can do wrong."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dataset import sources
from dataset.images import read_rgb
from dataset.prepare import prepare

HR = "DIV2K_train_HR.zip"


class Server(ThreadingHTTPServer):
    """Serves `files`; `asked`: (path, first byte) of each request. The rest says how it misbehaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.ranges, self.status, self.breaks, self.length, self.shift = True, 200, 0, True, 0
        self.break_after, self.at_break = 150_000, lambda: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.strip("/")
        start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].rstrip("-"))
        server.asked.append((path, start))
        content = server.files.get(path)
        if content is None or server.status != 200:
            self.send_error(404 if content is None else server.status)
            return
        if not server.ranges:
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            start += server.shift
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            self.wfile.write(content[start : start + server.break_after])
            server.at_break()
        else:
            self.wfile.write(content[start:])

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def data_server(small_archives, monkeypatch):
    """The archives on the loopback address, in place of the published ones."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("dataset.fetch.RETRY_DELAYS", (0, 0))
    for name, value in small_archives.sources.items():
        monkeypatch.setattr(sources, name, value)
    monkeypatch.setattr("dataset.verify.PUBLISHED", small_archives.published)
    with Server() as server:
        server.files = dict(small_archives.files)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def png(height: int, width: int, seed: int) -> bytes:
    """Noise, which packs to no less than its pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_tar(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="session")
def small_archives(tmp_path_factory) -> SimpleNamespace:
    """`files`: the archives by name; `sources`: what `dataset.sources` says of them; `published`: the test sets' hashes."""
    folder = tmp_path_factory.mktemp("archives")
    hr = {f"DIV2K_train_HR/{n:04}.png": png(240, 240, n) for n in (1, 2, 3)}
    files = {HR: as_zip({"DIV2K_train_HR/": b"", "__MACOSX/DIV2K_train_HR/._0001.png": b"", **hr})}
    for scale in (2, 3, 4):
        place = f"DIV2K_train_LR_bicubic/X{scale}"
        lr = {f"{place}/{n:04}x{scale}.png": png(240 // scale, 240 // scale, n * scale) for n in (1, 2, 3)}
        files[f"DIV2K_train_LR_bicubic_X{scale}.zip"] = as_zip(lr)
    files["DIV2K_valid_HR.zip"] = as_zip({"DIV2K_valid_HR/0801.png": png(24, 24, 9)})
    table, members = {}, {"benchmark/README": b"not an image"}
    for name, size in (("Set5", 37), ("Set14", 50)):
        originals = folder / name
        originals.mkdir()
        for number in range(2):
            path = originals / f"{number}.png"
            path.write_bytes(png(size, size + 5, number))
            members[f"benchmark/{name}/HR/{path.name}"] = path.read_bytes()
            members[f"benchmark/{name}/LR_bicubic/X2/{number}x2.png"] = png(9, 9, number)
        prepare(sorted(originals.iterdir()), folder / "made" / name, [2, 3, 4])
        known = (2, 3) if name == "Set14" else (2, 3, 4)
        places = {scale: folder / "made" / name / f"x{scale}" for scale in known}
        table[name] = {f"x{s}": {k: published_hash(p, k) for k in ("HR", "LR")} for s, p in places.items()}
    files["benchmark.tar"] = as_tar(members)
    published = folder / "published.json"
    published.write_text(json.dumps({"aliases": {"setfive": "Set5"}, "sets": table}))

    def known(source: sources.ImageFolder, images: int) -> sources.ImageFolder:
        content = files[source.archive.name]
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if source.archive.digest.startswith("md5:"):
            digest = f"md5:{hashlib.md5(content).hexdigest()}"
        url = source.archive.url
        return sources.ImageFolder(sources.Archive(url, len(content), digest), source.folder, images)

    small = {"DIV2K_HR": known(sources.DIV2K_HR, 3), "DIV2K_VALID": known(sources.DIV2K_VALID, 1)}
    small["DIV2K_LR"] = {scale: known(source, 3) for scale, source in sources.DIV2K_LR.items()}
    small["TEST_SETS"] = {name: known(sources.TEST_SETS[name], 2) for name in table}
    return SimpleNamespace(files=files, sources=small, published=published, originals=folder)


@pytest.fixture
def download(data_server, tmp_path):
    """`download("DIV2K")`: the command that gets it from the small server."""
    return lambda *more: ["-m", "dataset.download", *more, "--out", tmp_path / "data", "--base_url", data_server.url]


def published_hash(folder: Path, kind: str) -> dict:
    """The hash by its definition, the images in the order 2, 9, 10: as `img_001` ... `img_003` would be published."""
    files = sorted(folder.glob(f"*_{kind}.png"), key=lambda file: int(file.name.partition("_")[0]))
    digests = b"".join(hashlib.sha256(read_rgb(file).tobytes()).digest() for file in files)
    return {"images": len(files), "sha256": hashlib.sha256(digests).hexdigest()}


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
