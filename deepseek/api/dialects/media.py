"""Message parts that are no text, in OpenAI's and Anthropic's form, checked before anything decodes them.

What a part says it is must be what its bytes are. Whether the caller's tier takes such a part (403) and whether the
model does (422) is asked first, so that nobody's megabytes are read for nothing.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn

from pydantic import Field

from deepseek.api.dialects.fields import StrictModel
from deepseek.api.identity.caller import Caller
from deepseek.api.problems import FieldError, Problem, shown
from deepseek.api.state import ServerState
from deepseek.core.media.audio import check_audio
from deepseek.core.media.container import check_container
from deepseek.core.media.image import check_image
from deepseek.core.media.sniff import KIND_OF, BadMedia, MediaLimits, canonical, sniff
from deepseek.core.messages import MediaKind, MediaPart

LIMITS = MediaLimits()
AUDIO_FORMATS = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "m4a": "audio/mp4",
    "webm": "audio/webm",
}


class ImageAddress(StrictModel):
    url: Annotated[str, Field(min_length=1, description="data:<type>;base64,<data>: PNG, JPEG, GIF or WebP.")]
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImageContent(StrictModel):
    type: Literal["image_url"]
    image_url: ImageAddress


class AudioData(StrictModel):
    data: Annotated[str, Field(min_length=1, description="Base64.")]
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "m4a", "webm"]


class AudioContent(StrictModel):
    type: Literal["input_audio"]
    input_audio: AudioData


class VideoAddress(StrictModel):
    url: Annotated[str, Field(min_length=1, description="data:<type>;base64,<data>: MP4 or WebM.")]


class VideoContent(StrictModel):
    """As vLLM's users send films."""

    type: Literal["video_url"]
    video_url: VideoAddress


class FileData(StrictModel):
    file_data: Annotated[str, Field(min_length=1, description="data:<type>;base64,<data>.")]
    filename: Annotated[str, Field(max_length=512)] | None = None


class FileContent(StrictModel):
    """A file that is an image, a sound or a film."""

    type: Literal["file"]
    file: FileData


MediaContent = ImageContent | AudioContent | VideoContent | FileContent


@dataclass(frozen=True, slots=True)
class Given:
    """A part as a client gave it: base64 text of a declared type, or an address.

    field: where the data stands. kind: what it must be; None: whatever it is.
    """

    field: str
    kind: MediaKind | None
    media_type: str | None = None
    data: str = ""
    address: str | None = None


def field_of(content: MediaContent, place: str) -> str:
    """Where the data of a part stands. place: the part's own."""
    if isinstance(content, ImageContent):
        return f"{place}.image_url.url"
    if isinstance(content, VideoContent):
        return f"{place}.video_url.url"
    return f"{place}.input_audio.data" if isinstance(content, AudioContent) else f"{place}.file.file_data"


def given_of(content: MediaContent, place: str) -> Given:
    """Raises Problem for what is no data: URL where one is needed."""
    field = field_of(content, place)
    if isinstance(content, ImageContent):
        return _addressed(content.image_url.url, field, "image")
    if isinstance(content, VideoContent):
        return _addressed(content.video_url.url, field, "video")
    if isinstance(content, AudioContent):
        return Given(field, "audio", AUDIO_FORMATS[content.input_audio.format], content.input_audio.data)
    return _addressed(content.file.file_data, field, None)


def _addressed(url: str, field: str, kind: MediaKind | None) -> Given:
    if url[:8].lower().startswith(("http://", "https://")):
        return Given(field, kind, address=url)
    head, comma, data = url.partition(",")
    if head[:5].lower() != "data:" or not comma or not head.lower().endswith(";base64"):
        _refuse(field, shown(head[:60]), "data:<type>;base64,<data>")
    return Given(field, kind, canonical(head[5 : -len(";base64")]), data)


async def read_media(state: ServerState, caller: Caller, model: str, given: Sequence[Given]) -> dict[str, MediaPart]:
    """Every part by its field, in a worker thread. Raises Problem as `require_allowed` and `read_part`."""
    if not given:
        return {}
    require_allowed(state, caller, model, given)
    return await asyncio.to_thread(lambda: {part.field: read_part(part) for part in given})


