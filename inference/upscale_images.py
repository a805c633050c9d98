"""Upscales image files, with no HR to compare with. Keeps depth, alpha, gray, frames and metadata, applies the orientation."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import (
    InputError,
    error_context,
    escape_unprintable,
    summarize_exception,
    translate_access_errors,
)
from common.files import DISK_FULL_ERRNOS, ensure_name_fits, make_dir, realpath
from common.prefetch import BackgroundWriter, prefetch_map
from common.progress import progress
from common.units import format_count
from dataset.decoded_image import fill_transparent
from dataset.image_metadata import ImageMetadata
from dataset.image_writer import Output, write_output
from dataset.images import EXTENSIONS, DecodedFile, DecodedImage, read_frames
from dataset.imresize import resize
from inference.upscaler import NetworkUpscaler, Upscale, translate_upscale_errors

# images that people keep in folders, but which are not read here
FOREIGN_EXTENSIONS = {".heic", ".heif", ".jp2", ".j2k", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw", ".exr", ".hdr"}
FOREIGN_EXTENSIONS |= {".avif", ".svg", ".tga", ".jfif"} - EXTENSIONS
GRAY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class OutputOptions:
    """How files are written. `format`: png, jpg, webp, tif or auto. `quality`: of jpg and webp. `keep_metadata`: ICC etc.

    `auto` is tif for TIFF, webp (lossless) for WebP and png for all others. `size`: (width, height) in pixels, or the longest
    side, to which the SR image is resized.
    """

    format: str = "auto"
    quality: int | None = None
    keep_metadata: bool = True
    size: tuple[int, int] | int | None = None
    recursive: bool = False
    skip_existing: bool = False


@dataclass
class Summary:
    """The files `written`, how many of them `replaced` others, the number `skipped` since they existed, and for each that
    failed its error message.
    """

    written: list[Path] = field(default_factory=list)
    replaced: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)  # what was dropped or converted -> in how many files


def upscale_images(
    sources: list[Path] | Path, folder: Path, upscale: Upscale, options: OutputOptions | None = None
) -> Summary:
    """Upscales images, and those of folders, to `folder`/NAME_xSCALE.FORMAT; with `recursive` subfolders are mirrored.

    NAME is the file's stem, or its full name if inputs share a stem. What cannot be read or upscaled does not stop the others;
    it is in `failures`. Raises `InputError` if nothing can be read, an input would be overwritten, two inputs have the same
    output, the folder is not writable, or the disk is full.
    """
    options, sources = options or OutputOptions(), [sources] if isinstance(sources, Path) else sources
    summary = Summary()
    jobs = _plan(
        _find_inputs(sources, folder, options.recursive, summary), folder, upscale.scale, options.format, summary
    )
    if not jobs:
        raise_failures(summary)
    if options.skip_existing:
        kept = [job for job in jobs if not job[1].exists()]
        summary.skipped, jobs = len(jobs) - len(kept), kept
    if not os.access(make_dir(folder), os.W_OK):
        raise InputError(f"{folder} may not be written to: change its permissions, or choose another --sample_dir")
    bar, start, pixels = progress(total=len(jobs), desc=f"x{upscale.scale}", unit="image"), time.monotonic(), 0

    def write(file: Path, out: Path, output: Output) -> None:
        with _Collecting(summary), translate_upscale_errors(file):
            existed = out.exists()
            write_output(out, output, options.quality)
            summary.written.append(out)
            summary.replaced += existed

    with bar, BackgroundWriter() as writer, prefetch_map(_try_to_read, [file for file, _ in jobs]) as decoded:
        for (file, out), source in zip(jobs, decoded, strict=True):
            with _Collecting(summary), translate_upscale_errors(file):
                if isinstance(source, InputError):
                    raise source
                with error_context(file):
                    output = upscale_file(source, upscale, options)
                    lost = _losses(source, options.keep_metadata) + output.fit(out.suffix[1:])
                summary.lost.update(set(lost))
                writer(write, file, out, output)
                pixels += sum(frame.shape[0] * frame.shape[1] for frame in output.frames)
            bar.set_postfix_str(f"{pixels / 1e6 / max(time.monotonic() - start, 1e-9):.2f} MP/s", refresh=False)
            bar.update()
    return summary


def upscale_file(source: DecodedFile, upscale: Upscale, options: OutputOptions) -> Output:
    """All frames of a file upscaled, and resized if `options` ask for it, with the metadata to write."""
    frames = [_fit_size(upscale_image(frame, upscale), options.size) for frame in source.frames]
    metadata = source.metadata if options.keep_metadata else ImageMetadata()
    return Output(frames, metadata, [each.duration for each in source.frames] if source.animated else [], source.loop)


def written_summary(summary: Summary, upscale: Upscale) -> str:
    """The files that `upscale_images` wrote, in which precision and by which backend; before it a line for each loss."""
    notes = [f"{count} {'image' if count == 1 else 'images'}: {what}" for what, count in summary.lost.items()]
    if summary.skipped:
        notes.append(f"skipped {summary.skipped} whose output exists")
    if summary.replaced:
        notes.append(f"replaced {format_count(summary.replaced, 'existing file')}; --skip_existing keeps them")
    written = summary.written
    what = f"{len(written)} images to {written[0].parent}" if len(written) > 1 else ", ".join(map(str, written))
    how = f" ({upscale.precision}, {upscale.backend})" if isinstance(upscale, NetworkUpscaler) else ""
    if written:
        notes.append(f"wrote {escape_unprintable(what)}{how}")
    return "\n".join(notes) or "wrote nothing"


def raise_failures(summary: Summary) -> None:
    """Raises `InputError` if images failed: with the message of the only one, or with their number after a line for each."""
    total = len(summary.failures) + len(summary.written)
    if len(summary.failures) == 1 == total:
        raise InputError(summary.failures[0])
    for message in summary.failures:
        print(f"failed: {summarize_exception(InputError(message))}", file=sys.stderr)
    if summary.failures:
        raise InputError(
            f"{len(summary.failures)} of {total} images failed, see the lines above"
            + "; the others are written" * bool(summary.written)
        )


def upscale_image(image: DecodedImage, upscale: Upscale) -> np.ndarray:
    """The image at `scale` times the size, of its type: HxW if gray, else HxWx3; HxWx2 or HxWx4 with alpha (by bicubic)."""
    sr = upscale(fill_transparent(image))
    if image.gray:
        sr = _to_gray(sr)
    if image.alpha is None:
        return sr
    height, width = image.alpha.shape
    return np.dstack([sr, resize(image.alpha, height * upscale.scale, width * upscale.scale)])


def _to_gray(sr: np.ndarray) -> np.ndarray:
    """BT.601 luma; of 8 bits as Pillow computes it."""
    if sr.dtype == np.uint8:
        return np.asarray(Image.fromarray(sr).convert("L"))
    luma = sr @ np.array(GRAY_WEIGHTS)
    return np.round(luma).astype(sr.dtype) if sr.dtype == np.uint16 else luma.astype(sr.dtype)


def _fit_size(sr: np.ndarray, size: tuple[int, int] | int | None) -> np.ndarray:
    if size is None:
        return sr
    height, width = sr.shape[:2]
    if isinstance(size, int):
        scale = size / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
    return sr if size == (width, height) else resize(sr, size[1], size[0])


def _find_inputs(sources: list[Path], folder: Path, recursive: bool, summary: Summary) -> list[tuple[Path, Path]]:
    """(file, its subfolder of the output folder) for each image; files in the output folder are not inputs.

    A file found twice counts once, but a link to another image is an image of its own name. A source without images, or that
    cannot be read, is one of the `summary.failures`.
    """
    found: list[tuple[Path, Path]] = []
    ignored: Counter[str] = Counter()
    for source in sources:
        with _Collecting(summary), translate_access_errors(source):
            if not source.exists():
                raise InputError(f"--input {source}: no such file or folder")
            if not source.is_dir():
                found.append((source, Path()))
                continue
            known = len(summary.failures)
            files = sorted(_walk(source, realpath(folder), summary, recursive))
            files = [file for file in files if not file.name.startswith(".")]
            images = [file for file in files if file.suffix.lower() in EXTENSIONS]
            ignored.update(file.suffix.lower() for file in files if file.suffix.lower() in FOREIGN_EXTENSIONS)
            if not images and len(summary.failures) == known:
                deeper = not recursive and any(_walk(source, realpath(folder), Summary()))
                hint = "; --recursive reads its subfolders too" * deeper
                raise InputError(f"{source} holds no images ({', '.join(sorted(EXTENSIONS))}){hint}")
            found += [(file, file.parent.relative_to(source)) for file in images]
    if ignored:
        what = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
        print(f"ignored {what}: {', '.join(sorted(EXTENSIONS))} are read", file=sys.stderr)
    return list({realpath(file.parent) / file.name: (file, place) for file, place in found}.values())


def _walk(source: Path, out: Path, summary: Summary, recursive: bool = True) -> Iterator[Path]:
    """The files of a folder or tree, without hidden folders, linked folders and the output folder `out`."""
    entries: list[Path] = []
    with _Collecting(summary), translate_access_errors(source):
        entries += source.iterdir()
    for each in entries:
        if not os.path.isdir(each):  # false, too, where permission is missing, which reading reports
            yield each
        elif recursive and not each.name.startswith(".") and not each.is_symlink() and realpath(each) != out:
            yield from _walk(each, out, summary)


def _plan(
    inputs: list[tuple[Path, Path]], folder: Path, scale: int, format: str, summary: Summary
) -> list[tuple[Path, Path]]:
    """(input, output) for each input. `InputError` if an input would be overwritten, or two have the same output.

    An input whose output's name would be too long is one of the `summary.failures`.
    """
    stems = Counter((place, file.stem) for file, place in inputs)
    full = max(stems.values(), default=0) > 1  # a.png beside a.jpg
    jobs: dict[Path, tuple[Path, Path]] = {}
    for file, place in inputs:
        kind = {".tif": "tif", ".tiff": "tif", ".webp": "webp"}.get(file.suffix.lower(), "png")
        out = folder / place / f"{file.name if full else file.stem}_x{scale}.{kind if format == 'auto' else format}"
        if out in jobs:
            raise InputError(f"{jobs[out][0]} and {file} would both be written to {out}: upscale them separately")
        with _Collecting(summary), error_context(f"--input {file.parent}"):
            ensure_name_fits(out)
            jobs[out] = file, out
    if clash := {realpath(out) for out in jobs} & {realpath(file) for file, _ in inputs}:
        raise InputError(f"{min(clash)} is itself an input and would be overwritten: choose another --sample_dir")
    return list(jobs.values())


def _losses(source: DecodedFile, keep_metadata: bool) -> list[str]:
    """What the decoder dropped or converted, of what a user would expect to find in the output."""
    words = {kind: f"{kind} converted to sRGB" for kind in ("CMYK", "LAB", "YCbCr")}
    words["CMYK by its profile"] = "CMYK converted to sRGB by its profile"
    converted = [words[each.converted] for each in source.frames if each.converted in words]
    dropped = [each.dropped for each in source.frames] + [source.metadata.dropped] * keep_metadata
    return converted + [f"{what} left out" for what in dropped if what]


def _try_to_read(file: Path) -> DecodedFile | InputError:
    try:
        return read_frames(file)
    except InputError as error:
        return error


class _Collecting:
    """A context manager that notes an image's error in `summary` and goes on; a full disk would fail for the others too."""

    def __init__(self, summary: Summary):
        self._summary = summary

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        cause = error.__context__ if isinstance(error, InputError) else error
        if isinstance(cause, OSError) and cause.errno in DISK_FULL_ERRNOS:
            return False
        if not isinstance(error, InputError | OSError):
            return False
        self._summary.failures.append(str(error))
        return True
