"""The chunks of a PNG file beside pixels, ICC profile, EXIF and XMP that a copy should keep: color description and text."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

Chunk = tuple[bytes, bytes]  # name, content

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
COLOR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
READ_ELSEWHERE = (XMP_KEYWORD, b"Raw profile type ")  # texts that hold EXIF, XMP and the like, which Pillow reads
SRGB_GAMMA = struct.pack(">I", 45_455)  # gAMA of 1/2.2
MAX_BYTES, MAX_CHUNKS = 1 << 20, 1000  # kept in all; a file may have millions of empty ones


def walk_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and length of each chunk of a PNG up to IEND, with `file` at its content; none of another file.

    Raises `EOFError` at a chunk that would end after the file, so no memory need be taken for it.
    """
    size = file.seek(0, SEEK_END)
    file.seek(0)
    name = b"" if file.read(len(SIGNATURE)) == SIGNATURE else b"IEND"
    while name != b"IEND" and len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        end = file.tell() + length + 4
        if end > size:
            raise EOFError("it ends too early")
        yield name, length
        file.seek(end)


def read_chunks(path: Path) -> tuple[Chunk, ...]:
    """The color and text chunks of a PNG file, in its order; none of another file. Raises `OSError` if it cannot be read.

    Left out are chunks with a wrong checksum, those above `MAX_BYTES` and `MAX_CHUNKS` in all, and texts with EXIF or XMP.
    """
    found: list[Chunk] = []
    left = MAX_BYTES
    with path.open("rb") as file, suppress(EOFError):
        for name, length in walk_chunks(file):
            if len(found) == MAX_CHUNKS:
                break
            if name not in COLOR_CHUNKS + TEXT_CHUNKS or length > left:
                continue
            content, checksum = file.read(length), file.read(4)
            is_whole = checksum == struct.pack(">I", zlib.crc32(name + content))
            if is_whole and not (name in TEXT_CHUNKS and content.startswith(READ_ELSEWHERE)):
                found.append((name, content))
                left -= length
    return tuple(found)


def lost_outside_png(chunks: tuple[Chunk, ...], has_profile: bool) -> list[str]:
    """What another format cannot hold of the chunks and would be missed, in words: colors that are not sRGB, and text.

    `has_profile`: there is an ICC profile, which overrides all color chunks but cICP.
    """
    colors = dict(chunk for chunk in chunks if chunk[0] in COLOR_CHUNKS)
    lost = [f"{name.decode()} of the PNG" for name in _decisive(colors, has_profile)]
    return [*lost, "the text of the PNG"] if any(name in TEXT_CHUNKS for name, _ in chunks) else lost


def _decisive(colors: dict[bytes, bytes], has_profile: bool) -> list[bytes]:
    """The chunks by which the colors differ from sRGB, or from the ICC profile."""
    if b"cICP" in colors:
        return [] if colors[b"cICP"][:3] == bytes([1, 13, 0]) else [b"cICP"]  # BT.709 primaries, sRGB transfer, RGB
    if has_profile or b"sRGB" in colors:
        return []
    return [b"gAMA"] if colors.get(b"gAMA", SRGB_GAMMA) != SRGB_GAMMA else []


def make_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk as it stands in a file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
