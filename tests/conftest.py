"""Shared fixtures: running a command as a user would, small images, the golden weights, a browser."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from serving import data_server, download, small_archives  # noqa: F401 - fixtures
from torch import nn

import dataset.benchmark_set
import dataset.images
import model
from dataset.images import DecodedImage, read_image

ROOT = Path(__file__).parent.parent
if hasattr(signal, "SIGHUP"):
    signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # which `nohup` ignores, and the commands under test would inherit that
GOLDEN = Path(__file__).parent / "golden"


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nothing asks
def pytest_xdist_auto_num_workers() -> int | None:
    """Processes of `pytest -n auto`: one where there is a GPU, whose memory some tests fill or measure; else one a core."""
    return 1 if torch.cuda.is_available() else None


@dataclass
class Outcome:
    """The exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch):
    """`command("train.py", "--scale", 2)` or `command("-m", "model.checkpoint", ...)`: runs it in this process."""

    def run(*argv) -> Outcome:
        argv = [str(arg) for arg in argv]
        capsys.readouterr()
        module = argv.pop(0) == "-m" if argv[0] == "-m" else False
        target = argv.pop(0)
        monkeypatch.setattr(sys, "argv", [target, *argv])
        try:
            if module:
                runpy.run_module(target, run_name="__main__", alter_sys=False)
            else:
                runpy.run_path(str(ROOT / target), run_name="__main__")
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The image files decoded by `read_image` from now on, in this order."""
    files: list[Path] = []

    def read(path: Path | str) -> DecodedImage:
        files.append(Path(path))
        return read_image(path)

    for module in (dataset.images, dataset.benchmark_set):
        monkeypatch.setattr(module, "read_image", read)
    return files


@pytest.fixture
def forbidden(monkeypatch) -> set[str]:
    """Names of files and folders that may not be read, also by root, whom permissions do not stop."""
    names: set[str] = set()

    def guard(function: Callable) -> Callable:
        def guarded(path: str | Path = ".", *args, **kwargs):
            if isinstance(path, str | Path) and Path(path).name in names:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *args, **kwargs)

        return guarded

    for module, name in ((io, "open"), (builtins, "open"), (os, "scandir"), (os, "listdir")):
        monkeypatch.setattr(module, name, guard(getattr(module, name)))
    return names


@pytest.fixture
def expect_error(command):
    """`expect_error("a phrase", "train.py", ...)`: the command ends with code 2 and one line that holds the phrase."""

    def run(phrase: str, *argv) -> str:
        outcome = command(*argv)
        lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert outcome.code == 2 and len(lines) == 1 and "Traceback" not in outcome.err, outcome
        assert phrase in lines[0], lines[0]
        return lines[0]

    return run


def sample_image(name: str, height: int, width: int, top: int = 100, left: int = 100) -> np.ndarray:
    """A piece of a photograph that scikit-image ships, uint8 HxWx3."""
    image = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB"))
    return image[top : top + height, left : left + width].copy()


COLOR = sample_image("astronaut.png", 10, 14)  # and the same in gray
GRAY = np.asarray(Image.fromarray(COLOR).convert("L"))


def random_images() -> Callable[[int, int], np.ndarray]:
    """`image = random_images()`: each `image(height, width)` is another one, uint8 HxWx3."""
    random = np.random.default_rng(0)
    return lambda height, width: random.integers(0, 256, (height, width, 3), np.uint8)


def difference(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    """The largest difference relative to the largest value of `b`; both of one shape and type."""
    assert a.shape == b.shape and a.dtype == b.dtype
    return float(abs(a - b).max() / abs(b).max())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow over `size` bytes: to the one who writes it is the same as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:  # Python would keep what it could write of a module's bytecode
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """A folder of four small photographs, 72x60 pixels (width x height)."""
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]):
        Image.fromarray(sample_image(name, 60, 72)).save(folder / f"{number:04}.png")
    return folder


@pytest.fixture(scope="session")
def training_set(tmp_path_factory, image_folder) -> Path:
    """The four small photographs as an HDF5 training set with all scales."""
    path = tmp_path_factory.mktemp("training") / "train.h5"
    subprocess.run([sys.executable, ROOT / "div2h5.py", "--source", image_folder, "--out", path], check=True)
    return path


@pytest.fixture(scope="session")
def test_set(tmp_path_factory, image_folder) -> Path:
    """The four small photographs as a test set in the authors' layout."""
    folder = tmp_path_factory.mktemp("sets")
    argv = [sys.executable, "-m", "dataset.prepare", "--hr", image_folder, "--name", "Four", "--out", folder]
    subprocess.run(argv, check=True, cwd=ROOT)
    return folder / "Four"


