"""What a file is and how large, from its bytes: every kind that is taken, bombs, broken headers and any bytes at all."""

import contextlib
import io
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import FILES, flac, mp3, mp4, ogg, picture, wav, webm
from PIL import Image

from deepseek.core.media.audio import check_audio
from deepseek.core.media.container import check_container
from deepseek.core.media.image import check_image
from deepseek.core.media.sniff import KIND_OF, BadMedia, MediaLimits, canonical, sniff

LIMITS = MediaLimits()


def check(data: bytes, media_type: str, limits: MediaLimits = LIMITS) -> object:
    if media_type.startswith("image/"):
        return check_image(data, media_type, limits)
    if media_type in ("video/mp4", "video/webm"):
        return check_container(data, media_type, limits)
    return check_audio(data, media_type, limits)


@pytest.mark.parametrize("media_type", FILES)
def test_a_file_is_known_by_its_bytes_and_passes(media_type: str) -> None:
    assert sniff(FILES[media_type]) == media_type
    check(FILES[media_type], media_type)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("frames", [1, 5])
def test_an_image_has_the_size_and_the_frames_that_pillow_sees(form: str, frames: int) -> None:
    frames = 1 if form == "JPEG" else frames
    data = picture(form, (31, 7), frames)
    header = check_image(data, f"image/{form.lower()}", LIMITS)
    assert (header.width, header.height, header.frames) == (31, 7, frames)


def test_lossless_webp_is_read_too() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (300, 2)).save(out, "WEBP", lossless=True)
    header = check_image(out.getvalue(), "image/webp", LIMITS)
    assert (header.width, header.height) == (300, 2)


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes and as many pixels as one likes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 1), (16_384, 16_384), (0, 5)])
def test_an_image_too_large_in_memory_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(BadMedia, match="pixels"):
        check_image(bomb(*size), "image/png", LIMITS)


def test_a_bomb_in_the_other_forms_is_seen_as_well() -> None:
    gif = bytearray(picture("GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    webp = bytearray(picture("WEBP", frames=2))
    webp[24:30] = b"\xff" * 6
    jpeg = bytearray(picture("JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff" * 4
    for data, media_type in ((gif, "image/gif"), (webp, "image/webp"), (jpeg, "image/jpeg")):
        with pytest.raises(BadMedia, match="pixels"):
            check_image(bytes(data), media_type, LIMITS)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_a_film_of_too_many_frames_is_refused(form: str) -> None:
    with pytest.raises(BadMedia, match="more than 3 frames"):
        check_image(picture(form, frames=9), f"image/{form.lower()}", replace(LIMITS, frames=3))


def test_sounds_have_their_length() -> None:
    for data, media_type, seconds in (
        (wav(0.5), "audio/wav", 0.5),
        (flac(2), "audio/flac", 2.0),
        (ogg(3), "audio/ogg", 3.0),
        (mp3(100), "audio/mpeg", 2.6),
    ):
        header = check_audio(data, media_type, LIMITS)
        assert header.seconds == pytest.approx(seconds, rel=0.02)
        with pytest.raises(BadMedia, match="seconds"):
            check_audio(data, media_type, replace(LIMITS, audio_s=0.1))


def test_a_sound_of_too_many_channels_or_samples_is_refused() -> None:
    with pytest.raises(BadMedia, match="channels"):
        check_audio(wav(channels=6), "audio/wav", replace(LIMITS, channels=2))
    with pytest.raises(BadMedia, match="samples"):
        check_audio(wav(rate=48_000), "audio/wav", replace(LIMITS, sample_rate=16_000))


@pytest.mark.parametrize("make", [mp4, webm])
def test_a_film_has_its_size_and_length(make: object) -> None:
    media_type = "video/mp4" if make is mp4 else "video/webm"
    found = check_container(make(640, 360, 7), media_type, LIMITS)  # type: ignore[operator]
    assert (found.width, found.height, found.seconds, found.kind) == (640, 360, 7.0, "video")
    with pytest.raises(BadMedia, match="seconds"):
        check_container(make(640, 360, 9000), media_type, LIMITS)  # type: ignore[operator]
    with pytest.raises(BadMedia, match="pixels"):
        check_container(make(30_000, 30_000, 7), media_type, LIMITS)  # type: ignore[operator]
    assert check_container(make(0, 0, 7), media_type, LIMITS).kind == "audio"  # type: ignore[operator]


def test_matroska_that_is_no_webm_is_refused() -> None:
    with pytest.raises(BadMedia, match="no WebM"):
        check_container(webm(doctype=b"matroska"), "video/webm", LIMITS)


def test_one_type_has_one_name() -> None:
    assert canonical("Image/JPG; charset=x") == "image/jpeg" and canonical("audio/x-wav") == "audio/wav"


@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_broken_file_is_refused_and_never_fails_otherwise(media_type: str, data: st.DataObject) -> None:
    whole = bytearray(FILES[media_type])
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 200) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    found = sniff(cut)
    if found is not None:
        assert found in KIND_OF
        try:
            check(cut, found)
        except BadMedia as error:
            assert error.found and error.expected


@given(st.sampled_from([data[:16] for data in FILES.values()]), st.binary(max_size=300))
def test_any_bytes_behind_a_beginning_are_refused_or_taken(beginning: bytes, rest: bytes) -> None:
    found = sniff(beginning + rest)
    if found is not None:
        with contextlib.suppress(BadMedia):
            check(beginning + rest, found)
