"""A page to upscale images in a browser: `python -m inference.app`, or `make app`. Needs Gradio; uses no network.

Files are kept in a temporary folder: those of a visitor until the page is closed, and the folder until the command ends.
"""

# Without `from __future__ import annotations`: Gradio finds its arguments of type Request by their annotations.
import argparse
import html
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import torch
from torch import Tensor

from common import SCALES
from common.cli import CliParser, bounded, positive_int
from common.device import pick_device
from common.errors import InputError, escape_unprintable, run_cli
from common.files import mkdir_remove_if_empty
from common.malloc import tune_malloc
from dataset.image_writer import narrow, write_png
from dataset.images import EXTENSIONS, count_pixels, read_frames
from dataset.imresize import resize
from inference.backends import resolve_precision
from inference.upscale_images import raise_failures, upscale_images
from inference.upscaler import NetworkUpscaler
from model.checkpoint import load_model

FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # Gradio's own are downloaded
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"  # the browser loads nothing from elsewhere
TITLE = "# CFSRCNN\nUpscale an image. The left half of the comparison is bicubic, the right half the network."
PREVIEW_SIDE = 4096  # pixels
port_number = bounded(int, lambda value: 1 <= value <= 65535, "a port from 1 to 65535")


class ProgressUpscaler(NetworkUpscaler):
    """A `NetworkUpscaler` that calls `on_progress` after each tile with the number of SR pixels in it, 8 times if
    `self_ensemble`."""

    on_progress: Callable[[int], None] = staticmethod(lambda pixels: None)

    def _iter_tiles(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        for rows, columns, sr in super()._iter_tiles(x):
            self.on_progress(sr.shape[2] * sr.shape[3])
            yield rows, columns, sr


class Sessions:
    """The files of each visitor whose page is open."""

    def __init__(self) -> None:
        self._files: dict[str, set[Path]] = {}
        self._lock = threading.Lock()

    def open(self, session: str) -> None:
        """Notes that the visitor's page is open, or is so again after a break of the connection."""
        with self._lock:
            self._files.setdefault(session, set())

    def is_open(self, session: str) -> bool:
        """Whether `open` was called after the last `close`."""
        return session in self._files

    def add(self, session: str, file: Path) -> None:
        """Notes that the visitor has this file, which may be shared with others who have uploaded the same."""
        with self._lock:
            if session in self._files:
                self._files[session].add(file)
            else:
                self._remove({file})

    def close(self, session: str) -> None:
        """Removes the visitor's files, but for those that other visitors have too."""
        with self._lock:
            self._remove(self._files.pop(session, set()))

    def _remove(self, files: set[Path]) -> None:
        for file in files - set().union(*self._files.values()):
            file.unlink(missing_ok=True)
            with suppress(OSError):  # it has other files
                file.parent.rmdir()


class App:
    """What the page does: `upscale` an uploaded file. The network is loaded for each image; one image runs at a time."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder, self.sessions = args, folder, Sessions()
        self.device = pick_device(args.device)

    def upscale(self, source: Path, scale: int, ensemble: bool, session: str, report: Callable[[float], None]) -> Path:
        """Upscales a file and returns the path of the result, of the format, depth and metadata of the input.

        `report` gets the fraction done. Raises `InputError` for a file that cannot be read or is larger than the limit, and
        soon after the visitor has closed the page.
        """
        total = self._pixels(source) * scale**2 * (8 if ensemble else 1)
        weights = self.args.checkpoints / f"x{scale}" / f"cfsrcnn_x{scale}.pth"
        precision = resolve_precision("auto", self.device)
        net = load_model(weights, "cfsrcnn", scale)
        run = ProgressUpscaler(net, scale, self.device, precision, protocol="rounded", self_ensemble=ensemble)
        done = 0

        def advance(pixels: int) -> None:
            nonlocal done
            if not self.sessions.is_open(session):
                raise InputError("the page was closed")
            done += pixels
            report(min(done / total, 1))

        run.on_progress = advance
        folder = self.folder / uuid4().hex
        with mkdir_remove_if_empty(folder):
            summary = upscale_images(source, folder, run)
        for file in summary.written:
            self.sessions.add(session, file)
        raise_failures(summary)
        return summary.written[0]

    def compare(self, source: Path, result: Path, session: str) -> tuple[str, str]:
        """Two images of one size for the slider: bicubic and the network's, the first frame, 8-bit RGB. Those of more than
        `PREVIEW_SIDE` pixels to a side are scaled down, which browsers need."""
        lr, sr = (narrow(read_frames(path).frames[0].rgb) for path in (source, result))
        height, width = sr.shape[:2]
        fraction = min(1, PREVIEW_SIDE / max(height, width))
        size = max(1, round(width * fraction)), max(1, round(height * fraction))
        paths = []
        for name, image in ("bicubic", resize(lr, height, width)), ("network", sr):
            path = result.parent / f"{name}.png"
            write_png(path, cv2.resize(image, size, interpolation=cv2.INTER_AREA) if fraction < 1 else image)
            self.sessions.add(session, path)
            paths.append(str(path))
        return paths[0], paths[1]

    def _pixels(self, source: Path) -> int:
        """The pixels of all frames by the file's headers."""
        pixels = count_pixels(source)
        if pixels > self.args.max_megapixels * 1e6:
            size = f"{pixels / 1e6:.1f} megapixels in all"
            raise InputError(f"{source} has {size}, more than {self.args.max_megapixels}: use a smaller image")
        return pixels


def build_page(app: App) -> Any:
    """The page as a `gradio.Blocks`."""
    import gradio as gr

    def upscale(
        source: str | None,
        scale: int,
        ensemble: bool,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008 - Gradio looks for it here
    ) -> tuple:
        session = str(request.session_hash)
        app.sessions.open(session)
        try:
            if source is None:
                raise InputError("choose an image first")
            path = Path(source)
            result = app.upscale(path, scale, ensemble, session, lambda part: progress(part, desc="Upscaling"))
            return app.compare(path, result, session), gr.DownloadButton(value=str(result), interactive=True)
        except (InputError, OSError, MemoryError, torch.cuda.OutOfMemoryError) as error:
            raise gr.Error(error_line(error, source), title="Not upscaled", print_exception=False) from None

    def note_upload(source: str | None, request: gr.Request) -> Any:
        if source:
            app.sessions.open(str(request.session_hash))
            app.sessions.add(str(request.session_hash), Path(source))
        return gr.DownloadButton(interactive=False)

    def close(request: gr.Request) -> None:
        app.sessions.close(str(request.session_hash))

    with gr.Blocks(title="CFSRCNN", analytics_enabled=False) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column(scale=1):
                image = gr.File(label="Image", file_types=sorted(EXTENSIONS), type="filepath", elem_id="image")
                image.preprocess = lambda file: file and file.path  # Gradio's own leaves an empty file at each call
                scale = gr.Radio([(f"x{each}", each) for each in SCALES], value=2, label="Scale", elem_id="scale")
                ensemble = gr.Checkbox(
                    label="Self-ensemble", info="slightly better, at 8 times the computation", elem_id="ensemble"
                )
                start = gr.Button("Upscale", variant="primary", elem_id="start")
                download = gr.DownloadButton("Download", interactive=False, elem_id="download")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(label="Bicubic | CFSRCNN", interactive=False, elem_id="slider", buttons=[])
        image.change(note_upload, image, download, show_progress="hidden", api_name="note_upload")
        start.click(upscale, [image, scale, ensemble], [slider, download], concurrency_limit=1, api_name="upscale")
        page.unload(close)
    return page


def error_line(error: BaseException, source: str | None) -> str:
    """The error on one line, safe within HTML; the uploaded file is called by its name alone."""
    text = str(error) if isinstance(error, InputError | OSError) else "there is too little memory for it"
    if source:
        text = text.replace(source, Path(source).name)
    return html.escape(escape_unprintable(" ".join(text.split())))


def parse_flags() -> argparse.Namespace:
    """The flags of the command line."""
    parser = CliParser(prog="python -m inference.app", description="Upscale images in a browser.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address; 0.0.0.0 lets other machines in, without a password"
    )
    parser.add_argument("--port", type=port_number, help="default: the first free one from 7860 on")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoint"), help="folder of x2/cfsrcnn_x2.pth etc.")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--max_megapixels", type=positive_int, default=16, help="larger images are refused")
    parser.add_argument("--max_megabytes", type=positive_int, default=100, help="larger files are refused")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser.parse_args()


def main() -> None:
    args = parse_flags()
    tune_malloc()
    with tempfile.TemporaryDirectory(prefix="cfsrcnn_app_", ignore_cleanup_errors=True) as folder:
        # Gradio reads these when it is imported and used
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError:
            raise InputError("Gradio is missing: make app, or pip install -r requirements-app.txt") from None
        page = build_page(App(args, Path(folder)))
        middleware = [Middleware(_ContentPolicy)]
        try:
            _, url, _ = page.queue(api_open=False).launch(
                server_name=args.host, server_port=args.port, max_file_size=args.max_megabytes * 10**6,
                share=False, quiet=True, inbrowser=args.open, prevent_thread_lock=True, footer_links=[], ssr_mode=False,
                theme=gr.themes.Default(**FONTS), app_kwargs={"middleware": middleware},
            )  # fmt: skip
        except OSError as error:
            raise InputError(
                f"{args.host}, port {args.port or 'any'}: {error}; choose another --port or --host"
            ) from None
        print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


class _ContentPolicy:
    """ASGI middleware: adds `POLICY` to each answer."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy)


if __name__ == "__main__":
    run_cli(main)
