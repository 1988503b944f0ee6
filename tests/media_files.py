"""Small files of every kind that is taken, made here; films by hand, since only their headers are ever read."""

import io
import struct
import wave

from PIL import Image


def picture(form: str, size: tuple[int, int] = (6, 4), frames: int = 1) -> bytes:
    """An image as Pillow writes it."""
    images = [Image.new("RGB", size, (40 * at % 256, 9 * at % 256, 3)) for at in range(frames)]
    out = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": 20} if frames > 1 else {}
    images[0].save(out, form, **more)
    return out.getvalue()


def wav(seconds: float = 0.1, rate: int = 8000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0\0" * int(seconds * rate) * channels)
    return out.getvalue()


def flac(seconds: int = 2, rate: int = 44_100, channels: int = 2) -> bytes:
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | seconds * rate
    return b"fLaC" + b"\x80\0\0\x22" + b"\x10\0\x10\0" + bytes(6) + packed.to_bytes(8, "big") + bytes(16)


def ogg(seconds: int = 3) -> bytes:
    head = b"OpusHead\x01\x02" + struct.pack("<HIhB", 312, 48_000, 0, 0)
    first = b"OggS\0\x02" + bytes(8) + b"abcd" + bytes(8) + bytes([1, len(head)]) + head
    last = b"OggS\0\x04" + struct.pack("<q", seconds * 48_000) + b"abcd" + bytes(8) + bytes([1, 1]) + b"x"
    return first + last


def mp3(frames: int = 10) -> bytes:
    """MPEG-1 layer III at 128 kbit/s, 44.1 kHz: 417 bytes a frame."""
    return b"ID3\x04\0\0\0\0\0\x02zz" + (b"\xff\xfb\x90\x00" + bytes(413)) * frames


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


def mp4(width: int = 64, height: int = 48, seconds: int = 5) -> bytes:
    header = box(b"mvhd", bytes(12) + struct.pack(">II", 1000, 1000 * seconds) + bytes(80))
    track = box(b"trak", box(b"tkhd", bytes(76) + struct.pack(">II", width << 16, height << 16)))
    return box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", header + track) + box(b"mdat", bytes(64))


def element(name: int, body: bytes) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (len(body) | 1 << 28).to_bytes(4, "big") + body


def webm(width: int = 64, height: int = 48, seconds: float = 5.0, doctype: bytes = b"webm") -> bytes:
    info = element(0x1549A966, element(0x2AD7B1, b"\x0f\x42\x40") + element(0x4489, struct.pack(">d", 1000 * seconds)))
    size = element(0xB0, width.to_bytes(2, "big")) + element(0xBA, height.to_bytes(2, "big"))
    track = element(0xAE, element(0xE0, size) if width else element(0xE1, b""))
    segment = element(0x18538067, info + element(0x1654AE6B, track) + element(0x1F43B675, bytes(8)))
    return element(0x1A45DFA3, element(0x4282, doctype)) + segment


FILES: dict[str, bytes] = {
    "image/png": picture("PNG"),
    "image/jpeg": picture("JPEG"),
    "image/gif": picture("GIF", frames=3),
    "image/webp": picture("WEBP"),
    "audio/wav": wav(),
    "audio/flac": flac(),
    "audio/ogg": ogg(),
    "audio/mpeg": mp3(),
    "video/mp4": mp4(),
    "video/webm": webm(),
}
