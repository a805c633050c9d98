"""The page to upscale images in a browser: its API, its errors, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from conftest import ROOT, sample_image
from PIL import Image, ImageCms

from inference import load


class Server:
    """The running page: its address, its process, and the folder in which it makes its temporary one."""

    def __init__(self, python: str, folder: Path, *flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        environment = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"}
        command = [python, "-m", "inference.app", "--port", self.port, "--device", "cpu", *flags]
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("open http://"), line + self.process.communicate()[1]
        self.url = line.split()[1].rstrip("/")

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def upload(self, path: Path) -> dict:
        with path.open("rb") as file:
            answer = requests.post(f"{self.url}/gradio_api/upload", files={"files": (path.name, file)}, timeout=30)
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def upscale(self, path: Path, scale: int = 2, ensemble: bool = False) -> tuple[str, object]:
        """The name of the last event, "complete" or "error", and its data."""
        call = f"{self.url}/gradio_api/call/upscale"
        answer = requests.post(call, json={"data": [self.upload(path), scale, ensemble]}, timeout=30)
        answer.raise_for_status()
        stream = requests.get(f"{call}/{answer.json()['event_id']}", timeout=60).text
        *_, event, data = stream.strip().splitlines()
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has Gradio: of `.venv-app`, or this one; skips without."""
    for python in (ROOT / ".venv-app/bin/python", Path(sys.executable)):
        if python.is_file() and not subprocess.run([python, "-c", "import gradio"], capture_output=True).returncode:
            return str(python)
    pytest.skip("no Gradio here: make .venv-app/ready")


@pytest.fixture(scope="module")
def server(python, tmp_path_factory):
    server = Server(python, tmp_path_factory.mktemp("app"), "--max_megapixels", 1)
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A small PNG with an ICC profile and EXIF."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(sample_image("astronaut.png", 40, 48)).save(path, icc_profile=profile, exif=exif)
    return path


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nno image")
    return path


def check_download(content: bytes, folder: Path, photo: Path) -> None:
    """The network's image, with the profile and EXIF of the input."""
    path = folder / "download.png"
    path.write_bytes(content)
    with Image.open(path) as result, Image.open(photo) as source:
        assert result.info["icc_profile"] == source.info["icc_profile"] and result.getexif()[0x010F] == "a camera"
        expected = load(ROOT / "checkpoint/x2/cfsrcnn_x2.pth", device="cpu", precision="auto").upscale(
            np.asarray(source)
        )
        assert abs(np.asarray(result).astype(int) - expected).max() <= 1  # threads may round differently


def test_an_image_comes_back_upscaled_with_its_metadata(server, photo, tmp_path):
    event, data = server.upscale(photo)
    assert event == "complete"
    before_after, button = data
    assert len(before_after) == 2
    value = button.get("value", button)
    assert Path(value["path"]).name == "photo_x2.png"
    check_download(requests.get(value["url"], timeout=30).content, tmp_path, photo)


def test_self_ensemble_and_another_scale(server, photo):
    event, data = server.upscale(photo, 3, True)
    assert event == "complete" and "photo_x3.png" in json.dumps(data)


def test_errors_are_one_line(server, broken, tmp_path):
    event, data = server.upscale(broken)
    assert event == "error" and "broken.png is not a readable image" in json.dumps(data)
    assert "\n" not in str(data) and str(server.folder) not in str(data)
    Image.new("L", (1200, 1000)).save(tmp_path / "large.png")
    event, data = server.upscale(tmp_path / "large.png")
    assert event == "error" and "more than 1: use a smaller image" in json.dumps(data)


def test_only_this_machine_is_served(server):
    listening = Path("/proc/net/tcp").read_text().splitlines() if Path("/proc/net/tcp").is_file() else []
    addresses = [line.split()[1] for line in listening if line.split()[1].endswith(f":{server.port:04X}")]
    assert urlsplit(server.url).hostname == "127.0.0.1"
    assert all(address.split(":")[0] in ("0100007F",) for address in addresses)


def test_nothing_is_left_after_the_end(python, photo, tmp_path):
    server = Server(python, tmp_path)
    assert server.upscale(photo)[0] == "complete" and server.files()
    assert server.stop() == 143
    assert list(tmp_path.iterdir()) == []
