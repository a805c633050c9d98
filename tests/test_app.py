"""The page to upscale images in a browser: its API, the page in Chromium, its errors, and what it leaves behind."""

from __future__ import annotations

import argparse
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import tifffile
from conftest import ROOT, open_page, sample_image
from PIL import Image, ImageCms

from common.errors import InputError
from dataset.image_writer import write_png
from dataset.images import read_rgb
from dataset.imresize import resize
from inference import load
from inference.app import App, Sessions, error_line


class Server:
    """The running page: its address, its process, and the folder in which it makes its temporary one."""

    def __init__(self, python: str, folder: Path, *flags):
        self.folder = folder
        for attempts_left in (4, 3, 2, 1, 0):  # another process may take the free port first
            if error := self._start(python, *flags):
                self.stop()
                if not attempts_left or "choose another --port" not in error:
                    pytest.fail(f"the server did not start: {error}")
            else:
                return

    def _start(self, python: str, *flags) -> str:
        """Starts the server on a free port; returns what it printed instead of its address, or ""."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {**os.environ, "TMPDIR": str(self.folder), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        command = [python, "-m", "inference.app", "--port", self.port, "--device", "cpu", *flags]
        errors = Path(f"{self.folder}.err")  # a pipe that nobody reads would stop the server once it is full
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=file, text=True
            )
        ready, _, _ = select.select([self.process.stdout], [], [], 120)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("open http://"):
            return line + errors.read_text() or "nothing"
        self.url = line.split()[1].rstrip("/")
        return ""

    def files(self) -> set[Path]:
        """The files that the server has now; folders may go meanwhile."""
        return {Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names}

    def stop(self) -> int:
        """Ends the server, if it runs, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=30)
        finally:
            self.process.kill()
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
        lines, end = [], time.monotonic() + 60
        with requests.get(f"{call}/{answer.json()['event_id']}", timeout=30, stream=True) as stream:
            for line in stream.iter_lines(decode_unicode=True):  # also a sign of life now and then
                assert time.monotonic() < end, lines
                lines += [line] if line else []
        *_, event, data = lines
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has Gradio: of `.venv-app`, or this one; skips without."""
    for python in (ROOT / ".venv-app/bin/python", Path(sys.executable)):
        find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('gradio') is None)"
        if python.is_file() and subprocess.run([python, "-c", find], timeout=60).returncode == 0:
            return str(python)
    pytest.skip("no Gradio here: make .venv-app/ready")


@pytest.fixture(scope="module")
def server(python, tmp_path_factory):
    """One server for this file, which the last test ends."""
    server = Server(python, tmp_path_factory.mktemp("app"), "--max_megapixels", 1, "--max_megabytes", 1)
    yield server
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


def check_download(content: bytes, photo: Path, scale: int) -> None:
    """The network's image, with the profile and EXIF of the input."""
    with Image.open(io.BytesIO(content)) as result, Image.open(photo) as source:
        assert result.info["icc_profile"] == source.info["icc_profile"] and result.getexif()[0x010F] == "a camera"
        net = load(ROOT / f"checkpoint/x{scale}/cfsrcnn_x{scale}.pth", device="cpu", precision="auto")
        expected = net.upscale(np.asarray(source))
        assert abs(np.asarray(result).astype(int) - expected).max() <= 1  # threads may round differently


