"""Sound: how long it is and in how many channels, from the container's headers alone. No sample is ever decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from deepseek.core.media.sniff import BadMedia, MediaLimits


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """seconds: None where the headers do not say."""

    seconds: float | None
    sample_rate: int | None = None
    channels: int | None = None


def check_audio(data: bytes, media_type: str, limits: MediaLimits) -> AudioHeader:
    """The header of WAV, MP3, FLAC or Ogg. Raises BadMedia for one that cannot be read or is out of bounds."""
    header = _READERS[media_type](data)
    if header.sample_rate is not None and not 1 <= header.sample_rate <= limits.sample_rate:
        raise BadMedia(f"{header.sample_rate} samples a second", f"at most {limits.sample_rate}")
    if header.channels is not None and not 1 <= header.channels <= limits.channels:
        raise BadMedia(f"{header.channels} channels", f"1 to {limits.channels} channels")
    require_length(header.seconds, limits.audio_s)
    return header


def require_length(seconds: float | None, most: float) -> None:
    if seconds is not None and seconds > most:
        raise BadMedia(f"{seconds:.0f} seconds", f"at most {most:g} seconds")


def _wav(data: bytes) -> AudioHeader:
    """RIFF: `fmt ` says how many bytes a second has, `data` how many there are."""
    at, rate, channels, byte_rate = 12, 0, 0, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"fmt " and at + 24 <= len(data):
            _, channels, rate, byte_rate = struct.unpack("<HHII", data[at + 8 : at + 20])
        elif name == b"data" and byte_rate:
            # Writers that stream leave the size open; then it is what is there.
            return AudioHeader(min(size, len(data) - at - 8) / byte_rate, rate, channels)
        at += 8 + size + (size & 1)
    raise _unreadable("WAV")


def _flac(data: bytes) -> AudioHeader:
    """RFC 9639, section 8.2: the stream's information comes first."""
    if len(data) < 42 or data[4] & 0x7F != 0:
        raise _unreadable("FLAC")
    packed = int.from_bytes(data[18:26], "big")
    rate, channels, samples = packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
    if not rate:
        raise _unreadable("FLAC")
    return AudioHeader(samples / rate if samples else None, rate, channels)


def _ogg(data: bytes) -> AudioHeader:
    """RFC 3533: the first packet names the codec and its rate, the last page says how many samples came before its end."""
    if len(data) < 28:
        raise _unreadable("Ogg")
    packet = data[27 + data[26] :][:64]
    if packet.startswith(b"OpusHead") and len(packet) >= 16:
        rate, channels = 48_000, packet[9]  # RFC 7845: granules of Opus always count 48 kHz
    elif packet.startswith(b"\x01vorbis") and len(packet) >= 16:
        channels, rate = packet[11], int.from_bytes(packet[12:16], "little")
    elif packet.startswith(b"\x7fFLAC") and len(packet) >= 35:
        packed = int.from_bytes(packet[27:35], "big")
        rate, channels = packed >> 44, (packed >> 41 & 7) + 1
    else:
        raise BadMedia("an Ogg file of another codec", "Opus, Vorbis or FLAC in Ogg")
    last = data.rfind(b"OggS")
    granule = int.from_bytes(data[last + 6 : last + 14], "little", signed=True)
    return AudioHeader(granule / rate if rate and granule > 0 else None, rate, channels)


_BITRATES = {  # kilobits a second by the header's index, for MPEG-1 layer III and for MPEG-2 and 2.5
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_RATES = (44_100, 48_000, 32_000)


def _mp3(data: bytes) -> AudioHeader:
    """ISO 11172-3: after an ID3 tag a frame with its bit rate; the length assumes that all frames have it."""
    at = 0
    if data.startswith(b"ID3"):
        if len(data) < 10:
            raise _unreadable("MP3")
        at = 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
    frame = data[at : at + 4]
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        raise _unreadable("MP3")
    version, layer = frame[1] >> 3 & 3, frame[1] >> 1 & 3
    bitrate, rate = frame[2] >> 4, frame[2] >> 2 & 3
    if version == 1 or layer != 1 or rate == 3 or bitrate in (0, 15):
        raise BadMedia(
            "an MPEG file of another layer or bit rate", "MPEG layer III (MP3) with a bit rate in its frames"
        )
    sample_rate = _RATES[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    seconds = 8 * (len(data) - at) / (1000 * _BITRATES[version == 3][bitrate])
    return AudioHeader(seconds, sample_rate, 1 if frame[3] >> 6 == 3 else 2)


def _unreadable(name: str) -> BadMedia:
    return BadMedia(f"a broken {name} file", "a sound whose header can be read")


_READERS = {"audio/wav": _wav, "audio/flac": _flac, "audio/ogg": _ogg, "audio/mpeg": _mp3}
