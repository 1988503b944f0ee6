"""What a file is, by its first bytes; what it says it is, by the names that are used for the same thing."""

from __future__ import annotations

from dataclasses import dataclass

from deepseek.core.messages import MediaKind

KIND_OF: dict[str, MediaKind] = {
    "image/png": "image",
    "image/jpeg": "image",
    "image/gif": "image",
    "image/webp": "image",
    "audio/wav": "audio",
    "audio/mpeg": "audio",
    "audio/flac": "audio",
    "audio/ogg": "audio",
    "audio/mp4": "audio",
    "audio/webm": "audio",
    "video/mp4": "video",
    "video/webm": "video",
}
"""Every type that is taken."""

_ALIASES = {
    "image/jpg": "image/jpeg",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-flac": "audio/flac",
    "audio/opus": "audio/ogg",
    "application/ogg": "audio/ogg",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "audio/aac": "audio/mp4",
}


class BadMedia(Exception):
    """The bytes are not what is taken. `found` and `expected` are for the client."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"expected {expected}; found {found}")
        self.found, self.expected = found, expected


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of one part. Sizes in bytes, lengths in seconds.

    pixels: of one frame; side: of either edge, in pixels. frames: of a moving image.
    """

    image_bytes: int = 20 << 20
    audio_bytes: int = 25 << 20
    video_bytes: int = 100 << 20
    side: int = 16_384
    pixels: int = 50_000_000
    frames: int = 512
    audio_s: float = 3600.0
    video_s: float = 3600.0
    channels: int = 8
    sample_rate: int = 192_000

    def bytes_of(self, kind: MediaKind) -> int:
        return {"image": self.image_bytes, "audio": self.audio_bytes, "video": self.video_bytes}[kind]


def canonical(media_type: str) -> str:
    """The one name of a type, without its parameters."""
    name = media_type.partition(";")[0].strip().lower()
    return _ALIASES.get(name, name)


def sniff(data: bytes) -> str | None:
    """The type of these bytes; None for what is not taken. MP4 and WebM hold sound or film, and are named as film."""
    head = data[:16]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "audio/wav"
    if head.startswith(b"fLaC"):
        return "audio/flac"
    if head.startswith(b"OggS"):
        return "audio/ogg"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm"
    if head[4:8] == b"ftyp":
        return "video/mp4"
    if head.startswith(b"ID3") or (len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6)):
        return "audio/mpeg"
    return None
