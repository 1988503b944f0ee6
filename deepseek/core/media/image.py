"""Images: their size and number of frames from the header alone. No pixel is ever decoded.

PNG and JPEG headers are read by Pillow, through the plugins themselves, which look at the header and stop there; GIF
and WebP by the few lines here, because Pillow sets up a decoder to count their frames.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from deepseek.core.media.sniff import BadMedia, MediaLimits


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Pixels of one frame, and how many there are; counting stops one past the limit."""

    width: int
    height: int
    frames: int = 1


def check_image(data: bytes, media_type: str, limits: MediaLimits) -> ImageHeader:
    """The header. Raises BadMedia for one that cannot be read, and for an image that would be too large in memory."""
    header = _READERS[media_type](data, limits)
    _require_size(header.width, header.height, limits)
    if header.frames > limits.frames:
        raise BadMedia(f"more than {limits.frames} frames", f"at most {limits.frames} frames")
    return header


def _require_size(width: int, height: int, limits: MediaLimits) -> None:
    if width < 1 or height < 1:
        raise BadMedia(f"{width} x {height} pixels", "an image with pixels")
    if max(width, height) > limits.side or width * height > limits.pixels:
        raise BadMedia(
            f"{width} x {height} pixels", f"at most {limits.side} pixels a side and {limits.pixels} together"
        )


def _png(data: bytes, limits: MediaLimits) -> ImageHeader:
    # Of a PNG the dimensions come first, so a bomb is seen before Pillow reads its text chunks.
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise _unreadable("PNG")
    width, height = struct.unpack(">II", data[16:24])
    _require_size(width, height, limits)
    try:
        with PngImageFile(io.BytesIO(data)) as image:
            return ImageHeader(width, height, int(getattr(image, "n_frames", 1)))
    except Exception as error:
        # Pillow's plugins fail in many ways on broken files: SyntaxError, ValueError, struct.error, EOFError, OSError.
        raise _unreadable("PNG") from error


def _jpeg(data: bytes, limits: MediaLimits) -> ImageHeader:
    try:
        with JpegImageFile(io.BytesIO(data)) as image:
            return ImageHeader(*image.size)
    except Exception as error:
        raise _unreadable("JPEG") from error


def _gif(data: bytes, limits: MediaLimits) -> ImageHeader:
    """GIF89a, section 17 and on: a screen, then blocks until the trailer."""
    if len(data) < 13:
        raise _unreadable("GIF")
    width, height, flags = struct.unpack("<HHB", data[6:11])
    at = 13 + _palette(flags)
    frames = 0
    while at < len(data) and frames <= limits.frames:
        block = data[at]
        if block == 0x3B:
            break
        if block == 0x21:  # an extension: a label, then sub-blocks
            at = _after_sub_blocks(data, at + 2, limits)
        elif block == 0x2C and at + 10 <= len(data):
            left, top, frame_width, frame_height, flags = struct.unpack("<HHHHB", data[at + 1 : at + 10])
            # Decoders grow the screen to a frame that reaches beyond it.
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            frames += 1
            at = _after_sub_blocks(data, at + 10 + _palette(flags) + 1, limits)
        else:
            raise _unreadable("GIF")
    if not frames:
        raise _unreadable("GIF")
    return ImageHeader(width, height, frames)


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int, limits: MediaLimits) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _webp(data: bytes, limits: MediaLimits) -> ImageHeader:
    """RFC 9649: a canvas where there is an extended header, else the one picture's own size."""
    width = height = 0
    frames = 0
    for name, start, size in _riff_chunks(data, 12):
        body = data[start : start + min(size, 16)]
        if name == b"VP8X" and len(body) >= 10:
            width, height = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        elif name == b"VP8 " and len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a":
            own = (int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF)
            width, height, frames = max(width, own[0]), max(height, own[1]), frames + 1
        elif name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
            bits = int.from_bytes(body[1:5], "little")
            own = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
            width, height, frames = max(width, own[0]), max(height, own[1]), frames + 1
        elif name == b"ANMF":
            frames += 1
        if frames > limits.frames:
            break
    if not frames or not width:
        raise _unreadable("WebP")
    return ImageHeader(width, height, frames)


def _riff_chunks(data: bytes, at: int) -> list[tuple[bytes, int, int]]:
    found: list[tuple[bytes, int, int]] = []
    while at + 8 <= len(data) and len(found) < 65_536:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((name, at + 8, size))
        at += 8 + size + (size & 1)
    return found


def _unreadable(name: str) -> BadMedia:
    return BadMedia(f"a broken {name} file", "an image whose header can be read")


_READERS = {"image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp}