def require_allowed(state: ServerState, caller: Caller, model: str, given: Sequence[Given]) -> None:
    """Raise Problem for parts that the caller's tier (403) or the model (422) does not take, and for addresses."""
    for part in given:
        kind = part.kind or KIND_OF.get(part.media_type or "")
        if kind is None:
            _refuse(part.field, shown(part.media_type or ""), "an image, a sound or a film of a type that is taken")
        _require_tier(state, caller, kind, part.field)
        if part.address is not None and not state.media_addresses:
            _refuse(part.field, "an address", "data:<type>;base64,<data>; this server fetches nothing")
        if kind not in state.media.get(model, frozenset()):
            takers = [name for name in state.names_for(caller) if kind in state.media.get(name, frozenset())]
            told = f"models that take {_PLURALS[kind]}: {', '.join(takers) or 'none that is served here'}"
            error = FieldError(part.field, kind, told)
            raise Problem(
                "invalid-request", f"{part.field}: {shown(model)} takes no {_PLURALS[kind]}; {told}", (error,)
            )


def _require_tier(state: ServerState, caller: Caller, kind: MediaKind, field: str) -> None:
    if kind in caller.tier.media:
        return
    higher = [tier.name for tier in state.tiers.by_name.values() if kind in tier.media]
    raise Problem(
        "forbidden",
        f"{field}: tier {caller.tier.name} takes no {_PLURALS[kind]}; tiers that do: {', '.join(higher) or 'none'}",
        (FieldError(field, kind, "text"),),
    )


def read_part(given: Given, limits: MediaLimits = LIMITS) -> MediaPart:
    """The part, its bytes checked. Takes milliseconds a megabyte. Raises Problem 422 that names its field."""
    if given.address is not None:
        return MediaPart(given.kind or "image", f"{given.kind or 'image'}/*", url=given.address)
    declared = canonical(given.media_type or "")
    most = limits.bytes_of(given.kind or KIND_OF.get(declared, "image"))
    # Four characters are three bytes; so far it costs nothing.
    if len(given.data) > (most + 2) // 3 * 4:
        _refuse(given.field, f"{len(given.data) * 3 // 4} bytes", f"at most {most} bytes")
    try:
        data = binascii.a2b_base64(given.data, strict_mode=True)
    except (binascii.Error, ValueError):
        _refuse(given.field, shown(given.data[:40]), "base64 without line breaks, padded")
    try:
        found = _checked(data, declared, limits)
    except BadMedia as error:
        _refuse(given.field, error.found, error.expected)
    kind = KIND_OF[found]
    if given.kind is not None and kind != given.kind:
        _refuse(given.field, found, f"a type of {given.kind}")
    return MediaPart(kind, found, data)


def _checked(data: bytes, declared: str, limits: MediaLimits) -> str:
    """The type, as the bytes have it. Raises BadMedia."""
    found = sniff(data)
    if found is None:
        raise BadMedia("bytes of no type that is taken", declared if declared in KIND_OF else "a type that is taken")
    if found in ("video/mp4", "video/webm"):
        container = check_container(data, found, limits)
        # Film may be sent where only its sound is meant; sound alone is no film.
        wanted = declared.partition("/")[0]
        kind = (
            wanted
            if wanted in ("audio", "video") and (wanted == "audio" or container.kind == "video")
            else container.kind
        )
        found = f"{kind}/{found.partition('/')[2]}"
    elif KIND_OF[found] == "image":
        check_image(data, found, limits)
    else:
        check_audio(data, found, limits)
    if declared and declared != found:
        raise BadMedia(found, f"{declared}, as declared")
    return found


def _refuse(field: str, found: str, expected: str) -> NoReturn:
    raise Problem(
        "invalid-request", f"{field}: expected {expected}; found {found}", (FieldError(field, found, expected),)
    )


_PLURALS: dict[MediaKind, str] = {"image": "images", "audio": "sound", "video": "films"}
