"""MP4 and WebM: whether a container holds film or only sound, how long, and of what size, from its headers alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from deepseek.core.media.audio import require_length
from deepseek.core.media.sniff import BadMedia, MediaLimits

MAX_BOXES = 10_000


@dataclass(frozen=True, slots=True)
class Container:
    """width, height: of the largest picture track; 0 where there is none. seconds: None where it is not told."""

    seconds: float | None = None
    width: int = 0
    height: int = 0
    sound: bool = False

    @property
    def kind(self) -> str:
        return "video" if self.width and self.height else "audio"


def check_container(data: bytes, media_type: str, limits: MediaLimits) -> Container:
    """media_type: video/mp4 or video/webm. Raises BadMedia for headers that cannot be read or are out of bounds."""
    found = _mp4(data) if media_type == "video/mp4" else _webm(data)
    if found is None or not ((found.width and found.height) or found.sound):
        raise BadMedia(f"a broken {media_type.partition('/')[2]} file", "a container with a track of sound or film")
    if max(found.width, found.height) > limits.side or found.width * found.height > limits.pixels:
        raise BadMedia(f"{found.width} x {found.height} pixels", f"at most {limits.pixels} pixels")
    require_length(found.seconds, limits.video_s if found.kind == "video" else limits.audio_s)
    return found


def _mp4(data: bytes) -> Container | None:
    """ISO 14496-12: `moov` holds `mvhd` with the length, and for each track a `tkhd` with its size."""
    for name, start, end in _boxes(data, 0, len(data)):
        if name == b"moov":
            found = Container()
            for inner, inner_start, inner_end in _boxes(data, start, end):
                if inner == b"mvhd":
                    found = replace(found, seconds=_mp4_seconds(data[inner_start : min(inner_end, inner_start + 32)]))
                elif inner == b"trak":
                    found = _mp4_track(data, inner_start, inner_end, found)
            return found
    return None


def _mp4_track(data: bytes, start: int, end: int, found: Container) -> Container:
    for name, at, stop in _boxes(data, start, end):
        if name == b"tkhd" and stop - at >= 84:
            # 16.16 fixed point, the last eight bytes; a sound track has none.
            width, height = (side >> 16 for side in struct.unpack(">II", data[stop - 8 : stop]))
            if width and height:
                found = replace(found, width=max(found.width, width), height=max(found.height, height))
            else:
                found = replace(found, sound=True)
    return found


def _mp4_seconds(body: bytes) -> float | None:
    long = body[:1] == b"\x01"
    if len(body) < (32 if long else 20):
        return None
    scale, length = struct.unpack(">IQ", body[20:32]) if long else struct.unpack(">II", body[12:20])
    unknown = length in (2**32 - 1, 2**64 - 1)
    return None if unknown or not scale else float(length / scale)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, beginning, end) of each box's body. Stops at the first that does not fit."""
    for _ in range(MAX_BOXES):
        if at + 8 > end:
            return
        size, name, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1 and at + 16 <= end:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = end - at
        if size < head or at + size > end:
            return
        yield name, at + head, at + size
        at += size


# Of Matroska (RFC 9559): ids with their length marker.
_SEGMENT, _INFO, _TRACKS, _TRACK, _VIDEO, _AUDIO = 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1
_CLUSTER, _SCALE, _DURATION, _WIDTH, _HEIGHT, _DOCTYPE = 0x1F43B675, 0x2AD7B1, 0x4489, 0xB0, 0xBA, 0x4282
_UNKNOWN_SIZE = -1


def _webm(data: bytes) -> Container | None:
    """EBML (RFC 8794): a header that says "webm", then a segment with its information and its tracks before the film."""
    elements = _elements(data, 0, len(data))
    head = next(elements, None)
    if head is None or not any(
        name == _DOCTYPE and data[start:end].rstrip(b"\0") == b"webm" for name, start, end in _elements(data, *head[1:])
    ):
        raise BadMedia("a Matroska file that is no WebM", "MP4 or WebM")
    segment = next(elements, None)
    if segment is None or segment[0] != _SEGMENT:
        return None
    found, scale, length = Container(), 1_000_000, None
    for name, start, end in _elements(data, *segment[1:]):
        if name == _CLUSTER:
            break
        if name == _INFO:
            for inner, at, stop in _elements(data, start, end):
                if inner == _SCALE:
                    scale = int.from_bytes(data[at:stop], "big")
                elif inner == _DURATION and stop - at in (4, 8):
                    length = float(struct.unpack(">f" if stop - at == 4 else ">d", data[at:stop])[0])
        elif name == _TRACKS:
            for inner, at, stop in _elements(data, start, end):
                found = _webm_track(data, at, stop, found) if inner == _TRACK else found
    # A file that was streamed does not know its length; what is not a number bounds nothing either.
    return replace(found, seconds=length * scale / 1e9 if length is not None and length >= 0 else None)


def _webm_track(data: bytes, start: int, end: int, found: Container) -> Container:
    for name, at, stop in _elements(data, start, end):
        if name == _AUDIO:
            found = replace(found, sound=True)
        elif name == _VIDEO:
            sides = {inner: int.from_bytes(data[a:b], "big") for inner, a, b in _elements(data, at, stop)}
            width, height = sides.get(_WIDTH, 0), sides.get(_HEIGHT, 0)
            found = replace(found, width=max(found.width, width), height=max(found.height, height))
    return found


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(id, beginning, end) of each element's body; one of unknown size reaches to the end."""
    for _ in range(MAX_BOXES):
        if at >= end:
            return
        name, at = _number(data, at, end, keep_marker=True)
        size, at = _number(data, at, end, keep_marker=False)
        if name is None or size is None:
            return
        stop = end if size == _UNKNOWN_SIZE else at + size
        if stop > end:
            return
        yield name, at, stop
        at = stop


def _number(data: bytes, at: int, end: int, *, keep_marker: bool) -> tuple[int | None, int]:
    first = data[at] if at < end else 0
    length = 9 - first.bit_length()
    if not first or length > 8 or at + length > end:
        return None, end
    value = int.from_bytes(data[at : at + length], "big")
    if not keep_marker:
        value &= (1 << 7 * length) - 1
        if value == (1 << 7 * length) - 1:
            value = _UNKNOWN_SIZE
    return value, at + length