def wait_for(what: str, condition, seconds: float = 30):
    """What `condition()` returns as soon as that is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return result


def test_an_image_comes_back_upscaled_with_its_metadata(server, photo, one_thread):
    event, data = server.upscale(photo)
    assert event == "complete"
    before_after, button = data
    assert len(before_after) == 2
    value = button.get("value", button)
    assert Path(value["path"]).name == "photo_x2.png"
    check_download(requests.get(value["url"], timeout=30).content, photo, 2)


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


@pytest.fixture
def app(tmp_path) -> App:
    """What the page does, without Gradio; "visitor" has opened it."""
    args = argparse.Namespace(device="cpu", checkpoints=ROOT / "checkpoint", max_megapixels=1)
    app = App(args, tmp_path / "served")
    app.sessions.open("visitor")
    return app


def test_floats_are_compared_too(app, tmp_path):
    pixels = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    result = app.upscale(tmp_path / "a.tif", 2, False, "visitor", lambda part: None)
    assert tifffile.imread(result).dtype == np.float32
    bicubic, network = map(read_rgb, app.compare(tmp_path / "a.tif", result, "visitor"))
    assert bicubic.shape == network.shape == (40, 60, 3)
    assert abs(bicubic[:, :, 0] - resize(pixels, 40, 60) * 255).max() < 2
    app.sessions.close("visitor")
    assert not any((tmp_path / "served").iterdir())


def test_a_large_result_is_compared_at_a_size_for_browsers(app, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.app.PREVIEW_SIDE", 30)
    write_png(tmp_path / "a.png", np.full((20, 30, 3), 77, np.uint8))
    result = app.upscale(tmp_path / "a.png", 2, False, "visitor", lambda part: None)
    assert read_rgb(result).shape == (40, 60, 3)
    bicubic, network = map(read_rgb, app.compare(tmp_path / "a.png", result, "visitor"))
    assert bicubic.shape == network.shape == (20, 30, 3) and (bicubic == 77).all()


@pytest.mark.parametrize("kind", ["float", "pages", "many"])
def test_the_limit_of_pixels_holds_where_pillow_reads_no_size(app, tmp_path, kind):
    if kind == "many":
        from test_images import png

        (tmp_path / "a.tif").write_bytes(png(15000, 15000, 8, 2, []))
    elif kind == "float":
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((600, 700, 3), np.float32), photometric="rgb")
    else:
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 400, 400, 3), np.uint16), photometric="rgb")
    app.args.max_megapixels = 0.3
    with pytest.raises(InputError, match=r"megapixels in all, more than 0.3: use a smaller image"):
        app.upscale(tmp_path / "a.tif", 2, False, "visitor", lambda part: None)
    assert not (tmp_path / "served").exists()


def test_closing_the_page_ends_the_upscaling_and_leaves_nothing(app, photo, tmp_path):
    reports = []

    def report(part: float) -> None:
        reports.append(part)
        app.sessions.close("visitor")

    with pytest.raises(InputError, match="the page was closed"):
        app.upscale(photo, 2, True, "visitor", report)
    assert len(reports) == 1 and not any(tmp_path.iterdir())


def test_an_error_is_one_line_of_safe_html_without_the_folder():
    line = error_line(InputError("/tmp/served/a.png: <b>two\nlines</b> \x1b[31m"), "/tmp/served/a.png")
    assert line == "a.png: &lt;b&gt;two lines&lt;/b&gt; \\x1b[31m"
    assert error_line(MemoryError(), None) == "there is too little memory for it"


def test_files_go_with_the_last_visitor_who_has_them(tmp_path):
    sessions, shared, own, late = Sessions(), tmp_path / "shared/a.png", tmp_path / "own/b.png", tmp_path / "own/c.png"
    for file in (shared, own, late):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    for name in ("one", "two"):
        sessions.open(name)
        sessions.add(name, shared)
    sessions.add("one", own)
    sessions.close("one")
    assert shared.exists() and not own.exists()
    sessions.add("one", late)  # what was under way when the page was closed
    sessions.close("two")
    assert list(tmp_path.iterdir()) == []


class Page:
    """The page in the browser, by what a visitor sees and does."""

    def __init__(self, browser, url: str):
        self.browser = browser
        open_page(browser, url)
        wait_for("the page", lambda: self.find("#image input[type=file]") and self.find("#start"))

    def find(self, selector: str):
        return next(iter(self.browser.find_elements("css selector", selector)), None)

    def js(self, expression: str):
        return self.browser.execute_script(f"return {expression}")

    def click(self, selector: str) -> None:
        wait_for(selector, lambda: self.find(selector)).click()

    def choose(self, file: Path) -> None:
        """Uploads a file in place of the former one."""
        if self.find("#image button[aria-label=Clear]"):
            self.click("#image button[aria-label=Clear]")
        wait_for("the file input", lambda: self.find("#image input[type=file]")).send_keys(str(file))
        wait_for("the upload", lambda: self.find(f"#image td.filename[aria-label='{file.name}']") or self.errors())

    def can_download(self) -> bool:
        return self.js("!document.querySelector('#download').disabled")

    def errors(self) -> list[str]:
        return self.js("[...document.querySelectorAll('[data-testid=toast-text]')].map(each => each.innerText)")

    def shown(self) -> list[list[int]]:
        """Width and height of the images in the slider that are loaded."""
        images = "[...document.querySelectorAll('#slider img')]"
        return self.js(
            f"{images}.filter(i => i.complete && i.naturalWidth).map(i => [i.naturalWidth, i.naturalHeight])"
        )


@pytest.fixture
def page(chromium, server, tmp_path):
    """The page, freshly opened; downloads go to `tmp_path`/downloads. All that the visitor left is removed after."""
    chromium.set_page_load_timeout(30)
    chromium.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    )
    chromium.get_log("browser")
    before = server.files()
    yield Page(chromium, server.url)
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "default"})
    wait_for("the visitor's files to go", lambda: server.files() <= before)


def test_in_the_browser(page, photo, tmp_path, one_thread):
    from selenium.webdriver import ActionChains

    page.choose(photo)
    assert not page.can_download()
    page.click("#scale label:nth-of-type(2)")
    page.click("#start")
    wait_for("the result", page.can_download, 60)
    wait_for("both images", lambda: page.shown() == [[144, 120]] * 2)

    cut = "getComputedStyle(document.querySelectorAll('#slider img')[1]).clipPath"
    middle = page.js(cut)
    ActionChains(page.browser, 0).click_and_hold(page.find("#slider .inner")).move_by_offset(60, 0).release().perform()
    wait_for("the slider", lambda: page.js(cut) != middle)

    page.click("#download")
    download = tmp_path / "downloads/photo_x3.png"
    wait_for("the download", download.is_file)
    check_download(download.read_bytes(), photo, 3)
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "choose an image first"),
        ("broken", "broken.png is not a readable image"),
        ("many_pixels", "many_pixels.png has 1.2 megapixels in all, more than 1: use a smaller image"),
        ("many_bytes", "maximum allowed size"),  # in Gradio's words
    ],
)
def test_errors_in_the_browser(page, broken, tmp_path, kind, message):
    Image.new("L", (1200, 1000)).save(tmp_path / "many_pixels.png")
    (tmp_path / "many_bytes.png").write_bytes(bytes(1_000_001))
    if kind != "nothing":
        page.choose(tmp_path / f"{kind}.png")
    if not page.errors():
        page.click("#start")
    wait_for(message, lambda: any(message in each for each in page.errors()))
    assert len(page.errors()) == 1 and "\n" not in page.errors()[0]
    assert not page.can_download()


def test_nothing_is_left_after_the_end(server, photo):
    assert server.upscale(photo)[0] == "complete" and server.files()
    assert server.stop() == 143
    assert list(server.folder.iterdir()) == []