class ImagesRead:
    """Stands in for `read_image` and counts the images: `count` in all, `most_at_once` in memory together."""

    def __init__(self, read):
        self._read, self._pixels, self.most_at_once = read, [], 0

    def __call__(self, path):
        image = self._read(path)
        self._pixels.append(weakref.ref(image.rgb))
        self.most_at_once = max(self.most_at_once, sum(each() is not None for each in self._pixels))
        return image

    @property
    def count(self) -> int:
        return len(self._pixels)


@pytest.fixture
def images_read(monkeypatch):
    """`images_read(module)`: from now on the images that `module` reads are counted."""

    def count(module) -> ImagesRead:
        counting = ImagesRead(module.read_image)
        monkeypatch.setattr(module, "read_image", counting)
        return counting

    return count


class Doubled(nn.Module):
    """A network without stages."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 5, padding=2)

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), scale)


def golden_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights of He scale for the authors' names: v(i, j) of a sine, sorted names without the mean shifts."""
    weights = {}
    for j, name in enumerate(sorted(name for name in shapes if "mean" not in name)):
        shape = shapes[name]
        i = np.arange(1, np.prod(shape) + 1, dtype=np.float64)
        t = np.sin(12.9898 * i + 78.233 * j) * 43758.5453
        size = np.sqrt(6 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
        values = (2 * (t - np.floor(t)) - 1) * size
        weights[name] = torch.from_numpy(values.astype(np.float32).reshape(shape))
    return weights


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """net.pth: an untrained x2 network that roughly passes its input on."""
    from model.cfsrcnn import CFSRCNN
    from model.checkpoint import save_state_dict
    from model.init import init_weights

    torch.manual_seed(0)
    net = CFSRCNN(2)
    init_weights(net, "identity")
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    save_state_dict(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def authors_shapes() -> dict[str, dict[str, list[int]]]:
    """The authors' checkpoints "x2", "x3", "x4", "multi": key -> shape, in order."""
    return json.loads((GOLDEN / "authors_shapes.json").read_text())


@pytest.fixture(scope="session")
def golden_net(authors_shapes):
    """`golden_net("x2")`: CFSRCNN with the golden weights; also "x3", "x4", "multi"."""
    from model.cfsrcnn import CFSRCNN
    from model.key_mapping import to_native

    def build(kind: str) -> CFSRCNN:
        multi = kind == "multi"
        net = CFSRCNN(0 if multi else int(kind[1]), multi_scale=multi)
        net.load_state_dict(to_native(golden_weights(authors_shapes[kind])), strict=False)
        return net

    return build


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """`plug_in("name", source)`: as if the file model/NAME.py stood there."""
    folder, names = tmp_path / "models", []
    folder.mkdir()
    monkeypatch.setattr(model, "__path__", [*model.__path__, str(folder)])

    def write(name: str, source: str) -> None:
        (folder / f"{name}.py").write_text(source)
        names.append(name)
        forget(name)

    def forget(name: str) -> None:
        sys.modules.pop(f"model.{name}", None)
        vars(model).pop(name, None)

    yield write
    for name in names:
        forget(name)


@pytest.fixture
def one_thread():
    """PyTorch computes on one thread: on a busy machine several threads mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Debian's chromium (`apt-get install chromium chromium-driver`) without a window; skips, and says so, without it."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def open_page(browser, page: Path | str, width: int = 1000, height: int = 900, mobile: bool = False) -> None:
    """Loads an HTML file or an address in a window of that size, with fingers for a mouse if `mobile`."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get(page if isinstance(page, str) else page.as_uri())


@pytest.fixture(scope="session")
def authors(authors_shapes):
    """`authors("x2")`: the golden weights as the authors save them, in their order and with their mean shifts."""

    mean = torch.tensor([0.4488, 0.4371, 0.4040])

    def build(kind: str) -> dict[str, torch.Tensor]:
        fixed = {f"{name}_mean.shifter.weight": torch.eye(3).view(3, 3, 1, 1) for name in ("sub", "add")}
        fixed |= {"sub_mean.shifter.bias": -mean, "add_mean.shifter.bias": mean.clone()}
        state = fixed | golden_weights(authors_shapes[kind])
        return {name: state[name] for name in authors_shapes[kind]}

    return build


@pytest.fixture
def lr() -> torch.Tensor:
    """An LR batch, 1x3x5x6."""
    return torch.linspace(0, 1, 3 * 5 * 6).view(1, 3, 5, 6)


@pytest.fixture
def event_files_in_order() -> Iterator[None]:
    """TensorBoard reads the files of one second by name, so that writer 10 of a process would come before its writer 9."""
    from tensorboard.summary.writer import event_file_writer

    before, event_file_writer._global_uid = event_file_writer._global_uid, event_file_writer.AtomicCounter(0)
    yield
    event_file_writer._global_uid = before


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches the program, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def graph_cache_folder(tmp_path_factory):
    """Exporting takes seconds: the same network's graphs are made once for all tests, and the user's are not touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFSRCNN_CACHE", str(tmp_path_factory.mktemp("graphs")))
        yield
